"""Cells against torch's own layers and against their own steps, and at home everywhere."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
import sys
import threading
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from rnnforecast.exceptions import DataError
from rnnforecast.nn import (
    CELLS,
    Cell,
    RecurrentStack,
    _buffers,
    _kernels,
    cell_class,
    initialise,
    register_cell,
)
from rnnforecast.nn import library as _library

MODULES = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
ALL = ["rnn", "lstm", "lstm_peephole", "gru"]
needs_native = pytest.mark.skipif(_library.library() is None, reason=_library.status().reason)
cells = pytest.mark.parametrize("cell", MODULES)
every_cell = pytest.mark.parametrize("cell", ALL)
paths = pytest.mark.parametrize("path", [pytest.param("native", marks=needs_native), "torch"])


class Mixture(Cell):
    """A user's cell: linear layers, a plain parameter, and a state of its own shapes."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.read = nn.Linear(input_size + hidden_size, 2 * hidden_size)
        self.decay = nn.Parameter(torch.zeros(hidden_size, 3))

    def start(self, batch):
        return (
            torch.zeros(batch, self.hidden_size, 3),
            torch.zeros(batch, dtype=torch.int64),
        )

    def step(self, x, state):
        memory, count = state
        share, new = self.read(torch.cat([x, memory.mean(-1)], -1)).chunk(2, -1)
        rate = torch.sigmoid(self.decay)
        memory = rate * memory + (1 - rate) * (torch.sigmoid(share) * torch.tanh(new))[..., None]
        return memory.sum(-1) + 0.01 * count[:, None], (memory, count + 1)


@pytest.fixture
def use(monkeypatch):
    """Choose between the compiled library and none."""

    def choose(path):
        if path == "torch":
            monkeypatch.setattr(_library, "library", lambda: None)

    return choose


@pytest.fixture
def n_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def twins(cell, inputs, hidden, n_layers=1, both=False, dtype=torch.float64):
    """Our stack and torch's module with the same weights."""
    torch.manual_seed(3)
    theirs = MODULES[cell](
        inputs, hidden, n_layers, batch_first=True, bidirectional=both, dtype=dtype
    )
    ours = RecurrentStack(cell, inputs, hidden, n_layers, both).to(dtype)
    for depth, layer in enumerate(ours.layers):
        for part, suffix in (
            ((layer.ahead, ""), (layer.back, "_reverse")) if both else ((layer, ""),)
        ):
            end = f"_l{depth}{suffix}"
            own = {
                name.removesuffix(end): value
                for name, value in theirs.state_dict().items()
                if name.endswith(end)
            }
            part.load_state_dict(own)
    return ours, theirs


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def of(cell, inputs=3, hidden=4, seed=0, dtype=torch.float64):
    one = cell_class(cell)(inputs, hidden).to(dtype)
    initialise(one, torch.Generator().manual_seed(seed))
    return one


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def train(function, parameters, x, state=()):
    """Results and all gradients of one backward pass."""
    x = x.clone().requires_grad_()
    state = [s.clone().requires_grad_() for s in state]
    results = flat(function(x, tuple(state)) if state else function(x))
    results = [r for r in results if r.requires_grad]
    weights = [random(*r.shape, seed=k, dtype=r.dtype) for k, r in enumerate(results)]
    if not results:
        return []
    found = torch.autograd.grad(results, [x, *state, *parameters], weights, allow_unused=True)
    return [*(r.detach() for r in results), *found]


def train_cell(cell, x, state=()):
    return train(cell.scan, list(cell.parameters()), x, state)


def train_stack(stack, x):
    return train(stack, list(stack.parameters()), x)


def assert_same(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 1e-9, "atol": 1e-11}))


# -- against torch's own layers --------------------------------------------------------------------


