"""The native kernels as one node of the autograd graph, or torch's own operations.

The kernels cannot serve where none were built, for another device or type, under autocast,
``torch.compile``, ``torch.func`` or a trace, and for a second derivative.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, cast

import torch
from torch import Tensor, nn

from rnnforecast.nn import library as _library
from rnnforecast.nn._buffers import empty

__all__ = ["Given", "flatten", "is_transformed", "run"]

_CODES = {"rnn": 0, "lstm": 1, "gru": 2}  # rnnf_cell in native/common.h
_FORWARD = struct.Struct("=23q")
_BACKWARD = struct.Struct("=35q")
_SERIAL_WORK = 4_000_000  # multiply-adds that a second thread is worth waking for

Given = tuple[Any, ...]  # tensors of a call, None where one was left out


def run(
    cell: Any, x: Tensor, state: Given | None, weights: Given, reverse: tuple[bool, ...] = (False,)
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Read ``x: (batch, time, inputs)`` with a class of FusedCell, in one direction or several at
    once, of which each runs from the first step on or in ``reverse``.

    ``state`` is each (batch, hidden), direction by direction; ``weights`` are w_ih, w_hh, b_ih,
    b_hh and peephole of each. Returns outputs, directions side by side, and the last state.
    """
    hidden, inputs = weights[1].shape[1], weights[0].shape[1]
    if x.ndim != 3 or x.shape[2] != inputs:
        raise ValueError(f"x must be (batch, time, {inputs}). Got shape {tuple(x.shape)}")
    n, shape = len(reverse) * cell.n_states, (x.shape[0], hidden)
    states: Given = (None,) * n if state is None else state
    if len(states) != n or any(s is not None and s.shape != shape for s in states):
        got = [s if s is None else tuple(s.shape) for s in states]
        raise ValueError(f"the state must be {n} tensors of shape {shape}. Got {got}")
    tensors = (*states, *weights)
    # laying out large weights for the kernels costs more than a single step saves
    short = hidden >= 128 and cell.kernel != "lstm" and x.shape[0] * x.shape[1] <= 2
    if not inputs or short or not _serves(x, tensors):
        return _by_torch(cell, x, states, weights, reverse)
    if torch.is_grad_enabled() and (
        x.requires_grad or any(t is not None and t.requires_grad for t in tensors)
    ):
        outputs, *lasts = _Recurrence.apply(cell, reverse, x, *tensors)
    else:
        outputs, lasts, _ = _forward(cell, reverse, x, states, weights, False)
    return outputs, tuple(lasts)


def _serves(x: Tensor, tensors: Given) -> bool:
    """Whether these are plain tensors of one type on the CPU, which torch does not transform."""
    for tensor in (x, *tensors):
        if tensor is not None and (
            tensor.dtype != x.dtype
            or tensor.device.type != "cpu"
            or (type(tensor) is not Tensor and type(tensor) is not nn.Parameter)
        ):
            return False
    floating = x.dtype == torch.float32 or x.dtype == torch.float64
    return floating and not is_transformed() and _library.library() is not None


