"""Backtests against loops written out, and that no forecast can see the future."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from rnnforecast.baselines import NaiveForecaster
from rnnforecast.exceptions import DataError, RNNForecastError
from rnnforecast.forecasters import BaseForecaster
from rnnforecast.model_selection import backtest
from rnnforecast.outputs import NormalForecast

VALUES = ["origin", "time", "step", "target", "y_true", "y_pred"]


@pytest.fixture
def df():
    rng = np.random.default_rng(3)
    index = pd.date_range("2024-01-01", periods=40, freq="D")
    y = 20 + 5 * np.sin(np.arange(40) * 2 * np.pi / 7) + rng.normal(size=40)
    x = rng.normal(size=40)
    return pd.DataFrame({"y": y, "x": x, "z": rng.normal(size=40)}, index=index)


@pytest.fixture
def panel():
    rng = np.random.default_rng(5)
    parts = []
    for name, start, length in (("b", 0, 40), ("a", 10, 30), ("late", 33, 7)):
        when = pd.date_range("2024-01-01", periods=40, freq="D")[start : start + length]
        parts.append(pd.DataFrame({"id": name, "when": when, "y": rng.normal(size=length)}))
    return pd.concat(parts, ignore_index=True)


class Spy(RegressorMixin, BaseEstimator):
    """Forecasts its target's last value, and keeps what it was shown."""

    seen: list = []

    def __init__(self, target="y", known=None, static=None):
        self.target = target
        self.known = known
        self.static = static

    def fit(self, X, y=None):
        self.target_names_ = [self.target]
        self.last_ = X[self.target].iloc[-1]
        Spy.seen.append(("fit", X))
        return self

    def update(self, X, y=None):
        self.last_ = X[self.target].iloc[-1]
        Spy.seen.append(("update", X))
        return self

    def predict(self, X):
        Spy.seen.append(("predict", X))
        return np.full(len(X), self.last_)


@pytest.fixture(autouse=True)
def forget():
    Spy.seen = []


def seasonal(train, n, season):
    return np.resize(train[-season:], n)


def test_rolling_origins_written_out(df):
    result = backtest(
        NaiveForecaster(strategy="seasonal", seasonality=7, target="y"),
        df[["y"]],
        horizon=5,
        n_origins=3,
        step=2,
    )
    expected = []
    for origin in (30, 32, 34):  # the last one's five steps end with row 39
        pred = seasonal(df["y"].to_numpy()[: origin + 1], 5, 7)
        for step in range(1, 6):
            row = origin + step
            expected.append(
                (df.index[origin], df.index[row], step, "y", df["y"].iloc[row], pred[step - 1])
            )
    assert_frame_equal(
        result[VALUES], pd.DataFrame(expected, columns=VALUES), check_dtype=False, rtol=1e-6
    )
    assert (result["model"] == "NaiveForecaster").all()
    assert (result[["fit_seconds", "predict_seconds"]] > 0).all().all()
    assert "series" not in result


def test_default_step_leaves_no_window_twice(df):
    result = backtest(NaiveForecaster(target="y"), df[["y"]], horizon=6, n_origins=4)
    assert not result["time"].duplicated().any()
    assert result["time"].max() == df.index[-1]


@pytest.mark.parametrize(
    "model",
    [
        NaiveForecaster(strategy="seasonal", seasonality=7, target="y"),
        make_pipeline(
            StandardScaler().set_output(transform="pandas"),
            NaiveForecaster(strategy="drift", target="y"),
        ),
    ],
)
@pytest.mark.parametrize("refit", [True, False])
def test_corrupting_the_future_changes_nothing(df, model, refit):
    options = {
        "horizon": 5,
        "n_origins": 3,
        "refit": refit,
        "coverage": 0.8,
        "quantiles": [0.3],
    }
    clean = backtest(model, df, **options)
    for origin, part in clean.groupby("origin"):
        spoilt = df.copy()
        spoilt.loc[spoilt.index > origin] = 1e6
        other = backtest(model, spoilt, **options).groupby("origin").get_group(origin)
        columns = ["y_pred", "lower", "upper", "q0.3"]
        assert_frame_equal(other[columns], part[columns], check_exact=True)
        assert (other["y_true"] == 1e6).all()


