"""Metrics against scikit-learn, utilsforecast, literal NumPy and published numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from numpy.testing import assert_allclose

from rnnforecast import metrics
from rnnforecast.exceptions import DataError

POINT = {
    "mae": skm.mean_absolute_error,
    "mse": skm.mean_squared_error,
    "rmse": skm.root_mean_squared_error,
    "mape": lambda *a, **k: 100 * skm.mean_absolute_percentage_error(*a, **k),
    "r2": skm.r2_score,
}
CASES = [*POINT, "smape"]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def arrays(rng):
    true = rng.normal(size=(30, 3)) + [0.0, 5.0, -9.0]
    return true, true + rng.normal(size=(30, 3))


def smape_literal(true, pred):
    return np.mean([200 * abs(t - p) / (abs(t) + abs(p)) for t, p in zip(true, pred)])


@pytest.mark.parametrize("name", POINT)
@pytest.mark.parametrize("multioutput", ["uniform_average", "raw_values"])
@pytest.mark.parametrize("weighted", [False, True])
def test_point_metrics_equal_sklearn(name, multioutput, weighted, arrays, rng):
    options = {"multioutput": multioutput}
    if weighted:
        options["sample_weight"] = rng.uniform(size=30)
    mine = getattr(metrics, name)(*arrays, **options)
    assert_allclose(mine, POINT[name](*arrays, **options), rtol=1e-12)
    column = [array[:, 0] for array in arrays]
    options.pop("multioutput")
    assert_allclose(
        getattr(metrics, name)(*column, **options), POINT[name](*column, **options), rtol=1e-12
    )


@pytest.mark.parametrize("name", CASES)
def test_unobserved_positions_do_not_count(name, arrays, rng):
    true, pred = arrays
    hidden = true.copy()
    hidden[rng.uniform(size=true.shape) < 0.3] = np.nan
    pred = pred.copy()
    pred[np.isnan(hidden)] = 1e9  # whatever was forecast there
    metric = getattr(metrics, name)
    expected = [
        metric(hidden[seen, k], pred[seen, k])
        for k, seen in enumerate(~np.isnan(hidden).T)
        for seen in [np.flatnonzero(seen)]
    ]
    assert_allclose(metric(hidden, pred, multioutput="raw_values"), expected, rtol=1e-12)
    assert_allclose(metric(hidden, pred), np.mean(expected), rtol=1e-12)
    pred[np.isnan(hidden)] = np.nan
    assert_allclose(metric(hidden, pred), np.mean(expected), rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_nothing_observed_is_nan_without_a_warning(name):
    empty = np.full((4, 2), np.nan)
    metric = getattr(metrics, name)
    assert np.isnan(metric(empty, np.zeros((4, 2))))
    half = np.array([[np.nan, 1.0], [np.nan, 2.0]])
    assert metric(half, half) == metric(half[:, 1], half[:, 1])


@pytest.mark.parametrize("name", CASES)
def test_pandas_and_windows_equal_arrays(name, arrays):
    true, pred = arrays
    index = pd.date_range("2024-01-01", periods=30, freq="h")
    metric = getattr(metrics, name)
    # not to the last digit: a frame may hold its columns one after another, which sums differently
    same = partial(assert_allclose, rtol=1e-12)
    expected = metric(true, pred)
    frame = pd.DataFrame(true, index=index)
    same(metric(frame, pd.DataFrame(pred, index=index)), expected)
    same(metric(frame.convert_dtypes(), pred), expected)
    same(metric(true.reshape(5, 6, 3), pred.reshape(5, 6, 3)), expected)
    one = metric(frame[0], pd.DataFrame(pred[:, [0]], index=index))
    same(one, metric(true[:, 0], pred[:, 0]))


@pytest.mark.parametrize(
    ("true", "pred"),
    [
        ([3.0, 3.0], [3.0, 3.0]),
        ([3.0, 3.0], [3.0, 4.0]),
        ([0.5] * 7, [0.5] * 7),
        ([1.0, 2.0], [1.0, 2.0]),
    ],
)
def test_r2_of_constant_truth_is_sklearns(true, pred):
    assert metrics.r2(true, pred) == skm.r2_score(true, pred)


def test_r2_sees_a_constant_through_rounding():
    true = np.full(3, 0.1)  # its mean is not exactly 0.1
    assert metrics.r2(true, true) == 1.0
    assert metrics.r2(true, true + 1) == 0.0
    assert np.isnan(metrics.r2([1.0, np.nan], [1.0, 2.0]))


def test_smape_is_m4s(arrays):
    true, pred = arrays
    assert_allclose(
        metrics.smape(true[:, 0], pred[:, 0]), smape_literal(true[:, 0], pred[:, 0]), rtol=1e-12
    )
    assert metrics.smape([0.0, 2.0], [0.0, 2.0]) == 0.0
    assert metrics.smape([1.0, 0.0], [-1.0, 5.0]) == 200.0


def test_scaled_errors_by_hand():
    train = [10.0, 12.0, 11.0, 15.0, 13.0]  # lag 2: |1|, |3|, |2|: mean 2, mean square 14/3
    true, pred = [14.0, 16.0], [13.0, 19.0]  # errors 1, 3
    assert metrics.mase(true, pred, train, seasonality=2) == 1.0
    assert_allclose(metrics.rmsse(true, pred, train, seasonality=2), np.sqrt(5 / (14 / 3)))
    # lag 1: 2, 1, 4, 2: mean 2.25, mean square 6.25
    assert_allclose(metrics.mase(true, pred, train), 2 / 2.25)
    assert_allclose(metrics.rmsse(true, pred, train), np.sqrt(5 / 6.25))
    # OWA: sMAPE (200/27 + 600/35) / 2, the naive forecast's (200/27 + 600/29) / 2
    naive = [13.0, 13.0]
    ratio = ((200 / 27 + 600 / 35) / (200 / 27 + 600 / 29) + (1 + 3) / (1 + 3)) / 2
    assert_allclose(metrics.owa(true, pred, naive, train), ratio)
    assert metrics.owa(true, naive, naive, train, seasonality=2) == 1.0


def test_owa_of_m4s_published_table():
    # Makridakis, Spiliotis & Assimakopoulos 2020, table 4: Smyl, and FFORMA
    naive2 = (13.564, 1.912)
    assert round(metrics.owa_from_scores(11.374, 1.536, *naive2), 3) == 0.821
    assert round(metrics.owa_from_scores(11.720, 1.551, *naive2), 3) == 0.838


def panel(rng, lengths=(20, 33, 12), horizon=4, targets=("y",)):
    rows = []
    for name, length in zip("cab", lengths):
        values = rng.normal(size=(length + horizon, len(targets))).cumsum(axis=0) + 50
        index = pd.MultiIndex.from_product(
            [[name], pd.RangeIndex(length + horizon)], names=["id", "t"]
        )
        rows.append(pd.DataFrame(values, index=index, columns=list(targets)))
    frame = pd.concat(rows)
    position = frame.groupby(level=0).cumcount(ascending=False)
    return frame[position >= horizon], frame[position < horizon]


@pytest.mark.parametrize("seasonality", [1, 3])
def test_panel_errors_equal_utilsforecast(rng, seasonality):
    losses = pytest.importorskip("utilsforecast.losses")
    train, test = panel(rng)
    pred = test["y"] + rng.normal(size=len(test))
    long = test["y"].rename_axis(["unique_id", "ds"]).reset_index().assign(model=pred.to_numpy())
    past = train["y"].rename_axis(["unique_id", "ds"]).reset_index()
    for name in ("mase", "rmsse"):
        theirs = getattr(losses, name)(long, ["model"], seasonality, past)
        mine = getattr(metrics, name)
        assert_allclose(
            mine(test["y"], pred, train["y"], seasonality=seasonality), theirs["model"].mean()
        )
        each = metrics.by_series(
            partial(mine, seasonality=seasonality), test["y"], pred, train["y"], average=False
        )
        assert_allclose(each[theirs["unique_id"]], theirs["model"])
    theirs = losses.smape(long, ["model"])["model"]
    assert_allclose(metrics.by_series(metrics.smape, test["y"], pred), 200 * theirs.mean())
    theirs = losses.scaled_quantile_loss(long, {"model": "model"}, seasonality, past, q=0.3)
    assert_allclose(
        metrics.scaled_pinball_loss(test["y"], pred, train["y"], 0.3, seasonality=seasonality),
        theirs["model"].mean(),
    )


def test_panel_alignment_and_row_order(rng):
    train, test = panel(rng, targets=("u", "v"))
    pred = test + rng.normal(size=test.shape)
    expected = metrics.mase(test, pred, train)
    order = rng.permutation(len(test))
    past = rng.permutation(len(train))
    assert_allclose(metrics.mase(test.iloc[order], pred, train.iloc[past]), expected)
    assert_allclose(metrics.mase(test, pred.to_numpy(), train), expected)
    raw = metrics.mase(test, pred, train, multioutput="raw_values")
    assert_allclose(raw.mean(), expected)
    assert_allclose(raw[1], metrics.mase(test["v"], pred["v"], train["v"]))
    each = metrics.by_series(
        partial(metrics.mae, multioutput="raw_values"), test, pred, average=False
    )
    assert_allclose(each.loc["a"], (test - pred).abs().loc["a"].mean())
    assert list(each.columns) == ["u", "v"]


def test_gaps_of_a_regular_calendar_do_not_shift_the_season(rng):
    full = pd.Series(rng.normal(size=40), index=pd.date_range("2024-01-01", periods=40, freq="D"))
    holes = full.copy()
    holes.iloc[[5, 6, 20]] = np.nan
    expected = metrics.naive_scale(holes.to_numpy(), seasonality=7)
    rows = holes.dropna()
    assert_allclose(metrics.naive_scale(rows, seasonality=7), expected)
    assert_allclose(
        metrics.naive_scale(rows.sample(frac=1, random_state=0), seasonality=7), expected
    )
    # months are regular though their lengths differ; trading days are their own grid
    months = full.set_axis(pd.date_range("2020-01-01", periods=40, freq="MS"))
    trading = full.set_axis(pd.bdate_range("2024-01-01", periods=40))
    for series in (months, trading, months.to_period("M")):
        assert_allclose(
            metrics.naive_scale(series, seasonality=5), np.abs(full.diff(5)).mean(), rtol=1e-12
        )


def test_a_constant_series_is_left_out_of_the_mean(rng):
    train, test = panel(rng)
    flat = train.copy()
    flat.loc["a"] = 1.0
    each = metrics.by_series(metrics.mase, test, test + 1, flat, average=False)
    assert np.isnan(each["a"])
    assert_allclose(metrics.mase(test, test + 1, flat), each[["b", "c"]].mean())


def test_a_series_shorter_than_a_season_is_left_out_of_the_mean(rng):
    train, test = panel(rng, lengths=(20, 33, 5))
    pred = test + 1
    for metric in (metrics.mase, metrics.rmsse):
        each = [metric(test.loc[k], pred.loc[k], train.loc[k], seasonality=7) for k in "ca"]
        assert_allclose(metric(test, pred, train, seasonality=7), np.mean(each))
    with pytest.raises(DataError, match="the longest series of y_train has 33 rows"):
        metrics.mase(test, pred, train, seasonality=33)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.85])
def test_pinball_equals_sklearn(level, arrays, rng):
    true, pred = arrays
    weight = rng.uniform(size=30)
    assert_allclose(
        metrics.pinball_loss(true, pred, level), skm.mean_pinball_loss(true, pred, alpha=level)
    )
    assert_allclose(
        metrics.pinball_loss(true, pred, level, sample_weight=weight),
        skm.mean_pinball_loss(true, pred, alpha=level, sample_weight=weight),
    )


def test_pinball_of_several_quantiles(arrays):
    true, pred = arrays
    levels = [0.1, 0.5, 0.9]
    values = np.stack([pred - 1, pred, pred + 1], axis=-1)
    each = [metrics.pinball_loss(true, values[..., i], q) for i, q in enumerate(levels)]
    assert_allclose(metrics.pinball_loss(true, values, levels), np.mean(each))
    assert_allclose(each[1], metrics.mae(true, pred) / 2)
    columns = pd.MultiIndex.from_product([["b", "a", "c"], levels])
    frame = pd.DataFrame(values.reshape(30, 9), columns=columns)
    truth = pd.DataFrame(true, columns=["b", "a", "c"])
    assert_allclose(metrics.pinball_loss(truth, frame), np.mean(each))
    # the truth's columns say which target is which
    assert_allclose(metrics.pinball_loss(truth[["c", "b", "a"]], frame), np.mean(each))
    one = metrics.pinball_loss(true[:, 0], values[:, 0], levels)
    assert_allclose(one, metrics.pinball_loss(true[:, [0]], values[:, [0]], levels))


def test_intervals_against_literal_formulas(arrays, rng):
    true, pred = arrays
    true = true.copy()
    true[3, 1] = np.nan
    lower, upper = pred - rng.uniform(size=pred.shape), pred + rng.uniform(size=pred.shape)
    cover, score, width = [], [], []
    for k in range(3):
        rows = [i for i in range(30) if not np.isnan(true[i, k])]
        y, lo, up = true[rows, k], lower[rows, k], upper[rows, k]
        cover.append(np.mean((y >= lo) & (y <= up)))
        # Gneiting & Raftery 2007, eq. 43, alpha = 0.2
        score.append(np.mean((up - lo) + 10 * (lo - y) * (y < lo) + 10 * (y - up) * (y > up)))
        width.append(np.mean(upper[:, k] - lower[:, k]))
    assert_allclose(metrics.coverage(true, lower, upper), np.mean(cover))
    assert_allclose(metrics.interval_score(true, lower, upper, 0.8), np.mean(score))
    assert_allclose(metrics.interval_width(lower, upper), np.mean(width))
    assert_allclose(
        metrics.coverage_error(true, lower, upper, 0.8), np.mean(np.abs(np.array(cover) - 0.8))
    )


def test_interval_score_is_twice_the_pinball_of_its_ends(arrays):
    # Bracher et al. 2021: IS_alpha = (2 / alpha) * (pinball at alpha/2 + pinball at 1 - alpha/2)
    true, pred = arrays
    ends = metrics.pinball_loss(true, pred - 1, 0.1) + metrics.pinball_loss(true, pred + 1, 0.9)
    assert_allclose(metrics.interval_score(true, pred - 1, pred + 1, 0.8), ends * 2 / 0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.mae([1.0, 2.0], [1.0]), "same shape"),
        (lambda m: m.mae([], []), "empty"),
        (lambda m: m.mae(1.0, 1.0), "one number"),
        (lambda m: m.mae(["a"], [1.0]), "must hold numbers"),
        (lambda m: m.mae([1.0], [np.inf]), "infinite"),
        (lambda m: m.mae([1.0, 2.0], [1.0, np.nan]), "row 1"),
        (lambda m: m.mae([1.0], [1.0], multioutput="x"), "multioutput"),
        (lambda m: m.mae([1.0], [1.0], sample_weight=[1.0, 2.0]), "sample_weight"),
        (
            lambda m: m.mae(pd.Series([1.0], index=["a"]), pd.Series([1.0], index=["b"])),
            "reindex",
        ),
        (lambda m: m.mase([1.0], [1.0], [1.0, 2.0], seasonality=-1), "seasonality"),
        (lambda m: m.mase([1.0], [1.0], [1.0, 2.0], seasonality=2), "needs at least 3"),
        (lambda m: m.mase([1.0], [1.0], [[1.0, 2.0], [3.0, 4.0]]), "must agree"),
        (lambda m: m.owa_from_scores(1.0, 1.0, 0.0, 1.0), "naive_smape"),
        (lambda m: m.pinball_loss([1.0], [1.0], 1.0), "strictly between"),
        (lambda m: m.pinball_loss([1.0], [1.0]), "quantile="),
        (lambda m: m.pinball_loss([1.0, 2.0], [1.0, 2.0], [0.1, 0.9]), "last axis of 2"),
        (lambda m: m.coverage([1.0], [2.0], [1.0]), "swapped"),
        (lambda m: m.interval_width([2.0], [1.0]), "swapped"),
        (lambda m: m.interval_score([1.0], [0.0], [2.0], 1.0), "nominal"),
        (lambda m: m.by_series(m.mae, [1.0], [1.0]), "MultiIndex"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call(metrics)


def test_panel_bad_input_is_named(rng):
    train, test = panel(rng)
    with pytest.raises(DataError, match="series 'b' of y_true is not in y_train"):
        metrics.mase(test, test, train.drop("b", level=0))
    with pytest.raises(DataError, match="4 of 12 are missing"):
        metrics.mase(test, test.drop("a", level=0), train)
    with pytest.raises(DataError, match="MultiIndex"):
        metrics.mase(test, test, train.to_numpy())
