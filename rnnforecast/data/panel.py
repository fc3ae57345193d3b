"""The one container of the library: all series in flat arrays, NaN where nothing was observed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data import building
from rnnforecast.data._stamps import nanoseconds
from rnnforecast.data.calendar import Calendar
from rnnforecast.data.frames import Keys, copies_on_write
from rnnforecast.data.roles import Column
from rnnforecast.exceptions import DataError

__all__ = ["Panel", "group_rows", "match_series"]


@dataclass(frozen=True)
class Panel:
    """Targets and covariates of one or more series on one kind of calendar.

    Series i stands at rows ``indptr[i]:indptr[i + 1]``.

    Attributes
    ----------
    targets : ndarray, shape (n_rows, n_targets)
        float32 or float64; NaN where unobserved.
    past, known : ndarray, shape (n_rows, n_columns)
        Covariates known up to now only, and in the future too.
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

    build = classmethod(building.build)
    append = building.append  # the only way in which rows are added
    grown = building.grown

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
        """Whether each target has a value at positions low[i] <= p < high[i] of series i."""
        edges = (self.indptr[:-1, None] + np.stack([low, np.maximum(low, high)], axis=1)).ravel()
        inside = edges < len(self.targets)  # all but the last ones
        largest = np.full((len(edges), self.targets.shape[1]), np.nan)  # NaN where all are
        largest[inside] = np.fmax.reduceat(self.targets, edges[inside])
        # of no rows reduceat gives the next
        return ~np.isnan(largest[::2]) & (edges[::2] < edges[1::2])[:, None]

    def owned(self, given: Any = None) -> Panel:
        """The same in row order, and safe from the caller's later writes to the data ``given``:
        what reading did not copy is copied now, unless pandas copies it at such a write.
        """
        kept = None
        if isinstance(given, pd.DataFrame | pd.Series) and given.size == len(given):
            # shares its rows with the caller's, until one of both is written to
            kept = given.reset_index(drop=True) if copies_on_write() else None

        def own(values: np.ndarray) -> np.ndarray:
            lent = not values.flags.writeable
            if lent and kept is not None:
                lent = not np.may_share_memory(values, kept.to_numpy())
            return np.array(values, order="C") if lent else np.ascontiguousarray(values)

        names = ("targets", "past", "known", "static")
        arrays: dict[str, Any] = {name: own(getattr(self, name)) for name in names}
        panel = replace(self, **arrays)
        panel.cached("kept", lambda: kept)
        return panel

    # -- a memo --------------------------------------------------------------------------------

    @cached_property
    def _memo(self) -> tuple[threading.RLock, dict]:
        return threading.RLock(), {}

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave here before for an equal key, of all else that it depends on;
        threads wait for each other, and pickles leave it out.
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
        """Stamp of row ``positions[k] >= 0`` of series ``series[k]``, shape (n,); the calendar goes
        on after the last row.
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
            return np.zeros(0, dtype=np.int64), self.as_given(self.starts[:0])
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
        place, pairs = pd.factorize(begin[series].astype(np.int64) * width + positions)
        origin, steps = np.divmod(pairs, width)
        stamps = self.as_given(origins.take(origin))
        later = self.as_given(self.calendar.shift(stamps, np.maximum(steps, 1)))
        codes, stamps = pd.factorize(later.where(steps > 0, stamps), sort=True)
        return codes[place], stamps.rename(self.names[-1])

    def as_given(self, index: pd.Index) -> pd.Index:
        """Stamps of a calendar with the name and the resolution of those of fit."""
        if isinstance(index, pd.DatetimeIndex) and isinstance(self.starts, pd.DatetimeIndex):
            index = index.as_unit(self.starts.unit)
        return index.rename(self.names[-1])

    def lasts(self) -> pd.Index:
        """Stamp of each series' last row, shape (n_series,)."""
        if self.stamps is not None:
            return self.stamps[self.indptr[1:] - 1]
        every = np.arange(self.n_series)
        return self.cached("lasts", lambda: self.stamps_at(every, self.lengths - 1))

    def time_index(self, i: int) -> pd.Index:
        """Stamps of series i's rows."""
        n = int(self.lengths[i])
        if self.calendar is None:
            return pd.RangeIndex(n)
        if self.stamps is not None:
            return self.stamps[self.series(i)]
        assert self.starts is not None
        later = self.calendar.after(self.starts[i], n - 1)
        return self.as_given(later.insert(0, self.starts[i]) if n > 1 else self.starts[[i]])

    def future_index(self, i: int, n: int) -> pd.Index:
        """The ``n`` stamps after series i's last row."""
        if self.calendar is None:
            end = int(self.lengths[i])
            return pd.RangeIndex(end, end + n)
        return self.as_given(self.calendar.after(self.lasts()[i], n))

    def index_at(self, series: np.ndarray, positions: np.ndarray) -> pd.Index:
        """Index of rows: their stamps, or (series, stamp) for a panel."""
        codes, stamps = self._coded_stamps(series, positions)
        if not self.is_panel:
            return stamps.take(codes)
        names = [self.ids.get_level_values(k) for k in range(self.ids.nlevels)]
        parts = [pd.factorize(level, sort=True) for level in names]
        every = [*(own[series] for own, _ in parts), codes]
        levels = [*(unique for _, unique in parts), stamps]
        return pd.MultiIndex(levels, every, names=self.names, verify_integrity=False)

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

    def history(self, columns: list) -> pd.DataFrame:
        """The observed rows of the targets as a frame."""
        values = self.targets.astype(np.float64)
        frame = pd.DataFrame(values, index=self.row_index(), columns=columns)
        return frame if self.absent is None else frame[~self.absent]

    # -- where rows are ----------------------------------------------------------------------------

    def locate(self, owner: str, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
        """Series and step of each row, int64, shape (n_rows,) each.

        Step 1 is the first one after the series' last row, 0 the last row itself, -1 the one before
        it. Rows without time stamps follow on. An unknown series is refused, and a row before the
        first row, in a gap, or off the grid.
        """
        place = match_series(owner, self.ids if self.is_panel else None, keys)
        series = place[np.zeros(keys.n_rows, np.int8) if keys.series is None else keys.series]
        if keys.levels is None or self.calendar is None:
            return series, pd.Series(series).groupby(series).cumcount().to_numpy() + 1
        keys, first, n = self.same_kind(owner, keys), self.indptr[series], self.lengths[series]
        if self.stamps is None:
            assert self.starts is not None
            at = building.steps_of_rows(owner, self.calendar, self.starts, place, keys, slice(None))
            gap = np.zeros(len(at), dtype=bool)
            if self.absent is not None:
                gap = (at < n) & self.absent[first + np.clip(at, 0, n - 1)]
            self._check(owner, series, keys, at < 0, gap)
            return series, at - (n - 1)
        stamps = keys.stamps(slice(None))
        wanted, own = nanoseconds(stamps), nanoseconds(self.stamps)
        row, before = _search(own, first, first + n, wanted), wanted < own[first]
        later = row == first + n
        self._check(owner, series, keys, before, ~later & ~before & (own[row - later] != wanted))
        steps = row - (first + n - 1) - before
        if later.any():
            steps[later] = self.calendar.steps(self.lasts()[series[later]], stamps[later])
        return series, steps

    def match(self, owner: str, keys: Keys) -> np.ndarray:
        """Position here of each of the input's series; -1 for one that is new."""
        return match_series(owner, self.ids if self.is_panel else None, keys, new=True)

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
        same = type(fitted) is type(stamps) or not isinstance(
            stamps, pd.DatetimeIndex | pd.PeriodIndex
        )
        if isinstance(fitted, pd.PeriodIndex):  # ordinals of months and of days cannot be compared
            same = isinstance(stamps, pd.PeriodIndex) and fitted.freq.base == stamps.freq.base
        if not same or isinstance(fitted, pd.DatetimeIndex):
            raise DataError(
                f"{owner}: the index of X must be of the kind seen in fit. Expected "
                f"{fitted.dtype}, got {stamps.dtype}"
            )
        return keys

    def _check(
        self, owner: str, series: np.ndarray, keys: Keys, before: np.ndarray, gap: np.ndarray
    ) -> None:
        """Raise where a row lies before the first one of its series, or in a gap."""
        bad = before if before.any() else gap
        if not bad.any():
            return
        row = int(np.argmax(bad))
        i = int(series[row])
        why = (
            f"before the training range, which starts at {self.time_index(i)[0]}: a forecaster "
            f"needs earlier rows to fit"
            if before.any()
            else "inside the training range but was not among the rows of fit, so that later rows "
            "would forecast earlier ones"
        )
        raise DataError(
            f"{owner}: {self.label(i)}: row {keys.stamps([row])[0]} lies {why}. In "
            f"cross-validation use TimeSeriesSplit (or PanelTimeSeriesSplit), not KFold"
        )


def match_series(owner: str, ids: pd.Index | None, keys: Keys, new: bool = False) -> np.ndarray:
    """Position in ``ids`` (None: a series without a name) of each of the input's series; -1 for
    one that is new, if there may be such.
    """
    if ids is None:
        if len(keys.ids) > 1:
            raise DataError(f"{owner}: fitted on one series, got {len(keys.ids)} in X")
        return np.zeros(1, dtype=np.int64)
    if keys.series is None:
        raise DataError(
            f"{owner}: fitted on a panel, but X names no series: give it a MultiIndex "
            f"(series, time), or the columns of series_id= and time="
        )
    place = ids.get_indexer(keys.ids).astype(np.int64)
    if not new and (place < 0).any():
        raise DataError(
            f"{owner}: {keys.label(int(np.argmax(place < 0)))} was not in the data passed to "
            f"fit: fit on it first"
        )
    return place


def group_rows(series: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Rows of each series, in row order: ``[(series, rows), ...]``."""
    order = np.argsort(series, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(series[order])) + 1)
    return [(int(series[rows[0]]), rows) for rows in parts if len(rows)]


def _search(values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray):
    """First row of the sorted ``values[low[k]:high[k]]`` that is not below ``wanted[k]``."""
    while (some := low < high).any():
        middle = (low + high) // 2
        below = some & (values[np.where(some, middle, 0)] < wanted)
        low, high = np.where(below, middle + 1, low), np.where(some & ~below, middle, high)
    return low