def test_models_are_not_shown_what_was_unknown(df):
    backtest(Spy(known=["x"]), df, horizon=4, n_origins=2)
    shown = [X for kind, X in Spy.seen if kind == "predict"]
    assert len(shown) == 2
    for X in shown:
        assert X[["y", "z"]].isna().all().all()
        assert_frame_equal(X[["x"]], df.loc[X.index, ["x"]])
    for kind, X in Spy.seen:
        if kind == "fit":
            assert_frame_equal(X, df.loc[X.index])


def test_key_and_text_columns_are_not_hidden(panel):
    frame = panel[panel["id"] != "late"].assign(text="t", flag=True)
    model = make_pipeline(
        FunctionTransformer(lambda X: X[["id", "when", "y"]], feature_names_out=None),
        NaiveForecaster(target="y", series_id="id", time="when"),
    )
    result = backtest(model, frame, horizon=3, n_origins=2)
    plain = backtest(model[-1], frame[["id", "when", "y"]], horizon=3, n_origins=2)
    assert_frame_equal(result.drop(columns=SECONDS), plain.drop(columns=SECONDS))


SECONDS = ["fit_seconds", "predict_seconds"]


@pytest.mark.parametrize("refit", [True, False])
def test_panel_written_out(panel, refit):
    model = NaiveForecaster(target="y", series_id="id", time="when")
    result = backtest(model, panel, horizon=4, n_origins=2, step=3, refit=refit)
    stamps = np.sort(panel["when"].unique())
    expected = []
    for origin in (32, 35):
        for name in ("b", "a", "late"):
            mine = panel[panel["id"] == name]
            past = mine[mine["when"] <= stamps[origin]]
            if past.empty:
                continue  # nothing could forecast it
            future = mine[mine["when"].isin(stamps[origin + 1 : origin + 5])]
            for _, row in future.iterrows():
                step = int(np.searchsorted(stamps, np.datetime64(row["when"]))) - origin
                expected.append(
                    (stamps[origin], name, row["when"], step, row["y"], past["y"].iloc[-1])
                )
    columns = ["origin", "series", "time", "step", "y_true", "y_pred"]
    wanted = pd.DataFrame(expected, columns=columns)
    assert_frame_equal(result[columns], wanted, check_dtype=False, rtol=1e-6)
    assert list(result.groupby("origin")["n_series"].first()) == [2, 3]  # "late" has begun
    indexed = backtest(
        NaiveForecaster(target="y"),
        panel.set_index(["id", "when"]),
        horizon=4,
        n_origins=2,
        step=3,
        refit=refit,
    )
    # a MultiIndex may order the series otherwise
    order = ["origin", "series", "step"]
    assert_frame_equal(
        result.sort_values(order, ignore_index=True)[columns],
        indexed.sort_values(order, ignore_index=True)[columns],
    )
    polars = backtest(model, pl.from_pandas(panel), horizon=4, n_origins=2, step=3, refit=refit)
    assert_allclose(polars["y_pred"], result["y_pred"])


def test_any_regressor_with_y(df):
    X, y = df[["x", "z"]], df["y"]
    models = {
        "linear": LinearRegression(),
        "log": TransformedTargetRegressor(LinearRegression(), func=np.log, inverse_func=np.exp),
    }
    result = backtest(models, X, y, horizon=4, n_origins=3, step=4)
    for name, model in models.items():
        expected = []
        for end in (28, 32, 36):
            model.fit(X.iloc[:end], y.iloc[:end])
            expected.append(model.predict(X.iloc[end : end + 4]))
        part = result[result["model"] == name]
        assert_allclose(part["y_pred"], np.concatenate(expected))
        assert_allclose(part["y_true"], y.iloc[28:])
    arrays = backtest(models, X.to_numpy(), y.to_numpy(), horizon=4, n_origins=3, step=4)
    assert_allclose(arrays["y_pred"], result["y_pred"])


def test_without_refit_fits_once_and_updates(df):
    model = Spy()
    result = backtest(model, df, horizon=4, n_origins=3, step=4, refit=False)
    kinds = [kind for kind, _ in Spy.seen]
    assert kinds == ["fit", "predict", "update", "predict", "update", "predict"]
    updates = [X for kind, X in Spy.seen if kind == "update"]
    assert_frame_equal(pd.concat(updates), df.iloc[28:36])
    again = backtest(model, df, horizon=4, n_origins=3, step=4)
    assert_allclose(result["y_pred"], again["y_pred"])
    assert not hasattr(model, "last_")


