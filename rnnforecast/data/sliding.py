"""Windows as a transformer, so that any scikit-learn regressor can forecast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data._spans import Span, any_nan, strided
from rnnforecast.data._transformer import SteppedTransformer
from rnnforecast.data.frames import numeric, read_table
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.roles import as_list, resolve_roles
from rnnforecast.data.seasonality import choose_lookback, choose_seasonality
from rnnforecast.data.windows import WindowIndex, gather
from rnnforecast.exceptions import DataError

__all__ = ["SlidingWindows"]


class SlidingWindows(SteppedTransformer):
    """Windows of the past as features, and the steps that follow as targets.

    Parameters
    ----------
    lookback : int, optional
        Steps in a window. None: seven seasons or two horizons, whichever is longer, at least 24, at
        most 336, and never more than half of what the shortest series has beside one horizon.
    horizon : int, default=1
        Steps to forecast from a window.
    target : str or list of str, optional
        Columns to forecast (positions, for arrays). Default: all that are not ``known``.
    known : str or list of str, optional
        Columns whose values at the forecast steps are known beforehand; these are features too.
    stride : int, default=1
        Steps between the windows of `make_xy` and `batches`.
    series_id, time : str, optional
        Columns that name series and time stamp; a MultiIndex (series, time) needs no parameter.
    freq : str, DateOffset or int, optional
        Frequency of the index, if it cannot be inferred.

    Attributes
    ----------
    lookback_ : int
        The look-back in use.
    target_names_, known_names_, columns_ : list
        Target columns, known-future columns, and all columns in the order of a window.
    panel_ : Panel
        The rows of fit on their time grid.

    Notes
    -----
    *Layout.* A row of features belongs to an origin: the time of the last row that it looks at.
    Values stand time by time, oldest first: ``a_lag2, b_lag2, a_lag1, b_lag1, a_lag0, b_lag0``,
    then the known columns at the forecast steps: ``b_lead1, b_lead2``. Targets are ``a_step1,
    a_step2``. `rnnforecast.data.WindowScaler` reads the same layout.

    *Time.* A row missing from a regular grid is an unobserved step, NaN in the windows. Rows of
    `transform` are found by their time stamps and look back on the values seen in fit; arrays have
    no stamps: the very array of fit is the training range, any other follows on from its end.

    *Memory.* With one series, no known columns and no row to drop, the features are a read-only
    view of the stored rows, whatever the look-back. Otherwise `make_xy` copies the windows;
    `batches` never holds more than one batch of them.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.linear_model import LinearRegression
    >>> index = pd.date_range("2024-01-01", periods=8, freq="D", name="day")
    >>> df = pd.DataFrame({"y": [0.0, 1, 2, 3, 4, 5, 6, 7]}, index=index)
    >>> windows = SlidingWindows(lookback=2, horizon=2).fit(df)
    >>> model = LinearRegression().fit(*windows.make_xy())
    >>> last = windows.future()
    >>> windows.inverse(model.predict(last), last.index).round({"y": 6})
                   origin  step    y
    day
    2024-01-09 2024-01-08     1  8.0
    2024-01-10 2024-01-08     2  9.0
    """

    def __init__(
        self,
        *,
        lookback=None,
        horizon=1,
        target=None,
        known=None,
        stride=1,
        series_id=None,
        time=None,
        freq=None,
    ):
        self.lookback = lookback
        self.horizon = horizon
        self.target = target
        self.known = known
        self.stride = stride
        self.series_id = series_id
        self.time = time
        self.freq = freq

    # -- fit and transform -------------------------------------------------------------------------

    def fit(self, X, y=None):
        """Store the rows and the part that each column plays.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Sorted by time within each series.
        y : ignored

        Returns
        -------
        SlidingWindows

        Raises
        ------
        DataError
            If a parameter cannot be used, a named column does not exist, or stamps are unsorted,
            repeated or off the grid.
        """
        check_int(self._owner, "lookback", self.lookback, none=True)
        check_int(self._owner, "horizon", self.horizon)
        check_int(self._owner, "stride", self.stride)
        X, table, values = self._read(X, fitted=False)
        roles = resolve_roles(self._owner, table, None, self.target, self.known, None)
        panel = self._build(table, values)
        chosen = self.lookback
        if chosen is None:
            chosen = choose_lookback(panel, self.horizon, choose_seasonality(panel))
        self._remember(X, table)
        self.panel_, self.keys_, self.lookback_ = panel, table.keys, int(chosen)
        self.target_names_, self.known_names_ = roles.targets, roles.known
        return self

    def transform(self, X):
        """The window that ends with each row, for rows of the training range and rows that follow.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)

        Returns
        -------
        ndarray of shape (n_rows, lookback * n_columns + horizon * n_known)
            NaN where a value is missing, or before the first row of the series. A DataFrame after
            ``set_output(transform="pandas")``.

        Raises
        ------
        DataError
            If a series was not in fit, or a row lies before the training range.
        """
        X, table, values = self._read(X)
        series, positions = self._rows(table, self._is_training(table, values))
        keys = table.keys
        span = Span.extended(self.panel_, keys, series, positions, values, self.lookback_)
        origins = positions + 1 - span.start[series]
        out = self._gather(span.panel, series, origins)[0]
        width = self.lookback_ * len(self.columns_)
        out[:, width - len(self.columns_) : width] = values
        return out

    def get_feature_names_out(self, input_features=None):
        """Names of the features: ``a_lag1, b_lag1, a_lag0, b_lag0, b_lead1``.

        Parameters
        ----------
        input_features : array-like of str, optional
            Must equal the names seen in fit.

        Returns
        -------
        ndarray of str
        """
        self._check_fitted()
        names = list(super().get_feature_names_out(input_features))
        keys = (self.series_id, self.time)
        names = [name for name in names if self._by_position or name not in keys]
        columns = dict(zip(self.columns_, names, strict=True))
        past = [f"{name}_lag{lag}" for lag in range(self.lookback_ - 1, -1, -1) for name in names]
        ahead = [
            f"{columns[name]}_lead{step}"
            for step in range(1, self.horizon + 1)
            for name in self.known_names_
        ]
        return np.asarray([*past, *ahead], dtype=object)

    # -- pairs for a regressor ---------------------------------------------------------------------

    def make_xy(self, X=None, *, missing="targets"):
        """Features and targets of every window whose past and forecast steps lie inside its series.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns), optional
            Pairs whose forecast steps all lie in these rows (a test fold, say); windows reach back
            into the rows of fit. None: the rows of fit.
        missing : {"targets", "any", "none"}, default="targets"
            Pairs to leave out: those with NaN in the targets, those with NaN anywhere, or none.

        Returns
        -------
        features : DataFrame of shape (n_pairs, lookback * n_columns + horizon * n_known)
        targets : DataFrame of shape (n_pairs, horizon * n_targets)
            Both are indexed by the origin, (series, origin) for a panel.

        Raises
        ------
        DataError
            If there is no such pair.
        """
        check_choice(self._owner, "missing", missing, ["targets", "any", "none"])
        span, index = self._pairs(X)
        return self._frames(span, index, np.arange(len(index)), missing, view=True)

    def batches(self, batch_size=1024, X=None, *, missing="targets", random_state=None):
        """Yield `make_xy` in parts, for regressors with ``partial_fit``.

        Parameters
        ----------
        batch_size : int, default=1024
            Pairs gathered at a time.
        X, missing
            As for `make_xy`.
        random_state : int or numpy Generator, optional
            Shuffle the pairs; None keeps their order.

        Yields
        ------
        features, targets : DataFrame
        """
        check_int(self._owner, "batch_size", batch_size)
        check_choice(self._owner, "missing", missing, ["targets", "any", "none"])
        span, index = self._pairs(X)
        return self._batches(span, index, batch_size, missing, random_state)

    def future(self, X=None):
        """The last window of each series, to forecast from.

        Parameters
        ----------
        X : DataFrame or array, optional
            The ``horizon`` rows that follow, needed if there are ``known`` columns; other columns
            may be left out and are not looked at.

        Returns
        -------
        DataFrame of shape (n_series, lookback * n_columns + horizon * n_known)
            Indexed by the origin: the last stamp of fit, (series, origin) for a panel.

        Raises
        ------
        DataError
            If a row of X that ``known`` columns need is missing.
        """
        self._check_fitted()
        panel = self.panel_
        series, origins = np.arange(panel.n_series), panel.lengths.copy()
        out = self._gather(panel, series, origins)[0]
        if self.known_names_:
            ahead = self._known_ahead(X)
            out[:, out.shape[1] - ahead.shape[1] :] = ahead
        times = [panel.time_index(int(i))[-1:] for i in series]
        return pd.DataFrame(
            out, index=panel.join_index(times, series), columns=self.get_feature_names_out()
        )

    def inverse(self, y_pred, index):
        """Bring predictions to the time steps that they are for.

        Parameters
        ----------
        y_pred : array-like of shape (n_windows, horizon * n_targets)
            What a regressor trained on `make_xy` predicts; one-dimensional if there is one value.
        index : Index of shape (n_windows,)
            The windows' origins: the index of the features.

        Returns
        -------
        DataFrame of shape (n_windows * horizon, 2 + n_targets)
            Indexed by the time of the target, (series, time) for a panel; the columns are
            ``origin``, ``step`` (1 to ``horizon``) and one for each target.

        Raises
        ------
        DataError
            If the shapes do not fit together, or an origin lies before the training range.
        """
        self._check_fitted()
        horizon, names = self.horizon, self.target_names_
        values = np.asarray(y_pred, dtype=np.float64)
        if values.size != len(index) * horizon * len(names):
            raise DataError(
                f"{self._owner}: y_pred must have shape ({len(index)}, {horizon * len(names)}): "
                f"one row for each origin in index, horizon * n_targets columns. Got {values.shape}"
            )
        series, origins = self._locate_origins(index)
        span = Span.stored(self.panel_)
        steps = np.arange(1, horizon + 1)
        order, parts, codes = [], [], []
        for i, rows in group_rows(series):
            last = int(origins[rows].max()) + horizon
            times = span.times(i, last + 1)
            parts.append(times[(origins[rows][:, None] + steps).ravel()])
            order.append((rows[:, None] * horizon + steps - 1).ravel())
            codes.append(i)
        place = np.argsort(np.concatenate(order))
        frame = pd.DataFrame(
            values.reshape(-1, len(names)),
            columns=names,
            index=self.panel_.join_index(parts, codes)[place],
        )
        origin = index.get_level_values(-1) if isinstance(index, pd.MultiIndex) else index
        frame.insert(0, "origin", origin[np.repeat(np.arange(len(index)), horizon)])
        frame.insert(1, "step", np.tile(steps, len(index)))
        return frame

    # -- workings ----------------------------------------------------------------------------------

    def _at(self, names: list) -> list[int]:
        return [self.columns_.index(name) for name in names]

    def _pairs(self, X: Any) -> tuple[Span, WindowIndex]:
        """The rows to take windows from, and the windows."""
        self._check_fitted()
        panel, lookback, horizon = self.panel_, self.lookback_, self.horizon
        if X is None:
            span = Span.stored(panel)
            low, high = span.start, panel.lengths
        else:
            X, table, values = self._read(X)
            series, positions = self._rows(table, self._is_training(table, values))
            span = Span.extended(panel, table.keys, series, positions, values, lookback)
            low = np.zeros(panel.n_series, dtype=np.int64)
            high = np.zeros(panel.n_series, dtype=np.int64)
            for i, rows in group_rows(series):
                low[i] = positions[rows].min() - span.start[i]
                high[i] = positions[rows].max() + 1 - span.start[i]
        index = WindowIndex.between(np.maximum(low, lookback), high, horizon, self.stride)
        if not len(index):
            most = int(np.argmax(high))
            raise DataError(
                f"{self._owner}: {panel.label(most)} has {int(high[most])} rows; lookback "
                f"{lookback} "
                f"+ horizon {horizon} needs at least {lookback + horizon}: use a smaller lookback "
                f"or horizon"
                if X is None
                else f"{self._owner}: no window of lookback {lookback} has its {horizon} forecast "
                f"steps in the rows of X: pass more rows, or use a smaller horizon"
            )
        return span, index

    def _gather(
        self, panel: Panel, series: np.ndarray, origins: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of windows, copied: (n, n_features) and (n, horizon * n_targets)."""
        batch = gather(panel, series, origins, self.lookback_, self.horizon)
        n, ahead = len(series), batch.future_targets
        parts = [
            batch.targets.reshape(n, -1),
            ahead[..., self._at(self.known_names_)].reshape(n, -1),
        ]
        features = np.concatenate(parts, axis=1) if self.known_names_ else parts[0]
        return features, ahead[..., self._at(self.target_names_)].reshape(n, -1)

    def _frames(
        self,
        span: Span,
        index: WindowIndex,
        numbers: np.ndarray,
        missing: str,
        view: bool = False,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        series, origins = index[numbers]
        panel = span.panel
        if view and panel.n_series == 1 and not self.known_names_:
            features = strided(panel.targets, self.lookback_, index, -self.lookback_)
            columns = np.ascontiguousarray(panel.targets[:, self._at(self.target_names_)])
            targets = strided(columns, self.horizon, index, 0)
        else:
            features, targets = self._gather(panel, series, origins)
        if missing != "none":
            drop = any_nan(targets)
            if missing == "any":
                drop |= any_nan(features)
            if drop.any():
                features, targets = features[~drop], targets[~drop]
                series, origins = series[~drop], origins[~drop]
        where = span.index(series, origins - 1)
        names = [f"{n}_step{h}" for h in range(1, self.horizon + 1) for n in self.target_names_]
        return (
            pd.DataFrame(features, index=where, columns=self.get_feature_names_out(), copy=False),
            pd.DataFrame(targets, index=where, columns=names, copy=False),
        )

    def _batches(
        self, span: Span, index: WindowIndex, size: int, missing: str, random_state: Any
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        numbers = np.arange(len(index))
        if random_state is not None:
            numbers = np.random.default_rng(random_state).permutation(numbers)
        for start in range(0, len(numbers), size):
            features, targets = self._frames(span, index, numbers[start : start + size], missing)
            if len(features):
                yield features, targets

    def _locate_origins(self, index: pd.Index) -> tuple[np.ndarray, np.ndarray]:
        panel = self.panel_
        if panel.calendar is None:
            return np.zeros(len(index), dtype=np.int64), np.asarray(index, dtype=np.int64)
        table = read_table(self._owner, pd.DataFrame({"origin": np.zeros(len(index))}, index=index))
        whole = replace(panel, absent=None)  # an origin may be a gap
        series, steps = whole.locate(self._owner, table.keys)
        return series, panel.lengths[series] - 1 + steps

    def _known_ahead(self, X: Any) -> np.ndarray:
        """Known columns of the steps after fit, shape (n_series, horizon * n_known)."""
        panel, names = self.panel_, self.known_names_
        if X is None:
            raise DataError(
                f"{self._owner}: future needs X, the {self.horizon} rows that follow with the "
                f"known columns {names}"
            )
        table = read_table(self._owner, X, self.series_id, self.time)
        lacking = [name for name in as_list(names) if name not in table.frame.columns]
        if lacking:
            raise DataError(f"{self._owner}: known column {lacking[0]!r} is missing from X")
        values = numeric(self._owner, table.frame[names], names)
        series, positions = self._rows(table, training=False)
        steps = positions - panel.lengths[series]
        ahead = np.full((panel.n_series, self.horizon, len(names)), np.nan, panel.targets.dtype)
        given = np.zeros((panel.n_series, self.horizon), dtype=bool)
        use = (steps >= 0) & (steps < self.horizon)
        ahead[series[use], steps[use]] = values[use]
        given[series[use], steps[use]] = True
        if not given.all():
            i, step = np.argwhere(~given)[0]
            raise DataError(
                f"{self._owner}: {panel.label(int(i))}: X has no row for step {step + 1} of "
                f"{self.horizon} ({panel.future_index(int(i), int(step) + 1)[-1]}), which the "
                f"known columns {names} need"
            )
        return ahead.reshape(panel.n_series, -1)
