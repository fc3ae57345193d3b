"""Regression with ARIMA errors against statsmodels."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning
from statsmodels.tsa.arima.model import ARIMA

from rnnforecast.baselines import ARIMAForecaster
from rnnforecast.exceptions import DataError

CASES = [
    ((1, 0, 0), (0, 0, 0, 0), None),
    ((1, 0, 1), (0, 0, 0, 0), None),
    ((2, 0, 0), (0, 0, 0, 0), "ct"),
    ((1, 0, 0), (1, 0, 0), None),
    ((2, 1, 1), (0, 0, 0, 0), "t"),
    ((0, 1, 1), (0, 1, 1), None),
    ((1, 0, 0), (0, 1, 1, 12), "n"),
]


def monthly(n=130, future=12, seed=0):
    rng = np.random.default_rng(seed)
    e = np.zeros(n + future)
    for t in range(1, len(e)):
        e[t] = 0.7 * e[t - 1] + rng.normal()
    x = 40 * rng.normal(size=len(e))
    y = 100 + 0.05 * x + e + 3 * np.sin(2 * np.pi * np.arange(len(e)) / 12)
    index = pd.date_range("2010-01-01", periods=len(e), freq="MS")
    frame = pd.DataFrame({"y": y, "x": x}, index=index)
    return frame[:n].copy(), frame[n:].copy()


def peer(frame, order, seasonal, trend):
    """statsmodels' model of the same orders."""
    if trend is None:
        trend = "c" if order[1] + seasonal[1] == 0 else "n"
    seasonal = (*seasonal[:3], 12) if any(seasonal) else (0, 0, 0, 0)
    return ARIMA(
        frame["y"].to_numpy(),
        exog=frame[["x"]].to_numpy(),
        order=order,
        seasonal_order=seasonal,
        trend=trend,
    )


def estimates(fc, trend):
    """Our estimates in the order of statsmodels: trend, covariates, ARMA terms, variance."""
    return fc.params_.to_numpy()


@pytest.mark.parametrize(("order", "seasonal", "trend"), CASES)
@pytest.mark.parametrize("gaps", [False, True])
def test_same_numbers_as_statsmodels(order, seasonal, trend, gaps):
    train, test = monthly()
    if gaps:
        train.iloc[[0, 1, 50, 51, 52, 80], 0] = np.nan
    fc = ARIMAForecaster(order=order, seasonal_order=seasonal, trend=trend, target="y", known="x")
    fc.fit(train)
    params = fc.params_.to_numpy()
    if trend == "ct":  # our time starts at 0, theirs at 1
        params = params - [params[1], *[0] * (len(params) - 1)]
    model = peer(train, order, seasonal, trend)
    theirs = model.smooth(params)
    future = theirs.get_forecast(12, exog=test[["x"]].to_numpy())
    close = {"rtol": 1e-5}  # the diffuse start of statsmodels is not quite that
    np.testing.assert_allclose(fc.predict(test), future.predicted_mean, **close)
    np.testing.assert_allclose(fc.predict_interval(test), future.conf_int(alpha=0.1), **close)
    burn = max(26, model.loglikelihood_burn)
    np.testing.assert_allclose(fc.predict(train)[burn:], theirs.fittedvalues[burn:], **close)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = model.fit()
    assert fc.converged_
    assert theirs.llf > own.llf - 0.05  # the same maximum


@pytest.mark.parametrize(("order", "seasonal", "trend"), CASES)
def test_update_is_append_without_refit(order, seasonal, trend):
    train, test = monthly()
    fc = ARIMAForecaster(order=order, seasonal_order=seasonal, trend=trend, target="y", known="x")
    fc.fit(train)
    before = fc.params_
    params = before.to_numpy()
    if trend == "ct":
        params = params - [params[1], *[0] * (len(params) - 1)]
    fc.update(test[:5])
    pd.testing.assert_series_equal(fc.params_, before)
    result = peer(train, order, seasonal, trend).smooth(params)
    result = result.append(test["y"][:5].to_numpy(), exog=test[["x"]][:5].to_numpy(), refit=False)
    future = result.get_forecast(7, exog=test[["x"]][5:].to_numpy())
    np.testing.assert_allclose(fc.predict(test[5:]), future.predicted_mean, rtol=1e-5)
    np.testing.assert_allclose(fc.predict_interval(test[5:]), future.conf_int(alpha=0.1), rtol=1e-5)


def test_update_row_by_row_gives_the_in_sample_values():
    train, test = monthly()
    fc = ARIMAForecaster(order=(1, 1, 1), target="y", known="x").fit(train)
    one_step = []
    for row in range(12):
        one_step.append(fc.predict(test[row : row + 1])[0])
        fc.update(test[row : row + 1])
    np.testing.assert_allclose(fc.predict(test), one_step, rtol=1e-12)


