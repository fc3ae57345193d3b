"""The segment network against the equations of Lin et al. 2023, one sample and step at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rnnforecast.nn import CELLS, Inputs, initialise, set_generator
from rnnforecast.nn.segment import SegmentNetwork, SegmentSpec

SPEC = SegmentSpec(
    n_targets=2,
    past=(0,),
    known=(0, 0),
    static=(0,),
    lookback=14,
    horizon=10,
    n_params=3,
    cell="gru",
    hidden_size=5,
    dropout=0.0,
    shift="last",
    segment=4,  # divides neither the look-back nor the horizon
    pull=True,
)


def network_of(spec=SPEC, seed=0, everywhere=True):
    """A network in float64; with ``everywhere`` no parameter is left at zero."""
    network = SegmentNetwork(spec).double().eval()
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    if everywhere:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-0.7, 0.7, generator=generator)
    return network


def inputs_of(spec=SPEC, batch=3, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)

    def values(*shape, share=missing):
        out = rng.normal(size=shape)
        return torch.as_tensor(np.where(rng.random(shape) < share, np.nan, out))

    return Inputs(
        values(batch, spec.lookback, spec.n_targets),
        values(batch, spec.lookback, len(spec.past)),
        values(batch, spec.lookback, len(spec.known)),
        values(batch, spec.horizon, len(spec.known)),
        values(batch, len(spec.static), share=0),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def cell_step(cell, w, x, h, c):
    """One step: Elman 1990; Cho et al. 2014 as cuDNN has it; Hochreiter & Schmidhuber 1997."""
    a = w["weight_ih"] @ x + w["bias_ih"]
    b = w["weight_hh"] @ h + w["bias_hh"]
    n = len(h)
    if cell == "rnn":
        return np.tanh(a + b), c
    if cell == "gru":
        r, z = sigmoid(a[:n] + b[:n]), sigmoid(a[n : 2 * n] + b[n : 2 * n])
        new = np.tanh(a[2 * n :] + r * b[2 * n :])
        return (1 - z) * new + z * h, c
    i, f, g, o = np.split(a + b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def literal(network, inputs, k, j):
    """Raw output (horizon, n_params), start (horizon,) and unit of target j of window k."""
    spec = network.spec
    w = weights(network)
    rnn = weights(network.encoder.layers[0])
    y, past, known, _, static = (t[k].numpy() for t in inputs)
    if spec.known:
        with torch.no_grad():  # k(x) is tested with ForecastNetwork
            y = y - network.effect(inputs.known)[k].numpy()
    y = y[:, j]
    seen = y[~np.isnan(y)]
    centre, scale = 0.0, 1.0
    if spec.shift == "last":
        centre = seen[-1] if len(seen) else 0.0  # eq. 3
    if spec.shift == "mean":
        centre = seen.mean() if len(seen) else 0.0
        scale = max(np.abs(seen - centre).mean(), 1e-2) if len(seen) > 1 else 1.0
    x = np.nan_to_num((y - centre) / scale)
    marks = np.isnan(y).astype(float)
    size = spec.segment
    h = c = np.zeros(spec.hidden_size)
    for m in range(spec.lookback // size):
        rows = slice(spec.lookback % size + m * size, spec.lookback % size + (m + 1) * size)
        e = w["embed.weight"] @ np.r_[x[rows], marks[rows]] + w["embed.bias"]  # eq. 4
        if spec.past:
            p = np.hstack([np.nan_to_num(past[rows]), np.isnan(past[rows])])
            e = e + w["past.weight"] @ p.ravel()
        h, c = cell_step(spec.cell, rnn, np.maximum(e, 0), h, c)  # eq. 5-6
    out = []
    for m in range(-(-spec.horizon // size)):
        e = np.r_[w["position"][m], w["channel"][j]]  # eq. 7
        if spec.static:
            e = e + w["static.weight"] @ static
        step, _ = cell_step(spec.cell, rnn, e, h, c)  # from the same last state: eq. 8
        out.append((w["head.weight"] @ step + w["head.bias"]).reshape(size, spec.n_params))
    raw = np.concatenate(out)[: spec.horizon]  # eq. 9
    start = np.full(spec.horizon, centre)  # eq. 10
    if spec.pull:
        mean = seen.mean() if len(seen) else 0.0
        start = (start + w["pull"] * (mean - start)) * w["stay"]
    return raw, start, scale


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"cell": "lstm", "pull": False},
        {"cell": "rnn"},
        {"shift": "mean"},
        {"shift": "none", "past": (), "static": (), "pull": False},
        {"segment": 1, "past": (0, 0, 0)},
        {"segment": 14, "cell": "lstm", "known": ()},
    ],
    ids=str,
)
def test_forward_is_its_equations(change, missing):
    network = network_of(replace(SPEC, **change))
    spec = network.spec
    inputs = inputs_of(spec, missing=missing)
    with torch.no_grad():
        raw, location, scale = network(inputs)
        if spec.known:
            location = location - network.effect(inputs.future_known)
    for k in range(3):
        for j in range(spec.n_targets):
            expected = literal(network, inputs, k, j)
            np.testing.assert_allclose(raw[k, :, j], expected[0], atol=1e-12)
            np.testing.assert_allclose(location[k, :, j], expected[1], atol=1e-12)
            np.testing.assert_allclose(scale[k, 0, j], expected[2], atol=1e-12)


class Other(CELLS["lstm"]):
    """An LSTM as a user would write it, whose tensors have one leading axis."""

    def step(self, x, state):
        assert all(len(s) == len(x) for s in state)
        both = torch.cat([x, state[0]], -1) @ torch.cat([self.weight_ih, self.weight_hh], 1).T
        i, f, g, o = (both + self.bias_ih + self.bias_hh).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), (torch.sigmoid(o) * torch.tanh(c), c)


@pytest.mark.parametrize("static", [(), (0,)])
def test_any_cell_decodes(static):
    """Parts computed once, for a cell of the kernels, are those computed row by row."""
    spec = replace(SPEC, cell="lstm", static=static)
    network, inputs = network_of(spec), inputs_of(spec)
    other = network_of(replace(spec, cell=Other))
    other.load_state_dict(network.state_dict())
    for found, expected in zip(other(inputs), network(inputs)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "lstm_peephole"])
def test_decoding_is_one_more_step_of_the_encoder(cell):
    spec = replace(SPEC, cell=cell, static=())
    network, inputs = network_of(spec), inputs_of(spec)
    with torch.no_grad():
        window = network.normalise(network.take_effect(inputs))
        context = network.context(window, inputs)
        found = network._step(*context)
        batch, channels, n_out = found.shape[:3]
        for j in range(channels):
            for m in range(n_out):
                given = torch.cat([network.position[m], network.channel[j]])
                state = tuple(s[j::channels] for s in context[1:])
                out, _ = network.encoder.layers[0].scan(given.expand(batch, 1, -1), state)
                torch.testing.assert_close(found[:, j, m], out[:, 0])


def test_targets_do_not_see_one_another():
    """Channel independence: the other target may be anything, even unobserved."""
    network = network_of(replace(SPEC, known=(), past=()))
    inputs = inputs_of(network.spec)
    whole = network(inputs)[0]
    for value in (1e6, torch.nan):
        other = inputs.targets.clone()
        other[..., 1] = value
        torch.testing.assert_close(
            network(inputs._replace(targets=other))[0][:, :, 0], whole[:, :, 0]
        )
    # two equal targets differ by their embedding alone
    twin = inputs._replace(targets=inputs.targets[..., :1].expand(-1, -1, 2))
    raw = network(twin)[0]
    assert not torch.allclose(raw[:, :, 0], raw[:, :, 1])
    with torch.no_grad():
        network.channel[1] = network.channel[0]
    raw = network(twin)[0]
    torch.testing.assert_close(raw[:, :, 0], raw[:, :, 1])


def test_a_missing_value_reaches_neither_output_nor_gradient():
    network = network_of()
    inputs = inputs_of(missing=0.3)
    inputs = inputs._replace(**{n: getattr(inputs, n).requires_grad_() for n in inputs._fields})
    raw, location, scale = network(inputs)
    (raw.square().sum() + location.square().sum() + scale.square().sum()).backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()
    for values in inputs[:4]:
        assert torch.isfinite(values.grad).all()
        missing = torch.isnan(values.detach())
        assert missing.any()
        assert (values.grad[missing] == 0).all()
        assert (values.grad[~missing] != 0).any()


def test_a_window_without_any_value_still_forecasts():
    network = network_of()
    nothing = Inputs(*(torch.full_like(t, torch.nan) for t in inputs_of()[:4]), inputs_of().static)
    for out in network(nothing):
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("shift", ["last", "mean"])
def test_a_window_in_another_unit_gives_the_same_deviation(shift):
    network = network_of(replace(SPEC, known=(), shift=shift))
    if network.spec.pull:  # any mean of the series but zero is of another window's unit
        torch.nn.init.ones_(network.stay)
    inputs = inputs_of(network.spec)
    raw, location, scale = network(inputs)
    factor = 40 if shift == "mean" else 1  # the last value carries no unit
    raw_2, location_2, scale_2 = network(inputs._replace(targets=factor * inputs.targets + 300))
    torch.testing.assert_close(raw_2, raw)
    torch.testing.assert_close(location_2, factor * location + 300)
    torch.testing.assert_close(scale_2, factor * scale)


def test_the_untrained_network_is_blind_to_marks_past_and_covariates():
    network = network_of(everywhere=False)
    inputs = inputs_of(missing=0.0)
    raw, location, _ = network(inputs)
    other = inputs._replace(past=inputs.past * 5, future_known=inputs.future_known * 5)
    torch.testing.assert_close(network(other)[:2], (raw, location))
    torch.testing.assert_close(location, inputs.targets[:, -1:].expand(-1, 10, -1))  # not primed
    assert (network.embed.weight[:, 4:] == 0).all()
    assert (network.embed.weight[:, :4] != 0).all()


def test_the_start_is_primed_at_the_least_squares_point_between_last_value_and_mean():
    spec = replace(SPEC, lookback=200, horizon=4, known=(), past=())
    network = network_of(spec, everywhere=False)
    rng = np.random.default_rng(0)
    y = rng.normal(size=(64, 204, 2))
    y[..., 1] = y[..., 1].cumsum(1)  # noise is best forecast by its mean, a walk by its last value
    y[rng.random(y.shape) < 0.1] = np.nan
    for column, expected in ((0, 1.0), (1, 0.0)):
        both = torch.as_tensor(y[..., [column, column]])
        nothing = torch.zeros(64, 200, 0)
        inputs = Inputs(both[:, :200], nothing, nothing, nothing[:, :4], torch.zeros(64, 1))
        parts = zip(zip(*(t.split(16) for t in inputs)), both[:, 200:].split(16))
        network.prime((Inputs(*part), truth) for part, truth in parts)
        np.testing.assert_allclose(network.pull.detach(), expected, atol=0.12)
        window = network.normalise(inputs.targets)
        truth = y[:, 200:, [column, column]]
        last, mean = window.last.numpy(), window.mean.numpy()
        grid = np.linspace(0, 1, 101)
        squares = [np.nanmean((truth - last - g * (mean - last)) ** 2, axis=(0, 2)) for g in grid]
        np.testing.assert_allclose(
            network.pull.detach(), grid[np.argmin(squares, axis=0)], atol=0.0051
        )
        start = last + network.pull.detach().numpy()[:, None] * (mean - last)
        squares = [np.nanmean((truth - g * start) ** 2, axis=(0, 2)) for g in grid]
        np.testing.assert_allclose(
            network.stay.detach(), grid[np.argmin(squares, axis=0)], atol=0.0051
        )


def test_dropout_draws_from_the_generator_given():
    network = network_of(replace(SPEC, dropout=0.5)).train()
    inputs = inputs_of()
    outs = []
    for seed in (1, 1, 2):
        set_generator(network, torch.Generator().manual_seed(seed))
        outs.append(network(inputs)[0])
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
