"""The wider family of cells against the equations of their papers, and at home everywhere.

Each oracle is one step of one sequence, in NumPy and float64, with the names of the paper. sLSTM
and mLSTM are the plain exponential equations there: the stabilised ones of the code must equal
them.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.special import erf
from scipy.stats import kstest

from rnnforecast.nn import CELLS, Cell, RecurrentStack, initialise, linear_cells, set_precision
from rnnforecast.nn.linear_cells import LinearCell, linear_scan

# -- the papers ------------------------------------------------------------------------------------


def sigma(a):
    return 1 / (1 + np.exp(-a))


def gru_cho(p, x, h):
    """Cho et al. 2014, eq. 5 to 8; the paper leaves its biases out."""
    r = sigma(p.W_r @ x + p.U_r @ h + p.b_r)
    z = sigma(p.W_z @ x + p.U_z @ h + p.b_z)
    new = np.tanh(p.W @ x + p.U @ (r * h) + p.b)
    h = z * h + (1 - z) * new
    return h, (h,)


def mgu(p, x, h):
    """Zhou et al. 2016, section 3, but for one place: the paper's candidate sees z h."""
    z = sigma(p.W_z @ x + p.U_z @ h + p.b_z)
    new = np.tanh(p.W @ x + p.U @ ((1 - z) * h) + p.b)
    h = (1 - z) * h + z * new
    return h, (h,)


def indrnn(p, x, h):
    """Li et al. 2018, eq. 2, with ReLU."""
    h = np.maximum(p.W @ x + p.u * h + p.b, 0)
    return h, (h,)


def slstm(p, x, h, c, n):
    """Beck et al. 2024, eq. 8 to 14, the forget gate a sigmoid."""
    z = np.tanh(p.W_z @ x + p.R_z @ h + p.b_z)
    i = np.exp(p.W_i @ x + p.R_i @ h + p.b_i)
    f = sigma(p.W_f @ x + p.R_f @ h + p.b_f)
    o = sigma(p.W_o @ x + p.R_o @ h + p.b_o)
    c = f * c + i * z
    n = f * n + i
    h = o * (c / n)
    return h, (h, c, n)


def mlstm(p, x, C, n):
    """Beck et al. 2024, eq. 19 to 27, head by head, the forget gate a sigmoid."""
    outputs, C, n = [], C.copy(), n.copy()
    for k, head in enumerate(p.heads):
        query = head.W_q @ x + head.b_q
        key = head.W_k @ x / np.sqrt(len(query)) + head.b_k
        value = head.W_v @ x + head.b_v
        i = np.exp(head.w_i @ x + head.b_i)
        f = sigma(head.w_f @ x + head.b_f)
        o = sigma(head.W_o @ x + head.b_o)
        C[k] = f * C[k] + i * np.outer(value, key)
        n[k] = f * n[k] + i * key
        outputs.append(o * (C[k] @ query) / max(abs(n[k] @ query), 1))
    return np.concatenate(outputs), (C, n)


def mingru(p, x, h):
    """Feng et al. 2024, section 3.1."""
    z = sigma(p.W_z @ x + p.b_z)
    h = (1 - z) * h + z * (p.W_h @ x + p.b_h)
    return h, (h,)


def minlstm(p, x, h):
    """Feng et al. 2024, section 3.2."""
    f = sigma(p.W_f @ x + p.b_f)
    i = sigma(p.W_i @ x + p.b_i)
    h = f / (f + i) * h + i / (f + i) * (p.W_h @ x + p.b_h)
    return h, (h,)


def lru(p, x, h):
    """Orvieto et al. 2023, eq. 2 with the parameters of eq. 6 and 7, then GELU and a gated linear
    unit (Dauphin et al. 2017, eq. 1).
    """
    eigenvalues = np.exp(-np.exp(p.nu) + 1j * np.exp(p.theta))
    h = eigenvalues * h + np.exp(p.gamma) * (p.B @ x)
    y = (p.C @ h).real + p.D @ x
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    return (p.W @ y + p.b) * sigma(p.W_gate @ y + p.b_gate), (h,)


