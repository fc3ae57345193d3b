"""Forecasts and their errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from rnnforecast import ARIMAForecaster, NaiveForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.inspection import ForecastDisplay, ResidualDisplay

# -- forecasts -------------------------------------------------------------------------------------


def test_forecast_intervals_and_truth(fitted, panel):
    known = fitted.panel_.future_frame_index(4)
    ahead = panel.reindex(known).fillna({"price": 0.0, "shift": "day", "size": 0.0})
    display = ForecastDisplay.from_estimator(fitted, ahead, coverage=0.8)
    pd.testing.assert_frame_equal(display.forecast, fitted.forecast(ahead))
    quantiles = fitted.forecast(ahead, quantiles=[0.1, 0.9])
    pd.testing.assert_frame_equal(display.intervals, quantiles)
    truth = panel.reindex(known)[["load", "wind"]].dropna(how="all")
    pd.testing.assert_frame_equal(display.truth, truth, check_freq=False)
    assert display.panels == [(s, t) for s in "ABC" for t in ("load", "wind")]
    few = ForecastDisplay.from_estimator(fitted, ahead, series=["C", "A"], target="wind")
    assert few.panels == [("C", "wind"), ("A", "wind")]
    with pytest.raises(DataError, match="target must be some of .*'wind'.* Got 'rain'"):
        ForecastDisplay.from_estimator(fitted, ahead, target="rain")


def test_forecast_as_long_as_the_rows_to_come(single, one):
    display = ForecastDisplay.from_estimator(one, single[130:])
    pd.testing.assert_frame_equal(display.truth, single[130:], check_freq=False)
    pd.testing.assert_frame_equal(display.forecast, one.forecast(horizon=20))
    assert len(ForecastDisplay.from_estimator(one).forecast) == 4
    assert ForecastDisplay.from_estimator(one).truth is None


def test_forecast_in_the_unit_of_the_outermost_estimator(single):
    model = TransformedTargetRegressor(NaiveForecaster(horizon=5), func=np.log, inverse_func=np.exp)
    X = pd.DataFrame({"x": 0.0}, index=single.index)
    model.fit(X[:130], single["load"][:130])
    display = ForecastDisplay.from_estimator(model, X[130:135], single["load"][130:135])
    np.testing.assert_allclose(display.forecast.iloc[:, 0], single["load"].iloc[129])
    np.testing.assert_allclose(display.truth.iloc[:, 0], single["load"][130:135])
    np.testing.assert_allclose(display.history.iloc[:, 0], single["load"][:130])
    residuals = ResidualDisplay.from_estimator(model, X[130:], single["load"][130:]).residuals
    expected = single["load"][130:146].to_numpy() - single["load"][129:145].to_numpy()
    np.testing.assert_allclose(residuals[1], expected)
    turned = TransformedTargetRegressor(
        NaiveForecaster(horizon=5), func=np.negative, inverse_func=np.negative
    ).fit(X[:130], single["load"][:130])
    table = ForecastDisplay.from_estimator(turned, X[130:135]).intervals
    assert (np.diff(table.to_numpy(), axis=1) > 0).all()


def test_trained_quantiles_are_shown(fit):
    model = fit(quantiles=[0.2, 0.8])
    levels = ForecastDisplay.from_estimator(model).intervals.columns.get_level_values(1)
    assert levels.tolist() == [0.2, 0.5, 0.8]


@pytest.mark.parametrize("display", [ForecastDisplay, ResidualDisplay])
def test_no_forecaster(display):
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(DataError, match=f"{display.__name__} takes .* Got LinearRegression"):
        display.from_estimator(model)


# -- residuals -------------------------------------------------------------------------------------


def test_residuals_are_truth_less_rolling_forecast(single, one):
    display = ResidualDisplay.from_estimator(one, single[130:])
    rolled = one.rolling_forecast(single[130:])["load"]
    errors = single["load"].reindex(rolled.index.get_level_values("time")).to_numpy() - rolled
    np.testing.assert_allclose(display.residuals, errors.to_numpy().reshape(-1, 4), atol=1e-12)
    assert display.residuals.index[0] == single.index[130] and not display.in_sample


def test_residuals_in_sample(fitted, panel):
    display = ResidualDisplay.from_estimator(fitted, series="B", target="wind")
    times = display.residuals.index
    rows = panel.loc[["B"]].loc[(slice(None), times), :]
    expected = rows["wind"].to_numpy() - fitted.predict(rows)[:, 1]
    np.testing.assert_allclose(display.residuals[1], expected, atol=1e-9)
    assert display.in_sample and times[0] == pd.Timestamp("2024-03-02")


def test_autocorrelation_and_its_bound(single):
    display = ResidualDisplay.from_estimator(NaiveForecaster().fit(single))
    errors = display.residuals[1].to_numpy()
    centred = errors - errors.mean()
    expected = [(centred[k:] * centred[: len(centred) - k]).sum() for k in range(6)]
    np.testing.assert_allclose(display.acf[:6], np.array(expected) / expected[0])
    assert display.bound == pytest.approx(1.96 / np.sqrt(len(errors)))
    flat = NaiveForecaster().fit(pd.DataFrame({"y": np.ones(40)}))
    assert ResidualDisplay.from_estimator(flat).acf.isna().all()


def test_residuals_of_a_baseline_and_a_pipeline(single):
    arima = ARIMAForecaster(order=(1, 0, 0), horizon=2).fit(single[:120])
    assert ResidualDisplay.from_estimator(arima, single[120:]).residuals.abs().mean().max() < 2
    plain = NaiveForecaster(horizon=2)
    double = make_pipeline(FunctionTransformer(lambda X: 2 * X), clone(plain)).fit(single[:120])
    one = ResidualDisplay.from_estimator(plain.fit(single[:120]), single[120:]).residuals
    two = ResidualDisplay.from_estimator(double, single[120:]).residuals
    np.testing.assert_allclose(two, 2 * one)


def test_too_few_rows_for_residuals(one, single):
    with pytest.raises(DataError, match="ResidualDisplay needs 5 rows of the series .* Got 3"):
        ResidualDisplay.from_estimator(one, single[130:133])
