"""The Theta method against statsmodels and its own recursion."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.tsa.forecasting.theta import ThetaModel

from rnnforecast.baselines import ThetaForecaster
from rnnforecast.exceptions import DataError

SEASON = np.array([1.0, 2, 3, 9])


def quarterly(n=101, season=True, shift=50.0, seed=0):
    y = shift + np.random.default_rng(seed).normal(size=n).cumsum()
    y = y + (np.resize(SEASON, n) if season else 0)
    return pd.Series(y, pd.date_range("2000-01-01", periods=n, freq="QS"), name="y")


@pytest.mark.parametrize("season", [True, False])
@pytest.mark.parametrize("shift", [50.0, -30.0])
@pytest.mark.parametrize("theta", [2.0, 3.0])
@pytest.mark.parametrize("missing", [0, 3])
def test_same_forecasts_as_statsmodels(season, shift, theta, missing):
    y = quarterly(season=season, shift=shift)
    y.iloc[:missing] = np.nan
    fc = ThetaForecaster(theta=theta, horizon=7).fit(y)
    theirs = ThetaModel(y[missing:], period=4).fit()
    np.testing.assert_allclose(fc.predict(), theirs.forecast(7, theta=theta), rtol=1e-7)


def test_interval_without_a_season_is_near_that_of_statsmodels():
    y = quarterly(season=False, n=300)
    fc = ThetaForecaster(deseasonalize=False, horizon=7).fit(y)
    theirs = ThetaModel(y, deseasonalize=False).fit().prediction_intervals(7, alpha=0.1)
    width = np.diff(fc.predict_interval(coverage=0.9), axis=1)[:, 0]
    np.testing.assert_allclose(width, np.diff(theirs.to_numpy(), axis=1)[:, 0], rtol=0.02)


def test_in_sample_values_are_the_forecasts_of_each_prefix():
    y = quarterly(season=False, n=40)
    fc = ThetaForecaster(deseasonalize=False).fit(y)
    alpha, b0, _ = fc.params_
    level, expected = y.iloc[0], []
    for t, value in enumerate(y):
        # Hyndman & Billah 2003, eq. 3 with theta = 2 and h = 1, after t rows
        expected.append(level + b0 / 2 * (1 / alpha - (1 - alpha) ** t / alpha))
        level = alpha * value + (1 - alpha) * level
    np.testing.assert_allclose(fc.predict(y.to_frame()), expected)


def test_update_runs_the_recursion_on():
    y = quarterly()
    fc = ThetaForecaster(horizon=1).fit(y[:60])
    one_step = []
    for row in range(60, 80):
        one_step.append(fc.predict()[0])
        fc.update(y[row : row + 1].to_frame())
    np.testing.assert_allclose(fc.predict(y[60:80].to_frame()), one_step)


def test_coverage_with_a_season():
    inside = []
    for seed in range(60):
        y = quarterly(n=86, seed=seed)
        fc = ThetaForecaster(horizon=6).fit(y[:80])
        low, high = fc.predict_interval(coverage=0.8).T
        inside.append((low < y[80:]) & (y[80:] < high))
    assert abs(np.mean(inside) - 0.8) < 0.07


def test_missing_values_are_refused_with_a_remedy():
    y = quarterly()
    y.iloc[40] = np.nan
    with pytest.raises(DataError, match="the series: the Theta method takes no missing values"):
        ThetaForecaster().fit(y)
    with pytest.raises(DataError, match="theta must be"):
        ThetaForecaster(theta=0.5).fit(y)
    with pytest.raises(DataError, match="method='mul' needs values above 0"):
        ThetaForecaster(method="mul").fit(quarterly(shift=-30.0))


def test_missing_rows_in_update_are_passed_over():
    y = quarterly()
    fc = ThetaForecaster(deseasonalize=False, horizon=5).fit(y[:90])
    before = fc.predict()
    gap = y[90:92].to_frame()
    gap["y"] = np.nan
    wide = np.diff(fc.predict_interval(), axis=1)
    fc.update(gap)
    np.testing.assert_allclose(fc.predict()[:3], before[2:])
    np.testing.assert_allclose(np.diff(fc.predict_interval(), axis=1)[:3], wide[2:])