@paths
@cells
@pytest.mark.parametrize(("n_layers", "both"), [(1, False), (1, True), (2, True), (3, False)])
@pytest.mark.parametrize("given", [False, True])
def test_results_and_gradients_are_those_of_torch(cell, n_layers, both, given, path, use):
    use(path)
    ours, theirs = twins(cell, 5, 7, n_layers, both)
    n, k = n_layers * (2 if both else 1), 2 if cell == "lstm" else 1
    x, parameters = random(6, 4, 5), list(ours.parameters())
    # ours has the state layer by layer, direction by direction; torch h of all, then c of all
    state = [random(n, 6, 7, seed=1 + j) for j in range(k)] if given else []

    def as_ours(x, state=None):
        if state is not None:
            each = [tuple(s[i] for s in state) for i in range(n)]
            size = n // n_layers
            state = [sum(each[i * size : (i + 1) * size], ()) for i in range(n_layers)]
        outputs, state = ours.scan(x, state)
        state = [s for layer in state for s in layer]
        return outputs, *(torch.stack(state[j::k]) for j in range(k))

    def as_theirs(x, state=None):
        outputs, state = theirs(x, state if state is None or k == 2 else state[0])
        return (outputs, *state) if k == 2 else (outputs, state)

    names = [name for depth in range(n_layers) for end in ("", "_reverse")[: 1 + both]
             for name in (f"weight_ih_l{depth}{end}", f"weight_hh_l{depth}{end}",
                          f"bias_ih_l{depth}{end}", f"bias_hh_l{depth}{end}")]  # fmt: skip
    other = [getattr(theirs, name) for name in names]
    assert_same(train(as_ours, parameters, x, state), train(as_theirs, other, x, state))
    outputs, last = ours(x)
    hidden = flat(theirs(x))[1]
    torch.testing.assert_close(last, torch.cat(tuple(hidden[-(2 if both else 1) :]), -1))
    torch.testing.assert_close(outputs, theirs(x)[0])


@cells
def test_state_dicts_of_torchs_layers_load_without_their_suffix(cell):
    theirs = MODULES[cell](3, 4)
    ours = CELLS[cell](3, 4)
    ours.load_state_dict({k.removesuffix("_l0"): v for k, v in theirs.state_dict().items()})
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(ours.scan(x)[0], theirs(x.transpose(0, 1))[0].transpose(0, 1))


@paths
@cells
def test_other_types_and_autocast_are_those_of_torch(cell, path, use, needs_bf16):
    needs_bf16(cell)
    use(path)
    stack, theirs = twins(cell, 3, 4, dtype=torch.float32)
    (ours,) = stack.layers
    x = random(5, 2, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        results = flat(ours.scan(x)), flat(theirs(x))
    results += flat(ours.bfloat16().scan(x.bfloat16())), flat(theirs.bfloat16()(x.bfloat16()))
    for one, other in (results[:2], results[2:]):
        assert [r.dtype for r in one] == [r.dtype for r in other]
        other = [r.view(mine.shape).float() for r, mine in zip(other, one)]
        assert_same([r.float() for r in one], other, rtol=1e-5, atol=1e-6)


@needs_native
@cells
def test_large_sizes(cell):
    """Counts beyond 16 bits in every product of sizes, and more than one block of everything."""
    ours, theirs = twins(cell, 130, 257, dtype=torch.float32)
    with torch.no_grad():
        x = random(300, 9, 130, dtype=torch.float32)
        assert_same([ours(x)[0]], [theirs(x)[0]], rtol=1e-4, atol=2e-5)
        few = random(2, 1000, 130, dtype=torch.float32)
        assert_same([ours(few)[0]], [theirs(few)[0]], rtol=1e-4, atol=5e-5)


# -- against the steps -----------------------------------------------------------------------------


@paths
@every_cell
@pytest.mark.parametrize("time", [1, 6])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("lengths", [None, [6, 0, 3, 1]])
def test_scan_is_its_steps(cell, time, given, lengths, path, use):
    use(path)
    one = of(cell, 3, 5)
    x = random(4, time, 3)
    state = [random(4, 5, seed=k) for k in range(one.n_states)] if given else []
    if lengths is not None:
        lengths = torch.tensor(lengths).clamp(max=time)
    found = train(partial(one.scan, lengths=lengths), list(one.parameters()), x, state)
    literal = partial(Cell.scan, one, lengths=lengths)
    expected = train(literal, list(one.parameters()), x, state)
    for ours, theirs in zip(found, expected):
        if ours is None or theirs is None:  # nothing depends on it
            assert not any(g is not None and g.any() for g in (ours, theirs))
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@paths
@every_cell
def test_no_steps_leave_the_state_as_it_is(cell, path, use):
    use(path)
    one = of(cell)
    state = tuple(random(2, 4, seed=k) for k in range(one.n_states))
    for lengths in (None, torch.zeros(2, dtype=torch.int64)):
        outputs, last = one.scan(random(2, 0, 3), state, lengths)
        assert outputs.shape == (2, 0, 4)
        assert_same(last, state)


@pytest.mark.parametrize("cell", [*ALL, Mixture])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dilations", [None, ((1, 3), (2,))])
def test_what_stands_behind_a_rows_length_is_not_read(cell, both, dilations):
    stack = RecurrentStack(cell, 3, 4, 2, both, residual=True, dilations=dilations).double()
    initialise(stack, torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 0, 3, 1])
    x = random(4, 7, 3)
    for row, n in enumerate(lengths):
        x[row, n:] = math.nan
    x.requires_grad_()
    outputs, last = stack(x, lengths)
    _, state = stack.scan(x, lengths=lengths)
    for row, n in enumerate(lengths.tolist()):
        assert not outputs[row, n:].any()
        if n:
            alone, end = stack(x[row : row + 1, :n])
            torch.testing.assert_close(outputs[row, :n], alone[0])
            torch.testing.assert_close(last[row], end[0])
        own = stack.scan(x[row : row + 1, :n])[1]
        assert_same([s[row] for s in flat(state)], [s[0] for s in flat(own)])
    (last.square().sum() + outputs.square().sum()).backward()
    for tensor in (x, *stack.parameters()):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("cell", [*ALL, Mixture])
