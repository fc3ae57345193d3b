"""What users rely on: two doors, one model; nothing changes that was not asked to."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score

from rnnforecast import (
    BiGRUForecaster,
    BiLSTMForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    DeepRNNForecaster,
)
from rnnforecast.exceptions import DataError, DivergedError, NotFittedError
from rnnforecast.training import Learner
from rnnforecast.training.optimizers import Adam

pytestmark = pytest.mark.machine

CLASSES = [
    DeepRNNForecaster,
    DeepLSTMForecaster,
    DeepGRUForecaster,
    BiLSTMForecaster,
    BiGRUForecaster,
]
TINY = {"lookback": 6, "hidden_size": 4, "n_layers": 1, "max_epochs": 2, "random_state": 0}


def tiny(cls=DeepGRUForecaster, **options):
    return cls(**{"horizon": 3, **TINY, **options})


def wave(n=80, seed=0, freq="h", columns=("y",)):
    rng = np.random.default_rng(seed)
    steps = np.arange(n)[:, None]
    values = (
        5 + np.sin(steps / 3 + np.arange(len(columns))) + 0.1 * rng.normal(size=(n, len(columns)))
    )
    return pd.DataFrame(
        values, index=pd.date_range("2024-01-01", periods=n, freq=freq), columns=list(columns)
    )


def panel(n=60, seed=0, ends=(0, 7)):
    parts = {f"s{k}": wave(n, seed + k).iloc[: n - end] * (k + 1) for k, end in enumerate(ends)}
    return pd.concat(parts, names=["id", "time"])


def state(thing):
    """Everything an object holds, as plain values that compare by content."""
    if isinstance(thing, torch.nn.Module):
        return {k: v.numpy().tobytes() for k, v in thing.state_dict().items()}, thing.training
    if isinstance(thing, (np.ndarray, torch.Tensor)):
        return np.asarray(thing).dtype.str, np.asarray(thing).tobytes()
    if dataclasses.is_dataclass(thing):
        return {f.name: state(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
    if isinstance(thing, dict):
        return {k: state(v) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [state(v) for v in thing]
    if isinstance(thing, (pd.Index, pd.Series)):
        return list(thing)
    return state(vars(thing)) if hasattr(thing, "__dict__") else repr(thing)


def trained(monkeypatch):
    """The learners that fits go through from here on."""
    learners, fit = [], Learner.fit
    monkeypatch.setattr(Learner, "fit", lambda self, *a: learners.append(self) or fit(self, *a))
    return learners


def weights(fc):
    return {k: v.numpy().tobytes() for k, v in fc.network_.state_dict().items()}


# -- randomness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_same_seed_same_bits(cls):
    df = wave()
    first = tiny(cls, dropout=0.2).fit(df)
    again = clone(first).fit(df)
    other = clone(first).set_params(random_state=1).fit(df)
    assert weights(first) == weights(again)
    np.testing.assert_array_equal(first.forecast(horizon=9), again.forecast(horizon=9))
    assert weights(first) != weights(other)
    assert not np.array_equal(first.forecast(), other.forecast())


def test_a_random_state_object_and_none():
    df = wave()
    drawn = tiny(random_state=np.random.RandomState(3)).fit(df)
    again = tiny(random_state=np.random.RandomState(3)).fit(df)
    assert weights(drawn) == weights(again)
    np.random.seed(0)  # noqa: NPY002
    one = tiny(random_state=None).fit(df)
    np.random.seed(0)  # noqa: NPY002
    two = tiny(random_state=None).fit(df)
    assert weights(one) != weights(two)  # nobody's global seed decides


def test_nothing_global_is_touched():
    torch_state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    grad = torch.is_grad_enabled()
    fc = tiny(dropout=0.5, random_state=None).fit(wave())
    fc.forecast(quantiles=[0.1])
    fc.partial_fit(wave(90).iloc[80:])
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled() is grad
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_nothing_is_printed_or_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    tiny().fit(wave()).forecast()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    tiny(verbose=1).fit(wave())
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "DeepGRUForecaster" in shown.err


# -- nothing changes that was not asked to ---------------------------------------------------------


@pytest.mark.parametrize("quantiles", [None, (0.1, 0.9)])
def test_reading_methods_change_nothing(quantiles):
    df = wave(90)
    fc = tiny(quantiles=quantiles).fit(df[:70])
    before = state(vars(fc))
    fc.predict(df)
    fc.predict()
    fc.predict_interval(df, coverage=0.5)
    fc.predict_quantiles(df[70:], [0.2, 0.5])
    fc.forecast(horizon=11, quantiles=[0.3])
    fc.score(df[70:])
    history = fc.history()
    history["y"] = 0.0
    repr(fc)
    pickle.dumps(fc)
    assert state(vars(fc)) == before


def test_input_is_not_changed_and_not_kept():
    df = wave()
    kept = df.copy()
    fc = tiny().fit(df)
    pd.testing.assert_frame_equal(df, kept)
    expected = fc.forecast(horizon=8)
    df.iloc[:] = -1e6
    np.testing.assert_array_equal(fc.forecast(horizon=8), expected)
    more = wave(90).iloc[80:]
    fc.update(more)
    expected = fc.forecast(horizon=8)
    more.iloc[:] = -1e6
    np.testing.assert_array_equal(fc.forecast(horizon=8), expected)
    array = wave().to_numpy(dtype=np.float32, copy=True)
    fc = tiny().fit(array)
    expected = fc.forecast()
    array[:] = 7
    np.testing.assert_array_equal(fc.forecast(), expected)


def test_history_and_cutoff():
    df = wave(columns=("y", "z"))
    fc = tiny(target=["z"]).fit(df.drop(df.index[[4, 30]]))
    pd.testing.assert_frame_equal(fc.history(), df[["z"]].drop(df.index[[4, 30]]), check_freq=False)
    assert fc.cutoff_ == df.index[-1]
    frame = panel()
    fc = tiny().fit(frame)
    pd.testing.assert_frame_equal(fc.history(), frame, check_freq=False)
    ends = frame.reset_index().groupby("id")["time"].max()
    assert dict(fc.cutoff_) == dict(ends)


@pytest.mark.parametrize("cls", CLASSES)
def test_pickles_forecast_the_same_bits(cls):
    fc = tiny(cls).fit(panel())
    loaded = pickle.loads(pickle.dumps(fc))  # noqa: S301
    np.testing.assert_array_equal(loaded.forecast(horizon=7), fc.forecast(horizon=7))
    np.testing.assert_array_equal(loaded.predict_interval(panel()), fc.predict_interval(panel()))
    assert repr(loaded) == repr(fc)


def test_repr_tells_roles_and_choices():
    df = wave(columns=("load", "temp"))
    fc = tiny(target="load", known=["temp"], lookback=None).fit(df)
    text = repr(fc)
    for part in ("target=['load']", "known=['temp']", "lookback=38", "seasonality=24", "80 rows"):
        assert part in text
    assert (fc.lookback_, fc.seasonality_) == (38, 24)
    assert "fitted" not in repr(clone(fc))


# -- failures leave the estimator as it was --------------------------------------------------------


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("was_fitted", [False, True])
@pytest.mark.parametrize("how", ["diverged", "interrupted", "data", "parameter"])
def test_a_failed_fit_changes_nothing(was_fitted, how, monkeypatch):
    df = wave()
    fc = tiny(scaler=None, loss="mse")
    if was_fitted:
        fc.fit(df * 2)
    before = state(vars(fc))
    if how == "diverged":
        with pytest.raises(DivergedError, match="use a smaller lr"):
            fc.fit(df * 1e30)
    elif how == "interrupted":
        calls = []

        def step(self, lr, limit):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(Adam, "step", step)
        with pytest.raises(KeyboardInterrupt):
            fc.fit(df)
        if was_fitted:
            with pytest.raises(KeyboardInterrupt):
                calls.clear()
                calls.append(1)
                fc.partial_fit(wave(90).iloc[80:])
    elif how == "data":
        with pytest.raises(DataError):
            fc.fit(df.assign(y="text"))
    else:
        with pytest.raises(DataError, match="horizon"):
            fc.set_params(horizon=0).fit(df)
        fc.set_params(horizon=3)
    assert state(vars(fc)) == before
    assert fc.__sklearn_is_fitted__() is was_fitted


def test_a_failed_update_changes_nothing():
    df = wave(90, columns=("y", "x"))
    fc = tiny(target="y", known="x").fit(df[:80])
    before = state(vars(fc))
    for new in (
        df[70:],
        df[80:][::-1],
        df[80:].iloc[[0, 0, 1]],
        df[["y"]][80:],
        df[80:].assign(x=np.inf),
        df[80:].assign(y="text"),
        df[80:].tz_localize("UTC"),
        df[80:].assign(strange=1.0),
    ):
        for method in (fc.update, fc.partial_fit):
            with pytest.raises(DataError):
                method(new)
            assert state(vars(fc)) == before


@pytest.mark.parametrize(
    "name", ["predict", "forecast", "update", "score", "history", "predict_interval"]
)
def test_before_fit_everything_says_so(name):
    fc = tiny()
    arguments = [] if name in ("forecast", "history") else [wave()]
    with pytest.raises(Exception, match="not fitted yet") as caught:
        getattr(fc, name)(*arguments)
    assert isinstance(caught.value, (NotFittedError, ValueError))
    for attribute in ("cutoff_", "network_", "panel_"):
        assert not hasattr(fc, attribute)


# -- two doors, one model --------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_forecast_and_predict_agree(cls):
    df = wave(100, columns=("y", "z"))
    fc = tiny(cls).fit(df[:70])
    ahead = fc.forecast(horizon=30)
    assert ahead.index.equals(df.index[70:])
    assert list(ahead.columns) == ["y", "z"]
    np.testing.assert_allclose(fc.predict(df[70:]), ahead, rtol=1e-12)
    np.testing.assert_allclose(fc.predict(), fc.forecast(), rtol=1e-12)
    # a gap between the cutoff and the rows, and rows in any order
    rows = df.iloc[[95, 81, 82, 74]]
    np.testing.assert_allclose(fc.predict(rows), ahead.loc[rows.index], rtol=1e-9)
    # arrays follow on
    plain = tiny(cls).fit(df[:70].to_numpy())
    np.testing.assert_allclose(plain.predict(np.zeros((30, 2))), plain.forecast(horizon=30))


@pytest.mark.parametrize("quantiles", [None, (0.05, 0.2, 0.8, 0.95)])
def test_intervals_and_quantiles_agree_at_both_doors(quantiles):
    df = wave(100, columns=("y", "z"))
    fc = tiny(quantiles=quantiles).fit(df[:70])
    levels = [0.05, 0.5, 0.95]
    ahead = fc.forecast(horizon=12, quantiles=levels)
    assert ahead.columns.names == ["target", "quantile"]
    rows = df[70:82]
    for j, target in enumerate(["y", "z"]):
        np.testing.assert_allclose(fc.predict_quantiles(rows, levels)[:, j], ahead[target])
        np.testing.assert_allclose(
            fc.predict_interval(rows, coverage=0.9)[:, j], ahead[target][[0.05, 0.95]], rtol=1e-9
        )
        if quantiles is not None:
            np.testing.assert_allclose(ahead[target][0.5], fc.forecast(horizon=12)[target])
    assert fc.predict_interval(rows[["y", "z"]]).shape == (12, 2, 2)
    single = tiny(quantiles=quantiles).fit(df[["y"]][:70])
    assert single.predict_interval(df[70:][["y"]]).shape == (12 + 18, 2)


@pytest.mark.parametrize("quantiles", [None, (0.05, 0.2, 0.8, 0.95)])
def test_quantiles_do_not_cross(quantiles):
    df = wave(100)
    fc = tiny(quantiles=quantiles, lr=0.5).fit(df[:70])
    levels = np.round(np.linspace(0.05, 0.95, 19), 2)
    for values in (
        fc.forecast(horizon=25, quantiles=levels).to_numpy(),
        fc.predict_quantiles(df, levels),
    ):
        assert (np.diff(values, axis=-1) >= 0).all()
        assert (values[:, -1] > values[:, 0]).all()
    widths = fc.forecast(horizon=25, quantiles=[0.05, 0.95])["y"]
    assert ((widths[0.95] - widths[0.05]).diff().iloc[3:] >= -1e-12).all()  # never narrower


def test_levels_between_trained_ones_are_linear_and_beyond_them_an_error():
    fc = tiny(quantiles=(0.1, 0.9)).fit(wave())
    q = fc.forecast(quantiles=[0.1, 0.3, 0.5, 0.6, 0.9])["y"]
    np.testing.assert_allclose(q[0.3], (q[0.1] + q[0.5]) / 2)
    np.testing.assert_allclose(q[0.6], 0.75 * q[0.5] + 0.25 * q[0.9])
    with pytest.raises(DataError, match="reach beyond the trained ones"):
        fc.forecast(quantiles=[0.05])
    with pytest.raises(DataError, match="reach beyond the trained ones"):
        fc.predict_interval(wave(90)[80:], coverage=0.9)


def test_score_is_r2_and_reads_the_truth_from_x():
    df = wave(100, columns=("y", "z"))
    fc = tiny().fit(df[:70])
    expected = r2_score(df[70:], fc.predict(df[70:]))
    np.testing.assert_allclose(fc.score(df[70:]), expected)
    single = tiny(target="y").fit(df[:70])
    expected = r2_score(df["y"][70:], single.predict(df[70:]))
    np.testing.assert_allclose(single.score(df[70:]), expected)
    holes = df.copy()
    holes.iloc[72, 0] = np.nan
    seen = np.delete(np.arange(70, 100), 2)
    expected = r2_score(df["y"].iloc[seen], single.predict(df.iloc[seen]))
    np.testing.assert_allclose(single.score(holes[70:]), expected)
    X, y = df[["z"]], df["y"]
    apart = tiny().fit(X[:70], y[:70])
    np.testing.assert_allclose(apart.score(X[70:], y[70:]), r2_score(y[70:], apart.predict(X[70:])))
    with pytest.raises(DataError, match="reads the truth from X, but column 'y'"):
        apart.score(X[70:])


def test_y_apart_is_the_same_model_as_target_and_known_inside_x():
    df = wave(100, columns=("y", "x"))
    apart = tiny().fit(df[["x"]][:70], df["y"][:70])
    inside = tiny(target="y", known=["x"]).fit(df[:70])
    assert weights(apart) == weights(inside)
    np.testing.assert_array_equal(apart.predict(df[["x"]][70:]), inside.predict(df[70:]))
    np.testing.assert_array_equal(
        apart.forecast(df[["x"]][70:73]), inside.forecast(df[["x"]][70:73])
    )
    # the target may stay in X beside y, where target= names it
    named = tiny(target="y").fit(df[:70], df["y"][:70])
    assert weights(named) == weights(apart)
    np.testing.assert_array_equal(named.predict(df[70:]), apart.predict(df[["x"]][70:]))


def test_arrays_follow_on_with_or_without_an_index():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    array = tiny().fit(X, y)
    frame = tiny().fit(pd.DataFrame(X, columns=["a", "b"]), pd.Series(y))
    new = rng.normal(size=(5, 2))
    np.testing.assert_array_equal(
        array.predict(new), frame.predict(pd.DataFrame(new, columns=["a", "b"]))
    )
    # a fold's index that starts later is a time axis
    later = pd.DataFrame(new, columns=["a", "b"], index=pd.RangeIndex(62, 67))
    padded = np.vstack([np.zeros((2, 2)), new])
    np.testing.assert_allclose(frame.predict(later), array.predict(padded)[2:])
    # an array whose y has stamps takes them
    index = pd.date_range("2024-01-01", periods=60, freq="D")
    dated = tiny(seasonality=1).fit(X, pd.Series(y, index))
    assert dated.cutoff_ == index[-1]


@pytest.mark.parametrize("n", [1, 2])
def test_shapes_of_predictions(n):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), rng.normal(size=(60, n))
    fc = tiny().fit(X, y)
    assert fc.predict(X[:5]).shape == ((5,) if n == 1 else (5, 2))
    assert fc.predict(X[:5]).dtype == np.float64


# -- panels ----------------------------------------------------------------------------------------


def test_every_series_goes_on_from_its_own_end():
    frame = panel(ends=(0, 7, 3))
    fc = tiny().fit(frame)
    ahead = fc.forecast(horizon=5)
    assert ahead.index.names == ["id", "time"]
    for name in ("s0", "s1", "s2"):
        own = frame.loc[name].index
        assert list(ahead.loc[name].index) == list(pd.date_range(own[-1], periods=6, freq="h")[1:])
    # a row for every series at the same stamps, far enough for all
    full = panel(n=70, ends=(0, 0, 0))
    later = full[full.index.get_level_values("time") >= wave(60).index[-1] + pd.Timedelta("1h")]
    far = fc.forecast(horizon=20)
    np.testing.assert_allclose(fc.predict(later), far.loc[later.index, "y"], rtol=1e-9)
    # one series at a time
    np.testing.assert_allclose(
        fc.predict(later.loc[["s1"]]), far.loc[later.loc[["s1"]].index, "y"], rtol=1e-9
    )


def test_a_panel_is_one_model_of_all_its_series():
    frame = panel(ends=(0, 0))
    both = tiny().fit(frame)
    alone = tiny().fit(frame.loc["s0"])
    assert weights(both) != weights(alone)
    # series differ by their unit alone: with the same shape the same deviation
    twin = pd.concat({"a": wave(60), "b": 40 * wave(60) + 9}, names=["id", "time"])
    ahead = tiny().fit(twin).forecast()
    np.testing.assert_allclose(40 * ahead.loc["a"] + 9, ahead.loc["b"], rtol=1e-5)


def test_static_covariates_tell_series_apart():
    twin = pd.concat(
        {"a": wave(60).assign(kind=0.0), "b": wave(60).assign(kind=1.0)}, names=["id", "time"]
    )
    fc = tiny(static="kind", target="y").fit(twin)
    ahead = fc.forecast()
    assert not np.allclose(ahead.loc["a"], ahead.loc["b"])
    same = tiny(target="y").fit(twin.drop(columns="kind")).forecast()
    np.testing.assert_allclose(same.loc["a"], same.loc["b"], rtol=1e-9)


# -- NaN and gaps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scaler", ["window", "series", None])
def test_a_row_left_out_is_a_row_not_observed(scaler):
    df = wave(columns=("y", "z"))
    gaps = df.index[[7, 31, 32, 76]]
    left_out = tiny(scaler=scaler).fit(df.drop(gaps))
    hidden = df.copy()
    hidden.loc[gaps] = np.nan
    unobserved = tiny(scaler=scaler).fit(hidden)
    assert weights(left_out) == weights(unobserved)
    np.testing.assert_array_equal(
        left_out.forecast(horizon=8, quantiles=[0.1]),
        unobserved.forecast(horizon=8, quantiles=[0.1]),
    )


def test_unobserved_and_left_out_in_a_panel_and_at_the_end():
    frame = panel(ends=(0, 0))
    gaps = [("s1", frame.loc["s1"].index[20]), ("s0", frame.loc["s0"].index[3])]
    hidden = frame.copy()
    hidden.loc[gaps] = np.nan
    a, b = tiny().fit(frame.drop(gaps)), tiny().fit(hidden)
    np.testing.assert_array_equal(a.forecast(horizon=7), b.forecast(horizon=7))
    # an unobserved last row moves the cutoff, a row left out does not
    df = wave()
    hidden = df.copy()
    hidden.iloc[-1] = np.nan
    assert tiny().fit(hidden).cutoff_ == df.index[-1]
    assert tiny().fit(df[:-1]).cutoff_ == df.index[-2]


def test_targets_observed_at_different_times():
    df = wave(columns=("y", "z"))
    df.loc[df.index[::2], "z"] = np.nan
    df.loc[df.index[:40], "y"] = np.nan
    fc = tiny().fit(df)
    assert np.isfinite(fc.forecast(horizon=9)).all().all()
    assert np.isfinite(fc.predict(df)).all()
    assert np.isfinite(fc.history_.train_loss).all()


# -- history moves on, weights stay ----------------------------------------------------------------


def on_other_history(fc, other):
    """``fc``'s weights, units and errors on the history that ``other`` was fitted on."""
    moved = copy.deepcopy(fc)
    moved.panel_ = copy.deepcopy(other.panel_)
    return moved


