"""The contract that every forecaster keeps: two doors, one model.

``BaseForecaster`` finds for each row of X the series and step that it asks for. Predictions,
intervals, samples, in-sample values and rolling origins are written here once, on top of one hook:
``_forecast(history, series, origins, n_steps, known)``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from rnnforecast._validation import check_int, check_quantiles, check_real, quantiles_in_order
from rnnforecast.data import reading
from rnnforecast.data.panel import Panel
from rnnforecast.data.reading import Rows
from rnnforecast.data.roles import read_columns
from rnnforecast.data.windows import WindowIndex
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.history import HistoryEstimator
from rnnforecast.outputs import Forecast
from rnnforecast.parameters import estimator
from rnnforecast.training import seeds_of

__all__ = ["BaseForecaster"]


@estimator
class BaseForecaster(HistoryEstimator):
    """Base of all forecasters.

    A subclass declares its further parameters and implements ``_fit_panel`` and ``_forecast``.
    """

    # -- hooks ------------------------------------------------------------------------------------

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
        return self._row_values(X, lambda forecast: _numbers(forecast.point))

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
        return self.predict_quantiles(X, ((1 - coverage) / 2, (1 + coverage) / 2))

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
        order = np.searchsorted(levels, asked)
        return self._row_values(X, lambda forecast: self._quantiles(forecast, levels)[..., order])

    def _row_values(self, X: Any, of: Callable[[Forecast], np.ndarray]) -> np.ndarray:
        """``of(forecast)`` for every row of X: future rows from the end of the history, rows of the
        history from the rows before them.
        """
        rows = self._rows_of(X)
        ahead = rows.steps > 0
        parts, places = [], []
        for chosen, ask in ((ahead, self._ahead), (~ahead, self._one_step)):
            if chosen.any():
                parts.append(of(ask(Rows(*(part[chosen] for part in rows)))))
                places.append(np.flatnonzero(chosen))
        out = np.concatenate(parts)[np.argsort(np.concatenate(places))]
        return out[:, 0] if out.shape[1] == 1 else out

    def _ahead(self, rows: Rows) -> Forecast:
        """Forecast of future rows, ``(n_rows, n_targets)``."""
        panel, n_steps = self.panel_, int(rows.steps.max())
        series, place = np.unique(rows.series, return_inverse=True)
        known, _ = reading.laid_out(panel, place, rows, (len(series), n_steps))
        forecast = self._forecast(panel, series, panel.lengths[series], n_steps, known)
        return forecast[place, rows.steps - 1]

    def _one_step(self, rows: Rows) -> Forecast:
        """One-step forecast of rows of the history, ``(n_rows, n_targets)``."""
        origins = self.panel_.lengths[rows.series] - 1 + rows.steps
        known = rows.known[:, None]
        return self._forecast(self.panel_, rows.series, origins, 1, known)[:, 0]

    def _quantiles(self, forecast: Forecast, levels: tuple[float, ...]) -> np.ndarray:
        return self._asked(lambda: forecast.quantile(levels))

    def _asked(self, ask: Callable[[], torch.Tensor]) -> np.ndarray:
        """Numbers of a forecast, or an error that says whose they are."""
        try:
            return _numbers(ask())
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
        names = getattr(self, "feature_names_in_", None)
        return reading.read_truth(type(self).__name__, X, y, self.target_names_, names, **keys)

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
        check_int(type(self).__name__, "n", n)
        forecast, index = self._next_steps(X, history, horizon)
        generator = torch.Generator().manual_seed(seeds_of(random_state, 1)[0])
        drawn = self._asked(lambda: forecast.sample(n, generator))
        return self._wide(np.moveaxis(drawn, 0, -1), index, "sample", range(n))

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
            known = reading.future_known(owner, panel, self.roles_.known, rows, n_steps)
        elif X is not None:
            raise DataError(
                f"{owner}: the first argument of forecast holds future rows of the known "
                f"covariates, and this forecaster has none. Got {type(X).__name__}: for the number "
                f"of steps use horizon=, for other rows to forecast from history="
            )
        everyone = np.arange(panel.n_series)
        forecast = at._forecast(panel, everyone, panel.lengths, n_steps, known)
        return forecast, at.future_index(n_steps)

    def _frame(
        self, forecast: Forecast, levels: tuple[float, ...] | None, index: pd.Index
    ) -> pd.DataFrame:
        """Points or quantiles, a row for each step."""
        if levels is not None:
            return self._wide(self._quantiles(forecast, levels), index, "quantile", levels)
        values = _numbers(forecast.point).reshape(len(index), -1)
        return pd.DataFrame(values, index=index, columns=self.target_names_)

    def _wide(self, values: np.ndarray, index: pd.Index, name: str, each: Any) -> pd.DataFrame:
        """Values ``(..., n_targets, n)`` under columns (target, name)."""
        columns = pd.MultiIndex.from_product([self.target_names_, each], names=["target", name])
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
        view = self._at(panel)
        series, origins = windows[np.arange(len(windows))]
        ahead = origins[:, None] + np.arange(self.horizon)
        known = panel.known[panel.indptr[series][:, None] + ahead]
        forecast = view._forecast(panel, series, origins, self.horizon, known)
        return self._frame(forecast, levels, _origin_index(panel, series, origins, ahead))

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
        table = reading.read_rows(self, X)
        series, steps = panel.locate(owner, table.keys)
        return Rows(series, steps, read_columns(owner, table.frame, panel.columns, "known"))


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64, copy=False)


def _origin_index(
    panel: Panel, series: np.ndarray, origins: np.ndarray, ahead: np.ndarray
) -> pd.MultiIndex:
    """(series, origin, time) of forecasts of rows ``ahead: (n, horizon)``."""
    row, last = (np.repeat(part, ahead.shape[1]) for part in (series, origins - 1))
    index = panel.index_at(row, ahead.ravel())
    *ids, times = (index.get_level_values(k) for k in range(index.nlevels))
    return pd.MultiIndex.from_arrays([*ids, panel.stamps_at(row, last).rename("origin"), times])
