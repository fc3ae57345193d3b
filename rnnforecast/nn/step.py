"""One step of a stack of recurrent layers at a time, for rows that each keep their own state.

A forward pass over a window costs the window; a step costs a matrix-vector product. Where the
compiled library is there, the whole stack takes its step in one call; else in NumPy.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from rnnforecast.nn._library import library
from rnnforecast.nn.cells import CELLS
from rnnforecast.nn.layers import RecurrentStack

__all__ = ["StackStep", "can_step"]


class _Kind(NamedTuple):
    """How a cell is packed; ``code`` as in native/step.cpp."""

    code: int
    gates: int
    sums: int
    memory: bool
    peepholes: int = 0


_KINDS = {
    "rnn": _Kind(0, 1, 1, False),
    "lstm": _Kind(1, 4, 4, True),
    "gru": _Kind(2, 3, 4, False),
    "lstm_peephole": _Kind(3, 4, 4, True, 3),
}


class _Layer(NamedTuple):
    """Weights of one layer in float64; gates in torch's order.

    Attributes
    ----------
    w_x : (gates, hidden, input)
    w_h : (gates, hidden, hidden)
    bias : (sums, hidden)
        GRU: reset, update, new from the input, new from the state.
    peephole : (3 or 0, hidden)
        Input, forget and output gate.
    """

    w_x: np.ndarray
    w_h: np.ndarray
    bias: np.ndarray
    peephole: np.ndarray


class _Step(ctypes.Structure):
    """``Step`` of native/step.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "n_layers", "hidden", "input", "n_rows")),
        *((name, ctypes.c_int64) for name in ("residual", "n_steps", "x_row", "x_step")),
        *((name, ctypes.c_void_p) for name in ("weights", "x", "h", "c", "top", "scratch")),
    ]


def _cell_of(layer: Any) -> str | None:
    return next((name for name, kind in CELLS.items() if type(layer) is kind), None)


def can_step(stack: Any) -> bool:
    """Whether a stack can advance step by step: one direction, and a cell known here."""
    return isinstance(stack, RecurrentStack) and all(
        _cell_of(layer) in _KINDS and not layer.bidirectional for layer in stack.layers
    )


def _read_layer(layer: Any, kind: _Kind) -> _Layer:
    weights = {
        name.rpartition(".")[2]: weight.detach().cpu().double().numpy()
        for name, weight in layer.named_parameters()
    }
    hidden = layer.hidden_size
    b_x = weights["bias_ih_l0"].reshape(kind.gates, hidden)
    b_h = weights["bias_hh_l0"].reshape(kind.gates, hidden)
    bias = b_x + b_h
    if kind.sums > kind.gates:  # GRU: the reset gate acts on the state's part alone
        bias = np.concatenate([bias[:2], b_x[2:], b_h[2:]])
    return _Layer(
        weights["weight_ih_l0"].reshape(kind.gates, hidden, -1),
        weights["weight_hh_l0"].reshape(kind.gates, hidden, hidden),
        bias,
        weights["weight_peephole_l0"].reshape(3, hidden)
        if kind.peepholes
        else np.empty((0, hidden)),
    )


def _vector_bytes(lib: Any) -> int:
    """Width of the vectors that the compiled library works with on this machine."""
    return int(lib.rnnf_step_bytes())


