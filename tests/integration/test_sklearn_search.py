"""Searches and cross-validation of scikit-learn on real data, against loops written by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.metrics import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_pinball_loss,
    mean_squared_error,
    r2_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
    TimeSeriesSplit,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from rnnforecast import (
    ARIMAForecaster,
    DeepRNNForecaster,
    NaiveForecaster,
    PanelTimeSeriesSplit,
    SeriesScaler,
    metrics,
)
from rnnforecast.exceptions import DataError

EXACT = {"rtol": 1e-9, "atol": 1e-9}
CYCLE = {"lookback": 22, "horizon": 11}  # sunspots: two cycles back, one ahead
SCORERS = [
    *("mae", "mse", "rmse", "mape", "smape", "r2"),
    *("mase", "rmsse", "pinball", "coverage", "interval"),
]


# Searches


def test_grid_search_finds_the_learning_rate_that_learns(lstm, sunspots, by_hand):
    cv = TimeSeriesSplit(3, test_size=11)
    model = lstm(target="sunspots", max_epochs=10, **CYCLE)
    search = GridSearchCV(
        model, {"lr": [1e-6, 3e-2]}, cv=cv, scoring=metrics.mae_scorer, error_score="raise"
    ).fit(sunspots)
    assert search.best_params_ == {"lr": 3e-2}
    for i, lr in enumerate((1e-6, 3e-2)):
        expected = by_hand(model, sunspots, None, cv, metrics.mae_scorer, {"lr": lr})
        scores = [search.cv_results_[f"split{k}_test_score"][i] for k in range(3)]
        assert_allclose(scores, expected, **EXACT)
    naive = cross_val_score(NaiveForecaster(), sunspots, cv=cv, scoring=metrics.mae_scorer)
    assert search.best_score_ > naive.mean()
    # refitted on all rows: the search itself is a forecaster
    expected = lstm(target="sunspots", max_epochs=10, **CYCLE).set_params(lr=3e-2).fit(sunspots)
    future = pd.DataFrame(index=pd.date_range("2009-01-01", periods=11, freq="YS"))
    future["sunspots"] = np.nan
    assert_array_equal(search.predict(future), expected.forecast()["sunspots"])
    assert search.best_estimator_.cutoff_ == sunspots.index[-1]


def test_randomized_search(lstm, sunspots, by_hand):
    cv = TimeSeriesSplit(2, test_size=11)
    model = lstm(target="sunspots", max_epochs=10, **CYCLE)
    search = RandomizedSearchCV(
        model,
        {"lr": loguniform(1e-6, 3e-2), "hidden_size": [4, 8]},
        n_iter=3,
        cv=cv,
        scoring=metrics.mae_scorer,
        random_state=5,
        error_score="raise",
    ).fit(sunspots)
    draws, scores = search.cv_results_["params"], search.cv_results_["mean_test_score"]
    rates = sorted(params["lr"] for params in draws)
    assert rates[1] < 1e-4 < 1e-2 < rates[2]  # two that cannot learn, one that can
    assert search.best_params_["lr"] == rates[2]
    for params, score in zip(draws, scores):
        expected = by_hand(model, sunspots, None, cv, metrics.mae_scorer, params)
        assert_allclose(score, expected.mean(), **EXACT)


@pytest.mark.parametrize("with_y", [True, False])
def test_halving_grid_search_spends_epochs(with_y, lstm, seattle, day, by_hand):
    X, y = day if with_y else (seattle.drop(columns="weather"), None)
    target = {} if with_y else {"target": "temp_max", "known": ["temp_min"]}
    model, cv = lstm(lookback=14, early_stopping=False, **target), TimeSeriesSplit(2, test_size=14)
    search = HalvingGridSearchCV(
        model,
        {"lr": [1e-6, 1e-5, 1e-4, 1e-2]},
        resource="max_epochs",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=cv,
        error_score="raise",
    ).fit(X, y)
    assert search.n_resources_ == [1, 2, 4]
    assert search.n_candidates_ == [4, 2, 1]
    assert search.best_estimator_.n_epochs_ == 4
    results = search.cv_results_
    scores, left = np.asarray(results["mean_test_score"]), np.asarray(results["iter"])
    kept = [results["params"][k]["lr"] for k in np.flatnonzero(left == 1)]
    first = [results["params"][k]["lr"] for k in np.argsort(-scores[left == 0])[:2]]
    assert sorted(kept) == sorted(first)  # the better half goes on
    assert search.best_params_ == {**results["params"][-1], "max_epochs": 4}
    assert search.best_params_["lr"] == kept[int(np.argmax(scores[left == 1]))]
    assert_array_equal(results["iter"], [0, 0, 0, 0, 1, 1, 2])
    assert_array_equal(results["n_resources"], [1, 1, 1, 1, 2, 2, 4])
    for params, score in zip(results["params"], results["mean_test_score"]):
        assert_allclose(score, by_hand(model, X, y, cv, params=params).mean(), **EXACT)


def test_cell_layers_and_directions_in_one_grid(lstm, stations, by_hand):
    cv = PanelTimeSeriesSplit(1, test_size=24)
    model = lstm(DeepRNNForecaster, target="temp", lookback=24, horizon=24, hidden_size=4)
    grid = {"cell": ["rnn", "lstm", "gru"], "n_layers": [1, 2], "bidirectional": [False, True]}
    search = GridSearchCV(model, grid, cv=cv, scoring=metrics.mae_scorer, error_score="raise").fit(
        stations
    )
    results = search.cv_results_
    assert len(results["params"]) == 12
    assert len(set(results["mean_test_score"])) == 12  # twelve networks, not one
    naive = cross_val_score(
        NaiveForecaster(target="temp", strategy="seasonal", seasonality=24),
        stations,
        cv=cv,
        scoring=metrics.mae_scorer,
    )
    assert search.best_score_ > naive.mean()
    expected = by_hand(model, stations, None, cv, metrics.mae_scorer, search.best_params_)
    assert_allclose(search.best_score_, expected.mean(), **EXACT)
    # gates: an LSTM has 4 and a GRU 3 for the one of an RNN, and two directions double them
    size = {}
    for params in results["params"]:
        if params["n_layers"] == 1:
            fitted = sklearn.base.clone(model).set_params(max_epochs=1, **params).fit(stations)
            layers = fitted.network_.encoder.parameters()
            size[params["cell"], params["bidirectional"]] = sum(p.numel() for p in layers)
    assert size["lstm", False] == 4 * size["rnn", False]
    assert size["gru", False] == 3 * size["rnn", False]
    for cell in grid["cell"]:
        assert size[cell, True] == 2 * size[cell, False]


def test_two_jobs_give_the_scores_of_one(lstm, day):
    X, y = day
    grid = {"lr": [1e-6, 1e-2], "dropout": [0.0, 0.2]}
    searches = [
        GridSearchCV(
            lstm(lookback=14, n_layers=2),
            grid,
            cv=TimeSeriesSplit(2, test_size=14),
            n_jobs=n_jobs,
            error_score="raise",
        ).fit(X, y)
        for n_jobs in (1, 2)
    ]
    one, two = (search.cv_results_["mean_test_score"] for search in searches)
    assert_allclose(two, one, **EXACT)
    assert searches[0].best_params_ == searches[1].best_params_
    assert len(set(one)) == 4


# Without y


def _by_formula(name, model, test):
    """The score of a fitted forecaster from scikit-learn's metrics or from the definition."""
    true, pred = test["sunspots"].to_numpy(), model.predict(test)
    train = model.history()["sunspots"].to_numpy()
    season = model.seasonality_
    naive = train[season:] - train[:-season]
    low, high = model.predict_interval(test, coverage=0.9).T
    levels = (0.1, 0.5, 0.9)
    quantiles = model.predict_quantiles(test, quantiles=levels)
    outside = np.maximum(low - true, 0) + np.maximum(true - high, 0)
    value = {
        "mae": mean_absolute_error(true, pred),
        "mse": mean_squared_error(true, pred),
        "rmse": np.sqrt(mean_squared_error(true, pred)),
        "mape": 100 * mean_absolute_percentage_error(true, pred),
        "smape": np.mean(200 * np.abs(true - pred) / (np.abs(true) + np.abs(pred))),
        "r2": -r2_score(true, pred),
        "mase": mean_absolute_error(true, pred) / np.mean(np.abs(naive)),
        "rmsse": np.sqrt(mean_squared_error(true, pred) / np.mean(naive**2)),
        "pinball": np.mean(
            [mean_pinball_loss(true, quantiles[:, i], alpha=a) for i, a in enumerate(levels)]
        ),
        "coverage": abs(np.mean((true >= low) & (true <= high)) - 0.9),
        "interval": np.mean(high - low + 2 / 0.1 * outside),
    }[name]
    return -value


