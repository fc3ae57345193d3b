"""Recurrent layers against the equations in NumPy, and stacks against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from rnnforecast.nn import (
    CELLS,
    RecurrentLayer,
    RecurrentStack,
    SeededDropout,
    initialise,
    make_layer,
    register_cell,
    set_generator,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step_rnn(x, h, c, p):  # Elman 1990
    return np.tanh(p["w_ih"] @ x + p["b_ih"] + p["w_hh"] @ h + p["b_hh"]), c


def step_lstm(x, h, c, p):  # Gers et al. 2000, without peepholes
    i, f, g, o = np.split(p["w_ih"] @ x + p["b_ih"] + p["w_hh"] @ h + p["b_hh"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def step_gru(x, h, c, p):  # Cho et al. 2014; the reset gate acts on the recurrent product
    x_r, x_z, x_n = np.split(p["w_ih"] @ x + p["b_ih"], 3)
    h_r, h_z, h_n = np.split(p["w_hh"] @ h + p["b_hh"], 3)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    return (1 - z) * n + z * h, c


STEPS = {"rnn": step_rnn, "lstm": step_lstm, "gru": step_gru}


def weights(layer, suffix=""):
    names = {
        "w_ih": "weight_ih_l0",
        "w_hh": "weight_hh_l0",
        "b_ih": "bias_ih_l0",
        "b_hh": "bias_hh_l0",
    }
    return {k: getattr(layer.rnn, v + suffix).detach().numpy() for k, v in names.items()}


def run(cell, x, p, hidden):
    """Hidden states of one direction, x: (time, size)."""
    h = c = np.zeros(hidden)
    states = []
    for row in x:
        h, c = STEPS[cell](row, h, c, p)
        states.append(h)
    return np.array(states)


def literal_layer(cell, layer, x):
    """Outputs and last states of one window, in one direction or both."""
    hidden = layer.hidden_size
    forward = run(cell, x, weights(layer), hidden)
    if not layer.bidirectional:
        return forward, forward[-1]
    backward = run(cell, x[::-1], weights(layer, "_reverse"), hidden)[::-1]
    return np.hstack([forward, backward]), np.concatenate([forward[-1], backward[0]])


def double_stack(*args, seed=0, **options):
    stack = RecurrentStack(*args, **options).double()
    initialise(stack, torch.Generator().manual_seed(seed))
    return stack


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_layer_is_its_equations(cell, bidirectional):
    layer = make_layer(cell, 3, 4, bidirectional).double()
    initialise(layer, torch.Generator().manual_seed(1))
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    outputs, last = layer(torch.as_tensor(x))
    for k in range(2):
        expected, end = literal_layer(cell, layer, x[k])
        np.testing.assert_allclose(outputs[k].detach(), expected, atol=1e-12)
        np.testing.assert_allclose(last[k].detach(), end, atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_stack_is_its_equations(cell, bidirectional, residual):
    stack = double_stack(cell, 3, 4, 3, bidirectional, residual)
    x = np.random.default_rng(0).normal(size=(1, 7, 3))
    outputs, last = stack(torch.as_tensor(x))
    current, size = x[0], 4
    for depth, layer in enumerate(stack.layers):
        new, end = literal_layer(cell, layer, current)
        if residual and depth > 0:
            # each direction has read the whole window at its own end
            skip = (
                current[-1] if not bidirectional else np.r_[current[-1, :size], current[0, size:]]
            )
            new, end = new + current, end + skip
        current = new
    np.testing.assert_allclose(outputs[0].detach(), current, atol=1e-12)
    np.testing.assert_allclose(last[0].detach(), end, atol=1e-12)


@pytest.mark.parametrize(("cell", "module"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_stack_is_torchs_own_stack(cell, module):
    stack = double_stack(cell, 3, 5, 2, True)
    own = module(3, 5, num_layers=2, bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for depth, layer in enumerate(stack.layers):
            for name, value in layer.rnn.named_parameters():
                getattr(own, name.replace("_l0", f"_l{depth}")).copy_(value)
    x = torch.randn(4, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs, last = stack(x)
    expected, state = own(x)
    hidden = state[0] if isinstance(state, tuple) else state
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(last, torch.cat([hidden[-2], hidden[-1]], dim=-1))


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropout = SeededDropout(0.3)
    dropout.generator = torch.Generator().manual_seed(0)
    x = torch.full((400, 500), 2.0)
    out = dropout(x)
    n = x.numel()
    dropped = (out == 0).double().mean().item()
    # five standard errors of a binomial share
    assert abs(dropped - 0.3) < 5 * math.sqrt(0.3 * 0.7 / n)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 2.0 / 0.7))
    assert abs(out.double().mean().item() - 2.0) < 5 * 2.0 * math.sqrt(0.3 / 0.7 / n)
    dropout.eval()
    assert dropout(x) is x


def test_dropout_draws_from_its_own_generator_alone():
    stack = RecurrentStack("gru", 2, 4, 2, dropout=0.5).train()
    initialise(stack, torch.Generator().manual_seed(0))
    x = torch.ones(3, 5, 2)
    state = torch.random.get_rng_state()
    outs = []
    for seed in (1, 1, 2):
        set_generator(stack, torch.Generator().manual_seed(seed))
        outs.append(stack(x)[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_dropout_stands_between_layers_and_after_the_last():
    stack = double_stack("gru", 2, 200, 2, dropout=0.5).train()
    generator = torch.Generator()
    set_generator(stack, generator.manual_seed(3))
    x = torch.ones(1, 4, 2, dtype=torch.float64)
    _, last = stack(x)
    # by hand: the draws come in this order
    generator.manual_seed(3)
    first, _ = stack.layers[0](x)
    keep = torch.empty_like(first).bernoulli_(0.5, generator=generator)
    second, end = stack.layers[1](first * keep / 0.5)
    torch.empty_like(second).bernoulli_(0.5, generator=generator)
    keep = torch.empty_like(end).bernoulli_(0.5, generator=generator)
    torch.testing.assert_close(last, end * keep / 0.5)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_initial_weights_are_uniform_within_the_bound(cell):
    layer = make_layer(cell, 30, 100)
    state = torch.random.get_rng_state()
    initialise(layer, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    bound = 1 / math.sqrt(100)
    for parameter in layer.parameters():
        values = parameter.detach().double().flatten()
        n = len(values)
        assert values.abs().max() <= bound
        # a uniform variable on ±b: variance b²/3, of its square 4 b⁴/45; five standard errors
        assert abs(values.mean()) < 5 * bound / math.sqrt(3 * n)
        assert abs((values**2).mean() - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / n)
    linear = nn.Linear(50, 40)
    initialise(linear, torch.Generator().manual_seed(0))
    assert linear.weight.abs().max() <= 1 / math.sqrt(50)
    assert linear.weight.abs().max() > 0.95 / math.sqrt(50)


def test_a_new_cell_is_a_class_and_a_line():
    @register_cell("mean of the window")
    class MeanLayer(RecurrentLayer):
        def __init__(self, input_size, hidden_size, bidirectional=False):
            super().__init__(input_size, hidden_size, bidirectional)
            self.linear = nn.Linear(input_size, self.output_size)

        def forward(self, x):
            steps = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
            outputs = self.linear(x.cumsum(1) / steps)
            return outputs, outputs[:, -1]

    try:
        stack = double_stack("mean of the window", 2, 3, 2)
        x = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        first, second = (layer.linear for layer in stack.layers)
        inner = first(x.cumsum(1) / torch.arange(1, 6, dtype=x.dtype)[:, None])
        torch.testing.assert_close(stack(x)[1], second(inner.mean(1)))
    finally:
        del CELLS["mean of the window"]


def test_a_cell_must_fill_parameters_of_its_own_kind():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.empty(3))

    class FilledGain(Gain):
        def reset(self, generator):
            with torch.no_grad():
                self.gain.fill_(1.0)

    with pytest.raises(TypeError, match=r"'0.gain'.*reset\(generator\)"):
        initialise(nn.Sequential(Gain()), torch.Generator())
    filled = nn.Sequential(FilledGain())
    initialise(filled, torch.Generator())
    assert torch.equal(filled[0].gain.detach(), torch.ones(3))
