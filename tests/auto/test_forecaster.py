"""AutoForecaster as a forecaster: the contract, the guarantee, the leaderboard, intervals."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnnforecast import (
    ARIMAForecaster,
    AutoForecaster,
    DeepGRUForecaster,
    ETSForecaster,
    NaiveForecaster,
    ThetaForecaster,
    backtest,
    metrics,
)
from rnnforecast.auto.candidates import Candidate
from rnnforecast.exceptions import DataError


def frame(n=90, seed=0, start="2024-01-01"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 30 + rng.normal(size=n).cumsum() * 0.3 + np.resize(np.arange(7.0), n) + x
    index = pd.date_range(start, periods=n, freq="D", name="day")
    return pd.DataFrame({"y": y, "x": x}, index=index)


def panel():
    parts = {"b": frame(84, 1), "a": frame(98, 2), "c": frame(70, 3, "2024-02-01")}
    return pd.concat(parts, names=["id", "day"])


def network(**options):
    return DeepGRUForecaster(lookback=7, hidden_size=4, n_layers=1, max_epochs=2, **options)


def auto(candidates=None, **options):
    chosen = {"theta": ThetaForecaster(), "ets": ETSForecaster(trend=None)}
    options = {"horizon": 6, "random_state": 0, "target": "y"} | options
    return AutoForecaster(candidates=chosen if candidates is None else candidates, **options)


# -- scikit-learn ----------------------------------------------------------------------------------

REASON = "a row's step is its position in an array without an index"
DECLARED = {
    "check_methods_sample_order_invariance": REASON,
    "check_methods_subset_invariance": REASON,
}


def declared(estimator):
    return DECLARED


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [AutoForecaster(candidates=[ARIMAForecaster()], random_state=0)],
    expected_failed_checks=declared,
)
def test_scikit_learn(estimator, check):
    check(estimator)


def test_parameters_survive_clone_and_are_left_alone():
    fc = auto(metric="smape", n_origins=2, time_budget=7.5, refit=False)
    theta = fc.candidates["theta"]
    copy = clone(fc)
    assert copy.get_params().keys() == fc.get_params().keys()
    assert (copy.metric, copy.n_origins, copy.time_budget, copy.refit) == ("smape", 2, 7.5, False)
    fc.fit(frame()[["y"]])
    assert fc.candidates["theta"] is theta and theta.horizon == 1
    assert not hasattr(theta, "panel_")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_budget": 0}, "time_budget must be a number"),
        ({"metric": "mape"}, "metric must be one of"),
        ({"n_origins": 0}, "n_origins must be an integer"),
        ({"refit": "yes"}, "refit must be True or False"),
        ({"candidates": [object()]}, "candidates must be forecasters of rnnforecast"),
        ({"candidates": "ets"}, "candidates must be forecasters of rnnforecast"),
    ],
)
def test_bad_parameters_are_named(options, message):
    with pytest.raises(DataError, match=f"AutoForecaster: {message}"):
        auto(**options).fit(frame()[["y"]])


# -- what is judged, and how -----------------------------------------------------------------------


@pytest.mark.parametrize("data", [frame()[["y"]], panel()[["y"]]], ids=["series", "panel"])
def test_scores_are_those_of_a_backtest_without_refits(data):
    """The same origins by the library's backtest, series by series from each one's own end."""
    fc = auto(n_origins=2).fit(data)
    board = fc.leaderboard_.set_index("model")["score"]
    assert fc.n_origins_ == 2 and fc.seasonality_ == 7
    groups = {"": data} if data.index.nlevels == 1 else dict(iter(data.groupby(level="id")))
    models = {
        "naive": NaiveForecaster(),
        "seasonal naive": NaiveForecaster(strategy="seasonal"),
        "theta": ThetaForecaster(),
        "ets": ETSForecaster(trend=None),
    }
    errors = {name: [] for name in models}
    for rows in groups.values():
        rows = rows if rows.index.nlevels == 1 else rows.droplevel("id").asfreq("D")
        for name, model in models.items():
            found = backtest(model, rows, horizon=6, n_origins=2, refit=False)
            scale = metrics.naive_scale(rows["y"].iloc[:-12], seasonality=7)
            errors[name].append(np.abs(found["y_true"] - found["y_pred"]).mean() / scale[0])
    for name, values in errors.items():
        assert board[name] == pytest.approx(np.mean(values), rel=1e-6)


@pytest.mark.parametrize("metric", ["mase", "smape", "owa", "mae", "rmsse"])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_the_seasonal_naive_forecast_on_its_validation(metric, seed):
    fc = auto(metric=metric, candidates=[ThetaForecaster()]).fit(frame(seed=seed)[["y"]])
    board = fc.leaderboard_.set_index("model")
    assert fc.validation_score_ <= board.loc["seasonal naive", "score"]
    assert fc.validation_score_ <= board["score"].min() + 1e-12
    if metric == "owa":
        assert board.loc["seasonal naive", "score"] == pytest.approx(1.0)


def test_nothing_that_is_tried_sees_the_held_out_rows():
    """Other values in the held-out rows change the scores, but no forecast that they judge."""
    df = frame()[["y"]]
    other = df.copy()
    other.iloc[-12:] += 50.0
    names = {"theta": ThetaForecaster(), "net": network()}
    errors = []
    for rows in (df, other):
        fc = auto(names, n_origins=2, metric="mae", refit=False, horizon=12, seasonality=7).fit(
            rows
        )
        assert fc.n_origins_ == 1
        board = fc.leaderboard_.set_index("model")["score"]
        errors.append(board)
    # all forecasts lie below the raised truth by far: each score grows by just 50 less the error
    frames = backtest(
        {"theta": ThetaForecaster(), "naive": NaiveForecaster()}, df, horizon=12, n_origins=1
    )
    for name, rows in frames.groupby("forecaster" if "forecaster" in frames else "model"):
        gap = (50.0 + rows["y_true"] - rows["y_pred"]).abs().mean()
        assert errors[1][name] == pytest.approx(gap, rel=1e-6)


# -- forecasts -------------------------------------------------------------------------------------


def test_the_forecast_is_the_weighted_mean_of_its_members():
    fc = auto().fit(panel()[["y"]])
    assert sum(member.weight for member in fc.members_) == pytest.approx(1.0)
    expected = sum(m.weight * m.forecaster.forecast(horizon=9) for m in fc.members_)
    pd.testing.assert_frame_equal(fc.forecast(horizon=9), expected)
    for member in fc.members_:  # fitted to all rows, as if alone
        alone = clone(member.forecaster).set_params(target="y").fit(panel()[["y"]])
        pd.testing.assert_frame_equal(alone.forecast(), member.forecaster.forecast())


def test_members_of_logs_forecast_raw_values():
    df = frame()[["y"]]
    df["y"] = np.exp(0.05 * np.arange(len(df)))  # a straight line in logs, nothing else is near
    row = Candidate("logs", NaiveForecaster(strategy="drift"), log=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnnforecast.auto.forecaster.table", lambda *args: [row])
        fc = AutoForecaster(horizon=6, random_state=0).fit(df)
    assert [member.name for member in fc.members_] == ["logs"]
    truth = np.exp(0.05 * np.arange(len(df), len(df) + 6))
    np.testing.assert_allclose(fc.predict(), truth, rtol=1e-9)
    np.testing.assert_allclose(fc.predict(df[5:]), df["y"][5:], rtol=1e-9)
    later = df.set_axis(df.index + pd.Timedelta(days=len(df)))[:1] * np.exp(0.05 * len(df))
    np.testing.assert_allclose(fc.update(later).predict(), truth * np.exp(0.05), rtol=1e-9)


def test_one_seed_one_forecast():
    df = frame()[["y"]]
    first, second = (auto({"net": network()}).fit(df) for _ in range(2))
    pd.testing.assert_frame_equal(first.forecast(), second.forecast())
    columns = ["model", "score", "weight", "status"]
    pd.testing.assert_frame_equal(first.leaderboard_[columns], second.leaderboard_[columns])
    third = auto({"net": network()}, random_state=1).fit(df)
    scores = [fc.leaderboard_.set_index("model")["score"]["net"] for fc in (first, third)]
    assert scores[0] != scores[1]


def test_known_covariates_reach_the_members():
    df = frame(120)
    df["y"] = 30 + 5 * df["x"] + 0.1 * np.random.default_rng(7).normal(size=120).cumsum()
    fc = auto({"arima": ARIMAForecaster(order=(1, 0, 0))}, known="x").fit(df[:100])
    assert fc.leaderboard_["model"][0] == "arima"
    truth = df["y"][100:106]
    plain = auto({"arima": ARIMAForecaster(order=(1, 0, 0))}).fit(df[["y"]][:100])
    error = np.abs(fc.predict(df[["x"]][100:106]) - truth).mean()
    assert error < np.abs(plain.predict(df[["y"]][100:106]) - truth).mean()
    hidden = df[["x"]][100:106].copy()
    hidden.iloc[2] = np.nan  # where a regression has nothing to say the others speak
    values = fc.predict(hidden)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(np.delete(values, 2), np.delete(fc.predict(df[["x"]][100:106]), 2))


def test_two_targets_gaps_and_missing_values():
    df = frame()
    df["z"] = 2 * df["y"][::-1].to_numpy()
    df.iloc[10:13, 0] = np.nan
    df = df.drop(df.index[20])
    fc = auto({"ets": ETSForecaster(trend=None)}, target=["y", "z"]).fit(df[["y", "z"]])
    forecast = fc.forecast(quantiles=[0.1, 0.9])
    assert forecast.shape == (6, 4) and np.isfinite(forecast.to_numpy()).all()
    assert (forecast["z"][0.1] < forecast["z"][0.9]).all()


def test_an_update_moves_every_member_and_the_old_ones_stay():
    df = panel()[["y"]]
    tail = df.groupby(level="id").tail(6)
    head = df.drop(tail.index)
    fc = auto({"theta": ThetaForecaster(), "net": network()}).fit(head)
    before = fc.forecast()
    other = pickle.loads(pickle.dumps(fc))  # noqa: S301
    pd.testing.assert_frame_equal(other.forecast(), before)
    members = fc.members_
    after = fc.update(tail).forecast()
    assert (after.index.get_level_values("day") > before.index.get_level_values("day")).all()
    expected = sum(
        m.weight * m.forecaster.update(tail).forecast() for m in other.members_ if m.weight
    )
    pd.testing.assert_frame_equal(after, expected)
    old = sum(m.weight * m.forecaster.forecast() for m in members)
    pd.testing.assert_frame_equal(old, before)


def test_other_rows_and_series_never_seen():
    """As the members forecast them, each with the scale of its own rows."""
    df = panel()[["y"]]
    fc = auto({"theta": ThetaForecaster(), "net": network()}, refit=False).fit(df)
    before = fc.forecast()
    other = pd.concat({"new": frame(50, 9)[["y"]] * 10.0, "a": df.loc["a"][:60]}, names=["id"])
    found = fc.forecast(history=other, quantiles=[0.1, 0.5, 0.9])
    expected = sum(m.weight * m.forecaster.forecast(history=other[-60:]) for m in fc.members_)
    pd.testing.assert_frame_equal(fc.forecast(history=other).loc[["a"]], expected)
    # Theta has no model for a new series: the other members forecast it
    (net,) = (m.forecaster for m in fc.members_ if m.name == "net")
    pd.testing.assert_frame_equal(
        fc.forecast(history=other).loc[["new"]], net.forecast(history=other).loc[["new"]]
    )
    width = (found["y"][0.9] - found["y"][0.1]).groupby(level="id").mean()
    rows = fc.conformal_.offsets(6, [0.1, 0.9])[:, 0]
    for name, each in other.groupby(level="id"):
        scale = metrics.naive_scale(each["y"].to_numpy(), seasonality=7)[0]
        assert width[name] == pytest.approx(scale * (rows[:, 1] - rows[:, 0]).mean())
    pd.testing.assert_frame_equal(fc.forecast(), before)
    new = pd.concat({"new": frame(50, 9)[["y"]]}, names=["id"])
    fc.update(new)
    assert fc.forecast().loc["new"].shape == (6, 1)
    pd.testing.assert_frame_equal(fc.forecast().loc[before.index], before)


def test_members_take_y_apart_as_the_ensemble_does():
    df = frame(100)
    fc = auto({"net": network()}, target=None).fit(df[["x"]][:80], df["y"][:80])
    later = df[80:]
    expected = sum(m.weight * m.forecaster.predict(later[["x"]]) for m in fc.members_)
    np.testing.assert_allclose(fc.predict(later[["x"]]), expected)
    for member in fc.members_:
        assert member.forecaster.feature_names_in_.tolist() == ["x"]
        member.forecaster.update(later[["x"]], later["y"])


def test_rows_with_stamps_may_come_in_any_order_and_in_parts():
    df = frame()[["y"]]
    fc = auto().fit(df[:60])
    rows = df[50:75]
    order = np.random.default_rng(0).permutation(len(rows))
    for method in (fc.predict, fc.predict_interval):
        whole = method(rows)
        np.testing.assert_allclose(whole[order], method(rows.iloc[order]), rtol=1e-12)
        each = np.concatenate([method(rows.iloc[[k]]) for k in range(len(rows))])
        np.testing.assert_allclose(each, whole, rtol=1e-12)


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_come_from_the_errors_at_the_rolling_origins():
    df = frame(140)[["y"]]
    fc = auto({"theta": ThetaForecaster()}, n_origins=5, refit=False).fit(df)
    weights = {member.name: member.weight for member in fc.members_}
    models = {
        "theta": ThetaForecaster(),
        "seasonal naive": NaiveForecaster(strategy="seasonal"),
        "drift": NaiveForecaster(strategy="drift"),
        "naive": NaiveForecaster(),
    }
    errors = 0.0
    for name, weight in weights.items():
        found = backtest(models[name], df, horizon=6, n_origins=5, refit=False)
        errors = errors + weight * (found["y_true"] - found["y_pred"]).to_numpy()
    scale = metrics.naive_scale(df["y"], seasonality=7)[0]
    np.testing.assert_allclose(fc.conformal_.errors[..., 0], errors.reshape(5, 6) / scale)
    assert fc.error_scale_[0, 0] == pytest.approx(scale)


def test_intervals_cover_what_they_promise():
    inside, n = 0, 0
    for seed in range(12):
        df = frame(160, seed)[["y"]]
        fc = auto({"theta": ThetaForecaster()}, horizon=4).fit(df[:-4])
        low, high = fc.predict_interval(coverage=0.8).T
        inside += int(((df["y"][-4:] >= low) & (df["y"][-4:] <= high)).sum())
        n += 4
    # 48 values, four of a series alike: three standard errors are far
    assert 0.6 <= inside / n <= 0.98


# -- little data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 6, 9])
def test_few_rows_give_a_naive_forecast_at_least(n):
    df = frame(n)[["y"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fc = auto({"theta": ThetaForecaster()}).fit(df)
    assert fc.leaderboard_["weight"].sum() == pytest.approx(1.0)
    low, mid, high = fc.forecast(quantiles=[0.1, 0.5, 0.9]).to_numpy().T
    assert np.isfinite(low + mid + high).all() and (low <= mid).all() and (mid <= high).all()


def test_two_rows_cannot_be_judged_and_the_leaderboard_says_so():
    fc = auto().fit(frame(2)[["y"]])
    board = fc.leaderboard_.set_index("model")
    assert board.loc["naive", "status"] == "chosen: nothing could be judged"
    assert board.loc["theta", "status"].startswith("skipped: no series is long enough")
    assert np.isnan(fc.validation_score_) and fc.n_origins_ == 0


def test_one_row_is_an_error_that_says_so():
    with pytest.raises(DataError, match="AutoForecaster: the series has 1 sample"):
        auto().fit(frame(1)[["y"]])


def test_a_series_of_one_row_has_the_errors_of_the_usual_one():
    data = panel()
    new = pd.concat({"new": frame(1, start="2024-04-10").assign(y=5.0)}, names=["id", "day"])
    fc = auto(n_origins=1).fit(pd.concat([data, new]))
    assert fc.error_scale_[3] == np.median(fc.error_scale_[:3])
    later = auto(n_origins=1).fit(data)
    assert later._error_scale(fc.panel_, 7, later.error_scale_)[3] == np.median(later.error_scale_)
    low, high = fc.forecast(quantiles=[0.1, 0.9]).loc["new"].to_numpy().T
    assert (low < 5).all() and (high > 5).all()


def test_a_constant_series():
    df = frame(60)[["y"]] * 0.0 + 5.0
    fc = auto().fit(df)
    np.testing.assert_allclose(fc.predict(), 5.0)
    np.testing.assert_allclose(fc.predict_interval(), 5.0)


def test_short_series_of_a_panel_are_forecast_though_not_judged():
    df = panel()[["y"]]
    short = pd.concat({"d": frame(9, 5)[["y"]]}, names=["id"])
    fc = auto({"theta": ThetaForecaster()}).fit(pd.concat([df, short]))
    assert fc.conformal_.errors.shape[0] == 3 * fc.n_origins_
    assert np.isfinite(fc.forecast().loc["d"].to_numpy()).all()


# -- what is shown ---------------------------------------------------------------------------------


def test_the_repr_tells_members_weights_and_score():
    fc = auto().fit(frame()[["y"]])
    shown = repr(fc)
    best = fc.members_[0]
    assert f"{best.weight:.2f} {best.name}" in shown
    assert f"validation mase {fc.validation_score_:.4g}" in shown


def test_a_bar_over_the_candidates_for_verbose(capsys):
    auto().fit(frame()[["y"]])
    assert capsys.readouterr() == ("", "")
    auto(verbose=1).fit(frame()[["y"]])
    assert "AutoForecaster: 100%" in capsys.readouterr().err


def test_the_default_table_on_a_short_series():
    fc = AutoForecaster(horizon=4, time_budget=4, random_state=0).fit(frame(70)[["y"]])
    board = fc.leaderboard_.set_index("model")
    assert {"naive", "seasonal naive", "Theta", "small GRU"} <= set(board.index)
    assert fc.validation_score_ <= board["score"].min() + 1e-12


def test_no_series_with_both_a_scale_and_a_truth():
    b = np.sin(np.arange(60.0))
    b[-6:] = np.nan
    df = pd.DataFrame({"a": np.r_[np.full(54, 3.0), np.arange(6.0)], "b": b})
    fc = AutoForecaster(horizon=2, candidates=[], seasonality=1, n_origins=3).fit(df)
    assert np.isfinite(fc.forecast().to_numpy()).all()
