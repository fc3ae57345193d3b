"""The twins of torch's recurrent modules: same weights, same results, and at home everywhere."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
import threading
import warnings

import pytest
import torch
from torch import nn

from rnnforecast.nn import _fallback, _library, recurrence
from rnnforecast.nn.peephole import PeepholeLSTM
from rnnforecast.nn.recurrence import FusedGRU, FusedLSTM, FusedRNN, recur

PAIRS = {"rnn": (FusedRNN, nn.RNN), "lstm": (FusedLSTM, nn.LSTM), "gru": (FusedGRU, nn.GRU)}
needs_native = pytest.mark.skipif(_library.library() is None, reason=_library.status().reason)
cells = pytest.mark.parametrize("cell", PAIRS)
paths = pytest.mark.parametrize("path", [pytest.param("native", marks=needs_native), "torch"])


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


def twins(cell, *args, dtype=torch.float64, **options):
    """Our module and torch's with the same weights."""
    torch.manual_seed(3)
    fused, plain = PAIRS[cell]
    ours, theirs = fused(*args, dtype=dtype, **options), plain(*args, dtype=dtype, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def flat(result):
    outputs, state = result
    return [outputs, *(state if isinstance(state, tuple) else (state,))]


def train(module, x, hx=None):
    """Results and all gradients of one backward pass."""
    module.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    results = flat(module(x) if hx is None else module(x, hx))
    torch.autograd.backward(
        results, [random(*r.shape, seed=k, dtype=r.dtype) for k, r in enumerate(results)]
    )
    gradients = [parameter.grad for parameter in module.parameters()]
    return [*(r.detach() for r in results), x.grad, *gradients]


def assert_same(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 1e-9, "atol": 1e-11}))


OPTIONS = [
    {},
    {"batch_first": True},
    {"bidirectional": True},
    {"bidirectional": True, "batch_first": True, "num_layers": 2},
    {"num_layers": 3},
    {"bias": False, "batch_first": True},
    {"bias": False, "bidirectional": True},
]


@paths
@cells
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("given", [False, True])
def test_results_and_gradients_are_those_of_torch(cell, options, given, path, use):
    use(path)
    ours, theirs = twins(cell, 5, 7, **options)
    x = random(4, 6, 5)
    n = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    batch = 4 if options.get("batch_first") else 6
    hx = None
    if given:
        hx = random(n, batch, 7, seed=1)
        hx = (hx, random(n, batch, 7, seed=2)) if cell == "lstm" else hx
    assert_same(train(ours, x, hx), train(theirs, x, hx))


@cells
def test_one_sequence_without_a_batch(cell):
    ours, theirs = twins(cell, 5, 7, num_layers=2, bidirectional=True)
    assert_same(train(ours, random(6, 5)), train(theirs, random(6, 5)))


@cells
@pytest.mark.parametrize(
    "kind", ["packed", "projection", "relu", "float16", "wrong width", "wrong state"]
)
def test_what_the_kernels_do_not_have_is_left_to_torch(cell, kind):
    options = {}
    if kind == "projection":
        options = {"proj_size": 3}
    if kind == "relu":
        options = {"nonlinearity": "relu"}
    if (kind == "projection" and cell != "lstm") or (kind == "relu" and cell != "rnn"):
        pytest.skip("torch has it for another cell")
    ours, theirs = twins(cell, 5, 7, **options)
    x, state = random(4, 6, 5), None
    if kind in ("wrong width", "wrong state"):
        bad = [random(4, 6, 3)] if kind == "wrong width" else [x, random(1, 5, 7)]
        if kind == "wrong state" and cell == "lstm":
            bad[1] = (bad[1], bad[1])
        for module in (ours, theirs):
            with pytest.raises((RuntimeError, ValueError), match="xpected"):
                module(*bad)
        return
    if kind == "packed":
        x = nn.utils.rnn.pack_padded_sequence(x, [4, 4, 3, 2, 2, 1])
        one, other = ours(x), theirs(x)
        assert_same([one[0].data, *flat(one)[1:]], [other[0].data, *flat(other)[1:]])
        return
    if kind == "float16":
        ours, theirs, x = ours.bfloat16(), theirs.bfloat16(), x.bfloat16()
    assert_same([r.float() for r in flat(ours(x, state))], [r.float() for r in flat(theirs(x))])


