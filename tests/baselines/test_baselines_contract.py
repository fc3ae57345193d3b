"""What every baseline owes to the contract, whatever its model."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnnforecast.baselines import (
    ARIMAForecaster,
    AutoARIMAForecaster,
    ETSForecaster,
    NaiveForecaster,
    ThetaForecaster,
)
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import DeepGRUForecaster

MODELS = {
    "last": NaiveForecaster(horizon=3),
    "seasonal": NaiveForecaster(strategy="seasonal", horizon=3),
    "drift": NaiveForecaster(strategy="drift", horizon=3),
    "arima": ARIMAForecaster(horizon=3),
    "sarima": ARIMAForecaster(order=(0, 1, 1), seasonal_order=(1, 0, 0, 7), horizon=3),
    "ets": ETSForecaster(horizon=3),
    "theta": ThetaForecaster(horizon=3),
}
AUTO = pytest.param("auto", marks=pytest.mark.slow)
USES_KNOWN = ("arima", "sarima", "auto")


def model(name, **parameters):
    if name == "auto":
        pytest.importorskip("statsforecast")
        return AutoARIMAForecaster(horizon=3, **parameters)
    return clone(MODELS[name]).set_params(**parameters)


every = pytest.mark.parametrize("name", [*MODELS, AUTO])


def frame(n=80, seed=0, start="2024-01-01"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 20 + rng.normal(size=n).cumsum() * 0.3 + np.resize(np.arange(7.0), n) + x
    index = pd.date_range(start, periods=n, freq="D", name="day")
    return pd.DataFrame({"y": y, "z": 3 * y[::-1] + 100, "x": x}, index=index)


def panel():
    parts = {"b": frame(60, 1), "a": frame(70, 2), "c": frame(50, 3, "2024-02-01")}
    return pd.concat(parts, names=["id", "day"])


# -- scikit-learn ---------------------------------------------------------------

REASON = "a row's step is its position in an array without an index"
DECLARED = {
    "check_methods_sample_order_invariance": REASON,
    "check_methods_subset_invariance": REASON,
}


def declared(estimator):
    """A forecast that is the same at every step cannot tell the order of rows."""
    flat = isinstance(estimator, (ETSForecaster, AutoARIMAForecaster)) or (
        isinstance(estimator, NaiveForecaster) and estimator.strategy == "last"
    )
    return {} if flat else DECLARED


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        NaiveForecaster(),
        NaiveForecaster(strategy="drift"),
        ARIMAForecaster(),
        ETSForecaster(),
        ThetaForecaster(),
    ],
    expected_failed_checks=declared,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([AutoARIMAForecaster()], expected_failed_checks=declared)
def test_scikit_learn_auto(estimator, check):
    pytest.importorskip("statsforecast")
    check(estimator)


PARTS = [slice(2, 48), slice(50, 53), slice(58, 80), slice(30, 75)]


@every
@pytest.mark.parametrize("method", ["predict", "predict_interval"])
def test_order_and_subsets_of_rows_with_stamps_do_not_matter(name, method):
    df = frame()
    fc = model(name, target="y", known="x").fit(df[:50])
    predict = getattr(fc, method)
    for part in PARTS:
        rows = df[part]
        whole = predict(rows)
        order = np.random.default_rng(0).permutation(len(rows))
        np.testing.assert_array_equal(predict(rows.iloc[order]), whole[order])
        each = np.concatenate([predict(rows[k : k + 1]) for k in range(len(rows))])
        np.testing.assert_array_equal(each, whole)


@every
def test_clone_set_params_and_pickle(name):
    df = frame()
    fc = model(name, target="y", known="x").fit(df[:60])
    assert clone(fc).get_params() == fc.get_params()
    expected = fc.predict(df)
    np.testing.assert_array_equal(fc.predict(df), expected)  # predict changes nothing
    again = pickle.loads(pickle.dumps(fc))  # noqa: S301
    np.testing.assert_array_equal(again.predict(df), expected)
    np.testing.assert_array_equal(again.predict_interval(df), fc.predict_interval(df))
    refit = clone(fc).fit(df[:60])
    np.testing.assert_array_equal(refit.predict(df), expected)
    assert len(pickle.dumps(fc)) < 60_000
    fc.set_params(horizon=5)
    assert len(fc.forecast(df[60:])) == 5


def test_voting_and_transformed_target_with_a_frame():
    df = frame()
    X, y = df[["x"]], df["y"]
    arima = ARIMAForecaster().fit(X[:60], y[:60])
    last = NaiveForecaster().fit(X[:60], y[:60])
    vote = VotingRegressor([("arima", ARIMAForecaster()), ("last", NaiveForecaster())])
    vote.fit(X[:60], y[:60])
    np.testing.assert_allclose(
        vote.predict(X[60:]), (arima.predict(X[60:]) + last.predict(X[60:])) / 2
    )
    logged = TransformedTargetRegressor(
        NaiveForecaster(), func=np.log, inverse_func=np.exp, check_inverse=False
    ).fit(X[:60], y[:60])
    np.testing.assert_allclose(logged.predict(X[60:]), y.iloc[59])
    scaled = TransformedTargetRegressor(ARIMAForecaster(), transformer=LinearTarget())
    scaled.fit(X[:60], y[:60])
    np.testing.assert_allclose(scaled.predict(X[60:]), arima.predict(X[60:]), rtol=1e-4)


class LinearTarget(LinearRegression):
    """An affine change of the target, which a linear model must not notice."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return (np.asarray(X) - 10) / 4

    def inverse_transform(self, X):
        return 4 * np.asarray(X) + 10


