"""The naive forecasts against the textbook's formulas and statsforecast."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from rnnforecast.baselines import NaiveForecaster
from rnnforecast.exceptions import DataError

Z = norm.ppf(0.95)


def monthly(values):
    index = pd.date_range("2015-01-01", periods=len(values), freq="MS")
    return pd.DataFrame({"y": np.asarray(values, dtype=float)}, index=index)


@pytest.fixture
def walk():
    return monthly(50 + np.random.default_rng(3).normal(size=60).cumsum())


def half_width(forecaster):
    return np.diff(forecaster.predict_interval(coverage=0.9), axis=1)[:, 0] / 2


def test_last_value_and_interval_of_the_textbook(walk):
    y = walk["y"].to_numpy()
    fc = NaiveForecaster(horizon=8).fit(walk)
    assert (fc.predict() == y[-1]).all()
    sigma = np.sqrt(np.mean(np.diff(y) ** 2))
    np.testing.assert_allclose(half_width(fc), Z * sigma * np.sqrt(np.arange(1, 9)))


def test_seasonal_value_and_interval_of_the_textbook(walk):
    y = walk["y"].to_numpy()
    fc = NaiveForecaster(strategy="seasonal", horizon=30).fit(walk)
    assert fc.seasonality_ == 12
    h = np.arange(1, 31)
    np.testing.assert_array_equal(fc.predict(), y[-12:][(h - 1) % 12])
    sigma = np.sqrt(np.mean((y[12:] - y[:-12]) ** 2))
    k = (h - 1) // 12
    np.testing.assert_allclose(half_width(fc), Z * sigma * np.sqrt(k + 1))


def test_drift_and_interval_of_the_textbook(walk):
    y = walk["y"].to_numpy()
    fc = NaiveForecaster(strategy="drift", horizon=8).fit(walk)
    h, n = np.arange(1, 9), len(y)
    slope = (y[-1] - y[0]) / (n - 1)
    np.testing.assert_allclose(fc.predict(), y[-1] + h * slope)
    sigma = np.sqrt(np.sum((np.diff(y) - slope) ** 2) / (n - 2))
    np.testing.assert_allclose(half_width(fc), Z * sigma * np.sqrt(h * (1 + h / (n - 1))))


@pytest.mark.parametrize("strategy", ["last", "seasonal", "drift"])
def test_against_statsforecast(walk, strategy):
    models = pytest.importorskip("statsforecast.models")
    peer = {
        "last": lambda: models.Naive(),
        "seasonal": lambda: models.SeasonalNaive(season_length=12),
        "drift": lambda: models.RandomWalkWithDrift(),
    }[strategy]()
    y = walk["y"].to_numpy()
    peer.fit(y)
    theirs = peer.predict(15, level=[90])
    fc = NaiveForecaster(strategy=strategy, horizon=15).fit(walk)
    np.testing.assert_allclose(fc.predict(), theirs["mean"])
    fitted = peer.predict_in_sample()["fitted"]
    known = ~np.isnan(fitted)
    np.testing.assert_allclose(fc.predict(walk)[known], fitted[known])
    if strategy != "drift":  # statsforecast divides by one degree of freedom more
        np.testing.assert_allclose(fc.predict_interval()[:, 0], theirs["lo-90"], rtol=1e-3)


def test_missing_values_are_skipped_and_widen_the_interval():
    y = [1.0, np.nan, np.nan, 4.0, 6.0, np.nan]
    fc = NaiveForecaster(horizon=2).fit(monthly(y))
    assert fc.predict().tolist() == [6.0, 6.0]
    # a change of 3 over 3 steps has the variance of 3 steps: 3²/3; then 2² over one
    sigma = np.sqrt((9 / 3 + 4) / 2)
    np.testing.assert_allclose(half_width(fc), Z * sigma * np.sqrt([2, 3]))
    drift = NaiveForecaster(strategy="drift", horizon=1).fit(monthly(y))
    np.testing.assert_allclose(drift.predict(), [6 + 2 * 5 / 4])


def test_seasonal_takes_the_last_observed_value_of_the_phase():
    y = [1.0, 2, 3, 4, np.nan, 6]
    fc = NaiveForecaster(strategy="seasonal", seasonality=3, horizon=4).fit(monthly(y))
    assert fc.predict().tolist() == [4.0, 2.0, 6.0, 4.0]
    sigma = np.sqrt(np.mean([3.0**2, 3.0**2]))
    np.testing.assert_allclose(half_width(fc), Z * sigma * np.sqrt([1, 2, 1, 2]))
    np.testing.assert_allclose(fc.predict(monthly(y))[3:], [1, 2, 3])


def test_phase_without_an_observation_gets_the_last_value():
    fc = NaiveForecaster(strategy="seasonal", seasonality=4, horizon=4).fit(monthly([1.0, 3.0]))
    assert fc.predict().tolist() == [3.0, 3.0, 1.0, 3.0]


@pytest.mark.parametrize("strategy", ["last", "seasonal", "drift"])
def test_update_moves_the_values_and_keeps_the_parameters(walk, strategy):
    fc = NaiveForecaster(strategy=strategy, horizon=1).fit(walk[:40])
    one_step = []
    sigma = fc.sigma_
    for row in range(40, 60):
        one_step.append(fc.predict()[0])
        fc.update(walk[row : row + 1])
    np.testing.assert_allclose(fc.predict(walk[40:]), one_step)
    assert fc.sigma_ is sigma


def test_coverage_on_random_walks():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [range(300), pd.date_range("2024", periods=106, freq="h")], names=["series", "time"]
    )
    walks = rng.normal(size=(300, 106)).cumsum(axis=1)
    panel = pd.DataFrame({"y": walks.reshape(-1)}, index=index)
    times = index.get_level_values("time")
    fc = NaiveForecaster(horizon=6).fit(panel[times < times[100]])
    interval = fc.predict_interval(coverage=0.8).reshape(300, 6, 2)
    inside = (walks[:, 100:] > interval[..., 0]) & (walks[:, 100:] < interval[..., 1])
    assert abs(inside.mean() - 0.8) < 0.04


def test_bad_strategy():
    with pytest.raises(DataError, match="strategy must be one of"):
        NaiveForecaster(strategy="mean").fit(np.arange(9.0))
