"""Time stamps and intervals as whole numbers of nanoseconds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError

__all__ = ["mode", "nanoseconds", "out_of_bounds", "short"]


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
