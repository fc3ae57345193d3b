"""Sequence estimators inside scikit-learn's tools, and as reductions of forecasting use them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import StackingRegressor, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    TimeSeriesSplit,
    cross_val_predict,
    cross_val_score,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rnnforecast import SequenceClassifier, SequenceRegressor, SlidingWindows
from rnnforecast.nn import CELLS, Cell

TINY = {"hidden_size": 6, "max_epochs": 2, "random_state": 0}
LEARNS = {"cell": "gru", "hidden_size": 12, "max_epochs": 30, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).normal(size=(120, 8))
    return X, X @ np.linspace(0, 1, 8)


class Leaky(Cell):
    """A user's own."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.read = torch.nn.Linear(input_size + hidden_size, hidden_size)

    def step(self, x, state):
        (h,) = state
        h = 0.8 * h + 0.2 * torch.tanh(self.read(torch.cat([x, h], -1)))
        return h, (h,)


def test_one_search_over_all_cells_attention_and_depth(data):
    X, y = data
    grid = {
        "cell": [*sorted(CELLS), Leaky],
        "attention": [None, "additive", "dot", "multihead"],
        "n_layers": np.arange(1, 3),
    }
    model = SequenceRegressor(hidden_size=4, max_epochs=1, batch_size=64, random_state=0)
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == (len(CELLS) + 1) * 8
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == y.shape


@pytest.mark.parametrize("form", ["ragged", "3-D", "series"])
def test_a_search_over_sequences(form, data):
    X, y = data
    rows = {
        "ragged": [row[k % 3 :] for k, row in enumerate(X)],
        "3-D": X.reshape(len(X), 4, 2),
        "series": pd.Series([row[k % 3 :] for k, row in enumerate(X)]),
    }[form]
    search = GridSearchCV(SequenceClassifier(**TINY), {"cell": ["rnn", "gru"]}, cv=2)
    search.fit(rows, y > 0)
    assert search.predict_proba(rows).shape == (120, 2)
    assert cross_val_predict(search.best_estimator_, rows, y > 0, cv=2).shape == (120,)


def test_pipelines(data):
    X, y = data
    frame = pd.DataFrame(100 * X + 7, columns=list("abcdefgh"))
    pipe = make_pipeline(StandardScaler(), SequenceRegressor(**LEARNS))
    assert pipe.fit(frame[:90], y[:90]).score(frame[90:], y[90:]) > 0.7
    pipe.set_output(transform="pandas").fit(frame, y)
    assert list(pipe[-1].feature_names_in_) == list("abcdefgh")
    pick = ColumnTransformer([("lags", "passthrough", ["h", "g"])], verbose_feature_names_out=False)
    model = make_pipeline(pick.set_output(transform="pandas"), SequenceRegressor(**TINY))
    assert model.fit(frame, y).predict(frame).shape == y.shape
    assert list(model[-1].feature_names_in_) == ["h", "g"]
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        pipe[-1].predict(X)


def test_sequences_pass_through_columns(data):
    X, y = data
    frame = pd.DataFrame({"texts": [list(row[k % 3 :]) for k, row in enumerate(X)], "id": 1})
    pick = ColumnTransformer([("texts", "passthrough", ["texts"])])
    pick.set_output(transform="pandas")
    model = make_pipeline(pick, SequenceRegressor(**TINY)).fit(frame, y)
    direct = SequenceRegressor(**TINY).fit(frame["texts"], y)
    np.testing.assert_array_equal(model.predict(frame), direct.predict(frame["texts"]))


def test_targets_that_are_transformed(data):
    X, y = data
    model = TransformedTargetRegressor(
        SequenceRegressor(**LEARNS), func=np.log, inverse_func=np.exp
    )
    assert model.fit(X, np.exp(y)).predict(X).min() > 0
    assert cross_val_score(SequenceRegressor(**LEARNS), X, y, cv=TimeSeriesSplit(2))[-1] > 0.5
    two = MultiOutputRegressor(SequenceRegressor(**TINY)).fit(X, np.column_stack([y, -y]))
    assert two.predict(X).shape == (120, 2)
    stack = StackingRegressor([("gru", SequenceRegressor(**TINY)), ("ols", LinearRegression())])
    assert stack.fit(X, y).score(X, y) > 0.9


