"""Split-conformal prediction intervals from errors at rolling origins.

A forecaster that trained no quantiles takes its intervals from its own errors on rows that its
weights did not see: the q-quantile of the forecast is the point plus the q-quantile of the signed
errors, with the finite-sample correction of split conformal prediction (Lei et al. 2018, J. Am.
Stat. Assoc. 113(523), section 2.2; for signed errors the two tails are corrected apart, as in
Romano et al. 2019, NeurIPS 32, theorem 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ConformalErrors", "conformal_quantile"]

_ENOUGH = 20  # errors a step needs before it is calibrated on its own


def conformal_quantile(errors: np.ndarray, level: float) -> float:
    """Corrected quantile of calibration errors.

    Parameters
    ----------
    errors : ndarray, shape (n,)
        Signed errors, truth minus forecast, without NaN.
    level : float
        Quantile level in (0, 1).

    Returns
    -------
    float
        Upper tails: the ceil((n + 1) level)-th smallest error; lower tails its mirror image. Where
        that rank is outside 1..n (too few errors), the largest or smallest error. The median is the
        plain one.

    Examples
    --------
    >>> conformal_quantile(np.arange(1.0, 10.0), 0.9)
    9.0
    """
    errors = np.sort(errors)
    n = len(errors)
    if n == 0:
        return 0.0
    if level == 0.5:
        return float(np.median(errors))
    # ranks are rounded to 9 digits, so that 0.9 * 10 is 9 and not 9.000000000000002
    if level > 0.5:
        rank = int(np.ceil(round((n + 1) * level, 9)))
    else:
        rank = n + 1 - int(np.ceil(round((n + 1) * (1.0 - level), 9)))
    return float(errors[min(max(rank, 1), n) - 1])


@dataclass(frozen=True)
class ConformalErrors:
    """Calibration errors by step and target, in units of each series' scale.

    Attributes
    ----------
    errors : ndarray, shape (n_errors, n_steps, n_targets)
        Truth minus forecast over ``scale``; NaN where the truth was not observed.
    scale : ndarray, shape (n_series, n_targets)
        Unit of the errors of each series.
    """

    errors: np.ndarray
    scale: np.ndarray

    def offsets(self, n_steps: int, levels: tuple[float, ...]) -> np.ndarray:
        """What to add to the point forecast, in units of the scale.

        A step with fewer than 20 errors borrows those of all steps. Steps beyond the calibrated
        ones widen by (step / last) ** growth, where the growth is that of the calibrated errors
        (see :meth:`growth`).

        Returns
        -------
        ndarray, shape (n_steps, n_targets, n_levels)
        """
        n_calibrated, n_targets = self.errors.shape[1:]
        table = np.zeros((n_calibrated, n_targets, len(levels)))
        for target in range(n_targets):
            pooled = self.errors[:, :, target]
            for step in range(n_calibrated):
                errors = pooled[:, step]
                errors = errors[~np.isnan(errors)]
                if len(errors) < _ENOUGH:
                    errors = pooled[~np.isnan(pooled)]
                table[step, target] = [conformal_quantile(errors, level) for level in levels]
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
        x = np.log(np.arange(1, n_steps + 1))
        x = x - x.mean()
        slope = (x[:, None] * (logs - logs.mean(0))).sum(0) / (x**2).sum()
        return np.clip(slope, 0.0, 0.5)

    def quantiles(
        self, point: np.ndarray, series: np.ndarray, levels: tuple[float, ...]
    ) -> np.ndarray:
        """Quantile forecasts around point forecasts.

        Parameters
        ----------
        point : ndarray, shape (n_series, n_steps, n_targets)
        series : ndarray of int, shape (n_series,)
        levels : tuple of float

        Returns
        -------
        ndarray, shape (n_series, n_steps, n_targets, n_levels)
        """
        offsets = self.offsets(point.shape[1], levels)
        return point[..., None] + offsets * self.scale[series][:, None, :, None]
