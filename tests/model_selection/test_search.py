"""The shared search against scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rnnforecast import DeepGRUForecaster
from rnnforecast.data import reading
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.sharing import of_rows, sharing
from rnnforecast.model_selection import PanelTimeSeriesSplit, SharedGridSearchCV

GRID = {
    "lr": [1e-3, 1e-2],
    "dropout": [0.0, 0.4],
    "random_state": [0, 1],
}
FC = DeepGRUForecaster(
    horizon=4, lookback=8, hidden_size=4, n_layers=2, max_epochs=1, random_state=0
)


def panel(n=70):
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2024-01-01", periods=n, freq="D")], names=["series", "time"]
    )
    return pd.DataFrame({"y": rng.normal(size=2 * n), "x": rng.normal(size=2 * n)}, index=index)


def nothing_is_kept():
    return [of_rows((1,), lambda k=k: k) for k in range(2)] == [0, 1]


CV = PanelTimeSeriesSplit(n_splits=2, test_size=4)


def scores(search):
    return {k: v for k, v in search.cv_results_.items() if "time" not in k and k != "params"}


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_the_same_bits_as_scikit_learns(n_jobs):
    df = panel()
    ours = SharedGridSearchCV(FC, GRID, cv=CV, n_jobs=n_jobs, return_train_score=False).fit(df)
    theirs = GridSearchCV(FC, GRID, cv=CV).fit(df)
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for name, values in scores(theirs).items():
        np.testing.assert_array_equal(np.asarray(ours.cv_results_[name]), np.asarray(values))
    assert ours.best_params_ == theirs.best_params_
    pd.testing.assert_frame_equal(
        ours.best_estimator_.forecast(), theirs.best_estimator_.forecast()
    )


def test_candidates_that_see_the_data_differently_are_kept_apart():
    """Every parameter that the rows, windows or units depend on."""
    grid = [
        {"lookback": [6, 9]},
        {"scaler": ["window", "series", None]},
        {"validation_fraction": [0.0, 0.3]},
        {"seasonality": [1, 7]},
        {"batch_size": [5, 16]},
        {"horizon": [2, 4]},
        {"training": ["windows", "dense"]},
        {"calendar": [True, False]},
        {"known": [None, "x"]},
        {"target": [["y"], ["y", "x"]]},
    ]
    df = panel()

    def scorer(forecaster, X):
        return float(np.square(forecaster.predict(X)).sum())

    ours = SharedGridSearchCV(FC, grid, cv=CV, scoring=scorer, refit=False, n_jobs=2).fit(df)
    theirs = GridSearchCV(FC, grid, cv=CV, scoring=scorer, refit=False).fit(df)
    for split in range(2):
        name = f"split{split}_test_score"
        np.testing.assert_array_equal(ours.cv_results_[name], theirs.cv_results_[name])
    assert len(set(theirs.cv_results_["split0_test_score"])) > 10


def test_rows_are_read_once_a_fold(monkeypatch):
    read, calls = reading.read_fit, []
    monkeypatch.setattr(reading, "read_fit", lambda *a, **k: calls.append(1) or read(*a, **k))
    df = panel()
    SharedGridSearchCV(FC, {"lr": [1e-3, 1e-2, 2e-2], "dropout": [0, 0.1]}, cv=CV).fit(df)
    assert len(calls) == 2 + 1  # two folds and the refit
    calls.clear()
    GridSearchCV(FC, {"lr": [1e-3, 1e-2]}, cv=CV).fit(df)
    assert len(calls) == 2 * 2 + 1
    assert nothing_is_kept()


def test_in_a_pipeline_and_without_an_index():
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = X @ [1.0, 2.0]
    pipe = make_pipeline(StandardScaler(), clone(FC))
    grid = {"deepgruforecaster__lr": [1e-3, 1e-2]}
    cv = TimeSeriesSplit(2, test_size=4)
    ours = SharedGridSearchCV(pipe, grid, cv=cv).fit(X, y)
    theirs = GridSearchCV(pipe, grid, cv=cv).fit(X, y)
    np.testing.assert_array_equal(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
    )
    assert clone(ours).get_params()["estimator__deepgruforecaster__lr"] == 3e-3


def test_members_within_a_search():
    fc = clone(FC).set_params(n_members=2)
    ours = SharedGridSearchCV(fc, {"lr": [1e-3, 1e-2]}, cv=CV, n_jobs=2).fit(panel())
    theirs = GridSearchCV(fc, {"lr": [1e-3, 1e-2]}, cv=CV).fit(panel())
    np.testing.assert_array_equal(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
    )


def test_torchs_threads_and_the_memory_are_as_before_also_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with pytest.raises(DataError, match="hidden_size must be"):
            SharedGridSearchCV(FC, {"hidden_size": [0]}, cv=CV, n_jobs=2, error_score="raise").fit(
                panel()
            )
        assert torch.get_num_threads() == 4
        assert nothing_is_kept()
    finally:
        torch.set_num_threads(before)


def test_an_error_is_raised_to_each_and_not_kept():
    calls = []

    def read():
        calls.append(1)
        raise DataError("no")

    with sharing():
        for _ in range(2):
            with pytest.raises(DataError, match="no"):
                of_rows((1,), read)
    assert len(calls) == 2


def test_equal_rows_are_read_once_and_others_apart():
    df, calls = panel(), []

    def read(rows):
        return of_rows((rows, None), lambda: calls.append(1) or len(calls))

    with sharing():
        with sharing():
            assert [read(df), read(df.copy()), read(df + 1.0)] == [1, 1, 2]
        assert read(df.copy()) == 1  # the outer one is open still
    assert nothing_is_kept()
