"""The seasonal period and the look-back, where nobody names one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.tsa.stattools import acf

from rnnforecast.data.frames import numeric, read_table
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import autocorrelation, choose_lookback, choose_seasonality


def panel_of(X):
    table = read_table("Someone", X)
    parts = [numeric("Someone", table.frame, c) for c in (list(table.frame.columns), [], [], [])]
    return Panel.build("Someone", table.keys, *parts)


@pytest.mark.parametrize("lag", [1, 4, 12])
def test_autocorrelation_against_statsmodels(lag):
    values = np.random.default_rng(0).normal(size=300).cumsum()
    # statsmodels divides the lagged sum by n (adjusted=True: by the number of pairs, as here)
    expected = acf(values, nlags=lag, adjusted=True, fft=False)[lag]
    np.testing.assert_allclose(autocorrelation(values, lag), expected, rtol=1e-10)


def test_autocorrelation_leaves_nan_out():
    values = np.random.default_rng(0).normal(size=300).cumsum()
    values[[5, 80]] = np.nan
    centred = values - np.nanmean(values)
    pairs = [a * b for a, b in zip(centred[4:], centred[:-4]) if not np.isnan(a * b)]
    expected = np.mean(pairs) / np.mean(centred[~np.isnan(centred)] ** 2)
    np.testing.assert_allclose(autocorrelation(values, 4), expected, rtol=1e-10)
    assert np.isnan(autocorrelation(np.ones(30), 2))


@pytest.mark.parametrize("period", [4, 7, 12, 24])
def test_counted_rows_show_their_period(period):
    rng = np.random.default_rng(period)
    wave = rng.normal(size=period)
    values = np.tile(wave, 300 // period) + 0.2 * rng.normal(size=period * (300 // period))
    assert choose_seasonality(panel_of(values[:, None])) == period
    # a trend changes nothing
    assert choose_seasonality(panel_of((values + np.arange(len(values)))[:, None])) == period


def test_noise_random_walks_constants_and_short_series_have_none():
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(size=300),
        rng.normal(size=300).cumsum(),
        np.ones(300),
        np.full(300, np.nan),
        np.arange(9.0),
    ):
        assert choose_seasonality(panel_of(values[:, None])) == 1


def test_the_calendar_says_it_first_unless_the_series_is_too_short():
    def hours(n):
        index = pd.date_range("2024-01-01", periods=n, freq="h")
        return panel_of(pd.DataFrame({"y": np.sin(np.arange(n))}, index=index))

    assert choose_seasonality(hours(48)) == 24
    assert choose_seasonality(hours(47)) == 1


@pytest.mark.parametrize(
    ("n", "horizon", "season", "expected"),
    [
        (1000, 1, 1, 24),  # at least 24
        (1000, 1, 12, 84),  # seven seasons
        (1000, 40, 7, 80),  # two horizons
        (5000, 1, 1440, 336),  # at most 336
        (50, 10, 24, 20),  # half of what one horizon leaves
        (3, 2, 1, 1),
    ],
)
def test_look_back_rule(n, horizon, season, expected):
    assert choose_lookback(panel_of(np.arange(float(n))[:, None]), horizon, season) == expected


def months(lengths, index=None, seed=0):
    """Series with a period of twelve, of several lengths, with dates or counted."""
    rng = np.random.default_rng(seed)
    parts = {}
    for k, n in enumerate(lengths):
        values = 3 * np.sin(2 * np.pi * (np.arange(n) + k) / 12) + 0.3 * rng.normal(size=n)
        parts[f"s{k}"] = pd.DataFrame({"y": values}, index=index if index is None else index[:n])
    return panel_of(pd.concat(parts, names=["id", "time"]))


@pytest.mark.parametrize("lengths", [[96] * 5, [96, 96, 15, 96, 4], [2, 96, 96]])
def test_the_typical_series_says_the_season_and_the_look_back(lengths):
    counted = months(lengths)
    dated = months(lengths, pd.date_range("2015-01-01", periods=96, freq="MS"))
    for panel in (counted, dated):
        assert choose_seasonality(panel) == 12
        assert choose_lookback(panel, 6, 12) == (96 - 6) // 2
    # most series decide, not the longest
    assert choose_seasonality(months([15, 15, 15, 96])) == 1


def test_rows_without_a_calendar_are_counted():
    values = months([96]).targets
    assert choose_seasonality(panel_of(values)) == choose_seasonality(panel_of(values[:, :1])) == 12
    assert choose_seasonality(panel_of(values[:20])) == 1