def test_update_goes_through_wrappers(df):
    naive = NaiveForecaster(strategy="seasonal", seasonality=7)
    wrapped = {
        "target": TransformedTargetRegressor(naive, func=np.log, inverse_func=np.exp),
        "pipe": make_pipeline(StandardScaler(), naive),
        "search": GridSearchCV(naive, {"seasonality": [1, 7]}, cv=TimeSeriesSplit(2)),
    }
    X, y = df[["x"]], df["y"]
    options = {"horizon": 4, "n_origins": 3}
    once = backtest(wrapped, X, y, refit=False, **options)
    each = backtest(naive, X, y, **options)
    for name in wrapped:
        part = once[once["model"] == name]
        assert_allclose(part["y_pred"], each["y_pred"], rtol=1e-6)
    with pytest.raises(DataError, match=r"model 'LinearRegression'.*refit=True"):
        backtest(LinearRegression(), X, y, refit=False, **options)


@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler])
@pytest.mark.parametrize("named", [True, False])
def test_forecasts_of_a_scaled_target_come_back(df, scaler, named):
    step = scaler().set_output(transform="pandas") if named else scaler()
    naive = NaiveForecaster(strategy="seasonal", seasonality=7, target="y" if named else 0)
    frame = df if named else df[["y"]]
    pipe = make_pipeline(step, naive)
    options = {"horizon": 5, "n_origins": 2, "coverage": 0.8, "quantiles": [0.9, 0.2]}
    if not named:
        with pytest.raises(DataError, match="name them with target="):
            backtest(pipe, frame, **options)
        return
    result = backtest(pipe, frame, **options)
    plain = backtest(naive, frame, **options)
    columns = ["y_true", "y_pred", "lower", "upper", "q0.2", "q0.9"]
    assert_allclose(result[columns], plain[columns], rtol=1e-4, atol=1e-4)
    search = GridSearchCV(pipe, {"naiveforecaster__seasonality": [7]}, cv=TimeSeriesSplit(2))
    assert_allclose(backtest(search, frame, **options)[columns], result[columns])


def test_untouched_target_needs_no_inverse(df):
    columns = ColumnTransformer(
        [("scale", StandardScaler(), ["x"])], remainder="passthrough"
    ).set_output(transform="pandas")
    pipe = make_pipeline(columns, NaiveForecaster(target="remainder__y", known=["scale__x"]))
    result = backtest(pipe, df, horizon=4, n_origins=2)
    plain = backtest(NaiveForecaster(target="y"), df, horizon=4, n_origins=2)
    assert_frame_equal(result[VALUES], plain[VALUES])


def test_a_target_that_cannot_come_back_is_refused(df):
    log = FunctionTransformer(np.log1p, feature_names_out="one-to-one")  # no inverse_func
    pipe = make_pipeline(log, NaiveForecaster(target="y"))
    with pytest.raises(DataError, match=r"model 'NaiveForecaster' at origin 2024.*inverse"):
        backtest(pipe, df[["y"]], horizon=4, n_origins=2)


def test_intervals_and_quantiles_are_the_forecasters(df):
    model = NaiveForecaster(target="y")
    result = backtest(
        model, df[["y"]], horizon=4, n_origins=1, coverage=0.9, quantiles=[0.05, 0.95, 0.5]
    )
    train, test = df[["y"]].iloc[:36], df[["y"]].iloc[36:]
    fitted = model.fit(train)
    assert_allclose(result[["lower", "upper"]], fitted.predict_interval(test, coverage=0.9))
    assert_allclose(result[["q0.05", "q0.95"]], result[["lower", "upper"]])
    spread = (result["upper"] - result["lower"]) / (2 * norm.ppf(0.95))
    assert_allclose(spread, spread.iloc[0] * np.sqrt(np.arange(1, 5)), rtol=1e-6)


def test_two_targets_and_unobserved_truth(df):
    frame = df[["y", "z"]].copy()
    frame.iloc[38, 1] = np.nan
    result = backtest(NaiveForecaster(), frame, horizon=3, n_origins=1)
    wide = result.pivot(index="time", columns="target", values="y_true")
    assert_frame_equal(
        wide[["y", "z"]], frame.iloc[37:], check_names=False, check_freq=False, check_dtype=False
    )
    last = result.pivot(index="time", columns="target", values="y_pred").iloc[0]
    assert_allclose(last[["y", "z"]], frame.iloc[36])


