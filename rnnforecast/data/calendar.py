"""Time axes: which step a time stamp is, and which stamps come next.

A calendar turns stamps into whole step numbers and back. Regular calendars (a fixed interval,
months, periods, integers) may have gaps, which become masked steps. A trading calendar is its own
grid: no row is invented in its past, and its future follows the weekly pattern that was seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.data._season import DAY, season_of_interval, season_of_offset
from rnnforecast.data._stamps import (
    infer_freq,
    localize,
    mode,
    nanoseconds,
    nanoseconds_of,
    out_of_bounds,
    short,
    with_freq,
)
from rnnforecast.exceptions import DataError

__all__ = ["Calendar", "default_seasonality", "infer_calendar"]

_WEEK = 7 * DAY  # nanoseconds


class Calendar(ABC):
    """Maps stamps to step numbers. ``own_grid``: the rows seen are the steps, nothing is a gap."""

    own_grid: bool = False

    @abstractmethod
    def steps(self, origin: Any, stamps: pd.Index) -> np.ndarray:
        """Signed steps from ``origin`` to each stamp, int64, shape (n,); off-grid stamps raise."""

    @abstractmethod
    def after(self, origin: Any, n: int) -> pd.Index:
        """The ``n`` stamps that follow ``origin``."""

    def at(self, origin: Any, n: int) -> Any:
        """The stamp ``n`` steps after ``origin``, n >= 0."""
        return self.after(origin, n)[-1] if n else origin

    @property
    @abstractmethod
    def season(self) -> int:
        """Usual seasonal period in steps; 1 where none is known."""

    def _off_grid(self, stamps: pd.Index, bad: np.ndarray) -> DataError:
        first = stamps[int(np.flatnonzero(bad)[0])]
        return DataError(
            f"time stamp {first} is not on the grid {self!r} of the data: expected whole steps "
            f"from the first row; resample the data or pass freq="
        )


class IntegerCalendar(Calendar):
    """A RangeIndex or any integer index with a constant step."""

    def __init__(self, step: int = 1):
        self.step = int(step)

    def steps(self, origin, stamps):
        delta = np.asarray(stamps, dtype=np.int64) - int(origin)
        bad = delta % self.step != 0
        if bad.any():
            raise self._off_grid(stamps, bad)
        return delta // self.step

    def after(self, origin, n):
        first = int(origin) + self.step
        return pd.RangeIndex(first, first + n * self.step, self.step)

    @property
    def season(self):
        return 1

    def __repr__(self):
        return f"every {self.step}" if self.step != 1 else "consecutive integers"


class PeriodCalendar(Calendar):
    """A PeriodIndex: steps are differences of ordinals."""

    def __init__(self, freq: Any):
        self.freq = pd.PeriodDtype(freq).freq  # to_offset would take "M" for a deprecated alias

    def steps(self, origin, stamps):
        delta = stamps.asi8 - origin.ordinal
        bad = delta % self.freq.n != 0
        if bad.any():
            raise self._off_grid(stamps, bad)
        return delta // self.freq.n

    def after(self, origin, n):
        ordinals = origin.ordinal + self.freq.n * np.arange(1, n + 1)
        return pd.PeriodIndex.from_ordinals(ordinals, freq=origin.freq)

    @property
    def season(self):
        return season_of_offset(self.freq)

    def __repr__(self):
        return f"period {self.freq.freqstr}"


class FixedCalendar(Calendar):
    """A constant interval of absolute time (seconds to weeks, without months).

    With ``wall`` the interval is counted on the local clock, as daily data in a zone with
    daylight saving needs.
    """

    def __init__(self, interval: int, tz: Any = None, wall: bool = False):
        self.interval = int(interval)
        self.tz = tz
        self.wall = wall

    def _count(self, stamps):
        return nanoseconds(stamps.tz_localize(None) if self.wall else stamps)

    def steps(self, origin, stamps):
        delta = self._count(stamps) - self._count(pd.DatetimeIndex([origin]))[0]
        bad = delta % self.interval != 0
        if bad.any():
            raise self._off_grid(stamps, bad)
        return delta // self.interval

    def after(self, origin, n):
        start = nanoseconds_of(origin, self.wall)
        if start + self.interval * n > pd.Timestamp.max.value:
            raise out_of_bounds(f"{n} steps after {origin} lie beyond them")
        if n >= 3 and self.interval < DAY and not self.wall:  # no need to infer the frequency
            every = pd.tseries.frequencies.to_offset(pd.Timedelta(self.interval))
            return pd.date_range(origin, periods=n + 1, freq=every).as_unit("ns")[1:]
        stamps = pd.DatetimeIndex(start + self.interval * np.arange(1, n + 1))
        if self.tz is not None:
            stamps = localize(stamps, self.tz) if self.wall else stamps.tz_localize("UTC")
            stamps = stamps.tz_convert(self.tz)
        return with_freq(stamps)

    def at(self, origin, n):
        later = pd.Timedelta(self.interval * n)
        return super().at(origin, n) if self.wall else pd.Timestamp(origin) + later

    @property
    def season(self):
        return season_of_interval(self.interval)

    def __repr__(self):
        return f"every {short(self.interval)}"


class OffsetCalendar(Calendar):
    """Any pandas offset: months, quarters, business days, custom business days."""

    def __init__(self, offset: Any, tz: Any = None, own_grid: bool = False):
        self.offset = pd.tseries.frequencies.to_offset(offset)
        self.tz = tz
        self.own_grid = own_grid

    def _local(self, stamps):
        return stamps if self.tz is None else stamps.tz_localize(None)

    def steps(self, origin, stamps):
        local = self._local(pd.DatetimeIndex(stamps))
        start = self._local(pd.DatetimeIndex([origin]))[0]
        low, high = min(local.min(), start), max(local.max(), start)
        grid = pd.date_range(
            self.offset.rollback(low), self.offset.rollforward(high), freq=self.offset
        )
        # a stamp between two steps counts as the later one: a Saturday is the next business day
        position = grid.searchsorted(local)
        bad = np.asarray(grid[np.minimum(position, len(grid) - 1)] != local)
        if bad.any() and not self.own_grid:
            raise self._off_grid(stamps, bad)
        # and an origin between two as the earlier one: Monday is the first step after Saturday
        return (position - grid.searchsorted(start, side="right") + 1).astype(np.int64)

    def after(self, origin, n):
        start = self._local(pd.DatetimeIndex([origin]))[0]
        grid = pd.date_range(start, periods=n + 1, freq=self.offset)
        grid = grid[1:] if grid[0] == start else grid[:n]
        return grid if self.tz is None else localize(grid, self.tz)

    @property
    def season(self):
        return season_of_offset(self.offset)

    def __repr__(self):
        return f"pandas offset {self.offset.freqstr!r}"


class WeeklyCalendar(Calendar):
    """Stamps that recur at the same times of the week: trading days, opening hours.

    Parameters
    ----------
    slots : ndarray of int64, shape (k,)
        Nanoseconds since Monday 00:00 local time, sorted.
    tz : tzinfo, optional
        Zone of the stamps; slots are on its local clock.
    """

    own_grid = True
    _MONDAY = 4 * DAY  # 1970-01-05

    def __init__(self, slots: np.ndarray, tz: Any = None):
        self.slots = np.asarray(slots, dtype=np.int64)
        self.tz = tz

    def _ordinal(self, stamps: pd.DatetimeIndex) -> np.ndarray:
        """Number of slots before each stamp, counted from the first Monday of 1970."""
        local = stamps if self.tz is None else stamps.tz_localize(None)
        week, rest = np.divmod(nanoseconds(local) - self._MONDAY, _WEEK)
        return week * len(self.slots) + np.searchsorted(self.slots, rest)

    def steps(self, origin, stamps):
        stamps = pd.DatetimeIndex(stamps)
        start = pd.DatetimeIndex([origin])
        steps = self._ordinal(stamps) - self._ordinal(start)[0]
        late = (steps <= 0) & np.asarray(stamps > start[0])
        # an origin off the pattern (a Saturday session) stands just before the slot after it
        off = self.slots[np.searchsorted(self.slots, self._rest(start)) % len(self.slots)]
        if off[0] != self._rest(start)[0]:
            steps = np.where(np.asarray(stamps > start[0]), steps + 1, steps)
        return np.where(late, np.maximum(steps, 1), steps)

    def _rest(self, stamps):
        local = stamps if self.tz is None else stamps.tz_localize(None)
        return (nanoseconds(local) - self._MONDAY) % _WEEK

    def after(self, origin, n):
        start = pd.DatetimeIndex([origin])
        first = self._ordinal(start)[0] + int(self._rest(start)[0] in self.slots)
        week, slot = np.divmod(first + np.arange(n), len(self.slots))
        stamps = pd.DatetimeIndex(self._MONDAY + week * _WEEK + self.slots[slot])
        return stamps if self.tz is None else localize(stamps, self.tz)

    @property
    def season(self):
        days = len(np.unique(self.slots // DAY))
        per_day = len(self.slots) / days
        return days if per_day == 1 else round(per_day)

    def __repr__(self):
        return f"a weekly pattern of {len(self.slots)} stamps"


class IrregularCalendar(FixedCalendar):
    """No pattern at all: the rows are the steps, and the future goes on by the median interval."""

    own_grid = True

    def steps(self, origin, stamps):
        delta = self._count(stamps) - self._count(pd.DatetimeIndex([origin]))[0]
        return -(-delta // self.interval)

    @property
    def season(self):
        return 1

    def __repr__(self):
        return f"irregular stamps, {short(self.interval)} apart in the median"


def infer_calendar(stamps: pd.Index, freq: Any = None) -> Calendar:
    """The calendar of sorted unique stamps.

    Parameters
    ----------
    stamps : DatetimeIndex, PeriodIndex or integer Index
        Sorted and unique.
    freq : str, DateOffset or int, optional
        Overrides what is inferred: a pandas offset, or the step of an integer index.

    Returns
    -------
    Calendar

    Raises
    ------
    DataError
        If the index is of another kind, or one stamp alone comes without ``freq``.

    Notes
    -----
    Rules, in order: ``freq=``; the index's own frequency; what pandas infers; months, quarters or
    years with gaps; a weekly pattern (some times of the week never occur over two weeks or more),
    whose own rows are the grid; the most frequent interval, if the others are its multiples and
    half of the steps or more are present; else irregular, the rows being the grid.

    Examples
    --------
    >>> import pandas as pd
    >>> infer_calendar(pd.date_range("2024-01-01", periods=4, freq="h"))
    every 1h
    """
    if isinstance(stamps, pd.PeriodIndex):
        return PeriodCalendar(stamps.freq if freq is None else freq)
    if isinstance(stamps, pd.DatetimeIndex):
        nanoseconds(stamps[[0, -1]] if len(stamps) else stamps)
        if freq is not None:
            return _from_offset(freq, stamps.tz)
        return _infer_datetime(stamps)
    if pd.api.types.is_integer_dtype(stamps.dtype):
        if freq is not None:
            check_int("an integer index", "freq", freq)
        return IntegerCalendar(_integer_step(stamps) if freq is None else int(freq))
    raise DataError(
        f"the index must be a DatetimeIndex, PeriodIndex or integers (RangeIndex), got "
        f"{type(stamps).__name__} of dtype {stamps.dtype}: convert it with pd.to_datetime, or "
        f"name the column of time stamps with time="
    )


def _integer_step(stamps: pd.Index) -> int:
    if isinstance(stamps, pd.RangeIndex):
        return max(abs(stamps.step), 1)
    values = np.asarray(stamps, dtype=np.int64)
    if len(values) < 2:
        return 1
    step = int(mode(np.diff(values)))
    return step if (np.diff(values) % step == 0).all() else 1


def _infer_datetime(stamps: pd.DatetimeIndex) -> Calendar:
    if stamps.freq is not None:
        return _from_offset(stamps.freq, stamps.tz)
    if len(stamps) < 2:
        raise DataError(
            "the frequency of 1 sample cannot be inferred (n_samples=1): pass freq=, e.g. freq='h'"
        )
    tz = stamps.tz
    wall = stamps if tz is None else stamps.tz_localize(None)
    if len(stamps) >= 3:
        for candidate in (stamps, wall):
            inferred = infer_freq(candidate)
            if inferred is not None:
                return _from_offset(inferred, tz, wall=candidate is wall)
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
        interval = int(mode(gaps))
        present = len(count) / ((count[-1] - count[0]) / interval + 1)
        if (gaps % interval == 0).all() and present >= 0.5:
            return FixedCalendar(interval, tz, wall=local and tz is not None)
    return IrregularCalendar(max(int(np.median(gaps)), 1), tz)


def _from_offset(freq: Any, tz: Any, wall: bool = True) -> Calendar:
    try:
        offset = pd.tseries.frequencies.to_offset(freq)
    except (ValueError, TypeError) as error:
        raise DataError(f"freq={freq!r} is not a pandas offset: {error}") from error
    if isinstance(offset, pd.offsets.Week) and offset.weekday is not None:
        return FixedCalendar(offset.n * _WEEK, tz, wall=tz is not None)
    if isinstance(offset, pd.offsets.Day):
        return FixedCalendar(offset.n * DAY, tz, wall=tz is not None)
    if isinstance(offset, pd.offsets.Tick):
        return FixedCalendar(pd.Timedelta(offset).value, tz)
    business = isinstance(
        offset, (pd.offsets.BusinessDay, pd.offsets.BusinessHour, pd.offsets.CustomBusinessDay)
    )
    return OffsetCalendar(offset, tz, own_grid=business)


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
    same = len(set(zip(wall.day, wall.time, strict=True))) == 1
    if not same or wall[0].day > 28:
        return None
    months = np.diff(wall.year * 12 + wall.month)
    return pd.DateOffset(months=int(np.gcd.reduce(months)))


def _weekly_pattern(wall: pd.DatetimeIndex) -> np.ndarray | None:
    """Times of the week at which stamps recur, if some of the grid's never occur; else None."""
    count = nanoseconds(wall)
    interval = int(mode(np.diff(count)))
    weeks = (count[-1] - count[0]) / _WEEK
    if interval > DAY or weeks < 2:
        return None
    slots, seen = np.unique((count - WeeklyCalendar._MONDAY) % _WEEK, return_counts=True)
    slots = slots[seen >= 0.3 * np.median(seen)]
    grid = _WEEK // interval
    dense = len(count) / (weeks * len(slots))
    if len(slots) <= 0.9 * grid and dense >= 0.6:
        return slots
    return None


def default_seasonality(calendar: Calendar) -> int:
    """Usual seasonal period of a calendar, in steps.

    A day for intervals below a day (24 for hours, 144 for ten minutes; an hour where the interval
    is below a minute), a week for days (5 for business days, or the days seen), a year for weeks,
    months and quarters, and 1 where nothing is known (integers, years).

    Examples
    --------
    >>> import pandas as pd
    >>> default_seasonality(infer_calendar(pd.date_range("2024-01-01", periods=9, freq="MS")))
    12
    """
    return calendar.season
