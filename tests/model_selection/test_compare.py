"""The leaderboard against loops written out over the backtest."""

from __future__ import annotations

from math import ceil

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rnnforecast import metrics
from rnnforecast.baselines import NaiveForecaster
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.model_selection import backtest, compare, diebold_mariano

ERRORS = ["mae", "mse", "rmse", "mape", "smape"]
SECONDS = ["fit_seconds", "predict_seconds"]


@pytest.fixture(scope="module")
def panel():
    """Three series of hours: unequal starts, scales and noise, with rows and values missing."""
    rng = np.random.default_rng(8)
    parts = []
    for name, start, size in (("a", 0, 1.0), ("b", 20, 100.0), ("c", 0, 10.0)):
        hours = np.arange(start, 150)
        y = size * (5 + 2 * np.sin(hours * 2 * np.pi / 24) + rng.normal(size=len(hours)) * 0.5)
        when = pd.date_range("2024-01-01", periods=150, freq="h")[start:]
        parts.append(pd.DataFrame({"id": name, "when": when, "y": y}))
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[[40, 200, 145], "y"] = np.nan
    return frame.drop(index=[55, 180])


@pytest.fixture(scope="module")
def models():
    keys = {"target": "y", "series_id": "id", "time": "when"}
    return {
        "last": NaiveForecaster(strategy="last", **keys),
        "day": NaiveForecaster(strategy="seasonal", seasonality=24, **keys),
        "drift": NaiveForecaster(strategy="drift", **keys),
    }


OPTIONS = {"horizon": 6, "n_origins": 5, "step": 4}


@pytest.fixture(scope="module")
def results(panel, models):
    return backtest(models, panel, coverage=0.8, quantiles=[0.1, 0.6], **OPTIONS)


def windows_written_out(panel, results, seasonality):
    """Every metric of every window by the public functions."""
    found = {}
    for (model, origin, series), part in results.groupby(["model", "origin", "series"]):
        mine = panel[panel["id"] == series].set_index("when")["y"]
        past = mine.asfreq("h")[:origin]
        true, pred = part["y_true"], part["y_pred"]
        row = {name: getattr(metrics, name)(true, pred) for name in ERRORS}
        row["mase"] = metrics.mase(true, pred, past, seasonality=seasonality)
        row["rmsse"] = metrics.rmsse(true, pred, past, seasonality=seasonality)
        row["coverage"] = metrics.coverage(true, part["lower"], part["upper"])
        row["interval_width"] = metrics.interval_width(part["lower"], part["upper"])
        row["interval_score"] = metrics.interval_score(true, part["lower"], part["upper"], 0.8)
        row["pinball"] = metrics.pinball_loss(true, part[["q0.1", "q0.6"]].to_numpy(), [0.1, 0.6])
        found[model, origin, series] = row
    frame = pd.DataFrame(found).T
    return frame.rename_axis(["model", "origin", "series"])


def test_every_metric_mean_and_spread(panel, results):
    def bias(y_true, y_pred):
        return abs(np.mean(y_true - y_pred))

    expected = windows_written_out(panel, results, 24)
    names = [*expected.columns]
    board = compare(
        results, panel, metrics=[*names, bias], coverage=0.8, series_id="id", time="when"
    )
    by_origin = expected.groupby(["model", "origin"]).mean()
    for model in ("last", "day", "drift"):
        for name in names:
            per_origin = by_origin.loc[model, name]
            assert_allclose(board.loc[model, name], per_origin.mean(), err_msg=name)
            assert_allclose(board.loc[model, f"{name}_std"], per_origin.std(), err_msg=name)
    part = results.dropna(subset="y_true").assign(e=lambda r: r["y_true"] - r["y_pred"])
    window = part.groupby(["model", "origin", "series"])["e"].mean().abs()
    assert_allclose(board["bias"], window.groupby("model").mean()[board.index])
    assert board.attrs["seasonality"] == 24  # the calendar's
    assert board.attrs["n_origins"] == 5
    assert board["mae"].is_monotonic_increasing