# -- the library's own contract ---------------------------------------------------


@every
@pytest.mark.parametrize("value", [1e9, np.nan, -np.inf])
def test_targets_after_the_cutoff_change_nothing(name, value):
    df = frame()
    fc = model(name, target="y", known="x").fit(df[:60])
    bad = df.copy()
    bad.iloc[60:, [0, 1]] = value
    for method in (fc.predict, fc.predict_interval):
        np.testing.assert_array_equal(method(bad[60:]), method(df[60:]))
    pd.testing.assert_frame_equal(fc.forecast(bad[60:]), fc.forecast(df[60:]))


@every
def test_forecast_predict_and_quantiles_agree(name):
    df = frame()
    fc = model(name, target="y", known="x").fit(df[:60])
    table = fc.forecast(df[60:])
    pd.testing.assert_index_equal(table.index, df.index[60:63], check_names=True)
    np.testing.assert_array_equal(table["y"], fc.predict(df[60:63]))
    quantiles = fc.forecast(df[60:], quantiles=[0.05, 0.5, 0.95])["y"].to_numpy()
    np.testing.assert_allclose(quantiles[:, [0, 2]], fc.predict_interval(df[60:63], 0.9))
    assert (np.diff(quantiles, axis=1) > 0).all()
    np.testing.assert_allclose(quantiles[:, 1], fc.predict(df[60:63]), rtol=0.02)


@every
def test_a_panel_is_each_series_alone(name):
    data = panel()
    fc = model(name, target="y", known="x").fit(data)
    ahead = pd.concat(
        {
            key: frame(9, 9, start=data.loc[key].index[-1] + pd.Timedelta(days=1))
            for key in ("a", "b", "c")
        },
        names=["id", "day"],
    )
    together = pd.Series(fc.predict(ahead), ahead.index)
    inside = pd.Series(fc.predict(data), data.index)
    for key in ("a", "b", "c"):
        alone = model(name, target="y", known="x").fit(data.loc[key])
        np.testing.assert_array_equal(together[key], alone.predict(ahead.loc[key]))
        np.testing.assert_array_equal(inside[key], alone.predict(data.loc[key]))
    if not isinstance(fc, NaiveForecaster):
        assert list(fc.converged_.index) == ["b", "a", "c"]


def test_two_processes_give_the_same_bits():
    data = panel()
    one = model("sarima", target="y").fit(data)
    two = model("sarima", target="y", n_jobs=2).fit(data)
    np.testing.assert_array_equal(one.predict(), two.predict())