@cells
def test_dropout_between_layers_acts_in_training_only(cell):
    ours, theirs = twins(cell, 5, 7, num_layers=2, dropout=0.5)
    x = random(4, 6, 5)
    torch.manual_seed(1)
    one, two = ours(x)[0], ours(x)[0]
    assert not torch.equal(one, two)
    assert_same(flat(ours.eval()(x)), flat(theirs.eval()(x)))


@cells
def test_copies_and_pickles_hold_the_weights_and_work(cell):
    ours, _ = twins(cell, 3, 4, num_layers=2)
    x = random(5, 2, 3)
    expected = train(ours, x)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301
        assert type(other) is type(ours)
        assert_same(train(other, x), expected)
        assert not any(p.data_ptr() == q.data_ptr()
                       for p, q in zip(other.parameters(), ours.parameters()))  # fmt: skip


@cells
def test_state_dicts_go_both_ways(cell):
    ours, theirs = twins(cell, 3, 4, bidirectional=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.25)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same(train(ours, random(5, 2, 3)), train(theirs, random(5, 2, 3)))


@cells
def test_weights_that_change_between_calls_are_read_again(cell):
    """By an optimiser, in place, or replaced by views of one flat vector."""
    ours, theirs = twins(cell, 3, 4)
    x = random(5, 2, 3)
    for module in (ours, theirs):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            train(module, x)
            optimizer.step()
    assert_same(train(ours, x), train(theirs, x))
    vector = nn.utils.parameters_to_vector(theirs.parameters()).detach() * 0.5
    for module in (ours, theirs):
        nn.utils.vector_to_parameters(vector, module.parameters())
    assert_same(train(ours, x), train(theirs, x))


@needs_native
@cells
def test_threads_agree(cell, n_threads, monkeypatch):
    monkeypatch.setattr(recurrence, "_SERIAL_WORK", 1)  # split whatever the size
    ours, _ = twins(cell, 9, 33, dtype=torch.float32, batch_first=True, bidirectional=True)
    x = random(70, 12, 9, dtype=torch.float32)
    n_threads(1)
    alone = train(ours, x)
    n_threads(2)
    together = train(ours, x)
    n_results = 3 if cell == "lstm" else 2
    for one, other in zip(alone[: n_results + 1], together[: n_results + 1]):
        assert torch.equal(one, other)  # rows are independent
    for one, other in zip(together, alone):  # gradients of weights are sums in another order
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * float(other.abs().max()))


@paths
@cells
def test_calls_from_two_python_threads(cell, path, use, n_threads):
    use(path)
    n_threads(2)
    inputs = [random(64, 12, 8, seed=k, dtype=torch.float32) for k in range(3)]
    modules = [
        twins(cell, 8, 32, dtype=torch.float32, batch_first=True)[0] for _ in range(len(inputs))
    ]
    expected = [train(module, x) for module, x in zip(modules, inputs)]
    wrong = []

    def work(k):
        for _ in range(4):
            got = train(modules[k], inputs[k])
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
    monkeypatch.setattr(recurrence, "_SERIAL_WORK", 1)
    n_threads(2)
    generator = torch.Generator().manual_seed(0)
    p = [torch.randn(*shape, generator=generator) * 0.1 for shape in [(96, 8), (96, 32)]]
    x = torch.randn(64, 24, 8, generator=generator)
    expected = recur("gru", x, None, None, *p)[0].numpy()

    def child():  # no operation of torch that has threads of its own
        sys.exit(0 if (recur("gru", x, None, None, *p)[0].numpy() == expected).all() else 3)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0


