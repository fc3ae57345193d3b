"""Phases of the calendar against pandas, and the rule that chooses them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rnnforecast import DeepLSTMForecaster, NaiveForecaster
from rnnforecast.data.phases import choose_phases


def hourly(weeks=8, weekend=4.0, tz=None, seed=0):
    index = pd.date_range("2024-01-03 05:00", periods=168 * weeks, freq="h", tz=tz)
    noise = np.random.default_rng(seed).normal(scale=0.3, size=len(index))
    daily = 3 * np.sin(2 * np.pi * index.hour / 24)
    return pd.DataFrame({"y": daily - weekend * (index.day_of_week >= 5) + noise}, index=index)


def panel_of(df):
    return NaiveForecaster(horizon=1).fit(df).panel_


@pytest.mark.parametrize("tz", [None, "Asia/Tokyo"])
def test_the_phase_of_the_week_is_that_of_the_local_clock(tz):
    df = hourly(tz=tz)
    panel = panel_of(df)
    phases = choose_phases(panel, 24)
    later = df.index.union(pd.date_range(df.index[-1], periods=50, freq="h"))
    share = (later.day_of_week + later.hour / 24) / 7
    angles = 2 * np.pi * np.outer(share, np.arange(1, 13))
    expected = np.stack([np.sin(angles), np.cos(angles)], 2).reshape(len(later), 24)
    found = phases.at(panel, np.zeros(len(later), dtype=int), np.arange(len(later)))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_phase_of_the_year():
    index = pd.date_range("2019-05-01", periods=3 * 365, freq="D")
    y = np.cos(2 * np.pi * index.day_of_year / 365) + 0.1 * np.sin(np.arange(len(index)))
    panel = panel_of(pd.DataFrame({"y": y}, index=index))
    phases = choose_phases(panel, 7)
    assert [round(length / 86_400e9) for length, _ in phases.cycles] == [365]
    found = phases.at(panel, np.zeros(2, dtype=int), np.array([0, 365]))
    np.testing.assert_allclose(found[0], found[1], atol=0.02)  # the year has a quarter day more
    assert abs(found[0] - phases.at(panel, np.zeros(1, int), np.array([180]))[0]).max() > 1


@pytest.mark.parametrize(
    ("df", "season"),
    [
        (hourly(weekend=0.0), 24),  # nothing differs by day
        (hourly(), 168),  # the lags tell the week already
        (hourly(weeks=1), 24),  # seen once only
        (hourly().reset_index(drop=True), 24),  # no time stamps
        (hourly(weeks=40).resample("MS").mean(), 1),  # months differ in length
    ],
)
def test_no_phases_where_they_tell_nothing(df, season):
    assert choose_phases(panel_of(df), season) is None


def test_every_series_has_its_own_phase():
    a, b = hourly(), hourly(seed=1)
    b.index = b.index + pd.Timedelta(hours=31)
    panel = panel_of(pd.concat({"a": a, "b": b}, names=["id", "time"]))
    phases = choose_phases(panel, 24)
    both = phases.at(panel, np.array([0, 1]), np.array([31, 0]))
    np.testing.assert_allclose(both[0], both[1], atol=1e-9)


def test_a_network_that_is_told_the_week_forecasts_the_weekend():
    """Look-back of two days: whether tomorrow is a Saturday cannot be seen from the values."""
    df = hourly(weeks=12, weekend=6.0)
    errors = {}
    for calendar in (True, False):
        fc = DeepLSTMForecaster(
            horizon=24,
            lookback=48,
            calendar=calendar,
            hidden_size=16,
            max_epochs=20,
            random_state=0,
        ).fit(df[: -168 * 2])
        assert (fc.phases_ is not None) == calendar
        rolled = [fc.forecast()]
        for day in range(13):
            start = len(df) - 168 * 2 + 24 * day
            rolled.append(fc.update(df[start : start + 24]).forecast())
        forecast = pd.concat(rolled)
        errors[calendar] = (forecast["y"] - df["y"].reindex(forecast.index)).abs().mean()
    assert errors[True] < 0.9 * errors[False]


def test_beyond_the_horizon_each_block_has_its_own_phase():
    df = hourly()
    fc = DeepLSTMForecaster(horizon=24, lookback=48, hidden_size=8, max_epochs=2, random_state=0)
    fc.fit(df)
    ahead = fc.forecast(horizon=48)["y"]
    # the second block is what a history grown by the first one's forecast gives
    grown = fc.update(fc.forecast()).forecast()["y"]
    np.testing.assert_allclose(ahead[24:], grown, rtol=1e-9)


def test_days_have_as_many_harmonics_as_tell_them_apart():
    index = pd.date_range("2023-01-01", periods=70, freq="D")
    df = pd.DataFrame({"y": 1.0 * (index.day_of_week >= 5)}, index=index)
    (cycle,) = choose_phases(panel_of(df), 1).cycles
    assert cycle[1] == 3
