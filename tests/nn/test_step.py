"""One step at a time against a pass over the whole sequence."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from rnnforecast.nn import step as module
from rnnforecast.nn.layers import RecurrentStack
from rnnforecast.nn.library import library
from rnnforecast.nn.step import StackStep


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


NATIVE = pytest.mark.skipif(library() is None, reason="the kernels are not built")
CELLS = ["rnn", "lstm", "lstm_peephole", "gru"]


def stack_of(cell, size, hidden, layers, residual=False):
    torch.manual_seed(3)
    return RecurrentStack(cell, size, hidden, layers, residual=residual).double()


def whole(stack, x, segment=1):
    """Last output of torch's pass over complete segments from the first row on."""
    n = x.shape[1] // segment
    folded = torch.from_numpy(x[:, : n * segment].reshape(len(x), n, -1))
    return stack(folded)[1].detach().numpy()


def numbers(rows, steps, size, seed=0):
    return 2 * np.random.default_rng(seed).standard_normal((rows, steps, size))


# (hidden, layers, rows, segment): below, at and above a vector register's lanes and a tile of rows
SHAPES = [(1, 1, 1, 1), (5, 1, 3, 4), (13, 3, 7, 2), (16, 2, 1, 3), (33, 2, 50, 1), (64, 2, 13, 1)]


@pytest.mark.parametrize("n_bytes", [None, *(pytest.param(b, marks=NATIVE) for b in (16, 32, 64))])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("cell", CELLS)
def test_steps_equal_torchs_pass(cell, dtype, n_bytes, monkeypatch):
    if n_bytes is not None:
        if n_bytes > module._vector_bytes(library()):
            pytest.skip("this machine has no such vectors")
        monkeypatch.setattr(module, "_vector_bytes", lambda lib: n_bytes)
    most = {"float64": 1e-13, "float32": 3e-6}[dtype]
    for hidden, layers, rows, segment in SHAPES:
        for residual in (False, True):
            stack = stack_of(cell, 3 * segment, hidden, layers, residual)
            x = numbers(rows, 12, 3)
            expected = whole(stack, x, segment)
            one = StackStep(stack, x.astype(dtype), segment, native=n_bytes is not None)
            for t in range(0, 12 // segment * segment, segment):
                top = one.advance(t)
            assert np.abs(top - expected).max() < most
            some = StackStep(stack, x.astype(dtype), segment, native=n_bytes is not None)
            assert np.abs(some.advance(0, 0, 12 // segment) - expected).max() < most


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=NATIVE)])
@pytest.mark.parametrize("cell", CELLS)
def test_large_inputs_saturate_and_do_not_overflow(cell, native):
    stack = stack_of(cell, 2, 9, 1)
    x = numbers(4, 6, 2) * 1e4
    for dtype, most in (("float64", 1e-13), ("float32", 1e-5)):
        top = StackStep(stack, x.astype(dtype), native=native).advance(0, 0, 6)
        assert np.abs(top - whole(stack, x)).max() < most


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=NATIVE)])
def test_sets_of_states_are_independent(native):
    stack = stack_of("lstm", 3, 8, 2)
    x = numbers(2, 6, 3)
    step = StackStep(stack, x, n_states=2, native=native)
    step.advance(0, 0, 4)
    first = step.hidden[0].copy()
    top = step.advance(2, 1, 3)
    assert np.array_equal(step.hidden[0], first)
    assert np.abs(top - whole(stack, x[:, 2:5])).max() < 1e-13
    top = step.advance(4, 0, 2)
    assert np.abs(top - whole(stack, x)).max() < 1e-13


@NATIVE
def test_compiled_and_torch_agree_and_padding_stays_zero():
    stack = stack_of("gru", 3, 13, 2)
    x = numbers(9, 30, 3)
    compiled, plain = StackStep(stack, x), StackStep(stack, x, native=False)
    assert compiled.compiled and not plain.compiled
    assert np.abs(compiled.advance(0, 0, 30) - plain.advance(0, 0, 30)).max() < 1e-13
    assert not compiled.hidden[..., 13:].any()
    assert plain.hidden.shape[-1] == 13


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=NATIVE)])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_go_on_alike_and_apart(native, copied):
    stack = stack_of("lstm", 3, 13, 2)
    x = numbers(2, 8, 3)
    step = StackStep(stack, x, native=native)
    step.advance(0, 0, 5)
    twin = copied(step)
    step.hidden[...] = 0.0  # the twin has its own
    twin.advance(5, 0, 3)
    assert np.abs(twin.top[:, :13] - whole(stack, x)).max() < 1e-13
    assert twin.compiled == step.compiled


@NATIVE
def test_without_the_library_torch_takes_over_from_a_pickle(monkeypatch):
    stack = stack_of("lstm", 3, 13, 2)
    x = numbers(2, 8, 3)
    step = StackStep(stack, x)
    step.advance(0, 0, 5)
    saved = pickle.dumps(step)
    monkeypatch.setattr(module, "library", lambda: None)
    twin = pickle.loads(saved)  # noqa: S301
    assert not twin.compiled
    assert np.abs(twin.advance(5, 0, 3) - whole(stack, x)).max() < 1e-13
