"""Dilated layers against the equations, step by step."""

from __future__ import annotations

import pytest
import torch

from rnnforecast.nn.dilated import DilatedLSTM, DilatedResidualStack


def literal(layer, x):
    """LSTM equations with the state of step t - d (Chang et al. 2017, eq. 3)."""
    lstm, d = layer.lstm, layer.dilation
    hidden = []
    for t in range(len(x)):
        zero = x.new_zeros(x.shape[1], lstm.hidden_size)
        h, c = hidden[t - d] if t >= d else (zero, zero)
        gates = x[t] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T
        i, f, g, o = (gates + lstm.bias_hh_l0).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        hidden.append((torch.sigmoid(o) * torch.tanh(c), c))
    return torch.stack([h for h, _ in hidden])


def sequence(n_steps=11, batch=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_steps, batch, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dilation", [1, 2, 4, 11, 30])
def test_a_layer_is_its_equations(dilation):
    layer = DilatedLSTM(4, 5, dilation).double()
    x = sequence()
    torch.testing.assert_close(layer(x), literal(layer, x), rtol=1e-12, atol=1e-12)


def test_a_stack_adds_each_blocks_input_after_the_first():
    stack = DilatedResidualStack(4, 5, ((1, 3), (2, 4), (1,))).double()
    x = out = sequence()
    for depth, block in enumerate(stack.blocks):
        before = out
        for layer in block:
            out = literal(layer, out)
        if depth:
            out = out + before
    torch.testing.assert_close(stack(x), out, rtol=1e-12, atol=1e-12)


def test_the_past_knows_nothing_of_the_future():
    stack = DilatedResidualStack(4, 5, ((1, 2), (4, 7))).double()
    x = sequence()
    changed = x.clone()
    changed[6:] = 1e3
    assert torch.equal(stack(changed)[:6], stack(x)[:6])