@pytest.mark.parametrize("gap", [0, 2])
def test_update_is_the_same_weights_on_a_longer_history(gap):
    df = wave(100, columns=("y", "x", "z"))
    options = {"target": "y", "known": "x"}
    fc = tiny(**options).fit(df[:70])
    before = weights(fc)
    whole = df.drop(df.index[70 : 70 + gap])
    long = on_other_history(fc, tiny(**options).fit(whole[: 90 - gap]))
    assert fc.update(df[70 + gap : 80]) is fc
    fc.update(df[80:90])
    assert weights(fc) == before
    assert fc.cutoff_ == df.index[89]
    np.testing.assert_array_equal(
        fc.forecast(df[["x"]][90:], horizon=10), long.forecast(df[["x"]][90:], horizon=10)
    )
    rows = whole
    np.testing.assert_array_equal(fc.predict_interval(rows), long.predict_interval(rows))
    pd.testing.assert_frame_equal(fc.history(), long.history())


def test_update_of_a_panel_series_by_series():
    frame = panel(ends=(0, 0))
    full = panel(n=70, ends=(0, 0))
    fc = tiny().fit(frame)
    new = full.drop(frame.index)
    long = on_other_history(fc, tiny().fit(full))
    fc.update(new.loc[["s1"]])
    assert fc.cutoff_["s0"] == frame.loc["s0"].index[-1]
    assert fc.cutoff_["s1"] == full.loc["s1"].index[-1]
    fc.update(new.loc[["s0"]])
    np.testing.assert_array_equal(fc.forecast(horizon=7), long.forecast(horizon=7))