ORACLES = {o.__name__: o for o in (gru_cho, mgu, indrnn, slstm, mlstm, mingru, minlstm, lru)}
NAMES = [*ORACLES]
family = pytest.mark.parametrize("name", NAMES)
# those that do not read a sequence with the plain loop
own_scan = pytest.mark.parametrize("name", [n for n in NAMES if CELLS[n].scan is not Cell.scan])


# -- the parameters and states of the code, by the names of the papers -----------------------------


class Named(dict):
    __getattr__ = dict.__getitem__


def parts(linear, ends):
    """The matrices and biases side by side in one linear layer, such as W_r and b_r."""
    found = Named()
    for letter, whole in (("W", linear.weight), ("b", linear.bias)):
        for end, part in zip(ends, np.split(array(whole), len(ends))):
            found[letter + end] = part
    return found


def array(tensor):
    return tensor.detach().numpy()


def parameters(name, cell):
    if name == "gru_cho":
        p = parts(cell.input, ["_r", "_z", ""])
        p["U_r"], p["U_z"] = np.split(array(cell.gates.weight), 2)
        p["U"] = array(cell.recurrent.weight)
    elif name == "mgu":
        p = parts(cell.input, ["_z", ""])
        p["U_z"], p["U"] = array(cell.gate.weight), array(cell.recurrent.weight)
    elif name == "indrnn":
        p = parts(cell.input, [""])
        p["u"] = array(cell.recurrent)
    elif name == "slstm":
        p = parts(cell.input, ["_i", "_f", "_z", "_o"])
        for gate, blocks in zip("ifzo", array(cell.recurrent)):
            p[f"R_{gate}"] = block_diag(*blocks.swapaxes(-1, -2))
    elif name == "mlstm":
        whole, gates = parts(cell.input, ["_q", "_k", "_v", "_o"]), parts(cell.gates, ["_i", "_f"])
        p = Named(heads=[Named() for _ in range(cell.heads)])
        for k, head in enumerate(p.heads):
            head.update({name: np.split(value, cell.heads)[k] for name, value in whole.items()})
            head["b_k"] = head["b_k"] / np.sqrt(len(head["b_k"]))  # the code divides it too
            head.update({name.replace("W", "w"): value[k] for name, value in gates.items()})
    elif name == "mingru":
        p = parts(cell.input, ["_z", "_h"])
    elif name == "minlstm":
        p = parts(cell.input, ["_f", "_i", "_h"])
    else:
        p = parts(cell.gate, ["", "_gate"])
        p["nu"], p["theta"], p["gamma"] = map(array, (cell.decay, cell.angle, cell.gain))
        real, imaginary = np.split(array(cell.input.weight), 2)
        of_real, of_imaginary = np.split(array(cell.output.weight), 2, axis=1)
        p["B"], p["C"] = real + 1j * imaginary, of_real - 1j * of_imaginary
        p["D"] = array(cell.direct.weight)
    return p


def plain(name, state):
    """One row's state as the paper has it: not divided by exp(m), complex in one."""
    parts = [array(s) for s in state]
    if name == "slstm":
        h, c, n, m = parts
        return h, c * np.exp(m), n * np.exp(m)
    if name == "mlstm":
        C, n, m = parts
        return C * np.exp(m)[:, None, None], n * np.exp(m)[:, None]
    if name == "lru":
        return (parts[0] + 1j * parts[1],)
    return tuple(parts)


def by_the_paper(name, cell, x, state=None):
    """Outputs (batch, time, hidden_size) and each row's state, one step of one row at a time."""
    p = parameters(name, cell)
    state = cell.first(x) if state is None else state
    outputs, states = np.zeros((*x.shape[:2], cell.hidden_size)), []
    for row in range(len(x)):
        own = plain(name, [s[row] for s in state])
        for t in range(x.shape[1]):
            outputs[row, t], own = ORACLES[name](p, array(x[row, t]), *own)
        states.append(own)
    return outputs, states


