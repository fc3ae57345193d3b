"""Units of the hybrid forecaster: each series on an additive scale, and how errors are weighed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.outputs import masked_mean

__all__ = ["ESUnits", "hybrid_loss", "measure", "pinball"]


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
        Smallest value of fit; what is later not positive counts as this.
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

    def to(self, y: np.ndarray, virtual: np.ndarray) -> np.ndarray:
        """Values ``y: (n, n_rows)`` of ``virtual: (n,)`` (series * n_targets + target) on the
        additive scale.
        """
        floor, centre, scale = (
            x.ravel()[virtual][:, None] for x in (self.floor, self.centre, self.scale)
        )
        y = y.astype(np.float64)
        if self.log:
            y = np.log(np.where(y <= 0, floor, y))
        return (y - centre) / scale

    def back(self, z: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Values of ``series: (n,)`` in the data's unit; ``z: (n, n_steps, n_targets[, n_levels])``
        on the additive scale.
        """
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
    rows = np.asarray(rows)
    owner = np.repeat(np.arange(panel.n_series), panel.lengths)
    own = np.arange(len(owner)) - panel.indptr[owner]
    used = own < rows[owner]
    lag = np.where(rows > season, season, 1)[owner]
    later = np.flatnonzero(used & (own >= lag))
    pairs = (later, later - lag[later], owner[later])
    for j, y in enumerate(panel.targets.astype(np.float64).T):
        if log:
            least = np.minimum.reduceat(np.where(np.isnan(y), np.inf, y), panel.indptr[:-1])
            floor[:, j] = np.where(np.isinf(least), 1.0, least)
        g = np.log(y) if log else y
        centre[:, j] = _mean(g[used], owner[used], panel.n_series)
        scale[:, j] = _unit(g, pairs, used, owner, centre[:, j])
        naive[:, j] = _unit(y, pairs, used, owner, _mean(y[used], owner[used], panel.n_series))
        if log:
            a, b = y[pairs[0]], y[pairs[1]]
            relative[:, j] = _mean(2 * np.abs(a - b) / (a + b), pairs[2], panel.n_series)
    known = relative[relative > 0]
    return ESUnits(log, centre, scale, floor, naive, float(known.mean()) if len(known) else 1.0)


def _mean(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """Mean of the values of each of ``n`` series, NaN left out; 0 where there is nothing else."""
    seen = ~np.isnan(values)
    total = np.bincount(owner[seen], values[seen], minlength=n)
    return total / np.maximum(np.bincount(owner[seen], minlength=n), 1)


def _unit(
    y: np.ndarray, pairs: tuple, used: np.ndarray, owner: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Mean absolute seasonal difference of each series, at least a thousandth of its deviation;
    1 for constant series.
    """
    now, before, whose = pairs
    size = _mean(np.abs(y[now] - y[before]), whose, len(mean))
    # in units of the largest, whose square neither overflows nor vanishes
    far = np.abs(y - mean[owner])
    largest = np.zeros(len(mean))
    np.fmax.at(largest, owner[used], far[used])
    unit = np.where(largest > 0, largest, 1.0)
    spread = unit * np.sqrt(_mean((far / unit[owner])[used] ** 2, owner[used], len(mean)))
    rounding = 1e-9 * np.maximum(np.abs(mean), 1e-300)
    return np.where(spread > rounding, np.maximum(size, 1e-3 * spread), 1.0)


def pinball(tau: float, error: Tensor) -> Tensor:
    """Twice the mean pinball loss of ``error``, forecast minus truth; NaN left out."""
    mask = ~torch.isnan(error)
    error = torch.where(mask, error, 0.0)
    return masked_mean(_side(tau, error) * error.abs(), mask)


def _side(tau: float, error: Tensor) -> Tensor:
    """Twice the pinball weight of forecast minus truth: 1 on both sides at 0.5."""
    below = error < 0
    return torch.full_like(error, 2 * (1 - tau)).masked_fill(below, 2 * tau)


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
    total = torch.zeros_like(error)
    if name != "scaled":
        total = total + 2 * torch.tanh(error.abs() / 2) / relative
    if name != "relative":
        total = total + weight * torch.expm1(error.clamp(-5.0, 5.0)).abs()
    if name == "balanced":
        total = total / 2
    return masked_mean(_side(tau, error) * total, mask)
