"""Recurrent layers on native kernels: a function with gradients, and twins of torch's modules.

Where the kernels cannot serve (none were built, another device or type, autocast,
``torch.compile``, ``torch.func``, a second derivative), torch's own operations give the same
results.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn import _fallback, _library
from rnnforecast.nn._buffers import empty as _empty
from rnnforecast.nn._buffers import kept as _kept  # noqa: F401  for tests
from rnnforecast.nn._buffers import release_buffers

__all__ = ["FusedGRU", "FusedLSTM", "FusedRNN", "recur", "release_buffers"]

_CELLS = {"rnn": (0, 1), "lstm": (1, 4), "gru": (2, 3)}  # number in native/common.h, gates
_FORWARD = struct.Struct("=23q")
_BACKWARD = struct.Struct("=35q")
_SERIAL_WORK = 4_000_000  # multiply-adds that a second thread is worth waking for


class _Plan(NamedTuple):
    """The cell of a call, and for each direction whether it runs from the last step back."""

    cell: str
    directions: tuple[bool, ...]


# ---- the native calls -------------------------------------------------------


def _function(name: str, dtype: torch.dtype) -> Any:
    library: Any = _library.library()
    function = getattr(library, f"rnnf_{name}_f{'32' if dtype == torch.float32 else '64'}")
    if function.argtypes is None:
        function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_int
    return function


def _saved_size(plan: _Plan, batch: int, time: int, hidden: int, dtype: torch.dtype) -> int:
    function = _library.library().rnnf_saved_size  # type: ignore[union-attr]
    if function.argtypes is None:
        function.argtypes, function.restype = [ctypes.c_int64] * 5, ctypes.c_int64
    return function(_CELLS[plan.cell][0], batch, time, hidden, dtype == torch.float64)


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _rows(x: Tensor) -> Tensor:
    """x, its features next to one another."""
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None else tensor.contiguous()


def _sizes(plan: _Plan, x: Tensor, w_hh: Any) -> tuple[int, ...]:
    """Cell, batch, time, inputs and hidden as the kernels take them, and the threads to use."""
    code, gates = _CELLS[plan.cell]
    (batch, time, inputs), hidden = x.shape, w_hh.shape[1]
    work = batch * time * gates * hidden * (hidden + inputs)
    threads = min(torch.get_num_threads(), 1 + work // _SERIAL_WORK)
    return code, batch, time, inputs, hidden, threads


def _check(status: int) -> None:
    if status:
        raise MemoryError("the native kernels got no memory for their working arrays")


def _forward(
    plan: _Plan,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: tuple[Tensor | None, ...],
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Outputs, last states and last cells of all directions; what the backward pass needs."""
    code, batch, time, inputs, hidden, threads = _sizes(plan, x, weights[1])
    n = len(plan.directions)
    x, h0, c0 = _rows(x), _whole(h0), _whole(c0)
    shape = (batch, time, n * hidden)
    out = _empty(shape, x.dtype) if save else x.new_empty(shape)
    h_n = x.new_empty((n, batch, hidden))
    c_n = x.new_empty((n, batch, hidden)) if code == 1 else None
    size = _saved_size(plan, batch, time, hidden, x.dtype) if save else 0
    saved = _empty((n, size), x.dtype) if save else None
    function = _function("forward", x.dtype)
    width, state = x.element_size(), batch * hidden * x.element_size()
    x_batch, x_time = x.stride(0), x.stride(1)
    for d, reverse in enumerate(plan.directions):
        w_ih, w_hh, b_ih, b_hh, peephole = map(_whole, weights[5 * d : 5 * d + 5])
        arguments = _FORWARD.pack(
            *(code, batch, time, inputs, hidden, reverse, threads),
            *(x.data_ptr(), x_batch, x_time),
            h0.data_ptr() + d * state if h0 is not None else 0,
            c0.data_ptr() + d * state if c0 is not None else 0,
            *(_at(w_ih), _at(w_hh), _at(b_ih), _at(b_hh), _at(peephole)),
            *(out.data_ptr() + d * hidden * width, time * n * hidden, n * hidden),
            h_n.data_ptr() + d * state,
            c_n.data_ptr() + d * state if c_n is not None else 0,
            saved.data_ptr() + d * size * width if saved is not None and size else 0,
        )
        _check(function(arguments))
    return out, h_n, c_n, saved


