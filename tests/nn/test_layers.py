"""Recurrent layers against the equations in NumPy, and stacks against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from rnnforecast.nn import (
    CELLS,
    Cell,
    RecurrentStack,
    SeededDropout,
    initialise,
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


def weights(cell):
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    return {k: getattr(cell, v).detach().numpy() for k, v in names.items()}


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
    if isinstance(layer, Cell):
        forward = run(cell, x, weights(layer), layer.hidden_size)
        return forward, forward[-1]
    forward = run(cell, x, weights(layer.ahead), layer.ahead.hidden_size)
    backward = run(cell, x[::-1], weights(layer.back), layer.back.hidden_size)[::-1]
    return np.hstack([forward, backward]), np.concatenate([forward[-1], backward[0]])


def double_stack(*args, seed=0, **options):
    stack = RecurrentStack(*args, **options).double()
    initialise(stack, torch.Generator().manual_seed(seed))
    return stack


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_layer_is_its_equations(cell, bidirectional):
    stack = double_stack(cell, 3, 4, 1, bidirectional, seed=1)
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    outputs, last = stack(torch.as_tensor(x))
    for k in range(2):
        expected, end = literal_layer(cell, stack.layers[0], x[k])
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
    first, _ = stack.layers[0].scan(x)
    keep = torch.empty_like(first).bernoulli_(0.5, generator=generator)
    second, (end,) = stack.layers[1].scan(first * keep / 0.5)
    torch.empty_like(second).bernoulli_(0.5, generator=generator)
    keep = torch.empty_like(end).bernoulli_(0.5, generator=generator)
    torch.testing.assert_close(last, end * keep / 0.5)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_initial_weights_are_uniform_within_the_bound(cell):
    layer = CELLS[cell](30, 100)
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


def test_a_cell_of_somebody_else_is_filled():
    class Own(Cell):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.read = nn.Linear(input_size, hidden_size)
            self.norm = nn.LayerNorm(hidden_size)
            self.gain = nn.Parameter(torch.empty(50))
            self.inner = nn.GRUCell(hidden_size, hidden_size)

        def step(self, x, state):
            out = self.norm(self.read(x) + state[0] * self.gain[: self.hidden_size])
            out = self.inner(out, state[0])
            return out, (out,)

    class OwnFilled(Own):
        def reset(self, generator):
            with torch.no_grad():
                self.gain.fill_(3.0)

    for kind in (Own, OwnFilled):
        with torch.device("meta"):
            stack = RecurrentStack(kind, 400, 16, 2, True)
        stack = stack.to_empty(device="cpu")
        state = torch.random.get_rng_state()
        initialise(stack, torch.Generator().manual_seed(0))
        assert torch.equal(torch.random.get_rng_state(), state)
        one = stack.layers[0].back
        assert 0.24 < one.read.weight.abs().max() <= 0.25  # 1 / sqrt(hidden size)
        assert 0.24 < one.inner.weight_hh.abs().max() <= 0.25
        assert (one.norm.weight == 1).all() and (one.norm.bias == 0).all()
        if kind is OwnFilled:
            assert (one.gain == 3).all()
        else:
            assert 0.15 < one.gain.abs().max() <= 0.25


def test_a_module_must_fill_parameters_of_its_own_kind():
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
