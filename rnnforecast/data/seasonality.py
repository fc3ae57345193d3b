"""The seasonal period of data whose calendar does not tell one."""

from __future__ import annotations

import numpy as np

from rnnforecast.data.calendar import default_seasonality
from rnnforecast.data.panel import Panel

__all__ = ["autocorrelation", "choose_lookback", "choose_seasonality", "choose_segment"]

# periods that counted data usually have: quarters, business days, days, months, hours, weeks
_CANDIDATES = (4, 5, 7, 12, 24, 48, 52, 96, 144, 168)
_MOST_SERIES = 50
_MOST_LOOKBACK = 336
_LEAST_LOOKBACK = 24
_SEASONS = 7  # of days: a week; measured best on hourly data (benchmarks/RESULTS.md)


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Autocorrelation at one lag, pairs with NaN left out.

    Parameters
    ----------
    values : ndarray, shape (n,)
    lag : int

    Returns
    -------
    float
        NaN if there are fewer than three pairs or no variance.
    """
    centred = values - np.nanmean(values)
    pairs = centred[lag:] * centred[:-lag]
    variance = np.nanmean(centred**2)
    if np.sum(~np.isnan(pairs)) < 3 or not variance > 0:
        return float("nan")
    return float(np.nanmean(pairs) / variance)


def choose_seasonality(panel: Panel) -> int:
    """Seasonal period in steps, from the calendar or else from the rows of ``panel``.

    Without a calendar period, the common periods (4, 5, 7, 12, 24, 48, 52, 96, 144, 168) that fit
    three times into the series are judged by the autocorrelation of the differenced series at their
    lag, mean over at most 50 series. The shortest that reaches nine tenths of the greatest is
    taken, if that is significant (1.645 standard errors, the test of the M4 competition's Naive2)
    and above 0.3; else 1.

    Parameters
    ----------
    panel : Panel

    Returns
    -------
    int
    """
    season = 1 if panel.calendar is None else int(default_seasonality(panel.calendar))
    shortest = int(np.median(panel.lengths))
    if season > 1:
        return season if shortest >= 2 * season else 1
    candidates = [m for m in _CANDIDATES if 3 * m <= shortest - 1]
    if not candidates:
        return 1
    scores = np.full((len(candidates), 0), np.nan)
    for i in np.linspace(0, panel.n_series - 1, min(panel.n_series, _MOST_SERIES)).astype(int):
        values = panel.targets[panel.series(i)].astype(np.float64)
        for column in np.diff(values, axis=0).T:
            if (~np.isnan(column)).sum() < 3:
                continue
            found = [autocorrelation(column, lag) for lag in candidates]
            scores = np.column_stack([scores, found])
    if not scores.shape[1] or np.isnan(scores).all(axis=1).any():
        return 1
    mean = np.nanmean(scores, axis=1)
    best = mean.max()
    limit = max(1.645 / np.sqrt(shortest), 0.3)
    if not best > limit:
        return 1
    return candidates[int(np.argmax(mean >= 0.9 * best))]


def choose_lookback(panel: Panel, horizon: int, season: int) -> int:
    """Rows that a window looks back on, where the user names none.

    Seven seasons or two horizons, whichever is longer, at least 24 and at most 336 steps, and never
    more than half of what the shortest series has left beside one horizon.

    Parameters
    ----------
    panel : Panel
    horizon, season : int

    Returns
    -------
    int
    """
    wanted = min(
        max(_SEASONS * season if season > 1 else 0, 2 * horizon, _LEAST_LOOKBACK), _MOST_LOOKBACK
    )
    return max(min(wanted, (int(np.median(panel.lengths)) - horizon) // 2), 1)


def choose_segment(season: int, lookback: int) -> int:
    """Steps that a network folds into one, where the user names none.

    A season where the look-back holds at least two, so that each step of the network is a whole
    cycle; else 1.

    Parameters
    ----------
    season, lookback : int

    Returns
    -------
    int
    """
    return season if 1 < season <= lookback // 2 else 1
