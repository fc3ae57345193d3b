"""Where in the week and the year a row stands: what the lags of a season cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rnnforecast.data._stamps import DAY, delocalize, nanoseconds
from rnnforecast.data.calendar import FixedCalendar, IrregularCalendar
from rnnforecast.data.panel import Panel

__all__ = ["CalendarPhases", "choose_phases"]

_WEEK = 7 * DAY
_YEAR = 365.2425 * DAY
_EPOCH_MONDAY = 4 * DAY  # 1970-01-05
# length of a cycle in nanoseconds, most harmonics: twelve follow the edges of a weekend within
# hours, three tell the days of a week apart, two the seasons of a year
_CYCLES = ((_WEEK, 12), (_YEAR, 2))

_ENOUGH = 0.1
_MOST_SERIES = 50
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class CalendarPhases:
    """Sines and cosines of the calendar's cycles at a row's time stamp.

    Attributes
    ----------
    interval : int
        Nanoseconds from row to row.
    cycles : tuple of (float, int)
        Length in nanoseconds and number of harmonics of each cycle.
    """

    interval: int
    cycles: tuple[tuple[float, int], ...]

    @property
    def size(self) -> int:
        """Numbers that tell a row's phase."""
        return sum(2 * harmonics for _, harmonics in self.cycles)

    def at(self, panel: Panel, series: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Phases of rows.

        Parameters
        ----------
        panel : Panel
            The one fitted on, or another on a calendar with the same interval.
        series, positions : ndarray of int, shape (n,)
            Row ``positions[k]`` of series ``series[k]``; rows after the last go on by the interval.

        Returns
        -------
        ndarray of float64, shape (n, size)
        """
        starts = panel.cached("local starts", lambda: _local_starts(panel))
        time = starts[series] + self.interval * np.asarray(positions, dtype=np.int64)
        angles = [
            2 * np.pi * k * np.fmod(time, length) / length
            for length, harmonics in self.cycles
            for k in range(1, harmonics + 1)
        ]
        if not angles:
            return np.empty((len(time), 0))
        return np.concatenate([np.stack([np.sin(a), np.cos(a)], 1) for a in angles], axis=1)


def _local_starts(panel: Panel) -> np.ndarray:
    """Local time of each series' first row, in nanoseconds since a Monday."""
    assert isinstance(panel.starts, pd.DatetimeIndex)
    return nanoseconds(delocalize(panel.starts)) - _EPOCH_MONDAY


def choose_phases(panel: Panel, season: int) -> CalendarPhases | None:
    """The cycles worth telling a network, from the calendar and the rows of ``panel``.

    The week and the year, each where it is longer than the season (whose lags tell it already),
    seen at least twice, and seen to matter: the phases, fitted by least squares to the older half
    of each series, explain at least a tenth of the variance of the newer half. What is explained
    are differences over about a quarter of the cycle, in whole seasons, so that the level does
    not count; mean over at most 50 series. Only calendars with a constant interval have phases: not
    months, business days, irregular stamps or plain integers. None where there is no such cycle.
    ``season`` is the seasonal period in steps.
    """
    calendar = panel.calendar
    fixed = isinstance(calendar, FixedCalendar) and not isinstance(calendar, IrregularCalendar)
    if not fixed or panel.stamps is not None or not isinstance(panel.starts, pd.DatetimeIndex):
        return None
    assert isinstance(calendar, FixedCalendar)
    interval = calendar.interval
    least = interval * max(season, 2)
    cycles = [
        (length, min(most, int(length / interval - 1) // 2))
        for length, most in _CYCLES
        if length > least
    ]
    chosen = tuple(
        cycle
        for cycle in cycles
        if _explained(panel, CalendarPhases(interval, (cycle,)), season) >= _ENOUGH
    )
    return CalendarPhases(interval, chosen) if chosen else None


def _explained(panel: Panel, phases: CalendarPhases, season: int) -> float:
    """Share of the variance of the newer half that the phases explain; 0 if nothing can be told."""
    period = phases.cycles[0][0] / phases.interval  # in rows
    lag = max(round(period / 4 / season), 1) * season
    shares = []
    for i in np.linspace(0, panel.n_series - 1, min(panel.n_series, _MOST_SERIES)).astype(int):
        values = panel.targets[panel.series(i)][-_MOST_ROWS:].astype(np.float64)
        if len(values) < 2 * period + lag:
            continue
        rows = np.arange(int(panel.lengths[i]) - len(values) + lag, int(panel.lengths[i]))
        x = phases.at(panel, np.full(len(rows), i), rows)
        half = len(rows) // 2
        for column in (values[lag:] - values[:-lag]).T:
            old, new = ~np.isnan(column[:half]), ~np.isnan(column[half:])
            if old.sum() <= x.shape[1] or not new.any():
                continue
            fitted = np.linalg.lstsq(x[:half][old], column[:half][old], rcond=None)[0]
            truth = column[half:][new]
            left = truth - x[half:][new] @ fitted
            total = np.square(truth).mean()
            shares.append(1 - np.square(left).mean() / total if total > 0 else 0.0)
    return float(np.mean(np.maximum(shares, -1.0))) if shares else 0.0
