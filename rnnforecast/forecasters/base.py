"""The contract that every forecaster keeps: two doors, one model.

``BaseForecaster`` reads frames and arrays into a ``Panel``, finds for each row of X the series and
step that it asks for, and leaves the model itself to four hooks: ``_fit_panel``,
``_predict_future``, ``_predict_in_sample`` and ``_quantiles_future``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from rnnforecast._validation import (
    check_int,
    check_quantiles,
    check_real,
    quantiles_in_order,
)
from rnnforecast.data import reading
from rnnforecast.data.panel import Panel
from rnnforecast.data.roles import read_columns
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import _rows
from rnnforecast.forecasters._rows import Rows
from rnnforecast.forecasters._shared import of_rows

__all__ = ["BaseForecaster"]


class BaseForecaster(RegressorMixin, BaseEstimator, ABC):
    """Base of all forecasters.

    A subclass declares its own ``__init__`` with at least ``horizon, target, known, static,
    series_id, time, freq`` and implements the hooks below. Its fitted attributes are returned by
    hooks as a dict, and set all at once, so that an error never leaves a half-fitted estimator.
    """

    # declared for type checkers; every subclass' __init__ assigns them
    horizon: int
    target: Any
    known: Any
    static: Any
    series_id: Any
    time: Any
    freq: Any

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        """Train on ``panel``; return the fitted attributes (names ending in ``_``)."""

    @abstractmethod
    def _predict_future(self, series: np.ndarray, n_steps: int, known: np.ndarray) -> np.ndarray:
        """Point forecasts of steps 1..n_steps after the history of each series.

        Parameters
        ----------
        series : ndarray of int, shape (s,)
        n_steps : int
        known : ndarray, shape (s, n_steps, n_known)
            Future covariates; NaN where not given. A step's forecast may use its own row only.

        Returns
        -------
        ndarray, shape (s, n_steps, n_targets)
        """

    @abstractmethod
    def _predict_in_sample(
        self, series: np.ndarray, positions: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """One-step values for rows of the history, each from the rows before it.

        Parameters
        ----------
        series, positions : ndarray of int, shape (n,)
            Row ``positions[k]`` of series ``series[k]``.
        known : ndarray, shape (n, n_known)
            The rows' own covariates.

        Returns
        -------
        ndarray, shape (n, n_targets)
        """

    @abstractmethod
    def _quantiles_future(
        self, series: np.ndarray, n_steps: int, known: np.ndarray, levels: tuple[float, ...]
    ) -> np.ndarray:
        """Quantile forecasts, shape (s, n_steps, n_targets, n_levels), not decreasing over
        levels.
        """

    @abstractmethod
    def _quantiles_in_sample(
        self,
        series: np.ndarray,
        positions: np.ndarray,
        known: np.ndarray,
        levels: tuple[float, ...],
    ) -> np.ndarray:
        """Quantiles of the one-step in-sample values, shape (n, n_targets, n_levels)."""

    def _update_panel(self, panel: Panel) -> dict[str, Any]:
        """Fitted attributes that change when the history grows to ``panel``; weights stay."""
        return {}

    def _check_params(self) -> None:
        """Raise DataError for unusable parameters; extended by subclasses."""
        check_int(type(self).__name__, "horizon", self.horizon)

    # -- fit ---------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> BaseForecaster:
        """Fit to the rows of ``X``.

        Parameters
        ----------
        X : DataFrame, Series, 2-D array, or a frame that narwhals reads
            One row per time step. A panel has a MultiIndex (series, time) or the columns named by
            ``series_id`` and ``time``.
        y : array-like, shape (n_rows,) or (n_rows, n_targets), optional
            Targets. If given, every column of X is a covariate known in the future; if not,
            ``target`` names the targets in X.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If the data cannot be used; the estimator is then as it was before.
        """
        self._check_params()
        owner = type(self).__name__
        parameters = ("target", "known", "static", "series_id", "time", "freq")
        options = {name: getattr(self, name) for name in parameters}
        panel, roles, columns, is_array = of_rows(
            (owner, X, y, *options.values()), lambda: reading.read_fit(owner, X, y, **options)
        )
        fitted = self._fit_panel(panel)
        common = {
            "panel_": panel.owned(),
            "roles_": roles,
            "target_names_": list(roles.targets),
            "n_features_in_": len(columns),
        }
        if not is_array and all(isinstance(name, str) for name in columns):
            common["feature_names_in_"] = np.asarray(columns, dtype=object)
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("_")]:
            delattr(self, name)
        self.__dict__.update(common, **fitted)
        return self

    def update(self, X: Any, y: Any = None) -> BaseForecaster:
        """Append observed rows to the history; weights and parameters stay as fitted.

        Parameters
        ----------
        X, y
            As in ``fit``, rows after the cutoff of their series. A gap before them is masked.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If a row is not after the cutoff, or columns are missing; the estimator is then as it
            was.
        """
        panel = self._extended(X, y)
        changed = self._update_panel(panel)
        self.__dict__.update({"panel_": panel}, **changed)
        return self

    def _extended(self, X: Any, y: Any) -> Panel:
        """The history with the rows of X (and y) appended."""
        check_is_fitted(self, "panel_")
        owner, table = type(self).__name__, self._read_rows(X, history=True)
        targets = reading.targets_of(owner, table, y, self.roles_)
        panel = self.panel_.append(owner, table, targets)
        if panel.n_series > self.panel_.n_series:
            raise DataError(
                f"{owner}: {panel.label(self.panel_.n_series)} was not in the data passed to fit: "
                f"fit on it first"
            )
        return panel

    @property
    def cutoff_(self) -> Any:
        """Stamp of the last row of the history; a Series by series where their ends differ."""
        if "panel_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no cutoff_ before fit")
        lasts = self.panel_.lasts()
        if (lasts == lasts[0]).all():
            return lasts[0]
        return pd.Series(lasts, index=self.panel_.ids, name="cutoff")

    def history(self) -> pd.DataFrame:
        """The target columns observed so far.

        Returns
        -------
        DataFrame, shape (n_rows, n_targets)
            Indexed by time, or by (series, time) for a panel.
        """
        check_is_fitted(self, "panel_")
        return self.panel_.history(self.target_names_)

    # -- the scikit-learn door ---------------------------------------------------------------------

    def predict(self, X: Any = None) -> np.ndarray:
        """Forecast the rows of ``X``.

        Parameters
        ----------
        X : as in fit, optional
            The rows to forecast; each row's step is taken from its time stamp, and rows of an array
            follow on from the history. Target columns are ignored. None: the next ``horizon`` steps
            of every series in turn. Where fit was given y apart from X, pandas' default index (0,
            1, 2, ...) counts as no index.

        Returns
        -------
        ndarray of float64, shape (n_rows,) or (n_rows, n_targets)
            Row for row. Rows of the training range get one-step in-sample values.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        DataError
            If a row lies before the training range or in a gap of it, or columns differ from
            ``fit``.
        """
        rows = self._rows_of(X)
        out = rows.fill(
            self.panel_,
            lambda series, n, known: self._predict_future(series, n, known),
            lambda series, at, known: self._predict_in_sample(series, at, known),
        )
        return out[:, 0] if out.shape[1] == 1 else out

    def predict_interval(self, X: Any = None, coverage: float = 0.9) -> np.ndarray:
        """Central prediction intervals for the rows of ``X``.

        Parameters
        ----------
        X : as in predict
        coverage : float, default 0.9
            Probability that the interval should hold, in (0, 1).

        Returns
        -------
        ndarray, shape (n_rows, 2) or (n_rows, n_targets, 2)
            Lower and upper ends.
        """
        check_real(type(self).__name__, "coverage", coverage, 0, 1, closed="neither")
        out = self._row_quantiles(X, ((1 - coverage) / 2, (1 + coverage) / 2))
        return out[:, 0] if out.shape[1] == 1 else out

    def predict_quantiles(self, X: Any = None, quantiles: Any = (0.1, 0.5, 0.9)) -> np.ndarray:
        """Quantile forecasts for the rows of ``X``.

        Parameters
        ----------
        X : as in predict
        quantiles : sequence of float, default (0.1, 0.5, 0.9)
            Levels in (0, 1); the result has them in this order.

        Returns
        -------
        ndarray, shape (n_rows, n_quantiles) or (n_rows, n_targets, n_quantiles)
        """
        asked = quantiles_in_order(type(self).__name__, quantiles)
        levels = tuple(sorted(set(asked)))
        out = self._row_quantiles(X, levels)[..., np.searchsorted(levels, asked)]
        return out[:, 0] if out.shape[1] == 1 else out

    def _row_quantiles(self, X: Any, levels: tuple[float, ...]) -> np.ndarray:
        return self._rows_of(X).fill(
            self.panel_,
            lambda series, n, known: self._quantiles_future(series, n, known, levels),
            lambda series, at, known: self._quantiles_in_sample(series, at, known, levels),
        )

    def score(self, X: Any, y: Any = None) -> float:
        """Coefficient of determination R² of ``predict(X)``; greater is better.

        Parameters
        ----------
        X : as in predict
        y : array-like, optional
            Truth; read from the target columns of X if None. Unobserved (NaN) truths are left out.

        Returns
        -------
        float
        """
        from rnnforecast.metrics import r2

        return float(r2(self._truth(X, y), self.predict(X)))

    def _truth(self, X: Any, y: Any = None) -> np.ndarray:
        """Truth of the rows of X, shape (n_rows,) or (n_rows, n_targets)."""
        check_is_fitted(self, "panel_")
        keys = {"series_id": self.series_id, "time": self.time}
        names = getattr(self, "feature_names_in_", None)
        return reading.read_truth(type(self).__name__, X, y, self.target_names_, names, **keys)

    # -- the pandas door ---------------------------------------------------------------------------

    def forecast(
        self, X: Any = None, *, horizon: int | None = None, quantiles: Any = None
    ) -> pd.DataFrame:
        """Forecast the next steps of every series.

        Parameters
        ----------
        X : as in fit, optional
            Future rows of the known covariates; needed if there are any.
        horizon : int, optional
            Number of steps; the estimator's ``horizon`` if None. Beyond that the forecast rolls on.
        quantiles : sequence of float, optional
            Levels in (0, 1). If given, the columns are (target, quantile).

        Returns
        -------
        DataFrame
            Indexed by time, or by (series, time) for a panel.

        Raises
        ------
        DataError
            If the future covariates are missing or too short.
        """
        owner = type(self).__name__
        check_is_fitted(self, "panel_")
        n_steps = self.horizon if horizon is None else horizon
        check_int(owner, "horizon", n_steps)
        panel = self.panel_
        everyone = np.arange(panel.n_series)
        known = np.empty((panel.n_series, n_steps, 0))
        if self.roles_.known:
            rows = None if X is None else self._rows_of(X)
            known = _rows.future_known(owner, panel, self.roles_.known, rows, n_steps)
        index = self.future_index(n_steps)
        if quantiles is None:
            values = self._predict_future(everyone, n_steps, known)
            return pd.DataFrame(
                values.reshape(len(index), -1), index=index, columns=self.target_names_
            )
        levels = check_quantiles(owner, quantiles)
        values = self._quantiles_future(everyone, n_steps, known, levels)
        columns = pd.MultiIndex.from_product(
            [self.target_names_, levels], names=["target", "quantile"]
        )
        return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=columns)

    def future_index(self, horizon: int | None = None) -> pd.Index:
        """Stamps of the next steps, as ``forecast`` gives them: to make future covariates for.

        Parameters
        ----------
        horizon : int, optional
            Number of steps; the estimator's ``horizon`` if None.

        Returns
        -------
        Index
            Time stamps, or (series, time) for a panel.
        """
        check_is_fitted(self, "panel_")
        n_steps = self.horizon if horizon is None else horizon
        check_int(type(self).__name__, "horizon", n_steps)
        return self.panel_.future_frame_index(n_steps)

    # -- reading X after fit -----------------------------------------------------------------------

    def _read_rows(self, X: Any, history: bool = False):
        """Read X and check its columns against those of fit."""
        return reading.read_rows(
            type(self).__name__,
            X,
            self.roles_,
            getattr(self, "feature_names_in_", None),
            self.n_features_in_,
            lambda frame: _check_feature_names(self, frame, reset=False),
            needs=("known", "targets", "past") if history else ("known",),
            target=self.target,
            series_id=self.series_id,
            time=self.time,
        )

    def _rows_of(self, X: Any) -> Rows:
        check_is_fitted(self, "panel_")
        owner = type(self).__name__
        panel, roles = self.panel_, self.roles_
        if X is None:
            if roles.known:
                raise DataError(
                    f"{owner}: X must hold the future covariates {roles.known}. Got None"
                )
            steps = np.tile(np.arange(1, self.horizon + 1), panel.n_series)
            series = np.repeat(np.arange(panel.n_series), self.horizon)
            return Rows(series, steps, np.empty((len(series), 0)))
        table = self._read_rows(X)
        series, steps = panel.locate(owner, table.keys)
        return Rows(series, steps, read_columns(owner, table.frame, panel.columns, "known"))

    # -- scikit-learn ------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return "panel_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = False
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text = super().__repr__(N_CHAR_MAX)
        if "panel_" not in vars(self):
            return text
        return f"{text}\n  fitted: {'; '.join(self._describe())}"

    def _describe(self) -> list[str]:
        """What the fitted repr tells; extended by subclasses."""
        panel = self.panel_
        size = f"{panel.n_series} series" if panel.is_panel else f"{len(panel.targets)} rows"
        if panel.calendar is not None:
            size += f", {panel.calendar!r}"
        return [str(self.roles_), size]