def _padding(lib: Any, hidden: int, itemsize: int) -> int:
    """Units by which a state is longer than ``hidden``: whole vectors, none in NumPy."""
    return 0 if lib is None else -hidden % (_vector_bytes(lib) // itemsize)


class StackStep:
    """A stack's states for ``n_rows`` rows, advanced over a buffer of features.

    Parameters
    ----------
    stack : RecurrentStack
        Causal; its weights are copied.
    features : ndarray, shape (n_rows, capacity, size)
        C-contiguous buffer that the caller fills; its dtype, float64 or float32, is that of the
        arithmetic. A step reads ``segment`` neighbouring rows of it, ``segment * size`` numbers.
    segment : int, default 1
    n_states : int, default 1
        Independent sets of states.
    native : bool, optional
        False keeps to NumPy; None and True use the compiled library where it is there.

    Attributes
    ----------
    hidden, memory : ndarray, shape (n_states, n_layers, n_rows, width)
        States, padded with zeros from the hidden size to ``width``; ``memory`` has no state where
        the cell has none.
    top : ndarray, shape (n_rows, width)
        Output of the last layer after the last step.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from rnnforecast.nn.layers import RecurrentStack
    >>> stack = RecurrentStack("gru", 3, 8, 2).double()
    >>> x = np.random.default_rng(0).standard_normal((1, 5, 3))
    >>> step = StackStep(stack, x)
    >>> for t in range(5):
    ...     top = step.advance(t)
    >>> whole = stack(torch.from_numpy(x))[1].detach().numpy()
    >>> bool(np.abs(top - whole).max() < 1e-12)
    True
    """

    def __init__(
        self,
        stack: RecurrentStack,
        features: np.ndarray,
        segment: int = 1,
        n_states: int = 1,
        native: bool | None = None,
    ):
        cell = _cell_of(stack.layers[0])
        assert cell is not None and can_step(stack)
        self._kind = _KINDS[cell]
        self._layers = [_read_layer(layer, self._kind) for layer in stack.layers]
        self._residual = bool(stack.residual)
        self.hidden_size = stack.output_size
        self.segment = segment
        self.features = features
        self._native = native is not False
        lib = library() if self._native else None
        width = self.hidden_size + _padding(lib, self.hidden_size, features.itemsize)
        n_rows = len(features)
        shape = (n_states, len(self._layers), n_rows, width)
        self.hidden = np.zeros(shape, features.dtype)
        self.memory = np.zeros(shape if self._kind.memory else (0, *shape[1:]), features.dtype)
        self.top = np.zeros((n_rows, width), features.dtype)
        self._bind(lib)

    # -- steps -------------------------------------------------------------------------------------

    def advance(self, start: int, state: int = 0, n_steps: int = 1) -> np.ndarray:
        """Steps over ``features[:, start : start + n_steps * segment]``.

        Returns
        -------
        ndarray, shape (n_rows, hidden_size)
            The last layer's output after the last step; a view that the next call overwrites.
        """
        if self._lib is None:
            x = self.features[:, start : start + n_steps * self.segment]
            x = x.reshape(len(x), n_steps, self.segment * x.shape[2])
            for step in range(n_steps):
                self._numpy_step(x[:, step], state)
        else:
            self._point(start, state)
            self._step.n_steps = n_steps
            self._run(self._step_at, self._bytes)
            self._step.n_steps = 1
        return self.top[:, : self.hidden_size]

    def _point(self, start: int, state: int) -> None:
        step = self._step
        step.x = self._x_at + start * self._row_bytes
        at = state * self._state_bytes
        step.h = self._h_at + at
        if self._kind.memory:
            step.c = self._c_at + at

    @property
    def compiled(self) -> bool:
        """Whether steps run in the compiled library."""
        return self._lib is not None

    def push(self, row: ctypes.c_void_p, start: int, state: int) -> None:
        """Write a new row's features (``Push`` of native/step.cpp), then a step from ``start``.

        In one call; only where ``compiled``.
        """
        self._point(start, state)
        self._push(row, self._step_at, self._bytes)

    # -- compiled ----------------------------------------------------------------------------------

    def _bind(self, lib: Any) -> None:
        """Prepare what a call needs: packed weights, and addresses as plain numbers."""
        self._lib = lib
        if lib is None:
            self._weights = None
            self._numpy = [_numpy_weights(layer, self.features.dtype) for layer in self._layers]
            return
        suffix = {8: "f64", 4: "f32"}[self.features.itemsize]
        n_bytes = _vector_bytes(lib)
        self._run = getattr(lib, f"rnnf_step_run_{suffix}")
        self._push = getattr(lib, f"rnnf_step_push_{suffix}")
        self._run.restype = self._push.restype = None
        self._bytes = ctypes.c_int64(n_bytes)
        lanes = n_bytes // self.features.itemsize
        width = self.hidden.shape[-1]
        packed = [_pack(layer, self._kind, width, lanes) for layer in self._layers]
        self._weights = np.concatenate(packed).astype(self.features.dtype)
        self._scratch = np.zeros((2, lib.rnnf_step_chunk(), width), self.features.dtype)
        n_rows, _, size = self.features.shape
        row, step = (stride // self.features.itemsize for stride in self.features.strides[:2])
        self._step = _Step(
            cell=self._kind.code,
            n_layers=len(self._layers),
            hidden=self.hidden_size,
            input=size * self.segment,
            n_rows=n_rows,
            residual=self._residual,
            n_steps=1,
            x_row=row,
            x_step=step * self.segment,
            weights=self._weights.ctypes.data,
            top=self.top.ctypes.data,
            scratch=self._scratch.ctypes.data,
        )
        self._step_at = ctypes.c_void_p(ctypes.addressof(self._step))
        self._x_at, self._row_bytes = self.features.ctypes.data, self.features.strides[1]
        self._h_at, self._state_bytes = self.hidden.ctypes.data, self.hidden.strides[0]
        self._c_at = self.memory.ctypes.data

    def share_buffer(self, features: np.ndarray) -> None:
        """Read features from here on; of the same shape and dtype."""
        self.features = features
        self._bind(self._lib)

    # -- NumPy -------------------------------------------------------------------------------------

    def _numpy_step(self, x: np.ndarray, state: int) -> None:
        """x: (n_rows, segment * size)."""
        for depth, (w_x, w_h, bias, peephole) in enumerate(self._numpy):
            h = self.hidden[state, depth]
            c = self.memory[state, depth] if self._kind.memory else None
            new = _CELL_STEPS[self._kind.code](x @ w_x, h @ w_h, bias, h, c, peephole)
            h[...] = new
            x = new + x if self._residual and depth > 0 else new
        self.top[...] = x

    # -- pickling ----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, and without the padding, which is this machine's."""
        kept = ("_kind", "_layers", "_residual", "hidden_size", "segment", "_native", "features")
        state = {name: getattr(self, name) for name in kept}
        for name in ("hidden", "memory", "top"):
            state[name] = getattr(self, name)[..., : self.hidden_size].copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        lib = library() if self._native else None
        pad = _padding(lib, self.hidden_size, self.features.itemsize)
        for name in ("hidden", "memory", "top"):
            value = getattr(self, name)
            padding = [(0, 0)] * (value.ndim - 1) + [(0, pad)]
            setattr(self, name, np.ascontiguousarray(np.pad(value, padding)))
        self._bind(lib)


# -- weights ---------------------------------------------------------------------------------------


def _pack(layer: _Layer, kind: _Kind, width: int, lanes: int) -> np.ndarray:
    """Block by block of ``lanes`` units: biases, weights by input and unit of the state, peepholes
    (``block_size`` in native/step_kernels.h). Units of the padding have zero weights.
    """
    hidden = layer.w_h.shape[1]

    def blocks(values: np.ndarray) -> np.ndarray:
        """(k, hidden) to (n_blocks, k, lanes)."""
        padded = np.pad(values, [(0, 0), (0, width - hidden)])
        return padded.reshape(len(values), width // lanes, lanes).transpose(1, 0, 2)

    def by_input(weights: np.ndarray) -> np.ndarray:
        """(gates, hidden, k) to (k * gates, hidden)."""
        return weights.transpose(2, 0, 1).reshape(-1, hidden)

    parts = [layer.bias, by_input(layer.w_x), by_input(layer.w_h), layer.peephole]
    return np.concatenate([blocks(part) for part in parts], axis=1).ravel()


def _numpy_weights(layer: _Layer, dtype: Any) -> tuple[np.ndarray, ...]:
    """(input, gates * hidden), (hidden, gates * hidden), (sums * hidden,), (3, hidden)."""

    def flat(weights: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(weights.reshape(-1, weights.shape[2]).T, dtype)

    bias, peephole = layer.bias.ravel().astype(dtype), layer.peephole.astype(dtype)
    return flat(layer.w_x), flat(layer.w_h), bias, peephole


# x and u are products that nobody else holds: sums are made in place, since fresh memory for many
# rows costs more than the arithmetic.


def _sigmoid(x: np.ndarray) -> np.ndarray:
    x = np.tanh(0.5 * x)  # does not overflow
    x *= 0.5
    x += 0.5
    return x


def _rnn_step(x, u, bias, h, c, peephole):
    x += u
    x += bias
    return np.tanh(x, out=x)


def _lstm_step(x, u, bias, h, c, peephole):
    n = h.shape[1]
    a = x
    a += u
    a += bias
    if len(peephole):  # Gers & Schmidhuber 2000
        a[:, :n] += peephole[0] * c
        a[:, n : 2 * n] += peephole[1] * c
    gates = _sigmoid(a[:, : 2 * n])
    c *= gates[:, n:]
    c += gates[:, :n] * np.tanh(a[:, 2 * n : 3 * n])
    out = a[:, 3 * n :] + peephole[2] * c if len(peephole) else a[:, 3 * n :]
    return _sigmoid(out) * np.tanh(c)


def _gru_step(x, u, bias, h, c, peephole):
    n = h.shape[1]
    x += bias[: 3 * n]
    from_state = u[:, 2 * n :]
    from_state += bias[3 * n :]
    gates = _sigmoid(x[:, : 2 * n] + u[:, : 2 * n])
    from_state *= gates[:, :n]
    from_state += x[:, 2 * n :]
    new = np.tanh(from_state, out=from_state)
    return new + gates[:, n:] * (h - new)


_CELL_STEPS = (_rnn_step, _lstm_step, _gru_step, _lstm_step)
