"""Cloning, saving, inspecting and feeding forecasters as scikit-learn's users do, on real data."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_regressor
from sklearn.ensemble import VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectFromModel
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.metrics import PredictionErrorDisplay, r2_score
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from sklearn.utils.validation import check_is_fitted

import rnnforecast
from rnnforecast import (
    ARIMAForecaster,
    BiGRUForecaster,
    BiLSTMForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    DeepRNNForecaster,
    NaiveForecaster,
    metrics,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
DEEP = [
    *(DeepRNNForecaster, DeepLSTMForecaster, DeepGRUForecaster),
    *(BiLSTMForecaster, BiGRUForecaster),
]


@pytest.fixture
def split(day):
    """Covariates and target before and after 30 October: 300 days and 30."""
    X, y = day
    return X.iloc[:300], X.iloc[300:], y.iloc[:300], y.iloc[300:]


# Parameters


@pytest.mark.parametrize("kind", DEEP, ids=lambda kind: kind.__name__)
def test_clone_of_a_fitted_forecaster_is_fitted_to_the_same_bits(kind, lstm, split):
    X, X_test, y = split[0].iloc[150:], split[1], split[2].iloc[150:]
    model = lstm(kind, lookback=14, dropout=0.1, n_layers=2).fit(X, y)
    copy = clone(model)
    assert not any(name.endswith("_") for name in vars(copy))
    with pytest.raises(NotFittedError):
        copy.predict(X_test)
    assert copy.get_params() == model.get_params()
    assert_array_equal(copy.fit(X, y).predict(X_test), model.predict(X_test))
    # fitting the clone left the original alone
    assert model.cutoff_ == X.index[-1]
    other = clone(model).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(other.predict(X_test), model.predict(X_test))


def test_nested_parameters(lstm, split):
    X, X_test, y, _ = split
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), lstm())
    pipe.set_params(deeplstmforecaster__lookback=7, deeplstmforecaster__hidden_size=4)
    assert pipe.get_params()["deeplstmforecaster__lookback"] == 7
    model = pipe.fit(X, y)[-1]
    assert model.lookback_ == 7
    assert model.network_.head.in_features == 4
    with pytest.raises(ValueError, match="Invalid parameter 'look_back'"):
        pipe.set_params(deeplstmforecaster__look_back=7)


def test_fitted_or_not(lstm, split):
    X, _, y, _ = split
    model = lstm(lookback=14)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    check_is_fitted(model.fit(X, y))
    assert is_regressor(model) and is_regressor(GridSearchCV(model, {"lr": [1e-2]}))
    assert_array_equal(model.feature_names_in_, X.columns)
    assert model.n_features_in_ == 3


def test_html_and_text_show_parameters_and_state(lstm, split):
    X, _, y, _ = split
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), lstm(lookback=14))
    before, after = estimator_html_repr(pipe), estimator_html_repr(pipe.fit(X, y))
    for page in (before, after):
        assert "DeepLSTMForecaster" in page and "StandardScaler" in page and "lookback" in page
    assert "Not fitted" in before and "Not fitted" not in after
    assert "lookback=14" in repr(pipe[-1]) and "300 rows" in repr(pipe[-1])
    assert "temp_max" in repr(pipe[-1]) and "DeepLSTMForecaster" in pipe[-1]._repr_html_()


# Saving


class Names(pickle.Unpickler):
    """Loads a pickle and notes every name that it asks for."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data))
        self.found: set[tuple[str, str]] = set()

    def find_class(self, module, name):
        self.found.add((module, name))
        return super().find_class(module, name)