@pytest.mark.parametrize("dilations", [None, ((1, 3), (5, 2))])
@pytest.mark.parametrize("cuts", [(1, 4), (3, 9), (2, 2)])
def test_a_state_carries_on(cell, dilations, cuts):
    stack = RecurrentStack(cell, 3, 4, 2, residual=True, dilations=dilations).double()
    initialise(stack, torch.Generator().manual_seed(0))
    x = random(2, 13, 3)
    whole, end = stack.scan(x)
    outputs, state = [], None
    for part in x.tensor_split(cuts, 1):
        out, state = stack.scan(part, state)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    assert_same(flat(state), flat(end))


# -- cells of somebody else ------------------------------------------------------------------------


def test_a_registered_cell_is_known_by_its_name():
    register_cell("mixture")(Mixture)
    try:
        assert cell_class("mixture") is Mixture is cell_class(Mixture)
        named, given = (RecurrentStack(c, 2, 3, 2) for c in ("mixture", Mixture))
        for stack in (named, given):
            initialise(stack, torch.Generator().manual_seed(0))
        assert_same(named(torch.ones(2, 4, 2)), given(torch.ones(2, 4, 2)))
    finally:
        del CELLS["mixture"]
    for bad in ("mixture", nn.GRU, Mixture(2, 3), None):
        with pytest.raises(DataError, match=r"^Me: cell must be one of 'gru'.*Got"):
            cell_class(bad, "Me")


def test_a_stack_of_a_users_cell_is_its_steps():
    stack = RecurrentStack(Mixture, 2, 3, 2).double()
    initialise(stack, torch.Generator().manual_seed(0))
    x = random(2, 5, 2)
    steps = []
    states = [tuple(s.double() if s.is_floating_point() else s for s in layer.start(2))
              for layer in stack.layers]  # fmt: skip
    for t in range(5):
        out = x[:, t]
        for k, layer in enumerate(stack.layers):
            out, states[k] = layer.step(out, states[k])
        steps.append(out)
    outputs, last = stack(x)
    torch.testing.assert_close(outputs, torch.stack(steps, 1))
    torch.testing.assert_close(last, steps[-1])


def test_other_equations_do_not_run_on_a_kernel():
    class Clipped(CELLS["gru"]):
        def step(self, x, state):
            out, (h,) = super().step(x, state)
            return out.clamp(-0.1, 0.1), (h.clamp(-0.1, 0.1),)

    class Same(CELLS["gru"]):
        pass

    for both in (False, True):
        stack = RecurrentStack(Clipped, 3, 4, 1, both)
        outputs, last = stack(10 * torch.randn(2, 6, 3))
        assert outputs.abs().max() == last.abs().max() == torch.tensor(0.1)
    same, plain = of(Same), of("gru")
    assert torch.equal(same.scan(random(2, 5, 3))[0], plain.scan(random(2, 5, 3))[0])