@every
def test_several_targets_are_fitted_apart(name):
    df = frame()
    both = model(name, target=["y", "z"], known="x").fit(df[:60])
    for k, target in enumerate(["y", "z"]):
        alone = model(name, target=target, known="x").fit(df[:60][[target, "x"]])
        rows = df[["x"]][50:]
        np.testing.assert_allclose(both.predict(rows)[:, k], alone.predict(rows), rtol=1e-12)
        np.testing.assert_allclose(
            both.predict_interval(rows)[:, k], alone.predict_interval(rows), rtol=1e-12
        )


@every
def test_update_is_a_refit_of_the_state_and_not_of_the_parameters(name):
    df = frame()
    fc = model(name, target="y", known="x").fit(df[:60])
    step = pickle.loads(pickle.dumps(fc))  # noqa: S301
    at_once = fc.update(df[60:70])
    for row in range(60, 70):
        step.update(df[row : row + 1])
    np.testing.assert_allclose(step.predict(df[70:]), at_once.predict(df[70:]), rtol=1e-10)
    assert len(at_once.history()) == 70
    with pytest.raises(DataError, match="not after the cutoff"):
        fc.update(df[65:])


@every
def test_a_gap_before_update_is_missing_rows(name):
    df = frame()
    fc = model(name, target="y", known="x").fit(df[:60])
    other = pickle.loads(pickle.dumps(fc))  # noqa: S301
    holes = df[60:65].copy()
    holes.iloc[:3, 0] = np.nan
    np.testing.assert_allclose(
        fc.update(df[63:65]).predict(df[65:]), other.update(holes).predict(df[65:]), rtol=1e-12
    )


@every
@pytest.mark.parametrize("gaps", [False, True])
def test_rolling_origins_are_update_and_forecast(name, gaps):
    data = panel()
    rng = np.random.default_rng(4)
    if gaps:
        data.loc[rng.random(len(data)) < 0.1, "y"] = np.nan
    day = data.index.get_level_values("day")
    if name == "theta":  # takes none in fit
        data["y"] = data["y"].where(day > "2024-02-20", panel()["y"])
    old, new = data[day <= "2024-02-20"], data[(day > "2024-02-20") & (day <= "2024-03-01")]
    fc = model(name, target="y", known="x").fit(old)
    rolled = fc.rolling_forecast(new, stride=4, quantiles=[0.1, 0.5, 0.9])
    step = pickle.loads(pickle.dumps(fc))  # noqa: S301
    days = pd.date_range("2024-02-20", "2024-03-01")
    own = []
    for origin in days[:-3:4]:
        known = new[new.index.get_level_values("day") > origin]
        table = step.forecast(known[["x"]].groupby(level="id").head(3), quantiles=[0.1, 0.5, 0.9])
        own.append(pd.concat({origin: table}, names=["origin"]))
        step.update(known[known.index.get_level_values("day") <= origin + pd.Timedelta(days=4)])
    own = pd.concat(own).reorder_levels(["id", "origin", "day"]).sort_index()
    own = own[own.index.isin(rolled.index)]
    pd.testing.assert_frame_equal(rolled.sort_index(), own, rtol=1e-9, check_freq=False)


@every
def test_the_rows_of_fit_as_a_history(name):
    data = panel()
    fc = model(name, target="y", known="x").fit(data)
    ahead = pd.concat(
        {key: frame(3, 9, data.loc[key].index[-1] + pd.Timedelta(days=1)) for key in "bac"},
        names=["id", "day"],
    )[["x"]]
    # the start of a series is measured again, and forgotten by its end
    tolerance = 1e-2 if name == "ets" else 1e-6
    own, again = fc.forecast(ahead), fc.forecast(ahead, history=data)
    pd.testing.assert_frame_equal(own, again, rtol=tolerance)
    # another order, and one series later: the season keeps its phase
    tail = pd.concat({"a": data.loc["a"][9:]}, names=["id"])
    some = fc.forecast(ahead.loc[["a"]], history=tail)
    np.testing.assert_allclose(some["y"], own.loc["a", "y"], rtol=0.1)