def test_pickle_holds_the_model_and_nothing_else(lstm, split):
    X, X_test, y, _ = split
    model = lstm(lookback=14, hidden_size=4).fit(X, y)
    data = pickle.dumps(model)
    names = Names(data)
    again = names.load()
    assert_array_equal(again.predict(X_test), model.predict(X_test))
    assert_array_equal(again.predict_interval(X_test), model.predict_interval(X_test))
    expected, future = (fc.forecast(X_test, horizon=30) for fc in (model, again))
    pd.testing.assert_frame_equal(future, expected, check_exact=True)
    pd.testing.assert_frame_equal(again.history(), model.history(), check_exact=True)
    assert again.get_params() == model.get_params() and repr(again) == repr(model)
    # no place on this machine, and no object of the test
    assert str(Path(rnnforecast.__file__).parents[1]).encode() not in data
    assert str(Path.home()).encode() + b"/" not in data or str(Path.home()) == "/"
    allowed = {"rnnforecast", "torch", "numpy", "pandas", "collections", "builtins"}
    assert {module.split(".")[0] for module, _ in names.found} <= allowed
    # the rows of fit (3 covariates and the target) and the weights, but not the optimiser
    weights = sum(p.numel() * p.element_size() for p in model.network_.parameters())
    assert len(data) < 300 * 4 * 8 + weights + 40_000