def test_grid_search_without_y_and_the_default_score(lstm, sunspots):
    cv = TimeSeriesSplit(3)
    model = lstm(target="sunspots", **CYCLE)
    search = GridSearchCV(model, {"lr": [1e-6, 3e-2]}, cv=cv, error_score="raise").fit(sunspots)
    for i, lr in enumerate((1e-6, 3e-2)):
        for k, (train, test) in enumerate(cv.split(sunspots)):
            one = lstm(target="sunspots", **CYCLE).set_params(lr=lr).fit(sunspots.iloc[train])
            rows = sunspots.iloc[test]
            expected = r2_score(rows["sunspots"], one.predict(rows))
            assert_allclose(search.cv_results_[f"split{k}_test_score"][i], expected, **EXACT)
    naive = cross_val_score(NaiveForecaster(target="sunspots"), sunspots, cv=cv).mean()
    assert search.best_score_ > naive


@pytest.mark.parametrize("name", SCORERS)
def test_grid_search_without_y_and_each_scorer(name, lstm, sunspots):
    cv = TimeSeriesSplit(2, test_size=20)
    search = GridSearchCV(
        lstm(target="sunspots", **CYCLE),
        {"hidden_size": [4, 8]},
        cv=cv,
        scoring=metrics.get_scorer(name),
        error_score="raise",
    ).fit(sunspots)
    for i, size in enumerate((4, 8)):
        for k, (train, test) in enumerate(cv.split(sunspots)):
            model = lstm(target="sunspots", hidden_size=size, **CYCLE).fit(sunspots.iloc[train])
            expected = _by_formula(name, model, sunspots.iloc[test])
            assert_allclose(search.cv_results_[f"split{k}_test_score"][i], expected, **EXACT)