@every
def test_series_that_are_new(name):
    data = panel()
    old, new = data.loc[["b", "a"]], data.loc[["c"]]
    fc = model(name, target="y", known="x").fit(old)
    ahead = pd.DataFrame({"x": [0.0] * 3}, index=fc.future_index(3)[:3])
    if isinstance(fc, NaiveForecaster):
        alone = model(name, target="y", known="x").fit(new)
        ahead = pd.DataFrame({"x": 0.0}, index=alone.future_index(3))
        expected = alone.forecast(ahead, quantiles=[0.1, 0.9])
        pd.testing.assert_frame_equal(
            fc.forecast(ahead, history=new, quantiles=[0.1, 0.9]), expected
        )
        fc.update(new)
        ahead = pd.DataFrame({"x": 0.0}, index=fc.future_index(3))
        pd.testing.assert_frame_equal(
            fc.forecast(ahead, quantiles=[0.1, 0.9]).loc[["c"]], expected, check_freq=False
        )
        return
    message = f"{type(fc).__name__} has a model for each series .* none for series 'c'"
    with pytest.raises(DataError, match=message):
        fc.forecast(ahead, history=new)
    with pytest.raises(DataError, match=message):
        fc.update(new)
    assert fc.panel_.n_series == 2


def test_a_new_series_of_one_row_has_the_usual_errors():
    fc = NaiveForecaster(target="y").fit(panel()[["y"]])
    index = pd.MultiIndex.from_tuples([("new", pd.Timestamp("2024-01-01"))], names=["id", "day"])
    fc.update(pd.DataFrame({"y": [7.0]}, index=index))
    table = fc.forecast(quantiles=[0.1, 0.5]).loc["new"]["y"]
    assert table[0.5].iloc[0] == 7.0
    width = np.median(fc.sigma_[:3]) * norm.ppf(0.9)
    np.testing.assert_allclose(7.0 - table[0.1].iloc[0], width, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "sarima"])
def test_the_season_is_that_of_all_forecasters(name):
    rng = np.random.default_rng(0)
    parts = {
        key: pd.DataFrame({"y": 10 * np.sin(np.arange(96) * np.pi / 6) + rng.normal(size=96)})
        for key in "ab"
    }
    data = pd.concat(parts, names=["id", "row"])  # integer time: no calendar tells the season
    fc = model(name).fit(data)
    network = DeepGRUForecaster(hidden_size=2, max_epochs=1, random_state=0).fit(data)
    assert fc.seasonality_ == network.seasonality_ == choose_seasonality(fc.panel_) == 12
    if name == "ets":
        assert fc.form_["y"].str.contains(r"\[12\]").all()


