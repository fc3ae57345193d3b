"""Time axes: which step a time stamp is, and which stamps come next.

Regular calendars (a fixed interval, months, periods, integers) may have gaps, which become masked
steps. A trading calendar is its own grid: no row is invented in its past, and its future follows
the weekly pattern that was seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.data._stamps import (
    DAY,
    MONDAY,
    check_kind,
    delocalize,
    indexed,
    infer_freq,
    localize,
    mode,
    nanoseconds,
    numbers,
    out_of_bounds,
    season_of_interval,
    season_of_offset,
    short,
    with_freq,
)
from rnnforecast.exceptions import DataError

__all__ = ["Calendar", "OffGridError", "infer_calendar"]

_WEEK = 7 * DAY  # nanoseconds


class OffGridError(DataError):
    """A stamp lies between two steps of a regular calendar; it is number ``row`` of those asked."""

    def __init__(self, message: str, row: int = 0):
        super().__init__(message)
        self.row = row


class Calendar(ABC):
    """Maps stamps to step numbers."""

    season: int = 1  # usual seasonal period in steps; 1 where none is known
    own_grid: bool = False  # the rows seen are the steps, nothing is a gap

    @abstractmethod
    def steps(self, origins: Any, stamps: pd.Index) -> np.ndarray:
        """Signed steps from each origin to each stamp, int64, shape (n,); off-grid stamps raise.

        ``origins`` is one stamp, or an Index of as many as ``stamps``.
        """

    @abstractmethod
    def shift(self, origins: Any, steps: np.ndarray) -> pd.Index:
        """The stamp ``steps[k] >= 0`` steps after origin k, shape (n,); one origin or n of them."""

    def after(self, origin: Any, n: int) -> pd.Index:
        """The ``n`` stamps that follow ``origin``."""
        return self.shift(origin, np.arange(1, n + 1))

    def _check_grid(self, stamps: pd.Index, bad: np.ndarray) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise OffGridError(
                f"time stamp {stamps[row]} is not on the grid {self!r} of the data: expected whole "
                f"steps from the first row; resample the data or pass freq=",
                row,
            )


class EvenCalendar(Calendar):
    """Abstract: stamps are whole numbers, and steps a constant difference."""

    interval: int

    def _count(self, stamps: Any) -> np.ndarray:
        """One stamp or several as numbers."""
        return numbers(indexed(stamps))

    def steps(self, origins, stamps):
        distance = self._count(stamps) - self._count(origins)
        if self.interval == 1:
            return distance
        if not self.own_grid:
            self._check_grid(stamps, distance % self.interval != 0)
        return -(-distance // self.interval)  # a stamp between two steps counts as the later one


class IntegerCalendar(EvenCalendar):
    """A RangeIndex or any integer index with a constant step."""

    def __init__(self, interval: int = 1):
        self.interval = int(interval)

    def shift(self, origins, steps):
        return pd.Index(self._count(origins) + self.interval * np.asarray(steps))

    def __repr__(self):
        return f"every {self.interval}" if self.interval != 1 else "consecutive integers"


class PeriodCalendar(EvenCalendar):
    """A PeriodIndex: steps are differences of ordinals."""

    def __init__(self, freq: Any):
        self.freq = pd.PeriodDtype(freq).freq  # to_offset would take "M" for a deprecated alias
        self.interval, self.season = self.freq.n, season_of_offset(self.freq)

    def shift(self, origins, steps):
        ordinals = self._count(origins) + self.interval * np.asarray(steps)
        return pd.PeriodIndex.from_ordinals(ordinals, freq=origins.freq)

    def __repr__(self):
        return f"period {self.freq.freqstr}"


class FixedCalendar(EvenCalendar):
    """A constant interval in nanoseconds, with ``wall`` on the local clock, as days with daylight
    saving need; with ``own_grid`` the median of irregular ones, by which the future goes on.
    """

    def __init__(self, interval: int, tz: Any = None, wall: bool = False, own_grid: bool = False):
        self.interval, self.tz, self.wall, self.own_grid = int(interval), tz, wall, own_grid
        self.season = 1 if own_grid else season_of_interval(self.interval)

    def _count(self, stamps):
        stamps = indexed(stamps)
        return nanoseconds(delocalize(stamps) if self.wall else stamps)

    def shift(self, origins, steps):
        start, steps = self._count(origins), np.asarray(steps, dtype=np.int64)
        if (start + float(self.interval) * steps > pd.Timestamp.max.value).any():
            raise out_of_bounds(
                f"{steps.max()} steps after {indexed(origins).max()} lie beyond them"
            )
        stamps = pd.DatetimeIndex(start + self.interval * steps)
        if self.wall or self.tz is None:
            return localize(stamps, self.tz)
        return stamps.tz_localize("UTC").tz_convert(self.tz)

    def after(self, origin, n):
        if n < 3 or self.interval >= DAY or self.wall:
            return with_freq(super().after(origin, n))
        self.shift(origin, np.array([n]))  # is there room? The frequency need not be inferred
        every = pd.tseries.frequencies.to_offset(pd.Timedelta(self.interval))
        return pd.date_range(origin, periods=n + 1, freq=every).as_unit("ns")[1:]

    def __repr__(self):
        every = short(self.interval)
        return (
            f"irregular stamps, {every} apart in the median" if self.own_grid else f"every {every}"
        )


class OffsetCalendar(Calendar):
    """Any pandas offset: months, quarters, business days, custom business days."""

    def __init__(self, offset: Any, tz: Any = None, own_grid: bool = False):
        self.offset = pd.tseries.frequencies.to_offset(offset)
        self.tz, self.own_grid = tz, own_grid
        self.season = season_of_offset(self.offset)
        # two months at a time, or any day of the month: the grid depends on where it starts
        anchored = type(self.offset) is not pd.DateOffset and self.offset.n == 1
        self._one_grid = anchored and not isinstance(self.offset, pd.offsets.BusinessHour)

    def _grids(self, starts: pd.DatetimeIndex) -> list:
        """Rows of ``starts`` by the grid they stand on: of a time of day, or of each start."""
        if len(starts) == 1:
            return [slice(None)]
        codes, unique = pd.factorize(starts - starts.normalize() if self._one_grid else starts)
        if len(unique) == 1:
            return [slice(None)]
        return list(pd.Series(codes).groupby(codes).indices.values())

    def steps(self, origins, stamps):
        local, starts = delocalize(indexed(stamps)), delocalize(indexed(origins))
        steps, bad = np.empty(len(local), dtype=np.int64), np.zeros(len(local), dtype=bool)
        for rows in self._grids(starts):
            some, begin = local[rows], starts[rows]
            low, high = min(some.min(), begin.min()), max(some.max(), begin.max())
            if self._one_grid:  # at the time of day of the origins
                low = low.normalize() + (begin[0] - begin[0].normalize())
            grid = pd.date_range(
                self.offset.rollback(low), self.offset.rollforward(high), freq=self.offset
            )
            # a stamp between two steps counts as the later one: a Saturday is the next business day
            at = grid.searchsorted(some)
            bad[rows] = grid[np.minimum(at, len(grid) - 1)] != some
            # and an origin between two as the earlier one: Monday is the first step after Saturday
            steps[rows] = at - grid.searchsorted(begin, side="right") + 1
        if not self.own_grid:
            self._check_grid(stamps, bad)
        return steps

    def shift(self, origins, steps):
        starts, steps = delocalize(indexed(origins)), np.asarray(steps)
        stamps = np.empty(np.broadcast_shapes(starts.shape, steps.shape), dtype="datetime64[ns]")
        for rows in self._grids(starts):
            begin, ahead = starts[rows], steps[rows]
            low, between = begin.min(), pd.date_range(begin.min(), begin.max(), freq=self.offset)
            n = len(between) + int(ahead.max()) + 1
            grid = pd.date_range(low, periods=n, freq=self.offset)
            if grid[0] != low:  # a start between two steps stands just before the later one
                grid = grid.insert(0, low)
            stamps[rows] = grid[grid.searchsorted(begin, side="right") - 1 + ahead]
        return localize(pd.DatetimeIndex(stamps), self.tz)

    def after(self, origin, n):
        start = delocalize(indexed(origin))[0]
        grid = pd.date_range(start, periods=n + 1, freq=self.offset)
        return localize(grid[1:] if grid[0] == start else grid[:n], self.tz)

    def __repr__(self):
        return f"pandas offset {self.offset.freqstr!r}"


class WeeklyCalendar(Calendar):
    """Stamps that recur at the same times of the week: trading days, opening hours."""

    own_grid = True

    def __init__(self, slots: np.ndarray, tz: Any = None):
        self.slots, self.tz = slots, tz  # sorted nanoseconds since Monday 00:00 on the local clock
        days = len(np.unique(slots // DAY))
        self.season = days if days == len(slots) else round(len(slots) / days)

    def _ordinals(self, stamps: pd.DatetimeIndex) -> tuple[np.ndarray, np.ndarray]:
        """Slots before each stamp since the first Monday of 1970, and whether it stands on one."""
        week, rest = np.divmod(nanoseconds(delocalize(stamps)) - MONDAY, _WEEK)
        return week * len(self.slots) + np.searchsorted(self.slots, rest), np.isin(rest, self.slots)

    def steps(self, origins, stamps):
        stamps, starts = indexed(stamps), indexed(origins)
        before, on_slot = self._ordinals(starts)
        # an origin off the pattern (a Saturday session) stands just before the slot after it
        steps = self._ordinals(stamps)[0] - before
        later = nanoseconds(stamps) > nanoseconds(starts)
        return np.where(later, np.maximum(steps + ~on_slot, 1), steps)

    def shift(self, origins, steps):
        before, on_slot = self._ordinals(indexed(origins))
        week, slot = np.divmod(before + on_slot - 1 + np.asarray(steps), len(self.slots))
        return localize(pd.DatetimeIndex(MONDAY + week * _WEEK + self.slots[slot]), self.tz)

    def __repr__(self):
        return f"a weekly pattern of {len(self.slots)} stamps"


def infer_calendar(stamps: pd.Index, freq: Any = None) -> Calendar:
    """The calendar of sorted unique stamps; one stamp alone needs ``freq``.

    Rules, in order: ``freq=`` (a pandas offset, or the step of an integer index); the index's own
    frequency; what pandas infers; months, quarters or years with gaps; a weekly pattern (some times
    of the week never occur over two weeks or more), whose own rows are the grid; the most frequent
    interval, if the others are its multiples and half of the steps or more are present; else
    irregular, the rows being the grid. Integers have their greatest common step.
    """
    check_kind(stamps)
    if isinstance(stamps, pd.PeriodIndex):
        return PeriodCalendar(stamps.freq if freq is None else freq)
    if isinstance(stamps, pd.DatetimeIndex):
        nanoseconds(stamps[[0, -1]] if len(stamps) else stamps)
        return _infer_datetime(stamps) if freq is None else _from_offset(freq, stamps.tz)
    if freq is not None:
        check_int("an integer index", "freq", freq)
        return IntegerCalendar(freq)
    is_range = isinstance(stamps, pd.RangeIndex)
    step = stamps.step if is_range else np.gcd.reduce(np.diff(numbers(stamps)))
    return IntegerCalendar(max(abs(step), 1))


def _infer_datetime(stamps: pd.DatetimeIndex) -> Calendar:
    if stamps.freq is not None:
        return _from_offset(stamps.freq, stamps.tz)
    if len(stamps) < 2:
        raise DataError(
            "the frequency of 1 sample cannot be inferred (n_samples=1): pass freq=, e.g. freq='h'"
        )
    tz, wall = stamps.tz, delocalize(stamps)
    if len(stamps) >= 3:
        for candidate in (stamps, wall):
            inferred = infer_freq(candidate)
            if inferred is not None:
                return _from_offset(inferred, tz)
        anchored = _anchored_with_gaps(wall)
        if anchored is not None:
            return OffsetCalendar(anchored, tz)
    weekly = _weekly_pattern(wall)
    if weekly is not None:
        return WeeklyCalendar(weekly, tz)
    # whole days are counted on the local clock, which has days of 23 and 25 hours; hours are not
    whole_days = mode(np.diff(nanoseconds(wall))) % DAY == 0
    for local in (whole_days, not whole_days):
        count = nanoseconds(wall if local else stamps)
        gaps = np.diff(count)
        interval = mode(gaps)
        present = len(count) / ((count[-1] - count[0]) / interval + 1)
        if (gaps % interval == 0).all() and present >= 0.5:
            return FixedCalendar(interval, tz, wall=local and tz is not None)
    return FixedCalendar(max(int(np.median(gaps)), 1), tz, own_grid=True)


def _from_offset(freq: Any, tz: Any) -> Calendar:
    try:
        offset = pd.tseries.frequencies.to_offset(freq)
    except (ValueError, TypeError) as error:
        raise DataError(f"freq={freq!r} is not a pandas offset: {error}") from error
    anchored = isinstance(offset, pd.offsets.Week) and offset.weekday is not None
    if anchored or isinstance(offset, pd.offsets.Day):
        return FixedCalendar(offset.n * (_WEEK if anchored else DAY), tz, wall=tz is not None)
    if isinstance(offset, pd.offsets.Tick):
        return FixedCalendar(pd.Timedelta(offset).value, tz)
    kinds = (pd.offsets.BusinessDay, pd.offsets.BusinessHour, pd.offsets.CustomBusinessDay)
    return OffsetCalendar(offset, tz, own_grid=isinstance(offset, kinds))


def _anchored_with_gaps(wall: pd.DatetimeIndex) -> str | pd.DateOffset | None:
    """A monthly, quarterly or yearly offset that every stamp is on, coarsest first."""
    if np.median(np.diff(nanoseconds(wall))) < 27 * DAY:
        return None
    if not (wall == wall.normalize()).all():
        return _same_day_of_month(wall)
    quarters = [f"{q}-{m}" for q in ("QS", "QE") for m in ("JAN", "FEB", "MAR")]
    years = [f"{y}-{m}" for y in ("YS", "YE") for m in ("JAN", "DEC")]
    for name in [*years, *quarters, "MS", "ME", "BMS", "BME"]:
        offset = pd.tseries.frequencies.to_offset(name)
        if all(offset.is_on_offset(stamp) for stamp in wall):
            return name
    return _same_day_of_month(wall)


def _same_day_of_month(wall: pd.DatetimeIndex) -> pd.DateOffset | None:
    """Every so many months, on one day (up to the 28th) at one time."""
    if len(set(zip(wall.day, wall.time, strict=True))) > 1 or wall[0].day > 28:
        return None
    return pd.DateOffset(months=int(np.gcd.reduce(np.diff(wall.year * 12 + wall.month))))


def _weekly_pattern(wall: pd.DatetimeIndex) -> np.ndarray | None:
    """Times of the week at which stamps recur, if some of the grid's never occur; else None."""
    count = nanoseconds(wall)
    interval = mode(np.diff(count))
    weeks = (count[-1] - count[0]) / _WEEK
    if interval > DAY or weeks < 2:
        return None
    slots, seen = np.unique((count - MONDAY) % _WEEK, return_counts=True)
    slots = slots[seen >= 0.3 * np.median(seen)]
    dense = len(count) / (weeks * len(slots)) >= 0.6
    return slots if dense and len(slots) <= 0.9 * (_WEEK // interval) else None