def test_grid_search_without_y_and_many_scorers_at_once(lstm, sunspots):
    cv = TimeSeriesSplit(2, test_size=20)
    search = GridSearchCV(
        lstm(target="sunspots", max_epochs=8, **CYCLE),
        {"lr": [1e-6, 3e-2]},
        cv=cv,
        scoring={name: metrics.get_scorer(name) for name in SCORERS},
        refit="mase",
        error_score="raise",
    ).fit(sunspots)
    assert search.best_params_ == {"lr": 3e-2}
    train, test = next(cv.split(sunspots))
    model = search.best_estimator_
    model = sklearn.base.clone(model).fit(sunspots.iloc[train])
    for name in SCORERS:
        expected = _by_formula(name, model, sunspots.iloc[test])
        assert_allclose(search.cv_results_[f"split0_test_{name}"][1], expected, **EXACT)


# Panels, gaps and wrong splitters


def test_a_panel_is_split_by_time(lstm, gappy_stations, by_hand):
    cv = PanelTimeSeriesSplit(2, test_size=12)
    frame = gappy_stations
    time = frame.index.get_level_values("time")
    for train, test in cv.split(frame):
        assert time[train].max() < time[test].min()
        assert set(frame.index[test].get_level_values("station")) == {"EWR", "JFK"}
    model = lstm(target="temp", lookback=24, horizon=12)
    pipe = make_pipeline(SeriesScaler(), model).set_output(transform="pandas")
    search = GridSearchCV(
        pipe,
        {"deeplstmforecaster__lr": [1e-6, 1e-2], "seriesscaler__method": ["standard", "robust"]},
        cv=cv,
        scoring=metrics.mase_scorer,
        error_score="raise",
    ).fit(frame)
    assert search.best_params_["deeplstmforecaster__lr"] == 1e-2
    expected = by_hand(pipe, frame, None, cv, metrics.mase_scorer, search.best_params_)
    assert_allclose(search.best_score_, expected.mean(), **EXACT)
    # the airports' mean error, each in units of its own naive error
    train, test = next(cv.split(frame))
    fitted = sklearn.base.clone(model).fit(frame.iloc[train])
    rows = frame.iloc[test]
    error = pd.Series(np.abs(fitted.predict(rows) - rows["temp"]), index=rows.index)
    by_hand_mase = []
    for station in ("EWR", "JFK"):
        grid = frame.iloc[train].loc[station, "temp"].asfreq("h")
        by_hand_mase.append(error.loc[station].mean() / grid.diff(24).abs().mean())
    assert_allclose(metrics.mase_scorer(fitted, rows), -np.mean(by_hand_mase), **EXACT)


