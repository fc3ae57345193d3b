"""Metrics as scikit-learn scorers: ``scoring=`` of cross-validation and of every search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rnnforecast._validation import check_choice, check_int, check_quantiles, check_real
from rnnforecast.exceptions import DataError
from rnnforecast.metrics import _point, _probabilistic, _scaled
from rnnforecast.metrics._scorer import ForecastScorer

__all__ = [
    "get_scorer",
    "mae_scorer",
    "make_coverage_scorer",
    "make_interval_scorer",
    "make_mase_scorer",
    "make_pinball_scorer",
    "make_rmsse_scorer",
    "make_scorer",
    "mape_scorer",
    "mase_scorer",
    "mse_scorer",
    "pinball_scorer",
    "r2_scorer",
    "rmse_scorer",
    "rmsse_scorer",
    "smape_scorer",
]

_NEEDS = ("prediction", "history", "quantiles", "interval")


def make_scorer(
    metric: Callable[..., Any],
    *,
    needs: str = "prediction",
    greater_is_better: bool = False,
    seasonality: int | None = None,
    quantiles: Sequence[float] | float | None = None,
    coverage: float | None = None,
) -> ForecastScorer:
    """A scorer from a metric, for ``scoring=`` with or without y.

    Parameters
    ----------
    metric : callable
        A function that returns a float; a module-level one, if the scorer is to be pickled.
    needs : {"prediction", "history", "quantiles", "interval"}, default="prediction"
        What the metric is called with: ``metric(y_true, y_pred)``; ``metric(y_true, y_pred,
        y_train, seasonality=...)``; ``metric(y_true, y_quantiles, quantiles)`` with y_quantiles of
        shape (n, targets, quantiles); ``metric(y_true, lower, upper, coverage)`` with ends of shape
        (n, targets).
    greater_is_better : bool, default=False
        False negates the metric, so that a search minimises it.
    seasonality : int, default=None
        For "history": the seasonal step. None takes the forecaster's ``seasonality_``, else 1.
    quantiles : float or sequence of float, default=None
        For "quantiles": the levels.
    coverage : float, default=None
        For "interval": the nominal coverage.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If an argument is out of its range or missing.

    Examples
    --------
    >>> from rnnforecast.metrics import make_scorer, rmse
    >>> make_scorer(rmse)
    make_scorer(rmse)
    """
    check_choice("make_scorer", "needs", needs, _NEEDS)
    if not callable(metric):
        raise DataError(f"make_scorer: metric must be a function. Got {metric!r}")
    check_int("make_scorer", "seasonality", seasonality, none=True)
    if needs == "interval":
        check_real("make_scorer", "coverage", coverage, 0.0, 1.0, closed="neither")
    levels = None
    if needs == "quantiles":
        single = isinstance(quantiles, (int, float))
        levels = check_quantiles("make_scorer", [quantiles] if single else quantiles)
    return ForecastScorer(
        metric,
        needs=needs,
        greater_is_better=greater_is_better,
        seasonality=seasonality,
        quantiles=levels,
        coverage=coverage,
    )


def make_mase_scorer(seasonality: int | None = None) -> ForecastScorer:
    """Scorer of minus MASE.

    Parameters
    ----------
    seasonality : int, default=None
        Steps of the naive forecast that sets the scale. Name it in a search over seasonalities, so
        that every candidate is measured by the same scale. None takes the forecaster's
        ``seasonality_``, else 1.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If the seasonality is not a positive integer.

    Examples
    --------
    >>> make_mase_scorer(24)
    make_scorer(mase, needs='history', seasonality=24)
    """
    return make_scorer(_scaled.mase, needs="history", seasonality=seasonality)


def make_rmsse_scorer(seasonality: int | None = None) -> ForecastScorer:
    """Scorer of minus RMSSE.

    Parameters
    ----------
    seasonality : int, default=None
        As in `make_mase_scorer`.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If the seasonality is not a positive integer.

    Examples
    --------
    >>> make_rmsse_scorer(1)
    make_scorer(rmsse, needs='history', seasonality=1)
    """
    return make_scorer(_scaled.rmsse, needs="history", seasonality=seasonality)


def make_pinball_scorer(quantile: float | Sequence[float] = (0.1, 0.5, 0.9)) -> ForecastScorer:
    """Scorer of minus the pinball loss.

    Parameters
    ----------
    quantile : float or sequence of float, default=(0.1, 0.5, 0.9)
        Levels between 0 and 1; the loss is averaged over them.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If a level is not between 0 and 1.

    Examples
    --------
    >>> make_pinball_scorer(0.9)
    make_scorer(pinball_loss, needs='quantiles', quantiles=(0.9,))
    """
    return make_scorer(_probabilistic.pinball_loss, needs="quantiles", quantiles=quantile)


def make_coverage_scorer(coverage: float = 0.9) -> ForecastScorer:
    """Scorer of minus the distance of the intervals' coverage from the nominal one.

    Parameters
    ----------
    coverage : float, default=0.9
        Nominal coverage, between 0 and 1.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If the coverage is not between 0 and 1.

    Notes
    -----
    Coverage alone can be had with useless intervals: select by `make_interval_scorer`, check by
    this one.

    Examples
    --------
    >>> make_coverage_scorer(0.8)
    make_scorer(coverage_error, needs='interval', coverage=0.8)
    """
    return make_scorer(_probabilistic.coverage_error, needs="interval", coverage=coverage)


def make_interval_scorer(coverage: float = 0.9) -> ForecastScorer:
    """Scorer of minus Winkler's interval score, which rewards both coverage and sharpness.

    Parameters
    ----------
    coverage : float, default=0.9
        Nominal coverage, between 0 and 1.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If the coverage is not between 0 and 1.

    Examples
    --------
    >>> make_interval_scorer(0.8)
    make_scorer(interval_score, needs='interval', coverage=0.8)
    """
    return make_scorer(_probabilistic.interval_score, needs="interval", coverage=coverage)


mae_scorer = make_scorer(_point.mae)
mse_scorer = make_scorer(_point.mse)
rmse_scorer = make_scorer(_point.rmse)
mape_scorer = make_scorer(_point.mape)
smape_scorer = make_scorer(_point.smape)
r2_scorer = make_scorer(_point.r2, greater_is_better=True)
mase_scorer = make_mase_scorer()
rmsse_scorer = make_rmsse_scorer()
pinball_scorer = make_pinball_scorer()

_SCORERS = {
    "mae": mae_scorer,
    "mse": mse_scorer,
    "rmse": rmse_scorer,
    "mape": mape_scorer,
    "smape": smape_scorer,
    "r2": r2_scorer,
    "mase": mase_scorer,
    "rmsse": rmsse_scorer,
    "pinball": pinball_scorer,
    "coverage": make_coverage_scorer(),
    "interval": make_interval_scorer(),
}


def get_scorer(name: str) -> ForecastScorer:
    """A scorer by the name of its metric.

    Parameters
    ----------
    name : {"mae", "mse", "rmse", "mape", "smape", "r2", "mase", "rmsse", "pinball", "coverage",
    "interval"}
        "coverage" and "interval" are for a nominal coverage of 0.9.

    Returns
    -------
    ForecastScorer

    Raises
    ------
    DataError
        If there is no such scorer.

    Examples
    --------
    >>> get_scorer("mase")
    make_scorer(mase, needs='history')
    """
    check_choice("get_scorer", "name", name, _SCORERS)
    return _SCORERS[name]