@pytest.mark.parametrize("refit", [True, False])
def test_jobs_side_by_side_give_the_same(df, refit):
    models = [NaiveForecaster(strategy=s, target="y") for s in ("last", "drift")]
    options = {"horizon": 3, "n_origins": 3, "refit": refit}
    one = backtest(models, df[["y"]], **options)
    two = backtest(models, df[["y"]], n_jobs=2, **options)
    assert_frame_equal(one.drop(columns=SECONDS), two.drop(columns=SECONDS))
    assert list(one["model"].unique()) == ["NaiveForecaster", "NaiveForecaster-2"]


def test_inputs_of_other_kinds(df):
    expected = backtest(NaiveForecaster(), df[["y"]], horizon=3, n_origins=2)
    series = backtest(NaiveForecaster(), df["y"], horizon=3, n_origins=2)
    assert_frame_equal(series[VALUES], expected[VALUES])
    array = backtest(NaiveForecaster(), df[["y"]].to_numpy(), horizon=3, n_origins=2)
    assert_allclose(array[["y_true", "y_pred"]], expected[["y_true", "y_pred"]])
    assert list(array["time"]) == [34, 35, 36, 37, 38, 39]


def test_progress_bar_only_when_asked(df, capsys):
    backtest(NaiveForecaster(), df[["y"]], horizon=3, n_origins=2)
    assert capsys.readouterr() == ("", "")
    backtest(NaiveForecaster(), df[["y"]], horizon=3, n_origins=2, verbose=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


class Broken(Spy):
    def predict(self, X):
        raise RuntimeError("boom")


class Lost(Spy):
    def predict(self, X):
        return np.full(len(X), np.nan)


class Short(Spy):
    def predict(self, X):
        return np.zeros(1)


def test_a_failing_model_is_named(df):
    options = {"horizon": 3, "n_origins": 2}
    with pytest.raises(
        RNNForecastError, match="model 'bad' at origin 2024-02-03 00:00:00: RuntimeError: boom"
    ):
        backtest({"good": Spy(), "bad": Broken()}, df, **options)
    with pytest.raises(DataError, match=r"model 'Lost' .* y_pred is NaN or infinite at 3 of 3"):
        backtest(Lost(), df, **options)
    with pytest.raises(DataError, match=r"model 'Short' .*shape \(3, 1\).*Got \(1, 1\)"):
        backtest(Short(), df, **options)
    with pytest.raises(DataError, match=r"model 'NaiveForecaster' .*'nope'"):
        backtest(NaiveForecaster(target="nope"), df, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be"),
        ({"horizon": 3, "n_origins": 0}, "n_origins must be"),
        ({"horizon": 3, "step": 0}, "step must be"),
        ({"horizon": 3, "coverage": 1.0}, "coverage must be"),
        ({"horizon": 3, "quantiles": [2.0]}, "quantiles"),
        ({"horizon": 8, "n_origins": 5}, "need more than 40 time stamps, got 40"),
    ],
)
def test_bad_arguments_are_named(df, options, message):
    with pytest.raises(DataError, match=message):
        backtest(NaiveForecaster(target="y"), df, **options)


def test_bad_models_and_data_are_named(df, panel):
    with pytest.raises(DataError, match="no forecasters"):
        backtest([], df, horizon=3)
    with pytest.raises(DataError, match="'x' must have fit and predict"):
        backtest({"x": 3}, df, horizon=3)
    with pytest.raises(DataError, match="disagree on series_id"):
        backtest(
            [NaiveForecaster(series_id="id"), NaiveForecaster(series_id="name")],
            panel,
            horizon=3,
        )
    with pytest.raises(DataError, match="different indices"):
        backtest(LinearRegression(), df, df["y"].shift(freq="D"), horizon=3)


# -- ragged panels, and weights that stay ----------------------------------------------------------


class Walk(BaseForecaster):
    """The last observed value, moved by a known covariate; counts how often it is asked."""

    asked: list = []

    def _fit_panel(self, panel):
        return {"shift_": float(np.nanmean(panel.targets))}

    def _forecast(self, history, series, origins, n_steps, known):
        Walk.asked.append(len(series))
        values = np.empty((len(series), n_steps, history.targets.shape[1]))
        for k, (i, origin) in enumerate(zip(series, origins)):
            past = history.targets[history.series(i)][:origin]
            seen = past[~np.isnan(past).any(axis=1)]
            values[k] = (seen[-1] if len(seen) else 0.0) + self.shift_
            age = origin - len(seen)
            values[k] += 0.01 * age
        values += np.nan_to_num(known).sum(-1, keepdims=True)
        spread = np.sqrt(np.arange(1.0, n_steps + 1))[:, None]
        return NormalForecast(torch.from_numpy(values), torch.from_numpy(values * 0 + spread))


