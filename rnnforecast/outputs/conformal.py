"""Conformal intervals: the quantiles of past errors around a point forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnforecast.outputs.forecast import Forecast

__all__ = ["ConformalErrors", "ConformalForecast", "conformal_quantile"]

_ENOUGH = 20  # errors a step needs before it is calibrated on its own


def conformal_quantile(errors: np.ndarray, level: float) -> Any:
    """Corrected quantile of calibration errors.

    Parameters
    ----------
    errors : ndarray, shape (n, ...)
        Signed errors, truth minus forecast; NaN is left out.
    level : float
        Quantile level in (0, 1).

    Returns
    -------
    ndarray, shape (...)
        Upper tails: the ceil((n + 1) level)-th smallest error; lower tails its mirror image. Where
        that rank is outside 1..n (too few errors), the largest or smallest error. The median is the
        plain one. 0 where there are no errors.

    Examples
    --------
    >>> float(conformal_quantile(np.arange(1.0, 10.0), 0.9))
    9.0
    """
    n = (~np.isnan(errors)).sum(0)
    ordered = np.concatenate([np.sort(errors, 0), np.full((1, *n.shape), np.nan)])  # NaN last

    def ranked(rank: np.ndarray) -> np.ndarray:
        rank = np.clip(rank, 1, np.maximum(n, 1))
        return np.take_along_axis(ordered, rank[None] - 1, 0)[0]

    if level == 0.5:
        found = (ranked((n + 1) // 2) + ranked(n // 2 + 1)) / 2
    else:  # ranks are rounded to 9 digits, so that 0.9 * 10 is 9 and not 9.000000000000002
        rank = np.ceil(np.round((n + 1) * max(level, 1 - level), 9)).astype(np.int64)
        found = ranked(rank if level > 0.5 else n + 1 - rank)
    return np.where(n > 0, found, 0.0)


class ConformalErrors:
    """Calibration errors by step and target, in units of each series' scale.

    A forecaster that trained no spread takes its intervals from its own errors at past origins: the
    q-quantile of the forecast is the point plus the q-quantile of the signed errors, with the
    finite-sample correction of split conformal prediction (Lei et al. 2018, J. Am. Stat. Assoc.
    113(523), section 2.2; for signed errors the two tails are corrected apart, as in Romano et al.
    2019, NeurIPS 32, theorem 2).

    Parameters
    ----------
    errors : ndarray, shape (n_errors, n_steps, n_targets)
        Truth minus forecast over the scale; NaN where the truth was not observed.
    """

    def __init__(self, errors: np.ndarray):
        self.errors = errors

    def offsets(self, n_steps: int, levels: Sequence[float]) -> np.ndarray:
        """What to add to the point forecast, in units of the scale.

        A step with fewer than 20 errors borrows those of all steps. Steps beyond the calibrated
        ones widen by (step / last) ** growth, see :meth:`growth`.

        Returns
        -------
        ndarray, shape (n_steps, n_targets, n_levels)
        """
        n_calibrated, n_targets = self.errors.shape[1:]
        pooled = self.errors.reshape(-1, n_targets)
        few = (~np.isnan(self.errors)).sum(0) < _ENOUGH
        table = np.empty((n_calibrated, n_targets, len(levels)))
        for k, level in enumerate(levels):
            table[..., k] = conformal_quantile(self.errors, level)
            if few.any():
                table[..., k] = np.where(few, conformal_quantile(pooled, level), table[..., k])
        steps = np.arange(1, n_steps + 1)
        grow = np.maximum(steps / n_calibrated, 1.0)[:, None] ** self.growth()
        return table[np.minimum(steps, n_calibrated) - 1] * grow[:, :, None]

    def growth(self) -> np.ndarray:
        """Exponent by which errors grow with the step, from 0 (none) to 0.5 (a random walk).

        Returns
        -------
        ndarray, shape (n_targets,)
            Slope of the log of the mean absolute error on the log of the step; 0.5 where only one
            step was calibrated and nothing is known.
        """
        n_steps, n_targets = self.errors.shape[1:]
        if n_steps == 1:
            return np.full(n_targets, 0.5)
        seen = ~np.isnan(self.errors)
        size = np.sum(np.abs(self.errors), axis=0, where=seen) / np.maximum(seen.sum(0), 1)
        logs = np.log(np.maximum(size, 1e-12))
        slope = np.polyfit(np.log(np.arange(1, n_steps + 1)), logs, 1)[0]
        return np.clip(slope, 0.0, 0.5)


class ConformalForecast(Forecast):
    """Point forecasts with the quantiles of calibration errors around them.

    Parameters
    ----------
    centre : Forecast, shape (rows, steps, targets)
    errors : ConformalErrors
    scale : Tensor, shape (rows, 1, targets)
    """

    def __init__(self, centre: Forecast, errors: ConformalErrors, scale: Tensor):
        self.centre = centre
        self.errors = errors
        point = centre.point
        self.scale = scale.to(point).expand(point.shape)
        self.step = torch.arange(1, point.shape[1] + 1)[:, None].expand(point.shape)

    @property
    def median(self) -> Tensor:
        return self.centre.median

    @property
    def mean(self) -> Tensor:
        return self.centre.mean

    def quantile(self, levels: Sequence[float]) -> Tensor:
        point = self.centre.point
        steps = self.step.numpy()
        table = self.errors.offsets(int(steps.max(initial=1)), levels)
        offsets = table[steps - 1, np.arange(point.shape[-1])]
        added = torch.as_tensor(offsets).to(point) * self.scale[..., None]
        return point[..., None] + added

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Paths: each row takes the errors of one past origin for all of its steps and targets."""
        found = self.errors.errors
        whole = found[~np.isnan(found).any((1, 2))]
        if not len(whole) or self.centre.point.ndim != 3:
            return super().sample(n, generator)
        point, last = self.centre.point, whole.shape[1]
        rows = torch.randint(len(whole), (n, len(point)), generator=generator).numpy()
        steps = self.step[0, :, 0].numpy()
        grow = np.maximum(steps / last, 1.0)[:, None] ** self.errors.growth()
        drawn = whole[rows][:, :, np.minimum(steps, last) - 1] * grow
        return point + torch.as_tensor(drawn).to(point) * self.scale
