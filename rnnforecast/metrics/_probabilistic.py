"""Scores of quantile and interval forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_real, quantiles_in_order
from rnnforecast.exceptions import DataError
from rnnforecast.metrics._arrays import Scores, average_outputs, check_pair, check_weight, to_rows
from rnnforecast.metrics._scaled import scaled
from rnnforecast.metrics._texts import METRIC
from rnnforecast.metrics.terms import inside, observed_mean, pinball, winkler
from rnnforecast.parameters import documented

__all__ = [
    "coverage",
    "coverage_error",
    "interval_score",
    "interval_width",
    "pinball_loss",
    "scaled_pinball_loss",
]


def _with_levels(metric: str, y_true: Any, y_pred: Any, quantile: Any) -> tuple[Any, Any]:
    """The forecast and its levels, which the columns (target, quantile) of a frame say."""
    if quantile is not None:
        return y_pred, quantiles_in_order(metric, np.atleast_1d(quantile))
    if not (isinstance(y_pred, pd.DataFrame) and y_pred.columns.nlevels == 2):
        raise DataError(f"{metric}: name the quantile(s) that y_pred holds with quantile=")
    targets, levels = y_pred.columns.unique(0), y_pred.columns.unique(1)
    if isinstance(y_true, pd.DataFrame) and set(y_true.columns) == set(targets):
        targets = y_true.columns
    wanted = [(target, level) for target in targets for level in levels]
    if len(wanted) != y_pred.shape[1]:
        raise DataError(f"{metric}: every target of y_pred must have the same quantiles")
    return y_pred[wanted], quantiles_in_order(metric, levels)


def _pinball_means(
    metric: str, y_true: Any, y_pred: Any, levels: tuple[float, ...], sample_weight: Any = None
) -> np.ndarray:
    """Pinball loss averaged over rows and levels, (targets,)."""
    true = to_rows(metric, "y_true", y_true)
    values = np.asarray(y_pred, dtype=np.float64)
    if values.size != true.size * len(levels) or values.shape[0] != np.shape(y_true)[0]:
        raise DataError(
            f"{metric}: y_true of shape {np.shape(y_true)} and {len(levels)} quantiles need y_pred "
            f"with a last axis of {len(levels)}. Got shape {values.shape}"
        )
    values = values.reshape(*true.shape, len(levels))
    weight = check_weight(metric, sample_weight, len(true))
    losses = [
        pinball(*check_pair(metric, true, values[..., k]), level) for k, level in enumerate(levels)
    ]
    return observed_mean(np.mean(losses, axis=0), weight)


@documented(METRIC)
def pinball_loss(
    y_true: Any,
    y_pred: Any,
    quantile: Any = None,
    *,
    sample_weight: Any = None,
    multioutput: str = "uniform_average",
) -> Scores:
    """Pinball (quantile) loss, the mean over rows and quantiles, in the unit of the data.

    It is 0 at best, and half the mean absolute error for the median.

    Parameters
    ----------
    y_pred : array-like, shape of y_true, or with a last axis of quantiles
        Forecast of one quantile, or of several. A DataFrame with columns (target, quantile), which
        is what ``forecast(quantiles=...)`` returns, names its own quantiles.
    quantile : float or sequence of float, default=None
        Levels between 0 and 1; needed unless the columns of ``y_pred`` say them.

    Notes
    -----
    Koenker & Bassett (1978), "Regression quantiles"; equals `sklearn.metrics.mean_pinball_loss`.

    Examples
    --------
    >>> pinball_loss([1.0, 2.0], [2.0, 2.0], 0.75)
    0.125
    >>> pinball_loss([1.0, 2.0], [[0.0, 2.0], [2.0, 2.0]], [0.25, 0.75])
    0.125
    """
    y_pred, levels = _with_levels("pinball_loss", y_true, y_pred, quantile)
    scores = _pinball_means("pinball_loss", y_true, y_pred, levels, sample_weight)
    return average_outputs("pinball_loss", scores, multioutput)


@documented(METRIC)
def scaled_pinball_loss(
    y_true: Any,
    y_pred: Any,
    y_train: Any,
    quantile: Any = None,
    *,
    seasonality: int = 1,
    multioutput: str = "uniform_average",
) -> Scores:
    """Pinball loss over the naive error in training: the mean scaled quantile loss of M5.

    It is 0 at best, and NaN where the training data are constant.

    Parameters
    ----------
    y_pred, quantile : array-like
        As in `pinball_loss`.

    Notes
    -----
    Makridakis et al. (2022), "The M5 uncertainty competition: Results, findings and conclusions"
    (there with a seasonality of 1).

    Examples
    --------
    >>> scaled_pinball_loss([1.0, 2.0], [2.0, 2.0], [0.0, 2.0, 4.0], 0.75)
    0.0625
    """
    metric = "scaled_pinball_loss"
    y_pred, levels = _with_levels(metric, y_true, y_pred, quantile)

    def means(true: Any, pred: Any) -> np.ndarray:
        return _pinball_means(metric, true, pred, levels)

    return scaled(metric, means, y_true, y_pred, y_train, seasonality, multioutput)


def _bounds(metric: str, y_true: Any, lower: Any, upper: Any):
    true, low = check_pair(metric, y_true, lower, "lower")
    _, high = check_pair(metric, y_true, upper, "upper")
    crossed = (low > high) & ~np.isnan(true)
    if crossed.any():
        row = int(np.flatnonzero(crossed.any(axis=1))[0])
        raise DataError(
            f"{metric}: lower is above upper at {int(crossed.sum())} positions, the first in row "
            f"{row}: are the two swapped?"
        )
    return true, low, high


@documented(METRIC)
def coverage(
    y_true: Any, lower: Any, upper: Any, *, multioutput: str = "uniform_average"
) -> Scores:
    """Share of the truth that lies in its interval, the ends included.

    Examples
    --------
    >>> coverage([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0], [3.0, 3.0, 3.0, 3.0])
    0.75
    """
    true, low, high = _bounds("coverage", y_true, lower, upper)
    return average_outputs("coverage", observed_mean(inside(true, low, high)), multioutput)


@documented(METRIC)
def coverage_error(
    y_true: Any,
    lower: Any,
    upper: Any,
    nominal: float = 0.9,
    *,
    multioutput: str = "uniform_average",
) -> Scores:
    """Distance of the empirical coverage from the nominal one, 0 at best.

    Examples
    --------
    >>> coverage_error([1.0, 2.0], [0.0, 0.0], [3.0, 3.0], nominal=0.75)
    0.25
    """
    check_real("coverage_error", "nominal", nominal, 0.0, 1.0, closed="neither")
    share = np.asarray(coverage(y_true, lower, upper, multioutput="raw_values"))
    return average_outputs("coverage_error", np.abs(share - nominal), multioutput)


@documented(METRIC)
def interval_width(lower: Any, upper: Any, *, multioutput: str = "uniform_average") -> Scores:
    """Mean width of intervals: of two forecasts with the right coverage, the narrower is better.

    Parameters
    ----------
    lower, upper : array-like, shape (n,) or (n, targets)
        Ends of the intervals; pairs with a NaN do not count.

    Examples
    --------
    >>> interval_width([0.0, 1.0], [2.0, 2.0])
    1.5
    """
    low = to_rows("interval_width", "lower", lower)
    high = to_rows("interval_width", "upper", upper)
    if low.shape != high.shape:
        raise DataError(
            f"interval_width: lower and upper must have the same shape: got {np.shape(lower)} and "
            f"{np.shape(upper)}"
        )
    if (high < low).any():
        raise DataError("interval_width: lower is above upper: are the two swapped?")
    return average_outputs("interval_width", observed_mean(high - low), multioutput)


@documented(METRIC)
def interval_score(
    y_true: Any,
    lower: Any,
    upper: Any,
    nominal: float = 0.9,
    *,
    multioutput: str = "uniform_average",
) -> Scores:
    """Winkler's interval score: the width, and a penalty for every truth outside.

    A proper score in the unit of the data: it is least for the true quantiles.

    Notes
    -----
    Winkler (1972); Gneiting & Raftery (2007), "Strictly proper scoring rules, prediction, and
    estimation", equation 43.

    Examples
    --------
    >>> interval_score([1.0, 5.0], [0.0, 0.0], [2.0, 4.0], nominal=0.5)
    5.0
    """
    check_real("interval_score", "nominal", nominal, 0.0, 1.0, closed="neither")
    true, low, high = _bounds("interval_score", y_true, lower, upper)
    scores = observed_mean(winkler(true, low, high, nominal))
    return average_outputs("interval_score", scores, multioutput)