SMALL = {
    "constant": np.full(30, 5.0),
    "zeros": np.zeros(30),
    "two rows": np.array([1.0, 3.0]),
    "three rows": np.array([1.0, 3.0, 2.0]),
    "leading NaN": np.append(np.full(9, np.nan), np.random.default_rng(0).normal(size=20)),
    "trailing NaN": np.append(np.random.default_rng(0).normal(size=20), np.full(3, np.nan)),
    "a line": np.arange(20.0),
    "one step": np.append(np.zeros(20), 1.0),
    "far from 0": 1e9 + np.random.default_rng(0).normal(size=40).cumsum(),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@every
@pytest.mark.parametrize("case", SMALL)
def test_difficult_series_get_a_sensible_forecast(name, case):
    y = SMALL[case]
    df = pd.DataFrame({"y": y}, index=pd.date_range("2024", periods=len(y), freq="D"))
    fc = model(name).fit(df)
    seen = y[~np.isnan(y)]
    spread = 3 * np.ptp(seen) + 1e-6 * np.abs(seen).max()
    low, high = seen.min() - spread, seen.max() + spread
    for values in (fc.predict(), fc.predict(df)):
        assert ((values >= low) & (values <= high)).all()
    interval = fc.predict_interval()
    assert np.isfinite(interval).all()
    assert (interval[:, 0] <= interval[:, 1]).all()
    if case in ("constant", "zeros"):
        np.testing.assert_allclose(fc.predict(), y[0], rtol=1e-12)


@every
def test_a_series_without_enough_values_is_named(name):
    data = panel()
    data.loc["a", "y"] = np.nan
    with pytest.raises(DataError, match=r"series 'a'.* has no observed value"):
        model(name, target="y").fit(data)
    with pytest.raises(DataError, match=r"the series has 1 sample"):
        model(name, target="y").fit(frame(1))


@every
@pytest.mark.filterwarnings("ignore:.*too few rows")
def test_a_series_with_one_value_is_forecast_by_it(name):
    data = panel()
    opened = frame(1, start="2024-03-25").assign(y=5.0)
    data = pd.concat([data, pd.concat({"new": opened}, names=["id", "day"])])
    fc = model(name, target="y").fit(data)
    found = fc.forecast(quantiles=[0.1, 0.5, 0.9])["y"]
    np.testing.assert_allclose(found.loc["new", 0.5], 5.0, rtol=1e-6)
    # as wide as the usual series one step ahead
    widths = (found[0.9] - found[0.1]).groupby(level=0).first()
    if name == "seasonal":  # nothing is known a season before: the error is that of a step
        widths[["a", "b", "c"]] = 2 * norm.ppf(0.9) * fc.sigma_[:3, 0]
    assert widths["new"] == pytest.approx(widths[["a", "b", "c"]].median(), rel=0.1)
    alone = model(name, target="y").fit(panel()).forecast()
    np.testing.assert_allclose(fc.forecast().loc[["a"]], alone.loc[["a"]])


@pytest.mark.parametrize("name", ["last", "seasonal", "drift", "trend"])
def test_a_history_of_one_row(name):
    fc = ETSForecaster(trend="add", seasonal=None) if name == "trend" else model(name)
    fc = fc.set_params(target="y", horizon=3).fit(frame())
    np.testing.assert_allclose(fc.forecast(history=frame(1).assign(y=5.0)), 5.0)
    assert np.isfinite(fc.forecast(history=frame(1), quantiles=[0.1]).to_numpy()).all()


def test_many_warnings_are_one():
    data = pd.concat({k: frame(6, 1)[["y"]] for k in "abcde"}, names=["id", "day"])
    with pytest.warns(
        UserWarning, match=r"series 'a'; series 'b'; series 'c'; and 2 more: "
    ) as seen:
        ARIMAForecaster(order=(2, 1, 2)).fit(data)
    assert len(seen) == 1


def test_bad_parameters_leave_the_estimator_as_it_was():
    df = frame()
    fc = NaiveForecaster(target="y").fit(df)
    for bad in ({"seasonality": 0}, {"horizon": 0}):
        with pytest.raises(DataError, match=next(iter(bad))):
            clone(fc).set_params(**bad).fit(df)
    before = fc.predict()
    with pytest.raises(DataError):
        fc.set_params(strategy="no").fit(df[:20])
    np.testing.assert_array_equal(fc.set_params(strategy="last").predict(), before)


def test_import_brings_no_statsmodels():
    code = (
        "import sys, rnnforecast.baselines; "
        "print([m for m in ('statsmodels', 'statsforecast', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_warning_of_statsmodels_gets_out():
    code = (
        "import numpy as np, pandas as pd, warnings\n"
        "from rnnforecast.baselines import ARIMAForecaster\n"
        "before = list(warnings.filters)\n"
        "y = pd.Series(np.random.default_rng(0).normal(size=24))\n"
        "y[10] = np.nan\n"
        "ARIMAForecaster(order=(1, 1, 1), seasonal_order=(1, 0, 1, 7), maxiter=2).fit(y)\n"
        "assert warnings.filters == before"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "did not converge" in out.stderr
    assert "EstimationWarning" not in out.stderr
    assert "statsmodels" not in out.stderr