def test_an_output_of_another_shape_is_named():
    class Wide(Cell):
        def step(self, x, state):
            return torch.cat([x, x], -1), state

    with pytest.raises(DataError, match=r"Wide.step must return .*\(2, 4\). Got \(2, 6\)"):
        Wide(3, 4).scan(torch.zeros(2, 5, 3))


@every_cell
def test_a_scan_refuses_what_cannot_be_meant(cell):
    one = of(cell)
    for x in (random(4, 6, 7), random(6, 3)):
        with pytest.raises(ValueError, match=r"x must be \(batch, time, 3\)"):
            one.scan(x)
    for state in ((random(3, 4),) * one.n_states, (random(2, 4),) * 3):
        with pytest.raises(ValueError, match=r"the state must be \d tensors of shape \(2, 4\)"):
            one.scan(random(2, 6, 3), state)


# -- peepholes, which torch does not have ----------------------------------------------------------


@paths
@pytest.mark.parametrize("both", [False, True])
def test_peepholes_of_zero_make_an_lstm(both, path, use):
    use(path)
    plain = RecurrentStack("lstm", 5, 7, 2, both).double()
    ours = RecurrentStack("lstm_peephole", 5, 7, 2, both).double()
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("weight_peephole") for name in missing)
    for name, parameter in ours.named_parameters():
        if name in missing:
            nn.init.zeros_(parameter)
    found = dict(
        zip(
            ["", "", "", *(n for n, _ in ours.named_parameters())],
            train_stack(ours, random(6, 4, 5)),
        )
    )
    expected = dict(
        zip(
            ["", "", "", *(n for n, _ in plain.named_parameters())],
            train_stack(plain, random(6, 4, 5)),
        )
    )
    assert_same([found[name] for name in expected], list(expected.values()))
    assert all(found[name].abs().max() > 0 for name in missing)


# -- copies, weights and buffers -------------------------------------------------------------------


@every_cell
def test_copies_and_pickles_hold_the_weights_and_work(cell):
    ours = RecurrentStack(cell, 3, 4, 2, True).double()
    x = random(5, 2, 3)
    expected = train_stack(ours, x)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301
        assert_same(train_stack(other, x), expected)
        assert not any(p.data_ptr() == q.data_ptr()
                       for p, q in zip(other.parameters(), ours.parameters()))  # fmt: skip


@cells
def test_weights_that_change_between_calls_are_read_again(cell):
    """By an optimiser, in place, swapped for a call, or replaced by views of one flat vector."""
    ours, theirs = twins(cell, 3, 4)
    x = random(5, 2, 3)
    for module in (ours, theirs):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(x)[0].square().sum().backward()
            optimizer.step()
    assert_same([ours(x)[0]], [theirs(x)[0]])
    halves = [{n: v.detach() * 0.5 for n, v in m.named_parameters()} for m in (ours, theirs)]
    one, other = (torch.func.functional_call(m, h, (x,))[0] for m, h in zip((ours, theirs), halves))
    assert_same([one], [other])
    vector = nn.utils.parameters_to_vector(theirs.parameters()).detach() * 0.5
    for module in (ours, theirs):
        nn.utils.vector_to_parameters(vector, module.parameters())
    assert_same([ours(x)[0]], [one])


@needs_native
@every_cell
def test_threads_agree(cell, n_threads, monkeypatch):
    monkeypatch.setattr(_kernels, "_SERIAL_WORK", 1)  # split whatever the size
    ours = RecurrentStack(cell, 9, 33, 1, True)
    initialise(ours, torch.Generator().manual_seed(3))
    x = random(70, 12, 9, dtype=torch.float32)
    n_threads(1)
    alone = train_stack(ours, x)
    n_threads(2)
    together = train_stack(ours, x)
    for one, other in zip(alone[:3], together[:3]):  # outputs, last, gradient of x
        assert torch.equal(one, other)  # rows are independent
    for one, other in zip(together, alone):  # gradients of weights are sums in another order
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * float(other.abs().max()))