@pytest.mark.parametrize("first", ["mase", "rmse", "pinball"])
def test_wins_and_diebold_mariano(panel, models, results, first):
    windows = windows_written_out(panel, results, 24)[first].unstack("model")
    board = compare(
        models, panel, metrics=(first, "mae"), coverage=0.8, quantiles=[0.1, 0.6], **OPTIONS
    )
    assert list(board.index) == list(windows.mean().sort_values().index)
    # the seasonal one is the naive forecast of the wins
    assert board.attrs["naive"] == "day"
    assert np.isnan(board.loc["day", "wins"])
    for name in ("last", "drift"):
        assert_allclose(board.loc[name, "wins"], (windows[name] < windows["day"]).mean())
    # the best of the baselines is what the others are tested against
    best = board.attrs["baseline"]
    assert best == board.index[0]
    losses = windows.groupby("origin").mean()
    for name in board.index[1:]:
        expected = diebold_mariano(losses[name], losses[best], h=ceil(6 / 4), loss="identity")
        assert_allclose(board.loc[name, ["dm_statistic", "dm_pvalue"]].astype(float), expected)
    assert board.loc[best, ["dm_statistic", "dm_pvalue"]].isna().all()


def test_backtest_result_gives_the_same_board(panel, models, results):
    live = compare(models, panel, **OPTIONS)
    later = compare(results, panel, series_id="id", time="when", baseline=live.attrs["baseline"])
    # there the seasonal naive forecast is made anew, and it is the same forecast
    columns = [name for name in live.columns if name not in SECONDS and name != "wins"]
    assert_frame_equal(live[columns], later[columns])
    others = ["last", "drift"]
    assert_allclose(live.loc[others, "wins"], later.loc[others, "wins"])
    assert later.loc["day", "wins"] == 0.0  # a tie is no win


def test_baseline_by_name(panel, models):
    board = compare(models, panel, baseline="last", **OPTIONS)
    assert board.attrs["baseline"] == "last"
    assert np.isnan(board.loc["last", "dm_pvalue"])
    assert board.loc["day", "dm_statistic"] < 0
    with pytest.raises(DataError, match="baseline must be one of"):
        compare(models, panel, baseline="nope", **OPTIONS)


@pytest.fixture
def frame():
    rng = np.random.default_rng(2)
    index = pd.date_range("2020-01-01", periods=80, freq="D")
    x = rng.normal(size=80)
    y = 10 + np.sin(np.arange(80) * 2 * np.pi / 7) + 3 * x + rng.normal(size=80) * 0.1
    return pd.DataFrame({"x": x, "y": y}, index=index)


def test_a_naive_forecast_is_made_where_none_is_given(frame):
    X, y = frame[["x"]], frame["y"]
    options = {"horizon": 7, "n_origins": 6}
    board = compare({"linear": LinearRegression()}, X, y, **options)
    assert list(board.index) == ["linear"]
    assert board.attrs["naive"] == board.attrs["baseline"] == "seasonal naive"
    naive = NaiveForecaster(strategy="seasonal", seasonality=7)
    both = compare({"linear": LinearRegression(), "naive": naive}, X, y, **options)
    columns = [name for name in board if name not in SECONDS]
    assert_frame_equal(board[columns], both.loc[["linear"], columns])
    # x explains nearly everything: better in every window, and not by luck
    assert board.loc["linear", "wins"] == 1.0
    assert board.loc["linear", "dm_pvalue"] < 0.01
    assert board.loc["linear", "dm_statistic"] < 0
    assert board.loc["linear", "mase"] < 0.2


def test_models_are_compared_in_the_units_of_the_data(frame):
    plain = NaiveForecaster(strategy="seasonal", seasonality=7, target="y")
    scaled = make_pipeline(StandardScaler().set_output(transform="pandas"), plain)
    board = compare({"plain": plain, "scaled": scaled}, frame, horizon=5, metrics=["mae", "smape"])
    assert_allclose(board.loc["plain", "mae"], board.loc["scaled", "mae"], rtol=1e-4)


