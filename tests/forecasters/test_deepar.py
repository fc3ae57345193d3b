"""DeepARForecaster: distributions of paths that are known, and the contract."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnnforecast import DeepARForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.outputs import NormalOutput, PointOutput, QuantileOutput, StudentTOutput

TINY = {
    "horizon": 3,
    "lookback": 6,
    "seasonality": 2,
    "hidden_size": 4,
    "n_layers": 1,
    "max_epochs": 2,
    "n_samples": 10,
    "random_state": 0,
}
REASON = "a row's step is its position in an array without an index"


def frame(n=100, seed=0):
    rng = np.random.default_rng(seed)
    values = 5 + np.sin(np.arange(n)[:, None] / 3 + np.arange(4)) + 0.1 * rng.normal(size=(n, 4))
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    return pd.DataFrame(values, index=index, columns=["y", "z", "x", "past"])


def panel():
    return pd.concat({"a": frame(seed=0), "b": 3 * frame(80, seed=1)}, names=["id", "time"])


def tiny(**options):
    return DeepARForecaster(**{**TINY, "target": ["y", "z"], "known": "x", **options})


# -- distributions that are known ------------------------------------------------------------------

STEPS = np.arange(1, 13)


def fitted_to(y, **options):
    common = {"horizon": 8, "lookback": 24, "seasonality": 1, "hidden_size": 16, "n_layers": 1}
    fc = DeepARForecaster(**common, max_epochs=6, n_samples=1000, random_state=0, **options).fit(
        pd.DataFrame({"y": y})
    )
    return fc, fc.sample(1000, horizon=len(STEPS)).to_numpy()  # (steps, paths)


@pytest.mark.parametrize("output", [NormalOutput(), None])
def test_paths_of_an_autoregression(output):
    """Mean, deviation of each step and of the sum of steps, of y_t = 0.7 y_{t-1} + e_t around 5."""
    rng, phi = np.random.default_rng(0), 0.7
    y = np.zeros(3000)
    for t, e in enumerate(rng.normal(size=len(y) - 1), 1):
        y[t] = phi * y[t - 1] + e
    fc, paths = fitted_to(y + 5, scaler="series", output=output)
    deviation = np.sqrt((1 - phi ** (2 * STEPS)) / (1 - phi**2))
    np.testing.assert_allclose(paths.mean(1), 5 + y[-1] * phi**STEPS, atol=0.15)
    np.testing.assert_allclose(paths.std(1), deviation, rtol=0.12)
    weights = (1 - phi**STEPS) / (1 - phi)  # of each noise in the sum
    of_sum = np.sqrt((weights**2).sum())
    assert paths.sum(0).std() == pytest.approx(of_sum, rel=0.12)
    assert np.sqrt((paths.var(1)).sum()) < 0.6 * of_sum  # steps are not drawn one by one
    # quantiles of a forecast are those of its paths
    found = fc.forecast(quantiles=[0.1, 0.5, 0.9], horizon=len(STEPS))["y"]
    expected = np.quantile(paths, [0.1, 0.5, 0.9], axis=1, method="hazen").T
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(found[0.5], fc.forecast(horizon=len(STEPS))["y"])


def test_paths_of_a_random_walk():
    y = np.random.default_rng(1).normal(size=2500).cumsum()
    _, paths = fitted_to(y)
    np.testing.assert_allclose(paths.mean(1), y[-1], atol=0.4)
    np.testing.assert_allclose(paths.std(1), np.sqrt(STEPS), rtol=0.15)
    of_sum = np.sqrt((STEPS**2).sum())
    assert paths.sum(0).std() == pytest.approx(of_sum, rel=0.15)


def test_a_season_is_learnt_and_intervals_cover():
    rng, season = np.random.default_rng(0), 6
    steps = np.arange(900)
    series = {
        name: 10 * k + np.sin(2 * np.pi * steps / season) + 0.3 * rng.normal(size=len(steps))
        for k, name in enumerate("abc")
    }
    df = pd.DataFrame(series).stack().rename("y").to_frame().swaplevel().sort_index()
    df.index.names = ["id", "time"]
    old = df[df.index.get_level_values("time") < 700]
    new = df[df.index.get_level_values("time") >= 700]
    fc = DeepARForecaster(
        horizon=6, seasonality=season, scaler="series", hidden_size=16, max_epochs=8, random_state=0
    ).fit(old)
    found = fc.rolling_forecast(new, quantiles=[0.1, 0.5, 0.9], stride=5)
    keys = found.index.droplevel("origin")
    truth = df["y"].loc[keys].to_numpy()
    inside = (truth >= found["y", 0.1]) & (truth <= found["y", 0.9])
    assert inside.mean() == pytest.approx(0.8, abs=0.06)
    # the best there is errs by 0.3, the seasonal naive forecast by 0.42
    assert np.sqrt(np.mean((truth - found["y", 0.5]) ** 2)) < 0.36


# -- draws -----------------------------------------------------------------------------------------


def test_same_bits_at_every_call_and_from_the_same_seed():
    df = frame()
    one, two = tiny().fit(df[:70]), tiny().fit(df[:70])
    first = one.forecast(df[70:], quantiles=[0.1, 0.9])
    one.sample(3, df[70:])
    for fc in (one, two, copy.deepcopy(one), clone(one).fit(df[:70])):
        pd.testing.assert_frame_equal(fc.forecast(df[70:], quantiles=[0.1, 0.9]), first)
    assert not tiny(random_state=1).fit(df[:70]).noise_seed_ == one.noise_seed_
    free = tiny(random_state=None).fit(df[:70])
    np.testing.assert_array_equal(free.forecast(df[70:]), free.forecast(df[70:]))
    a, b = one.sample(10, df[70:], random_state=0), one.sample(10, df[70:], random_state=0)
    pd.testing.assert_frame_equal(a, b)


def test_a_forecast_depends_on_its_own_row_alone():
    df = panel()
    fc = tiny().fit(df.groupby(level="id").head(60))
    later = df.groupby(level="id").tail(20)
    ahead = df.drop(df.groupby(level="id").head(60).index)
    whole = fc.forecast(ahead, quantiles=[0.1, 0.5, 0.9])
    for name in "ab":
        one = fc.forecast(
            ahead.loc[[name]],
            history=df.groupby(level="id").head(60).loc[[name]],
            quantiles=[0.1, 0.5, 0.9],
        )
        # scale measured on the same rows: the same numbers
        np.testing.assert_allclose(one, whole.loc[[name]], rtol=1e-9)
    assert len(later) == 40
    # more steps change none of the first ones
    np.testing.assert_allclose(
        fc.forecast(ahead, horizon=11).groupby(level="id").head(3), fc.forecast(ahead), rtol=1e-9
    )


@pytest.mark.parametrize("part", [slice(2, 48), slice(50, 53), slice(58, 90), slice(30, 75)])
def test_order_and_batches_do_not_matter(part):
    df = frame()
    fc = tiny(target="y").fit(df[:50])
    rows, order = df[part], np.random.default_rng(0).permutation(len(df[part]))
    for method in (fc.predict, fc.predict_interval):
        whole = method(rows)
        np.testing.assert_allclose(whole[order], method(rows.iloc[order]), rtol=1e-7, atol=1e-9)
        one_by_one = np.concatenate([method(rows.iloc[[k]]) for k in range(len(rows))])
        np.testing.assert_allclose(whole, one_by_one, rtol=0, atol=1e-7)


def test_levels_are_in_equal_parts_and_mirrored():
    """Means of forecasts that are linear in the noise have no error of sampling."""
    y = np.random.default_rng(0).normal(size=200).cumsum()
    fc = DeepARForecaster(**TINY, output=NormalOutput()).fit(pd.DataFrame({"y": y}))
    with torch.no_grad():
        fc.network_.head.weight.zero_()  # a linear autoregression of normal noise
        centre, spread = fc.network_.head.bias
        raw = fc.network_.regression
    paths = fc.sample(10).to_numpy()
    window = y[-6:] - y[-6:].mean()
    scale = np.abs(window).mean()
    middle = scale * (centre + raw @ torch.tensor([window[-1], window[-2]]) / scale)
    expected = y[-6:].mean() + middle.item()
    sd = scale * (torch.nn.functional.softplus(spread).item() + 1e-3)
    assert paths[0].mean() == pytest.approx(expected)
    from scipy import stats

    levels = np.sort(stats.norm.cdf((paths[0] - expected) / sd))
    np.testing.assert_array_equal(np.floor(levels * 10), np.arange(10))
    np.testing.assert_allclose(levels + levels[::-1], 1)


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e9, -np.inf, np.nan])
def test_nothing_after_the_cutoff_is_looked_at(value):
    df = frame()
    fc = tiny().fit(df[:70])
    bad = df.copy()
    bad.iloc[70:, [0, 1, 3]] = value
    for method in (fc.predict, fc.predict_interval):
        np.testing.assert_array_equal(method(bad[70:]), method(df[70:]))
        np.testing.assert_array_equal(method(bad[50:]), method(df[50:]))
    np.testing.assert_array_equal(fc.forecast(bad[70:]), fc.forecast(df[70:]))


def test_a_row_reads_its_own_covariates_only():
    df = frame()
    fc = tiny().fit(df[:70])
    whole = fc.predict(df[70:])
    for k in (0, 2, 11):
        bad = df[70:].copy()
        bad["x"] = np.where(np.arange(30) == k, df["x"][70:], 1e6)
        np.testing.assert_allclose(fc.predict(bad)[k], whole[k], rtol=1e-12)
        bad = df[70:].copy()
        bad.iloc[k, 2] = 1e6
        assert not np.allclose(fc.predict(bad)[k], whole[k])


@pytest.mark.parametrize("scaler", ["window", "series", None])
def test_a_panel_with_all_roles_and_missing_values(scaler):
    df = panel()
    df.loc[df.index[::7], "y"] = np.nan
    df["kind"] = np.where(df.index.get_level_values("id") == "a", 1.0, 2.0)
    old = df.groupby(level="id").head(60)
    fc = tiny(static="kind", scaler=scaler, n_members=2).fit(old)
    ahead = df.drop(old.index)
    table = fc.forecast(ahead, quantiles=[0.1, 0.9])
    assert table.shape == (6, 4)
    assert (table["y", 0.9] > table["y", 0.1]).all()
    rolled = fc.rolling_forecast(ahead)
    moved = fc.update(ahead.groupby(level="id").head(5)).forecast(ahead)
    at = rolled.xs(fc.cutoff_, level="origin")
    np.testing.assert_allclose(at, moved, rtol=1e-9)
    fc.partial_fit(ahead.groupby(level="id").head(9).groupby(level="id").tail(4))
    assert np.isfinite(fc.predict(ahead.groupby(level="id").tail(9))).all()
    in_sample = fc.predict(old)
    assert in_sample.shape == (120, 2)


def test_training_sees_all_steps_only_where_no_window_was_scaled_by_itself():
    """A window's own mean and scale know the values to be forecast inside it."""
    y = np.random.default_rng(0).normal(size=(200, 1)).cumsum(0)
    for scaler, whole in (("window", False), ("series", True), (None, True)):
        fc = DeepARForecaster(**TINY, scaler=scaler).fit(y)
        train, validation = fc._losses(fc.output_)
        assert (train.args[1], validation.args[1]) == (whole, False)


