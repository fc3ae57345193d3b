"""Units of the hybrid forecaster: each series on an additive scale, and how errors are weighed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.outputs import masked_mean

__all__ = ["ESUnits", "hybrid_loss", "measure"]


@dataclass(frozen=True)
class ESUnits:
    """Units of each series and target: z = (g(y) - centre) / scale with g = log or identity.

    Attributes
    ----------
    log : bool
        g is the logarithm: level and seasons multiply.
    centre, scale : ndarray, shape (n_series, n_targets)
        Mean of g(y), and its mean absolute seasonal difference.
    floor : ndarray, shape (n_series, n_targets)
        Smallest positive value of fit; what is later not positive counts as this.
    naive : ndarray, shape (n_series, n_targets)
        Mean absolute seasonal difference of y itself.
    relative : float
        Mean symmetric relative error of the seasonal naive forecast over all series.
    """

    log: bool
    centre: np.ndarray
    scale: np.ndarray
    floor: np.ndarray
    naive: np.ndarray
    relative: float

    def to(self, y: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Values ``y: (n, ..., n_targets)`` of series ``(n,)`` on the additive scale."""
        place = (slice(None), *[None] * (y.ndim - 2))
        y = y.astype(np.float64)
        if self.log:
            y = np.log(np.maximum(y, self.floor[series][place]))
        return (y - self.centre[series][place]) / self.scale[series][place]

    def back(self, z: np.ndarray, series: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to`; ``z: (n, n_steps, n_targets[, n_levels])``."""
        place = (slice(None), None, slice(None), *[None] * (z.ndim - 3))
        y = z * self.scale[series][place] + self.centre[series][place]
        # e^700 is the last before infinity
        return np.exp(np.minimum(y, 700.0)) if self.log else y


def measure(panel: Panel, rows: np.ndarray, season: int, log: bool) -> ESUnits:
    """Units from the first ``rows[i]`` rows of each series.

    Parameters
    ----------
    panel : Panel
    rows : ndarray of int, shape (n_series,)
    season : int
        Lag of the naive forecast.
    log : bool
    """
    shape = (panel.n_series, panel.targets.shape[1])
    centre, scale, floor = np.zeros(shape), np.ones(shape), np.ones(shape)
    naive, relative = np.ones(shape), np.full(shape, np.nan)
    for i in range(panel.n_series):  # once a fit, and a few microseconds each
        own = panel.targets[panel.series(i)][: rows[i]].astype(np.float64)
        for j, y in enumerate(own.T):
            seen = y[~np.isnan(y)]
            if len(seen) == 0:
                continue
            floor[i, j] = seen.min() if log else 1.0
            g = np.log(y) if log else y
            centre[i, j] = np.log(seen).mean() if log else seen.mean()
            scale[i, j] = _difference(g, season)
            naive[i, j] = _difference(y, season)
            if log:
                relative[i, j] = np.nanmean(_lagged(np.abs, y, season, relative=True))
    known = relative[np.isfinite(relative) & (relative > 0)]
    return ESUnits(log, centre, scale, floor, naive, float(known.mean()) if len(known) else 1.0)


def _lagged(of, y: np.ndarray, season: int, relative: bool = False) -> np.ndarray:
    lag = season if len(y) > season else 1
    if len(y) <= lag:
        return np.zeros(1)
    change = of(y[lag:] - y[:-lag])
    if relative:
        change = 2 * change / (y[lag:] + y[:-lag])
    return change if not np.isnan(change).all() else np.zeros(1)


def _difference(y: np.ndarray, season: int) -> float:
    """Mean absolute seasonal difference; of series that repeat themselves their deviation, or 1."""
    size = float(np.nanmean(_lagged(np.abs, y, season)))
    spread = float(np.nanstd(y))
    least = 1e-9 * max(1e-300, float(np.nanmax(np.abs(y))))  # rounding is not a unit
    if spread <= least:
        return 1.0
    return max(size, 1e-3 * spread)


def hybrid_loss(name: str, tau: float, error: Tensor, weight: Tensor, relative: float) -> Tensor:
    """Pinball loss of log errors in the measures that users score by.

    Parameters
    ----------
    name : {"balanced", "relative", "scaled"}
    tau : float
        Level; 0.5 is the absolute error.
    error : Tensor, any shape
        log forecast - log truth; NaN where the truth is unobserved.
    weight : Tensor, same shape
        Truth over the series' seasonal naive error.
    relative : float
        Relative error of the seasonal naive forecast.

    Returns
    -------
    Tensor
        "relative": mean of 2 |f - y| / (f + y) = 2 tanh(|log f - log y| / 2), over that of the
        seasonal naive forecast. "scaled": mean of |f - y| over the series' seasonal naive error.
        "balanced": the mean of both. Twice the pinball weight multiplies each.
    """
    mask = ~torch.isnan(error)
    error = torch.where(mask, error, 0.0)
    weight = torch.where(mask, weight, 0.0)
    side = 2 * torch.where(error < 0, tau, 1 - tau)
    total = torch.zeros_like(error)
    if name != "scaled":
        total = total + 2 * torch.tanh(error.abs() / 2) / relative
    if name != "relative":
        total = total + weight * torch.expm1(error.clamp(-5.0, 5.0)).abs()
    if name == "balanced":
        total = total / 2
    return masked_mean(side * total, mask)