@needs_native
def test_buffers_are_kept_for_the_next_step_and_can_be_given_back():
    ours, _ = twins("lstm", 8, 64, dtype=torch.float32, batch_first=True)
    x = random(64, 48, 8, dtype=torch.float32)
    recurrence.release_buffers()
    for _ in range(2):
        train(ours, x)
    kept = {id(array) for array in recurrence._kept}
    assert kept
    for _ in range(3):
        train(ours, x)
    assert {id(array) for array in recurrence._kept} == kept
    held = ours(x)[0]  # in use: nobody else may get this memory
    content = held.detach().clone()
    for _ in range(3):
        train(ours, x)
    assert torch.equal(held.detach(), content)
    recurrence.release_buffers()
    assert not recurrence._kept


@needs_native
@cells
def test_large_sizes(cell):
    """Counts beyond 16 bits in every product of sizes, and more than one block of everything."""
    ours, theirs = twins(cell, 130, 257, dtype=torch.float32, batch_first=True)
    x = random(300, 9, 130, dtype=torch.float32)
    with torch.no_grad():
        assert_same(flat(ours(x)), flat(theirs(x)), rtol=1e-4, atol=2e-5)
    few = random(2, 1000, 130, dtype=torch.float32)
    with torch.no_grad():
        assert_same(flat(ours(few)), flat(theirs(few)), rtol=1e-4, atol=5e-5)


@cells
def test_autocast_is_left_to_torch(cell, needs_bf16):
    needs_bf16(cell)
    ours, theirs = twins(cell, 3, 4, dtype=torch.float32)
    x = random(5, 2, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        one, other = flat(ours(x)), flat(theirs(x))
    assert [r.dtype for r in one] == [r.dtype for r in other]
    assert_same([r.float() for r in one], [r.float() for r in other], rtol=1e-5, atol=1e-6)


@cells
def test_functional_calls_are_left_to_torch(cell):
    ours, theirs = twins(cell, 3, 4, dtype=torch.float32)
    x = random(5, 2, 3, dtype=torch.float32)
    weights = {name: value.detach() * 0.5 for name, value in theirs.named_parameters()}
    one = torch.func.functional_call(ours, weights, (x,))
    assert_same(flat(one), flat(torch.func.functional_call(theirs, weights, (x,))),
                rtol=1e-5, atol=1e-6)  # fmt: skip


# peepholes, which torch does not have


@paths
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_peepholes_of_zero_make_an_lstm(options, path, use):
    use(path)
    theirs = nn.LSTM(5, 7, dtype=torch.float64, **options)
    ours = PeepholeLSTM(5, 7, dtype=torch.float64, **options)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("weight_peephole_l") for name in missing)
    for name in missing:
        nn.init.zeros_(getattr(ours, name))
    x = random(4, 6, 5)
    found = train(ours, x)
    assert_same(found[: -len(missing)], train(theirs, x))
    assert all(gradient.abs().max() > 0 for gradient in found[-len(missing) :])


@paths
def test_peepholes_are_those_of_the_function(path, use):
    use(path)
    ours = PeepholeLSTM(3, 4, bidirectional=True, batch_first=True, dtype=torch.float64)
    x, h, c = random(2, 5, 3), random(2, 2, 4, seed=1), random(2, 2, 4, seed=2)
    outputs, (h_n, c_n) = ours(x, (h, c))
    for d, suffix in enumerate(("", "_reverse")):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_peephole_l0")
        weights = [getattr(ours, name + suffix) for name in names]
        one = recur("lstm", x, h[d], c[d], *weights, reverse=d == 1)
        assert_same(one, (outputs[..., 4 * d : 4 * d + 4], h_n[d], c_n[d]))
    alone, _ = ours(x[0], (h[:, 0], c[:, 0]))
    assert_same([alone], [outputs[0]])


def test_peephole_weights_can_be_swapped_copied_and_saved():
    ours = PeepholeLSTM(3, 4, dtype=torch.float64)
    x = random(5, 2, 3)
    halves = {name: value.detach() * 0.5 for name, value in ours.named_parameters()}
    swapped = flat(torch.func.functional_call(ours, halves, (x,)))
    other = pickle.loads(pickle.dumps(ours))  # noqa: S301
    assert_same(flat(other(x)), flat(ours(x)))
    other.load_state_dict(halves)
    assert_same(flat(other(x)), swapped)


