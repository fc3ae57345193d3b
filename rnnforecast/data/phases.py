"""Where in the week and the year a row stands: what the lags of a season cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rnnforecast.data._stamps import DAY, MONDAY, delocalize, nanoseconds
from rnnforecast.data.calendar import FixedCalendar
from rnnforecast.data.panel import Panel

__all__ = ["CalendarPhases", "choose_phases"]

_WEEK = 7 * DAY
_YEAR = 365.2425 * DAY
# length of a cycle in nanoseconds, most harmonics: twelve follow the edges of a weekend within
# hours, three tell the days of a week apart, two the seasons of a year
_CYCLES = ((_WEEK, 12), (_YEAR, 2))

_ENOUGH = 0.1
_MOST_SERIES = 50
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class CalendarPhases:
    """Sines and cosines of the calendar's cycles at a row's time stamp."""

    interval: int  # nanoseconds from row to row
    cycles: tuple[tuple[float, int], ...]  # nanoseconds, and number of harmonics, of each

    @property
    def size(self) -> int:
        """Numbers that tell a row's phase."""
        return sum(2 * harmonics for _, harmonics in self.cycles)

    def at(self, panel: Panel, series: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Phases of rows of a panel with this interval, in the past or to come: (n, size)."""
        starts = panel.cached("local starts", lambda: _local_starts(panel))
        time = starts[series] + self.interval * np.asarray(positions, dtype=np.int64)
        parts = [np.empty((len(time), 0))]
        for length, harmonics in self.cycles:
            for k in range(1, harmonics + 1):
                angle = 2 * np.pi * k * np.fmod(time, length) / length
                parts.append(np.stack([np.sin(angle), np.cos(angle)], axis=1))
        return np.concatenate(parts, axis=1)


def _local_starts(panel: Panel) -> np.ndarray:
    """Local time of each series' first row, in nanoseconds since a Monday."""
    assert isinstance(panel.starts, pd.DatetimeIndex)
    return nanoseconds(delocalize(panel.starts)) - MONDAY


def choose_phases(panel: Panel, season: int) -> CalendarPhases | None:
    """The cycles worth telling a network, from the calendar and the rows of ``panel``.

    The week and the year, where they are longer than the season (whose lags tell it already), seen
    at least twice, and seen to matter: fitted by least squares to the older half of each series,
    they explain at least a tenth of the variance of the newer half. What is explained are
    differences over about a quarter of the cycle, in whole seasons, so that the level does not
    count; mean over at most 50 series. Only calendars with a constant interval have phases.
    """
    calendar = panel.calendar
    if not isinstance(calendar, FixedCalendar) or calendar.own_grid:
        return None
    interval, chosen = calendar.interval, []
    for length, most in _CYCLES:
        cycle = (length, min(most, int(length / interval - 1) // 2))
        longer, alone = length > interval * max(season, 2), CalendarPhases(interval, (cycle,))
        if longer and _explained(panel, alone, season) >= _ENOUGH:
            chosen.append(cycle)
    return CalendarPhases(interval, tuple(chosen)) if chosen else None


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
