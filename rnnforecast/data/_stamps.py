"""Time stamps and offsets: as whole numbers, their frequency, their zone, their usual season."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError

DAY = 86_400_000_000_000  # nanoseconds
MONDAY = 4 * DAY  # 1970-01-05


def check_kind(stamps: pd.Index, owner: str | None = None) -> None:
    """Raise unless the stamps are dates, periods or integers, none of them missing."""
    who = "" if owner is None else f"{owner}: "
    if isinstance(stamps, (pd.DatetimeIndex, pd.PeriodIndex)):
        if stamps.hasnans:
            raise DataError(f"{who}the time index has missing stamps (NaT)")
    elif not pd.api.types.is_integer_dtype(stamps.dtype):
        raise DataError(
            f"{who}the index must be a DatetimeIndex, PeriodIndex or integers, got "
            f"{type(stamps).__name__} of dtype {stamps.dtype}: convert it with pd.to_datetime, or "
            f"name the column of time stamps with time="
        )


def indexed(stamps: Any) -> Any:
    """Stamps as they are, or one of them as an index."""
    return stamps if isinstance(stamps, pd.Index) else pd.Index([stamps])


def nanoseconds(stamps: pd.DatetimeIndex) -> np.ndarray:
    """Stamps as UTC nanoseconds, int64, shape (n,)."""
    try:
        return stamps.as_unit("ns").asi8
    except pd.errors.OutOfBoundsDatetime as error:
        raise out_of_bounds(str(error)) from error


def numbers(stamps: pd.Index) -> np.ndarray:
    """Stamps as whole numbers in order of time: nanoseconds, ordinals of periods, or themselves."""
    if isinstance(stamps, pd.DatetimeIndex):
        return nanoseconds(stamps)
    return stamps.asi8 if isinstance(stamps, pd.PeriodIndex) else np.asarray(stamps, np.int64)


def out_of_bounds(what: str) -> DataError:
    """The error for stamps that 64 bits of nanoseconds cannot hold."""
    return DataError(
        f"time stamps are counted in nanoseconds, of which 64 bits hold the years 1677 to 2262: "
        f"{what}. Use a PeriodIndex (index.to_period()) or integers"
    )


def short(interval: int) -> str:
    """An interval as pandas writes it in a frequency, with the number: 1h, 7D."""
    name = pd.tseries.frequencies.to_offset(pd.Timedelta(interval)).freqstr
    return name if name[0].isdigit() else f"1{name}"


def mode(values: np.ndarray) -> int:
    """The most frequent value, the smallest of several."""
    return int(pd.Series(values).mode()[0])


def infer_freq(stamps: pd.DatetimeIndex) -> str | None:
    """What pandas infers, None for nothing."""
    # pandas 3 warns that its answer will be an offset one day, unless it is told that both are fine
    new = hasattr(pd.options.future, "infer_freq_returns_offset")
    quiet = pd.option_context("future.infer_freq_returns_offset", False) if new else nullcontext()
    try:
        with quiet:
            return pd.infer_freq(stamps)
    except (ValueError, TypeError):
        return None


def with_freq(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """The stamps with the frequency that pandas infers."""
    inferred = infer_freq(stamps) if len(stamps) >= 3 else None
    return stamps if inferred is None else pd.DatetimeIndex(stamps, freq=inferred)


def localize(stamps: pd.DatetimeIndex, tz: Any) -> pd.DatetimeIndex:
    """Local stamps in their zone, if any; one that a change of the clock leaves out moves on."""
    if tz is None:
        return stamps
    return stamps.tz_localize(tz, ambiguous=np.ones(len(stamps), bool), nonexistent="shift_forward")


def delocalize(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Stamps as the local clock shows them, without a zone."""
    return stamps if stamps.tz is None else stamps.tz_localize(None)


def season_of_interval(interval: int) -> int:
    """Steps in the cycle of a fixed interval in nanoseconds; 1 where none is known."""
    if interval >= 360 * DAY:
        return 1
    if interval >= 7 * DAY:
        return max(round(365.25 * DAY / interval), 1)
    for cycle in (DAY, 7 * DAY) if interval >= 60_000_000_000 else (3_600_000_000_000, DAY):
        if cycle % interval == 0 and cycle > interval:
            return cycle // interval
    return 1


def season_of_offset(offset: Any) -> int:
    """Steps in the cycle of a pandas offset; 1 where none is known."""
    if isinstance(offset, pd.offsets.Tick):
        return season_of_interval(pd.Timedelta(offset).value)
    if isinstance(offset, pd.offsets.BusinessHour):  # a day, as of every interval below a day
        opened = zip(offset.start, offset.end, strict=True)
        minutes = sum(60 * (b.hour - a.hour) + b.minute - a.minute for a, b in opened)
        return max(round(minutes / 60) // offset.n, 1)
    if type(offset) is pd.DateOffset:  # plain months
        return max(12 // offset.kwds.get("months", 12), 1)
    if isinstance(offset, pd.offsets.CustomBusinessDay):
        return max(sum(offset.calendar.weekmask) // offset.n, 1)
    name = offset.rule_code.split("-")[0]
    per_cycle = {"B": 5, "D": 7, "C": 5, "W": 52, "SME": 24, "SMS": 24}.get(name, 1)
    for prefix, season in (("BM", 12), ("M", 12), ("BQ", 4), ("Q", 4), ("CBM", 12)):
        per_cycle = season if name.startswith(prefix) else per_cycle
    return max(per_cycle // offset.n, 1)
