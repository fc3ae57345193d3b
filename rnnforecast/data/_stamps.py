"""Time stamps: as whole numbers of nanoseconds, their frequency, their zone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError

__all__ = [
    "infer_freq",
    "localize",
    "mode",
    "nanoseconds",
    "nanoseconds_of",
    "out_of_bounds",
    "short",
    "with_freq",
]


def nanoseconds(stamps: pd.DatetimeIndex) -> np.ndarray:
    """Stamps as UTC nanoseconds, int64, shape (n,).

    Raises
    ------
    DataError
        If one is before 1677 or after 2262, which 64 bits cannot hold.
    """
    try:
        return stamps.as_unit("ns").asi8
    except pd.errors.OutOfBoundsDatetime as error:
        raise out_of_bounds(str(error)) from error


def nanoseconds_of(stamp: Any, wall: bool) -> int:
    """One stamp as UTC nanoseconds, or as those of its local clock."""
    stamp = pd.Timestamp(stamp)
    return int((stamp.tz_localize(None) if wall else stamp).as_unit("ns").value)


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
    unique, counts = np.unique(values, return_counts=True)
    return unique[np.argmax(counts)]


def _text_answers() -> AbstractContextManager:
    """Pandas 3 warns that its answer will be an offset one day, unless told that both are fine."""
    option = "future.infer_freq_returns_offset"
    try:
        pd.get_option(option)
    except KeyError:
        return nullcontext()
    return pd.option_context(option, False)


def infer_freq(stamps: pd.DatetimeIndex) -> str | None:
    """What pandas infers, None for nothing."""
    try:
        with _text_answers():
            return pd.infer_freq(stamps)
    except (ValueError, TypeError):
        return None


def localize(stamps: pd.DatetimeIndex, tz: Any) -> pd.DatetimeIndex:
    """Local stamps in their zone; one that a change of the clock leaves out moves on."""
    return stamps.tz_localize(tz, ambiguous=np.ones(len(stamps), bool), nonexistent="shift_forward")


def with_freq(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """The stamps with the frequency that pandas infers."""
    inferred = infer_freq(stamps) if len(stamps) >= 3 else None
    return stamps if inferred is None else pd.DatetimeIndex(stamps, freq=inferred)
