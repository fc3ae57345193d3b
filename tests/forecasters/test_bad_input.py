"""Every kind of unusable input: one clear error, and the estimator as it was."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.model_selection import KFold, TimeSeriesSplit, cross_val_score

from rnnforecast import DeepLSTMForecaster
from rnnforecast.exceptions import DataError

TINY = {
    "horizon": 3,
    "lookback": 6,
    "hidden_size": 4,
    "n_layers": 1,
    "max_epochs": 1,
    "random_state": 0,
}


def frame(n=60):
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    steps = np.arange(n)
    return pd.DataFrame({"y": np.sin(steps / 3), "x": np.cos(steps / 5)}, index=index)


def panel():
    return pd.concat({"A": frame(), "B": frame()}, names=["id", "time"])


def swap(df, a, b):
    order = np.arange(len(df))
    order[[a, b]] = b, a
    return df.iloc[order]


def with_value(df, value, column="y"):
    out = df.copy()
    out.iloc[7, out.columns.get_loc(column)] = value
    return out


# (what is passed to fit, parameters, error, what its message tells)
FIT = {
    "too few rows for the horizon": (
        lambda: frame(30),
        {"lookback": 24, "horizon": 40},
        r"the series has 30 rows; a row to look back on and horizon 40 need at least 41: use a",
    ),
    "one row": (lambda: frame(1), {"freq": "h"}, r"1 row \(n_samples=1\).*need at least 4"),
    "no panel series long enough": (
        lambda: pd.concat({"A": frame(3), "B": frame(2)}, names=["id", "time"]),
        {},
        r"series 'A' has 3 rows; .*horizon 3 need at least 4: use a smaller horizon",
    ),
    "unsorted stamps": (lambda: swap(frame(), 4, 9), {}, r"not sorted.*sort_index"),
    "unsorted stamps of a series": (lambda: swap(panel(), 64, 69), {}, r"series 'B'.*not sorted"),
    "repeated stamps": (
        lambda: pd.concat([frame(), frame()[-1:]]),
        {},
        r"2024-01-03 11:00:00 appears more than once.*drop the repeated rows",
    ),
    "series stacked without a name": (
        lambda: panel().droplevel("id").sort_index(),
        {},
        r"appears more than once.*series_id=",
    ),
    "unknown target": (
        lambda: frame(),
        {"target": "z"},
        r"target column 'z' is not in X.*'y', 'x'",
    ),
    "unknown known": (lambda: frame(), {"target": "y", "known": "w"}, r"known column 'w'"),
    "unknown series_id": (lambda: frame(), {"series_id": "id"}, r"series_id='id' is not a column"),
    "inf": (
        lambda: with_value(frame(), np.inf),
        {},
        r"infinity.*column 'y', row 7.*replace it by NaN",
    ),
    "inf in a covariate": (
        lambda: with_value(frame(), -np.inf, "x"),
        {"target": "y"},
        r"infinity.*column 'x', row 7",
    ),
    "all-NaN target": (lambda: frame().assign(y=np.nan), {}, r"target 'y' has no observed value"),
    "all-NaN target of a series": (
        lambda: panel().assign(y=lambda d: d["y"].where(d.index.get_level_values(0) == "A")),
        {},
        r"series 'B': target 'y' has no observed value.*leave this series out",
    ),
    "text": (
        lambda: frame().assign(x="a"),
        {"target": ["x", "y"]},
        r"column 'x' has dtype (object|str).*OneHotEncoder.*drop",
    ),
    "dates as values": (
        lambda: frame().assign(x=frame().index),
        {},
        r"column 'x' has dtype datetime64.*expected numbers",
    ),
    "complex": (lambda: frame() + 1j, {}, r"Complex data not supported: column 'y'"),
    "complex array": (lambda: frame().to_numpy() + 1j, {}, r"Complex data not supported"),
    "float index": (
        lambda: frame().set_axis(np.linspace(0, 1, 60)),
        {},
        r"DatetimeIndex, PeriodIndex or integers.*float64.*pd.to_datetime",
    ),
    "None": (lambda: None, {}, r"X must be a DataFrame, Series or 2-D array\. Got None"),
    "horizon 0": (lambda: frame(), {"horizon": 0}, r"horizon must be an integer >= 1\. Got 0"),
    "horizon -3": (lambda: frame(), {"horizon": -3}, r"horizon .*Got -3"),
    "horizon 2.5": (lambda: frame(), {"horizon": 2.5}, r"horizon .*Got 2.5"),
    "cell": (lambda: frame(), {"cell": "gru"}, r"cell must be 'lstm'. Got 'gru': use DeepRNNForec"),
    "lookback 0": (lambda: frame(), {"lookback": 0}, r"lookback must be an integer >= 1 or None"),
    "loss": (lambda: frame(), {"loss": "mape"}, r"loss must be one of \['mae'.*Got 'mape'"),
    "dropout 1": (lambda: frame(), {"dropout": 1.0}, r"dropout must be a number in \[0, 1\)"),
    "quantiles": (
        lambda: frame(),
        {"quantiles": [0.1, 1.0]},
        r"quantiles must be strictly between",
    ),
    "device": (
        lambda: frame(),
        {"device": "abacus"},
        r"device must be 'auto', 'cpu'.*Got 'abacus'",
    ),
    "lr": (lambda: frame(), {"lr": 0.0}, r"lr must be a number in \(0"),
    "scaler": (
        lambda: frame(),
        {"scaler": "minmax"},
        r"scaler must be one of \['window', 'series'",
    ),
    "freq": (lambda: frame(), {"freq": "D"}, r"not on the grid"),
    "freq of nothing": (
        lambda: frame(),
        {"freq": "hourly"},
        r"freq='hourly' is not a pandas offset",
    ),
    "validation": (
        lambda: frame(),
        {"validation_fraction": 1.0},
        r"validation_fraction .*\[0, 1\)",
    ),
}


@pytest.mark.parametrize("was_fitted", [False, True])
@pytest.mark.parametrize("case", FIT)
def test_fit_refuses_and_changes_nothing(case, was_fitted):
    make, options, text = FIT[case]
    fc = DeepLSTMForecaster(**TINY)
    if was_fitted:
        fc.fit(frame())
        expected = fc.forecast(horizon=8, quantiles=[0.1])
    fc.set_params(**options)
    attributes = dict(vars(fc))
    with pytest.raises(ValueError, match=text) as caught:
        fc.fit(make())
    if "array" not in case:  # scikit-learn's own check
        assert isinstance(caught.value, DataError)
        assert "DeepLSTMForecaster" in str(caught.value) or "freq" in case
        assert str(caught.value).count("\n") == 0
    assert vars(fc) == attributes
    assert all(vars(fc)[name] is value for name, value in attributes.items())
    if was_fitted:
        fc.set_params(**TINY)
        fc.set_params(freq=None)
        np.testing.assert_array_equal(fc.forecast(horizon=8, quantiles=[0.1]), expected)
    else:
        assert not hasattr(fc, "panel_")


def test_the_number_of_rows_named_in_the_error_is_enough():
    options = {**TINY, "horizon": 12, "lookback": 24}
    with pytest.raises(DataError) as caught:
        DeepLSTMForecaster(**options).fit(frame(12)[["y"]])
    least = int(re.search(r"need at least (\d+)", str(caught.value))[1])
    ahead = DeepLSTMForecaster(**options).fit(frame(least)[["y"]]).forecast()
    assert np.isfinite(ahead.to_numpy()).all()
    with pytest.raises(DataError, match=f"need at least {least}"):
        DeepLSTMForecaster(**options).fit(frame(least - 1)[["y"]])


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.coo_array])
def test_sparse_input(container):
    with pytest.raises(TypeError, match=r"[Ss]parse.*dense"):
        DeepLSTMForecaster(**TINY).fit(container(np.eye(40)))


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (np.full(60, np.nan), "'y' has no observed value"),
        (np.r_[np.inf, np.zeros(59)], "infinity"),
        (np.zeros(59), "X has 60 rows, y has 59"),
        (np.array(["a"] * 60), "expected numbers"),
        (np.zeros(60) + 1j, "[Cc]omplex"),
        (np.zeros((60, 2, 2)), "1-D or 2-D"),
        (frame()["y"].shift(freq="h"), "different indices: align them first"),
    ],
)
def test_bad_y(y, text):
    fc = DeepLSTMForecaster(**TINY)
    with pytest.raises(ValueError, match=text):
        fc.fit(frame()[["x"]], y)
    assert not hasattr(fc, "panel_")
    with pytest.raises(DataError, match="'x' is in X and in y"):
        fc.fit(frame(), frame()["x"])


@pytest.fixture(scope="module")
def fitted():
    return DeepLSTMForecaster(**TINY, target="y", known="x").fit(frame()[:40])


AFTER_FIT = {
    "before the training range": (
        lambda fc: fc.predict(frame().shift(freq="-5h")),
        r"row 2023-12-31 19:00:00 lies before the training range, which starts at 2024-01-01 "
        r"00:00:00.*TimeSeriesSplit.*not KFold",
    ),
    "no future covariates": (
        lambda fc: fc.forecast(),
        r"X must hold the future rows of the known covariates \['x'\]\. Got None",
    ),
    "no future covariates in predict": (lambda fc: fc.predict(), r"future covariates \['x'\]"),
    "future covariates too short": (
        lambda fc: fc.forecast(frame()[["x"]][40:42]),
        r"known covariates \['x'\] have no row for 2024-01-02 18:00:00 \(step 3 of 3\): pass "
        r"X with 3 future rows, or a smaller horizon=",
    ),
    "future covariates with a hole": (
        lambda fc: fc.forecast(frame()[["x"]].iloc[[40, 42]]),
        r"2024-01-02 17:00:00 \(step 2 of 3\)",
    ),
    "covariate column missing": (
        lambda fc: fc.predict(frame()[["y"]][40:]),
        r"known covariate 'x' is missing from X; the columns are \['y'\]",
    ),
    "inf in a future covariate": (
        lambda fc: fc.predict(frame().assign(x=np.inf)[40:]),
        r"infinity.*'x'",
    ),
    "text in a future covariate": (
        lambda fc: fc.predict(frame().assign(x="a")[40:]),
        r"column 'x' has dtype (object|str)",
    ),
    "a column that fit did not see": (
        lambda fc: fc.predict(frame().assign(w=1.0)[40:]),
        r"column 'w' was not in the data passed to fit, which had \['x', 'y'\]",
    ),
    "an array of another width": (
        lambda fc: fc.predict(np.zeros((5, 3))),
        r"X has 3 features, but DeepLSTMForecaster is expecting 2 features",
    ),
    "repeated rows": (
        lambda fc: fc.predict(frame().iloc[[41, 41]]),
        r"two rows for the same time stamp",
    ),
    "repeated rows in forecast": (
        lambda fc: fc.forecast(frame().iloc[[40, 41, 41, 42]]),
        r"two rows for the same time stamp",
    ),
    "off the grid": (
        lambda fc: fc.predict(frame()[40:].shift(freq="7min")),
        r"2024-01-02 16:07:00 is not on the grid",
    ),
    "another kind of index": (
        lambda fc: fc.predict(frame()[40:].reset_index(drop=True)),
        r"kind seen in fit.*datetime64.*int64",
    ),
    "a zone that fit did not have": (
        lambda fc: fc.predict(frame()[40:].tz_localize("UTC")),
        r"time zone.*tz_localize",
    ),
    "horizon 0": (
        lambda fc: fc.forecast(frame()[40:], horizon=0),
        r"horizon must be an integer >= 1\. Got 0",
    ),
    "coverage 1": (
        lambda fc: fc.predict_interval(frame()[40:], coverage=1.0),
        r"coverage must be a number in \(0, 1\)",
    ),
    "quantiles 0": (
        lambda fc: fc.forecast(frame()[40:], quantiles=[0.0]),
        r"quantiles must be strictly between 0 and 1",
    ),
    "several series": (
        lambda fc: fc.predict(panel()[["x"]]),
        r"fitted on one series, got 2 in X",
    ),
    "update before the cutoff": (
        lambda fc: fc.update(frame()[39:]),
        r"2024-01-02 15:00:00 is not after the cutoff of the series, 2024-01-02 15:00:00: pass new",
    ),
    "empty": (lambda fc: fc.predict(frame()[:0]), r"0 sample"),
}


@pytest.mark.parametrize("case", AFTER_FIT)
def test_after_fit(case, fitted):
    call, text = AFTER_FIT[case]
    attributes = dict(vars(fitted))
    with pytest.raises(DataError, match=text):
        call(fitted)
    assert all(vars(fitted)[name] is value for name, value in attributes.items())
    assert vars(fitted).keys() == attributes.keys()


def test_feature_names_that_differ_from_fit():
    X, y = frame()[["x"]], frame()["y"]
    fc = DeepLSTMForecaster(**TINY).fit(X[:40], y[:40])
    with pytest.raises(ValueError, match="feature names should match"):
        fc.predict(X[40:].rename(columns={"x": "w"}))
    with pytest.raises(DataError, match=r"X has 2 features.*expecting 1"):
        fc.predict(X[40:].assign(w=0.0))
    # the target in X is left out before that, whatever else is wrong
    with pytest.raises(ValueError, match="feature names should match"):
        fc.predict(frame()[40:].rename(columns={"x": "w"}))
    np.testing.assert_array_equal(fc.predict(frame()[40:]), fc.predict(X[40:]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        values = fc.predict(X[40:].to_numpy())
    np.testing.assert_array_equal(values, fc.predict(X[40:]))
    # two columns in another order are found by name where the target stood among them in fit
    both = DeepLSTMForecaster(**TINY, target="y").fit(frame()[:40], y[:40])
    np.testing.assert_array_equal(both.predict(X[40:]), fc.predict(X[40:]))
    with pytest.raises(DataError, match="column 'x' is missing from X"):
        both.predict(frame()[40:].rename(columns={"x": "w"}))


def test_series_that_fit_did_not_see():
    fc = DeepLSTMForecaster(**TINY, target="y").fit(panel())
    with pytest.raises(DataError, match="names no series: give it a MultiIndex"):
        fc.predict(frame(70)[60:])
    with pytest.raises(DataError, match="series 'C' was not in the data passed to fit"):
        fc.predict(pd.concat({"C": frame(70)[60:]}, names=["id", "time"]))


def test_kfold_on_time_series_is_told_to_use_time_series_split():
    df = frame()
    fc = DeepLSTMForecaster(**TINY, target="y", known="x")
    with pytest.raises(ValueError, match="use TimeSeriesSplit"):
        cross_val_score(fc, df, cv=KFold(3), error_score="raise")
    with pytest.raises(ValueError, match="use TimeSeriesSplit"):
        cross_val_score(fc, df, cv=KFold(3, shuffle=True, random_state=0), error_score="raise")
    scores = cross_val_score(fc, df, cv=TimeSeriesSplit(3), error_score="raise")
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ["bidirectional", "residual", "early_stopping", "warm_start"])
def test_a_word_is_no_switch(name):
    from rnnforecast import DeepRNNForecaster

    with pytest.raises(DataError, match=f"{name} must be True or False. Got 'yes'"):
        DeepRNNForecaster(target="y", **TINY, **{name: "yes"}).fit(frame())
