"""A baseline of one function is a full forecaster through the one hook of the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rnnforecast import NaiveForecaster, backtest
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import BaseForecaster
from rnnforecast.outputs import NormalForecast
from rnnforecast.parameters import estimator


@estimator
class FunctionForecaster(BaseForecaster):
    """``function(history, steps)`` is the forecast, with a deviation of ``sqrt(step)``."""

    function: Any = None

    def _fit_panel(self, panel):
        return {}

    def _forecast(self, history, series, origins, n_steps, known):
        rows = [
            history.targets[history.series(i)][:n] for i, n in zip(series, origins, strict=True)
        ]
        mean = torch.as_tensor(np.stack([self.function(part, n_steps) for part in rows]))
        step = torch.arange(1.0, n_steps + 1, dtype=torch.float64)[:, None]
        return NormalForecast(mean, step.sqrt().expand(mean.shape))


def mean_of_four(history, steps):
    """Mean of the last four rows, rising by 1 a step."""
    level = history[-4:].mean(axis=0) if len(history) else np.zeros(history.shape[1])
    return level + np.arange(1.0, steps + 1)[:, None]


def frame(n=40, seed=0, start="2024-01-01"):
    values = np.random.default_rng(seed).normal(size=n).cumsum() + 50
    return pd.DataFrame({"y": values}, index=pd.date_range(start, periods=n, name="day"))


def panel(names="ab"):
    return pd.concat({name: frame(30 + 5 * k, k) for k, name in enumerate(names)}, names=["id"])


FC = FunctionForecaster(function=mean_of_four, horizon=3)


def test_points_intervals_and_samples():
    df = frame()
    fc = clone(FC).fit(df)
    level = df["y"][-4:].mean()
    expected = level + np.arange(1, 4)
    np.testing.assert_allclose(fc.predict(), expected)
    table = fc.forecast()
    np.testing.assert_allclose(table["y"], expected)
    assert list(table.index) == list(pd.date_range("2024-02-10", periods=3))
    np.testing.assert_allclose(fc.forecast(horizon=7)["y"], level + np.arange(1, 8))
    low, high = fc.predict_interval(coverage=0.8).T
    np.testing.assert_allclose(high - expected, norm.ppf(0.9) * np.sqrt([1, 2, 3]), rtol=1e-6)
    np.testing.assert_allclose(low + high, 2 * expected)
    quantiles = fc.predict_quantiles(quantiles=[0.9, 0.1])
    np.testing.assert_allclose(quantiles, np.stack([high, low], axis=1))
    drawn = fc.sample(4000, random_state=0)["y"].to_numpy()
    np.testing.assert_allclose(drawn.mean(axis=1), expected, atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=1), np.sqrt([1, 2, 3]), rtol=0.05)
    assert "fitted" in repr(fc)
    assert fc.cutoff_ == df.index[-1]


def test_in_sample_values_know_the_rows_before_them_only():
    df = frame()
    fc = clone(FC).fit(df)
    y = df["y"].to_numpy()
    expected = [mean_of_four(y[:t, None], 1)[0, 0] for t in range(len(y))]
    np.testing.assert_allclose(fc.predict(df), expected)
    assert fc.score(df) == pytest.approx(r2_score(y, expected))


def test_update_rolling_origins_and_another_history():
    df = frame()
    fc = clone(FC).fit(df[:30])
    rolled = fc.rolling_forecast(df[30:], stride=2)
    assert fc.cutoff_ == df.index[29]
    step = clone(FC).fit(df[:30])
    for origin in range(30, 38, 2):
        own = step.forecast()
        np.testing.assert_allclose(rolled.loc[df.index[origin - 1], "y"], own["y"])
        pd.testing.assert_frame_equal(fc.forecast(history=df[:origin]), own)
        step.update(df[origin : origin + 2])


def test_series_that_are_new():
    data = panel("abc")
    known = data.loc[["a", "b"]]
    fc = clone(FC).fit(known)
    pd.testing.assert_frame_equal(
        fc.forecast(history=data.loc[["c"]]), clone(FC).fit(data.loc[["c"]]).forecast()
    )
    later = frame(4, 9, start=str(data.loc["a"].index[-1] + pd.Timedelta(days=1)))
    more = pd.concat({"a": later, "c": data.loc["c"]}, names=["id"])
    whole = pd.concat([known, more]).sort_index()
    pd.testing.assert_frame_equal(
        fc.update(more).forecast(), clone(FC).fit(whole).forecast(), check_freq=False
    )


def test_scikit_learn_and_backtests():
    df = frame(60)
    X, y = pd.DataFrame({"x": np.arange(60.0)}, index=df.index), df["y"]
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), clone(FC)).fit(
        X[:50], y[:50]
    )
    np.testing.assert_allclose(
        pipe.predict(X[50:53]), mean_of_four(y[:50].to_numpy()[:, None], 3)[:, 0]
    )
    shifted = TransformedTargetRegressor(
        clone(FC), func=lambda v: v + 10, inverse_func=lambda v: v - 10
    ).fit(X[:50], y[:50])
    np.testing.assert_allclose(shifted.predict(X[50:53]), pipe.predict(X[50:53]))
    assert len(cross_val_score(clone(FC), X, y, cv=TimeSeriesSplit(3))) == 3
    flat = lambda history, steps: np.full((steps, history.shape[1]), 50.0)  # noqa: E731
    search = GridSearchCV(clone(FC), {"function": [mean_of_four, flat]}, cv=TimeSeriesSplit(3))
    assert search.fit(X, y).best_params_["function"] in (mean_of_four, flat)
    table = backtest({"ours": clone(FC), "naive": NaiveForecaster()}, df, horizon=3, n_origins=4)
    assert set(table["model"]) == {"ours", "naive"}


def test_what_it_cannot_do_is_told():
    fc = clone(FC).fit(frame())
    with pytest.raises(DataError, match="not after the cutoff"):
        fc.update(frame())
    with pytest.raises(DataError, match="first argument of forecast"):
        fc.forecast(24)
