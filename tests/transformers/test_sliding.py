"""SlidingWindows against literal double loops, and as what trains ordinary regressors."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge, SGDRegressor
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

from rnnforecast.exceptions import DataError, NotFittedError
from rnnforecast.transformers import SlidingWindows, WindowScaler

BY_POSITION = {
    "check_methods_sample_order_invariance": "the step of an array's row is its position",
    "check_methods_subset_invariance": "the step of an array's row is its position",
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: threads of boosting would wait for one another on a busy machine."""
    with threadpool_limits(1):
        yield


def series(values, start="2024-03-29", freq="h", names=None):
    values = np.reshape(np.asarray(values, dtype=float), (len(values), -1))
    index = pd.date_range(start, periods=len(values), freq=freq, name="time")
    return pd.DataFrame(values, index=index, columns=names or list("abcd")[: values.shape[1]])


def panel_of(rng, lengths=(20, 9, 31), k=2):
    """Series of unequal lengths and starts, with NaN and a gap in the second."""
    parts = {}
    for j, n in enumerate(lengths):
        part = series(rng.normal(size=(n, k)) + 10 * j, f"2024-03-29 {j:02d}:00")
        part.iloc[n // 2, 0] = np.nan
        parts[f"s{j}"] = part.drop(part.index[[3, 4]]) if j == 1 else part
    return pd.concat(parts, names=["series"])


def at(X, key, step, column):
    """Value of a column ``step`` hours after a row, NaN where there is no such row."""
    stamp = key[-1] if isinstance(key, tuple) else key
    stamp = stamp + step * pd.Timedelta("1h")
    key = (*key[:-1], stamp) if isinstance(key, tuple) else stamp
    return X.at[key, column] if key in X.index else np.nan


@pytest.mark.parametrize(
    "estimator",
    [
        SlidingWindows(),
        SlidingWindows(lookback=3, horizon=2),
        SlidingWindows(known=[0], lookback=2),
    ],
    ids=repr,
)
def test_check_estimator(estimator):
    allowed = dict(BY_POSITION)
    if estimator.known:  # the check fits one column, which cannot be known and target at once
        allowed["check_fit2d_1feature"] = "known=[0] needs a second column"
    results = check_estimator(estimator, expected_failed_checks=allowed, on_fail=None, on_skip=None)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


def test_both_checks_hold_with_a_datetimeindex(rng):
    for X in (series(rng.normal(size=(40, 2))), panel_of(rng)):
        windows = SlidingWindows(lookback=4, horizon=2, known="b").fit(X)
        full = windows.transform(X)
        order = rng.permutation(len(X))
        np.testing.assert_array_equal(windows.transform(X.iloc[order]), full[order])
        rows = [windows.transform(X.iloc[[i]])[0] for i in range(len(X))]
        np.testing.assert_array_equal(rows, full)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_transform_is_the_double_loop(data):
    """Any subset of training and later rows, with gaps, NaN and unequal lengths."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    lookback, horizon = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    X = panel_of(rng, (data.draw(st.integers(12, 16)), 12, 13))
    cut = {name: part.index[-4] for name, part in X.groupby(level=0)}
    later = np.array([key >= cut[key[0]] for key in X.index])
    windows = SlidingWindows(lookback=lookback, horizon=horizon, known="b")
    windows.set_output(transform="pandas").fit(X[~later])
    subset = data.draw(st.lists(st.sampled_from(list(np.flatnonzero(~later))), unique=True))
    rows = np.array([*subset, *np.flatnonzero(later)], dtype=int)
    out = windows.transform(X.iloc[rows])
    pd.testing.assert_index_equal(out.index, X.index[rows])
    # a training row sees no later row than those of fit
    for key, row in zip(out.index, out.to_numpy(), strict=True):
        known = X
        expected = [
            at(known, key, -lag, c) for lag in range(lookback - 1, -1, -1) for c in ["a", "b"]
        ]
        expected += [at(known, key, step, "b") for step in range(1, horizon + 1)]
        np.testing.assert_array_equal(row, expected)
    assert out.columns[0] == f"a_lag{lookback - 1}"
    assert out.columns[2 * lookback - 1] == "b_lag0"
    assert out.columns[-1] == f"b_lead{horizon}"


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_make_xy_is_the_double_loop(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    lookback, horizon = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    known = data.draw(st.sampled_from([None, "b"]))
    missing = data.draw(st.sampled_from(["targets", "any", "none"]))
    single = data.draw(st.booleans())
    X = series(rng.normal(size=(14, 2))) if single else panel_of(rng, (14, 12, 5))
    X.iloc[data.draw(st.integers(0, 13)), 0] = np.nan
    windows = SlidingWindows(lookback=lookback, horizon=horizon, target="a", known=known).fit(X)
    features, targets = windows.make_xy(missing=missing)
    expected = {}
    for name, part in [(None, X)] if single else X.groupby(level=0):
        times = part.index.get_level_values(-1)
        for stamp in pd.date_range(times[0], times[-1], freq="h"):
            hours = pd.Timedelta("1h")
            first, last = stamp - (lookback - 1) * hours, stamp + horizon * hours
            if first < times[0] or last > times[-1]:
                continue
            key = stamp if single else (name, stamp)
            past = [at(X, key, -lag, c) for lag in range(lookback - 1, -1, -1) for c in ["a", "b"]]
            past += [at(X, key, h, "b") for h in range(1, horizon + 1)] if known else []
            ahead = [at(X, key, h, "a") for h in range(1, horizon + 1)]
            gone = np.isnan(ahead).any() or (missing == "any" and np.isnan(past).any())
            if missing == "none" or not gone:
                expected[key] = past, ahead
    assert list(features.index) == list(targets.index) == list(expected)
    if expected:
        np.testing.assert_array_equal(features, [past for past, _ in expected.values()])
        np.testing.assert_array_equal(targets, [ahead for _, ahead in expected.values()])
    assert list(targets.columns) == [f"a_step{h}" for h in range(1, horizon + 1)]


def test_a_test_fold_gives_the_pairs_whose_targets_lie_in_it(rng):
    for X in (series(rng.normal(size=(60, 1))), panel_of(rng, (40, 30, 35))):
        _, every = SlidingWindows(lookback=5, horizon=3).fit(X).make_xy(missing="none")
        cut = X.index.get_level_values(-1)[22]
        test = X.index.get_level_values(-1) > cut
        windows = SlidingWindows(lookback=5, horizon=3).fit(X[~test])
        features, targets = windows.make_xy(X[test], missing="none")
        origins = every.index.get_level_values(-1)
        pd.testing.assert_frame_equal(targets, every[origins >= cut], check_freq=False)
        _, training = windows.make_xy(missing="none")
        assert training.index.get_level_values(-1).max() == cut - pd.Timedelta("3h")
        whole = SlidingWindows(lookback=5, horizon=3).set_output(transform="pandas").fit(X)
        gaps = features.index.isin(X.index)
        pd.testing.assert_frame_equal(
            features[gaps],
            whole.transform(X.loc[features.index[gaps]]),
            check_freq=False,
        )


def test_stride(rng):
    X = series(rng.normal(size=(30, 2)))
    dense = SlidingWindows(lookback=4, horizon=2).fit(X).make_xy()
    sparse = SlidingWindows(lookback=4, horizon=2, stride=5).fit(X).make_xy()
    for every, some in zip(dense, sparse, strict=True):
        pd.testing.assert_frame_equal(every.iloc[::5], some, check_freq=False)


def test_features_do_not_look_past_their_origin(rng):
    X = series(rng.normal(size=(50, 2)))
    clean = SlidingWindows(lookback=6, horizon=3).fit(X)
    corrupted = X.copy()
    corrupted.iloc[31:] = 1e9
    dirty = SlidingWindows(lookback=6, horizon=3).fit(corrupted)
    np.testing.assert_array_equal(
        dirty.make_xy()[0].loc[: X.index[30]], clean.make_xy()[0].loc[: X.index[30]]
    )
    np.testing.assert_array_equal(dirty.transform(X)[:31], clean.transform(X)[:31])
    # and rows passed to transform do not change what fit stored
    clean.transform(corrupted)
    np.testing.assert_array_equal(clean.panel_.targets, X)


def test_features_are_views_of_the_stored_rows(rng):
    windows = SlidingWindows(lookback=24, horizon=6).fit(series(rng.normal(size=(500, 2))))
    features, targets = windows.make_xy()
    assert np.shares_memory(features.to_numpy(), windows.panel_.targets)
    assert features.shape == (471, 48)
    with pytest.raises(ValueError, match="read-only"):
        features.to_numpy()[0, 0] = 1.0


def test_memory_is_the_data_and_one_batch(rng):
    X = series(rng.normal(size=20_000))
    windows = SlidingWindows(lookback=500, horizon=100, freq="h").fit(X)
    data = X["a"].nbytes
    tracemalloc.start()
    try:
        windows.make_xy()
        whole = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        n = sum(len(features) for features, _ in windows.batches(64))
        batched = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 20_000 - 599
    one_batch = 64 * 600 * 8
    assert whole < 20 * data  # copies would take 500 times the data
    assert batched < 20 * data + 4 * one_batch


def test_batches_are_make_xy_in_parts(rng):
    windows = SlidingWindows(lookback=3, horizon=2).fit(panel_of(rng))
    features, targets = windows.make_xy()
    parts = list(windows.batches(7))
    pd.testing.assert_frame_equal(pd.concat([x for x, _ in parts]), features)
    pd.testing.assert_frame_equal(pd.concat([y for _, y in parts]), targets)
    shuffled = pd.concat([x for x, _ in windows.batches(7, random_state=0)])
    assert not shuffled.index.equals(features.index)
    pd.testing.assert_frame_equal(shuffled.sort_index(), features.sort_index())


@pytest.mark.parametrize("kind", ["hours", "panel", "trading days", "range", "period", "array"])
def test_inverse_brings_targets_back_to_their_time(rng, kind):
    """The truth, cut into windows and put back, is the truth at each time stamp."""
    if kind == "panel":
        X = panel_of(rng)
    elif kind == "array":
        X = rng.normal(size=(30, 2))
    else:
        X = series(rng.normal(size=(30, 2)))
        X.index = {
            "hours": X.index,
            "trading days": pd.bdate_range("2024-01-01", periods=33).delete([7, 8, 28])[:30],
            "range": pd.RangeIndex(3, 33),
            "period": pd.period_range("2021-11", periods=30, freq="M"),
        }[kind]
    n_fit = len(X) if kind == "panel" else 20
    fit, rest = (X, None) if kind == "panel" else (X[:n_fit], X[n_fit:])
    windows = SlidingWindows(lookback=4, horizon=3).fit(fit)
    for part in [None] if rest is None else [None, rest]:
        _, targets = windows.make_xy(part)
        tidy = windows.inverse(targets, targets.index)
        names = list(tidy.columns[2:])
        truth = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X)
        if kind == "trading days" and part is not None:  # the calendar cannot know a holiday
            tidy = tidy[tidy["origin"] < X.index[23]]
        assert tidy["step"].tolist() == [1, 2, 3] * (len(tidy) // 3)
        np.testing.assert_array_equal(tidy[names], truth.loc[tidy.index])
        assert (tidy.index.get_level_values(-1) > tidy["origin"]).all()


def test_future_and_inverse_of_a_panel(rng):
    X = panel_of(rng)
    windows = SlidingWindows(lookback=3, horizon=2, target=["b", "a"]).fit(X)
    last = windows.future()
    for name, part in X.groupby(level=0):
        row = last.loc[name]
        assert row.index[0] == part.index[-1][-1]
        np.testing.assert_array_equal(row.to_numpy()[0], part.to_numpy()[-3:].ravel())
    tidy = windows.inverse([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], last.index)
    assert list(tidy.columns) == ["origin", "step", "b", "a"]
    assert tidy["b"].tolist() == [1, 3, 5, 7, 9, 11]
    for (_, time), row in tidy.iterrows():
        assert time - row["origin"] == row["step"] * pd.Timedelta("1h")


def test_future_needs_the_known_columns_only(rng):
    X = series(rng.normal(size=(20, 2)))
    windows = SlidingWindows(lookback=2, horizon=3, known="b").fit(X.iloc[:15])
    expected = windows.transform(X)[14]
    np.testing.assert_array_equal(windows.future(X.iloc[15:])[:].to_numpy()[0], expected)
    np.testing.assert_array_equal(windows.future(X[["b"]].iloc[15:]).to_numpy()[0], expected)
    with pytest.raises(DataError, match=r"no row for 2024-03-29 17:00:00 \(step 3 of 3"):
        windows.future(X.iloc[15:17])
    with pytest.raises(DataError, match="must hold the future rows of the known covariates"):
        windows.future()


def test_future_keeps_float32(rng):
    X = series(rng.normal(size=(20, 2))).astype(np.float32)
    windows = SlidingWindows(lookback=2, horizon=3, known="b").fit(X.iloc[:15])
    assert (windows.future(X.iloc[15:]).dtypes == np.float32).all()


def test_array_rule(rng):
    X = rng.normal(size=(20, 1))
    windows = SlidingWindows(lookback=3).fit(X[:15])
    head = windows.transform(X[:15])
    assert np.isnan(head[0]).tolist() == [True, True, False]
    np.testing.assert_array_equal(head[5], X[3:6, 0])
    np.testing.assert_array_equal(windows.transform(X[15:])[0], X[13:16, 0])


def test_key_columns(rng):
    X = panel_of(rng)
    long = SlidingWindows(lookback=3, series_id="series", time="time").fit(X.reset_index())
    short = SlidingWindows(lookback=3).fit(X)
    np.testing.assert_array_equal(long.transform(X.reset_index()), short.transform(X))
    for a, b in zip(long.make_xy(), short.make_xy(), strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_lookback_is_chosen_from_the_season(rng):
    hours = series(rng.normal(size=(200, 1)))
    assert SlidingWindows().fit(hours).lookback_ == 99
    assert SlidingWindows(horizon=30).fit(hours).lookback_ == 85
    assert SlidingWindows().fit(hours.iloc[:51]).lookback_ == 25


def test_errors_say_what_to_do(rng):
    X = series(rng.normal(size=(10, 2)))
    with pytest.raises(DataError, match=r"has 10 rows; lookback 8 \+ horizon 4 needs at least 12"):
        SlidingWindows(lookback=8, horizon=4).fit(X).make_xy()
    with pytest.raises(DataError, match="target column 'z' is not in X"):
        SlidingWindows(lookback=2, target="z").fit(X)
    with pytest.raises(DataError, match="horizon must be"):
        SlidingWindows(horizon=0).fit(X)
    windows = SlidingWindows(lookback=2, horizon=4)
    with pytest.raises(NotFittedError, match="call fit first"):
        windows.make_xy()
    windows.fit(X)
    with pytest.raises(DataError, match="4 forecast steps in the rows of X"):
        windows.make_xy(series(np.ones((3, 2)), "2024-03-29 10:00"))
    with pytest.raises(DataError, match=r"y_pred must have shape \(1, 8\)"):
        windows.inverse([[1.0]], windows.future().index)
    with pytest.raises(DataError, match="before the training range"):
        windows.transform(series(np.ones((3, 2)), "2024-03-28"))


# -- ordinary regressors forecast ----------------------------------------------------------------


def seasonal(rng, n=24 * 40):
    t = np.arange(n)
    signal = 10 * np.sin(2 * np.pi * t / 24) + 3 * np.sin(2 * np.pi * t / 12) + 0.01 * t
    return series(signal + rng.normal(size=n), names=["temp"])


@pytest.mark.parametrize(
    "regressor",
    [
        make_pipeline(StandardScaler(), Ridge()),
        MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=30, random_state=0)),
    ],
    ids=["ridge", "boosting"],
)
def test_a_regressor_beats_the_naive_forecasts(rng, regressor):
    df = seasonal(rng)
    df.iloc[100:103] = np.nan
    train, test = df.iloc[:-96], df.iloc[-96:]
    windows = SlidingWindows(lookback=48, horizon=6).fit(train)
    regressor.fit(*windows.make_xy(missing="any"))
    features, _ = windows.make_xy(test)
    tidy = windows.inverse(regressor.predict(features), features.index)
    truth = df["temp"].loc[tidy.index].to_numpy()
    error = np.abs(tidy["temp"] - truth).mean()
    last = df["temp"].loc[tidy["origin"]].to_numpy()
    day_before = df["temp"].shift(24).loc[tidy.index].to_numpy()
    assert len(tidy) == 6 * (96 - 5)
    assert error < 0.5 * np.abs(last - truth).mean()
    assert error < 0.95 * np.abs(day_before - truth).mean()


def test_a_global_model_of_scaled_windows_forecasts_every_series(rng):
    """Series that differ in level and scale by orders of magnitude, one regression."""
    df = pd.concat(
        {name: seasonal(rng, 24 * 15) * scale for name, scale in [("a", 1), ("b", 1e4)]},
        names=["series"],
    )
    cut = df.index.get_level_values(-1)[-24]
    test = df.index.get_level_values(-1) >= cut
    windows = SlidingWindows(lookback=48, horizon=24).fit(df[~test])
    scaler = WindowScaler()
    X, Y = windows.make_xy()
    model = Ridge().fit(scaler.fit_transform(X), scaler.transform_targets(Y, X))
    last = windows.future()
    levels = scaler.inverse_transform(model.predict(scaler.transform(last)), windows=last)
    tidy = windows.inverse(levels, last.index)
    assert tidy.index.sort_values().equals(df[test].index.sort_values())
    for name, scale in [("a", 1), ("b", 1e4)]:
        truth = df.loc[name].loc[tidy.loc[name].index, "temp"]
        assert np.abs(tidy.loc[name]["temp"] - truth).mean() < 1.5 * scale


def test_batches_train_a_regressor_out_of_memory(rng):
    df = seasonal(rng) / 10
    windows = SlidingWindows(lookback=24).fit(df.iloc[:-24])
    model = SGDRegressor(random_state=0, eta0=0.001)
    for _ in range(5):
        for X, Y in windows.batches(64, random_state=0):
            model.partial_fit(X, Y.to_numpy().ravel())
    X, Y = windows.make_xy(df.iloc[-24:])
    assert model.score(X, Y) > 0.9


def test_inside_a_pipeline(rng):
    """Lags of an input as features of an output."""
    df = series(rng.normal(size=(80, 1)))
    y = df["a"].shift(2).fillna(0) * 3 + df["a"]
    model = make_pipeline(
        SlidingWindows(lookback=3).set_output(transform="pandas"),
        HistGradientBoostingRegressor(max_iter=5),
    )
    model.fit(df, y)
    windows = SlidingWindows(lookback=3).fit(df.iloc[:60])
    line = LinearRegression().fit(windows.transform(df.iloc[2:60]), y.iloc[2:60])
    np.testing.assert_allclose(line.coef_, [3, 0, 1], atol=1e-12)
    np.testing.assert_allclose(line.predict(windows.transform(df.iloc[60:])), y.iloc[60:])


def test_rows_after_a_float32_fit_are_not_rounded():
    X = series(np.arange(20.0)[:, None]).astype(np.float32)
    windows = SlidingWindows(lookback=2).fit(X.iloc[:15])
    later = X.iloc[15:].astype(np.float64) + 2.0**24 + 1  # odd numbers above 2**24: no float32
    np.testing.assert_array_equal(windows.transform(later)[1], later.iloc[:2, 0])