def test_a_gap_before_the_test_rows_is_forecast_over(lstm, day):
    X, y = day
    cv = TimeSeriesSplit(2, test_size=5, gap=4)
    model = lstm(lookback=14)
    scores = cross_val_score(
        model, X, y, cv=cv, scoring="neg_mean_absolute_error", error_score="raise"
    )
    for (train, test), score in zip(cv.split(X), scores):
        fitted = lstm(lookback=14).fit(X.iloc[train], y.iloc[train])
        ahead = X.iloc[train[-1] + 1 : test[-1] + 1].copy()
        ahead.iloc[:4] = np.nan  # the rows in the gap are not seen
        nine = fitted.forecast(ahead, horizon=9)["temp_max"].iloc[4:]
        assert_array_equal(nine.index, X.index[test])
        assert_allclose(score, -mean_absolute_error(y.iloc[test], nine), **EXACT)
    # the season's naive forecast tells the step: 4 + 5 days on, not 5
    week = NaiveForecaster(strategy="seasonal", seasonality=7)
    train, test = next(cv.split(X))
    fitted = week.fit(X.iloc[train], y.iloc[train])
    same_weekday = y.iloc[train].iloc[-7:].to_numpy()[(4 + np.arange(5)) % 7]
    assert_array_equal(fitted.predict(X.iloc[test]), same_weekday)


@pytest.mark.parametrize(
    "cv", [KFold(3), KFold(3, shuffle=True, random_state=0)], ids=["blocks", "shuffled"]
)
@pytest.mark.parametrize("with_y", [True, False])
def test_kfold_is_told_to_use_time_series_split(cv, with_y, lstm, seattle, day):
    X, y = day if with_y else (seattle[["temp_max"]], None)
    search = GridSearchCV(
        lstm(lookback=14, max_epochs=1), {"lr": [1e-2]}, cv=cv, error_score="raise"
    )
    with pytest.raises(DataError, match=r"use TimeSeriesSplit .*not KFold"):
        search.fit(X, y)


def test_shuffled_rows_are_refused(lstm, day):
    X, y = day
    model = lstm(lookback=14, max_epochs=1)
    with pytest.raises(DataError, match="not sorted"):
        cross_val_score(model, X, y, cv=ShuffleSplit(1, random_state=0), error_score="raise")
    with pytest.raises(DataError, match="not sorted"):
        learning_curve(
            model, X, y, cv=TimeSeriesSplit(2), shuffle=True, random_state=0, error_score="raise"
        )
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    with pytest.raises(DataError, match="not sorted"):
        model.fit(X_train, y_train)
    with pytest.raises(DataError, match="different indices"):
        permutation_test_score(model, X, y, cv=TimeSeriesSplit(2), n_permutations=1)


