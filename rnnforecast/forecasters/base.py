"""The contract that every forecaster keeps: two doors, one model.

``BaseForecaster`` reads frames and arrays into a ``Panel`` and finds for each row of X the series
and step that it asks for. Predictions, intervals, samples, in-sample values and rolling origins are
written here once, on top of one hook: ``_forecast(history, series, origins, n_steps, known)``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from rnnforecast._validation import (
    check_int,
    check_quantiles,
    check_real,
    quantiles_in_order,
)
from rnnforecast.data import reading
from rnnforecast.data.frames import Table, read_table
from rnnforecast.data.panel import Panel
from rnnforecast.data.roles import Roles, read_columns
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import _rows
from rnnforecast.forecasters._rows import Rows
from rnnforecast.forecasters.parameters import estimator
from rnnforecast.forecasters.sharing import of_rows
from rnnforecast.outputs import Forecast
from rnnforecast.training import seeds_of

__all__ = ["BaseForecaster"]

_READING = ("target", "known", "static", "series_id", "time", "freq")  # parameters of the columns


@estimator
class BaseForecaster(RegressorMixin, BaseEstimator, ABC):
    """Base of all forecasters.

    A subclass declares its further parameters and implements ``_fit_panel`` and ``_forecast``.
    Fitted attributes are returned by hooks as a dict, and set all at once, so that an error never
    leaves a half-fitted estimator.

    Parameters
    ----------
    horizon : int, default 1
        Steps forecast at once. Longer forecasts roll on.
    target : str or list of str, optional
        Columns of X that are forecast. None: y, or without y every column that has no other role.
    known : str or list of str, optional
        Columns of X that are known in the future too (calendar, prices, plans). With y apart from X
        all columns are.
    static : str or list of str, optional
        Columns of X that are constant within each series.
    series_id : str, optional
        Column that names the series, instead of an index.
    time : str, optional
        Column of time stamps, instead of an index.
    freq : str or DateOffset, optional
        Frequency of the time stamps; inferred if None.
    """

    horizon: int = 1
    target: Any = None
    known: Any = None
    static: Any = None
    series_id: Any = None
    time: Any = None
    freq: Any = None

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        """Train on ``panel``; return the fitted attributes (names ending in ``_``)."""

    @abstractmethod
    def _forecast(
        self,
        history: Panel,
        series: np.ndarray,
        origins: np.ndarray,
        n_steps: int,
        known: np.ndarray,
    ) -> Forecast:
        """Forecasts from any origins in a history: the one hook behind every prediction.

        Parameters
        ----------
        history : Panel
            ``panel_``, or the panel that :meth:`_follow` was last given.
        series, origins : ndarray of int, shape (k,)
            Forecast k knows the first ``origins[k]`` rows of series ``series[k]`` and nothing of
            those after them.
        n_steps : int
        known : ndarray, shape (k, n_steps, n_known)
            Covariates of the steps ahead; NaN where not given. A step's forecast may use its own
            row only.

        Returns
        -------
        Forecast, shape (k, n_steps, n_targets)
        """

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        """Fitted attributes that depend on the rows of the history; weights stay.

        Parameters
        ----------
        history : Panel
        fresh : bool
            False: ``history`` is ``panel_`` with more rows, and perhaps more series at its end, and
            what is known of the old ones stays. True: another panel, measured by itself.
        """
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
        options = {name: getattr(self, name) for name in _READING}
        panel, roles, columns, is_array = of_rows(
            (owner, X, y, *options.values()), lambda: reading.read_fit(owner, X, y, **options)
        )
        named = not is_array and all(isinstance(name, str) for name in columns)
        self._adopt(panel, roles, len(columns), columns if named else None)
        if vars(self)["panel_"] is panel:  # the rows must be safe from the caller's later writes
            self.panel_ = panel.owned()
        return self

    def update(self, X: Any, y: Any = None) -> BaseForecaster:
        """Append observed rows to the history; weights and parameters stay as fitted.

        Parameters
        ----------
        X, y
            As in ``fit``, rows after the cutoff of their series; a gap before them is masked. Rows
            of a series that is new are its whole history.

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
        changed = self._follow(panel, fresh=False)
        self.__dict__.update({"panel_": panel}, **changed)
        return self

    def _extended(self, X: Any, y: Any) -> Panel:
        """The history with the rows of X (and y) appended."""
        check_is_fitted(self, "panel_")
        owner, table = type(self).__name__, self._read_rows(X, ("known", "targets", "past"))
        return self.panel_.append(owner, table, reading.targets_of(owner, table, y, self.roles_))

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
        out = self._row_values(X, lambda forecast: _numbers(forecast.point))
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
        return self._row_values(X, lambda forecast: self._quantiles(forecast, levels))

    def _row_values(self, X: Any, of: Callable[[Forecast], np.ndarray]) -> np.ndarray:
        """``of(forecast)`` for every row of X: future rows from the end of the history, rows of the
        history from the rows before them.
        """
        rows = self._rows_of(X)
        ahead = rows.steps > 0
        values: np.ndarray | None = None
        for chosen, ask in ((ahead, self._ahead), (~ahead, self._one_step)):
            if not chosen.any():
                continue
            found = of(ask(rows, chosen))
            if values is None:
                values = np.empty((len(ahead), *found.shape[1:]))
            values[chosen] = found
        assert values is not None
        return values

    def _ahead(self, rows: Rows, chosen: np.ndarray) -> Forecast:
        """Forecast of future rows, ``(n_rows, n_targets)``."""
        panel = self.panel_
        series, n_steps, known, place = rows.future(panel)
        forecast = self._forecast(panel, series, panel.lengths[series], n_steps, known)
        return forecast[place, rows.steps[chosen] - 1]

    def _one_step(self, rows: Rows, chosen: np.ndarray) -> Forecast:
        """One-step forecast of rows of the history, ``(n_rows, n_targets)``."""
        panel, series = self.panel_, rows.series[chosen]
        origins = panel.lengths[series] - 1 + rows.steps[chosen]
        return self._forecast(panel, series, origins, 1, rows.known[chosen][:, None])[:, 0]

    def _quantiles(self, forecast: Forecast, levels: tuple[float, ...]) -> np.ndarray:
        try:
            return _numbers(forecast.quantile(levels))
        except DataError as error:
            raise DataError(f"{type(self).__name__}: {error}") from error

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
        owner, names = type(self).__name__, self._names
        return reading.read_truth(owner, X, y, self.target_names_, names, **keys)

    # -- the pandas door ---------------------------------------------------------------------------

    def forecast(
        self,
        X: Any = None,
        *,
        history: Any = None,
        horizon: int | None = None,
        quantiles: Any = None,
    ) -> pd.DataFrame:
        """Forecast the next steps of every series.

        Parameters
        ----------
        X : as in fit, optional
            Future rows of the known covariates; needed if there are any, an error if there are
            none.
        history : as in fit, optional
            Forecast after the end of these rows instead of those of ``fit`` and ``update``: newer
            ones, or series never seen, with the columns of ``fit``. The estimator stays as it is;
            the scale of each series is measured on the rows given.
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
            If the future covariates are missing or too short, or there are none to give.
        """
        levels = None if quantiles is None else check_quantiles(type(self).__name__, quantiles)
        forecast, index = self._next_steps(X, history, horizon)
        return self._frame(forecast, levels, index)

    def sample(
        self,
        n: int = 100,
        X: Any = None,
        *,
        history: Any = None,
        horizon: int | None = None,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """Draw from the forecast of the next steps.

        A forecast with conformal intervals gives whole paths: each takes the errors of one past
        origin for all of its steps, so that sums over the horizon can be read off. A trained
        distribution draws every step by itself.

        Parameters
        ----------
        n : int, default 100
            Number of draws.
        X, history, horizon
            As in :meth:`forecast`.
        random_state : int, RandomState or None

        Returns
        -------
        DataFrame
            Indexed as :meth:`forecast`, with columns (target, sample), samples 0 to n - 1.

        Raises
        ------
        DataError
            As :meth:`forecast`; also if the forecast is of quantiles alone.
        """
        owner = type(self).__name__
        check_int(owner, "n", n)
        forecast, index = self._next_steps(X, history, horizon)
        generator = torch.Generator().manual_seed(seeds_of(random_state, 1)[0])
        try:
            drawn = _numbers(forecast.sample(n, generator))
        except DataError as error:
            raise DataError(f"{owner}: {error}") from error
        columns = pd.MultiIndex.from_product(
            [self.target_names_, range(n)], names=["target", "sample"]
        )
        values = np.moveaxis(drawn, 0, -1).reshape(len(index), -1)
        return pd.DataFrame(values, index=index, columns=columns)

    def _next_steps(self, X: Any, history: Any, horizon: int | None) -> tuple[Forecast, pd.Index]:
        """Forecast of the next steps of every series, and its index."""
        check_is_fitted(self, "panel_")
        owner = type(self).__name__
        n_steps = self.horizon if horizon is None else horizon
        check_int(owner, "horizon", n_steps)
        at = self if history is None else self._on(history)
        panel = at.panel_
        known = np.empty((panel.n_series, n_steps, 0))
        if self.roles_.known:
            rows = None if X is None else at._rows_of(X)
            known = _rows.future_known(owner, panel, self.roles_.known, rows, n_steps)
        elif X is not None:
            raise DataError(
                f"{owner}: the first argument of forecast holds future rows of the known "
                f"covariates, and this forecaster has none. Got {type(X).__name__}: for the number "
                f"of steps use horizon=, for other rows to forecast from history="
            )
        everyone = np.arange(panel.n_series)
        forecast = at._forecast(panel, everyone, panel.lengths, n_steps, known)
        return forecast, at.future_index(n_steps)

    def _on(self, rows: Any) -> Any:
        """This forecaster with other rows as its history; it shares everything else."""
        owner, roles = type(self).__name__, self.roles_
        if roles.separate_y:
            table, y = read_table(owner, rows, self.series_id, self.time), None
            missing = [name for name in roles.targets if name not in table.frame.columns]
            if missing:
                raise DataError(
                    f"{owner}: history must hold the target {missing[0]!r} beside the columns of "
                    f"X; the columns are {table.columns}"
                )
            y = table.frame[roles.targets]
        else:
            table, y = self._read_rows(rows, ("targets", "past", "known", "static")), None
        panel = reading.read_history(owner, table, y, roles, self.panel_)
        view = copy.copy(self)
        view.__dict__.update({"panel_": panel}, **view._follow(panel, fresh=True))
        return view

    def _frame(
        self, forecast: Forecast, levels: tuple[float, ...] | None, index: pd.Index
    ) -> pd.DataFrame:
        """Points or quantiles, a row for each step."""
        if levels is None:
            values, columns = _numbers(forecast.point), self.target_names_
        else:
            values = self._quantiles(forecast, levels)
            columns = pd.MultiIndex.from_product(
                [self.target_names_, levels], names=["target", "quantile"]
            )
        return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=columns)

    def rolling_forecast(
        self, X: Any, y: Any = None, *, stride: int = 1, quantiles: Any = None
    ) -> pd.DataFrame:
        """Forecasts from every origin in new rows, in one batched pass.

        The same as ``update`` with the rows up to an origin and ``forecast`` after it, origin by
        origin; the estimator stays as it is.

        Parameters
        ----------
        X, y
            Observed rows after the cutoff of their series, as in ``update``. The first origin is
            the cutoff, the last one has ``horizon`` rows after it.
        stride : int, default 1
            Rows between neighbouring origins.
        quantiles : sequence of float, optional
            Levels in (0, 1). If given, the columns are (target, quantile).

        Returns
        -------
        DataFrame
            ``horizon`` rows an origin, indexed by (origin, time), or by (series, origin, time) for
            a panel; an origin is the stamp of the last row that its forecast knows.

        Raises
        ------
        DataError
            If no series has ``horizon`` new rows.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from rnnforecast import NaiveForecaster
        >>> df = pd.DataFrame({"y": np.sin(np.arange(80.0))})
        >>> fc = NaiveForecaster(horizon=2).fit(df[:70])
        >>> fc.rolling_forecast(df[70:]).shape  # from 9 origins
        (18, 1)
        """
        owner = type(self).__name__
        panel = self._extended(X, y)
        check_int(owner, "stride", stride)
        levels = None if quantiles is None else check_quantiles(owner, quantiles)
        old = self.panel_
        first = np.concatenate([old.lengths, panel.lengths[old.n_series :]])
        windows = WindowIndex.between(first, panel.lengths, self.horizon, stride)
        if not len(windows):
            longest = int((panel.lengths - first).max())
            raise DataError(
                f"{owner}: rolling_forecast needs horizon={self.horizon} new rows of a series at "
                f"least. Got {longest}"
            )
        view = copy.copy(self)
        view.__dict__.update({"panel_": panel}, **view._follow(panel, fresh=False))
        series, origins = windows[np.arange(len(windows))]
        ahead = origins[:, None] + np.arange(self.horizon)
        known = panel.known[panel.indptr[series][:, None] + ahead]
        forecast = view._forecast(panel, series, origins, self.horizon, known)
        return self._frame(forecast, levels, _origin_index(panel, series, origins, ahead))

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

    @property
    def _names(self) -> list | None:
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else list(names)

    def _read_rows(self, X: Any, needs: tuple[str, ...] = ("known",)) -> Table:
        """Read X and check its columns against those of fit."""
        return reading.read_rows(
            type(self).__name__,
            X,
            self.roles_,
            self._names,
            self.n_features_in_,
            lambda frame: _check_feature_names(self, frame, reset=False),
            needs=needs,
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

    # -- one forecaster inside another -------------------------------------------------------------

    def __copy__(self) -> Any:
        """Everything shared, networks on their device too, which a pickle takes to the CPU."""
        new = object.__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def _adopt(self, panel: Panel, roles: Roles, n_features: int, feature_names: Any) -> None:
        """Fit to rows that were read already: the second half of ``fit``.

        Parameters
        ----------
        panel : Panel
        roles : Roles
        n_features : int
            Columns of the X that was read.
        feature_names : sequence of str or None
            Their names; None where X was an array.
        """
        common: dict[str, Any] = {
            "panel_": panel,
            "roles_": roles,
            "target_names_": list(roles.targets),
            "n_features_in_": n_features,
        }
        if feature_names is not None:
            common["feature_names_in_"] = np.asarray(feature_names, dtype=object)
        view = copy.copy(self)  # on which a hook finds the columns; self is not touched yet
        view.__dict__.pop("feature_names_in_", None)
        view.__dict__.update(common)
        fitted = view._fit_panel(panel)
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("_")]:
            delattr(self, name)
        self.__dict__.update({**common, **fitted})

    def _at(self, history: Panel, fresh: bool = False) -> Any:
        """The same forecaster with another history, see ``_follow``; all else is shared."""
        view = copy.copy(self)
        view.__dict__.update({"panel_": history}, **view._follow(history, fresh))
        return view


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64, copy=False)


def _origin_index(
    panel: Panel, series: np.ndarray, origins: np.ndarray, ahead: np.ndarray
) -> pd.MultiIndex:
    """(series, origin, time) of forecasts of rows ``ahead: (n, horizon)``."""
    steps = ahead.shape[1]
    row = np.repeat(series, steps)
    levels = [
        panel.stamps_at(row, np.repeat(origins - 1, steps)),
        panel.stamps_at(row, ahead.ravel()),
    ]
    names = ["origin", panel.names[-1]]
    if panel.is_panel:
        ids = panel.ids[row]
        levels = [*(ids.get_level_values(k) for k in range(ids.nlevels)), *levels]
        names = [*panel.names[:-1], *names]
    return pd.MultiIndex.from_arrays(levels, names=names)
