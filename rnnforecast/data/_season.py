"""Usual seasonal periods of intervals and of pandas offsets, in steps."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["DAY", "season_of_interval", "season_of_offset"]

DAY = 86_400_000_000_000  # nanoseconds


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
    name = offset.rule_code.split("-")[0]
    per_year = {"W": 52, "SME": 24, "SMS": 24}
    if isinstance(offset, pd.offsets.CustomBusinessDay):
        return max(sum(offset.calendar.weekmask) // offset.n, 1)
    for prefix, season in (("B", 5), ("D", 7), ("C", 5)):
        if name == prefix:
            return max(season // offset.n, 1)
    for prefix, season in (("BM", 12), ("M", 12), ("BQ", 4), ("Q", 4), ("CBM", 12)):
        if name.startswith(prefix):
            return max(season // offset.n, 1)
    return max(per_year.get(name, 1) // offset.n, 1)