def test_a_covariate_acts_on_its_own_row_only():
    train, test = monthly()
    fc = ARIMAForecaster(order=(1, 1, 0), target="y", known="x").fit(train)
    base = fc.predict(test)
    changed = test.copy()
    changed.iloc[4, 1] += 10.0
    difference = fc.predict(changed) - base
    np.testing.assert_allclose(difference[4], 10 * fc.params_["x"])
    assert (np.delete(difference, 4) == 0).all()
    # rows with a gap between them
    np.testing.assert_array_equal(fc.predict(test.iloc[[1, 7, 11]]), base[[1, 7, 11]])


def test_in_sample_rows_take_the_covariates_they_are_given():
    train, _ = monthly()
    fc = ARIMAForecaster(target="y", known="x").fit(train)
    shifted = train.assign(x=train["x"] + 1)
    np.testing.assert_allclose(fc.predict(shifted) - fc.predict(train), fc.params_["x"])


def test_early_rows_of_a_differenced_series_are_sane():
    train, _ = monthly()
    fc = ARIMAForecaster(order=(0, 1, 1), seasonal_order=(0, 1, 1), target="y").fit(train)
    early = fc.predict(train)[:13]
    assert np.abs(early - train["y"][:13]).max() < 12
    assert fc.score(train) > 0


def test_coverage_by_simulation():
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(60):
        e = rng.normal(size=156)
        for t in range(1, 156):
            e[t] += 0.6 * e[t - 1]
        fc = ARIMAForecaster(horizon=6).fit(pd.Series(e[:150]))
        low, high = fc.predict_interval(coverage=0.8).T
        inside.append((low < e[150:]) & (e[150:] < high))
    assert abs(np.mean(inside) - 0.8) < 0.06


def test_covariates_with_gaps_and_differences_are_used():
    rng = np.random.default_rng(0)
    x = 100 * rng.normal(size=60)
    y = rng.normal(size=60).cumsum() + 0.5 * x
    y[1::2] = np.nan  # no two rows in a row: differencing would leave nothing
    frame = pd.DataFrame({"y": y, "x": x}, index=pd.date_range("2024", periods=60))
    fc = ARIMAForecaster(order=(0, 1, 1), target="y", known="x").fit(frame)
    assert abs(fc.params_["x"] - 0.5) < 0.02


def test_dependent_covariates_do_not_matter():
    train, test = monthly()
    fc = ARIMAForecaster(target="y", known="x").fit(train)
    more = ARIMAForecaster(target="y", known=["x", "one", "twice"])
    more.fit(train.assign(one=1.0, twice=2 * train["x"]))
    wide = test.assign(one=1.0, twice=2 * test["x"])
    np.testing.assert_allclose(more.predict(wide), fc.predict(test), rtol=1e-4)


def test_missing_covariates():
    train, test = monthly()
    holes = train.copy()
    holes.iloc[7, 1] = np.nan
    fc = ARIMAForecaster(target="y", known="x")
    with pytest.raises(DataError, match=r"known covariate number 1 is missing .* 2010-08-01"):
        fc.fit(holes)
    holes.iloc[7, 0] = np.nan  # where the target is missing too, nothing is read
    fc.fit(holes)
    test.iloc[2, 1] = np.nan
    with pytest.raises(DataError, match=r"known covariate 'x' is missing \(NaN\) in row 2"):
        fc.predict(test)
    with pytest.raises(DataError, match="known covariate number 1 is missing"):
        fc.update(test)
    assert len(fc.history()) == 130


def test_too_few_rows_are_told_and_fitted_with_less():
    frame, _ = monthly(n=10)
    fc = ARIMAForecaster(order=(2, 1, 1), seasonal_order=(0, 1, 1, 12), target="y")
    with pytest.warns(ConvergenceWarning, match=r"the series: too few rows.* for ARIMA\(2,1,1\)"):
        fc.fit(frame)
    assert fc.order_ == (0, 1, 0)
    assert fc.seasonal_order_ == (0, 0, 0, 0)
    np.testing.assert_allclose(fc.predict(), frame["y"].iloc[-1])
    mean = ARIMAForecaster(order=(2, 0, 2), target="y")
    with pytest.warns(ConvergenceWarning, match="fitted as ARIMA.0,0,0. with mean"):
        mean.fit(frame[:4])
    np.testing.assert_allclose(mean.predict(), frame["y"][:4].mean())


