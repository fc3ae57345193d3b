"""Truncated back-propagation through time, and training on all windows in one step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from rnnforecast import (
    DeepGRUForecaster,
    DeepLSTMForecaster,
    DeepRNNForecaster,
    SegmentRNNForecaster,
    SequenceClassifier,
    SequenceRegressor,
)
from rnnforecast.exceptions import DataError
from rnnforecast.nn import Inputs
from rnnforecast.training import Learner

TINY = {"hidden_size": 4, "n_layers": 1, "max_epochs": 1, "random_state": 0, "horizon": 2}
LANES = {"training": "dense", "stateful": True, "scaler": "series"}


def frame(n=200, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None]
    values = np.sin(t / 3 + np.arange(4)) + 0.1 * rng.normal(size=(n, 4))
    return pd.DataFrame(values, columns=["y", "z", "x", "past"])


def learner_of(monkeypatch, fc, df):
    """The learner of a fit, which then goes its way."""
    caught = []
    fit = Learner.fit
    monkeypatch.setattr(
        Learner, "fit", lambda self, warm=(): caught.append(self) or fit(self, warm)
    )
    fc.fit(df)
    return caught[0]


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 4, 50])
def test_lanes_are_read_in_order_of_time(monkeypatch, batch_size):
    """Every training window up to the oldest few of a series comes once, and rows follow on."""
    lengths = {"a": 150, "b": 61, "c": 99, "d": 9}
    parts = {}
    for k, (name, n) in enumerate(lengths.items()):
        parts[name] = pd.DataFrame({"y": 1000.0 * k + np.arange(n)})
    df = pd.concat(parts, names=["id", "time"])
    fc = DeepLSTMForecaster(
        **{**TINY, **LANES, "scaler": None}, lookback=8, seasonality=1, batch_size=batch_size
    )
    source = learner_of(monkeypatch, fc, df).source
    extra = source.lookback - 8
    stride, seen, place = extra + 1, [], None
    generator = torch.Generator().manual_seed(0)
    for step, batch in enumerate(source.epoch(generator)):
        first = batch.inputs.targets[:, -1, 0].numpy()
        if step == 0:
            assert batch.fresh.all()
            assert not batch.states
        else:  # lanes may end one step before others
            follows = first == place[: len(first)] + stride
            np.testing.assert_array_equal(batch.fresh.numpy(), ~follows)
            # a fresh start is that of another series
            assert (first[~follows] // 1000 > place[: len(first)][~follows] // 1000).all()
        place = first
        seen.extend(first)
    assert step + 1 == len(source) == -(-len(source.windows) // batch_size)
    assert len(set(seen)) == len(seen) == len(source.windows)
    again = [batch.fresh for batch in source.epoch(generator)]
    assert again[0].all()  # every epoch starts anew
    for k, n in enumerate(lengths.values()):
        own = np.sort([y for y in seen if y // 1000 == k])
        held = n - source.windows.stops(2)[k]
        assert own[-1] == 1000 * k + n - held - 3  # the newest training window is among them


@pytest.mark.parametrize("channels", ["independent", "joint"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
@pytest.mark.parametrize(
    "shape",
    [
        {"lookback": 8, "segment": 1, "seasonality": 1},
        {"lookback": 9, "segment": 2, "seasonality": 3},
        {"lookback": 5, "segment": 5, "seasonality": 4},
        {"lookback": 8, "segment": 1, "seasonality": 1, "dilations": ((1, 2), (3,))},
    ],
)
def test_chunks_are_one_pass_cut_off(monkeypatch, channels, cell, shape):
    """Values are those of one encoder over the whole lane; gradients those of the same encoder
    whose state is detached at the first row of every stretch.
    """
    df = frame(120)
    df.iloc[40:43, 0] = df.iloc[7::11, 1] = np.nan
    fc = DeepRNNForecaster(
        **{**TINY, **LANES, **shape, "n_layers": 2},
        cell=cell,
        channels=channels,
        target=["y", "z"],
        known="x",
        batch_size=1,
    )
    learner = learner_of(monkeypatch, fc, df)
    network, source = learner.network(), learner.source
    network.load_state_dict(fc.network_.state_dict())
    network = network.double().requires_grad_(True)
    batches = list(source.epoch(torch.Generator()))
    lookback, segment, lead = shape["lookback"], shape["segment"], shape["seasonality"]
    lead = lead if lead > 1 else 0
    extra = source.lookback - lookback - lead
    n, length = extra // segment + 1, lookback + extra
    assert len(batches) > 3

    def of(batch):
        inputs, ahead = batch.inputs, batch.inputs.future_known
        known = torch.cat([inputs.known[:, lead + lookback :], ahead], 1)
        return Inputs(*(part.double() for part in inputs._replace(future_known=known)))

    states, found = [], []
    for batch in batches:
        found.append(network.forward_dense(of(batch), batch.fresh, states)[:2])
    total = sum((raw.square().sum() + location.sum()) for raw, location in found)
    gradients = torch.autograd.grad(total, list(network.parameters()), allow_unused=True)

    # literally: all rows of the lane in a row, features of the whole
    first, *rest = map(of, batches)
    step = n * segment
    whole = {
        name: torch.cat(
            [getattr(first, name), *(getattr(each, name)[:, -step:] for each in rest)], 1
        )
        for name in ("targets", "past", "known")
    }
    residual = network.take_effect(first._replace(**whole))
    seen = ~torch.isnan(residual)
    x = network.features(torch.where(seen, residual, 0.0), seen, whole["past"])[:, lead:]
    state, plain, expected = None, None, []
    for k, each in enumerate(map(of, batches)):
        begin = k * step
        usable = length // segment * segment
        rows = x[:, begin + length - usable : begin + length]
        rows = rows.reshape(len(x), -1, segment * x.shape[2])
        outputs, _ = network.encoder.scan(rows, state)
        _, state = network.encoder.scan(rows[:, :n], state)
        state = [tuple(s.detach() for s in layer) for layer in state]
        for j in range(n):
            at = slice(begin + lead + j * segment, begin + lead + j * segment + lookback)
            window = network.normalise(residual[:, at])
            context = network.with_static(outputs[:, len(outputs[0]) - n + j], each.static)
            raw, anchor = network.decode(window, context)
            future = each.future_known[:, j * segment :][:, :2]
            expected.append(network.with_known(raw, anchor, context, future))
    total = sum((raw.square().sum() + location.sum()) for raw, location in expected)
    wanted = torch.autograd.grad(total, list(network.parameters()), allow_unused=True)
    for which in (0, 1):
        one = torch.cat([pair[which] for pair in found])
        torch.testing.assert_close(one, torch.cat([pair[which] for pair in expected]))
    for (name, _), a, b in zip(network.named_parameters(), gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    # and one pass without a cut says the same
    whole_x = x[:, length - usable :]
    whole_x = whole_x.reshape(len(x), -1, segment * x.shape[2])
    plain = network.encoder.scan(whole_x)[0][:, -1]
    context = network.with_static(plain, batches[-1].inputs.static.double())
    last = network.decode(network.normalise(residual[:, -lookback:]), context)[0]
    future = of(batches[-1]).future_known[:, -2:]
    last = network.add_known(last, context, future)
    torch.testing.assert_close(last, found[-1][0][-1:])


# -- what it is for --------------------------------------------------------------------------------


def remembered(n=2000, seed=0):
    """A cue of +2 or -2 every 16 steps; 10 to 14 steps later a gate, in which it is repeated."""
    rng = np.random.default_rng(seed)
    y, gate = 0.05 * rng.normal(size=n), np.zeros(n)
    for start in range(0, n - 16, 16):
        sign = rng.choice([-1.0, 1.0])
        at = start + rng.integers(10, 15)
        y[start] += 2 * sign
        y[at] += sign
        gate[at] = 1.0
    return pd.DataFrame({"y": y, "gate": gate})


@pytest.mark.parametrize("stateful", [True, False])
def test_a_lag_longer_than_a_stretch_needs_the_state(stateful):
    df = remembered()
    fc = DeepGRUForecaster(
        horizon=1,
        lookback=6,  # a stretch has 9 rows
        seasonality=1,
        target="y",
        known="gate",
        hidden_size=32,
        n_layers=1,
        scaler="series",
        training="dense",
        stateful=stateful,
        batch_size=4,
        max_epochs=8,
        loss="mse",
        lr=0.01,
        random_state=0,
    ).fit(df[:1600])
    found = fc.rolling_forecast(df[1600:])["y"]
    ahead = df.loc[found.index.get_level_values(-1)]
    here = ahead["gate"].to_numpy() == 1
    error = np.mean((found.to_numpy() - ahead["y"].to_numpy())[here] ** 2)
    assert (error < 0.2) if stateful else (error > 0.8)  # the variance is 1


def test_forecasts_doors_and_members():
    df = pd.concat({"a": frame(160), "b": 2 * frame(120, 1)}, names=["id", "time"])
    df.loc[df.index[::9], "y"] = np.nan
    fc = DeepLSTMForecaster(
        **TINY, **LANES, lookback=6, seasonality=2, target="y", known="x", n_members=2
    )
    old, new = df.groupby(level="id").head(100), df.drop(df.groupby(level="id").head(100).index)
    fc.fit(old)
    again = DeepLSTMForecaster(**{**fc.get_params(), "n_jobs": 2}).fit(old)
    table = fc.forecast(new, horizon=7, quantiles=[0.1, 0.9])
    pd.testing.assert_frame_equal(table, again.forecast(new, horizon=7, quantiles=[0.1, 0.9]))
    one = fc.forecast(new.loc[["a"]], history=old.loc[["a"]], horizon=7)
    np.testing.assert_allclose(one, fc.forecast(new, horizon=7).loc[["a"]], rtol=1e-9)
    rolled = fc.rolling_forecast(new)
    fc.update(new.groupby(level="id").head(3))
    at = rolled[rolled.index.get_level_values("origin") == 102]
    np.testing.assert_allclose(at, fc.forecast(new), rtol=1e-9)
    fc.partial_fit(new.groupby(level="id").head(9).groupby(level="id").tail(6))
    assert np.isfinite(fc.forecast(new)).all(axis=None)


def test_a_stream_goes_on_from_the_same_states():
    df = frame()[["y"]]
    fc = DeepLSTMForecaster(**TINY, **LANES, lookback=6, seasonality=1).fit(df[:150])
    stream = fc.stream()
    np.testing.assert_allclose(stream.forecast(), fc.forecast())
    for y in df["y"][150:155]:
        stream.update(y)
    # eight look-backs ago is long ago
    np.testing.assert_allclose(stream.forecast(), fc.update(df[150:155]).forecast(), rtol=1e-3)


@pytest.mark.parametrize(
    "options", [{"training": "windows"}, {"scaler": "window"}, {"bidirectional": True}]
)
def test_where_no_state_goes_on_it_is_refused(options):
    with pytest.raises(DataError, match="stateful=True needs|training='dense' reads"):
        DeepRNNForecaster(**{**TINY, **LANES, **options}).fit(frame())


# -- all windows in one step -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"training": "dense"}, {"training": "dense", "stateful": True, "scaler": "series"}],
)
def test_full_batches_of_windows(monkeypatch, options):
    settings = {**TINY, "lookback": 6, "seasonality": 1, "batch_size": "full", **options}
    fc = DeepLSTMForecaster(**settings)
    source = learner_of(monkeypatch, fc, frame()[["y"]]).source
    assert len(source) == 1
    (batch,) = source.epoch(torch.Generator())
    assert len(batch.truth) == len(source.windows)
    assert len(SegmentRNNForecaster(**{
        name: settings[name] for name in ("horizon", "max_epochs", "random_state", "batch_size")
    }).fit(frame()[["y"]]).history_) == 1  # fmt: skip


def test_full_batch_gradient_descent_is_that_of_the_mean_loss():
    """One step of plain SGD from the same start, by hand."""
    df = frame(80)[["y"]]
    options = {**TINY, "lookback": 6, "seasonality": 1, "scaler": None, "loss": "mse"}
    options |= {"validation_fraction": 0.0, "ema_decay": None, "early_stopping": False}
    options |= {"optimizer": "sgd", "momentum": 0.0, "gradient_clip": None, "lr": 0.1}
    options |= {"lr_schedule": "constant", "calendar": False}
    still = DeepLSTMForecaster(**{**options, "lr": 1e-30}, batch_size="full").fit(df)
    moved = DeepLSTMForecaster(**options, batch_size="full").fit(df)
    network = still.network_.requires_grad_(True)
    y = torch.as_tensor(df["y"].to_numpy(copy=True))
    rows = y.unfold(0, 8, 1)[..., None]
    empty = rows.new_empty(len(rows), 8, 0)
    inputs = Inputs(rows[:, :6], empty[:, :6], empty[:, :6], empty[:, :2], empty[:, 0])
    raw, location, scale = network(inputs)
    loss = (raw[..., 0] * scale + location - rows[:, 6:]).square().mean()
    loss.backward()
    for (name, parameter), new in zip(network.named_parameters(), moved.network_.parameters()):
        expected = parameter - 0.1 * parameter.grad
        torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("cls", [SequenceClassifier, SequenceRegressor])
def test_full_batches_of_sequences(cls):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 5)), rng.integers(0, 2, 70)
    fits = [
        cls(hidden_size=4, max_epochs=3, random_state=0, batch_size=size).fit(X, y)
        for size in ("full", 70, None, 32)
    ]
    losses = [fit.history_.train_loss for fit in fits]
    assert losses[0] == losses[1] != losses[2]
    assert losses[2] == losses[3]


@pytest.mark.parametrize("cls", [DeepLSTMForecaster, SequenceRegressor])
@pytest.mark.parametrize("size", [0, 2.5, "all", True])
def test_other_sizes_are_refused(cls, size):
    with pytest.raises(DataError, match=r"batch_size must be .*Got .*'full'"):
        cls(batch_size=size).fit(np.ones((30, 3)), np.ones(30))