def test_update_on_a_trading_calendar_and_of_arrays():
    days = pd.bdate_range("2024-01-02", periods=80).delete([9, 30])
    df = pd.DataFrame({"y": np.sin(np.arange(78) / 2)}, index=days)
    fc = tiny().fit(df[:60])
    long = on_other_history(fc, tiny().fit(df))
    fc.update(df[60:70]).update(df[70:])
    np.testing.assert_array_equal(fc.forecast(horizon=7), long.forecast(horizon=7))
    assert fc.forecast(horizon=7).index.equals(long.forecast(horizon=7).index)
    assert len(fc.history()) == 78
    values = df.to_numpy()
    fc = tiny().fit(values[:60])
    long = on_other_history(fc, tiny().fit(values))
    fc.update(values[60:70]).update(values[70:])
    np.testing.assert_array_equal(fc.forecast(horizon=7), long.forecast(horizon=7))


def test_update_with_y_apart():
    df = wave(100, columns=("y", "x"))
    X, y = df[["x"]], df["y"]
    fc = tiny().fit(X[:70], y[:70])
    long = on_other_history(fc, tiny().fit(X[:90], y[:90]))
    fc.update(X[70:90], y[70:90])
    np.testing.assert_array_equal(fc.predict(X[90:]), long.predict(X[90:]))
    with pytest.raises(DataError, match="update needs y"):
        fc.update(X[90:])
    with pytest.raises(DataError, match="X has 10 rows, y has 3"):
        fc.update(X[90:], y[90:93])


