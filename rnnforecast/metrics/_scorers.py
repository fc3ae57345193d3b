"""Metrics as scikit-learn scorers: ``scoring=`` of cross-validation and of every search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from rnnforecast._validation import check_choice, check_int, check_quantiles, check_real
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.metrics import _point, _probabilistic, _scaled
from rnnforecast.metrics._arrays import to_rows
from rnnforecast.metrics._texts import SCORER
from rnnforecast.metrics.wrappers import Unwrapped, quantiles_of
from rnnforecast.parameters import documented

__all__ = [
    "ForecastScorer",
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


@dataclass(repr=False, eq=False)
class ForecastScorer:
    """A scorer from a metric, for ``scoring=`` with or without y; also called ``make_scorer``.

    It is called as ``scorer(estimator, X, y=None, sample_weight=None)`` with a fitted forecaster,
    or a Pipeline, search or other wrapper around one, and the rows X to forecast, and returns a
    float, the greater the better.

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
        For "history": the seasonal step; None chooses it as `make_mase_scorer` does.
    quantiles : float or sequence of float, default=None
        For "quantiles": the levels.
    coverage : float, default=None
        For "interval": the nominal coverage.
    weight_alias : bool, str or None, default=None
        As ``sample_weight`` of `set_score_request`.

    Raises
    ------
    DataError
        If an argument is out of its range or missing; in a call, if the truth cannot be found or
        the estimator has not what the metric needs.

    Notes
    -----
    **Without y** the truth is read from X: the columns that the forecaster inside the Pipeline,
    TransformedTargetRegressor or search was fitted to. A Pipeline that changes the target column of
    X also changes what its forecaster predicts, so the truth is read behind the same fitted steps.
    In a search over different scalers use a score without units (`mase_scorer`, `rmsse_scorer`,
    `r2_scorer`), as MAE and RMSE of differently scaled data do not compare.

    **Scaled errors** take their scale from ``forecaster.history()``, the targets it was fitted on,
    series by series for a panel. The seasonality is the scorer's, else that of this history, not of
    the forecaster: candidates of a search are measured on one scale.

    Examples
    --------
    >>> from rnnforecast.metrics import make_scorer, rmse
    >>> make_scorer(rmse)
    make_scorer(rmse)
    """

    metric: Callable[..., Any]
    _: KW_ONLY
    needs: str = "prediction"
    greater_is_better: bool = False
    seasonality: int | None = None
    quantiles: Any = None
    coverage: Any = None
    weight_alias: bool | str | None = None

    def __post_init__(self) -> None:
        check_choice("make_scorer", "needs", self.needs, _NEEDS)
        if not callable(self.metric):
            raise DataError(f"make_scorer: metric must be a function. Got {self.metric!r}")
        check_int("make_scorer", "seasonality", self.seasonality, none=True)
        if self.needs == "interval":
            check_real("make_scorer", "coverage", self.coverage, 0.0, 1.0, closed="neither")
        if self.needs == "quantiles":
            self.quantiles = check_quantiles("make_scorer", np.atleast_1d(self.quantiles))

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, sample_weight: Any = None
    ) -> float:
        if sample_weight is not None and not self._accept_sample_weight():
            raise DataError(f"{self!r} takes no sample_weight")
        options = {} if sample_weight is None else {"sample_weight": sample_weight}
        if self.needs == "interval":
            ends = [(1 - self.coverage) / 2, (1 + self.coverage) / 2]
            lower, upper = np.moveaxis(quantiles_of(estimator, X, ends), -1, 0)
            forecast: tuple = (lower, upper, self.coverage)
        elif self.needs == "quantiles":
            forecast = (quantiles_of(estimator, X, self.quantiles), self.quantiles)
        else:
            forecast = (np.asarray(estimator.predict(X)),)
        if y is None or self.needs == "history":
            found = Unwrapped(estimator, X, ensemble=True)
            y = _truth(found) if y is None else y
        if self.needs == "history":
            history = found.history()
            y, forecast = _with_series(y, found), (*forecast, history)
            season = self.seasonality or choose_seasonality(found.forecaster.panel_)
            options["seasonality"] = season
        value = float(self.metric(y, *forecast, **options))
        return value if self.greater_is_better else -value

    def _accept_sample_weight(self) -> bool:
        """What scikit-learn asks when metadata routing is off."""
        return "sample_weight" in inspect.signature(self.metric).parameters

    def set_score_request(self, *, sample_weight: Any = None) -> ForecastScorer:
        """Say what metadata the scorer wants, for scikit-learn's metadata routing.

        Parameters
        ----------
        sample_weight : bool, str or None, default=None
            True asks for it, False ignores it, None raises if it is passed, a string is its alias.

        Returns
        -------
        ForecastScorer
            A changed copy: the scorers of this module are shared and stay as they are.

        Raises
        ------
        RuntimeError
            If metadata routing is off.
        """
        if not get_config().get("enable_metadata_routing"):
            raise RuntimeError(
                "set_score_request needs sklearn.set_config(enable_metadata_routing=True)"
            )
        return replace(self, weight_alias=sample_weight)

    def get_metadata_routing(self) -> MetadataRequest:
        """What metadata the scorer requests: a part of scikit-learn's protocol."""
        request = MetadataRequest(owner=repr(self))
        if self._accept_sample_weight():
            request.score.add_request(param="sample_weight", alias=self.weight_alias)
        return request

    def __repr__(self) -> str:
        parts = [getattr(self.metric, "__name__", repr(self.metric))]
        for each in fields(self)[1:]:
            if (value := getattr(self, each.name)) != each.default:
                parts.append(f"{each.name}={value!r}")
        return f"make_scorer({', '.join(parts)})"