def assert_states(name, state, expected):
    for row, theirs in enumerate(expected):
        for one, other in zip(plain(name, [s[row] for s in state]), theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


# -- cells and sequences ---------------------------------------------------------------------------


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn(module, seed=0, size=0.7):
    """The module with every parameter drawn anew: no gate is blind, no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, size, generator=generator)
    return module


def of(name, inputs=3, hidden=6, seed=0):
    return drawn(CELLS[name](inputs, hidden).double(), seed)


def a_state(cell, batch, seed=5):
    """One that some steps lead to."""
    with torch.no_grad():
        return Cell.scan(cell, random(batch, 4, cell.input_size, seed=seed))[1]


def train(function, parameters, x, state=()):
    """Results and all gradients of one backward pass."""
    x, state = x.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in state)
    outputs, last = function(x, state or None)
    results = [r for r in (outputs, *last) if r.requires_grad]
    weights = [random(*r.shape, seed=k, dtype=r.dtype) for k, r in enumerate(results)]
    leaves = [x, *state, *parameters]
    found = torch.autograd.grad(results, leaves, weights, materialize_grads=True, allow_unused=True)
    return [outputs.detach(), *(s.detach() for s in last), *found]


# -- against the papers ----------------------------------------------------------------------------


@family
@pytest.mark.parametrize("hidden", [1, 5, 6, 8])  # heads of one and of several
@pytest.mark.parametrize("given", [False, True])
def test_steps_and_scan_are_the_papers(name, hidden, given):
    cell = of(name, 3, hidden)
    x, state = random(2, 7, 3), a_state(cell, 2) if given else None
    expected, states = by_the_paper(name, cell, x, state)
    outputs, last = cell.scan(x, state)
    np.testing.assert_allclose(array(outputs), expected, rtol=1e-11, atol=1e-13)
    assert_states(name, last, states)
    state = cell.first(x) if state is None else state
    for t in range(x.shape[1]):
        out, state = cell.step(x[:, t], state)
        np.testing.assert_allclose(array(out), expected[:, t], rtol=1e-11, atol=1e-13)
    assert_states(name, state, states)


@family
@pytest.mark.parametrize("both", [False, True])
def test_a_stack_is_the_papers_layer_by_layer(name, both):
    stack = drawn(RecurrentStack(name, 3, 4, 2, both).double())
    x = rows = random(2, 6, 3)
    for layer in stack.layers:
        if both:
            ahead, _ = by_the_paper(name, layer.ahead, rows)
            back, _ = by_the_paper(name, layer.back, rows.flip(1))
            rows = np.concatenate([ahead, back[:, ::-1]], -1)
            last = np.concatenate([ahead[:, -1], back[:, -1]], -1)
        else:
            rows, _ = by_the_paper(name, layer, rows)
            last = rows[:, -1]
        rows = torch.from_numpy(rows)
    outputs, end = stack(x)
    np.testing.assert_allclose(array(outputs), rows, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(array(end), last, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("time", [3, 63, 64, 65, 131])
def test_chunks_of_an_mlstm_are_the_papers_on_both_sides_of_its_bound(time):
    """n q is less than 1 in some places, which then is what is divided by, and more in others."""
    cell = of("mlstm", 3, 8)
    x = random(2, time, 3)
    expected, states = by_the_paper("mlstm", cell, x)
    outputs, last = cell.scan(x)
    np.testing.assert_allclose(array(outputs), expected, rtol=1e-10, atol=1e-12)
    assert_states("mlstm", last, states)
    query = np.split(array(cell.input(x[:, -1])), 4, axis=-1)[0].reshape(2, 4, 2)
    sizes = np.abs([(n * q).sum(-1) for q, (_, n) in zip(query, states)])
    assert (sizes < 1).any() and (sizes > 1).any()


def test_activations_of_an_indrnn():
    cell = drawn(CELLS["indrnn"](3, 4, activation="tanh").double())
    p, x, h = parameters("indrnn", cell), random(1, 3), random(1, 4, seed=1)
    expected = np.tanh(p.W @ array(x[0]) + p.u * array(h[0]) + p.b)
    np.testing.assert_allclose(array(cell.step(x, (h,))[0][0]), expected, rtol=1e-12)


# -- as any cell -----------------------------------------------------------------------------------


@own_scan
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3, 1]])
@pytest.mark.parametrize("time", [0, 1, 2, 3, 5, 67])
def test_scan_and_its_gradients_are_the_plain_loops(name, time, lengths, given):
    cell = of(name)
    x, state = random(4, time, 3), a_state(cell, 4) if given else ()
    if lengths is not None:
        lengths = torch.tensor([time, *lengths[1:]]).clamp(max=time)
    found = train(partial(cell.scan, lengths=lengths), list(cell.parameters()), x, state)
    loop = partial(Cell.scan, cell, lengths=lengths)
    expected = train(loop, list(cell.parameters()), x, state)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@family
@pytest.mark.parametrize("time", [0, 1, 2, 13])
def test_one_row_alone_is_the_row_among_others(name, time):
    cell = of(name)
    x = random(3, time, 3)
    outputs, state = cell.scan(x)
    alone, own = cell.scan(x[1:2])
    torch.testing.assert_close(outputs[1:2], alone)
    for whole, one in zip(state, own):
        torch.testing.assert_close(whole[1:2], one)


@family
@pytest.mark.parametrize("both", [False, True])
def test_padded_steps_change_no_bit(name, both):
    time = 5 if CELLS[name].scan is Cell.scan else 67
    stack = drawn(RecurrentStack(name, 3, 4, 2, both), size=0.3)
    x = random(4, time, 3, dtype=torch.float32)
    lengths = torch.tensor([time, 0, 3, 1])
    found = []
    for filling in (0.0, 7e8, math.nan):
        for row, n in enumerate(lengths):
            x[row, n:] = filling
        moved = x.clone().requires_grad_()
        outputs, last = stack(moved, lengths)
        _, state = stack.scan(x, lengths=lengths)
        for row, n in enumerate(lengths):
            assert not outputs[row, n:].any()
        grads = torch.autograd.grad(outputs.sum() + last.sum(), [moved, *stack.parameters()])
        assert all(g.isfinite().all() for g in grads)
        found.append([outputs, last, *(s for layer in state for s in layer), *grads])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@family
def test_a_row_without_steps_keeps_its_state(name):
    cell = of(name)
    x, lengths = random(2, 5, 3), torch.tensor([0, 5])
    for state in (cell.first(x), a_state(cell, 2)):
        _, last = cell.scan(x, state, lengths)
        for before, after in zip(state, last):
            torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)


@family
@pytest.mark.parametrize("cuts", [(1,), (4, 4), (1, 2, 3)])
def test_any_split_gives_the_same(name, cuts):
    stack = drawn(RecurrentStack(name, 3, 4, 2).double())
    x = random(2, 9 if CELLS[name].scan is Cell.scan else 68, 3)
    whole, end = stack.scan(x)
    outputs, state = [], None
    for part in x.tensor_split(cuts, 1):
        out, state = stack.scan(part, state)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    for one, other in zip(sum(state, ()), sum(end, ()), strict=True):
        torch.testing.assert_close(one, other)


@family
def test_copies_and_pickles_are_equal_and_independent(name):
    stack = drawn(RecurrentStack(name, 3, 4, 2, True))
    x = random(2, 5, 3, dtype=torch.float32)
    expected = stack(x)[0]
    for other in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):  # noqa: S301
        assert torch.equal(other(x)[0], expected)
        drawn(other, seed=1)
        assert not torch.equal(other(x)[0], expected)
    assert torch.equal(stack(x)[0], expected)


# -- where they begin ------------------------------------------------------------------------------


def begun(name, inputs, hidden):
    cell = CELLS[name](inputs, hidden)
    initialise(cell, torch.Generator().manual_seed(0))
    return cell


def test_an_lru_begins_within_the_unit_circle():
    """Orvieto et al. 2023, lemma 3.2 and eq. 7: uniform on a ring, inputs normalised."""
    cell, generator = CELLS["lru"](3, 500).double(), torch.Generator().manual_seed(0)
    drawings = []
    for _ in range(80):
        cell.reset(generator)
        p = parameters("lru", cell)
        drawings.append(np.exp(-np.exp(p.nu) + 1j * np.exp(p.theta)))
        np.testing.assert_allclose(np.exp(p.gamma), np.sqrt(1 - abs(drawings[-1]) ** 2), rtol=1e-3)
    size, phase = np.abs(drawings).ravel(), np.angle(drawings).ravel()
    assert (size >= 0.9).all() and (size <= 0.999).all()
    assert (phase > 0).all() and (phase <= np.pi / 10 + 1e-5).all()
    # uniform on the ring: the square of the size is, and so is the phase
    for values, low, high in ((size**2, 0.9**2, 0.999**2), (phase, 0, np.pi / 10)):
        share = (values - low) / (high - low)
        assert kstest(share.clip(0, 1), "uniform").pvalue > 1e-3
    share = (size - 0.9) / 0.099
    assert kstest(share.clip(0, 1), "uniform").pvalue < 1e-3  # so many can tell the two apart


@pytest.mark.parametrize("size", [0.7, 10.0])
def test_an_lru_stays_within_the_unit_circle(size):
    cell = drawn(CELLS["lru"](3, 50).double(), size=size)
    factor, _ = cell.coefficients(random(1, 3))
    assert (factor.abs() <= 1).all()


@family
def test_a_cell_can_be_used_as_it_is_made(name):
    """Like torch's own layers, it has weights before anybody fills them."""
    torch.manual_seed(0)
    for parameter in CELLS[name](3, 8).parameters():
        assert parameter.isfinite().all() and len(parameter.unique()) > 1
        assert parameter.abs().max() < 20
    torch.manual_seed(0)
    one = RecurrentStack(name, 3, 8, 2)
    torch.manual_seed(0)
    other = RecurrentStack(name, 3, 8, 2)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters()))