def first_rows(panel, n):
    """The history of one series as it was after n rows."""
    parts = {name: getattr(panel, name)[:n] for name in ("targets", "past", "known")}
    return replace(panel, **parts, indptr=np.array([0, n]))


def test_in_sample_values_are_one_step_forecasts():
    df = wave(90)
    fc = tiny().fit(df[:70])
    values = fc.predict(df[:70])
    moved = copy.deepcopy(fc)
    for k in (20, 41, 69):
        moved.panel_ = first_rows(fc.panel_, k)
        np.testing.assert_allclose(moved.forecast(horizon=1).iloc[0, 0], values[k], rtol=1e-12)


# -- partial_fit and warm_start --------------------------------------------------------------------


def test_partial_fit_trains_on_from_where_it_was():
    df = wave(100)
    fc = tiny(max_epochs=5).fit(df[:70])
    before = copy.deepcopy(fc)
    fc.partial_fit(df[70:90])
    assert fc.cutoff_ == df.index[89]
    assert weights(fc) != weights(before)
    assert fc.n_epochs_ == 1
    assert fc.max_epochs == 5
    # one small step from the old weights, not a new start
    far = tiny(max_epochs=1, random_state=9).fit(df[:90])

    def distance(a, b):
        pairs = zip(a.network_.parameters(), b.network_.parameters())
        return sum((x - y).square().sum() for x, y in pairs)

    assert distance(fc, before) < 0.2 * distance(far, before)


