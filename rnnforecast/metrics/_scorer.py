"""A metric as a scikit-learn scorer: where the truth, the scale and the quantiles come from."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from rnnforecast.data.frames import read_table, read_targets
from rnnforecast.exceptions import DataError
from rnnforecast.metrics._unwrap import Unwrapped, interval_of, quantiles_of, unwrap

__all__ = ["ForecastScorer"]


class ForecastScorer:
    """A metric as a scorer: ``scorer(estimator, X, y=None)``, the greater the better.

    Make one with `make_scorer`.

    Parameters
    ----------
    metric, needs, greater_is_better, seasonality, quantiles, coverage
        As in `make_scorer`.

    Notes
    -----
    **Without y** the truth is read from X: its columns named ``target_names_`` by the fitted
    forecaster, which is looked for inside Pipeline, TransformedTargetRegressor and searches. A
    Pipeline that changes the target column of X also changes what its forecaster predicts, so the
    rows of X pass through the same fitted steps before the truth is read from them: both sides are
    then in the units after the steps. In a search over different scalers use a score without units
    (`mase_scorer`, `rmsse_scorer`, `r2_scorer`), as MAE and RMSE of differently scaled data do not
    compare.

    **Scaled errors** take their scale from ``forecaster.history()``, the targets it was fitted on,
    series by series for a panel; a TransformedTargetRegressor's history is transformed back. The
    seasonality is the scorer's, else the forecaster's ``seasonality_``, else 1.
    """

    def __init__(
        self,
        metric: Callable[..., Any],
        *,
        needs: str = "prediction",
        greater_is_better: bool = False,
        seasonality: int | None = None,
        quantiles: tuple[float, ...] | None = None,
        coverage: float | None = None,
    ):
        self.metric = metric
        self.needs = needs
        self.greater_is_better = greater_is_better
        self.seasonality = seasonality
        self.quantiles = quantiles
        self.coverage = coverage
        self._weight_alias: Any = None

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, sample_weight: Any = None
    ) -> float:
        """Score the forecast of the rows of X.

        Parameters
        ----------
        estimator : fitted estimator
            A forecaster, or a Pipeline, search or other wrapper around one.
        X : array-like, shape (n, columns)
            Rows to forecast.
        y : array-like, shape (n,) or (n, targets), default=None
            Truth; None reads it from the target columns of X.
        sample_weight : array-like, shape (n,), default=None
            Weights of the rows, for metrics that take them.

        Returns
        -------
        float
            The greater the better: errors are negated.

        Raises
        ------
        DataError
            If the truth cannot be found or the metric's needs are not met.
        """
        value = float(self._value(estimator, X, y, sample_weight))
        return value if self.greater_is_better else -value

    def _value(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> Any:
        if sample_weight is not None and not self._accept_sample_weight():
            raise DataError(f"{self!r} takes no sample_weight")
        options = {} if sample_weight is None else {"sample_weight": sample_weight}
        if self.needs == "interval":
            assert self.coverage is not None
            lower, upper = interval_of(estimator, X, self.coverage)
            return self.metric(_truth(estimator, X, y), lower, upper, self.coverage, **options)
        if self.needs == "quantiles":
            assert self.quantiles is not None
            pred = quantiles_of(estimator, X, self.quantiles)
            return self.metric(_truth(estimator, X, y), pred, self.quantiles, **options)
        pred = np.asarray(estimator.predict(X))
        if self.needs == "prediction":
            return self.metric(_truth(estimator, X, y), pred, **options)
        found = unwrap(estimator, X, ensemble=True)
        true = _with_series(_truth(estimator, X, y), found)
        season = self.seasonality or getattr(found.forecaster, "seasonality_", None) or 1
        return self.metric(true, pred, found.history(), seasonality=int(season), **options)

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
        changed = copy.copy(self)
        changed._weight_alias = sample_weight
        return changed

    def get_metadata_routing(self) -> MetadataRequest:
        """Metadata that the scorer requests.

        Returns
        -------
        MetadataRequest
        """
        request = MetadataRequest(owner=repr(self))
        if self._accept_sample_weight():
            request.score.add_request(param="sample_weight", alias=self._weight_alias)
        return request

    def __repr__(self) -> str:
        parts = [getattr(self.metric, "__name__", repr(self.metric))]
        if self.needs != "prediction":
            parts.append(f"needs={self.needs!r}")
        if self.greater_is_better:
            parts.append("greater_is_better=True")
        for name in ("seasonality", "quantiles", "coverage"):
            if getattr(self, name) is not None:
                parts.append(f"{name}={getattr(self, name)!r}")
        return f"make_scorer({', '.join(parts)})"


def _truth(estimator: Any, X: Any, y: Any) -> Any:
    """The truth: y, or the target columns of X after the steps of the pipelines."""
    if y is not None:
        return y
    found = unwrap(estimator, X, ensemble=True)
    name = type(found.forecaster).__name__
    targets = getattr(found.forecaster, "target_names_", None)
    if targets is None:
        raise DataError(
            f"{name} has no target_names_, so the truth cannot be read from X: pass y to the scorer"
        )
    table = _table(found)
    frame, names = table.frame, getattr(found.forecaster, "feature_names_in_", None)
    if table.is_array and names is not None and len(names) == frame.shape[1]:
        frame = frame.set_axis(list(names), axis=1)
    missing = [target for target in targets if target not in frame.columns]
    if missing:
        raise DataError(
            f"the truth {missing[0]!r} is not among the columns of X ({list(frame.columns)[:8]}): "
            f"{name} was fitted with y, so pass y to the scorer too"
        )
    return frame[list(targets)]


def _table(found: Unwrapped) -> Any:
    forecaster = found.forecaster
    return read_table(
        type(forecaster).__name__,
        found.X,
        getattr(forecaster, "series_id", None),
        getattr(forecaster, "time", None),
    )


def _with_series(true: Any, found: Unwrapped) -> pd.DataFrame:
    """The truth as a frame; with a MultiIndex (series, time) where the history is a panel's."""
    values, names, _ = read_targets("scorer", true, len(true))
    if not isinstance(found.history().index, pd.MultiIndex):
        return pd.DataFrame(values, columns=names)
    keys = _table(found).keys
    if keys.series is None:
        raise DataError(
            "the forecaster knows several series, but the rows of X do not say theirs: keep the "
            "MultiIndex (series, time), or the series_id column"
        )
    rows = np.arange(len(values))
    stamps = keys.stamps(rows) if keys.has_time else pd.Index(rows)
    ids = keys.ids[keys.series]
    levels = [ids.get_level_values(i) for i in range(ids.nlevels)]
    return pd.DataFrame(values, index=pd.MultiIndex.from_arrays([*levels, stamps]), columns=names)