@pytest.mark.parametrize("name", ["slstm", "mlstm"])
def test_forget_gates_begin_open(name):
    cell = begun(name, 3, 8)
    bias = {"slstm": lambda: cell.input.bias[8:16], "mlstm": lambda: cell.gates.bias[4:]}[name]()
    assert bias.min() >= 3 and bias.max() <= 6 and len(bias.unique()) == len(bias)


def test_recurrent_weights_of_an_indrnn_begin_between_0_and_1():
    weight = begun("indrnn", 3, 500).recurrent
    assert 0 <= weight.min() < 0.1 and 0.9 < weight.max() <= 1


# -- extreme gates ---------------------------------------------------------------------------------


def gates_of(name, cell):
    """The layers that the gates and what they let in come from, and the gates of each side by
    side.
    """
    if name == "lru":
        return [(cell.gate, 2)]
    if name == "mlstm":
        return [(cell.input, 4), (cell.gates, 2)]
    return [(cell.input, len(cell.input.bias) // cell.hidden_size)]


@family
@pytest.mark.parametrize("size", [80.0, 300.0])
@pytest.mark.parametrize("by_steps", [False, True])
def test_extreme_gates_stay_finite(name, size, by_steps):
    """Far beyond what float32 takes the exponential of, in every combination of open and shut."""
    cell = drawn(CELLS[name](3, 16), size=0.3)
    for layer, n_gates in gates_of(name, cell):
        number = torch.arange(len(layer.bias))
        n_units = len(number) // n_gates
        wide = (number % n_units >> number // n_units) % 2 * 2 - 1
        with torch.no_grad():
            layer.weight[:, 0] = size * wide
    x = random(6, 13, 3, dtype=torch.float32)
    x[..., 0] = x[..., 0].sign()
    x[0, :, 0], x[1, :, 0] = 1, -1  # always the same ones
    scan = partial(Cell.scan, cell) if by_steps else cell.scan
    assert all(r.isfinite().all() for r in train(scan, list(cell.parameters()), x))


def test_an_mlstm_whose_query_is_zero_gives_zero():
    """n q = 0 and exp(-m) = 0 in float32, where the paper divides 0 by 1."""
    cell = drawn(CELLS["mlstm"](3, 8), size=0.3)
    with torch.no_grad():
        cell.input.weight[:8], cell.input.bias[:8], cell.gates.bias[:4] = 0.0, 0.0, 200.0
    x = random(2, 5, 3, dtype=torch.float32)
    for scan in (cell.scan, partial(Cell.scan, cell)):
        outputs, *rest = train(scan, list(cell.parameters()), x)
        assert not outputs.any() and all(r.isfinite().all() for r in rest)


# -- h_t = a_t h_{t-1} + b_t -----------------------------------------------------------------------

COMPLEX = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
WAYS = pytest.mark.parametrize("small", [0, 10**9], ids=["step by step", "chunks side by side"])


def by_loop(a, b, h):
    states = []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


@COMPLEX
@WAYS
@pytest.mark.parametrize("time", [1, 2, 3, 12, 13, 16, 17, 29, 30, 31, 97])
def test_a_linear_scan_is_its_loop(time, small, dtype, monkeypatch):
    monkeypatch.setattr(linear_cells, "_SMALL", small)
    monkeypatch.setattr(linear_cells, "_LONG", 5)
    given = [random(3, time, 4, dtype=dtype), random(3, time, 4, seed=1, dtype=dtype),
             random(3, 4, seed=2, dtype=dtype)]  # fmt: skip
    given[0][0, time // 2] = 0  # what was before is forgotten there
    weight = random(3, time, 4, seed=3, dtype=dtype)
    found = []
    for function in (linear_scan, by_loop):
        leaves = [g.clone().requires_grad_() for g in given]
        h = function(*leaves)
        found.append([h, *torch.autograd.grad(h, leaves, weight)])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@COMPLEX
@WAYS
def test_coefficients_broadcast(small, dtype, monkeypatch):
    monkeypatch.setattr(linear_cells, "_SMALL", small)
    monkeypatch.setattr(linear_cells, "_LONG", 5)
    a, b, h = random(4, dtype=dtype), random(3, 29, 4, dtype=dtype), random(3, 4, dtype=dtype)
    expected = by_loop(a.expand(3, 29, 4), b, h)
    torch.testing.assert_close(linear_scan(a.expand(1, 29, 4), b, h), expected)
    torch.testing.assert_close(linear_scan(a.expand(3, 1, 4), b, h), expected)
    torch.testing.assert_close(linear_scan(a.expand(1, 1, 4), b[:1], h[:1]), expected[:1])


@COMPLEX
@WAYS
@pytest.mark.parametrize("time", [1, 13])
def test_derivatives_of_a_linear_scan(time, small, dtype, monkeypatch):
    monkeypatch.setattr(linear_cells, "_SMALL", small)
    monkeypatch.setattr(linear_cells, "_LONG", 5)
    leaves = [random(1, time, 1, seed=k, dtype=dtype).requires_grad_() for k in range(2)]
    leaves.append(random(1, 1, seed=2, dtype=dtype).requires_grad_())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on parts of itself
        assert torch.autograd.gradcheck(linear_scan, leaves, check_forward_ad=True)
    for function in (
        linear_scan,
        lambda a, b, h: linear_scan(a, (1 - a) * b, h * a[:, 0]),  # of one another
    ):
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@WAYS
def test_a_linear_scan_neither_overflows_nor_loses_what_follows_a_shut_gate(small, monkeypatch):
    """Products of coefficients vanish, and are never divided by."""
    monkeypatch.setattr(linear_cells, "_SMALL", small)
    monkeypatch.setattr(linear_cells, "_LONG", 5)
    a = torch.tensor([0.0, 1e-30, 1.0, 0.9])[torch.randint(4, (2, 200, 3))]
    b, h = random(2, 200, 3, dtype=torch.float32), random(2, 3, dtype=torch.float32)
    found = linear_scan(a, b, h)
    torch.testing.assert_close(found.double(), by_loop(a.double(), b.double(), h.double()),
                               rtol=1e-5, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("small", [0, 10**9])
def test_inputs_of_a_linear_scan_stay_as_they_are(small, monkeypatch):
    monkeypatch.setattr(linear_cells, "_SMALL", small)
    monkeypatch.setattr(linear_cells, "_LONG", 5)
    given = random(2, 30, 3), random(2, 30, 3, seed=1), random(2, 3, seed=2)
    before = [g.clone() for g in given]
    linear_scan(*given)[:, 0] = 0.0
    assert all(torch.equal(a, b) for a, b in zip(given, before))


@pytest.mark.parametrize("small", [0, 10**9])
@pytest.mark.parametrize("name", [n for n in NAMES if issubclass(CELLS[n], LinearCell)])
def test_linear_cells_both_ways(name, small, monkeypatch):
    monkeypatch.setattr(linear_cells, "_SMALL", small)
    monkeypatch.setattr(linear_cells, "_LONG", 5)
    cell = of(name)
    x = random(3, 53, 3)
    lengths = torch.tensor([53, 20, 0])
    found, expected = (train(partial(scan, lengths=lengths), list(cell.parameters()), x)
                       for scan in (cell.scan, partial(Cell.scan, cell)))  # fmt: skip
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


# -- what torch does with every function -----------------------------------------------------------


@family
def test_second_derivatives(name):
    cell = of(name, 1, 2)
    x = random(1, 2, 1).requires_grad_()
    state = a_state(cell, 1)
    assert torch.autograd.gradgradcheck(lambda x: cell.scan(x, state)[0], (x,), fast_mode=True)


@family
def test_gradients_of_each_row(name):
    """Those of a batch at once through vmap, as differential privacy needs them."""
    stack = drawn(RecurrentStack(name, 2, 4).double(), size=0.3)
    weights, x = dict(stack.named_parameters()), random(3, 1, 17, 2)

    def size(weights, x):
        return torch.func.functional_call(stack, weights, (x,))[0].square().sum()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # of an operation in vmap
        together = torch.vmap(torch.func.grad(size), (None, 0))(weights, x)
    for row in range(3):
        alone = torch.autograd.grad(size(weights, x[row]), list(weights.values()))
        for one, other in zip(together.values(), alone, strict=True):
            torch.testing.assert_close(one[row], other)


@family
def test_automatic_mixed_precision(name):
    stack = drawn(RecurrentStack(name, 3, 8, 2), size=0.3)
    x, lengths = random(4, 11, 3, dtype=torch.float32), torch.tensor([11, 0, 3, 7])
    for own in (None, lengths):
        expected = stack(x, own)[0]
        set_precision(stack, torch.bfloat16)
        outputs, _ = stack(x, own)
        _, state = stack.scan(x[:, :9], lengths=None if own is None else own.clamp(max=9))
        stack.scan(x[:, 9:], state)
        set_precision(stack, None)
        assert outputs.dtype == torch.float32
        torch.testing.assert_close(outputs, expected, rtol=0.1, atol=0.05)
        outputs.sum().backward()
        assert all(p.grad.isfinite().all() for p in stack.parameters())