def test_cross_val_predict_cannot_be_used_and_says_so(lstm, day):
    X, y = day
    model = lstm(lookback=14, max_epochs=1)
    with pytest.raises(ValueError, match="only works for partitions"):
        cross_val_predict(model, X, y, cv=TimeSeriesSplit(3))
    with pytest.raises(DataError, match=r"use TimeSeriesSplit .*not KFold"):
        cross_val_predict(model, X, y, cv=3)


# Cross-validation and curves


def test_cross_validate_with_train_scores(lstm, seattle):
    frame = seattle.drop(columns="weather")
    cv = TimeSeriesSplit(3, test_size=14)
    model = lstm(target="temp_max", known="temp_min", lookback=14)
    result = cross_validate(
        model,
        frame,
        cv=cv,
        return_train_score=True,
        return_estimator=True,
        return_indices=True,
        error_score="raise",
    )
    for k, (train, test) in enumerate(cv.split(frame)):
        fitted = lstm(target="temp_max", known="temp_min", lookback=14).fit(frame.iloc[train])
        for rows, part in ((train, "train"), (test, "test")):
            assert_array_equal(result["indices"][part][k], rows)
            expected = r2_score(frame["temp_max"].iloc[rows], fitted.predict(frame.iloc[rows]))
            assert_allclose(result[f"{part}_score"][k], expected, **EXACT)
        assert result["estimator"][k].cutoff_ == frame.index[train[-1]]
        # one-step values of the training days beat the last value, in R² over the same days
        last = r2_score(frame["temp_max"].iloc[train[1:]], frame["temp_max"].iloc[train[:-1]])
        assert result["train_score"][k] > last


def test_learning_curve_takes_the_oldest_rows(lstm, day):
    # scikit-learn cuts each training set at its start, so that a smaller one ends long before the
    # test rows; the index says how long, and the forecast bridges it.
    X, y = day
    cv = TimeSeriesSplit(2, test_size=14)
    sizes, train_scores, test_scores = learning_curve(
        lstm(lookback=14), X, y, cv=cv, train_sizes=[100, 200, 300], error_score="raise"
    )
    assert_array_equal(sizes, [100, 200, 300])
    for k, (train, test) in enumerate(cv.split(X)):
        for i, size in enumerate(sizes):
            rows = train[:size]
            fitted = lstm(lookback=14).fit(X.iloc[rows], y.iloc[rows])
            assert_allclose(
                test_scores[i, k], r2_score(y.iloc[test], fitted.predict(X.iloc[test])), **EXACT
            )
            assert_allclose(
                train_scores[i, k], r2_score(y.iloc[rows], fitted.predict(X.iloc[rows])), **EXACT
            )
    # 200 days without a reading, then a forecast: worse than from the day before
    assert (test_scores[2] > test_scores[0]).all()


def test_learning_curve_by_partial_fit(lstm, day):
    X, y = day
    cv = TimeSeriesSplit(2, test_size=14)
    _, _, test_scores = learning_curve(
        lstm(lookback=14),
        X,
        y,
        cv=cv,
        train_sizes=[100, 300],
        exploit_incremental_learning=True,
        error_score="raise",
    )
    for k, (train, test) in enumerate(cv.split(X)):
        model = lstm(lookback=14)
        for i, rows in enumerate((train[:100], train[100:300])):
            model.partial_fit(X.iloc[rows], y.iloc[rows])
            expected = r2_score(y.iloc[test], model.predict(X.iloc[test]))
            assert_allclose(test_scores[i, k], expected, **EXACT)
        assert len(model.history()) == 300


