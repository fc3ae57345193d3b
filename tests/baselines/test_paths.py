"""Samples of the baselines are paths: their steps move together as those of the model do."""

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import toeplitz
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.statespace.sarimax import SARIMAX

from rnnforecast.baselines import (
    ARIMAForecaster,
    ETSForecaster,
    NaiveForecaster,
    ThetaForecaster,
)

H, N = 9, 20_000


def rows(n=300, seed=0, season=0.0):
    rng = np.random.default_rng(seed)
    y = 50 + rng.normal(size=n).cumsum() + season * np.sin(np.arange(n) * np.pi / 2)
    return pd.DataFrame({"y": y}, index=pd.date_range("2024-01-01", periods=n, freq="D"))


def drawn(fc, n_steps=H):
    """Samples, (n_steps, N), less their mean."""
    found = fc.sample(N, horizon=n_steps, random_state=0).to_numpy()
    return found - found.mean(axis=1, keepdims=True)


def check(fc, covariance, atol=0.04):
    """Covariance of the steps, and with it the spread of sums, near that of the model."""
    size = np.sqrt(np.diag(covariance))
    paths = drawn(fc) / size[:, None]
    np.testing.assert_allclose(
        np.cov(paths, bias=True), covariance / np.outer(size, size), atol=atol
    )
    theory = np.sqrt(covariance.sum())
    assert (paths * size[:, None]).sum(axis=0).std() == pytest.approx(theory, rel=atol)


STEP = np.arange(1.0, H + 1)
EARLIER = np.minimum(STEP[:, None], STEP)


def test_a_random_walk():
    fc = NaiveForecaster().fit(rows())
    check(fc, fc.sigma_.item() ** 2 * EARLIER)
    assert drawn(fc, 12).sum(axis=0).std() / fc.sigma_.item() == pytest.approx(25.5, rel=0.03)


def test_a_random_walk_after_missing_rows():
    data = rows()
    data.iloc[-5:] = np.nan
    fc = NaiveForecaster().fit(data)
    check(fc, fc.sigma_.item() ** 2 * (EARLIER + 5))


def test_a_drift():
    fc = NaiveForecaster(strategy="drift").fit(rows(20))
    check(fc, fc.sigma_.item() ** 2 * (EARLIER + np.outer(STEP, STEP) / 19))


def test_a_seasonal_naive_forecast():
    fc = NaiveForecaster(strategy="seasonal", seasonality=4).fit(rows(season=5.0))
    phase = (STEP[:, None] - STEP) % 4 == 0
    seasons = np.minimum.outer(*2 * [(STEP - 1) // 4 + 1])
    check(fc, fc.season_sigma_.item() ** 2 * phase * seasons)


def test_an_arima():
    data = rows()
    orders = (1, 1, 1), (1, 0, 0, 4)
    fc = ARIMAForecaster(order=orders[0], seasonal_order=orders[1]).fit(data)
    oracle = SARIMAX(data["y"].to_numpy(), order=orders[0], seasonal_order=orders[1])
    psi = oracle.impulse_responses(fc.params_.to_numpy(), H - 1)
    weights = toeplitz(psi, np.zeros(H)) * np.sqrt(fc.params_["sigma2"])
    check(fc, weights @ weights.T)


@pytest.mark.parametrize(
    "parts",
    [
        {"error": "add"},
        {"error": "add", "trend": "add", "damped_trend": True},
        {"error": "add", "trend": "add", "seasonal": "add", "seasonal_periods": 4},
        {"error": "mul", "trend": "add", "seasonal": "mul", "seasonal_periods": 4},
    ],
    ids=["ANN", "AAdN", "AAA", "MAM"],
)
def test_exponential_smoothing(parts):
    data = rows(season=5.0)
    own = {"trend": None, "damped_trend": False, "seasonal": None, **parts}
    own["seasonality"] = own.pop("seasonal_periods", 1)
    fc = ETSForecaster(**own).fit(data)
    sigma = fc.params_["sigma"]
    model = ETSModel(data["y"].to_numpy(), **parts)
    smoothing = fc.params_.drop("sigma").to_numpy()
    start = model.fit(disp=False).params[len(smoothing) :]
    errors = sigma * np.random.default_rng(1).standard_normal((H, N))
    found = model.smooth(np.append(smoothing, start))
    paths = found.simulate(H, anchor="end", repetitions=N, random_errors=errors)
    # the spread of a multiplicative form comes from 5000 paths of its own
    check(fc, np.cov(np.reshape(paths, (H, N))), 0.07 if parts["error"] == "mul" else 0.04)


@pytest.mark.parametrize("method", ["add", "mul"])
def test_the_theta_method(method):
    data = rows(season=5.0)
    fc = ThetaForecaster(seasonality=4, method=method).fit(data)
    alpha, sigma = fc.params_[["alpha", "sigma"]]
    weights = np.tril(np.full((H, H), alpha), -1) + np.eye(H)
    season = season_of(fc) if method == "mul" else np.ones(H)
    check(fc, sigma**2 * weights @ weights.T * np.outer(season, season))


def season_of(fc):
    """The factors of the season ahead: widths over those without one."""
    alpha, sigma = fc.params_[["alpha", "sigma"]]
    width = fc.forecast(horizon=H, quantiles=[0.5, 0.8413447460685429]).to_numpy()
    return (width[:, 1] - width[:, 0]) / (sigma * np.sqrt(1 + (STEP - 1) * alpha**2))


def test_every_series_and_target_has_its_own_paths():
    data = pd.concat({k: rows(seed=k).assign(z=rows(seed=k + 9)["y"]) for k in (1, 2)})
    for fc in (NaiveForecaster(), ARIMAForecaster(order=(0, 1, 0))):
        found = fc.fit(data).sample(N, horizon=H, random_state=0)
        last = found.groupby(level=0).last().stack(0, future_stack=True)
        np.testing.assert_allclose(np.corrcoef(last.to_numpy()), np.eye(4), atol=0.03)
        step = found.loc[1, "y"].to_numpy()[-2:]
        assert np.corrcoef(step)[0, 1] == pytest.approx(np.sqrt(8 / 9), abs=0.02)
