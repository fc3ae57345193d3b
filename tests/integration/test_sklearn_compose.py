"""Forecasters inside pipelines, target transformers and ensembles, on real data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score, cross_validate
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, StandardScaler

from rnnforecast import (
    ARIMAForecaster,
    Deseasonalizer,
    Differencer,
    LogTransformer,
    NaiveForecaster,
    PanelTimeSeriesSplit,
    SeriesScaler,
    SlidingWindows,
    metrics,
)
from rnnforecast.exceptions import DataError

EXACT = {"rtol": 1e-9, "atol": 1e-9}
WEEK = TimeSeriesSplit(3, test_size=7)


@pytest.fixture
def split(day):
    """Covariates and target before and after 30 October: 300 days and 30."""
    X, y = day
    return X.iloc[:300], X.iloc[300:], y.iloc[:300], y.iloc[300:]


# Pipelines


def test_pipeline_with_a_scaler_gives_the_forecast_of_scaled_rows(lstm, split):
    X, X_test, y, _ = split
    mean, deviation = X.mean(), X.std(ddof=0)
    expected = lstm(lookback=14).fit((X - mean) / deviation, y)
    as_frame = make_pipeline(StandardScaler().set_output(transform="pandas"), lstm(lookback=14))
    as_array = make_pipeline(StandardScaler(), lstm(lookback=14))
    for pipe in (as_frame, as_array):
        pipe.fit(X, y)
        assert_allclose(
            pipe.predict(X_test), expected.predict((X_test - mean) / deviation), **EXACT
        )
    # frames keep the time stamps: rows of training, and rows after a gap, stay what they are
    assert_allclose(as_frame.predict(X), expected.predict((X - mean) / deviation), **EXACT)
    assert_allclose(
        as_frame.predict(X_test.iloc[10:]),
        expected.predict((X_test.iloc[10:] - mean) / deviation),
        **EXACT,
    )


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_pipeline_in_cross_validation(output, lstm, day, by_hand):
    X, y = day
    pipe = make_pipeline(StandardScaler().set_output(transform=output), lstm(lookback=14))
    result = cross_validate(pipe, X, y, cv=WEEK, return_train_score=True, error_score="raise")
    for k, (train, test) in enumerate(WEEK.split(X)):
        mean, deviation = X.iloc[train].mean(), X.iloc[train].std(ddof=0)
        scaled = (X - mean) / deviation
        model = lstm(lookback=14).fit(scaled.iloc[train], y.iloc[train])
        expected = r2_score(y.iloc[test], model.predict(scaled.iloc[test]))
        assert_allclose(result["test_score"][k], expected, **EXACT)
        if output == "pandas":
            expected = r2_score(y.iloc[train], model.predict(scaled.iloc[train]))
            assert_allclose(result["train_score"][k], expected, **EXACT)


def test_pipeline_without_y_scales_the_target_too(lstm, seattle):
    frame = seattle.drop(columns="weather")
    model = lstm(target="temp_max", lookback=14)
    pipe = make_pipeline(StandardScaler(), model).set_output(transform="pandas")
    train, test = frame.iloc[:300], frame.iloc[300:314]
    pipe.fit(train)
    mean, deviation = train.mean(), train.std(ddof=0)
    expected = clone(model).fit((train - mean) / deviation)
    truth = ((test - mean) / deviation)["temp_max"]
    assert_allclose(pipe.predict(test), expected.forecast(horizon=14)["temp_max"], **EXACT)
    error = np.abs(pipe.predict(test) - truth).mean()
    assert_allclose(metrics.mae_scorer(pipe, test), -error, **EXACT)
    assert_allclose(metrics.r2_scorer(pipe, test), r2_score(truth, pipe.predict(test)), **EXACT)


def test_pipeline_that_drops_the_names_says_what_to_do(lstm, seattle):
    pipe = make_pipeline(StandardScaler(), lstm(target="temp_max"))
    with pytest.raises(DataError, match=r"set_output\(transform='pandas'\)"):
        pipe.fit(seattle.drop(columns="weather"))


def test_pipeline_on_a_panel_keeps_the_series_apart(lstm, stations, by_hand):
    X, y = stations[["dewp"]], stations["temp"]
    cv = PanelTimeSeriesSplit(2, test_size=24)
    pipe = make_pipeline(StandardScaler(), lstm(lookback=24))
    with pytest.raises(DataError, match=r"y has a MultiIndex .*set_output\(transform='pandas'\)"):
        pipe.fit(X, y)  # stacked, the airports would pass for one series
    pipe.set_output(transform="pandas")
    scores = cross_val_score(pipe, X, y, cv=cv, error_score="raise")
    assert_allclose(scores, by_hand(pipe, X, y, cv), **EXACT)
    train, test = next(cv.split(X))
    mean, deviation = X.iloc[train].mean(), X.iloc[train].std(ddof=0)
    expected = lstm(lookback=24).fit((X.iloc[train] - mean) / deviation, y.iloc[train])
    assert expected.panel_.n_series == 2
    answer = expected.predict((X.iloc[test] - mean) / deviation)
    assert_allclose(scores[0], r2_score(y.iloc[test], answer), **EXACT)


def test_steps_are_swapped_by_a_search(lstm, sunspots, by_hand):
    cv = TimeSeriesSplit(2, test_size=11)
    network = lstm(target="sunspots", lookback=22, horizon=11, max_epochs=10, lr=3e-2)
    pipe = Pipeline([("scale", StandardScaler()), ("model", network)])
    pipe.set_output(transform="pandas")
    models = [network, NaiveForecaster(), NaiveForecaster(strategy="drift")]
    search = GridSearchCV(pipe, {"model": models}, cv=cv, error_score="raise").fit(sunspots)
    assert search.best_params_["model"].get_params() == network.get_params()
    for model, score in zip(models, search.cv_results_["mean_test_score"]):
        # R² does not change with the scale, and a naive forecast is as good on either
        expected = by_hand(model, sunspots, None, cv).mean()
        assert_allclose(score, expected, rtol=0.2 if model is network else 1e-6)


def test_pipeline_with_memory_fits_its_steps_once(lstm, day, tmp_path):
    X, y = day
    steps = [("scale", MinMaxScaler().set_output(transform="pandas")), ("model", lstm(lookback=14))]
    grid, options = {"model__lr": [1e-6, 1e-2]}, {"cv": WEEK, "error_score": "raise"}
    plain = GridSearchCV(Pipeline(steps), grid, **options).fit(X, y)
    cached = GridSearchCV(Pipeline(steps, memory=str(tmp_path)), grid, **options).fit(X, y)
    assert_array_equal(cached.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    # three folds and the refit, however many candidates
    assert len(list(tmp_path.rglob("output.pkl"))) == 4


def test_set_output_reaches_every_step(lstm, split):
    X, X_test, y, _ = split
    pipe = make_pipeline(StandardScaler(), SeriesScaler(), lstm(lookback=14))
    pipe.set_output(transform="pandas").fit(X, y)
    last = pipe[-1]
    assert list(last.feature_names_in_) == list(X.columns)
    assert last.cutoff_ == X.index[-1]
    shown = pipe[:-1].transform(X_test)
    assert isinstance(shown, pd.DataFrame) and shown.index.equals(X_test.index)
    # the second scaler finds mean 0 and deviation 1
    assert_allclose(shown, (X_test - X.mean()) / X.std(ddof=0), **EXACT)
    prediction = pipe.predict(X_test)
    assert type(prediction) is np.ndarray  # predict is scikit-learn's door whatever the setting
    with sklearn.config_context(transform_output="pandas"):
        everywhere = make_pipeline(StandardScaler(), SeriesScaler(), lstm(lookback=14)).fit(X, y)
        assert type(everywhere.predict(X_test)) is np.ndarray
        assert_array_equal(everywhere.predict(X_test), prediction)


@pytest.mark.parametrize(
    "transformer",
    [LogTransformer(offset=20.0), SeriesScaler(), Differencer(), Deseasonalizer(seasonality=7)],
    ids=lambda transformer: type(transformer).__name__,
)
def test_set_output_of_the_transformers(transformer, split):
    X, X_test, _, _ = split
    plain = clone(transformer).fit(X)
    pandas = clone(transformer).set_output(transform="pandas").fit(X)
    polars = clone(transformer).set_output(transform="polars").fit(X)
    for rows in (X, X_test):
        expected = plain.transform(rows)
        shown = pandas.transform(rows)
        assert type(expected) is np.ndarray
        assert shown.index.equals(rows.index) and list(shown.columns) == list(rows.columns)
        assert_array_equal(shown, expected)
        assert_array_equal(polars.transform(rows).to_numpy(), expected)
        back = pandas.inverse_transform(shown)
        seen = ~np.isnan(expected)
        assert_allclose(back.to_numpy()[seen], rows.to_numpy()[seen], rtol=1e-9, atol=1e-9)


# Columns


def _words(output="pandas"):
    encode = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    columns = ColumnTransformer(
        [("sky", encode, ["weather"]), ("rest", "passthrough", ["temp_max"])],
        verbose_feature_names_out=False,
    )
    return columns.set_output(transform=output)


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_column_transformer_brings_words_in_as_known_covariates(output, lstm, seattle):
    # the day's word (rain, sun, ...) says much about its rain
    X, y = seattle[["weather", "temp_max"]], seattle["precipitation"]
    cv = TimeSeriesSplit(3, test_size=20)
    options = {"cv": cv, "error_score": "raise"}
    model = lstm(lookback=14, max_epochs=6)
    told = cross_val_score(make_pipeline(_words(output), model), X, y, **options)
    untold = cross_val_score(model, X[["temp_max"]], y, **options)
    assert (told > untold).all() and told.mean() > untold.mean() + 0.05
    encoded = pd.get_dummies(X, columns=["weather"], dtype=float)
    encoded = encoded[[*sorted(set(encoded) - {"temp_max"}), "temp_max"]]
    assert_allclose(told, cross_val_score(model, encoded, y, **options), rtol=1e-6)


def test_column_transformer_without_y_and_named_known(lstm, seattle):
    columns = ColumnTransformer(
        [("sky", OneHotEncoder(sparse_output=False), ["weather"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    sky = [f"weather_{word}" for word in sorted(seattle["weather"].unique())]
    pipe = make_pipeline(columns, lstm(target="precipitation", known=sky, lookback=14)).fit(
        seattle.iloc[:300]
    )
    roles = pipe[-1].roles_
    assert roles.known == sky and roles.past == ["temp_max", "temp_min", "wind"]
    dry, wet = seattle.iloc[300:307].copy(), seattle.iloc[300:307].copy()
    dry["weather"], wet["weather"] = "sun", "rain"
    assert (pipe.predict(wet) > pipe.predict(dry)).all()
    # past-only columns and the target of future rows cannot matter
    hidden = dry.copy()
    hidden[["temp_max", "temp_min", "wind", "precipitation"]] = 1e6
    assert_array_equal(pipe.predict(hidden), pipe.predict(dry))


def test_words_among_covariates_are_categories(lstm, seattle):
    fc = lstm(lookback=14).fit(seattle[["weather"]], seattle["temp_max"])
    (column,) = (c for c in fc.panel_.columns if c.role == "known")
    assert column.categories == tuple(sorted(seattle["weather"].unique()))
    with pytest.raises(DataError, match="'weather'.*expected numbers"):
        lstm(lookback=14, target="weather").fit(seattle[["weather", "temp_max"]])


def _season(X):
    angle = 2 * np.pi * X.index.day_of_year.to_numpy() / 365.25
    return pd.DataFrame({"sin": np.sin(angle), "cos": np.cos(angle)}, index=X.index)


def test_feature_union_of_calendar_and_readings(lstm, split):
    X, X_test, y, _ = split
    union = FeatureUnion(
        [("season", FunctionTransformer(_season)), ("scaled", StandardScaler())],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    pipe = make_pipeline(union, lstm(lookback=14)).fit(X, y)
    mean, deviation = X.mean(), X.std(ddof=0)

    def by_hand(rows):
        return pd.concat([_season(rows), (rows - mean) / deviation], axis=1)

    expected = lstm(lookback=14).fit(by_hand(X), y)
    assert_allclose(pipe.predict(X_test), expected.predict(by_hand(X_test)), **EXACT)
    assert list(pipe[-1].feature_names_in_) == ["sin", "cos", *X.columns]


def test_windows_make_any_regressor_a_forecaster(sunspots):
    train, test = sunspots.iloc[:-11], sunspots.iloc[-11:]
    windows = SlidingWindows(lookback=33, horizon=11).fit(train)
    X, y = windows.make_xy()
    model = make_pipeline(StandardScaler(), Ridge(10.0)).fit(X, y)
    last = windows.future()
    forecast = windows.inverse(model.predict(last), last.index)["sunspots"]
    assert forecast.index.equals(test.index)
    naive = NaiveForecaster(horizon=11).fit(train).forecast()["sunspots"]
    error, naive_error = (np.abs(f - test["sunspots"]).mean() for f in (forecast, naive))
    assert error < 0.5 * naive_error


# Target transformers


def test_log_target_by_functions(lstm, split):
    X, X_test, y, _ = split
    y = y + 20  # above zero
    log = TransformedTargetRegressor(lstm(lookback=14), func=np.log, inverse_func=np.exp).fit(X, y)
    expected = np.exp(lstm(lookback=14).fit(X, np.log(y)).predict(X_test))
    assert_allclose(log.predict(X_test), expected, **EXACT)
    straight = lstm(lookback=14).fit(X, y).predict(X_test)
    assert not np.allclose(expected, straight, rtol=1e-3)


def test_target_by_the_librarys_transformers(lstm, split):
    X, X_test, y, _ = split
    values = y.to_numpy() + 20
    mean, deviation = values.mean(), values.std()

    def fitted(target):
        return lstm(lookback=14).fit(X, target)

    log = TransformedTargetRegressor(lstm(lookback=14), transformer=LogTransformer())
    expected = np.exp(fitted(np.log(values)).predict(X_test))
    assert_allclose(log.fit(X, y + 20).predict(X_test), expected, **EXACT)

    scaled = TransformedTargetRegressor(lstm(lookback=14), transformer=SeriesScaler())
    expected = mean + deviation * fitted((values - mean) / deviation).predict(X_test)
    assert_allclose(scaled.fit(X, y + 20).predict(X_test), expected, **EXACT)

    differenced = TransformedTargetRegressor(lstm(lookback=14), transformer=Differencer())
    changes = np.diff(values, prepend=np.nan)
    expected = values[-1] + np.cumsum(fitted(changes).predict(X_test))
    assert_allclose(differenced.fit(X, y + 20).predict(X_test), expected, **EXACT)


@pytest.mark.parametrize("name", ["mae", "mase", "pinball", "interval"])
def test_scores_of_a_transformed_target_are_in_its_own_units(name, lstm, split):
    X, X_test, y, y_test = split
    y, y_test = y + 20, y_test + 20
    log = TransformedTargetRegressor(lstm(lookback=14), transformer=LogTransformer()).fit(X, y)
    inside = lstm(lookback=14).fit(X, np.log(y))
    season = inside.seasonality_
    levels = [0.1, 0.5, 0.9]
    arguments = {
        "mae": (np.exp(inside.predict(X_test)),),
        "mase": (np.exp(inside.predict(X_test)), y.to_numpy()),
        "pinball": (np.exp(inside.predict_quantiles(X_test, quantiles=levels)), levels),
        "interval": tuple(np.exp(inside.predict_interval(X_test, coverage=0.9)).T),
    }[name]
    function = metrics.interval_score if name == "interval" else None
    function = function or getattr(metrics, {"pinball": "pinball_loss"}.get(name, name))
    options = {"seasonality": season} if name == "mase" else {}
    expected = function(y_test.to_numpy(), *arguments, **options)
    assert_allclose(metrics.get_scorer(name)(log, X_test, y_test), -expected, **EXACT)


def test_search_through_target_transformer_and_pipeline(lstm, day):
    X, y = day
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), lstm(lookback=14))
    model = TransformedTargetRegressor(pipe, transformer=LogTransformer(offset=20.0))
    search = GridSearchCV(
        model,
        {"regressor__deeplstmforecaster__lr": [1e-6, 1e-2], "transformer__offset": [2.0, 20.0]},
        cv=TimeSeriesSplit(2, test_size=14),
        scoring=metrics.mase_scorer,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_["regressor__deeplstmforecaster__lr"] == 1e-2
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    best = search.best_estimator_
    assert best.regressor_[-1].lr == 1e-2
    assert best.transformer_.offset == search.best_params_["transformer__offset"]


# Ensembles


def test_voting_of_a_network_with_arima(lstm, split):
    X, X_test, y, y_test = split
    network, arima = lstm(lookback=14), ARIMAForecaster(order=(1, 0, 0))
    vote = VotingRegressor([("network", network), ("arima", arima)], weights=[2, 1]).fit(X, y)
    parts = [clone(model).fit(X, y).predict(X_test) for model in (network, arima)]
    assert_allclose(vote.predict(X_test), (2 * parts[0] + parts[1]) / 3, rtol=1e-6)
    errors = [mean_squared_error(y_test, part) for part in parts]
    # squared error is convex: the mean forecast is better than the mean error
    assert mean_squared_error(y_test, vote.predict(X_test)) < np.average(errors, weights=[2, 1])
    # scaled errors of the ensemble take the history of its members
    error = np.abs(y_test - vote.predict(X_test)).mean()
    scale = np.abs(y.to_numpy()[7:] - y.to_numpy()[:-7]).mean()
    assert_allclose(metrics.make_mase_scorer(7)(vote, X_test, y_test), -error / scale, **EXACT)


def test_voting_members_are_searched(lstm, day):
    X, y = day
    vote = VotingRegressor(
        [("network", lstm(lookback=14, max_epochs=6)), ("naive", NaiveForecaster())]
    )
    search = GridSearchCV(
        vote,
        {"network__lr": [1e-6, 1e-2], "naive": [NaiveForecaster(), "drop"]},
        cv=TimeSeriesSplit(2, test_size=14),
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_["network__lr"] == 1e-2


def test_stacking_of_fitted_forecasters(lstm, split):
    X, X_test, y, y_test = split
    members = [("network", lstm(lookback=14)), ("naive", NaiveForecaster())]
    fitted = [(name, model.fit(X.iloc[:270], y.iloc[:270])) for name, model in members]
    # the weights are learnt on days that the members did not see
    stack = StackingRegressor(fitted, final_estimator=LinearRegression(), cv="prefit")
    stack.fit(X.iloc[270:], y.iloc[270:])
    columns = np.column_stack([model.predict(X.iloc[270:]) for _, model in fitted])
    future = np.column_stack([model.predict(X_test) for _, model in fitted])
    weights = LinearRegression().fit(columns, y.iloc[270:])
    assert_allclose(stack.predict(X_test), weights.predict(future), **EXACT)


def test_stacking_across_folds_is_refused(lstm, split):
    X, _, y, _ = split
    members = [("network", lstm(lookback=14, max_epochs=1)), ("naive", NaiveForecaster())]
    with pytest.raises(DataError, match="not KFold"):
        StackingRegressor(members).fit(X, y)
    with pytest.raises(ValueError, match="only works for partitions"):
        StackingRegressor(members, cv=TimeSeriesSplit(3)).fit(X, y)


def test_frozen_forecaster_keeps_its_weights_and_history(lstm, split):
    X, X_test, y, y_test = split
    model = lstm(lookback=14).fit(X.iloc[:250], y.iloc[:250])
    vote = VotingRegressor([("old", FrozenEstimator(model)), ("new", lstm(lookback=14))]).fit(X, y)
    new = lstm(lookback=14).fit(X, y)
    expected = (model.predict(X_test) + new.predict(X_test)) / 2
    assert_allclose(vote.predict(X_test), expected, rtol=1e-6)
    assert model.cutoff_ == X.index[249]


def test_one_forecaster_for_each_target(lstm, seattle):
    X, Y = seattle[["wind"]], seattle[["temp_max", "temp_min"]]
    both = MultiOutputRegressor(lstm(lookback=14)).fit(X.iloc[:300], Y.iloc[:300])
    for k, name in enumerate(Y):
        alone = lstm(lookback=14).fit(X.iloc[:300], Y[name].iloc[:300])
        expected = alone.predict(X.iloc[300:])
        assert_allclose(both.predict(X.iloc[300:])[:, k], expected, rtol=1e-6, atol=1e-5)


def test_chain_of_targets(lstm, seattle):
    X, Y = seattle[["wind"]], seattle[["temp_max", "temp_min"]]
    chain = RegressorChain(lstm(lookback=14), order=[0, 1]).fit(X.iloc[:300], Y.iloc[:300])
    first = lstm(lookback=14).fit(X.iloc[:300].to_numpy(), Y.iloc[:300, 0].to_numpy())
    second = lstm(lookback=14).fit(
        np.column_stack([X.iloc[:300], Y.iloc[:300, 0]]), Y.iloc[:300, 1].to_numpy()
    )
    one = first.predict(X.iloc[300:].to_numpy())
    two = second.predict(np.column_stack([X.iloc[300:], one]))
    assert_allclose(chain.predict(X.iloc[300:]), np.column_stack([one, two]), **EXACT)