def test_a_peephole_layer_refuses_what_it_does_not_have():
    with pytest.raises(ValueError, match="proj_size must be 0"):
        PeepholeLSTM(3, 4, proj_size=2)
    layer = PeepholeLSTM(3, 4)
    with pytest.raises(TypeError, match="packed sequences are not supported"):
        layer(nn.utils.rnn.pack_sequence([torch.zeros(2, 3)]))
    with pytest.raises((RuntimeError, ValueError), match="xpected"):
        layer(torch.zeros(5, 2, 9))
    with pytest.raises((RuntimeError, ValueError), match="xpected"):
        layer(torch.zeros(5, 2, 3), (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)))


@paths
@cells
def test_the_operator_is_the_function(cell, path, use):
    use(path)
    ours, _ = twins(cell, 3, 4)
    weights = [p.detach().clone().requires_grad_() for p in ours.parameters()]
    x = random(2, 5, 3)
    results = torch.ops.rnnforecast.recur(cell, x, None, None, *weights)
    expected = recur(cell, x, None, None, *weights)
    assert_same(results[:2], expected[:2])
    if cell == "lstm":
        assert_same(results[2:], expected[2:])
    one, other = (torch.autograd.grad(r[0].sum(), weights) for r in (results, expected))
    assert_same(one, other)


@cells
def test_without_the_library_training_goes_by_hand_where_that_is_faster(cell, use, monkeypatch):
    use("torch")
    calls = []
    by_hand = _fallback._by_hand
    monkeypatch.setattr(_fallback, "_by_hand", lambda *a: calls.append(a) or by_hand(*a))
    ours, theirs = twins(cell, 5, 7, num_layers=2, bidirectional=True)
    assert_same(train(ours, random(4, 6, 5)), train(theirs, random(4, 6, 5)))
    assert len(calls) == (0 if cell == "lstm" else 2)  # once a layer
    with torch.no_grad():
        ours(random(4, 6, 5))
    assert len(calls) == (0 if cell == "lstm" else 2)


def test_outputs_of_any_size_may_be_changed_in_place():
    for batch in (2, 64):
        outputs, _ = FusedGRU(3, 8, batch_first=True)(torch.randn(batch, 40, 3))
        outputs[:, 0] = 0
        assert outputs[:, 0].abs().sum() == 0 < outputs[:, 1].abs().sum()


def test_a_default_device_is_not_where_the_kernels_write():
    layer, x = FusedGRU(3, 8, batch_first=True), torch.randn(2, 5, 3)
    with torch.no_grad():
        expected = layer(x)[0]
        with torch.device("meta"):
            found = layer(x)[0]
    assert torch.equal(found, expected)


@paths
@pytest.mark.parametrize("module", [FusedRNN, FusedGRU, FusedLSTM, PeepholeLSTM])
def test_a_second_derivative_where_the_state_comes_from_the_input(module, path, use):
    use(path)
    x = random(2, 5, 3).requires_grad_()
    layer = module(3, 3, batch_first=True, dtype=torch.float64)

    def total():
        first = x[:, 0][None]
        state = first if module in (FusedRNN, FusedGRU) else (first, 2 * first)
        return sum(result.square().sum() for result in flat(layer(x, state)))

    (plain,) = torch.autograd.grad(total(), x)
    (kept,) = torch.autograd.grad(total(), x, create_graph=True)
    torch.testing.assert_close(plain, kept.detach(), rtol=1e-10, atol=1e-12)


def test_a_trace_records_the_layer():
    layer = FusedGRU(3, 8, batch_first=True).requires_grad_(False)
    x, y = torch.randn(2, 2, 5, 3).unbind(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words on tracing
        traced = torch.jit.trace(layer, (x,), check_trace=False)
    torch.testing.assert_close(traced(y)[0], layer(y)[0])