def test_pickle_of_a_slice_does_not_drag_the_frame_along(lstm, split, stations):
    X, _, y, _ = split
    long = pd.concat([X] * 200, ignore_index=True)
    target = pd.Series(np.tile(y, 200))
    sliced = lstm(lookback=14, max_epochs=1).fit(long.iloc[:300], target.iloc[:300])
    alone = lstm(lookback=14, max_epochs=1).fit(long.iloc[:300].copy(), target.iloc[:300].copy())
    assert len(pickle.dumps(sliced)) < len(pickle.dumps(alone)) + 1_000
    station = stations.loc[["JFK"]]  # its index still knows EWR and every hour of the panel
    first = lstm(target="temp", lookback=24, max_epochs=1).fit(station.iloc[:100])
    assert len(pickle.dumps(first)) < len(pickle.dumps(alone))
    assert b"EWR" not in pickle.dumps(first)


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_file_gives_the_same_bits_in_another_process(compress, lstm, split, tmp_path):
    X, X_test, y, _ = split
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), lstm(lookback=14))
    search = GridSearchCV(pipe, {"deeplstmforecaster__lr": [1e-2]}, cv=TimeSeriesSplit(2)).fit(X, y)
    joblib.dump(search, tmp_path / "model.joblib", compress=compress)
    again = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(again.predict(X_test), search.predict(X_test))
    if compress:
        return
    X_test.to_pickle(tmp_path / "X.pkl")
    program = (
        "import joblib, pandas, numpy, sys; "
        "model = joblib.load(sys.argv[1] + '/model.joblib'); "
        "X = pandas.read_pickle(sys.argv[1] + '/X.pkl'); "
        "numpy.save(sys.argv[1] + '/out.npy', model.predict(X))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    assert_array_equal(np.load(tmp_path / "out.npy"), search.predict(X_test))


def test_a_loaded_forecaster_goes_on(lstm, split):
    X, X_test, y, y_test = split
    model = lstm(lookback=14).fit(X, y)
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    again = joblib.load(buffer)
    for forecaster in (model, again):
        forecaster.update(X_test.iloc[:10], y_test.iloc[:10])
    rest = X_test.iloc[10:]
    assert_array_equal(again.predict(rest), model.predict(rest))
    for forecaster in (model, again):
        forecaster.partial_fit(X_test.iloc[10:20], y_test.iloc[10:20])
    assert_array_equal(again.predict(X_test.iloc[20:]), model.predict(X_test.iloc[20:]))


# Inspection


@pytest.mark.parametrize("rows", ["training", "future"])
def test_permutation_importance_ranks_the_informative_covariate_first(rows, lstm, split):
    X, X_test, y, y_test = split
    model = lstm(lookback=14, max_epochs=15).fit(X, y)
    where = (X, y) if rows == "training" else (X_test, y_test)
    result = permutation_importance(model, *where, n_repeats=5, random_state=0)
    assert list(X.columns)[int(np.argmax(result.importances_mean))] == "temp_min"
    first = list(X.columns).index("temp_min")
    others = np.delete(result.importances_mean, first)
    assert result.importances_mean[first] - result.importances_std[first] > others.max()
    # by hand, with the same shuffles
    generator = np.random.RandomState(0)
    generator = np.random.RandomState(generator.randint(np.iinfo(np.int32).max + 1))
    order = np.arange(len(where[0]))
    generator.shuffle(order)
    shuffled = where[0].copy()
    shuffled["temp_min"] = shuffled["temp_min"].to_numpy()[order]
    drop = model.score(*where) - r2_score(where[1], model.predict(shuffled))
    assert_allclose(result.importances[first, 0], drop, **EXACT)


def test_partial_dependence(lstm, split):
    X, _, y, _ = split
    model = lstm(lookback=14, max_epochs=10).fit(X, y)
    result = partial_dependence(model, X, ["temp_min"], grid_resolution=5)
    curve, grid = result["average"][0], result["grid_values"][0]
    assert (np.diff(curve) > 0).all()  # warm nights, warm days
    by_hand = [model.predict(X.assign(temp_min=value)).mean() for value in grid]
    assert_allclose(curve, by_hand, **EXACT)


def test_displays(lstm, split):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.inspection import PartialDependenceDisplay
    from sklearn.model_selection import LearningCurveDisplay

    X, X_test, y, y_test = split
    model = lstm(lookback=14).fit(X, y)
    error = PredictionErrorDisplay.from_estimator(model, X_test, y_test)
    assert_array_equal(error.y_pred, model.predict(X_test))
    dependence = PartialDependenceDisplay.from_estimator(
        model, X_test, ["wind", ("wind", "temp_min")], grid_resolution=3
    )
    (line,) = dependence.lines_.ravel()[:1]
    low = line.get_xdata()[0]
    assert_allclose(line.get_ydata()[0], model.predict(X_test.assign(wind=low)).mean(), **EXACT)
    curve = LearningCurveDisplay.from_estimator(
        lstm(lookback=14, max_epochs=1), X, y, train_sizes=[0.5, 1.0], cv=TimeSeriesSplit(2)
    )
    assert curve.test_scores.shape == (2, 2) and np.isfinite(curve.test_scores).all()
    plt.close("all")


def test_selection_by_coefficients(split):
    X, X_test, y, _ = split

    def coefficients(model):
        return model.params_.loc[list(model.feature_names_in_)].to_numpy()

    model = ARIMAForecaster(order=(0, 1, 1))
    selector = SelectFromModel(
        model, importance_getter=coefficients, max_features=1, threshold=-np.inf
    ).fit(X, y)
    expected = clone(model).fit(X, y).params_[list(X.columns)].abs().idxmax()
    assert list(selector.get_feature_names_out()) == [expected] == ["temp_min"]
    # without coefficients scikit-learn says what is missing
    with pytest.raises(ValueError, match="coef_"):
        SelectFromModel(NaiveForecaster()).fit(X, y).get_support()


# Rows in other containers


def test_train_test_split_without_shuffling(lstm, seattle):
    frame = seattle.drop(columns="weather")
    train, test = train_test_split(frame, shuffle=False, test_size=14)
    model = lstm(target="temp_max", lookback=14, horizon=14).fit(train)
    assert_array_equal(model.predict(test), model.forecast()["temp_max"])
    assert model.forecast().index.equals(test.index)
    assert_allclose(model.score(test), r2_score(test["temp_max"], model.predict(test)), **EXACT)


def test_polars_and_pyarrow_in_a_search(lstm, seattle):
    polars = pytest.importorskip("polars")
    pyarrow = pytest.importorskip("pyarrow")
    frame = seattle.drop(columns="weather").reset_index()
    search = GridSearchCV(
        lstm(target="temp_max", time="date", lookback=14),
        {"lr": [1e-6, 1e-2]},
        cv=TimeSeriesSplit(2, test_size=14),
        scoring=metrics.mae_scorer,
        error_score="raise",
    )
    expected = clone(search).fit(frame).cv_results_["mean_test_score"]
    assert len(set(expected)) == 2
    for table in (polars.from_pandas(frame), pyarrow.Table.from_pandas(frame)):
        scores = clone(search).fit(table).cv_results_["mean_test_score"]
        assert_allclose(scores, expected, **EXACT)


def test_arrays_and_lists_in_a_search(lstm, day, by_hand):
    X, y = day
    cv = TimeSeriesSplit(2, test_size=14)
    # the season of days is known by their calendar, that of an array is not
    model = lstm(lookback=14, seasonality=7)
    expected = by_hand(model, X, y, cv)
    for rows, target in (
        (X.to_numpy(), y.to_numpy()),
        (X.to_numpy().tolist(), y.tolist()),
        (X.reset_index(drop=True), y.reset_index(drop=True)),
    ):
        scores = cross_val_score(model, rows, target, cv=cv, error_score="raise")
        assert_allclose(scores, expected, **EXACT)


def test_trading_days_and_missing_weeks_in_cross_validation(lstm, sp500, co2):
    cv = TimeSeriesSplit(2, test_size=10)
    scores = cross_val_score(
        ARIMAForecaster(target="close", order=(0, 1, 0)),
        sp500,
        cv=cv,
        scoring=metrics.mae_scorer,
        error_score="raise",
    )
    for (train, test), score in zip(cv.split(sp500), scores):
        last = sp500["close"].iloc[train[-1]]
        assert_allclose(score, -np.abs(sp500["close"].iloc[test] - last).mean(), rtol=1e-6)
    # unobserved weeks are neither trained on nor scored
    model = lstm(target="co2", lookback=26, horizon=10, max_epochs=3)
    scores = cross_val_score(model, co2, cv=cv, scoring=metrics.mae_scorer, error_score="raise")
    naive = cross_val_score(
        NaiveForecaster(target="co2"), co2, cv=cv, scoring=metrics.mae_scorer, error_score="raise"
    )
    for k, (train, test) in enumerate(cv.split(co2)):
        fitted = clone(model).fit(co2.iloc[train])
        error = np.abs(fitted.predict(co2.iloc[test]) - co2["co2"].iloc[test])
        assert_allclose(scores[k], -error.dropna().mean(), **EXACT)
    assert np.isfinite(scores).all() and np.isfinite(naive).all()


def test_periods_and_zones_give_the_scores_of_stamps(lstm, seattle):
    frame = seattle[["temp_max"]]
    options = {"cv": TimeSeriesSplit(2, test_size=14), "error_score": "raise"}
    expected = cross_val_score(lstm(lookback=14), frame, **options)
    for rows in (frame.to_period("D"), frame.tz_localize("UTC"), frame["temp_max"]):
        assert_allclose(cross_val_score(lstm(lookback=14), rows, **options), expected, **EXACT)


def test_two_targets_in_cross_validation(lstm, seattle):
    cv = TimeSeriesSplit(2, test_size=14)
    names = ["temp_max", "temp_min"]
    X, Y = seattle[["wind"]], seattle[names]
    inside = lstm(target=names, known="wind", lookback=14)
    whole = seattle[[*names, "wind"]]
    together = cross_val_score(inside, whole, cv=cv, error_score="raise")
    apart = cross_val_score(lstm(lookback=14), X, Y, cv=cv, error_score="raise")
    assert_allclose(together, apart, rtol=1e-6)
    for (train, test), score in zip(cv.split(X), apart):
        model = lstm(lookback=14).fit(X.iloc[train], Y.iloc[train])
        assert_allclose(score, r2_score(Y.iloc[test], model.predict(X.iloc[test])), **EXACT)


def test_missing_targets_are_left_out_of_scores_and_ensembles(lstm, co2):
    X = pd.DataFrame({"week": np.arange(260.0)}, index=co2.index)
    y = co2["co2"]
    cv = TimeSeriesSplit(2, test_size=100)
    vote = VotingRegressor([("a", lstm(lookback=26)), ("b", NaiveForecaster())])
    scores = cross_val_score(vote, X, y, cv=cv, scoring=metrics.mae_scorer, error_score="raise")
    unobserved = 0
    for (train, test), score in zip(cv.split(X), scores):
        parts = [
            clone(model).fit(X.iloc[train], y.iloc[train]).predict(X.iloc[test])
            for _, model in vote.estimators
        ]
        error = np.abs(np.mean(parts, axis=0) - y.iloc[test])
        unobserved += error.isna().sum()
        assert_allclose(score, -error.dropna().mean(), rtol=1e-6)
    assert unobserved
