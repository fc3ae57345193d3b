"""SeriesScaler and WindowScaler against scikit-learn, literal loops and properties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from rnnforecast.exceptions import DataError, NotFittedError
from rnnforecast.transformers import SeriesScaler, WindowScaler

METHODS = ["standard", "robust", "minmax", "mean_abs", "max_abs"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def panel(rng):
    """Two series of unequal length and scale, with NaN."""
    a = pd.MultiIndex.from_product([["A"], pd.date_range("2024-01-01", periods=9)])
    b = pd.MultiIndex.from_product([["B"], pd.date_range("2024-01-03", periods=5)])
    index = a.append(b).set_names(["series", "time"])
    frame = pd.DataFrame(rng.normal(size=(14, 2)) * [[1, 100]] + 5, index=index, columns=["y", "x"])
    frame.loc["B"] = frame.loc["B"].to_numpy() * 1000
    frame.iloc[[2, 10], 0] = np.nan
    return frame


@pytest.mark.parametrize(
    "estimator",
    [SeriesScaler(method=method) for method in METHODS]
    + [WindowScaler(), WindowScaler(method="robust", shift="last")],
    ids=repr,
)
def test_check_estimator(estimator):
    failed = [
        result["check_name"]
        for result in check_estimator(estimator, on_fail=None, on_skip=None)
        if result["status"] == "failed"
    ]
    assert failed == []


@pytest.mark.parametrize(
    ("method", "oracle"),
    [
        ("standard", StandardScaler()),
        ("robust", RobustScaler()),
        ("minmax", MinMaxScaler()),
        ("max_abs", MaxAbsScaler()),
    ],
)
def test_equals_sklearn_on_one_series(rng, method, oracle):
    X = rng.normal(3, 10, size=(40, 3))
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 2] = 7.0  # constant
    scaler = SeriesScaler(method=method).fit(X)
    new = rng.normal(size=(5, 3))
    np.testing.assert_allclose(scaler.transform(X), oracle.fit_transform(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scaler.transform(new), oracle.transform(new), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_panel_is_scaled_series_by_series(panel, method):
    scaled = SeriesScaler(method=method).set_output(transform="pandas").fit_transform(panel)
    pd.testing.assert_index_equal(scaled.index, panel.index)
    for name in ["A", "B"]:
        alone = SeriesScaler(method=method).fit_transform(panel.loc[name])
        np.testing.assert_allclose(scaled.loc[name], alone, rtol=1e-12)


def test_mean_abs_is_the_mean_of_observed_absolute_values(panel):
    scaler = SeriesScaler(method="mean_abs").fit(panel)
    expected = [np.nanmean(np.abs(panel.loc[name, "y"])) for name in scaler.series_]
    np.testing.assert_allclose(scaler.scale_[:, 0], expected)


def test_key_columns_give_the_same_as_a_multiindex_and_are_carried(panel):
    long = panel.reset_index().rename(columns={"series": "station"}).drop(columns="time")
    scaler = SeriesScaler(series_id="station").fit(long)
    out = scaler.transform(long)
    assert list(out.columns) == ["station", "y", "x"]
    assert out["station"].tolist() == long["station"].tolist()
    np.testing.assert_allclose(out[["y", "x"]], SeriesScaler().fit_transform(panel))
    pd.testing.assert_frame_equal(scaler.inverse_transform(out), long)
    assert scaler.get_feature_names_out().tolist() == ["station", "y", "x"]


def test_polars_in(panel):
    polars = pytest.importorskip("polars")
    long = panel.reset_index().drop(columns="time")
    out = SeriesScaler(series_id="series").fit_transform(polars.DataFrame(long.to_dict("list")))
    np.testing.assert_allclose(
        out[["y", "x"]].to_numpy(dtype=float), SeriesScaler().fit_transform(panel)
    )


def test_unseen_series_is_named(panel):
    scaler = SeriesScaler().fit(panel)
    new = panel.rename(index={"B": "C"}, level=0)
    with pytest.raises(DataError, match=r"series 'C' was not in the data passed to fit"):
        scaler.transform(new)
    with (
        pytest.warns(UserWarning, match="valid feature names"),
        pytest.raises(DataError, match="X names no series"),
    ):
        scaler.transform(panel.to_numpy())


def test_a_column_never_observed_is_left_alone(panel):
    panel.loc["B", "y"] = np.nan
    scaler = SeriesScaler().fit(panel)
    assert scaler.center_[1, 0] == 0
    assert scaler.scale_[1, 0] == 1


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_round_trip(method, data):
    dtype = data.draw(st.sampled_from([np.float64, np.float32]))
    values = data.draw(
        hnp.arrays(
            dtype,
            (12, 2),
            elements=st.one_of(
                st.floats(-(2.0**20), 2.0**20, width=32), st.just(np.nan), st.just(3.5)
            ),
        )
    )
    codes = data.draw(hnp.arrays(np.int64, 12, elements=st.integers(0, 2)))
    index = pd.MultiIndex.from_arrays([codes, pd.period_range("2020", periods=12, freq="M")])
    frame = pd.DataFrame(values, index=index, columns=["a", "b"])
    scaler = SeriesScaler(method=method).set_output(transform="pandas")
    scaled = scaler.fit_transform(frame)
    back = scaler.inverse_transform(scaled)
    assert (scaled.dtypes == dtype).all()
    pd.testing.assert_index_equal(back.index, frame.index)
    size = max(np.nanmax(np.abs(values), initial=0), 1)
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(back, frame, rtol=0, atol=tolerance * size)
    assert (scaled.isna() == frame.isna()).all(axis=None)


def test_statistics_come_from_fit_alone_and_rows_are_independent(panel):
    scaler = SeriesScaler().fit(panel)
    center, scale = scaler.center_.copy(), scaler.scale_.copy()
    expected = scaler.transform(panel)
    corrupted = panel.copy()
    corrupted.iloc[5:8] = 1e12
    out = scaler.transform(corrupted)
    np.testing.assert_array_equal(np.delete(out, [5, 6, 7], 0), np.delete(expected, [5, 6, 7], 0))
    np.testing.assert_array_equal(scaler.center_, center)
    np.testing.assert_array_equal(scaler.scale_, scale)
    order = np.random.default_rng(1).permutation(len(panel))
    np.testing.assert_array_equal(scaler.transform(panel.iloc[order]), expected[order])


def test_inverse_takes_a_part_of_the_columns_and_quantiles(panel):
    scaler = SeriesScaler().set_output(transform="pandas").fit(panel)
    scaled = scaler.transform(panel)
    pd.testing.assert_frame_equal(scaler.inverse_transform(scaled[["x"]]), panel[["x"]])
    pd.testing.assert_series_equal(scaler.inverse_transform(scaled["x"]), panel["x"])
    quantiles = pd.concat({("x", 0.1): scaled["x"], ("x", 0.9): scaled["x"]}, axis=1)
    back = scaler.inverse_transform(quantiles)
    np.testing.assert_allclose(back[("x", 0.9)], panel["x"])
    with pytest.raises(DataError, match="'z' was not in fit"):
        scaler.inverse_transform(scaled.rename(columns={"x": "z"}))


def test_series_and_default_output(rng):
    series = pd.Series(rng.normal(size=6), name="y")
    out = SeriesScaler().fit_transform(series)
    assert isinstance(out, np.ndarray)
    assert out.shape == (6, 1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (pd.DataFrame({"a": [1.0, np.inf]}), "infinity.*column 'a', row 1"),
        (pd.DataFrame({"a": ["u", "v"]}), "column 'a'.*expected numbers"),
        (pd.DataFrame({"a": [1j, 2j]}), "Complex data not supported"),
    ],
)
def test_bad_data_is_refused_and_nothing_is_half_fitted(bad, message):
    scaler = SeriesScaler()
    with pytest.raises(DataError, match=message):
        scaler.fit(bad)
    assert [name for name in vars(scaler) if name.endswith("_")] == []
    with pytest.raises(DataError, match="method must be one of"):
        SeriesScaler(method="max").fit([[1.0], [2.0]])
    with pytest.raises(NotFittedError, match="call fit first"):
        scaler.transform([[1.0]])


def test_inside_pipeline_and_target_regressor(rng):
    X = rng.normal(50, 20, size=(60, 3))
    y = X @ [1.0, 2, 3] + 1000
    model = TransformedTargetRegressor(
        make_pipeline(SeriesScaler(), LinearRegression()), transformer=SeriesScaler()
    )
    np.testing.assert_allclose(clone(model).fit(X, y).predict(X), y)


# -- windows ---------------------------------------------------------------------------------------


def literal_statistics(window, method, shift):
    """Centre and scale of one column of one window, from the definition."""
    seen = window[~np.isnan(window)]
    if not len(seen):
        return 0.0, 1.0
    quartiles = np.percentile(seen, [25, 75])
    scale = {
        "standard": seen.std(),
        "robust": quartiles[1] - quartiles[0],
        "minmax": seen.max() - seen.min(),
        "mean_abs": np.abs(seen).mean(),
        "max_abs": np.abs(seen).max(),
        "none": 1.0,
    }[method]
    centre = {"mean": seen.mean(), "median": np.median(seen), "last": seen[-1], "none": 0.0}[shift]
    return centre, scale if scale > 1e-12 else 1.0


@pytest.mark.parametrize("method", [*METHODS, "none"])
@pytest.mark.parametrize("shift", ["mean", "median", "last", "none"])
def test_windows_against_a_literal_loop(rng, method, shift):
    windows = rng.normal(4, 3, size=(20, 6, 2))
    windows[rng.random(windows.shape) < 0.3] = np.nan
    windows[3, :, 1] = np.nan
    windows[4, :, 0] = 2.5
    targets = rng.normal(size=(20, 3))
    flat = windows.reshape(20, 12)
    scaler = WindowScaler(method=method, shift=shift, n_columns=2, targets=[1]).fit(flat)
    expected = np.empty_like(windows)
    scaled_targets = np.empty_like(targets)
    for i in range(20):
        for j in range(2):
            centre, scale = literal_statistics(windows[i, :, j], method, shift)
            expected[i, :, j] = (windows[i, :, j] - centre) / scale
        scaled_targets[i] = (targets[i] - centre) / scale
    np.testing.assert_allclose(scaler.transform(flat), expected.reshape(20, 12), atol=1e-12)
    np.testing.assert_allclose(scaler.transform_targets(targets, flat), scaled_targets, atol=1e-12)
    np.testing.assert_allclose(
        scaler.inverse_transform(scaled_targets, windows=flat), targets, atol=1e-12
    )


@given(
    windows=hnp.arrays(
        np.float64,
        (5, 8),
        elements=st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.just(0.1)),
    ),
    method=st.sampled_from([*METHODS, "none"]),
    shift=st.sampled_from(["mean", "median", "last", "none"]),
)
@settings(max_examples=60, deadline=None)
def test_window_round_trip(windows, method, shift):
    scaler = WindowScaler(method=method, shift=shift, n_columns=2).fit(windows)
    scaled = scaler.transform(windows)
    back = scaler.inverse_transform(scaled, windows=windows)
    size = max(np.max(np.abs(windows), initial=0, where=~np.isnan(windows)), 1)
    np.testing.assert_allclose(back, windows, rtol=0, atol=1e-9 * size)


def test_window_frames_keep_their_index_in_the_inverse(rng):
    index = pd.date_range("2024-01-01", periods=4, name="origin")
    windows = pd.DataFrame(rng.normal(size=(4, 6)), index=index).rename(columns="w{}".format)
    forecast = pd.DataFrame({"step1": [0.0, 0, 0, 0], "step2": [1.0, 1, 1, 1]}, index=index)
    scaler = WindowScaler(shift="last").set_output(transform="pandas").fit(windows)
    assert list(scaler.transform(windows).columns) == list(windows.columns)
    back = scaler.inverse_transform(forecast, windows=windows)
    pd.testing.assert_index_equal(back.index, index)
    np.testing.assert_allclose(back["step1"], windows["w5"])
    np.testing.assert_allclose(back["step2"], windows["w5"] + windows.std(axis=1, ddof=0))


def test_window_errors_say_what_to_do(rng):
    windows = rng.normal(size=(4, 6))
    scaler = WindowScaler(n_columns=2).fit(windows)
    with pytest.raises(DataError, match="needs windows="):
        scaler.inverse_transform(windows)
    with pytest.raises(DataError, match="X has 3 rows and windows has 4"):
        scaler.inverse_transform(windows[:3], windows=windows)
    with pytest.raises(DataError, match="do not divide into 4 columns"):
        WindowScaler(n_columns=4).fit(windows)
    with pytest.raises(DataError, match="targets must be positions below"):
        WindowScaler(n_columns=2, targets=[2]).fit(windows)
