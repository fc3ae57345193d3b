"""LogTransformer, Differencer and Deseasonalizer against pandas, statsmodels, loops and
properties."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from statsmodels.tsa.seasonal import STL, seasonal_decompose

from rnnforecast.exceptions import DataError
from rnnforecast.transformers import Deseasonalizer, Differencer, LogTransformer

# a row of an array has no time stamp: its step is its position
BY_POSITION = {
    "check_methods_sample_order_invariance": "the step of an array's row is its position",
    "check_methods_subset_invariance": "the step of an array's row is its position",
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def hourly(values, start="2024-03-30"):
    index = pd.date_range(start, periods=len(values), freq="h", name="time")
    return pd.DataFrame(np.reshape(values, (len(values), -1)), index=index).rename(
        columns="c{}".format
    )


def two_series(rng, n=60, k=2):
    """A panel whose series start at different steps, with a gap and NaN."""
    a, b = hourly(rng.normal(size=(n, k))), hourly(rng.normal(size=(n, k)), "2024-03-30 05:00")
    b = b.drop(b.index[[7, 8]])
    frame = pd.concat({"A": a, "B": b}, names=["series"])
    frame.iloc[[10, 70], 0] = np.nan
    return frame


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (LogTransformer(), ()),
        (LogTransformer(offset=100.0), ()),
        (Differencer(), tuple(BY_POSITION)),
        (Differencer(lags=(1, 4)), tuple(BY_POSITION)),
        (Deseasonalizer(seasonality=3), tuple(BY_POSITION)),
        (Deseasonalizer(seasonality=4, method="stl"), tuple(BY_POSITION)),
    ],
    ids=repr,
)
def test_check_estimator(estimator, expected):
    results = check_estimator(
        estimator,
        expected_failed_checks={name: BY_POSITION[name] for name in expected},
        on_fail=None,
        on_skip=None,
    )
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(expected)


@pytest.mark.parametrize(
    "transformer", [Differencer(lags=(1, 3)), Deseasonalizer(seasonality=4)], ids=repr
)
def test_both_checks_hold_with_a_datetimeindex(rng, transformer):
    for X in (hourly(rng.normal(size=(40, 3))), two_series(rng)):
        full = transformer.fit(X).transform(X)
        order = rng.permutation(len(X))
        np.testing.assert_allclose(transformer.transform(X.iloc[order]), full[order], atol=1e-12)
        rows = [transformer.transform(X.iloc[[i]])[0] for i in range(len(X))]
        np.testing.assert_allclose(rows, full, atol=1e-12)


def test_check_estimator_with_the_season_chosen_from_the_data():
    check_estimator(Deseasonalizer(), expected_failed_checks=BY_POSITION, on_skip=None)


# -- logarithm -------------------------------------------------------------------------------------


def test_log_offsets():
    X = pd.DataFrame({"positive": [2.0, 4, np.nan], "count": [0.0, 3, 7], "signed": [-4.0, 0, 5]})
    log = LogTransformer().set_output(transform="pandas").fit(X)
    assert log.offset_.tolist() == [0.0, 1.0, 5.0]
    expected = pd.DataFrame(
        {
            "positive": np.log(X["positive"]),
            "count": np.log1p(X["count"]),
            "signed": np.log(X["signed"] + 5),
        }
    )
    pd.testing.assert_frame_equal(log.transform(X), expected)
    pd.testing.assert_frame_equal(log.inverse_transform(log.transform(X)), X)
    pd.testing.assert_frame_equal(log.inverse_transform(log.transform(X)[["count"]]), X[["count"]])


def test_log_refuses_what_has_no_logarithm():
    X = pd.DataFrame({"a": [1.0, 2], "b": [5.0, 0.0]}, index=pd.date_range("2024-01-01", periods=2))
    with pytest.raises(DataError, match=r"column 'b', row 2024-01-02.*above 0\. Got 0"):
        LogTransformer(offset=0.0).fit(X)
    log = LogTransformer().fit(X)
    with pytest.raises(DataError, match=r"column 'b', row 2024-01-02.*above -1. Got -1"):
        log.transform(X - [0, 1])
    with pytest.raises(DataError, match="offset must be"):
        LogTransformer(offset="none").fit(X)


def test_log_inverse_overflows_to_infinity():
    log = LogTransformer(offset=1.0).fit([[1.0]])
    assert np.isinf(log.inverse_transform([[1e4]])).all()


@given(
    values=hnp.arrays(
        st.sampled_from([np.float64, np.float32]),
        (9, 2),
        elements=st.one_of(st.floats(-(2.0**16), 2.0**16, width=32), st.just(np.nan)),
    )
)
@settings(max_examples=60, deadline=None)
def test_log_round_trip(values):
    log = LogTransformer().fit(values)
    back = log.inverse_transform(log.transform(values))
    assert back.dtype == values.dtype
    size = np.maximum(np.max(np.abs(values), initial=1, where=~np.isnan(values)), log.offset_.max())
    tolerance = 1e-9 if values.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(back, values, rtol=0, atol=tolerance * size)


# -- differences -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lags", [(1,), (24,), (1, 24), (1, 1), (3, 1, 2), 5])
def test_differences_equal_pandas_in_and_after_the_training_range(rng, lags):
    X = hourly(rng.normal(size=(100, 2)).cumsum(axis=0))
    X.iloc[50, 0] = np.nan
    expected = X
    for lag in lags if isinstance(lags, tuple) else (lags,):
        expected = expected.diff(lag)
    differencer = Differencer(lags=lags).set_output(transform="pandas").fit(X.iloc[:70])
    both = pd.concat([differencer.transform(X.iloc[:70]), differencer.transform(X.iloc[70:])])
    pd.testing.assert_frame_equal(both, expected, check_freq=False)
    pd.testing.assert_frame_equal(differencer.transform(X), expected, check_freq=False)


def test_a_panel_is_differenced_series_by_series(rng):
    X = two_series(rng)
    out = Differencer(lags=(2,)).set_output(transform="pandas").fit_transform(X)
    for name in "AB":
        grid = X.loc[name].asfreq("h")
        expected = grid.diff(2).reindex(X.loc[name].index)
        pd.testing.assert_frame_equal(out.loc[name], expected, check_freq=False)


@pytest.mark.parametrize("transformer", [Differencer(), Deseasonalizer(seasonality=4)], ids=repr)
def test_rows_of_a_panel_may_be_ordered_by_time(rng, transformer):
    X = two_series(rng)
    order = np.argsort(X.index.get_level_values("time"), kind="stable")
    expected = transformer.fit_transform(X)[order]
    mixed = X.iloc[order]
    np.testing.assert_allclose(transformer.fit_transform(mixed), expected, atol=1e-12)
    # the plain array that transform returned is known as the training rows
    with pytest.warns(UserWarning, match="valid feature names"):
        np.testing.assert_allclose(transformer.transform(mixed.to_numpy()), expected, atol=1e-12)
    np.testing.assert_allclose(transformer.inverse_transform(expected), mixed, atol=1e-12)


def literal_continuation(history, differences, lags):
    """Levels after the history by the recursion on the expanded polynomial."""
    polynomial = np.array([1.0])
    for lag in lags:
        factor = np.zeros(lag + 1)
        factor[0], factor[lag] = 1, -1
        polynomial = np.convolve(polynomial, factor)
    levels = list(history)
    for step in differences:
        levels.append(step - sum(c * levels[-i] for i, c in enumerate(polynomial) if i))
    return np.array(levels[len(history) :])


@pytest.mark.parametrize("lags", [(1,), (7,), (1, 7), (7, 1), (1, 1), (2, 3, 5)])
def test_inverse_after_the_training_range_is_the_recursion(rng, lags):
    history, steps = rng.normal(size=40), rng.normal(size=25)
    expected = literal_continuation(history, steps, lags)
    array = Differencer(lags=lags).fit(history[:, None])
    np.testing.assert_allclose(array.inverse_transform(steps[:, None])[:, 0], expected, atol=1e-10)
    X = hourly(history)
    future = hourly(steps, X.index[-1] + pd.Timedelta("1h"))
    frame = Differencer(lags=lags).fit(X)
    np.testing.assert_allclose(frame.inverse_transform(future)["c0"], expected, atol=1e-10)


def index_of(kind, n):
    if kind == "range":
        return pd.RangeIndex(10, 10 + 2 * n, 2)
    if kind == "period":
        return pd.period_range("2020-11", periods=n, freq="M")
    if kind == "gaps":
        return pd.date_range("2024-01-01", periods=2 * n, freq="h").delete(slice(3, None, 7))[:n]
    return pd.date_range("2024-01-31", periods=n, freq="ME", tz="Europe/Berlin")


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_difference_round_trip(data):
    """Exact in the training range whatever is missing; after it exact or NaN, never wrong."""
    n, n_fit = 26, data.draw(st.integers(8, 26))
    dtype = data.draw(st.sampled_from([np.float64, np.float32]))
    lags = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    elements = st.one_of(st.integers(-1000, 1000).map(float), st.just(np.nan))
    values = data.draw(hnp.arrays(dtype, (n, 2), elements=elements))
    kind = data.draw(st.sampled_from(["range", "period", "gaps", "month"]))
    X = pd.DataFrame(values, index=index_of(kind, n), columns=["a", "b"])
    differencer = Differencer(lags=lags).set_output(transform="pandas").fit(X.iloc[:n_fit])
    rows = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    changes = differencer.transform(X.iloc[rows])
    assert (changes.dtypes == dtype).all()
    back = differencer.inverse_transform(changes)
    pd.testing.assert_index_equal(back.index, X.index[rows])
    for row, restored in zip(rows, back.to_numpy(), strict=True):
        if row < n_fit:
            np.testing.assert_array_equal(restored, values[row])  # whole numbers: no rounding
        else:
            known = ~np.isnan(restored)
            np.testing.assert_array_equal(restored[known], values[row][known])
    if not np.isnan(values).any() and kind != "gaps" and n_fit > sum(lags):
        whole = differencer.inverse_transform(differencer.transform(X.iloc[n_fit - 3 :]))
        np.testing.assert_array_equal(whole, values[n_fit - 3 :])


def test_difference_round_trip_on_a_panel_and_on_arrays(rng):
    X = two_series(rng)
    differencer = Differencer(lags=(1, 3)).fit(X)
    back = differencer.inverse_transform(pd.DataFrame(differencer.transform(X), X.index, X.columns))
    pd.testing.assert_frame_equal(back, X)
    # the plain array of the training rows is known by its NaN head, even for a panel
    with pytest.warns(UserWarning, match="valid feature names"):
        array = differencer.fit(X).transform(X.to_numpy())
    np.testing.assert_allclose(differencer.inverse_transform(array), X, atol=1e-12)


def test_array_rule(rng):
    X = rng.normal(size=(30, 2))
    differencer = Differencer(lags=(2,)).fit(X)
    np.testing.assert_allclose(differencer.inverse_transform(differencer.transform(X)), X)
    later = rng.normal(size=(30, 2))  # as many rows as in fit, but others: they follow
    expected = np.vstack([X[-2:], later])
    np.testing.assert_allclose(differencer.transform(later), expected[2:] - expected[:-2])
    np.testing.assert_allclose(
        differencer.inverse_transform(differencer.transform(later)), later, atol=1e-12
    )


def test_a_nan_step_after_the_training_range_is_never_papered_over():
    differencer = Differencer().fit([[3.0], [4.0]])
    out = differencer.inverse_transform([[1.0], [np.nan], [2.0]])[:, 0]
    np.testing.assert_array_equal(out, [5, np.nan, np.nan])
    seasonal = Differencer(lags=(2,)).fit([[3.0], [4.0]])
    out = seasonal.inverse_transform([[1.0], [np.nan], [2.0], [3.0]])[:, 0]
    np.testing.assert_array_equal(out, [4, np.nan, 6, np.nan])


def test_forecasts_start_from_the_last_observed_level_and_cross_gaps():
    X = hourly([1.0, 5.0, np.nan])
    differencer = Differencer().fit(X)
    future = hourly([1.0, 1.0, 1.0], "2024-03-30 03:00")
    assert differencer.inverse_transform(future)["c0"].tolist() == [6, 7, 8]
    # the stamp decides: a row asked for later than the next step has no known step before it
    assert differencer.inverse_transform(future.iloc[1:])["c0"].tolist() == [6, 7]


def test_holidays_are_not_steps_on_a_trading_calendar(rng):
    days = pd.bdate_range("2023-01-02", periods=120).delete([30, 61, 100])
    X = pd.DataFrame({"close": rng.normal(size=len(days)).cumsum()}, index=days)
    differencer = Differencer().set_output(transform="pandas").fit(X.iloc[:90])
    changes = differencer.transform(X.iloc[90:])
    pd.testing.assert_frame_equal(changes, X.diff().iloc[90:])
    pd.testing.assert_frame_equal(differencer.inverse_transform(changes), X.iloc[90:])


def test_later_rows_of_some_series_and_far_apart(rng):
    X = pd.concat({name: hourly(rng.normal(size=3000)) for name in "ABC"}, names=["series"])
    time = X.index.get_level_values("time")
    start = time[0] + pd.Timedelta("50h")
    differencer = Differencer().fit(X[time < start])
    later = X[(time >= start) & (X.index.get_level_values("series") != "B")]
    expected = X.groupby(level=0).diff().loc[later.index]
    np.testing.assert_allclose(differencer.transform(later), expected)
    back = differencer.inverse_transform(pd.DataFrame(expected))
    np.testing.assert_allclose(back, later, atol=1e-10)
    ends = later.groupby(level=0).nth([0, -1])  # all steps between are unobserved
    out = differencer.transform(ends.iloc[::-1])
    np.testing.assert_allclose(out[[1, 3]], expected.loc[ends.index].iloc[[2, 0]])
    assert np.isnan(out[[0, 2]]).all()


def test_key_columns(rng):
    X = two_series(rng)
    long = X.reset_index()
    keys = {"series_id": "series", "time": "time"}
    differencer = Differencer(**keys).fit(long)
    out = differencer.transform(long)
    assert list(out.columns) == list(long.columns)
    np.testing.assert_allclose(out[["c0", "c1"]], Differencer().fit_transform(X))
    pd.testing.assert_frame_equal(differencer.inverse_transform(out), long)
    # a forecast of one column on a MultiIndex fits too
    step = pd.DataFrame(
        {"c0": [1.0]},
        pd.MultiIndex.from_tuples([("A", X.loc["A"].index[-1] + pd.Timedelta("1h"))]),
    ).rename_axis(["series", "time"])
    expected = X.loc["A", "c0"].iloc[-1] + 1
    np.testing.assert_allclose(differencer.inverse_transform(step)["c0"], [expected])


def test_series_without_time_stamps_are_counted_each_by_itself():
    X = pd.DataFrame({"s": list("aabbab"), "y": [1.0, 3, 10, 40, 6, 90]})
    differencer = Differencer(series_id="s").fit(X)
    changes = differencer.transform(X)
    np.testing.assert_array_equal(changes["y"], [np.nan, 2, np.nan, 30, 3, 50])
    pd.testing.assert_frame_equal(differencer.inverse_transform(changes), X)
    later = pd.DataFrame({"s": list("bab"), "y": [91.0, 8, 93]})
    np.testing.assert_array_equal(differencer.transform(later)["y"], [1, 2, 2])


def test_a_fit_that_fails_keeps_what_was_fitted(rng):
    X = rng.normal(size=(20, 2))
    differencer = Differencer().fit(X)
    expected = differencer.transform(X)
    with pytest.raises(DataError, match="lags must be"):
        differencer.set_params(lags=0).fit(hourly(np.ones(5)))
    np.testing.assert_array_equal(differencer.transform(X), expected)


@pytest.mark.parametrize("transformer", [Differencer(), Deseasonalizer(seasonality=4)], ids=repr)
def test_future_rows_change_nothing_of_the_past(rng, transformer):
    X = hourly(rng.normal(size=(60, 2)))
    transformer.fit(X.iloc[:40])
    state = copy.deepcopy(transformer)
    clean = transformer.transform(X)
    corrupted = X.copy()
    corrupted.iloc[50:] = 1e9
    np.testing.assert_array_equal(transformer.transform(corrupted)[:50], clean[:50])
    np.testing.assert_array_equal(state.transform(X), clean)
    np.testing.assert_array_equal(state.panel_.targets, transformer.panel_.targets)
    np.testing.assert_array_equal(
        getattr(state, "seasonal_", 0), getattr(transformer, "seasonal_", 0)
    )


def test_the_callers_later_writes_do_not_reach_the_stored_rows(rng):
    X = rng.normal(size=(20, 1))
    differencer = Differencer().fit(X)
    expected = differencer.inverse_transform([[1.0]])
    X[:] = 0
    np.testing.assert_array_equal(differencer.inverse_transform([[1.0]]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.iloc[::-1], "not sorted"),
        (lambda X: X.iloc[[0, 1, 1, 2]], "more than once"),
    ],
)
def test_stamps_that_cannot_be_used(rng, change, message):
    X = hourly(rng.normal(size=9))
    differencer = Differencer()
    with pytest.raises(DataError, match=message):
        differencer.fit(change(X))
    assert [name for name in vars(differencer) if name.endswith("_")] == []
    fitted = Differencer().fit(X.iloc[4:])
    with pytest.raises(DataError, match="before the training range"):
        fitted.transform(X)
    later = Differencer().fit(X.iloc[:5])
    for use in (later.transform, later.inverse_transform):
        with pytest.raises(DataError, match=r"2024-03-30 06:00:00 appears more than once"):
            use(X.iloc[[6, 5, 6]])
    np.testing.assert_array_equal(*fitted.transform(X.iloc[[5, 5]]))  # both are known rows
    with pytest.raises(DataError, match="lags must be"):
        Differencer(lags=(0,)).fit(X)
    with pytest.raises(DataError, match="quantiles of differences"):
        fitted.inverse_transform(pd.concat({("c0", 0.5): X["c0"]}, axis=1))


# -- season ----------------------------------------------------------------------------------------


def seasonal_series(rng, n, period, model, noise=0.1):
    season = np.sin(2 * np.pi * np.arange(period) / period) + rng.normal(size=period) / 4
    trend, pattern = 10 + 0.01 * np.arange(n), season[np.arange(n) % period]
    error = noise * rng.normal(size=n)
    if model == "additive":
        return trend + pattern + error, season - season.mean()
    factor = np.exp(season)
    return trend * factor[np.arange(n) % period] * np.exp(error), factor / factor.mean()


@pytest.mark.parametrize("period", [2, 5, 12])
@pytest.mark.parametrize("model", ["additive", "multiplicative"])
@pytest.mark.parametrize("n", [24, 61])
def test_indices_equal_statsmodels_on_complete_data(rng, period, model, n):
    x, _ = seasonal_series(rng, n, period, model)
    season = Deseasonalizer(seasonality=period, model=model).fit(x[:, None])
    oracle = seasonal_decompose(x, model=model, period=period).seasonal[:period]
    np.testing.assert_allclose(season.seasonal_[0, :, 0], oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", ["additive", "multiplicative"])
def test_stl_indices_are_phase_means_of_statsmodels_stl(rng, model):
    x, _ = seasonal_series(rng, 60, 6, model)
    x[17] += 30  # an outlier
    season = Deseasonalizer(seasonality=6, model=model, method="stl").fit(x[:, None])
    values = x if model == "additive" else np.log(x)
    fitted = STL(values, period=6, robust=True).fit().seasonal
    means = np.array([fitted[j::6].mean() for j in range(6)])
    means = means - means.mean() if model == "additive" else np.exp(means) / np.exp(means).mean()
    np.testing.assert_allclose(season.seasonal_[0, :, 0], means, atol=1e-12)


@pytest.mark.parametrize("model", ["additive", "multiplicative"])
@pytest.mark.parametrize("method", ["means", "stl"])
def test_missing_values_hardly_move_the_indices(rng, model, method):
    x, truth = seasonal_series(rng, 240, 12, model, noise=0.0)
    x[rng.random(240) < 0.3] = np.nan
    x[100:130] = np.nan
    season = Deseasonalizer(seasonality=12, model=model, method=method).fit(x[:, None])
    np.testing.assert_allclose(season.seasonal_[0, :, 0], truth, atol=0.01)
    rest = season.transform(x[:, None])[:, 0]
    assert (np.isnan(rest) == np.isnan(x)).all()


def test_the_phase_comes_from_the_stamp(rng):
    x, truth = seasonal_series(rng, 24 * 12, 24, "additive", noise=0.0)
    a = hourly(x)
    b = hourly(np.roll(x, -5)[: 24 * 9] * 3, a.index[5]).drop(a.index[[30, 31, 77]])
    X = pd.concat({"A": a.iloc[: 24 * 8], "B": b}, names=["series"])
    season = Deseasonalizer().set_output(transform="pandas").fit(X)
    assert season.seasonality_ == 24
    np.testing.assert_allclose(season.seasonal_[0, :, 0], truth, atol=1e-9)
    np.testing.assert_allclose(season.seasonal_[1, :, 0], 3 * np.roll(truth, -5), atol=0.2)
    # rows far after the end, not contiguous: only the season is put back
    future = a.iloc[[24 * 10 + 7, 24 * 11 + 2]]
    zero = pd.concat({"A": future * 0}, names=["series"])
    np.testing.assert_allclose(season.inverse_transform(zero)["c0"], truth[[7, 2]], atol=1e-9)


def test_holidays_do_not_shift_the_weekdays(rng):
    days = pd.bdate_range("2023-01-02", periods=150).delete([30, 61, 100, 101])
    X = pd.DataFrame({"v": days.day_of_week.to_numpy() ** 2.0}, index=days)
    season = Deseasonalizer().fit(X.iloc[:120])
    assert season.seasonality_ == 5
    np.testing.assert_allclose(season.transform(X), np.mean([0, 1, 4, 9, 16]), atol=1e-6)


def test_season_of_arrays_follows_on(rng):
    x, truth = seasonal_series(rng, 50, 12, "additive", noise=0.0)  # 50 is not a multiple of 12
    season = Deseasonalizer(seasonality=12).fit(x[:, None])
    adjusted = season.transform(x[:, None])
    np.testing.assert_allclose(season.inverse_transform(adjusted)[:, 0], x, atol=1e-12)
    ahead = season.inverse_transform(np.zeros((20, 1)))[:, 0]
    np.testing.assert_allclose(ahead, truth[(50 + np.arange(20)) % 12], atol=1e-9)


def test_the_season_of_arrays_is_found_in_the_data(rng):
    x, truth = seasonal_series(rng, 120, 12, "additive")
    season = Deseasonalizer().fit(x[:, None])
    assert season.seasonality_ == 12
    np.testing.assert_allclose(season.seasonal_[0, :, 0], truth, atol=0.2)
    assert Deseasonalizer().fit(rng.normal(size=(60, 1))).seasonality_ == 1


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_season_round_trip(data):
    n, n_fit = 40, data.draw(st.integers(24, 40))
    model = data.draw(st.sampled_from(["additive", "multiplicative"]))
    dtype = data.draw(st.sampled_from([np.float64, np.float32]))
    low = -1000 if model == "additive" else 1
    values = data.draw(hnp.arrays(dtype, (n, 2), elements=st.floats(low, 1000, width=32)))
    missing = data.draw(st.lists(st.integers(0, n - 1), max_size=5))
    values[missing, 0] = np.nan
    kind = data.draw(st.sampled_from(["range", "period", "gaps", "month"]))
    X = pd.DataFrame(values, index=index_of(kind, n), columns=["a", "b"])
    season = Deseasonalizer(seasonality=3, model=model).set_output(transform="pandas")
    season.fit(X.iloc[:n_fit])
    rows = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    adjusted = season.transform(X.iloc[rows])
    assert (adjusted.dtypes == dtype).all()
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    back = season.inverse_transform(adjusted)
    size = 1000 if model == "additive" else values[rows]
    error = np.abs(back.to_numpy() - values[rows]) / size
    assert np.nanmax(error, initial=0) < tolerance
    assert (back.isna().to_numpy() == np.isnan(values[rows])).all()


def test_season_errors_say_what_to_do(rng):
    X = pd.concat({"A": hourly(np.ones(60)), "B": hourly(np.ones(30))}, names=["series"])
    with pytest.raises(
        DataError, match=r"series 'B' has 30 steps; seasonality 24 needs at least 48"
    ):
        Deseasonalizer(seasonality=24).fit(X)
    with pytest.raises(DataError, match=r"column 'c0', row 2024-03-30 00:00:00.*positive"):
        Deseasonalizer(seasonality=2, model="multiplicative").fit(hourly(-np.ones(9)))
    x = np.arange(40.0)
    x[3::4] = np.nan
    with pytest.raises(DataError, match="phase 3 of the seasonal period 4 is never observed"):
        Deseasonalizer(seasonality=4).fit(hourly(x))


# -- inside scikit-learn ---------------------------------------------------------------------------


class MeanChange(RegressorMixin, BaseEstimator):
    """Predicts the mean of the target, as a drift forecast of differences; takes NaN."""

    def fit(self, X, y):
        self.mean_ = np.nanmean(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


def test_target_regressor_forecasts_levels_from_differences(rng):
    y = pd.Series(100 + 2.0 * np.arange(50), index=pd.date_range("2024-01-01", periods=50))
    X = pd.DataFrame({"x": np.zeros(50)}, index=y.index)
    model = TransformedTargetRegressor(MeanChange(), transformer=Differencer())
    for train, test in TimeSeriesSplit(2, test_size=10).split(X):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # sklearn warns if the inverse is not one
            model.fit(X.iloc[train], y.iloc[train])
        np.testing.assert_allclose(model.predict(X.iloc[test]), y.iloc[test])


def test_target_regressor_puts_the_season_of_the_forecast_back(rng):
    x, truth = seasonal_series(rng, 50, 12, "additive", noise=0.0)
    x = x - 0.01 * np.arange(50)
    model = TransformedTargetRegressor(MeanChange(), transformer=Deseasonalizer(seasonality=12))
    model.fit(np.zeros((45, 1)), x[:45])
    np.testing.assert_allclose(model.predict(np.zeros((5, 1))), x[45:], atol=1e-9)


def test_a_pipelines_test_fold_has_no_nan_head(rng):
    X = hourly(rng.normal(size=(80, 2)).cumsum(axis=0))
    pipeline = make_pipeline(Differencer(), StandardScaler()).set_output(transform="pandas")
    pipeline.fit(X.iloc[:60])
    test = pipeline.transform(X.iloc[60:])
    assert not test.isna().any(axis=None)
    expected = X.diff()
    expected = (expected - expected.iloc[:60].mean()) / expected.iloc[:60].std(ddof=0)
    pd.testing.assert_frame_equal(test, expected.iloc[60:], check_freq=False)


def test_seasonal_adjustment_helps_a_linear_trend(rng):
    """End to end: adjust, fit a line, put the season back, against the truth to come."""
    x, _ = seasonal_series(rng, 24 * 10, 24, "multiplicative", noise=0.0)
    X = hourly(x)
    season = Deseasonalizer(model="multiplicative").fit(X.iloc[:-24])
    steps = np.arange(len(x))[:, None]
    line = LinearRegression().fit(steps[:-24], season.transform(X.iloc[:-24]))
    forecast = X.iloc[-24:] * 0 + line.predict(steps[-24:])
    np.testing.assert_allclose(season.inverse_transform(forecast), X.iloc[-24:], rtol=5e-3)