@paths
@every_cell
def test_calls_from_two_python_threads(cell, path, use, n_threads):
    use(path)
    n_threads(2)
    inputs = [random(64, 12, 8, seed=k, dtype=torch.float32) for k in range(3)]
    modules = [of(cell, 8, 32, seed=k, dtype=torch.float32) for k in range(len(inputs))]
    expected = [train_cell(module, x) for module, x in zip(modules, inputs)]
    wrong = []

    def work(k):
        for _ in range(4):
            got = train_cell(modules[k], inputs[k])
            try:
                assert_same(got, expected[k], rtol=1e-5, atol=1e-4)
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_forked_child_computes_after_its_parent_has(n_threads, monkeypatch):
    """The parent's threads do not exist in the child."""
    monkeypatch.setattr(_kernels, "_SERIAL_WORK", 1)
    n_threads(2)
    generator = torch.Generator().manual_seed(0)
    one = of("gru", 8, 32, dtype=torch.float32).requires_grad_(False)
    x = torch.randn(64, 24, 8, generator=generator)
    expected = one.scan(x)[0].numpy()

    def child():  # no operation of torch that has threads of its own
        sys.exit(0 if (one.scan(x)[0].numpy() == expected).all() else 3)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0


@needs_native
def test_buffers_are_kept_for_the_next_step_and_can_be_given_back():
    ours = of("lstm", 8, 64, dtype=torch.float32)
    x = random(64, 48, 8, dtype=torch.float32)
    _buffers.kept.clear()
    for _ in range(2):
        train_cell(ours, x)
    kept = set(_buffers.kept)
    assert kept
    for _ in range(3):
        train_cell(ours, x)
    assert set(_buffers.kept) == kept
    held = ours.scan(x)[0]  # in use: nobody else may get this memory
    content = held.detach().clone()
    for _ in range(3):
        train_cell(ours, x)
    assert torch.equal(held.detach(), content)
    _buffers.kept.clear()
    assert not _buffers.kept


def test_outputs_of_any_size_may_be_changed_in_place():
    for batch in (2, 64):
        outputs, _ = CELLS["gru"](3, 8).scan(torch.randn(batch, 40, 3))
        outputs[:, 0] = 0
        assert outputs[:, 0].abs().sum() == 0 < outputs[:, 1].abs().sum()


def test_a_default_device_is_not_where_the_kernels_write():
    cell, x = CELLS["gru"](3, 8), torch.randn(2, 5, 3)
    with torch.no_grad():
        expected = cell.scan(x)[0]
        with torch.device("meta"):
            found = cell.scan(x)[0]
    assert torch.equal(found, expected)


# -- what follows every operation ------------------------------------------------------------------


def test_a_second_derivative_where_the_state_comes_from_the_input():
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    cell = of("gru", 3, 3)

    def total():
        return cell.scan(x, (x[:, 0],))[0].square().sum()

    (plain,) = torch.autograd.grad(total(), x)
    (kept,) = torch.autograd.grad(total(), x, create_graph=True)
    torch.testing.assert_close(plain, kept.detach(), rtol=1e-10, atol=1e-12)


@paths
@every_cell
@pytest.mark.parametrize("both", [False, True])
def test_second_derivatives_of_a_layer(cell, both, path, use):
    use(path)
    stack = RecurrentStack(cell, 1, 2, 1, both).double()
    x = random(2, 2, 1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: stack(x)[0], (x,))


@every_cell
def test_a_trace_records_the_layer(cell):
    stack = RecurrentStack(cell, 3, 8).requires_grad_(False)
    x, y = torch.randn(2, 2, 5, 3).unbind(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words on tracing
        traced = torch.jit.trace(stack, (x,), check_trace=False)
    torch.testing.assert_close(traced(y)[0], stack(y)[0])


@every_cell
@pytest.mark.parametrize("both", [False, True])
def test_compiled_and_transformed_functions_give_the_same(cell, both):
    stack = RecurrentStack(cell, 3, 4, 1, both).double()
    x, t = random(2, 5, 3), random(2, 5, 3, seed=1)
    expected = stack(x)[0]
    gradient = torch.func.grad(lambda x: stack(x)[0].square().sum())(x)
    direct = x.clone().requires_grad_()
    stack(direct)[0].square().sum().backward()
    torch.testing.assert_close(gradient, direct.grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on parts of itself
        compiled = torch.compile(stack, backend="eager")(x)[0]
        torch._dynamo.reset()
        value, moved = torch.func.jvp(lambda x: stack(x)[0], (x,), (t,))
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(value, expected)
    step = 1e-6
    numeric = (stack(x + step * t)[0] - stack(x - step * t)[0]) / (2 * step)
    torch.testing.assert_close(moved, numeric, rtol=1e-6, atol=1e-8)
