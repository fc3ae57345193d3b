"""Scorers inside scikit-learn: with and without y, through pipelines, wrappers and panels."""

from __future__ import annotations

import io

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import (
    GridSearchCV,
    TimeSeriesSplit,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from rnnforecast import NaiveForecaster, metrics
from rnnforecast.exceptions import DataError

POINT = ["mae", "mse", "rmse", "mape", "smape", "r2", "mase", "rmsse"]


class Toy(NaiveForecaster):
    """Seasonal naive with normal intervals of a fixed spread: small enough to check by hand."""

    strategy, n_jobs = "seasonal", None
    seasonality = property(lambda self: self.season)

    def __init__(
        self,
        *,
        season=1,
        spread=1.0,
        horizon=4,
        target=None,
        known=None,
        static=None,
        series_id=None,
        time=None,
        freq=None,
    ):
        self.season = season
        self.spread = spread
        self.horizon = horizon
        self.target = target
        self.known = known
        self.static = static
        self.series_id = series_id
        self.time = time
        self.freq = freq

    def predict_quantiles(self, X=None, quantiles=(0.1, 0.5, 0.9)):
        return self.predict(X)[..., None] + self.spread * norm.ppf(quantiles)


@pytest.fixture
def df():
    rng = np.random.default_rng(3)
    index = pd.date_range("2024-01-01", periods=60, freq="D")
    y = 20 + 5 * np.sin(np.arange(60) * 2 * np.pi / 7) + rng.normal(size=60)
    return pd.DataFrame({"y": y, "x": rng.normal(size=60)}, index=index)


@pytest.fixture
def split(df):
    return df.iloc[:50], df.iloc[50:]


def repeat(train, n, season):
    return np.resize(train[-season:], n)


@pytest.mark.parametrize("name", POINT)
def test_scorer_is_the_metric_with_its_sign(name, split):
    train, test = split
    model = Toy(target="y", season=7).fit(train)
    pred = repeat(train["y"].to_numpy(), 10, 7)
    arguments = [test["y"], pred]
    options = {}
    if name in ("mase", "rmsse"):
        arguments.append(train["y"])
        options["seasonality"] = 7  # a week of days
    expected = getattr(metrics, name)(*arguments, **options)
    score = metrics.get_scorer(name)(model, test)
    assert_allclose(score, expected if name == "r2" else -expected, rtol=1e-6)
    assert metrics.get_scorer(name)(model, test, test["y"]) == score
    assert getattr(metrics, f"{name}_scorer") is metrics.get_scorer(name)


def test_seasonality_of_the_scorer_wins(split):
    train, test = split
    model = Toy(target="y", season=7).fit(train)
    pred = repeat(train["y"].to_numpy(), 10, 7)
    expected = metrics.mase(test["y"], pred, train["y"], seasonality=2)
    assert_allclose(metrics.make_mase_scorer(2)(model, test), -expected)
    expected = metrics.rmsse(test["y"], pred, train["y"], seasonality=2)
    assert_allclose(metrics.make_rmsse_scorer(2)(model, test), -expected)


@pytest.mark.parametrize("season", [1, 3, 7])
def test_the_scale_is_that_of_the_data_whatever_season_the_forecaster_has(split, season):
    train, test = split
    model = Toy(target="y", season=season).fit(train)
    expected = metrics.mase(test["y"], model.predict(test), train["y"], seasonality=7)
    assert_allclose(metrics.mase_scorer(model, test), -expected)
    # without a calendar the autocorrelation tells it: a clear season of 12 steps
    values = np.tile(np.arange(12.0) ** 2, 9) + np.random.default_rng(0).normal(size=108)
    model = Toy(season=season).fit(values[:96, None])
    expected = metrics.mase(
        values[96:], model.predict(values[96:, None]), values[:96], seasonality=12
    )
    assert_allclose(metrics.mase_scorer(model, values[96:, None], values[96:]), -expected)


def test_probabilistic_scorers(split):
    train, test = split
    model = Toy(target="y", season=7, spread=1.5).fit(train)
    pred = repeat(train["y"].to_numpy(), 10, 7)
    low, high = pred - 1.5 * norm.ppf(0.9), pred + 1.5 * norm.ppf(0.9)
    inside = np.mean((test["y"] >= low) & (test["y"] <= high))
    assert_allclose(metrics.make_coverage_scorer(0.8)(model, test), -abs(inside - 0.8))
    expected = metrics.interval_score(test["y"], low, high, 0.8)
    assert_allclose(metrics.make_interval_scorer(0.8)(model, test), -expected)
    expected = metrics.pinball_loss(test["y"], high, 0.9)
    assert_allclose(metrics.make_pinball_scorer(0.9)(model, test), -expected)
    expected = np.mean(
        [metrics.pinball_loss(test["y"], f, q) for f, q in ((low, 0.1), (pred, 0.5), (high, 0.9))]
    )
    assert_allclose(metrics.pinball_scorer(model, test, test["y"]), -expected)


def test_two_targets(split):
    train, test = split
    model = Toy(season=7).fit(train)  # both columns are targets
    pred = np.column_stack([repeat(train[c].to_numpy(), 10, 7) for c in ("y", "x")])
    assert_allclose(metrics.mae_scorer(model, test), -metrics.mae(test, pred))
    assert_allclose(
        metrics.mase_scorer(model, test), -metrics.mase(test, pred, train, seasonality=7)
    )
    spread = 2 * norm.ppf(0.95)
    interval = metrics.interval_score(test, pred - spread / 2, pred + spread / 2, 0.9)
    assert_allclose(metrics.get_scorer("interval")(model, test), -interval)


@pytest.mark.parametrize("refitted", [False, True])
def test_pipeline_that_scales_the_target(split, refitted):
    """Truth and forecast are both after the steps: 0.5 of a standard deviation is 0.5."""
    train, test = split
    scaler = StandardScaler().set_output(transform="pandas")
    model = make_pipeline(scaler, Toy(target="y", season=7))
    if refitted:
        grid = {"toy__season": [7]}
        model = GridSearchCV(model, grid, cv=TimeSeriesSplit(2), scoring=metrics.mae_scorer)
    model.fit(train)
    pred = repeat(train["y"].to_numpy(), 10, 7)
    unit = train["y"].std(ddof=0)
    assert_allclose(metrics.mae_scorer(model, test), -metrics.mae(test["y"], pred) / unit)
    # a score without units does not see the scaler
    plain = Toy(target="y", season=7).fit(train)
    for scorer in (metrics.mase_scorer, metrics.r2_scorer, metrics.rmsse_scorer):
        assert_allclose(scorer(model, test), scorer(plain, test))
    assert_allclose(
        metrics.pinball_scorer(model, test),
        metrics.pinball_scorer(plain.set_params(spread=unit), test) / unit,
    )


def test_pipeline_without_names(split):
    train, test = split
    model = make_pipeline(StandardScaler(), Toy(target=0, season=7)).fit(train)
    assert_allclose(
        metrics.mase_scorer(model, test),
        metrics.mase_scorer(Toy(target="y", season=7).fit(train), test),
    )


def test_transformed_target(split):
    train, test = split
    model = TransformedTargetRegressor(
        Toy(season=7), func=np.log, inverse_func=np.exp, check_inverse=False
    )
    model.fit(train[["x"]], train["y"])
    pred = repeat(train["y"].to_numpy(), 10, 7)
    expected = metrics.mase(test["y"], pred, train["y"], seasonality=7)
    assert_allclose(metrics.mase_scorer(model, test[["x"]], test["y"]), -expected)
    low, high = (np.exp(np.log(pred) + sign * norm.ppf(0.95)) for sign in (-1, 1))
    expected = metrics.interval_score(test["y"], low, high, 0.9)
    score = metrics.get_scorer("interval")(model, test[["x"]], test["y"])
    assert_allclose(score, -expected)


def test_decreasing_target_transform_keeps_the_interval(split):
    train, test = split
    flip = FunctionTransformer(np.negative, np.negative, check_inverse=False)
    model = TransformedTargetRegressor(Toy(season=7), transformer=flip)
    model.fit(train[["x"]], train["y"])
    plain = Toy(season=7).fit(train[["x"]], train["y"])
    for name in ("interval", "coverage", "pinball"):
        scorer = metrics.get_scorer(name)
        assert_allclose(
            scorer(model, test[["x"]], test["y"]), scorer(plain, test[["x"]], test["y"])
        )


def test_voting_regressor_takes_its_members_history(split):
    train, test = split
    model = VotingRegressor([("a", Toy(season=7)), ("b", Toy(season=1))])
    model.fit(train[["x"]], train["y"])
    pred = (repeat(train["y"].to_numpy(), 10, 7) + train["y"].iloc[-1]) / 2
    expected = metrics.mase(test["y"], pred, train["y"], seasonality=7)
    assert_allclose(metrics.mase_scorer(model, test[["x"]], test["y"]), -expected)


@pytest.fixture
def panel():
    rng = np.random.default_rng(5)
    parts = []
    for name, length, size in (("b", 40, 100.0), ("a", 30, 1.0)):
        index = pd.date_range("2024-02-10", periods=length, freq="D")[::-1]
        y = size * (5 + rng.normal(size=length).cumsum())
        parts.append(pd.DataFrame({"id": name, "when": index, "y": y}))
    frame = pd.concat(parts)
    return frame.sort_values(["id", "when"], ignore_index=True)


@pytest.mark.parametrize("form", ["multiindex", "columns"])
def test_panel_is_scored_series_by_series(panel, form):
    cut = pd.Timestamp("2024-03-05")
    train, test = panel[panel["when"] <= cut], panel[panel["when"] > cut]
    scales, errors = [[], []], []
    for name in ("a", "b"):
        past = train.loc[train["id"] == name, "y"].to_numpy()
        future = test.loc[test["id"] == name, "y"].to_numpy()
        for season, scale in zip((1, 7), scales):
            scale.append(np.abs(past[season:] - past[:-season]).mean())
        errors.append(np.abs(future - past[-1]).mean())
    model = Toy(target="y", series_id="id", time="when")
    if form == "multiindex":
        train, test = (part.set_index(["id", "when"]) for part in (train, test))
        model = Toy(target="y")
    model.fit(train)
    expected = np.mean(np.array(errors) / scales, axis=1)
    order = np.random.default_rng(0).permutation(len(test))
    # a daily panel: the season is a week where the scorer names none
    for scorer, value in zip((metrics.make_mase_scorer(1), metrics.mase_scorer), expected):
        assert_allclose(scorer(model, test), -value)
        assert_allclose(scorer(model, test.iloc[order]), -value)


def test_cross_val_score_without_y(df):
    cv = TimeSeriesSplit(3)
    scores = cross_val_score(Toy(target="y", season=7), df, cv=cv, scoring=metrics.mae_scorer)
    expected = [
        -mean_absolute_error(df["y"].iloc[test], repeat(df["y"].to_numpy()[train], len(test), 7))
        for train, test in cv.split(df)
    ]
    assert_allclose(scores, expected)


@pytest.mark.parametrize("routing", [False, True])
def test_searches_and_multimetric(df, routing):
    scoring = {name: metrics.get_scorer(name) for name in (*POINT, "pinball", "coverage")}
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            Toy(target="y"),
            {"season": [1, 7]},
            cv=TimeSeriesSplit(3),
            scoring=scoring,
            refit="mase",
            error_score="raise",
        ).fit(df)
        assert search.best_params_ == {"season": 7}
        assert np.isfinite(search.score(df.iloc[50:]))
        one = GridSearchCV(
            Toy(target="y"),
            {"season": [1, 7]},
            cv=TimeSeriesSplit(3),
            scoring=metrics.make_mase_scorer(7),
        ).fit(df)
        assert one.best_params_ == {"season": 7}
        found = cross_validate(
            Toy(target="y"), df, cv=TimeSeriesSplit(3), scoring=scoring, return_train_score=True
        )
        assert np.isfinite(found["train_mase"]).all()