class Clipped(Walk):
    def predict(self, X=None):
        return np.maximum(super().predict(X), 0.5)


def ragged(seed=0):
    """Series with other starts and ends, rows missing, values missing; "b" ends early."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name, start, end in (("a", 0, 60), ("b", 0, 48), ("c", 7, 60), ("d", 30, 57)):
        index = pd.date_range("2024-01-01", periods=60, freq="D")[start:end]
        columns = {"y": rng.normal(size=len(index)), "x": rng.normal(size=len(index))}
        parts[name] = pd.DataFrame(columns, index=index)
    frame = pd.concat(parts, names=["id", "time"])
    frame.iloc[[3, 50, 52, 110], 0] = np.nan
    return frame.drop(frame.index[[20, 51, 54, 130, 150]])


OPTIONS = {"horizon": 5, "n_origins": 4, "step": 3, "coverage": 0.8, "quantiles": [0.3, 0.9]}


@pytest.mark.parametrize("options", [{}, {"known": "x"}], ids=["alone", "known"])
def test_all_origins_in_one_pass_are_the_loop_of_updates(options):
    df = ragged() if options else ragged()[["y"]]
    model = Walk(target="y", **options)
    Walk.asked = []
    once = backtest(model, df, refit=False, **OPTIONS)
    assert len(Walk.asked) == 1
    each = backtest(make_pipeline(model), df, refit=False, **OPTIONS).assign(model="Walk")
    assert len(Walk.asked) > 4
    assert_frame_equal(once.drop(columns=SECONDS), each.drop(columns=SECONDS))
    assert (once[SECONDS] > 0).all().all()
    arrays = {"horizon": 3, "n_origins": 3, "refit": False}
    y = ragged().loc["a", "y"].to_numpy()[:40]
    plain, piped = (backtest(m, y[:, None], **arrays) for m in (Walk(), make_pipeline(Walk())))
    assert_frame_equal(plain.drop(columns=SECONDS), piped.drop(columns=SECONDS))
    X = np.arange(40.0)[:, None]
    plain, piped = (backtest(m, X, y, **arrays) for m in (Walk(), make_pipeline(Walk())))
    assert_frame_equal(plain.drop(columns=SECONDS), piped.drop(columns=SECONDS))


def test_a_predict_of_its_own_is_asked_origin_by_origin():
    result = backtest(Clipped(target="y"), ragged()[["y"]], horizon=5, n_origins=4, refit=False)
    assert (result["y_pred"] >= 0.5).all()


@pytest.mark.parametrize("refit", [True, False])
def test_a_late_series_is_forecast_from_one_observed_row_on(refit):
    """A store that is opened while the others go on, with empty rows before."""
    df = ragged()[["y"]].fillna(0.0)
    new = pd.DataFrame({"y": np.nan}, index=pd.date_range("2024-01-11", periods=50, freq="D"))
    new.iloc[41:] = np.arange(9.0)[:, None]  # from 21 February on, the second origin
    df = pd.concat([df, pd.concat({"new": new}, names=["id"])])
    result = backtest(Walk(target="y"), df, horizon=4, n_origins=4, step=2, refit=refit)
    first = result[result["series"] == "new"].groupby("origin")["y_pred"].first()
    assert list(first.index) == list(pd.date_range("2024-02-21", periods=3, freq="2D"))
    scored = result.groupby(["origin", "series"]).size().groupby("origin").size()
    assert list(result.groupby("origin")["n_series"].first()) == list(scored) == [3, 4, 4, 4]
    assert "b" not in set(result["series"])  # it had ended
    others = backtest(Walk(target="y"), df.drop("new"), horizon=4, n_origins=1, refit=refit)
    assert set(others["series"]) == {"a", "c", "d"} and (others["n_series"] == 3).all()


def test_unobserved_truths_are_not_counted_as_scored():
    df = ragged()[["y"]].fillna(0.0)
    df.loc[("c", slice("2024-02-26", None)), "y"] = np.nan
    result = backtest(Walk(target="y"), df, horizon=4, n_origins=1)
    assert set(result["series"]) == {"a", "c", "d"} and (result["n_series"] == 2).all()