def test_partial_fit_first_is_a_fit_of_one_epoch_that_keeps_its_parameters():
    df = wave()
    fc = tiny(max_epochs=5, early_stopping=False)
    params = fc.get_params()
    fc.partial_fit(df)
    assert fc.get_params() == params
    one = tiny(max_epochs=1, early_stopping=False).fit(df)
    assert weights(fc) == weights(one)
    assert fc.n_epochs_ == 1


def test_warm_start_goes_on_and_names_what_must_stay():
    df = wave()
    fc = tiny(warm_start=True, lr=1e-9, gradient_clip=None).fit(df)
    first = weights(fc)
    cold = tiny(lr=1e-9, random_state=5).fit(df)
    fc.set_params(random_state=5).fit(df)
    for name, value in fc.network_.state_dict().items():
        old = np.frombuffer(first[name]).reshape(value.shape)
        np.testing.assert_allclose(value, old, atol=1e-6)
    assert weights(cold) != weights(fc)
    with pytest.raises(DataError, match="warm_start needs the same architecture"):
        fc.set_params(hidden_size=5).fit(df)
    fc.set_params(hidden_size=5, warm_start=False).fit(df)


# -- calendars at the door -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [
        pd.period_range("2020-01", periods=60, freq="M"),
        pd.RangeIndex(60),
        pd.RangeIndex(0, 120, 2),
        pd.date_range("2024-03-01", periods=60, freq="D", tz="America/New_York"),
        pd.date_range("2020-01-31", periods=60, freq="ME"),
        pd.bdate_range("2024-01-02", periods=60),
        pd.date_range("2024-03-08", periods=60, freq="h", tz="Europe/Berlin"),
    ],
    ids=lambda index: str(getattr(index, "dtype", "")) + str(getattr(index, "freqstr", "")),
)
def test_stamps_of_a_forecast_are_the_next_of_the_index(index):
    df = pd.DataFrame({"y": np.sin(np.arange(60) / 2)}, index=index.rename("when"))
    fc = tiny().fit(df[:50])
    ahead = fc.forecast(horizon=10)
    assert list(ahead.index) == list(index[50:])
    assert ahead.index.name == "when"
    np.testing.assert_allclose(fc.predict(df[50:]), ahead["y"], rtol=1e-9)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("freq", ["h", "B", "MS"])
