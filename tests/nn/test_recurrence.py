"""Fused recurrent layers against the equations: values, gradients and precision.

The oracles are written from the equations: one number at a time in NumPy, and step by step in
torch's operations, in float64, for the gradients. Every test runs on each instruction set that the
compiled library has here, and without the library.

Precision is the largest error of a tensor's elements in units of its scale, which is its largest
absolute element. A gradient is a sum of products that may cancel, and its scale is at least the
largest of these: the largest gradient with respect to what the gates take, for the inputs and the
first states times the largest weight.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnforecast.nn import _kernels, cell_class
from rnnforecast.nn import library as _library

CELLS = ["rnn", "lstm", "peephole", "gru"]
GATES = {"rnn": 1, "lstm": 4, "peephole": 4, "gru": 3}
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "peephole")
PRECISION = 2e-6


# which kernels


def instruction_sets():
    library = _library.library()
    if library is None:
        return []
    best = library.rnnf_isa()
    found = [n for n in ("avx512", "avx2", "generic") if library.rnnf_set_isa(n.encode()) == 0]
    assert library.rnnf_set_isa(best) == 0
    return found


NATIVE = instruction_sets()
needs_native = pytest.mark.skipif(not NATIVE, reason=_library.status().reason)
every_path = pytest.mark.parametrize("path", [*NATIVE, "torch"])
paths = pytest.mark.parametrize("path", [*NATIVE[:1], "torch"])


@contextlib.contextmanager
def using(path):
    """The kernels of one instruction set, or none."""
    library = _library.library()
    with pytest.MonkeyPatch.context() as patch:
        if path == "torch":
            patch.setattr(_library, "library", lambda: None)
            yield
            return
        best = library.rnnf_isa()
        assert library.rnnf_set_isa(path.encode()) == 0
        try:
            yield
        finally:
            library.rnnf_set_isa(best)


# the oracles


def sigma(a):
    return 1 / (1 + math.exp(-a))


def by_the_equations(cell, x, h0, c0, p, reverse):
    """One number at a time. x: (batch, time, inputs); returns outputs, last h, last c."""
    batch, time, inputs = x.shape
    hidden = p["w_hh"].shape[1]
    out, h_n, c_n = np.zeros((batch, time, hidden)), h0.copy(), c0.copy()
    for b in range(batch):
        h, c = list(h0[b]), list(c0[b])
        for t in reversed(range(time)) if reverse else range(time):

            def of_input(row):
                return p["b_ih"][row] + sum(p["w_ih"][row, k] * x[b, t, k] for k in range(inputs))  # noqa: B023

            def of_state(row):
                return p["b_hh"][row] + sum(p["w_hh"][row, k] * h[k] for k in range(hidden))  # noqa: B023

            new_h, new_c = [], []
            for j in range(hidden):
                if cell == "rnn":  # Elman 1990
                    new_h.append(math.tanh(of_input(j) + of_state(j)))
                    new_c.append(c[j])
                elif cell == "gru":  # Cho et al. 2014; the reset gate acts on the recurrent product
                    r = sigma(of_input(j) + of_state(j))
                    z = sigma(of_input(hidden + j) + of_state(hidden + j))
                    n = math.tanh(of_input(2 * hidden + j) + r * of_state(2 * hidden + j))
                    new_h.append((1 - z) * n + z * h[j])
                    new_c.append(c[j])
                else:  # Gers et al. 2000; with peepholes Graves 2013, eq. 7 to 11
                    see = p["peephole"] if cell == "peephole" else np.zeros((3, hidden))
                    i, f, g, o = (of_input(q * hidden + j) + of_state(q * hidden + j)
                                  for q in range(4))  # fmt: skip
                    cj = (sigma(f + see[1, j] * c[j]) * c[j]
                          + sigma(i + see[0, j] * c[j]) * math.tanh(g))  # fmt: skip
                    new_h.append(sigma(o + see[2, j] * cj) * math.tanh(cj))
                    new_c.append(cj)
            h, c = new_h, new_c
            out[b, t] = h
        h_n[b], c_n[b] = h, c
    return out, h_n, c_n


def step_by_step(cell, x, h0, c0, p, reverse, sums=None):
    """The same in torch's operations; ``sums`` collects what the gates take."""
    h = torch.zeros(x.shape[0], p["w_hh"].shape[1], dtype=x.dtype) if h0 is None else h0
    c = torch.zeros_like(h) if c0 is None else c0
    outs = [h] * x.shape[1]
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        a = x[:, t] @ p["w_ih"].T
        u = h @ p["w_hh"].T
        if p.get("b_ih") is not None:
            a, u = a + p["b_ih"], u + p["b_hh"]
        if sums is not None:
            sums += [a, u]
        if cell == "rnn":
            h = (a + u).tanh()
        elif cell == "gru":
            (ar, az, an), (ur, uz, un) = a.chunk(3, 1), u.chunk(3, 1)
            z = (az + uz).sigmoid()
            h = (1 - z) * (an + (ar + ur).sigmoid() * un).tanh() + z * h
        else:
            i, f, g, o = (a + u).chunk(4, 1)
            see = p["peephole"] if cell == "peephole" else torch.zeros(3, h.shape[1], dtype=x.dtype)
            c = (f + see[1] * c).sigmoid() * c + (i + see[0] * c).sigmoid() * g.tanh()
            h = (o + see[2] * c).sigmoid() * c.tanh()
        outs[t] = h
    out = torch.stack(outs, 1) if outs else x.new_zeros(x.shape[0], 0, h.shape[1])
    return out, h, c