def _truth(found: Unwrapped) -> np.ndarray:
    """The target columns of X after the steps of the pipelines."""
    if not hasattr(found.forecaster, "_truth"):
        owner = type(found.forecaster).__name__
        raise DataError(f"{owner} cannot read the truth from X: pass y to the scorer")
    return found.forecaster._truth(found.X)


def _with_series(true: Any, found: Unwrapped) -> pd.DataFrame:
    """The truth as a frame, its rows labelled (series, row) where the history is a panel's."""
    frame, panel = pd.DataFrame(to_rows("scorer", "y_true", true)), found.forecaster.panel_
    if not panel.is_panel:
        return frame
    ids = panel.ids[found.forecaster._rows_of(found.X).series]
    levels = [ids.get_level_values(i) for i in range(ids.nlevels)]
    return frame.set_axis(pd.MultiIndex.from_arrays([*levels, np.arange(len(frame))]))


make_scorer = ForecastScorer  # by the name that scikit-learn has for it


@documented(SCORER)
def make_mase_scorer(seasonality: int | None = None) -> ForecastScorer:
    """Scorer of minus MASE.

    Examples
    --------
    >>> make_mase_scorer(24)
    make_scorer(mase, needs='history', seasonality=24)
    """
    return make_scorer(_scaled.mase, needs="history", seasonality=seasonality)


@documented(SCORER)
def make_rmsse_scorer(seasonality: int | None = None) -> ForecastScorer:
    """Scorer of minus RMSSE.

    Examples
    --------
    >>> make_rmsse_scorer(1)
    make_scorer(rmsse, needs='history', seasonality=1)
    """
    return make_scorer(_scaled.rmsse, needs="history", seasonality=seasonality)


@documented(SCORER)
def make_pinball_scorer(quantile: float | Sequence[float] = (0.1, 0.5, 0.9)) -> ForecastScorer:
    """Scorer of minus the pinball loss.

    Parameters
    ----------
    quantile : float or sequence of float, default=(0.1, 0.5, 0.9)
        Levels between 0 and 1; the loss is averaged over them.

    Examples
    --------
    >>> make_pinball_scorer(0.9)
    make_scorer(pinball_loss, needs='quantiles', quantiles=(0.9,))
    """
    return make_scorer(_probabilistic.pinball_loss, needs="quantiles", quantiles=quantile)


@documented(SCORER)
def make_coverage_scorer(coverage: float = 0.9) -> ForecastScorer:
    """Scorer of minus the distance of the intervals' coverage from the nominal one.

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


@documented(SCORER)
def make_interval_scorer(coverage: float = 0.9) -> ForecastScorer:
    """Scorer of minus Winkler's interval score, which rewards both coverage and sharpness.

    Examples
    --------
    >>> make_interval_scorer(0.8)
    make_scorer(interval_score, needs='interval', coverage=0.8)
    """
    return make_scorer(_probabilistic.interval_score, needs="interval", coverage=coverage)


_POINT = ("mae", "mse", "rmse", "mape", "smape")
_SCORERS = {name: make_scorer(getattr(_point, name)) for name in _POINT} | {
    "r2": make_scorer(_point.r2, greater_is_better=True),
    "mase": make_mase_scorer(),
    "rmsse": make_rmsse_scorer(),
    "pinball": make_pinball_scorer(),
    "coverage": make_coverage_scorer(),
    "interval": make_interval_scorer(),
}
mae_scorer, mse_scorer, rmse_scorer, mape_scorer, smape_scorer = (_SCORERS[k] for k in _POINT)
r2_scorer, mase_scorer, rmsse_scorer = (_SCORERS[name] for name in ("r2", "mase", "rmsse"))
pinball_scorer = _SCORERS["pinball"]


@documented(SCORER)
def get_scorer(name: str) -> ForecastScorer:
    """A scorer by the name of its metric.

    Parameters
    ----------
    name : {"mae", "mse", "rmse", "mape", "smape", "r2", "mase", "rmsse", "pinball", "coverage",
    "interval"}
        "coverage" and "interval" are for a nominal coverage of 0.9.

    Examples
    --------
    >>> get_scorer("mase")
    make_scorer(mase, needs='history')
    """
    check_choice("get_scorer", "name", name, _SCORERS)
    return _SCORERS[name]