def test_it_is_searched_like_any_estimator():
    df = frame()
    options = {"hidden_size": [2, 4], "output": [NormalOutput(), StudentTOutput()]}
    search = GridSearchCV(
        DeepARForecaster(**{**TINY, "max_epochs": 1}), options, cv=TimeSeriesSplit(2, test_size=5)
    )
    search.fit(df[["x"]], df["y"])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": PointOutput()}, "output must have a whole distribution.*Got PointOutput"),
        (
            {"output": QuantileOutput((0.1, 0.9))},
            "output must have a whole distribution.*Got QuantileOutput",
        ),
        ({"output": "normal"}, "output must be an rnnforecast.outputs.Output or None"),
        ({"quantiles": (0.1, 0.9)}, "quantiles must be None"),
        ({"loss": "mse"}, "loss must be 'mae'"),
        ({"segment": 2}, "segment must be one of"),
        ({"n_samples": 0}, "n_samples must be an integer >= 1"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message):
    fc = tiny(**options)
    with pytest.raises(DataError, match=f"DeepARForecaster: {message}"):
        fc.fit(frame())
    assert not hasattr(fc, "panel_")


@parametrize_with_checks(
    [
        DeepARForecaster(
            hidden_size=4, n_layers=1, max_epochs=8, lr=0.03, n_samples=20, random_state=0
        )
    ],
    expected_failed_checks=lambda estimator: {
        "check_methods_sample_order_invariance": REASON,
        "check_methods_subset_invariance": REASON,
    },
)
def test_scikit_learn(estimator, check):
    check(estimator)
