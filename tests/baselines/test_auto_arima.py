"""ARIMA with chosen orders against statsforecast."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from rnnforecast.baselines import ARIMAForecaster, AutoARIMAForecaster
from rnnforecast.exceptions import OptionalDependencyError

models = pytest.importorskip("statsforecast.models")

N = 80
RNG = np.random.default_rng(0)
WALK = RNG.normal(size=N).cumsum()
SERIES = {
    "seasonal with drift": WALK + 0.3 * np.arange(N) + 5 * np.resize([1.0, 2, 3, 4], N),
    "stationary": 50 + RNG.normal(size=N),
    "random walk": WALK,
}
X = RNG.normal(size=(N + 6, 2))


def frame(y, known):
    index = pd.date_range("2000-01-01", periods=N + 6, freq="QS")
    out = pd.DataFrame({"y": np.append(y, np.full(6, np.nan))}, index=index)
    if known:
        out["a"], out["b"] = X.T
        out["y"] += X @ [1.0, 2.0]
    return out[:N], out[N:]


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("known", [False, True])
def test_same_orders_and_forecasts_as_statsforecast(name, known):
    train, future = frame(SERIES[name], known)
    fc = AutoARIMAForecaster(target="y", known=["a", "b"] if known else None, horizon=6)
    fc.fit(train)
    x, ahead = (X[:N], X[N:]) if known else (None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = models.AutoARIMA(season_length=4).fit(train["y"].to_numpy(), x)
    theirs = peer.predict(6, X=ahead, level=[90])
    p, q, seasonal_p, seasonal_q, _, d, seasonal_d = peer.model_["arma"]
    assert fc.order_ == (p, d, q)
    assert fc.seasonal_order_[:3] == (seasonal_p, seasonal_d, seasonal_q)
    assert f"ARIMA({p},{d},{q})" in repr(fc)
    np.testing.assert_allclose(fc.predict(future), theirs["mean"], rtol=1e-5)
    interval = np.stack([theirs["lo-90"], theirs["hi-90"]], axis=1)
    np.testing.assert_allclose(fc.predict_interval(future), interval, rtol=1e-5)
    fitted = peer.predict_in_sample()["fitted"]
    if not any(fc.seasonal_order_[:3]):  # a seasonal start is treated otherwise
        np.testing.assert_allclose(fc.predict(train)[2:], fitted[2:], rtol=1e-5, atol=1e-5)


def test_update_is_forward():
    train, _ = frame(SERIES["random walk"], False)
    fc = AutoARIMAForecaster(target="y", horizon=3).fit(train[:60])
    peer = models.AutoARIMA(season_length=4).fit(train["y"][:60].to_numpy())
    theirs = peer.forward(train["y"].to_numpy(), 3)["mean"]
    np.testing.assert_allclose(fc.update(train[60:]).predict(), theirs, rtol=1e-6)


def test_with_gaps_the_parameters_come_from_all_rows():
    train, _ = frame(SERIES["random walk"], True)
    train = train.copy()
    train.iloc[[0, 30, 31], 0] = np.nan
    fc = AutoARIMAForecaster(target="y", known=["a", "b"]).fit(train)
    trend = "t" if "drift" in fc.params_ else None
    fixed = ARIMAForecaster(order=fc.order_, trend=trend, target="y", known=["a", "b"]).fit(train)
    pd.testing.assert_series_equal(fc.params_, fixed.params_)
    assert np.abs(fc.params_[["a", "b"]] - [1, 2]).max() < 0.3


def test_constant_and_short_series_get_their_mean():
    panel = pd.concat(
        {
            "constant": pd.DataFrame({"y": np.full(30, 5.0)}),
            "short": pd.DataFrame({"y": [1.0, 3.0, 2.0]}),
        },
        names=["id", "row"],
    )
    fc = AutoARIMAForecaster(horizon=2).fit(panel)
    assert fc.forecast()["y"].round(9).tolist() == [5.0, 5.0, 2.0, 2.0]
    assert fc.order_["y"].tolist() == [(0, 0, 0)] * 2


def test_levels_far_from_zero():
    y = 1e9 + SERIES["random walk"]
    fc = AutoARIMAForecaster(horizon=1).fit(pd.Series(y))
    width = np.diff(fc.predict_interval(), axis=1)[0, 0]
    assert 0.5 < width / (2 * 1.645 * np.diff(y).std()) < 2


def test_the_extra_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsforecast.models", None)
    with pytest.raises(OptionalDependencyError, match=r"rnnforecast\[auto\]"):
        AutoARIMAForecaster().fit(pd.Series(np.arange(20.0)))