def test_stamps_keep_their_resolution(unit, freq):
    index = pd.date_range("2024-01-01", periods=60, freq=freq).as_unit(unit)
    df = pd.DataFrame({"y": np.sin(np.arange(60) / 2)}, index=index)
    fc = tiny().fit(df[:50])
    pd.testing.assert_index_equal(fc.history().index, index[:50])
    ahead = fc.forecast(horizon=10)
    pd.testing.assert_index_equal(ahead.index, index[50:])
    other = df[50:].set_axis(index[50:].as_unit("ns"))
    np.testing.assert_allclose(fc.predict(other), ahead["y"], rtol=1e-9)
    other = df[:50].set_axis(index[:50].as_unit("ns"))
    np.testing.assert_array_equal(fc.predict(other), fc.predict(df[:50]))
    # the stamps alone: after an update, a grid of business days carries no freq
    later = pd.DatetimeIndex(fc.update(df[50:55]).history().index, freq=None)
    pd.testing.assert_index_equal(later, pd.DatetimeIndex(index[:55], freq=None))


def test_frames_of_polars_and_pyarrow_give_the_same_forecast():
    import polars as pl
    import pyarrow as pa

    frame = panel().reset_index()
    expected = tiny(series_id="id", time="time").fit(frame).forecast()
    for convert in (pl.from_pandas, pa.Table.from_pandas):
        fc = tiny(series_id="id", time="time").fit(convert(frame))
        pd.testing.assert_frame_equal(fc.forecast(), expected)
        later = expected.reset_index()
        np.testing.assert_allclose(fc.predict(convert(later)), expected["y"], rtol=1e-9)
    pd.testing.assert_frame_equal(tiny().fit(frame.set_index(["id", "time"])).forecast(), expected)