def test_few_origins_and_long_overlap_have_no_test(frame):
    models = [NaiveForecaster(target="y"), NaiveForecaster(strategy="drift", target="y")]
    one = compare(models, frame, horizon=5, n_origins=1)
    assert one[["dm_statistic", "dm_pvalue", "mase_std"]].isna().all().all()
    overlapping = compare(models, frame, horizon=5, n_origins=4, step=1)
    assert overlapping["dm_pvalue"].isna().all()
    assert compare(models, frame, horizon=5, n_origins=4, step=2)["dm_pvalue"].notna().sum() == 1


def test_one_season_rule_for_networks_scales_and_the_naive_forecast():
    """Counted rows of a panel, where no calendar says the season; only rows before count."""
    rng = np.random.default_rng(0)
    months = 5 * np.sin(np.arange(96) * np.pi / 6)
    parts = {k: pd.DataFrame({"y": 20 + months + rng.normal(size=96)}) for k in "abcd"}
    df = pd.concat({**parts, "late": parts["a"][:12].set_axis(range(84, 96))}, names=["id", "n"])
    board = compare(NaiveForecaster(target="y"), df, horizon=6, n_origins=2)
    assert board.attrs["seasonality"] == choose_seasonality(
        NaiveForecaster(target="y").fit(df[df.index.get_level_values("n") < 84]).panel_
    )
    assert board.attrs["seasonality"] == 12
    assert board.attrs["n_series"] == [4, 5]
    spoilt = df.copy()
    spoilt.loc[spoilt.index.get_level_values("n") >= 84] = 0.0
    again = compare(NaiveForecaster(target="y"), spoilt, horizon=6, n_origins=2)
    assert again.attrs["seasonality"] == 12


def test_short_data_fall_back_to_no_season():
    df = pd.DataFrame({"y": np.arange(12.0)}, index=pd.date_range("2024", periods=12, freq="h"))
    assert compare(NaiveForecaster(), df, horizon=2, n_origins=2).attrs["seasonality"] == 1
    with pytest.raises(DataError, match="seasonality 24 needs at least 25"):
        compare(NaiveForecaster(), df, horizon=2, n_origins=2, seasonality=24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 5, "metrics": ["mea"]}, "among .*'mae'"),
        ({"horizon": 5, "metrics": []}, "first metric"),
        ({"horizon": 5, "metrics": ["coverage"]}, "must be an error"),
        ({"horizon": 5, "metrics": ["mae", "coverage"]}, "coverage needs intervals"),
        ({"horizon": 5, "metrics": ["pinball"]}, "pinball needs quantiles"),
        ({"horizon": 5, "seasonality": 0}, "seasonality must be"),
        ({}, "horizon is needed"),
    ],
)
def test_bad_arguments_are_named(frame, options, message):
    with pytest.raises(DataError, match=message):
        compare(NaiveForecaster(target="y"), frame, **options)


def test_a_frame_that_is_no_backtest_is_refused(frame, panel, results):
    with pytest.raises(DataError, match="must be what backtest returned"):
        compare(frame, frame)
    with pytest.raises(DataError, match="origins that are not time stamps"):
        compare(results, frame)


def test_a_constant_series_has_no_scaled_errors_but_a_leaderboard():
    models = {"last": NaiveForecaster(), "drift": NaiveForecaster(strategy="drift")}
    board = compare(models, pd.DataFrame({"y": np.full(30, 5.0)}), horizon=2, n_origins=2)
    assert sorted(board.index) == ["drift", "last"]
    assert board["mase"].isna().all()
    assert_allclose(board["smape"], 0)


def test_models_of_different_targets_share_no_leaderboard():
    frame = pd.DataFrame({"a": np.arange(30.0), "b": np.arange(30.0) ** 2})
    models = {"one": NaiveForecaster(target="a"), "other": NaiveForecaster(target="b")}
    with pytest.raises(DataError, match=r"'one' forecasts \['a'\] and 'other' \['b'\]"):
        compare(models, frame, horizon=2, n_origins=2)


def test_a_series_with_one_row_at_an_origin_is_forecast(panel, models):
    late = panel[(panel["id"] == "a")].tail(7).assign(id="new", y=lambda df: df["y"] + 100)
    board = compare(models, pd.concat([panel, late]), horizon=6, n_origins=1)
    assert board.attrs["n_series"] == [4]
    assert np.isfinite(board["mase"]).all()
