"""The trained network at work: rolled forecasts against re-forecasting by hand, scales, devices."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from rnnforecast import BiGRUForecaster, DeepLSTMForecaster, DeepRNNForecaster
from rnnforecast.forecasters import neural
from rnnforecast.nn import Inputs
from rnnforecast.outputs import QuantileOutput

TINY = {"horizon": 4, "lookback": 9, "hidden_size": 5, "max_epochs": 3, "random_state": 0}


def frame(n=90, seed=0):
    rng = np.random.default_rng(seed)
    steps = np.arange(n)[:, None]
    values = 5 + np.sin(steps / 3 + np.arange(4)) + 0.1 * rng.normal(size=(n, 4))
    values[:, 0] += 0.7 * values[:, 2]
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    return pd.DataFrame(values, index=index, columns=["y", "z", "x", "past"])


@pytest.mark.parametrize("quantiles", [None, (0.1, 0.9)])
@pytest.mark.parametrize("season", [1, 3])
@pytest.mark.parametrize("cls", [DeepRNNForecaster, BiGRUForecaster])
def test_a_rolled_forecast_is_forecasting_again_from_ones_own_forecasts(cls, season, quantiles):
    df = frame()
    fc = cls(**TINY, target=["y", "z"], seasonality=season, quantiles=quantiles)
    fc.fit(df.drop(columns="x")[:60])
    whole = fc.forecast(horizon=14)
    moved, parts = copy.deepcopy(fc), []
    for _ in range(4):
        block = moved.forecast()
        parts.append(block)
        # the network's own forecast becomes history; nobody knows the past-only covariate
        moved.update(block.assign(past=np.nan))
    by_hand = pd.concat(parts)[:14]
    pd.testing.assert_frame_equal(whole, by_hand, rtol=1e-10, check_freq=False)


def test_a_rolled_forecast_feeds_back_no_covariate():
    """With covariates: the plain path rolls, and every step gets the effect of its own row."""
    df = frame()
    fc = DeepRNNForecaster(**TINY, target="y", known="x").fit(df[["y", "x"]][:60])
    network, scale = fc.network_, fc.scale_
    assert network.effect(torch.ones(1, 1, 1).double()).abs() > 1e-4  # there is one to feed back
    rng = np.random.default_rng(1)
    future = df[["x"]][60:71] + rng.normal(size=(11, 1))
    whole = fc.forecast(future, horizon=11)["y"].to_numpy()

    def tensor(values):
        return torch.tensor(np.asarray(values, dtype=np.float64))[None]

    y = (df[["y"]][51:60] - scale.target_loc) / scale.target_scale
    x = (df[["x"]] - scale.known_loc) / scale.known_scale
    steps = (future - scale.known_loc) / scale.known_scale
    expected = []
    with torch.no_grad():
        residual = tensor(y) - network.effect(tensor(x[51:60]))
        for start in range(0, 11, 4):
            window = network.normalise(residual)
            parts = (window.values, window.observed, torch.zeros(1, 9, 0))
            context = network.with_static(network.encode(*parts)[1], torch.zeros(1, 0))
            raw, anchor = network.decode(window, context)
            for h in range(min(4, 11 - start)):
                own = tensor(steps[start + h : start + h + 1])
                extra = network.interaction(context.last, own).view(1, 1, 1, 1)
                value = (raw[:, h : h + 1] + extra)[..., 0] * window.scale + anchor[:, h : h + 1]
                expected.append((value + network.effect(own)).item())
            plain = raw[..., 0] * window.scale + anchor
            residual = torch.cat([residual, plain], dim=1)[:, -9:]
    expected = np.asarray(expected) * scale.target_scale.item() + scale.target_loc.item()
    np.testing.assert_allclose(whole, expected, rtol=1e-10)


@pytest.mark.parametrize("horizon", [1, 4])
def test_spreads_beyond_the_horizon_grow_as_those_inside_it(horizon):
    fc = DeepRNNForecaster(**{**TINY, "horizon": horizon}, quantiles=(0.1, 0.9), target="y")
    fc.fit(frame()[["y"]])
    q = fc.forecast(horizon=20, quantiles=[0.1, 0.5, 0.9])["y"]
    upper, lower = (q[0.9] - q[0.5]).to_numpy(), (q[0.5] - q[0.1]).to_numpy()
    width = upper + lower
    growth = 0.5
    if horizon > 1:
        growth = np.clip(np.log(width[horizon - 1] / width[0]) / np.log(horizon), 0, 0.5)
    factor = (np.arange(horizon + 1, 21) / horizon) ** growth
    np.testing.assert_allclose(width[horizon:], width[horizon - 1] * factor, rtol=1e-9)
    assert (upper > 0).all() and (lower > 0).all()


def test_a_forecast_is_the_network_in_the_unit_of_the_series():
    df = pd.concat({"a": frame(), "b": 30 * frame(seed=1) + 7}, names=["id", "time"])
    fc = DeepLSTMForecaster(**TINY, target="y", known="x", static="kind").fit(
        df.assign(kind=df.index.codes[0].astype(float))
    )
    future = pd.concat({"a": frame(94), "b": frame(94, seed=2)}, names=["id", "time"])
    future = future[future.index.get_level_values("time") > frame().index[-1]][["x"]]
    ahead = fc.forecast(future)["y"]
    scales = fc.scale_
    for i, name in enumerate("ab"):
        own = df.loc[name]
        y = (own[["y"]][-9:] - own["y"].mean()) / own["y"].std(ddof=0)
        scaled = [
            (part - df["x"].mean()) / df["x"].std(ddof=0)
            for part in (own[["x"]][-9:], future.loc[name])
        ]
        static = (i - 0.5) / 0.5
        past = np.zeros((9, 1))  # none left: y, x and kind have their roles
        past = (own[["z", "past"]][-9:] - df[["z", "past"]].mean()) / df[["z", "past"]].std(ddof=0)
        parts = (y, past, *scaled, np.array([static]))
        inputs = Inputs(*(torch.tensor(np.asarray(p, dtype=float))[None] for p in parts))
        with torch.no_grad():
            raw, location, scale = fc.network_(inputs)
        expected = (raw[..., 0] * scale + location)[0, :, 0].numpy()
        expected = expected * own["y"].std(ddof=0) + own["y"].mean()
        np.testing.assert_allclose(ahead.loc[name], expected, rtol=1e-9)
    assert not fc.network_.training
    assert all(not p.requires_grad for p in fc.network_.parameters())
    assert scales.target_scale.shape == (2, 1)


def test_many_series_are_forecast_in_chunks(monkeypatch):
    df = pd.concat({k: frame(40, seed=k)[["y"]] for k in range(7)}, names=["id", "time"])
    fc = DeepLSTMForecaster(**TINY).fit(df)
    whole, inside = fc.forecast(horizon=9), fc.predict(df)
    monkeypatch.setattr(neural, "_MOST_AT_ONCE", 3)
    np.testing.assert_allclose(fc.forecast(horizon=9), whole, rtol=1e-12)
    np.testing.assert_allclose(fc.predict(df), inside, rtol=1e-12)


def test_early_stopping_keeps_the_best_epoch_and_its_weights():
    df = frame()[["y"]]
    fc = DeepLSTMForecaster(**{**TINY, "max_epochs": 25}, lr=0.2, patience=2).fit(df)
    history = fc.history_
    assert len(history) == fc.n_epochs_ < 25
    best = int(np.argmin(history.val_loss)) + 1
    assert history.best_epoch == best
    assert len(history) == best + 2
    # the same run cut at that epoch ends with the same weights: nothing after it was kept
    again = DeepLSTMForecaster(**{**TINY, "max_epochs": 25}, lr=0.2, patience=2, verbose=0).fit(df)
    np.testing.assert_array_equal(fc.forecast(), again.forecast())
    last = DeepLSTMForecaster(**{**TINY, "max_epochs": 25}, lr=0.2, early_stopping=False).fit(df)
    assert last.n_epochs_ == 25
    assert last.history_.best_epoch == 25
    np.testing.assert_allclose(last.history_.val_loss[: len(history)], history.val_loss, rtol=1e-6)


def test_the_validation_loss_is_that_of_the_held_out_windows():
    df = frame()[["y"]]
    fc = DeepLSTMForecaster(**{**TINY, "horizon": 1}, early_stopping=False).fit(df)
    errors = (df["y"] - fc.predict(df))[-9:]  # the last tenth of ninety rows
    expected = errors.abs().mean() / df["y"].std(ddof=0)
    np.testing.assert_allclose(fc.history_.val_loss[-1], expected, rtol=1e-4)


@pytest.mark.parametrize("device", ["cpu", "auto", torch.device("cpu")])
def test_devices(device):
    df = frame()[["y"]]
    fc = DeepLSTMForecaster(**TINY, device=device).fit(df)
    if device != "auto":
        assert fc.network_.head.weight.device.type == "cpu"
    assert np.isfinite(fc.forecast()).all().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_forecaster_trained_on_a_gpu_goes_into_a_pickle_for_any_machine():
    df = frame()[["y"]]
    fc = DeepLSTMForecaster(**TINY, device="cuda", dropout=0.1).fit(df)
    assert fc.network_.head.weight.device.type == "cuda"
    loaded = pickle.loads(pickle.dumps(fc))  # noqa: S301
    assert loaded.network_.head.weight.device.type == "cpu"
    assert fc.network_.head.weight.device.type == "cuda"
    np.testing.assert_allclose(loaded.forecast(horizon=9), fc.forecast(horizon=9), rtol=1e-3)
    again = DeepLSTMForecaster(**TINY, device="cuda", dropout=0.1).fit(df)
    np.testing.assert_allclose(again.forecast(), fc.forecast(), rtol=1e-4)


@pytest.mark.parametrize("quantiles", [[0.9], [0.5], [0.1, 0.9], (0.1, 0.5, 0.9)])
def test_the_median_joins_the_trained_levels(quantiles):
    fc = DeepLSTMForecaster(**TINY, quantiles=quantiles).fit(frame()[["y"]])
    output = fc.output_
    assert isinstance(output, QuantileOutput)
    assert output.levels == tuple(sorted({0.5, *quantiles}))
    if len(output.levels) > 1:
        median = fc.forecast(quantiles=[0.5]).to_numpy()
        np.testing.assert_allclose(median, fc.forecast().to_numpy(), rtol=1e-12)


@pytest.mark.parametrize("scaler", ["window", "series", None])
def test_the_unit_of_the_data_does_not_matter_where_it_is_scaled(scaler):
    df = frame()[["y"]]
    fc = DeepLSTMForecaster(**TINY, scaler=scaler).fit(df).forecast()
    other = DeepLSTMForecaster(**TINY, scaler=scaler).fit(1024 * df).forecast()
    if scaler is None:
        assert not np.allclose(1024 * fc, other, rtol=1e-6)
    else:
        np.testing.assert_allclose(1024 * fc, other, rtol=1e-6)


def test_dropout_and_weight_decay_and_residual_reach_the_network():
    df = frame()[["y"]]
    plain = DeepLSTMForecaster(**TINY).fit(df)
    for change in ({"dropout": 0.5}, {"weight_decay": 0.5}, {"residual": True}, {"loss": "mse"}):
        other = DeepLSTMForecaster(**TINY, **change).fit(df)
        assert not np.array_equal(other.forecast(), plain.forecast())
    heavy = DeepLSTMForecaster(**TINY, weight_decay=10.0).fit(df)

    def size(fc):
        return sum(p.square().sum() for n, p in fc.network_.named_parameters() if "weight" in n)

    assert size(heavy) < size(plain)


def test_the_network_beats_its_anchor_where_there_is_something_to_learn():
    """A sawtooth that a last value, a mean and a season of another length cannot continue."""
    steps = np.arange(400)
    y = pd.DataFrame({"y": (steps % 11) + 0.05 * np.random.default_rng(0).normal(size=400)})
    fc = DeepLSTMForecaster(
        horizon=1,
        lookback=22,
        seasonality=1,
        hidden_size=16,
        max_epochs=40,
        lr=0.02,
        random_state=0,
    ).fit(y[:300])
    fc.update(y[300:])
    error = np.abs(fc.predict(y[300:]) - y["y"][300:]).mean()
    naive = np.abs(np.diff(y["y"][299:])).mean()
    assert error < 0.3 * naive
