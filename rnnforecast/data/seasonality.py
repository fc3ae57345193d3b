"""The season and the look-back of data, where nobody names them."""

from __future__ import annotations

import numpy as np

from rnnforecast.data.panel import Panel

__all__ = ["autocorrelation", "choose_lookback", "choose_seasonality", "choose_segment"]

# periods that counted data usually have: quarters, business days, days, months, hours, weeks
_CANDIDATES = (4, 5, 7, 12, 24, 48, 52, 96, 144, 168)
_MOST_SERIES = 50
_MOST_LOOKBACK = 336
_LEAST_LOOKBACK = 24
_SEASONS = 7  # of days: a week; measured best on hourly data (benchmarks/RESULTS.md)


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Autocorrelation of one series at one lag; NaN if it has no three pairs or no variance."""
    centred = values - np.nanmean(values)
    pairs = centred[lag:] * centred[:-lag]
    variance = np.nanmean(centred**2)
    if np.sum(~np.isnan(pairs)) < 3 or not variance > 0:
        return float("nan")
    return float(np.nanmean(pairs) / variance)


def choose_seasonality(panel: Panel) -> int:
    """Seasonal period in steps, from the calendar or else from the rows: the one rule for networks,
    baselines and metrics.

    That of the calendar (a day for intervals below a day, a week for days, a year for weeks, months
    and quarters), if the typical series, one of median length, has two of it. Without one, the
    common periods (4, 5, 7, 12, 24, 48, 52, 96, 144, 168) that fit three times into the typical
    series are judged by the autocorrelation of the differenced series at their lag, mean over at
    most 50 series of at least that length. The shortest that reaches nine tenths of the greatest is
    taken, if that is significant (1.645 standard errors, the test of the M4 competition's Naive2)
    and above 0.3; else 1.
    """
    typical = _typical(panel)
    season = 1 if panel.calendar is None else int(panel.calendar.season)
    if season > 1:
        return season if typical >= 2 * season else 1
    long = np.flatnonzero(panel.lengths >= typical)
    some = long[np.linspace(0, len(long) - 1, min(len(long), _MOST_SERIES)).astype(int)]
    series = [panel.targets[panel.series(i)] for i in some]
    candidates = [m for m in _CANDIDATES if 3 * m <= typical - 1]
    changes = [c for values in series for c in np.diff(values.astype(np.float64), axis=0).T]
    seen = [change for change in changes if (~np.isnan(change)).sum() >= 3]
    scores = np.array([[autocorrelation(change, lag) for lag in candidates] for change in seen])
    if not candidates or not len(scores) or np.isnan(scores).all(axis=0).any():
        return 1
    mean = np.nanmean(scores, axis=0)
    best = mean.max()
    if not best > max(1.645 / np.sqrt(typical), 0.3):
        return 1
    return candidates[int(np.argmax(mean >= 0.9 * best))]


def _typical(panel: Panel) -> int:
    """Rows of the series of median length."""
    return int(np.median(panel.lengths))


def choose_lookback(
    panel: Panel, horizon: int, season: int, seasons: int = _SEASONS, most: int = _MOST_LOOKBACK
) -> int:
    """Rows that a window looks back on: so many seasons or two horizons, whichever is longer, at
    least 24 and at most ``most`` steps, and never more than half of what one horizon leaves of the
    typical series, the one of median length.
    """
    wanted = max(seasons * season if season > 1 else 0, 2 * horizon, _LEAST_LOOKBACK)
    return max(min(wanted, most, (_typical(panel) - horizon) // 2), 1)


def choose_segment(season: int, lookback: int) -> int:
    """Steps that a network folds into one: a season where the look-back holds at least two, so that
    each step of the network is a whole cycle; else 1.
    """
    return season if 1 < season <= lookback // 2 else 1
