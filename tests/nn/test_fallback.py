"""The recurrent layers written by hand in torch, against the same step by step.

Finite differences are in test_recurrence.py: without the compiled library it comes through here.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from rnnforecast.nn import _fallback

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
CASES = pytest.mark.parametrize(
    ("cell", "peephole"), [("rnn", False), ("gru", False), ("lstm", False), ("lstm", True)]
)


class Plan(NamedTuple):
    cell: str
    directions: tuple[bool, ...]


def draw(cell, peephole, directions, batch=4, time=6, inputs=3, hidden=5, bias=True, states=True):
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return 0.4 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, rows = len(directions), GATES[cell] * hidden
    tensors = [normal(batch, time, inputs)]
    tensors.append(normal(n, batch, hidden) if states else None)
    tensors.append(normal(n, batch, hidden) if states and cell == "lstm" else None)
    for _ in directions:
        tensors += [normal(rows, inputs), normal(rows, hidden)]
        tensors += [normal(rows) if bias else None for _ in range(2)]
        tensors.append(normal(3, hidden) if peephole else None)
    return tensors


def call(function, plan, tensors):
    x, h0, c0, *weights = tensors
    return [one for one in function(plan, x, h0, c0, tuple(weights)) if one is not None]


def gradients(function, plan, tensors, use=(0, 1, 2)):
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    results = call(function, plan, leaves)
    generator = torch.Generator().manual_seed(5)
    used = [results[k] for k in use if k < len(results)]
    grads = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in used]
    wanted = [leaf for leaf in leaves if leaf is not None]
    found = torch.autograd.grad(used, wanted, grads, allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found)]
    return [*(r.detach() for r in results), *found]


@CASES
@pytest.mark.parametrize("directions", [(False,), (True,), (False, True)])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("use", [(0, 1, 2), (0,), (1,)])
def test_values_and_gradients_are_those_of_the_steps(cell, peephole, directions, given, use):
    plan = Plan(cell, directions)
    tensors = draw(cell, peephole, directions, bias=given, states=given)
    found = gradients(_fallback._by_hand, plan, tensors, use)
    for one, other in zip(found, gradients(_fallback.literal, plan, tensors, use)):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@CASES
@pytest.mark.parametrize("time", [0, 1])
def test_short_sequences(cell, peephole, time):
    plan = Plan(cell, (False, True))
    tensors = draw(cell, peephole, plan.directions, time=time)
    use = (0, 1, 2) if time else (1,)
    found = gradients(_fallback.own, plan, tensors, use)
    for one, other in zip(found, gradients(_fallback.literal, plan, tensors, use)):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@CASES
def test_results_may_be_changed_in_place(cell, peephole):
    plan = Plan(cell, (False,))

    def doubled(function):
        return lambda *args: [2 * one for one in function(*args) if one is not None]

    def in_place(*args):
        return [one.mul_(2) for one in _fallback._by_hand(*args) if one is not None]

    for batch, time in ((4, 6), (1, 1)):
        tensors = draw(cell, peephole, (False,), batch=batch, time=time)
        found = gradients(in_place, plan, tensors)
        for one, other in zip(found, gradients(doubled(_fallback.literal), plan, tensors)):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_frozen_weights_cost_no_gradient():
    """Only what is asked for comes back, and the rest is None."""
    tensors = draw("gru", False, (False,))
    tensors[0].requires_grad_()
    call(_fallback._by_hand, Plan("gru", (False,)), tensors)[0].sum().backward()
    assert tensors[0].grad is not None
    assert all(t is None or t.grad is None for t in tensors[1:])


@pytest.mark.parametrize("cell", GATES)
def test_the_way_is_chosen_by_what_was_measured(cell):
    x, h0, c0, *weights = draw(cell, False, (False,))
    rest = (h0, c0, *weights)
    assert not _fallback.pays(cell, x, rest)  # nothing to train
    x.requires_grad_()
    assert _fallback.pays(cell, x, rest) == (cell != "lstm")
    assert _fallback.pays(cell, x, rest, torch_has_it=False)
    with torch.no_grad():
        assert not _fallback.pays(cell, x, rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not _fallback.pays(cell, x, rest, torch_has_it=False)
    assert not _fallback.pays(cell, x[:, :0], rest)
    assert not _fallback.pays(cell, x.float(), rest)


@CASES
@pytest.mark.parametrize("train", [False, True])
def test_either_way_gives_the_same(cell, peephole, train):
    """``own`` chooses among torch's layers, the passes by hand and the steps."""
    for directions in ((False,), (True,), (False, True)):
        plan = Plan(cell, directions)
        tensors = draw(cell, peephole, directions)
        if train:
            found = gradients(_fallback.own, plan, tensors)
            expected = gradients(_fallback.literal, plan, tensors)
        else:
            found, expected = (call(f, plan, tensors) for f in (_fallback.own, _fallback.literal))
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
