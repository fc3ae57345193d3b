"""Errors of point forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnnforecast.metrics._arrays import Scores, average_outputs, check_pair, check_weight
from rnnforecast.metrics._texts import METRIC
from rnnforecast.metrics.terms import POINT_ERRORS, observed_mean, squared
from rnnforecast.parameters import documented

__all__ = ["mae", "mape", "mse", "r2", "rmse", "smape"]


def point_means(metric: str, y_true: Any, y_pred: Any, sample_weight: Any = None) -> np.ndarray:
    """Mean of the metric's term for each output, (outputs,), before any scale or root."""
    true, pred = check_pair(metric, y_true, y_pred)
    weight = check_weight(metric, sample_weight, len(true))
    return observed_mean(POINT_ERRORS[metric].term(true, pred), weight)


def _score(metric: str, y_true: Any, y_pred: Any, weight: Any, multioutput: str) -> Scores:
    scores = POINT_ERRORS[metric].of_mean(point_means(metric, y_true, y_pred, weight))
    return average_outputs(metric, scores, multioutput)


@documented(METRIC)
def mae(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: str = "uniform_average"
) -> Scores:
    """Mean absolute error, in the unit of the data; 0 at best.

    Examples
    --------
    >>> mae([1.0, 2.0, float("nan")], [1.5, 2.0, 9.0])
    0.25
    """
    return _score("mae", y_true, y_pred, sample_weight, multioutput)


@documented(METRIC)
def mse(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: str = "uniform_average"
) -> Scores:
    """Mean squared error, in the squared unit of the data; 0 at best.

    Examples
    --------
    >>> mse([1.0, 2.0], [1.5, 2.0])
    0.125
    """
    return _score("mse", y_true, y_pred, sample_weight, multioutput)


@documented(METRIC)
def rmse(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: str = "uniform_average"
) -> Scores:
    """Root mean squared error in the unit of the data, of each target by itself, then averaged.

    Examples
    --------
    >>> rmse([1.0, 2.0], [4.0, 6.0])
    3.5355339059327378
    """
    return _score("rmse", y_true, y_pred, sample_weight, multioutput)


@documented(METRIC)
def mape(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: str = "uniform_average"
) -> Scores:
    """Mean absolute percentage error, in percent; 0 at best.

    A truth of zero counts as the smallest positive step of float64 (as in scikit-learn), which
    makes the result huge: use `smape` or `mase` for data that touch zero.

    Notes
    -----
    Hyndman & Koehler (2006), "Another look at measures of forecast accuracy", section 2.2; 100
    times `sklearn.metrics.mean_absolute_percentage_error`.

    Examples
    --------
    >>> mape([10.0, 20.0], [11.0, 18.0])
    10.0
    """
    return _score("mape", y_true, y_pred, sample_weight, multioutput)


@documented(METRIC)
def smape(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: str = "uniform_average"
) -> Scores:
    """Symmetric mean absolute percentage error of the M4 competition, from 0 to 200 percent.

    The mean of ``200 |y - f| / (|y| + |f|)``; a position where truth and forecast are both zero
    counts 0.

    Notes
    -----
    Makridakis, Spiliotis & Assimakopoulos (2020), "The M4 Competition: 100,000 time series and 61
    forecasting methods".

    Examples
    --------
    >>> smape([10.0, 0.0, 1.0], [30.0, 0.0, -1.0])
    100.0
    """
    return _score("smape", y_true, y_pred, sample_weight, multioutput)


@documented(METRIC)
def r2(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: str = "uniform_average"
) -> Scores:
    """Coefficient of determination over what was observed.

    Equals `sklearn.metrics.r2_score` where nothing is NaN: 1 for a perfect forecast, 0 for the mean
    of the truth, negative below. For a constant truth it is 1 if the forecast is exact, else 0;
    where fewer than two values were observed it is NaN.

    Examples
    --------
    >>> r2([1.0, 2.0, float("nan"), 3.0], [1.0, 2.0, 7.0, 2.0])
    0.5
    """
    true, pred = check_pair("r2", y_true, y_pred)
    weight = check_weight("r2", sample_weight, len(true))
    residual = observed_mean(squared(true, pred), weight)
    spread = observed_mean(squared(true, observed_mean(true, weight)), weight)
    # a constant truth is seen by its range: its centred sum may be rounding noise above zero
    seen = ~np.isnan(true)
    top = np.where(seen, true, -np.inf).max(axis=0)
    varies = (np.where(seen, true, np.inf).min(axis=0) < top) & (spread > 0)
    ratio = np.divide(residual, spread, out=np.ones_like(spread), where=varies)
    scores = np.where(varies, 1.0 - ratio, np.where(residual == 0, 1.0, 0.0))
    scores[seen.sum(axis=0) < 2] = np.nan
    return average_outputs("r2", scores, multioutput)
