"""Dilated layers against the equations, step by step."""

from __future__ import annotations

import pytest
import torch

from rnnforecast.nn import RecurrentStack


def literal(cell, dilation, x):
    """LSTM equations with the state of step t - d (Chang et al. 2017, eq. 3)."""
    hidden = []
    for t in range(x.shape[1]):
        zero = x.new_zeros(len(x), cell.hidden_size)
        h, c = hidden[t - dilation] if t >= dilation else (zero, zero)
        gates = x[:, t] @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T
        i, f, g, o = (gates + cell.bias_hh).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        hidden.append((torch.sigmoid(o) * torch.tanh(c), c))
    return torch.stack([h for h, _ in hidden], 1)


def sequence(n_steps=11, batch=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n_steps, size, generator=generator, dtype=torch.float64)


def stack_of(dilations):
    return RecurrentStack("lstm", 4, 5, residual=True, dilations=dilations).double()


def cell_of(layer):
    return getattr(layer, "cell", layer)


@pytest.mark.parametrize("dilation", [1, 2, 4, 11, 30])
def test_a_layer_is_its_equations(dilation):
    stack = stack_of(((dilation,),))
    x = sequence()
    expected = literal(cell_of(stack.layers[0]), dilation, x)
    torch.testing.assert_close(stack(x)[0], expected, rtol=1e-12, atol=1e-12)


def test_a_stack_adds_each_blocks_input_after_the_first():
    dilations = ((1, 3), (2, 4), (1,))
    stack = stack_of(dilations)
    x = out = sequence()
    layers = iter(stack.layers)
    for depth, block in enumerate(dilations):
        before = out
        for dilation in block:
            out = literal(cell_of(next(layers)), dilation, out)
        if depth:
            out = out + before
    outputs, last = stack(x)
    torch.testing.assert_close(outputs, out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, out[:, -1], rtol=1e-12, atol=1e-12)


def test_the_past_knows_nothing_of_the_future():
    stack = stack_of(((1, 2), (4, 7)))
    x = sequence()
    changed = x.clone()
    changed[:, 6:] = 1e3
    assert torch.equal(stack(changed)[0][:, :6], stack(x)[0][:, :6])