def test_series_id_alone_counts_the_rows_of_each_series():
    """pandas' default index over interleaved series is no time axis: no row is invented."""
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(30, 2)).cumsum(0), columns=["a", "b"])
    values = wide.to_numpy().ravel()  # a, b, a, b, ...
    long = pd.DataFrame({"id": ["a", "b"] * 30, "y": values})
    fc = DeepLSTMForecaster(**TINY, target="y", series_id="id").fit(long)
    np.testing.assert_array_equal(fc.panel_.lengths, [30, 30])
    np.testing.assert_array_equal(fc.panel_.targets[:30, 0], wide["a"])


def test_future_covariates_of_a_trading_calendar_may_lack_a_holiday():
    days = pd.date_range("2024-01-01", periods=80, freq="B").delete([10, 33, 62])
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"y": rng.normal(size=77), "x": rng.normal(size=77)}, index=days)
    fc = DeepLSTMForecaster(**{**TINY, "horizon": 5}, target="y", known="x").fit(df[:58])
    future = df[58:]  # one business day of the five is a holiday and has no row
    assert len(future.loc[: fc.panel_.future_index(0, 5)[-1]]) == 4
    forecast = fc.forecast(future)
    assert np.isfinite(forecast["y"]).all()
    with pytest.raises(DataError, match=r"step 5 of 5"):
        fc.forecast(future.iloc[:3])


@pytest.mark.parametrize("head", [None, [0.1, 0.5, 0.9]])
def test_quantiles_come_in_the_order_they_were_asked_for(head):
    data = pd.DataFrame({"y": np.sin(np.arange(60.0))}, pd.date_range("2024-01-01", periods=60))
    model = DeepLSTMForecaster(
        horizon=3, lookback=6, hidden_size=4, max_epochs=1, quantiles=head, random_state=0
    ).fit(data)
    low, high = model.predict_quantiles(quantiles=[0.1, 0.9]).T
    assert (low < high).all()
    asked = model.predict_quantiles(quantiles=[0.9, 0.1, 0.9])
    np.testing.assert_array_equal(asked, np.stack([high, low, high], axis=1))


