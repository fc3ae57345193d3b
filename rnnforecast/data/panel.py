"""The one container of the library: all series in flat arrays.

Series i stands at rows ``indptr[i]:indptr[i + 1]``. A value that was not observed is NaN, which is
the mask: one array holds both, and every window carries its mask from ``~isnan``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data._stamps import nanoseconds
from rnnforecast.data.appending import append_arrays, append_rows
from rnnforecast.data.calendar import Calendar
from rnnforecast.data.frames import Keys, Table, group_rows
from rnnforecast.data.grid import constant_rows, lay_out, steps_of_rows
from rnnforecast.data.roles import Column
from rnnforecast.exceptions import DataError

__all__ = ["Panel", "group_rows"]


@dataclass(frozen=True)
class Panel:
    """Targets and covariates of one or more series on one kind of calendar.

    Attributes
    ----------
    targets : ndarray, shape (n_rows, n_targets)
        float32 or float64; NaN where unobserved.
    past : ndarray, shape (n_rows, n_past)
        Covariates known up to now only.
    known : ndarray, shape (n_rows, n_known)
        Covariates known in the future too.
    static : ndarray, shape (n_series, n_static)
    indptr : ndarray of int64, shape (n_series + 1,)
    ids : Index, shape (n_series,)
        Names of the series.
    names : tuple
        Names of the index levels: those of the series, then that of the time.
    is_panel : bool
        False for one series without a name.
    calendar : Calendar or None
        None for arrays: rows are counted.
    starts : Index or None, shape (n_series,)
        Stamp of each series' first row.
    stamps : Index or None, shape (n_rows,)
        Stamps of the rows where these are their own grid; None on a regular calendar.
    absent : ndarray of bool, shape (n_rows,), or None
        Rows that the input did not have: gaps in a regular grid. None if there are none.
    columns : tuple of Column
        What the columns are: targets, then past, known and static ones, in the arrays' order.
    """

    targets: np.ndarray
    past: np.ndarray
    known: np.ndarray
    static: np.ndarray
    indptr: np.ndarray
    ids: pd.Index
    names: tuple
    is_panel: bool
    calendar: Calendar | None = None
    starts: pd.Index | None = None
    stamps: pd.Index | None = None
    absent: np.ndarray | None = None
    columns: tuple[Column, ...] = ()

    @classmethod
    def build(
        cls,
        owner: str,
        keys: Keys,
        targets: np.ndarray,
        past: np.ndarray,
        known: np.ndarray,
        static_rows: np.ndarray,
        freq: Any = None,
        columns: tuple[Column, ...] = (),
        calendar: Calendar | None = None,
    ) -> Panel:
        """Put rows on the grid of their calendar.

        Parameters
        ----------
        owner : str
            Name of the estimator, for messages.
        keys : Keys
            Series and stamp of each row.
        targets, past, known, static_rows : ndarray, shape (n_rows, n_columns)
            ``static_rows`` must be constant within each series.
        freq : str, DateOffset or int, optional
            Frequency; inferred from the longest series if None.
        columns : tuple of Column
            What the arrays hold.
        calendar : Calendar, optional
            That of an earlier fit, to use again.

        Returns
        -------
        Panel
            Views of the arrays passed, where no row had to move.

        Raises
        ------
        DataError
            If stamps are unsorted, repeated or off the grid, or a static column varies within a
            series.
        """
        layout = lay_out(owner, keys, freq, calendar)
        in_order = (layout.series == np.arange(len(keys.ids))).all()
        return cls(
            targets=layout.rows(targets),
            past=layout.rows(past),
            known=layout.rows(known),
            static=constant_rows(owner, static_rows, layout, keys, columns),
            indptr=layout.indptr,
            ids=keys.ids if in_order else keys.ids[layout.series],
            names=keys.names,
            is_panel=keys.series is not None,
            calendar=layout.calendar,
            starts=layout.starts,
            stamps=layout.stamps,
            absent=layout.absent(),
            columns=columns,
        )

    @property
    def n_series(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each series, shape (n_series,)."""
        return np.diff(self.indptr)

    @property
    def mask(self) -> np.ndarray:
        """True where a target was observed, shape (n_rows, n_targets)."""
        return ~np.isnan(self.targets)

    def levels(self, role: str) -> tuple[int, ...]:
        """Number of categories of each column of a role, 0 for numbers."""
        return tuple(len(column.categories) for column in self.columns if column.role == role)

    def series(self, i: int) -> slice:
        """Rows of series i."""
        return slice(int(self.indptr[i]), int(self.indptr[i + 1]))

    def label(self, i: int) -> str:
        """How messages name series i."""
        return f"series {self.ids[[i]].tolist()[0]!r}" if self.is_panel else "the series"

    def observed(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Whether a target has a value at positions low[i] <= p < high[i] of each series.

        Returns
        -------
        ndarray of bool, shape (n_series, n_targets)
        """
        edges = (self.indptr[:-1, None] + np.stack([low, np.maximum(low, high)], axis=1)).ravel()
        none = np.zeros((1, self.targets.shape[1]), dtype=bool)  # where the last series ends
        seen = np.logical_or.reduceat(np.concatenate([self.mask, none]), edges)[::2]
        return seen & (edges[::2] < edges[1::2])[:, None]  # of no rows reduceat gives the next

    def observed_only(self, held: np.ndarray) -> np.ndarray:
        """Rows held out at the end of each series, ``held: (n_series,)``; 0 where none of them was
        observed: such rows tell nothing, and their loss would be zero, the best there is.
        """
        return np.where(self.observed(self.lengths - held, self.lengths).any(1), held, 0)

    def owned(self) -> Panel:
        """The same panel with arrays of its own, in row order, safe from the caller's later
        writes.
        """
        return replace(
            self,
            targets=np.array(self.targets, order="C"),
            past=np.array(self.past, order="C"),
            known=np.array(self.known, order="C"),
            static=np.array(self.static, order="C"),
        )

    # -- a memo --------------------------------------------------------------------------------

    @cached_property
    def _memo(self) -> tuple[threading.RLock, dict]:
        return threading.RLock(), {}

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave on this very object for an equal key; pickles leave it out.

        ``key`` holds everything else that ``make`` depends on. Threads wait for each other.
        """
        lock, memo = self._memo
        with lock:
            if key not in memo:
                memo[key] = make()
            return memo[key]

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_memo"}

    # -- time stamps -------------------------------------------------------------------------------

    def stamps_at(self, series: np.ndarray, positions: np.ndarray) -> pd.Index:
        """Stamp of row ``positions[k]`` of series ``series[k]``, shape (n,); rows go on beyond the
        last.
        """
        codes, stamps = self._coded_stamps(series, positions)
        return stamps.take(codes)

    def _coded_stamps(self, series: Any, positions: Any) -> tuple[np.ndarray, pd.Index]:
        """Sorted distinct stamps of rows, and which of them is whose."""
        series, positions = np.asarray(series), np.asarray(positions)
        if self.calendar is None:
            codes, unique = pd.factorize(positions, sort=True)
            return codes, pd.Index(unique, name=self.names[-1])
        assert self.starts is not None
        if not len(series):
            return np.zeros(0, dtype=np.int64), self._as_given(self.starts[:0])
        origins = self.starts
        if self.stamps is not None:  # rows by their number, those to come by steps from the last
            last = self.lengths[series] - 1
            origins, series = self.stamps, self.indptr[series] + np.minimum(positions, last)
            positions = np.maximum(positions - last, 0)
        if len(series) < len(origins):
            origins, series = origins.take(series), np.arange(len(series))
        # distinct pairs of origin and position are few beside the rows
        begin, origins = pd.factorize(origins)
        width = int(positions.max()) + 1
        pair = begin[series].astype(np.int64) * width + positions
        if len(origins) * width <= 4 * len(pair) + 1000:
            there = np.zeros(len(origins) * width, dtype=bool)
            there[pair] = True
            distinct, place = np.flatnonzero(there), (np.cumsum(there) - 1)[pair]
        else:
            place, distinct = pd.factorize(pair)
        origin, steps = np.divmod(distinct, width)
        stamps = origins.take(origin)
        ahead = steps > 0
        if ahead.all():
            stamps = self._as_given(self.calendar.shift(stamps, steps))
        elif ahead.any():
            later = self._as_given(self.calendar.shift(stamps[ahead], steps[ahead]))
            both = self._as_given(stamps[~ahead]).append(later)
            stamps = both.take(np.argsort(np.argsort(ahead, kind="stable"), kind="stable"))
        codes, stamps = pd.factorize(self._as_given(stamps), sort=True)
        return codes[place], stamps.rename(self.names[-1])

    def _as_given(self, index: pd.Index) -> pd.Index:
        """Stamps of a calendar with the name and the resolution of those of fit."""
        if isinstance(index, pd.DatetimeIndex) and isinstance(self.starts, pd.DatetimeIndex):
            index = index.as_unit(self.starts.unit)
        return index.rename(self.names[-1])

    def lasts(self) -> pd.Index:
        """Stamp of each series' last row, shape (n_series,)."""

        def make():
            if self.stamps is not None:
                return self.stamps[self.indptr[1:] - 1]
            return self.stamps_at(np.arange(self.n_series), self.lengths - 1)

        return self.cached("lasts", make)

    def last(self, i: int) -> Any:
        """Stamp of series i's last row."""
        return self.lasts()[i]

    def time_index(self, i: int) -> pd.Index:
        """Stamps of series i's rows."""
        n = int(self.lengths[i])
        if self.calendar is None:
            return pd.RangeIndex(n)
        if self.stamps is not None:
            return self.stamps[self.series(i)]
        assert self.starts is not None
        later = self.calendar.after(self.starts[i], n - 1)
        return self._as_given(later.insert(0, self.starts[i]) if n > 1 else self.starts[[i]])

    def future_index(self, i: int, n: int) -> pd.Index:
        """The ``n`` stamps after series i's last row."""
        if self.calendar is None:
            end = int(self.lengths[i])
            return pd.RangeIndex(end, end + n)
        return self._as_given(self.calendar.after(self.last(i), n))

    def index_at(self, series: np.ndarray, positions: np.ndarray) -> pd.Index:
        """Index of rows: their stamps, or (series, stamp) for a panel."""
        codes, stamps = self._coded_stamps(series, positions)
        if not self.is_panel:
            return stamps.take(codes)
        levels, level_codes = [], []
        for k in range(self.ids.nlevels):
            own, names = pd.factorize(self.ids.get_level_values(k), sort=True)
            levels.append(names)
            level_codes.append(own[series])
        return pd.MultiIndex(
            [*levels, stamps], [*level_codes, codes], names=self.names, verify_integrity=False
        )

    def row_index(self) -> pd.Index:
        """Index of all rows: time, or (series, time) for a panel."""
        if not self.is_panel:
            return self.time_index(0)
        series = np.repeat(np.arange(self.n_series), self.lengths)
        return self.index_at(series, np.arange(len(series)) - self.indptr[series])

    def future_frame_index(self, n_steps: int) -> pd.Index:
        """Index of the next ``n_steps`` rows of every series, series by series."""
        if not self.is_panel:
            return self.future_index(0, n_steps)
        series = np.repeat(np.arange(self.n_series), n_steps)
        ahead = np.tile(np.arange(n_steps), self.n_series)
        return self.index_at(series, self.lengths[series] + ahead)

    def join_index(self, parts: list[pd.Index], series: Any) -> pd.Index:
        """One index from the stamps of several series: time, or (series, time) for a panel."""
        if not self.is_panel:
            return parts[0]
        ids = self.ids[np.repeat(np.asarray(series), [len(part) for part in parts])]
        time = parts[0].append(parts[1:]) if len(parts) > 1 else parts[0]
        arrays = [ids.get_level_values(level) for level in range(ids.nlevels)]
        return pd.MultiIndex.from_arrays([*arrays, time], names=list(self.names))

    def history(self, columns: list) -> pd.DataFrame:
        """The observed rows of the targets as a frame."""
        values = self.targets.astype(np.float64)
        frame = pd.DataFrame(values, index=self.row_index(), columns=columns)
        return frame if self.absent is None else frame[~self.absent]

    # -- where rows are ----------------------------------------------------------------------------

    def locate(self, owner: str, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
        """Series and step of each row.

        Returns
        -------
        series : ndarray of int64, shape (n_rows,)
        steps : ndarray of int64, shape (n_rows,)
            1 is the first step after the series' last row, 0 the last row itself, -1 the one before
            it. Rows without time stamps follow on.

        Raises
        ------
        DataError
            If a series is unknown, or a row lies before the first row, in a gap, or off the grid.
        """
        place = self.match(owner, keys)
        if (place < 0).any():
            raise DataError(
                f"{owner}: {keys.label(int(np.argmax(place < 0)))} was not in the data passed to "
                f"fit: fit on it first"
            )
        codes = np.zeros(keys.n_rows, dtype=np.int64) if keys.series is None else keys.series
        series = place[codes]
        if keys.levels is None or self.calendar is None:
            return series, pd.Series(series).groupby(series).cumcount().to_numpy() + 1
        keys = self.same_kind(owner, keys)
        if self.stamps is not None:
            return series, self._steps_of_own(owner, keys, series)
        assert self.starts is not None
        every = slice(None)
        positions = steps_of_rows(owner, self.calendar, self.starts, place, keys, every)
        self._check_before(owner, series, keys, positions < 0)
        inside = positions < self.lengths[series]
        if self.absent is not None:
            rows = self.indptr[series] + np.where(inside, positions, 0)
            self._check_gap(owner, series, keys, inside & self.absent[rows])
        return series, positions - (self.lengths[series] - 1)

    def match(self, owner: str, keys: Keys) -> np.ndarray:
        """Position here of each of the input's series; -1 for one that is new."""
        if not self.is_panel:
            if len(keys.ids) > 1:
                raise DataError(f"{owner}: fitted on one series, got {len(keys.ids)} in X")
            return np.zeros(1, dtype=np.int64)
        if keys.series is None:
            raise DataError(
                f"{owner}: fitted on a panel, but X names no series: give it a MultiIndex "
                f"(series, time), or the columns of series_id= and time="
            )
        return self.ids.get_indexer(keys.ids).astype(np.int64)

    def same_kind(self, owner: str, keys: Keys) -> Keys:
        """Refuse or convert stamps of another kind or time zone than the fitted ones."""
        assert self.starts is not None and keys.levels is not None
        fitted, stamps = self.starts, keys.levels
        if isinstance(fitted, pd.DatetimeIndex) and isinstance(stamps, pd.DatetimeIndex):
            if (fitted.tz is None) != (stamps.tz is None):
                raise DataError(
                    f"{owner}: time stamps with a time zone and without cannot be compared: fitted "
                    f"on {fitted.dtype}, got {stamps.dtype}: use tz_localize or tz_convert"
                )
            return keys if fitted.tz is None else replace(keys, levels=stamps.tz_convert(fitted.tz))
        kinds = (pd.DatetimeIndex, pd.PeriodIndex)
        same = [isinstance(fitted, kind) == isinstance(stamps, kind) for kind in kinds]
        # ordinals of months and of days cannot be compared
        periods = isinstance(fitted, pd.PeriodIndex) and isinstance(stamps, pd.PeriodIndex)
        if not all(same) or (periods and fitted.freq.base != stamps.freq.base):
            raise DataError(
                f"{owner}: the index of X must be of the kind seen in fit. Expected "
                f"{fitted.dtype}, got {stamps.dtype}"
            )
        return keys

    def _steps_of_own(self, owner: str, keys: Keys, series: np.ndarray) -> np.ndarray:
        """Steps of rows where the stamps seen are the grid."""
        assert self.calendar is not None and self.stamps is not None
        stamps = keys.stamps(slice(None))
        wanted, own = nanoseconds(stamps), nanoseconds(self.stamps)
        first, end = self.indptr[series], self.indptr[series + 1]
        before = wanted < own[first]
        self._check_before(owner, series, keys, before)
        at = _search(own, first, end, wanted)
        later = at == end
        found = own[np.where(later, first, at)] == wanted
        self._check_gap(owner, series, keys, ~later & ~found & (at > first))
        steps = at - (end - 1) - before
        if later.any():
            lasts = self.lasts()[series[later]]
            steps[later] = self.calendar.steps(lasts, stamps[later])
        return steps

    def _check_before(self, owner: str, series: np.ndarray, keys: Keys, bad: np.ndarray) -> None:
        if bad.any():
            assert self.starts is not None
            row = int(np.argmax(bad))
            i = int(series[row])
            raise DataError(
                f"{owner}: {self.label(i)}: row {keys.stamps([row])[0]} lies before the training "
                f"range, which starts at {self.starts[i]}: a forecaster needs earlier rows to fit. "
                f"In cross-validation use TimeSeriesSplit (or PanelTimeSeriesSplit), not KFold"
            )

    def _check_gap(self, owner: str, series: np.ndarray, keys: Keys, bad: np.ndarray) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{owner}: {self.label(int(series[row]))}: row {keys.stamps([row])[0]} lies inside "
                f"the training range but was not among the rows of fit, so that later rows would "
                f"forecast earlier ones. In cross-validation use TimeSeriesSplit (or "
                f"PanelTimeSeriesSplit), not KFold"
            )

    # -- more rows ---------------------------------------------------------------------------------

    def grown(self, targets: np.ndarray, past: np.ndarray, known: np.ndarray) -> Panel:
        """The panel with the next rows of every series.

        Parameters
        ----------
        targets, past, known : ndarray, shape (n_rows, n_series, n_columns)
        """
        return append_arrays(self, targets, past, known)

    def append(self, owner: str, table: Table, targets: np.ndarray | None = None) -> Panel:
        """The panel with the rows of ``table`` after its own; new series stand after the old ones.

        Rows of old series come after their last one, with NaN rows between where steps are left
        out; rows without time stamps follow on.

        Parameters
        ----------
        owner : str
            For messages.
        table : Table
            With the columns of this panel; static ones are looked at for new series only.
        targets : ndarray, shape (n_rows, n_targets), optional
            Read from the table if None.

        Raises
        ------
        DataError
            If a row is not after the last one of its series, stamps are unsorted, repeated or off
            the grid, or columns are missing.
        """
        return append_rows(self, owner, table, targets)


def _search(values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray):
    """First row of the sorted ``values[low[k]:high[k]]`` that is not below ``wanted[k]``."""
    while (some := low < high).any():
        middle = (low + high) // 2
        below = some & (values[np.where(some, middle, 0)] < wanted)
        low, high = np.where(below, middle + 1, low), np.where(some & ~below, middle, high)
    return low