def is_transformed() -> bool:
    """Whether torch compiles, traces, differentiates forwards or changes types around a call."""
    return (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _by_torch(
    cell: Any, x: Tensor, states: Given, weights: Given, reverse: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Torch's own layers, or the steps where it has none."""
    if cell.peepholes or reverse not in ((False,), (False, True)) or not x.shape[1]:
        return cell.by_steps(x, states, weights, reverse)
    zeros, k = x.new_zeros(x.shape[0], weights[1].shape[1]), cell.n_states
    first = [torch.stack([zeros if s is None else s for s in states[i::k]]) for i in range(k)]
    flat = [weight for weight in weights if weight is not None]
    options = (weights[2] is not None, 1, 0.0, False, len(reverse) == 2, True)
    function: Any = {"rnn": torch.rnn_tanh, "lstm": torch.lstm, "gru": torch.gru}[cell.kernel]
    outputs, *lasts = function(x, first if k > 1 else first[0], flat, *options)
    return outputs, tuple(last[d] for d in range(len(reverse)) for last in lasts)


def flatten(*cells: Any) -> None:
    """Lay out the weights of one layer, in one direction or two, as cuDNN wants them."""
    first = cells[0]
    modes = {"rnn": "RNN_TANH", "lstm": "LSTM", "gru": "GRU"}
    if getattr(first, "peepholes", True) or first.kernel not in modes:
        return  # not of torch's kinds
    weights = [weight for cell in cells for weight in cell.weights()[:4]]
    w_ih = weights[0]
    if w_ih.is_cuda and torch.backends.cudnn.is_acceptable(w_ih.data):
        from torch.backends.cudnn import rnn

        mode = rnn.get_cudnn_mode(modes[first.kernel])
        sizes = (w_ih.shape[1], mode, first.hidden_size, 0, 1, True, len(cells) == 2)
        with torch.cuda.device_of(w_ih), torch.no_grad():
            torch._cudnn_rnn_flatten_weight(weights, 4, *sizes)


class _Recurrence(torch.autograd.Function):
    """The native passes as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, cell: Any, reverse: tuple[bool, ...], x: Tensor, *tensors: Any) -> Any:
        n = len(reverse) * cell.n_states
        outputs, lasts, saved = _forward(cell, reverse, x, tensors[:n], tensors[n:], True)
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.reverse = cell, reverse
        ctx.save_for_backward(x, *tensors, outputs, saved)
        return outputs, *lasts

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        call = (ctx.cell, ctx.reverse, ctx.needs_input_grad[2:], ctx.saved_tensors, grads)
        # with create_graph gradients are wanted that can be differentiated again
        return None, None, *(_by_autograd if torch.is_grad_enabled() else _backward)(*call)


def _by_autograd(
    cell: Any, reverse: tuple[bool, ...], needs: Any, tensors: Any, grads: Any
) -> list[Tensor | None]:
    """As ``_backward``, by the steps."""
    # aliases: an input may be another one, or computed from it, and autograd.grad would follow that
    tensors = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors[:-2]]
    n = 1 + len(reverse) * cell.n_states
    outputs, lasts = cell.by_steps(tensors[0], tensors[1:n], tensors[n:], reverse)
    outs, given = zip(*((o, g) for o, g in zip((outputs, *lasts), grads) if g is not None))
    wanted = [i for i, tensor in enumerate(tensors) if tensor is not None and needs[i]]
    found = torch.autograd.grad(
        outs, [tensors[i] for i in wanted], given, create_graph=True, allow_unused=True
    )
    of = dict(zip(wanted, found))
    return [of.get(i) for i in range(len(tensors))]


# ---- the native calls ----------------------------------------------------------------------------


def _call(name: str, dtype: torch.dtype, arguments: bytes) -> None:
    if getattr(_library.library(), f"rnnf_{name}_f{8 * dtype.itemsize}")(arguments):
        raise MemoryError("the native kernels got no memory for their working arrays")


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _rows(x: Tensor) -> Tensor:
    """x, its features next to one another."""
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _sizes(cell: Any, x: Tensor, hidden: int) -> tuple[tuple[int, ...], int]:
    """Cell, batch, time, inputs and hidden as the kernels take them, and the threads to use."""
    batch, time, inputs = x.shape
    work = batch * time * cell.gates * hidden * (hidden + inputs)
    threads = min(torch.get_num_threads(), 1 + work // _SERIAL_WORK)
    return (_CODES[cell.kernel], batch, time, inputs, hidden), threads


def _of(direction: int, tensors: Any, each: int, n: int) -> list[Tensor | None]:
    """The ``each`` tensors of one direction, contiguous, filled up to ``n``: hold on to them."""
    own = tensors[direction * each : (direction + 1) * each]
    return [*(t if t is None else t.contiguous() for t in own), *[None] * (n - each)]


def _forward(
    cell: Any, reverse: tuple[bool, ...], x: Tensor, states: Given, weights: Given, save: bool
) -> Any:
    """Outputs, last states of all directions, and what the backward pass needs."""
    hidden = weights[1].shape[1]
    sizes, threads = _sizes(cell, x, hidden)
    (batch, time, _), n, k = x.shape, len(reverse), cell.n_states
    x = _rows(x)
    shape, width = (batch, time, n * hidden), x.element_size()
    outputs = empty(shape, x.dtype) if save else x.new_empty(shape)
    lasts = [x.new_empty(batch, hidden) for _ in range(n * k)]
    size = 0
    if save:
        of = cast(Any, _library.library()).rnnf_saved_size
        of.restype, is_double = ctypes.c_int64, x.dtype == torch.float64
        size = of(*map(ctypes.c_int64, (sizes[0], batch, time, hidden, is_double)))
    saved = empty((n, size), x.dtype) if save else None
    for d, back in enumerate(reverse):
        given = (*_of(d, states, k, 2), *_of(d, weights, 5, 5))
        arguments = _FORWARD.pack(
            *(*sizes, back, threads),
            *(x.data_ptr(), x.stride(0), x.stride(1)),
            *map(_at, given),
            *(outputs.data_ptr() + d * hidden * width, time * n * hidden, n * hidden),
            *map(_at, _of(d, lasts, k, 2)),
            saved.data_ptr() + d * size * width if saved is not None and size else 0,
        )
        _call("forward", x.dtype, arguments)
    return outputs, lasts, saved


def _backward(
    cell: Any, reverse: tuple[bool, ...], needs: Any, tensors: Any, grads: Any
) -> list[Any]:
    """Gradients of x, states and weights, None where ``needs`` has none."""
    n, k = len(reverse), cell.n_states
    x, *tensors, outputs, saved = tensors
    states, weights = tensors[: n * k], tensors[n * k :]
    d_outputs, *d_lasts = grads
    hidden = weights[1].shape[1]
    sizes, threads = _sizes(cell, x, hidden)
    x = _rows(x)
    if d_outputs is not None and d_outputs.stride(-1) != 1:
        d_outputs = d_outputs.contiguous()
    (_, time, inputs), width, size = x.shape, x.element_size(), saved.shape[1]
    dx = empty(x.shape, x.dtype) if needs[0] else None
    d_states = [
        x.new_empty(state.shape) if state is not None and needed else None
        for state, needed in zip(states, needs[1:])
    ]
    result = [dx, *d_states]
    for d, back in enumerate(reverse):
        first, d_last = _of(d, states, k, 2), _of(d, d_lasts, k, 2)
        w_ih, w_hh, _, _, peephole = own = _of(d, weights, 5, 5)
        wanted = any(needs[1 + n * k + 5 * d :][:5])  # the kernels give all or none
        d_weights = [x.new_empty(w.shape) if wanted and w is not None else None for w in own]
        d_at = (0, 0, 0)
        if d_outputs is not None:
            d_at = (d_outputs.data_ptr() + d * hidden * width, *d_outputs.stride()[:2])
        arguments = _BACKWARD.pack(
            *(*sizes, back, threads),
            *(x.data_ptr(), x.stride(0), x.stride(1)),
            *map(_at, (*first, w_ih, w_hh, peephole)),
            *(outputs.data_ptr() + d * hidden * width, time * n * hidden, n * hidden),
            saved.data_ptr() + d * size * width,
            *d_at,
            *map(_at, d_last),
            *(_at(dx), time * inputs, inputs, d > 0),
            *map(_at, (*_of(d, d_states, k, 2), *d_weights)),
        )
        _call("backward", x.dtype, arguments)
        result += d_weights
    return result