def test_sample_weight_is_routed(split):
    train, test = split
    weight = np.linspace(0, 1, len(train))
    X, y = train[["x"]], train["y"]
    cv = TimeSeriesSplit(2)
    with sklearn.config_context(enable_metadata_routing=True):
        asking = metrics.mae_scorer.set_score_request(sample_weight=True)
        found = cross_val_score(
            LinearRegression().set_fit_request(sample_weight=False),
            X,
            y,
            cv=cv,
            scoring=asking,
            params={"sample_weight": weight},
        )
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError):
            cross_val_score(
                LinearRegression().set_fit_request(sample_weight=False),
                X,
                y,
                cv=cv,
                scoring=metrics.mae_scorer,
                params={"sample_weight": weight},
            )
    expected = []
    for rows, out in cv.split(X):
        model = LinearRegression().fit(X.iloc[rows], y.iloc[rows])
        error = np.abs(model.predict(X.iloc[out]) - y.iloc[out])
        expected.append(-np.average(error, weights=weight[out]))
    assert_allclose(found, expected)
    with pytest.raises(RuntimeError, match="enable_metadata_routing"):
        metrics.mae_scorer.set_score_request(sample_weight=True)


def test_scorers_pickle_clone_and_show_themselves(split):
    train, test = split
    model = Toy(target="y", season=7).fit(train)
    for scorer in (metrics.make_mase_scorer(7), metrics.make_pinball_scorer([0.2, 0.8])):
        file = io.BytesIO()
        joblib.dump(scorer, file)
        file.seek(0)
        loaded = joblib.load(file)
        copied = clone(scorer, safe=False)
        assert loaded(model, test) == copied(model, test) == scorer(model, test)
        assert repr(loaded) == repr(scorer)
    assert repr(metrics.make_mase_scorer(7)) == "make_scorer(mase, needs='history', seasonality=7)"
    assert repr(metrics.r2_scorer) == "make_scorer(r2, greater_is_better=True)"