def test_an_index_without_columns_says_which_rows_are_meant():
    days = pd.date_range("2024-01-01", periods=70)
    data = pd.DataFrame({"y": np.sin(np.arange(60.0)), "x": 0.0}, days[:60])
    model = DeepLSTMForecaster(
        horizon=3, target="y", lookback=6, hidden_size=4, max_epochs=1, random_state=0
    )
    future = pd.DataFrame(index=days[62:])
    np.testing.assert_array_equal(
        model.fit(data).predict(future), model.predict(future.assign(y=np.nan))
    )
    with pytest.raises(DataError, match="0 feature"):
        model.set_params(known="x").fit(data).predict(future)
    with pytest.raises(DataError, match="0 feature"):
        model.update(future)


def test_series_without_index_as_y_goes_with_the_rows_of_x():
    polars = pytest.importorskip("polars")
    X = pd.DataFrame({"x": np.arange(60) % 3}, pd.date_range("2024-01-01", periods=60))
    y = pd.Series(np.sin(np.arange(60.0)), X.index, name="y")
    model = DeepLSTMForecaster(horizon=3, lookback=6, hidden_size=4, max_epochs=1, random_state=0)
    expected = model.fit(X, y).predict(X)
    found = model.fit(X, polars.Series("y", y.to_numpy())).predict(X)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stamps", [range(60), pd.period_range("2015-01", periods=60, freq="M")])
def test_a_column_of_python_objects_is_the_time_that_it_says(stamps):
    data = pd.DataFrame({"t": pd.Series(list(stamps), dtype=object), "y": np.sin(np.arange(60.0))})
    model = DeepLSTMForecaster(horizon=3, time="t", lookback=6, hidden_size=4, max_epochs=1)
    expected = pd.Index(stamps)[-1] + np.arange(1, 4)
    assert list(model.fit(data).forecast().index) == list(expected)


def test_future_index_is_that_of_the_forecast():
    """It is what covariates of the future are made on, before there is a forecast."""
    df = wave()
    fc = tiny(horizon=3).fit(df)
    assert fc.future_index().equals(fc.forecast().index)
    panel = pd.concat({"a": df, "b": df.iloc[:-4]}, names=["id", "time"])
    fc = tiny(horizon=3).fit(panel)
    assert fc.future_index(5).equals(fc.forecast(horizon=5).index)
    with pytest.raises(DataError, match="horizon must be an integer >= 1"):
        fc.future_index(0)


@pytest.mark.parametrize(
    ("fraction", "held"), [(0.0, 0), (0.1, 10), (0.5, 50), (0.99, 90), (0.01, 4)]
)
def test_validation_takes_what_leaves_one_training_window(fraction, held, monkeypatch):
    """Of 100 rows with look-back 6 and horizon 4: a share that asks for more gets 90."""
    learners = trained(monkeypatch)
    df = pd.DataFrame({"y": np.arange(100.0)})
    fc = tiny(horizon=4, validation_fraction=fraction, max_epochs=1).fit(df)
    (learner,) = learners
    n_train, n_validation = 100 - held - 6 - 3, max(held - 3, 0)  # windows of 4 in the held rows
    assert len(learner.source.windows) == n_train
    assert sum(len(batch.truth) for batch, _ in learner.validation) == n_validation
    assert len(fc.conformal_.errors) == (n_validation or n_train)


def test_update_does_not_round_float64_rows_to_a_float32_history():
    df = wave().astype(np.float32)
    fc = tiny().fit(df)
    stamp = fc.future_index(1)
    fc.update(pd.DataFrame({"y": [16777217.0]}, index=stamp))  # 2**24 + 1 has no float32
    assert fc.history()["y"].iloc[-1] == 16777217.0
    np.testing.assert_array_equal(fc.history()["y"].iloc[:-1], df["y"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_with_dropout_on_a_gpu():
    """The order of batches is drawn on the CPU, the noise on the device."""
    first, second = (tiny(device="cuda", dropout=0.2).fit(wave()) for _ in range(2))
    pd.testing.assert_frame_equal(first.forecast(), second.forecast())
    assert np.isfinite(first.forecast().to_numpy()).all()
