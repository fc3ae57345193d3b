"""Attention against the equations in NumPy, and several heads against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from rnnforecast.exceptions import DataError
from rnnforecast.nn.attention import ATTENTIONS, Attention


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def weights_additive(q, states, p):  # Bahdanau et al. 2015, A.1.2: e_j = v' tanh(W q + U s_j)
    q = p["query.weight"] @ q + p["query.bias"]
    e = [p["energy.weight"][0] @ np.tanh(q + p["key.weight"] @ s) for s in states]
    return softmax(np.array(e))


def weights_dot(q, states, p):  # Vaswani et al. 2017, eq. 1: e_j = (W q)' (U s_j) / sqrt(d)
    q = p["query.weight"] @ q + p["query.bias"]
    e = [q @ (p["key.weight"] @ s) / math.sqrt(len(q)) for s in states]
    return softmax(np.array(e))


def random_attention(kind, query_size, size, seed=0):
    torch.manual_seed(seed)
    attention = Attention(kind, query_size, size).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(0, 0.7)
    return attention, {k: v.detach().numpy() for k, v in attention.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "literal"), [("additive", weights_additive), ("dot", weights_dot)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_against_the_equations(kind, literal, masked):
    attention, p = random_attention(kind, 3, 6)
    queries, states = torch.randn(4, 2, 3).double(), torch.randn(4, 7, 6).double()
    lengths = torch.tensor([7, 1, 5, 3]) if masked else None
    taken, weights = attention(queries, states, lengths)
    for b in range(4):
        n = 7 if lengths is None else int(lengths[b])
        for k in range(2):
            expected = literal(queries[b, k].numpy(), states[b, :n].numpy(), p)
            np.testing.assert_allclose(weights[b, k, :n].detach(), expected, rtol=1e-12)
            assert (weights[b, k, n:] == 0).all()
            np.testing.assert_allclose(
                taken[b, k].detach(), expected @ states[b, :n].numpy(), rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("size", "heads"), [(8, 4), (6, 2), (7, 1)])
def test_several_heads_are_those_of_torch(size, heads, masked):
    attention, p = random_attention("multihead", size, size)
    assert attention.heads == heads
    torch_own = nn.MultiheadAttention(size, heads, batch_first=True).double()
    with torch.no_grad():
        rows = [p["query.weight"], p["key.weight"], p["value.weight"]]
        torch_own.in_proj_weight.copy_(torch.from_numpy(np.concatenate(rows)))
        torch_own.in_proj_bias.zero_()
        torch_own.in_proj_bias[:size] = attention.query.bias
        torch_own.out_proj.weight.copy_(attention.out.weight)
        torch_own.out_proj.bias.copy_(attention.out.bias)
    queries, states = torch.randn(4, 2, size).double(), torch.randn(4, 5, size).double()
    lengths = torch.tensor([5, 1, 4, 3]) if masked else None
    ended = None if lengths is None else torch.arange(5) >= lengths[:, None]
    expected = torch_own(queries, states, states, key_padding_mask=ended)
    for found, wanted in zip(attention(queries, states, lengths), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_what_is_after_the_end_has_no_influence(kind):
    attention, _ = random_attention(kind, 4, 4)
    states, lengths = torch.randn(3, 6, 4).double(), torch.tensor([2, 6, 4])
    other = states.clone()
    other[torch.arange(6) >= lengths[:, None]] = 1e6
    queries = torch.randn(3, 1, 4).double()
    for found, wanted in zip(
        attention(queries, states, lengths), attention(queries, other, lengths)
    ):
        assert torch.equal(found, wanted)
    taken, weights = attention(queries, states, lengths)
    alone, its = attention(queries[:1], states[:1, :2])
    torch.testing.assert_close(taken[:1], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights[:1, :, :2], its, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 1).double())


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_gradients(kind):
    attention, _ = random_attention(kind, 3, 4)
    queries = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    states = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3, 2])
    assert torch.autograd.gradcheck(lambda q, s: attention(q, s, lengths), (queries, states))


def test_unknown_kind():
    with pytest.raises(DataError, match=r"kind must be one of \['additive'.*Got 'cosine'"):
        Attention("cosine", 3, 4)