def test_custom_metric(split):
    train, test = split

    def bias(y_true, y_pred):
        return abs(float(np.mean(np.asarray(y_true).ravel() - y_pred)))

    model = Toy(target="y", season=7).fit(train)
    pred = repeat(train["y"].to_numpy(), 10, 7)
    assert_allclose(metrics.make_scorer(bias)(model, test), -abs(np.mean(test["y"] - pred)))


def test_different_scalers_compare_by_a_score_without_units(df):
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), Toy(target="y"))
    grid = {
        "standardscaler": [
            scaler.set_output(transform="pandas") for scaler in (StandardScaler(), MinMaxScaler())
        ]
    }
    search = GridSearchCV(pipe, grid, cv=TimeSeriesSplit(3), scoring=metrics.mase_scorer).fit(df)
    first, second = search.cv_results_["mean_test_score"]
    assert_allclose(first, second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: metrics.mae_scorer(m, x), "column 'y' is not there"),
        (lambda m, x: metrics.make_scorer("mae"), "must be a function"),
        (lambda m, x: metrics.make_scorer(metrics.mae, needs="x"), "needs must be one of"),
        (lambda m, x: metrics.make_mase_scorer(0), "seasonality"),
        (lambda m, x: metrics.make_coverage_scorer(1.0), "coverage"),
        (lambda m, x: metrics.make_pinball_scorer(1.5), "quantiles"),
        (lambda m, x: metrics.get_scorer("mea"), "must be one of"),
        (
            lambda m, x: metrics.mase_scorer(LinearRegression().fit(x, x["x"]), x, x["x"]),
            "has no history",
        ),
        (
            lambda m, x: metrics.pinball_scorer(LinearRegression().fit(x, x["x"]), x, x["x"]),
            "no predict_quantiles",
        ),
        (lambda m, x: metrics.mae_scorer(LinearRegression().fit(x, x["x"]), x), "pass y"),
    ],
)
def test_bad_input_is_named(split, call, message):
    train, test = split
    model = Toy().fit(train[["x"]], train["y"])
    with pytest.raises(DataError, match=message):
        call(model, test[["x"]])