def test_classifiers_that_are_combined(data):
    X, y = data
    labels = np.where(y > 0, "up", "down")
    model = SequenceClassifier(**LEARNS)
    logistic = LogisticRegression()
    vote = VotingClassifier([("gru", model), ("logistic", logistic)], voting="soft")
    vote.fit(X[:90], labels[:90])
    mean = (
        model.fit(X[:90], labels[:90]).predict_proba(X)
        + logistic.fit(X[:90], labels[:90]).predict_proba(X)
    ) / 2
    np.testing.assert_allclose(vote.predict_proba(X), mean, rtol=1e-9)
    assert vote.score(X[90:], labels[90:]) > 0.7
    for method in ("sigmoid", "isotonic"):
        calibrated = CalibratedClassifierCV(model, method=method, cv=2).fit(X, labels)
        np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1.0)


def test_importances_are_those_of_the_columns(data):
    X, y = data
    model = SequenceRegressor(**LEARNS).fit(X, y)
    found = permutation_importance(model, X, y, n_repeats=3, random_state=0).importances_mean
    assert found[-1] == max(found)
    assert found[0] == pytest.approx(0, abs=0.05)


# -- reductions: the calls that other libraries make, written down by hand -------------------------


def lag_table(y, lags):
    """Lags of a series as columns lag1, lag2, ... and the truth of each row."""
    table = pd.concat({f"lag{k}": y.shift(k) for k in range(1, lags + 1)}, axis=1)
    return table.iloc[lags:], y.iloc[lags:]


@pytest.fixture(scope="module")
def season():
    time = pd.date_range("2000-01", periods=144, freq="MS")
    noise = np.random.default_rng(0).normal(size=144)
    return pd.Series(50 + 10 * np.sin(np.arange(144) * np.pi / 6) + noise, time, name="y")


def seasonal_error(season, found):
    return np.abs(np.asarray(found) - season[-len(found) :].to_numpy()).mean()


def test_recursion_on_named_lags_and_calendar_columns(season):
    """As mlforecast: a table of float32 lags and small integers, then a table of a row a series."""
    table, y = lag_table(season[:-12], 12)
    table = table.astype("float32").assign(month=table.index.month.astype("int32"))
    model = SequenceRegressor(**LEARNS).fit(table, y.to_numpy("float32"))
    past, found = list(season[:-12]), []
    for time in season.index[-12:]:
        row = pd.DataFrame([past[:-13:-1]], columns=table.columns[:-1], dtype="float32")
        (value,) = model.predict(row.assign(month=np.int32(time.month)))
        found.append(value)
        past.append(value)
    assert seasonal_error(season, found) < 3


def test_recursion_on_arrays_of_one_row(season):
    """As skforecast: fitted to a table, then asked with a C-ordered array, names left out."""
    table, y = lag_table(season[:-12], 12)
    model = SequenceRegressor(**LEARNS).set_params(
        hidden_size=np.int64(12), max_epochs=np.int64(30)
    )
    model.fit(table.to_numpy(), y.to_numpy())
    past, found = season[:-12].to_numpy(), []
    for _ in range(12):
        value = model.predict(past[: -12 - 1 : -1].reshape(1, -1)).ravel()[0]
        found.append(value)
        past = np.append(past, value)
    assert seasonal_error(season, found) < 3


@pytest.mark.parametrize("strategy", ["direct", "multioutput"])
def test_direct_reductions(season, strategy):
    """As sktime: flattened windows, a model a step (clones), or one for all of them."""
    y = season.to_numpy()
    windows = np.lib.stride_tricks.sliding_window_view(y[:-12], 24)
    X, Y = windows[:, :12], windows[:, 12:]
    model, last = SequenceRegressor(n_channels=1, **LEARNS), y[-24:-12].reshape(1, 12)
    if strategy == "multioutput":
        found = model.fit(X, Y).predict(last)[0]
    else:
        found = np.array([model.fit(X, Y[:, k]).predict(last)[0] for k in range(0, 12, 4)])
        Y, season = Y[:, ::4], season[-12::4]
    assert seasonal_error(season, found) < 3


def test_windows_of_this_library(season):
    windows = SlidingWindows(lookback=12, horizon=3, target="y").fit(season.to_frame())
    X, y = windows.make_xy()
    model = SequenceRegressor(**LEARNS).fit(X[:-12], y[:-12])
    assert model.predict(X[-12:]).shape == (12, 3)
    assert model.score(X[-12:], y[-12:]) > 0.6
