"""The one container of the library: all series in flat arrays.

Series i stands at rows ``indptr[i]:indptr[i + 1]``. A value that was not observed is NaN, which is
the mask: one array holds both, and every window carries its mask from ``~isnan``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data.calendar import Calendar
from rnnforecast.data.frames import Keys
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
    _memory: dict = field(default_factory=dict, compare=False, repr=False)

    def cached(self, key, make):
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

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

    def series(self, i: int) -> slice:
        """Rows of series i."""
        return slice(int(self.indptr[i]), int(self.indptr[i + 1]))

    def label(self, i: int) -> str:
        """How messages name series i."""
        return f"series {self.ids[[i]].tolist()[0]!r}" if self.is_panel else "the series"

    def time_index(self, i: int) -> pd.Index:
        """Stamps of series i's rows."""
        n = int(self.lengths[i])
        if self.calendar is None:
            return pd.RangeIndex(n)
        if self.stamps is not None:
            return self.stamps[self.series(i)]
        assert self.starts is not None
        start = self.starts[i]
        later = self.calendar.after(start, n - 1)
        index = later.insert(0, start) if n > 1 else self.starts[[i]]
        return self._as_given(index)

    def last(self, i: int) -> Any:
        """Stamp of series i's last row."""
        if self.stamps is not None:
            return self.stamps[int(self.indptr[i + 1]) - 1]
        later = int(self.indptr[i + 1] - self.indptr[i]) - 1
        if self.calendar is None:
            return later
        assert self.starts is not None
        last = self.calendar.at(self.starts[i], later)
        return last.as_unit(self.starts.unit) if isinstance(last, pd.Timestamp) else last

    def each(self, of: Callable[[int], Any]) -> list:
        """``of(i)`` for every series; computed once for those that start and end together.

        ``of`` may depend on the time stamps of series i alone. Thousands of series mostly share
        their calendar's stretch, and an index of stamps costs a millisecond.
        """
        if self.stamps is not None or self.n_series == 1:
            return [of(i) for i in range(self.n_series)]
        keys = self.lengths
        if self.starts is not None:
            codes, unique = pd.factorize(self.starts)
            keys = keys * len(unique) + codes
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        found = [of(int(i)) for i in first]
        return [found[k] for k in place]

    def future_index(self, i: int, n: int) -> pd.Index:
        """The ``n`` stamps after series i's last row."""
        if self.calendar is None:
            end = int(self.lengths[i])
            return pd.RangeIndex(end, end + n)
        return self._as_given(self.calendar.after(self.last(i), n))

    def _as_given(self, index: pd.Index) -> pd.Index:
        """Stamps of a calendar with the name and the resolution of those of fit."""
        if isinstance(index, pd.DatetimeIndex) and isinstance(self.starts, pd.DatetimeIndex):
            index = index.as_unit(self.starts.unit)
        return index.rename(self.names[-1])

    def join_index(self, parts: list[pd.Index], series: Any) -> pd.Index:
        """One index from the stamps of several series: time, or (series, time) for a panel."""
        if not self.is_panel:
            return parts[0]
        if not isinstance(self.ids, pd.MultiIndex) and all(p is parts[0] for p in parts):
            levels = [self.ids[np.asarray(series)], parts[0]]
            return pd.MultiIndex.from_product(levels, names=list(self.names))
        lengths = [len(part) for part in parts]
        ids = self.ids[np.repeat(np.asarray(series), lengths)]
        time = parts[0].append(parts[1:]) if len(parts) > 1 else parts[0]
        arrays = [ids.get_level_values(level) for level in range(ids.nlevels)]
        return pd.MultiIndex.from_arrays([*arrays, time], names=list(self.names))

    def row_index(self) -> pd.Index:
        """The time stamp, or (series, time), of every row."""
        return self.join_index(self.each(self.time_index), range(self.n_series))

    def history(self, columns: list) -> pd.DataFrame:
        """The observed rows of the targets as a frame."""
        parts = self.each(self.time_index)
        frame = pd.DataFrame(
            self.targets.astype(np.float64),
            index=self.join_index(parts, range(self.n_series)),
            columns=columns,
        )
        return frame if self.absent is None else frame[~self.absent]

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

    def observed_only(self, held: np.ndarray) -> np.ndarray:
        """Rows held out at the end of each series; 0 where none of them was observed: such rows tell
        nothing, and their loss would be zero, the best there is.
        """
        seen = np.append(~np.isnan(self.targets).all(axis=1), False)
        count = np.zeros(self.n_series, dtype=np.int64)
        some = np.flatnonzero(held)
        if len(some):
            ends = self.indptr[some + 1]
            bounds = np.column_stack([ends - held[some], ends]).ravel()
            count[some] = np.add.reduceat(seen, bounds, dtype=np.int64)[::2]
        return np.where(count > 0, held, 0)

    def lasts(self) -> pd.Index:
        """Stamp of the last row of every series, shape (n_series,)."""
        return pd.Index([self.last(i) for i in range(self.n_series)])

    def padded(self, lengths: np.ndarray) -> Panel:
        """Series that end later, with rows that were not observed."""
        new = replace(self, _memory={})
        return new._spread(np.asarray(lengths))

    def grown(self, targets: np.ndarray, past: np.ndarray, known: np.ndarray) -> Panel:
        """The next rows of every series, ``(n_rows, n_series, n_columns)`` each."""
        n = len(targets)
        panel = self._spread(self.lengths + n)
        at = (panel.indptr[1:] - n)[:, None] + np.arange(n)
        for array, rows in ((panel.targets, targets), (panel.past, past), (panel.known, known)):
            array[at] = rows.transpose(1, 0, 2)
        if panel.absent is not None:
            panel.absent[at] = False
            if not panel.absent.any():
                panel = replace(panel, absent=None, _memory={})
        return panel

    def _spread(self, lengths: np.ndarray) -> Panel:
        """Room for more rows at the end of every series, absent until they are given."""
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        n = int(indptr[-1])
        at = np.arange(len(self.targets)) + np.repeat(indptr[:-1] - self.indptr[:-1], self.lengths)

        def room(array: np.ndarray) -> np.ndarray:
            dtype = np.result_type(array, np.float64) if array.shape[1] else array.dtype
            out = np.full((n, array.shape[1]), np.nan, dtype=dtype)
            out[at] = array
            return out

        absent = np.ones(n, dtype=bool)
        absent[at] = False if self.absent is None else self.absent
        stamps = None
        if self.stamps is not None:
            parts = []
            for i in range(self.n_series):
                parts.append(self.time_index(i))
                more = int(lengths[i] - self.lengths[i])
                if more:
                    parts.append(self.future_index(i, more))
            stamps = parts[0].append(parts[1:])
        return replace(
            self,
            targets=room(self.targets),
            past=room(self.past),
            known=room(self.known),
            indptr=indptr,
            stamps=stamps,
            absent=absent,
            _memory={},
        )

    # -- where rows are ----------------------------------------------------------------------------

    def locate(self, owner: str, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
        """Series and step of each row.

        Returns
        -------
        series : ndarray of int64, shape (n_rows,)
        steps : ndarray of int64, shape (n_rows,)
            1 is the first step after the series' last row, 0 the last row itself, -1 the one before
            it.

        Raises
        ------
        DataError
            If a series is unknown, or a row lies before the first row, in a gap, or off the grid.
        """
        series = self._match_series(owner, keys)
        steps = np.empty(len(series), dtype=np.int64)
        for i, rows in group_rows(series):
            if keys.levels is None or self.calendar is None:
                steps[rows] = np.arange(1, len(rows) + 1)
            else:
                stamps = self._same_kind(owner, keys.stamps(rows))
                steps[rows] = self._steps(owner, i, stamps)
        return series, steps

    def _match_series(self, owner: str, keys: Keys) -> np.ndarray:
        n = keys.n_rows
        if not self.is_panel:
            if keys.series is not None and len(keys.ids) > 1:
                raise DataError(f"{owner}: fitted on one series, got {len(keys.ids)} in X")
            return np.zeros(n, dtype=np.int64)
        if keys.series is None:
            raise DataError(
                f"{owner}: fitted on a panel, but X names no series: give it a MultiIndex "
                f"(series, time), "
                f"or the columns of series_id= and time="
            )
        found = self.ids.get_indexer(keys.ids)
        if (found < 0).any():
            raise DataError(
                f"{owner}: {keys.label(int(np.argmax(found < 0)))} was not in the data passed to "
                f"fit: fit on it first"
            )
        return found[keys.series].astype(np.int64)

    def _same_kind(self, owner: str, stamps: pd.Index) -> pd.Index:
        """Refuse or convert stamps of another kind or time zone than the fitted ones."""
        assert self.starts is not None
        fitted = self.starts
        both_dates = isinstance(fitted, pd.DatetimeIndex) and isinstance(stamps, pd.DatetimeIndex)
        if both_dates:
            if (fitted.tz is None) != (stamps.tz is None):
                raise DataError(
                    f"{owner}: time stamps with a time zone and without cannot be compared: "
                    f"fitted on "
                    f"{fitted.dtype}, got {stamps.dtype}: use tz_localize or tz_convert"
                )
            return stamps if fitted.tz is None else stamps.tz_convert(fitted.tz)
        periods = [isinstance(index, pd.PeriodIndex) for index in (fitted, stamps)]
        differ = periods[0] != periods[1] or isinstance(fitted, pd.DatetimeIndex) != isinstance(
            stamps, pd.DatetimeIndex
        )
        # ordinals of months and of days cannot be compared
        if differ or (all(periods) and fitted.freq.base != stamps.freq.base):
            raise DataError(
                f"{owner}: the index of X must be of the kind seen in fit. Expected "
                f"{fitted.dtype}, got "
                f"{stamps.dtype}"
            )
        return stamps

    def _steps(self, owner: str, i: int, stamps: pd.Index) -> np.ndarray:
        assert self.calendar is not None and self.starts is not None
        n = int(self.lengths[i])
        if self.stamps is None:
            positions = self.calendar.steps(self.starts[i], stamps)
            self._check_before(owner, i, stamps, positions < 0)
            if self.absent is not None:
                inside = np.flatnonzero(positions < n)
                gap = self.absent[self.series(i)][positions[inside]]
                self._check_gap(owner, i, stamps[inside], gap)
            return positions - (n - 1)
        own = self.time_index(i)
        self._check_before(owner, i, stamps, np.asarray(stamps < own[0]))
        steps = np.empty(len(stamps), dtype=np.int64)
        later = np.asarray(stamps > own[-1])
        if later.any():
            steps[later] = self.calendar.steps(own[-1], stamps[later])
        inside = np.flatnonzero(~later)
        found = own.get_indexer(stamps[inside])
        self._check_gap(owner, i, stamps[inside], found < 0)
        steps[inside] = found - (n - 1)
        return steps

    def _check_before(self, owner: str, i: int, stamps: pd.Index, bad: np.ndarray) -> None:
        if bad.any():
            assert self.starts is not None
            raise DataError(
                f"{owner}: {self.label(i)}: row {stamps[int(np.flatnonzero(bad)[0])]} lies before "
                f"the "
                f"training range, which starts at {self.starts[i]}: a forecaster needs earlier "
                f"rows to fit. "
                f"In cross-validation use TimeSeriesSplit (or PanelTimeSeriesSplit), not KFold"
            )

    def _check_gap(self, owner: str, i: int, stamps: pd.Index, bad: np.ndarray) -> None:
        if bad.any():
            raise DataError(
                f"{owner}: {self.label(i)}: row {stamps[int(np.flatnonzero(bad)[0])]} lies inside "
                f"the "
                f"training range but was not among the rows of fit, so that later rows would "
                f"forecast "
                f"earlier ones. In cross-validation use TimeSeriesSplit (or "
                f"PanelTimeSeriesSplit), not KFold"
            )


def group_rows(series: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Rows of each series, in row order: ``[(series, rows), ...]``."""
    if len(series) == 0:
        return []
    if (series == series[0]).all():
        return [(int(series[0]), np.arange(len(series)))]
    order = np.argsort(series, kind="stable")
    cuts = np.flatnonzero(np.diff(series[order])) + 1
    return [(int(series[rows[0]]), rows) for rows in np.split(order, cuts)]