def _backward(
    plan: _Plan, needs: tuple[bool, ...], tensors: tuple[Tensor | None, ...], grads: tuple[Any, ...]
) -> list[Tensor | None]:
    """Gradients of x, h0, c0 and the weights, None where ``needs`` has none."""
    x, h0, c0, out, saved, *weights = tensors
    d_out, d_hn, d_cn = grads
    assert x is not None and out is not None and saved is not None
    code, batch, time, inputs, hidden, threads = _sizes(plan, x, weights[1])
    x, h0, c0, d_hn, d_cn = _rows(x), _whole(h0), _whole(c0), _whole(d_hn), _whole(d_cn)
    if d_out is not None and d_out.stride(-1) != 1:
        d_out = d_out.contiguous()
    n, size, width = len(plan.directions), saved.shape[1], x.element_size()
    state = batch * hidden * width
    dx = _empty(x.shape, x.dtype) if needs[0] else None
    dh0 = torch.empty_like(h0) if h0 is not None and needs[1] else None
    dc0 = torch.empty_like(c0) if c0 is not None and needs[2] else None
    function = _function("backward", x.dtype)
    result = [dx, dh0, dc0]
    for d, reverse in enumerate(plan.directions):
        w_ih, w_hh, b_ih, _, peephole = map(_whole, weights[5 * d : 5 * d + 5])
        dw: list[Tensor | None] = [None] * 5
        if any(needs[3 + 5 * d : 8 + 5 * d]):
            dw = [
                None if weight is None else x.new_empty(weight.shape)
                for weight in weights[5 * d : 5 * d + 5]
            ]
        arguments = _BACKWARD.pack(
            *(code, batch, time, inputs, hidden, reverse, threads),
            *(x.data_ptr(), x.stride(0), x.stride(1)),
            h0.data_ptr() + d * state if h0 is not None else 0,
            c0.data_ptr() + d * state if c0 is not None else 0,
            *(_at(w_ih), _at(w_hh), _at(peephole)),
            *(out.data_ptr() + d * hidden * width, time * n * hidden, n * hidden),
            saved.data_ptr() + d * size * width,
            d_out.data_ptr() + d * hidden * width if d_out is not None else 0,
            d_out.stride(0) if d_out is not None else 0,
            d_out.stride(1) if d_out is not None else 0,
            d_hn.data_ptr() + d * state if d_hn is not None else 0,
            d_cn.data_ptr() + d * state if d_cn is not None else 0,
            *(_at(dx), time * inputs, inputs, d > 0),
            dh0.data_ptr() + d * state if dh0 is not None else 0,
            dc0.data_ptr() + d * state if dc0 is not None else 0,
            *map(_at, dw),
        )
        _check(function(arguments))
        result += dw
    return result


class _Recurrence(torch.autograd.Function):
    """The native passes as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, h0: Any, c0: Any, *weights: Any) -> Any:
        out, h_n, c_n, saved = _forward(plan, x, h0, c0, weights, True)
        ctx.set_materialize_grads(False)
        ctx.plan = plan
        ctx.save_for_backward(x, h0, c0, out, saved, *weights)
        return out, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        tensors = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        needs = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # create_graph: a second derivative through torch's operations
            inputs = (*tensors[:3], *tensors[5:])
            return None, *_fallback.differentiable(ctx.plan, needs, inputs, grads)
        return None, *_backward(ctx.plan, needs, tensors, grads)


# ---- the public function ----------------------------------------------------


def _serves(x: Tensor, tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether the native kernels can take this call."""
    kind, dtype = type(x), x.dtype
    if (kind is not Tensor and kind is not nn.Parameter) or x.device.type != "cpu":
        return False
    if dtype != torch.float32 and dtype != torch.float64:
        return False
    for tensor in tensors:
        if tensor is not None and (
            tensor.dtype != dtype
            or tensor.device.type != "cpu"
            or (type(tensor) is not Tensor and type(tensor) is not nn.Parameter)
        ):
            return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._are_functorch_transforms_active() or _fallback.follows_operations():
        return False
    return _library.library() is not None


def _too_short(cell: str, x: Tensor, hidden: int) -> bool:
    """Whether laying out large weights for the kernels would cost more than a single step saves."""
    return hidden >= 128 and cell != "lstm" and x.shape[0] * x.shape[1] <= 2


