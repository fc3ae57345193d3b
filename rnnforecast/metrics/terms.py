"""What each metric is a mean of, value by value: the one definition behind functions and backtests.

Arrays may have any shape that broadcasts; a term is NaN where the truth is NaN (unobserved), and
`observed_mean` leaves those out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rnnforecast.data.panel import Panel

__all__ = [
    "POINT_ERRORS",
    "inside",
    "naive_scales",
    "observed_mean",
    "pinball",
    "squared",
    "winkler",
]


def absolute(true: Any, pred: Any) -> np.ndarray:
    """``|y - f|``."""
    return np.abs(true - pred)


def squared(true: Any, pred: Any) -> np.ndarray:
    """``(y - f)²``."""
    return (true - pred) ** 2


def percentage(true: Any, pred: Any) -> np.ndarray:
    """``100 |y - f| / |y|``; a truth of zero counts as the smallest step of float64 above 1."""
    return 100.0 * np.abs(true - pred) / np.maximum(np.abs(true), np.finfo(np.float64).eps)


def symmetric(true: Any, pred: Any) -> np.ndarray:
    """``200 |y - f| / (|y| + |f|)`` of the M4 competition; 0 where both are zero."""
    size = np.abs(true) + np.abs(pred)
    zero = np.where(np.isnan(size), np.nan, 0.0)
    return np.divide(200.0 * np.abs(true - pred), size, out=zero, where=size > 0)


def pinball(true: Any, pred: Any, level: float) -> np.ndarray:
    """Check function of a quantile forecast (Koenker & Bassett 1978)."""
    error = true - pred
    return np.maximum(level * error, (level - 1.0) * error)


def inside(true: Any, lower: Any, upper: Any) -> np.ndarray:
    """1 where the truth lies in its interval, the ends included, else 0."""
    return np.where(np.isnan(true), np.nan, (true >= lower) & (true <= upper))


def winkler(true: Any, lower: Any, upper: Any, nominal: float) -> np.ndarray:
    """Width and penalty of an interval (Gneiting & Raftery 2007, eq. 43, alpha = 1 - nominal)."""
    outside = np.maximum(lower - true, 0.0) + np.maximum(true - upper, 0.0)
    return (upper - lower) + 2.0 / (1.0 - nominal) * outside


class PointError(NamedTuple):
    """An error of point forecasts: the mean of a term, its scale and its root."""

    term: Callable[[Any, Any], np.ndarray]  # (true, pred), value by value
    root: bool = False  # of the mean, after it was scaled
    power: int = 0  # divided by the naive forecast's mean |change| ** power; 0: not at all

    def of_mean(self, mean: Any, scale: Any = 1.0) -> Any:
        """The error from the mean of its terms, and the naive scale of its power."""
        mean = mean / scale if self.power else mean
        return np.sqrt(mean) if self.root else mean


POINT_ERRORS = {
    "mae": PointError(absolute),
    "mse": PointError(squared),
    "rmse": PointError(squared, root=True),
    "mape": PointError(percentage),
    "smape": PointError(symmetric),
    "mase": PointError(absolute, power=1),
    "rmsse": PointError(squared, root=True, power=2),
}


def observed_mean(values: np.ndarray, weight: np.ndarray | None = None, axis: Any = 0) -> Any:
    """Mean without NaN, weighted along the first axis; NaN, unwarned, where all values are NaN."""
    seen = ~np.isnan(values)
    share = seen if weight is None else seen * weight.reshape(-1, *[1] * (values.ndim - 1))
    total, count = np.sum(values * share, axis=axis, where=seen), np.sum(share, axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def naive_scales(panel: Panel, season: int, power: int = 1) -> np.ndarray:
    """Mean ``|y[t] - y[t - season]| ** power`` of each series, (n_series, n_targets); NaN where it
    is zero or no pair was observed.
    """
    series = np.repeat(np.arange(panel.n_series), panel.lengths)
    change = pd.DataFrame(panel.targets.astype(np.float64)).groupby(series).diff(season)
    scales = (change.abs() ** power).groupby(series).mean()
    return scales.where(scales > 0).to_numpy()