def test_non_convergence_is_told():
    train, _ = monthly()
    fc = ARIMAForecaster(order=(2, 0, 2), maxiter=1, target="y", known="x")
    with pytest.warns(ConvergenceWarning, match="the series: the optimiser did not converge"):
        fc.fit(train)
    assert not fc.converged_


def test_bad_parameters():
    y = pd.Series(np.arange(30.0))
    for parameters, message in [
        ({"order": (1, 0)}, "order must be a tuple of 3 integers"),
        ({"order": (1, -1, 0)}, "order must be"),
        ({"seasonal_order": 3}, "seasonal_order must be"),
        ({"seasonal_order": (1, 0, 0)}, "needs a season of 2 or more"),
        ({"order": (1, 1, 0), "trend": "c"}, "expected 't' or None"),
        ({"trend": "x"}, "trend must be one of"),
    ]:
        with pytest.raises(DataError, match=message):
            ARIMAForecaster(**parameters).fit(y)


def test_levels_far_from_zero():
    y = 1e9 + np.random.default_rng(0).normal(size=80).cumsum()
    fc = ARIMAForecaster(order=(0, 1, 1), horizon=1).fit(pd.Series(y))
    near = ARIMAForecaster(order=(0, 1, 1), horizon=1).fit(pd.Series(y - 1e9))
    np.testing.assert_allclose(fc.predict() - 1e9, near.predict(), atol=1e-4)
    np.testing.assert_allclose(fc.params_, near.params_, rtol=1e-3)


@pytest.mark.parametrize("gaps", [False, True])
def test_a_long_seasonal_series_gives_its_parameters_back(gaps):
    rng = np.random.default_rng(2)
    e = rng.normal(size=1200)
    y = e.copy()
    for t in range(24, 1200):  # (1 - 0.6 B)(1 - 0.5 B^12) y = (1 + 0.4 B) e
        y[t] = 0.6 * y[t - 1] + 0.5 * y[t - 12] - 0.3 * y[t - 13] + e[t] + 0.4 * e[t - 1]
    x = 10 * rng.normal(size=1200)
    frame = pd.DataFrame({"y": 20 + y + 0.3 * x, "x": x})
    if gaps:
        frame.iloc[[3, 400, 401, 900], 0] = np.nan
    orders = {"order": (1, 0, 1), "seasonal_order": (1, 0, 0, 12)}
    fc = ARIMAForecaster(**orders, target="y", known="x").fit(frame)
    expected = {"x": 0.3, "ar.L1": 0.6, "ma.L1": 0.4, "ar.S.L12": 0.5, "sigma2": 1.0}
    assert all(abs(fc.params_[name] - value) < 0.1 for name, value in expected.items())


@pytest.mark.parametrize("orders", [((2, 0, 1), (0, 0, 0, 0)), ((1, 1, 1), (0, 1, 1))])
@pytest.mark.parametrize("gaps", [False, True])
def test_rolling_origins_are_statsmodels_filter_on_the_rows_before(orders, gaps):
    order, seasonal = orders
    frame, _ = monthly()
    if gaps:
        frame.iloc[[50, 104, 105, 113], 0] = np.nan
    train, test = frame[:100], frame[100:]
    fc = ARIMAForecaster(order=order, seasonal_order=seasonal, target="y", known="x", horizon=4)
    fc.fit(train)
    rolled = fc.rolling_forecast(test, stride=3, quantiles=[0.05, 0.5, 0.95])["y"]
    for origin, values in rolled.groupby(level="origin"):
        n = frame.index.get_loc(origin) + 1
        theirs = peer(frame[:n], order, seasonal, None).filter(fc.params_.to_numpy())
        future = theirs.get_forecast(4, exog=frame[["x"]][n : n + 4].to_numpy())
        np.testing.assert_allclose(values[0.5], future.predicted_mean, rtol=1e-5)
        np.testing.assert_allclose(values[[0.05, 0.95]], future.conf_int(alpha=0.1), rtol=1e-5)


def test_a_history_of_other_rows_takes_the_fitted_parameters():
    frame, future = monthly()
    fc = ARIMAForecaster(order=(1, 0, 1), trend="ct", target="y", known="x", horizon=12)
    fc.fit(frame)
    ahead = fc.forecast(future[["x"]])
    # the time in the trend goes on from fit; after so many rows the start is forgotten
    later = fc.forecast(future[["x"]], history=frame[60:])
    np.testing.assert_allclose(later, ahead, rtol=1e-7)
    moved = ARIMAForecaster(order=(0, 1, 1), target="y", known="x", horizon=12).fit(frame)
    np.testing.assert_allclose(
        moved.forecast(future[["x"]], history=frame[60:]), moved.forecast(future[["x"]]), rtol=1e-5
    )
    assert len(fc.history()) == len(frame)