# calls


def draw(cell, batch, time, inputs, hidden, seed=0, bias=True, states=True):
    """Inputs of a call in float64, of the sizes that training meets."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return (torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1) / hidden**0.5

    rows = GATES[cell] * hidden
    call = {
        "x": torch.randn(batch, time, inputs, generator=generator, dtype=torch.float64),
        "h0": uniform(batch, hidden) if states else None,
        "c0": uniform(batch, hidden) * 3 if states and cell in ("lstm", "peephole") else None,
        "w_ih": uniform(rows, inputs),
        "w_hh": uniform(rows, hidden),
        "b_ih": uniform(rows) if bias else None,
        "b_hh": uniform(rows) if bias else None,
        "peephole": uniform(3, hidden) if cell == "peephole" else None,
    }
    # numbers that float32 holds, so that both precisions compute from the same
    return {k: None if v is None else v.float().double() for k, v in call.items()}


def native(cell, call, reverse=False):
    kind = cell_class("lstm_peephole" if cell == "peephole" else cell)
    state = (call["h0"], call["c0"])[: kind.n_states]
    weights = tuple(call[name] for name in WEIGHTS)
    outputs, last = _kernels.run(kind, call["x"], state, weights, (reverse,))
    return outputs, last[0], last[1] if kind.n_states == 2 else None


def as_leaves(call, dtype=torch.float64, wanted=None):
    return {
        k: None if v is None else v.to(dtype).clone().requires_grad_(wanted is None or k in wanted)
        for k, v in call.items()
    }


def reference(cell, call, reverse=False):
    leaves = as_leaves(call)
    sums: list[torch.Tensor] = []
    p = {k: leaves[k] for k in WEIGHTS}
    out, h, c = step_by_step(cell, leaves["x"], leaves["h0"], leaves["c0"], p, reverse, sums)
    return leaves, (out, h, c) if c0_counts(cell) else (out, h), sums


def c0_counts(cell):
    return cell in ("lstm", "peephole")


def cotangents(results, seed=1):
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in results]
    return [grad.float().double() for grad in grads]


def gradients(leaves, results, grads):
    wanted = [k for k, v in leaves.items() if v is not None and v.requires_grad]
    found = torch.autograd.grad(
        [r for r in results if r.requires_grad],
        [leaves[k] for k in wanted],
        [g.to(r.dtype) for r, g in zip(results, grads) if r.requires_grad],
        allow_unused=True,
        retain_graph=True,
    )
    return {k: g for k, g in zip(wanted, found) if g is not None}


def error(got, expected, at_least=0.0):
    if expected.numel() == 0:
        assert got.shape == expected.shape
        return 0.0
    scale = max(expected.abs().max().item(), at_least)
    worst = (got.double() - expected).abs().max().item()
    return worst / scale if scale else worst


def compare(cell, call, dtype, tolerance, reverse=False, view=None):
    """Values and all gradients of a call, against the step-by-step computation in float64."""
    ours = as_leaves(call, dtype)
    seen = {**ours, **({"x": view(ours["x"])} if view else {})}
    results = [r for r in native(cell, seen, reverse) if r is not None]
    leaves, expected, sums = reference(cell, call, reverse)
    if view:
        sums = []
        p = {k: leaves[k] for k in WEIGHTS}
        expected = step_by_step(
            cell, view(leaves["x"]), leaves["h0"], leaves["c0"], p, reverse, sums
        )[: len(expected)]
    assert len(results) == len(expected)
    for name, got, want in zip(("outputs", "h_n", "c_n"), results, expected):
        assert got.dtype == dtype and got.shape == want.shape, name
        assert error(got, want) < tolerance, (name, error(got, want))
    grads = cotangents(expected)
    got = gradients(ours, results, grads)
    want = gradients(leaves, expected, grads)
    terms = torch.autograd.grad(expected, sums, grads, allow_unused=True) if sums else []
    floor = max((t.abs().max().item() for t in terms if t is not None and t.numel()), default=0.0)
    for name, value in want.items():
        if name not in got:  # what no result depends on: None from one, zeros from the other
            assert not value.any(), name
            continue
        largest = (
            1.0 if name in WEIGHTS else call[{"x": "w_ih"}.get(name, "w_hh")].abs().max().item()
        )
        found = error(got[name], value, floor * largest)
        assert found < tolerance, (name, found)


# values


@every_path
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_values_follow_the_equations(cell, reverse, path):
    call = draw(cell, batch=3, time=5, inputs=2, hidden=6, seed=5)
    arrays = {k: np.zeros((3, 6)) if v is None else v.numpy() for k, v in call.items()}
    p = {k: arrays[k] for k in WEIGHTS}
    expected = by_the_equations(cell, arrays["x"], arrays["h0"], arrays["c0"], p, reverse)
    with using(path):
        got = native(cell, call, reverse)
    for one, want in zip(got, expected):
        if one is not None:
            np.testing.assert_allclose(one.numpy(), want, rtol=0, atol=1e-13)
    for one, want in zip(reference(cell, call, reverse)[1], expected):  # the other oracle agrees
        np.testing.assert_allclose(one.detach().numpy(), want, rtol=0, atol=1e-13)


# precision

LAYOUTS = {
    "plain": None,
    "time first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second feature": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "one row for all": lambda x: x[:1].expand(x.shape),
    "one step for all": lambda x: x[:, :1].expand(x.shape),
    "features first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "part of more": lambda x: torch.cat([x, x, x], dim=1)[:, 1 : 1 + x.shape[1]],
}

shapes = st.fixed_dictionaries(
    {
        "batch": st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 65])),
        "time": st.integers(1, 12),
        "inputs": st.one_of(st.integers(1, 9), st.sampled_from([16, 33])),
        "hidden": st.one_of(st.integers(2, 20), st.sampled_from([31, 32, 33, 64])),
        "seed": st.integers(0, 1000),
        "bias": st.booleans(),
        "states": st.booleans(),
    }
)


@every_path
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(shape=shapes, reverse=st.booleans(), layout=st.sampled_from(sorted(LAYOUTS)))
def test_float32_is_within_its_precision_of_float64(cell, path, shape, reverse, layout):
    with using(path):
        compare(cell, draw(cell, **shape), torch.float32, PRECISION, reverse, LAYOUTS[layout])


@paths
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(shape=shapes, reverse=st.booleans(), layout=st.sampled_from(sorted(LAYOUTS)))
def test_float64_is_exact(cell, path, shape, reverse, layout):
    with using(path):
        compare(cell, draw(cell, **shape), torch.float64, 1e-13, reverse, LAYOUTS[layout])


@needs_native
@pytest.mark.parametrize("cell", CELLS)
def test_a_training_size_keeps_the_precision(cell):
    call = draw(cell, batch=96, time=72, inputs=24, hidden=64, seed=3)
    compare(cell, call, torch.float32, PRECISION)


@needs_native
@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_keep_the_precision(cell):
    call = draw(cell, batch=17, time=6, inputs=5, hidden=21, seed=4)
    call["x"] *= 30.0
    compare(cell, call, torch.float32, PRECISION)
    call["x"] *= 1e-4
    compare(cell, call, torch.float32, PRECISION)


# gradients by finite differences


@every_path
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck(cell, states, reverse, path):
    call = draw(cell, batch=2, time=2, inputs=1, hidden=3, seed=7, states=states, bias=states)
    leaves = as_leaves(call)
    given_names = [name for name, value in leaves.items() if value is not None]

    def function(*values):
        return [
            one
            for one in native(cell, {**leaves, **dict(zip(given_names, values))}, reverse)
            if one is not None
        ]

    with using(path):
        assert torch.autograd.gradcheck(function, tuple(leaves[name] for name in given_names))


@paths
@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives(cell, path):
    call = draw(cell, batch=2, time=2, inputs=1, hidden=2, seed=8)
    leaves = as_leaves(call)
    names = [name for name, value in leaves.items() if value is not None]

    def function(*values):
        return native(cell, {**leaves, **dict(zip(names, values))})[0]

    with using(path):
        assert torch.autograd.gradgradcheck(function, tuple(leaves[name] for name in names))


# the edges


@every_path
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("batch", "time"), [(3, 0), (3, 1), (1, 1), (0, 3), (0, 0)])
def test_empty_and_one_step_sequences(cell, batch, time, path):
    call = draw(cell, batch, time, inputs=2, hidden=3, seed=9)
    with using(path):
        if batch:
            compare(cell, call, torch.float64, 1e-13)
            return
        try:
            results = native(cell, as_leaves(call))
        except RuntimeError:
            assert path == "torch"  # torch's own layers refuse an empty batch
            return
    assert results[0].shape == (0, time, 3) and results[1].shape == (0, 3)


@paths
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_and_infinity_go_the_same_way_as_in_torch(cell, value, dtype, path):
    call = draw(cell, batch=4, time=6, inputs=3, hidden=5, seed=10)
    call["x"][1, 2, 0] = value
    call["h0"][2, 1] = math.nan  # an infinite state is no result of any of these cells
    with using(path):
        got = native(cell, {k: None if v is None else v.to(dtype) for k, v in call.items()})
    expected = reference(cell, call)[1]
    for one, want in zip(got, expected):
        torch.testing.assert_close(one.double(), want, equal_nan=True, rtol=1e-5, atol=1e-6)
    assert got[0][[0, 3]].isfinite().all()  # the other rows know nothing of it


@paths
@pytest.mark.parametrize("cell", CELLS)
def test_a_large_gradient_and_no_gradient(cell, path):
    """Results that nobody uses bring no gradient, whatever the others bring."""
    call = draw(cell, batch=5, time=4, inputs=3, hidden=7, seed=11)
    with using(path):
        for use in range(3 if c0_counts(cell) else 2):
            ours = as_leaves(call)
            leaves, expected, _ = reference(cell, call)
            got = gradients(ours, [native(cell, ours)[use]], [torch.full_like(expected[use], 1e6)])
            want = gradients(leaves, [expected[use]], [torch.full_like(expected[use], 1e6)])
            for name in want:
                value = got.get(name, torch.zeros_like(want[name]))
                torch.testing.assert_close(value, want[name], rtol=1e-11, atol=1e-5)


# the graph


@paths
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "wanted",
    [("x",), ("h0",), ("c0",), ("w_ih",), ("w_hh", "b_hh"), ("b_ih",), ("peephole",), ("x", "h0")],
)
def test_only_some_inputs_want_a_gradient(cell, wanted, path):
    call = draw(cell, batch=3, time=4, inputs=2, hidden=5, seed=12)
    wanted = [name for name in wanted if call[name] is not None]
    if not wanted:
        pytest.skip("this cell has no such input")
    leaves, expected, _ = reference(cell, call)
    grads = cotangents(expected)
    full = gradients(leaves, expected, grads)
    with using(path):
        ours = as_leaves(call, wanted=wanted)
        got = gradients(ours, [r for r in native(cell, ours) if r is not None], grads)
    assert set(got) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(got[name], full[name], rtol=1e-11, atol=1e-12)


@paths
@pytest.mark.parametrize("cell", CELLS)
def test_two_forwards_before_the_backwards_and_a_graph_kept(cell, path):
    calls = [draw(cell, batch=40, time=16, inputs=8, hidden=32, seed=s) for s in (13, 14)]
    references = [reference(cell, call) for call in calls]
    grads = cotangents(references[0][1])
    expected = [gradients(leaves, results, grads) for leaves, results, _ in references]
    with using(path):
        ours = [as_leaves(call) for call in calls]
        results = [[r for r in native(cell, leaves) if r is not None] for leaves in ours]
        for _ in range(2):  # the second time from the same graph
            for k in (1, 0):
                for leaf in ours[k].values():
                    if leaf is not None:
                        leaf.grad = None
                torch.autograd.backward(results[k], grads, retain_graph=True)
                for name, want in expected[k].items():
                    torch.testing.assert_close(ours[k][name].grad, want, rtol=1e-10, atol=1e-11)


@paths
@pytest.mark.parametrize("cell", CELLS)
def test_inference_gives_the_same_and_no_graph(cell, path):
    call = draw(cell, batch=33, time=7, inputs=3, hidden=17, seed=15)
    with using(path):
        leaves = as_leaves(call, torch.float32)
        trained = native(cell, leaves)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                for one, other in zip(native(cell, leaves), trained):
                    if one is not None:
                        assert not one.requires_grad
                        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-7)


@paths
def test_results_may_be_changed_in_place_without_harm(path):
    """The graph notices, as torch's own does, or does not depend on them."""
    call = draw("gru", batch=3, time=4, inputs=2, hidden=5, seed=16)
    with using(path):
        ours = as_leaves(call)
        out, h_n, _ = native("gru", ours)
        h_n.mul_(2)
        leaves, expected, _ = reference("gru", call)
        grads = cotangents(expected[:1])
        got, want = gradients(ours, [out], grads), gradients(leaves, expected[:1], grads)
        for name in got:
            torch.testing.assert_close(got[name], want[name], rtol=1e-10, atol=1e-11)
        out, _, _ = native("gru", ours)
        out.mul_(2)
        try:
            got = gradients(ours, [out], grads)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            return
    for name in got:
        torch.testing.assert_close(got[name], 2 * want[name], rtol=1e-10, atol=1e-11)


@paths
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_again(cell, path):
    call = draw(cell, batch=70, time=20, inputs=9, hidden=33, seed=17)
    with using(path):
        runs = []
        for _ in range(3):
            ours = as_leaves(call, torch.float32)
            results = [r for r in native(cell, ours) if r is not None]
            grads = cotangents(results)
            runs.append([*results, *gradients(ours, results, grads).values()])
        for run in runs[1:]:
            assert all(torch.equal(one, other) for one, other in zip(run, runs[0]))