def _run(
    plan: _Plan, x: Tensor, h0: Tensor | None, c0: Tensor | None, weights: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, last states, last cells; natively where that can be."""
    tensors = (h0, c0, *weights)
    hidden = weights[1].shape[1]  # type: ignore[union-attr]
    if not x.shape[2] or not _serves(x, tensors) or _too_short(plan.cell, x, hidden):
        return _fallback.own(plan, x, h0, c0, weights)
    if torch.is_grad_enabled() and (
        x.requires_grad or any(t is not None and t.requires_grad for t in tensors)
    ):
        return _Recurrence.apply(plan, x, h0, c0, *weights)
    return _forward(plan, x, h0, c0, weights, False)[:3]


def recur(
    cell: str,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    peephole: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one recurrent layer over a sequence, in one direction.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
        Elman 1990 (tanh); Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000;
        Cho et al. 2014 with the reset gate after the recurrent product.
    x : Tensor of shape (batch, time, inputs)
    h0, c0 : Tensor of shape (batch, hidden), or None
        First state and first cell; None is zeros. ``c0`` is read by "lstm" alone.
    w_ih, w_hh : Tensor of shape (gates * hidden, inputs) and (gates * hidden, hidden)
        Gates in torch's order: i, f, g, o; r, z, n.
    b_ih, b_hh : Tensor of shape (gates * hidden,), or None
        Both or neither.
    peephole : Tensor of shape (3, hidden), or None
        "lstm" only: what input, forget and output gate see of the cell (Graves 2013, eq. 7 to 11).
    reverse : bool, default False
        Read from the last step to the first; outputs stay at their steps.

    Returns
    -------
    outputs : Tensor of shape (batch, time, hidden)
    h_n : Tensor of shape (batch, hidden)
        The state after the last step read.
    c_n : Tensor of shape (batch, hidden), or None
        The cell after the last step read; None but for "lstm".

    Raises
    ------
    ValueError
        If the cell is unknown or the sizes do not belong together.

    Examples
    --------
    >>> import torch
    >>> from rnnforecast.nn.recurrence import recur
    >>> x = torch.ones(2, 5, 1)
    >>> outputs, h_n, _ = recur("rnn", x, None, None, torch.ones(3, 1), torch.zeros(3, 3))
    >>> bool(torch.allclose(outputs, torch.tanh(torch.ones(2, 5, 3))))
    True
    """
    _check_call(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, peephole)
    plan = _Plan(cell, (reverse,))
    h0 = None if h0 is None else h0[None]
    c0 = None if c0 is None or cell != "lstm" else c0[None]
    outputs, h_n, c_n = _run(plan, x, h0, c0, (w_ih, w_hh, b_ih, b_hh, peephole))
    return outputs, h_n[0], None if c_n is None else c_n[0]


def _check_call(
    cell: str, x: Tensor, h0: Any, c0: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any, p: Any
) -> None:
    if cell not in _CELLS:
        raise ValueError(f"recur: cell must be one of {sorted(_CELLS)}. Got {cell!r}")
    if x.ndim != 3:
        raise ValueError(f"recur: x must be (batch, time, inputs). Got shape {tuple(x.shape)}")
    if (b_ih is None) != (b_hh is None):
        raise ValueError("recur: give both biases or neither. Got one of b_ih and b_hh")
    if p is not None and cell != "lstm":
        raise ValueError(f'recur: peepholes belong to cell "lstm". Got cell {cell!r}')
    hidden, (batch, _, inputs) = w_hh.shape[-1], x.shape
    rows = _CELLS[cell][1] * hidden
    expected = {
        "w_ih": (w_ih, (rows, inputs)),
        "w_hh": (w_hh, (rows, hidden)),
        "b_ih": (b_ih, (rows,)),
        "b_hh": (b_hh, (rows,)),
        "peephole": (p, (3, hidden)),
        "h0": (h0, (batch, hidden)),
        "c0": (c0, (batch, hidden)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"recur: {name} must have shape {shape} for cell {cell!r}, {inputs} inputs, hidden "
                f"size {hidden} and batch {batch}. Got {tuple(tensor.shape)}"
            )


_OPERATOR = torch.library.Library("rnnforecast", "FRAGMENT")
_OPERATOR.define(
    "recur(str cell, Tensor x, Tensor? h0, Tensor? c0, Tensor w_ih, Tensor w_hh, "
    "Tensor? b_ih=None, Tensor? b_hh=None, Tensor? peephole=None, bool reverse=False) "
    "-> (Tensor, Tensor, Tensor)"
)


def _operator(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.ops.rnnforecast.recur``: an operator cannot return None, so c_n may be empty."""
    outputs, h_n, c_n = recur(*args)
    return outputs, h_n, h_n.new_empty(0) if c_n is None else c_n


_OPERATOR.impl("recur", _operator, "CompositeImplicitAutograd")


# ---- twins of torch's modules -----------------------------------------------


class _Fused(nn.RNNBase):
    """What the twins share: torch's module with a forward pass of its own."""

    cell: str

    def _weights(self, layer: int, direction: int) -> tuple[Tensor | None, ...]:
        flat = self._flat_weights
        width = 4 if self.bias else 2
        at = width * (layer * (2 if self.bidirectional else 1) + direction)
        return *flat[at : at + width], *(None,) * (5 - width)

    def _fits(self, x: Any, states: tuple[Any, ...]) -> bool:
        """Whether this is a call for the kernels; torch answers, or refuses, all others."""
        if not isinstance(x, Tensor) or x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            return False
        if _too_short(self.cell, x, self.hidden_size):
            return False
        if self.proj_size or x.numel() == 0 or getattr(self, "nonlinearity", "tanh") != "tanh":
            return False
        n = self.num_layers * (2 if self.bidirectional else 1)
        batch = () if x.ndim == 2 else (x.shape[0 if self.batch_first else 1],)
        size = (n, *batch, self.hidden_size)
        for state in states:
            if not isinstance(state, Tensor) or tuple(state.shape) != size:
                return False
        self._update_flat_weights()  # as torch does: torch.func.functional_call swaps weights
        tensors = (*states, *self._flat_weights)
        return _serves(x, tensors) or _fallback.pays(self.cell, x, tensors)

    def _native(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Any]:
        batched = x.ndim == 3
        if not batched:
            x, states = x[None], tuple(state[:, None] for state in states)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        n = 2 if self.bidirectional else 1
        plan = _Plan(self.cell, (False, True)[:n])
        lasts: list[Tensor] = []
        cells: list[Any] = []
        for layer in range(self.num_layers):
            weights = self._weights(layer, 0)
            if n == 2:
                weights += self._weights(layer, 1)
            h0, c0 = (*(state[layer * n : layer * n + n] for state in states), None, None)[:2]
            x, h_n, c_n = _run(plan, x, h0, c0, weights)
            lasts.append(h_n)
            cells.append(c_n)
            if self.dropout and self.training and layer + 1 < self.num_layers:
                x = functional.dropout(x, self.dropout)
        h_n = lasts[0] if len(lasts) == 1 else torch.cat(lasts)
        c_n = cells[0] if len(cells) == 1 or cells[0] is None else torch.cat(cells)
        if not batched:
            return x[0], h_n[:, 0], None if c_n is None else c_n[:, 0]
        return (x if self.batch_first else x.transpose(0, 1)), h_n, c_n


class FusedRNN(_Fused, nn.RNN):
    """``torch.nn.RNN`` on the native kernels: same arguments, same weights, same call.

    Examples
    --------
    >>> import torch
    >>> from rnnforecast.nn.recurrence import FusedRNN
    >>> twin, layer = FusedRNN(3, 8), torch.nn.RNN(3, 8)
    >>> _ = twin.load_state_dict(layer.state_dict())
    >>> x = torch.randn(5, 2, 3)
    >>> bool(torch.allclose(twin(x)[0], layer(x)[0], atol=1e-6))
    True
    """

    cell = "rnn"

    def forward(self, input: Any, hx: Any = None) -> Any:
        states = () if hx is None else (hx,)
        if not self._fits(input, states):
            return super().forward(input, hx)
        return self._native(input, states)[:2]


class FusedGRU(_Fused, nn.GRU):
    """``torch.nn.GRU`` on the native kernels: same arguments, same weights, same call."""

    cell = "gru"

    def forward(self, input: Any, hx: Any = None) -> Any:
        states = () if hx is None else (hx,)
        if not self._fits(input, states):
            return super().forward(input, hx)
        return self._native(input, states)[:2]


class FusedLSTM(_Fused, nn.LSTM):
    """``torch.nn.LSTM`` on the native kernels: same arguments, same weights, same call."""

    cell = "lstm"

    def forward(self, input: Any, hx: Any = None) -> Any:
        states = () if hx is None else tuple(hx)
        if len(states) == 1 or len(states) > 2 or not self._fits(input, states):
            return super().forward(input, hx)
        outputs, h_n, c_n = self._native(input, states)
        return outputs, (h_n, c_n)
