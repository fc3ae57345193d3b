"""Windows as a transformer, so that any scikit-learn regressor can forecast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data.frames import Table, numeric, read_table
from rnnforecast.data.panel import Panel
from rnnforecast.data.reading import Rows, future_known
from rnnforecast.data.roles import resolve_roles
from rnnforecast.data.seasonality import choose_lookback, choose_seasonality
from rnnforecast.data.windows import WindowIndex, gather
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator
from rnnforecast.transformers._base import SteppedTransformer

__all__ = ["SlidingWindows"]


@estimator
class SlidingWindows(SteppedTransformer):
    """Windows of the past as features, and the steps that follow as targets.

    Parameters
    ----------
    lookback : int, optional
        Steps in a window. None: from the season, the horizon and the length of the series by
        `rnnforecast.data.seasonality.choose_lookback`, as for the networks.
    horizon : int, default=1
        Steps to forecast from a window.
    target : str or list of str, optional
        Columns to forecast (positions, for arrays). Default: all that are not ``known``.
    known : str or list of str, optional
        Columns whose values at the forecast steps are known beforehand; these are features too.
    stride : int, default=1
        Steps between the windows of `make_xy` and `batches`.

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
    a_step2``. `rnnforecast.WindowScaler` reads the same layout.

    *Time.* `transform` gives the window that ends with each row, looking back on the values seen in
    fit. A row missing from a regular grid is an unobserved step, NaN in the windows, as are the
    steps before the first row of a series.

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

    lookback: int | None = None
    horizon: int = 1
    target: Any = None
    known: Any = None
    stride: int = 1

    def _fit(self, table: Table, values: np.ndarray) -> None:
        check_int(self._owner, "lookback", self.lookback, none=True)
        check_int(self._owner, "horizon", self.horizon)
        check_int(self._owner, "stride", self.stride)
        roles = resolve_roles(self._owner, table, None, self.target, self.known, None)
        self.target_names_, self.known_names_ = roles.targets, roles.known
        super()._fit(table, values)
        chosen, panel = self.lookback, self.panel_
        if chosen is None:
            chosen = choose_lookback(panel, self.horizon, choose_seasonality(panel))
        self.lookback_ = int(chosen)

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        panel, series, positions = self._extend(table, values)
        out, _ = self._gather(panel, series, positions + 1)
        width = self.lookback_ * len(self.columns_)
        out[:, width - len(self.columns_) : width] = values
        return out

    def _wrap(self, X: Any, table: Table, values: np.ndarray) -> Any:
        return values  # windows have columns of their own

    def get_feature_names_out(self, input_features=None):
        self._check_fitted()
        names = super().get_feature_names_out(input_features)[self._places]
        known = names[self._at(self.known_names_)]
        past = [f"{name}_lag{lag}" for lag in range(self.lookback_ - 1, -1, -1) for name in names]
        ahead = [f"{name}_lead{step}" for step in range(1, self.horizon + 1) for name in known]
        return np.asarray([*past, *ahead], dtype=object)

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
        return self._frames(*self._pairs(X, missing))

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
        panel, series, origins = self._pairs(X, missing)
        order = np.arange(len(series))
        if random_state is not None:
            order = np.random.default_rng(random_state).permutation(order)
        parts = (order[i : i + batch_size] for i in range(0, len(order), batch_size))
        return (self._frames(panel, series[part], origins[part]) for part in parts)

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
        series, origins = np.arange(self.panel_.n_series), self.panel_.lengths
        panel = self._known_ahead(X) if self.known_names_ else self.panel_
        out, _ = self._gather(panel, series, origins)
        index = panel.index_at(series, origins - 1)
        return pd.DataFrame(out, index=index, columns=self.get_feature_names_out())

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
        panel, steps = self.panel_, np.arange(1, horizon + 1)
        if panel.calendar is None:
            series, origins = np.zeros(len(index), dtype=np.int64), np.asarray(index, dtype=int)
        else:
            keys = read_table(self._owner, pd.DataFrame(index=index), index_only=True).keys
            whole = replace(panel, absent=None)  # an origin may be a gap
            series, ahead = whole.locate(self._owner, keys)
            origins = panel.lengths[series] - 1 + ahead
        positions = (origins[:, None] + steps).ravel()
        times = panel.index_at(np.repeat(series, horizon), positions)
        frame = pd.DataFrame(values.reshape(-1, len(names)), columns=names, index=times)
        origin = index.get_level_values(-1) if isinstance(index, pd.MultiIndex) else index
        frame.insert(0, "origin", origin[np.repeat(np.arange(len(index)), horizon)])
        frame.insert(1, "step", np.tile(steps, len(index)))
        return frame

    # -- workings ----------------------------------------------------------------------------------

    def _at(self, names: list) -> list[int]:
        return [self.columns_.index(name) for name in names]

    def _pairs(self, X: Any, missing: str) -> tuple[Panel, np.ndarray, np.ndarray]:
        """Rows to take windows from, and the series and the origin of each window."""
        self._check_fitted()
        check_choice(self._owner, "missing", missing, ["targets", "any", "none"])
        panel, lookback, horizon = self.panel_, self.lookback_, self.horizon
        low, high = np.zeros_like(panel.lengths), panel.lengths
        if X is not None:
            _, table, values = self._read(X, reset=False)
            panel, series, positions = self._extend(table, values)
            low, high = np.full_like(low, 1 << 62), low
            np.minimum.at(low, series, positions)
            np.maximum.at(high, series, positions + 1)
        windows = WindowIndex.between(np.maximum(low, lookback), high, horizon, self.stride)
        if not len(windows):
            most = int(np.argmax(high))
            raise DataError(
                f"{self._owner}: {panel.label(most)} has {int(high[most])} rows; lookback "
                f"{lookback} + horizon {horizon} needs at least {lookback + horizon}: use a "
                f"smaller lookback or horizon"
                if X is None
                else f"{self._owner}: no window of lookback {lookback} has its {horizon} forecast "
                f"steps in the rows of X: pass more rows, or use a smaller horizon"
            )
        series, origins = windows[np.arange(len(windows))]
        wanted = [] if missing == "none" else [(self.target_names_, 0, horizon)]
        if missing == "any":
            wanted += [(self.columns_, -lookback, 0), (self.known_names_, 0, horizon)]
        rows, keep = panel.indptr[series] + origins, np.ones(len(series), dtype=bool)
        for names, first, end in wanted:
            gaps = np.isnan(panel.targets[:, self._at(names)]).any(axis=1)
            before = np.concatenate([[0], np.cumsum(gaps)])
            keep &= before[rows + end] == before[rows + first]
        return panel, series[keep], origins[keep]

    def _frames(
        self, panel: Panel, series: np.ndarray, origins: np.ndarray
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and targets; views of the rows of ``panel`` where there can be."""
        even = len(series) > 0 and (np.diff(origins) == self.stride).all()
        if even and panel.n_series == 1 and not self.known_names_:
            first = int(origins[0])
            columns = panel.targets[first:, self._at(self.target_names_)]
            past = panel.targets[first - self.lookback_ :]
            features = _strided(past, self.lookback_, self.stride)[: len(series)]
            targets = _strided(columns, self.horizon, self.stride)[: len(series)]
        else:
            features, targets = self._gather(panel, series, origins)
        index = panel.index_at(series, origins - 1)
        names = [f"{n}_step{h}" for h in range(1, self.horizon + 1) for n in self.target_names_]
        return (
            pd.DataFrame(features, index=index, columns=self.get_feature_names_out(), copy=False),
            pd.DataFrame(targets, index=index, columns=names, copy=False),
        )

    def _gather(
        self, panel: Panel, series: np.ndarray, origins: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of windows, copied: (n, n_features) and (n, horizon * n_targets)."""
        batch = gather(panel, series, origins, self.lookback_, self.horizon)
        features, ahead = _flat(batch.targets), batch.future_targets
        if self.known_names_:
            features = np.hstack([features, _flat(ahead[..., self._at(self.known_names_)])])
        return features, _flat(ahead[..., self._at(self.target_names_)])

    def _known_ahead(self, X: Any) -> Panel:
        """The rows of fit, and behind them the known columns of the steps to forecast."""
        panel, names, horizon = self.panel_, self.known_names_, self.horizon
        rows = None
        if X is not None:
            table = read_table(self._owner, X, self.series_id, self.time)
            lacking = [name for name in names if name not in table.frame.columns]
            if lacking:
                raise DataError(f"{self._owner}: known column {lacking[0]!r} is missing from X")
            values = numeric(self._owner, table.frame[names], names)
            rows = Rows(*panel.locate(self._owner, table.keys), values)
        known = future_known(self._owner, panel, names, rows, horizon)
        shape = (horizon, panel.n_series, len(self.columns_))
        ahead = np.full(shape, np.nan, panel.targets.dtype)
        ahead[..., self._at(names)] = known.transpose(1, 0, 2)
        return panel.grown(ahead, ahead[..., :0], ahead[..., :0])


def _flat(windows: np.ndarray) -> np.ndarray:
    return windows.reshape(len(windows), windows.shape[1] * windows.shape[2])


def _strided(values: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Windows as a read-only view, flattened time by time: (n_windows, length * n_columns)."""
    flat, width = np.ascontiguousarray(values).reshape(-1), values.shape[1]
    return np.lib.stride_tricks.sliding_window_view(flat, length * width)[:: width * stride]
