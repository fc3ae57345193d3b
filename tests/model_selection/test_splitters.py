"""PanelTimeSeriesSplit against scikit-learn's TimeSeriesSplit, and that no fold sees the future."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, check_cv, cross_val_score

from rnnforecast.exceptions import DataError
from rnnforecast.model_selection import PanelTimeSeriesSplit

OPTIONS = [
    {},
    {"n_splits": 3},
    {"n_splits": 4, "test_size": 3},
    {"n_splits": 3, "gap": 2},
    {"n_splits": 3, "max_train_size": 5, "gap": 1, "test_size": 4},
]


def single_series(n=31):
    values = np.arange(n, dtype=float)
    return {
        "array": values[:, None],
        "list": [[v] for v in values],
        "range": pd.DataFrame({"y": values}),
        "dates": pd.DataFrame({"y": values}, index=pd.date_range("2024", periods=n, freq="h")),
        "periods": pd.Series(values, index=pd.period_range("2000", periods=n, freq="M")),
        "text": pd.DataFrame({"y": values}, index=[f"row {i}" for i in range(n)]),
        "polars": pl.DataFrame({"y": values}),
        "one series": pd.DataFrame(
            {"y": values}, index=pd.MultiIndex.from_product([["a"], range(n)])
        ),
    }


def equal(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for (train, test), (other_train, other_test) in zip(left, right):
        np.testing.assert_array_equal(train, other_train)
        np.testing.assert_array_equal(test, other_test)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", single_series())
def test_one_series_is_split_as_scikit_learn_does(kind, options):
    X = single_series()[kind]
    equal(PanelTimeSeriesSplit(**options).split(X), TimeSeriesSplit(**options).split(np.zeros(31)))


@st.composite
def panels(draw):
    n_series = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    parts = []
    for name in range(n_series):
        length, start = draw(st.integers(8, 25)), draw(st.integers(0, 6))
        stamps = pd.date_range("2024-01-01", periods=length, freq="D") + pd.Timedelta(days=start)
        kept = rng.uniform(size=length) < 0.9
        kept[0] = True
        parts.append(pd.DataFrame({"id": f"s{name}", "when": stamps[kept]}))
    frame = pd.concat(parts).assign(y=0.0)
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


@settings(deadline=None, max_examples=60)
@given(
    panel=panels(),
    n_splits=st.integers(1, 3),
    gap=st.integers(0, 2),
    max_train=st.sampled_from([None, 2, 5]),
)
def test_no_test_stamp_is_at_or_before_a_training_stamp(panel, n_splits, gap, max_train):
    options = {"n_splits": n_splits, "gap": gap, "max_train_size": max_train}
    splitter = PanelTimeSeriesSplit(**options, test_size=1, series_id="id", time="when")
    stamps = pd.Index(panel["when"]).unique().sort_values()
    try:
        folds = list(splitter.split(panel))
    except DataError as error:
        # only a series that begins in the test set itself may leave a fold empty
        assert "both training and test rows" in str(error)
        return
    assert len(folds) == splitter.get_n_splits(panel) == n_splits
    before: set = set()
    tested: set = set()
    for train, test in folds:
        past, future = panel["when"].iloc[train], panel["when"].iloc[test]
        assert past.max() < future.min()
        between = stamps.get_loc(future.min()) - stamps.get_loc(past.max())
        assert between == gap + 1
        assert set(panel["id"].iloc[test]) <= set(panel["id"].iloc[train])
        assert not tested & set(future)
        tested |= set(future)
        if max_train is None:
            assert before < set(train)
            before = set(train)
        else:
            assert past.nunique() <= max_train
        # all rows of the stamps are used, but those of series without a past
        known = panel["id"].isin(panel["id"].iloc[train])
        assert set(test) == set(np.flatnonzero(panel["when"].isin(future) & known))
    same = panel.set_index(["id", "when"])
    equal(PanelTimeSeriesSplit(**options, test_size=1).split(same), folds)
    polars = pl.DataFrame({"id": panel["id"].to_list(), "when": panel["when"].to_numpy()})
    equal(splitter.split(polars), folds)
    equal(
        PanelTimeSeriesSplit(**options, test_size=1, series_id="id").split(panel.set_index("when")),
        folds,
    )


def test_stock_splitter_leaks_where_this_one_does_not():
    index = pd.MultiIndex.from_product([["a", "b"], pd.date_range("2024", periods=12)])
    panel = pd.DataFrame({"y": 0.0}, index=index)
    time = panel.index.get_level_values(1)

    def leaks(splitter):
        return any(time[test].min() <= time[train].max() for train, test in splitter.split(panel))

    assert leaks(TimeSeriesSplit(3))
    assert not leaks(PanelTimeSeriesSplit(3))


def test_repeated_stamps_without_series_stay_together():
    frame = pd.DataFrame({"y": range(12)}, index=list(range(6)) * 2)
    train, test = next(PanelTimeSeriesSplit(2, test_size=2).split(frame))
    assert list(train) == [0, 1, 6, 7]
    assert list(test) == [2, 3, 8, 9]


def test_is_a_cv_object():
    splitter = PanelTimeSeriesSplit(3, test_size=2, time="when")
    assert repr(splitter) == repr(clone(splitter, safe=False))
    assert "n_splits=3" in repr(splitter)
    assert "time='when'" in repr(splitter)
    assert check_cv(splitter) is splitter
    X = pd.DataFrame({"x": np.arange(20.0)})
    y = X["x"]
    plain, ours = TimeSeriesSplit(3), PanelTimeSeriesSplit(3)
    model = DummyRegressor()
    expected = cross_val_score(model, X, y, cv=plain)
    np.testing.assert_array_equal(cross_val_score(model, X, y, cv=ours), expected)
    with sklearn.config_context(enable_metadata_routing=True):
        np.testing.assert_array_equal(cross_val_score(model, X, y, cv=ours), expected)
        search = GridSearchCV(model, {"strategy": ["mean", "median"]}, cv=ours).fit(X, y)
        assert search.n_splits_ == 3
    with pytest.warns(UserWarning, match="groups parameter is ignored"):
        list(ours.split(X, y, groups=np.zeros(20)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_splits": 0}, "n_splits must be an integer >= 1"),
        ({"n_splits": 12}, "folds=13 .* the 12 time stamps: use fewer splits"),
        ({"n_splits": 3, "test_size": 4}, "Too many splits=3 .* test_size=4 .* the 12 time stamps"),
        ({"n_splits": 3, "gap": -1}, "gap must be"),
        ({"n_splits": 3, "test_size": 0}, "test_size must be"),
        ({"n_splits": 3, "max_train_size": 0}, "max_train_size must be"),
        ({"time": "nope"}, "'nope' is not a column"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(DataError, match=message):
        list(PanelTimeSeriesSplit(**options).split(pd.DataFrame({"y": np.zeros(12)})))