def test_validation_curve(lstm, day, by_hand):
    X, y = day
    cv = TimeSeriesSplit(2, test_size=14)
    rates = [1e-6, 1e-2]
    train_scores, test_scores = validation_curve(
        lstm(lookback=14, max_epochs=10),
        X,
        y,
        param_name="lr",
        param_range=rates,
        cv=cv,
        error_score="raise",
    )
    for i, lr in enumerate(rates):
        expected = by_hand(lstm(lookback=14, max_epochs=10, lr=lr), X, y, cv)
        assert_allclose(test_scores[i], expected, **EXACT)
    assert (train_scores[1] > train_scores[0]).all()
    assert test_scores[1].mean() > test_scores[0].mean() + 0.1


def test_nested_search(lstm, sunspots):
    inner, outer = TimeSeriesSplit(2, test_size=11), TimeSeriesSplit(2, test_size=11)
    search = GridSearchCV(
        lstm(target="sunspots", max_epochs=6, **CYCLE), {"lr": [1e-6, 3e-2]}, cv=inner
    )
    scores = cross_val_score(
        search, sunspots, cv=outer, scoring=metrics.mae_scorer, error_score="raise"
    )
    for (train, test), score in zip(outer.split(sunspots), scores):
        best = sklearn.base.clone(search).fit(sunspots.iloc[train]).best_estimator_
        rows = sunspots.iloc[test]
        expected = mean_absolute_error(rows["sunspots"], best.predict(rows))
        assert_allclose(score, -expected, **EXACT)


def test_sequential_selection_takes_the_informative_covariate(day):
    X, y = day
    selector = SequentialFeatureSelector(
        ARIMAForecaster(order=(0, 1, 1)),
        n_features_to_select=1,
        cv=TimeSeriesSplit(3),
        scoring="neg_mean_absolute_error",
    ).fit(X, y)
    assert list(selector.get_feature_names_out()) == ["temp_min"]


# Metadata routing


def test_metadata_routing_changes_nothing(lstm, stations):
    pipe = Pipeline(
        [
            ("scale", SeriesScaler().set_output(transform="pandas")),
            ("model", lstm(target="temp", lookback=24, horizon=24)),
        ]
    )
    search = GridSearchCV(
        pipe,
        {"model__lr": [1e-6, 1e-2]},
        cv=PanelTimeSeriesSplit(2, test_size=24),
        scoring={"mase": metrics.mase_scorer, "interval": metrics.make_interval_scorer(0.8)},
        refit="mase",
        error_score="raise",
    )
    off = sklearn.base.clone(search).fit(stations)
    with sklearn.config_context(enable_metadata_routing=True):
        on = sklearn.base.clone(search).fit(stations)
        score = on.score(stations.groupby("station").tail(3))
    assert score == off.score(stations.groupby("station").tail(3))
    for name in ("mean_test_mase", "mean_test_interval", "split1_test_mase"):
        assert_array_equal(on.cv_results_[name], off.cv_results_[name])
    assert on.best_params_ == {"model__lr": 1e-2}


def test_metadata_routing_brings_weights_to_the_scorer(lstm, day):
    X, y = day
    weight = np.linspace(0.1, 2.0, len(X)) ** 3
    cv = TimeSeriesSplit(2, test_size=14)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False).set_output(transform="pandas"),
            lstm(lookback=14),
        )
        scorer = metrics.mae_scorer.set_score_request(sample_weight=True)
        scores = cross_val_score(
            pipe,
            X,
            y,
            cv=cv,
            scoring=scorer,
            params={"sample_weight": weight},
            error_score="raise",
        )
        plain = cross_val_score(pipe, X, y, cv=cv, scoring=metrics.mae_scorer)
    for (train, test), score in zip(cv.split(X), scores):
        fitted = sklearn.base.clone(pipe).fit(X.iloc[train], y.iloc[train])
        error = np.abs(fitted.predict(X.iloc[test]) - y.iloc[test])
        assert_allclose(score, -np.average(error, weights=weight[test]), **EXACT)
    assert not np.allclose(scores, plain, rtol=1e-4)
