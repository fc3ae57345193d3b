"""One step of a stack of recurrent layers at a time, for rows that each keep their own state.

A forward pass over a window costs the window; a step costs a matrix-vector product. For the fused
cells the compiled library takes the step of a whole stack in one call; else the cells do in torch.
"""

from __future__ import annotations

import copy
import ctypes
from typing import Any

import numpy as np
import torch

from rnnforecast.nn.cells import (
    FusedCell,
    GRUCell,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
    is_fused,
)
from rnnforecast.nn.layers import RecurrentStack
from rnnforecast.nn.library import library

__all__ = ["StackStep"]

_CODES: list[type[FusedCell]] = [RNNCell, LSTMCell, GRUCell, PeepholeLSTMCell]  # native/step.cpp


class _Step(ctypes.Structure):
    """``Step`` of native/step.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "n_layers", "hidden", "input", "n_rows")),
        *((name, ctypes.c_int64) for name in ("residual", "n_steps", "x_row", "x_step")),
        *((name, ctypes.c_void_p) for name in ("weights", "x", "h", "c", "top", "scratch")),
    ]


def _vector_bytes(lib: Any) -> int:
    """Width of the vectors that the compiled library works with on this machine."""
    return int(lib.rnnf_step_bytes())


class StackStep:
    """The states of a stack in one direction for ``n_rows`` rows, advanced over a buffer.

    ``features`` (n_rows, capacity, size) is filled by the caller; its dtype, float64 or float32, is
    that of the arithmetic. A step reads ``segment`` neighbouring rows of it. There are ``n_states``
    independent sets of states: ``hidden`` (n_states, n_layers, n_rows, width) is the first tensor
    of each layer's, padded with zeros from the hidden size to ``width``, or NaN where a cell has
    none of that shape; ``top`` (n_rows, width) is the stack's output after the last step.
    ``compiled`` says whether steps run in the library, which ``native=False`` forbids.
    """

    def __init__(
        self,
        stack: RecurrentStack,
        features: np.ndarray,
        segment: int = 1,
        n_states: int = 1,
        native: bool | None = None,
    ):
        self._stack = copy.deepcopy(stack).cpu().double().eval().requires_grad_(False)
        self.features, self.segment, self.hidden_size = features, segment, stack.output_size
        self._native = native is not False
        kinds: set[Any] = {type(layer) for layer in stack.layers}
        # a dilated layer, or a cell of somebody else, has states that only torch knows
        fused = kinds <= {*_CODES} and all(map(is_fused, stack.layers))
        known = stack.is_plain and len(kinds) == 1 and fused
        self._kind: Any = kinds.pop() if known else None
        n_arrays = self._kind.n_states if self._kind else 1
        shape = (n_arrays, n_states, len(stack.layers), len(features), self.hidden_size)
        self._arrays = np.zeros(shape, features.dtype)  # hidden states, then memory cells
        self.top = np.zeros(shape[3:], features.dtype)
        self._states: Any = [None] * n_states  # of what only torch knows
        self._bind()

    def _bind(self) -> None:
        """Choose between the library and torch, and lay out states and weights for it."""
        lib: Any = library() if self._native and self._kind else None
        self.compiled = lib is not None
        lanes = _vector_bytes(lib) // self.features.itemsize if self.compiled else 1
        pad = [(0, 0), (0, -self.hidden_size % lanes)]
        self._arrays = np.pad(self._arrays, [(0, 0)] * 3 + pad)
        self.top = np.pad(self.top, pad)
        self.hidden = self._arrays[0]
        if not self.compiled:
            self._cells = copy.deepcopy(self._stack).to(torch.from_numpy(self.features).dtype)
            return
        suffix = {8: "f64", 4: "f32"}[self.features.itemsize]
        self._run = getattr(lib, f"rnnf_step_run_{suffix}")
        self._push = getattr(lib, f"rnnf_step_push_{suffix}")
        self._run.restype = self._push.restype = None
        self._bytes = ctypes.c_int64(_vector_bytes(lib))
        width = self.hidden.shape[-1]
        packed = [_pack(layer, width, lanes) for layer in self._stack.layers]
        self._weights = np.concatenate(packed).astype(self.features.dtype)
        self._scratch = np.zeros((2, lib.rnnf_step_chunk(), width), self.features.dtype)
        n_rows, _, size = self.features.shape
        row, step = (stride // self.features.itemsize for stride in self.features.strides[:2])
        self._step = _Step(
            cell=_CODES.index(self._kind),
            n_layers=len(self._stack.layers),
            hidden=self.hidden_size,
            input=size * self.segment,
            n_rows=n_rows,
            residual=self._stack.residual,
            n_steps=1,
            x_row=row,
            x_step=step * self.segment,
            weights=self._weights.ctypes.data,
            top=self.top.ctypes.data,
            scratch=self._scratch.ctypes.data,
        )
        self._step_at = ctypes.c_void_p(ctypes.addressof(self._step))
        # addresses as plain numbers: NumPy takes longer to say them than a step takes
        self._x_at, self._row_bytes = self.features.ctypes.data, self.features.strides[1]
        self._state_at, self._state_bytes = self.hidden.ctypes.data, self.hidden.strides[0]
        self._memory = self._arrays.strides[0] if len(self._arrays) > 1 else None

    def advance(self, start: int, state: int = 0, n_steps: int = 1) -> np.ndarray:
        """Steps over ``features[:, start : start + n_steps * segment]``; the stack's output after
        the last one, (n_rows, hidden_size), a view that the next call overwrites.
        """
        if self.compiled:
            self._point(start, state)
            self._step.n_steps = n_steps
            self._run(self._step_at, self._bytes)
            self._step.n_steps = 1
        elif n_steps:
            x = self.features[:, start : start + n_steps * self.segment]
            self._in_torch(torch.from_numpy(x.reshape(len(x), n_steps, -1)), state)
        return self.top[:, : self.hidden_size]

    @torch.no_grad()
    def _in_torch(self, x: torch.Tensor, state: int) -> None:
        """x: (n_rows, n_steps, segment * size)."""
        arrays = self._arrays[:, state].swapaxes(0, 1)  # by layer
        first = [tuple(map(torch.from_numpy, layer)) for layer in arrays]
        outputs, last = self._cells.scan(x, first if self._kind else self._states[state])
        self.top[...] = outputs[:, -1].numpy()
        if not self._kind:
            self._states[state] = last
        for layer, new in zip(arrays, last):
            for array, one in zip(layer, new):
                array[...] = one.numpy() if one.shape == array.shape else np.nan

    def _point(self, start: int, state: int) -> None:
        step = self._step
        step.x = self._x_at + start * self._row_bytes
        step.h = at = self._state_at + state * self._state_bytes
        if self._memory is not None:
            step.c = at + self._memory

    def push(self, row: ctypes.c_void_p, start: int, state: int) -> None:
        """Write a new row's features (``Push`` of native/step.cpp), then a step from ``start``: in
        one call, only where ``compiled``.
        """
        self._point(start, state)
        self._push(row, self._step_at, self._bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, and without the padding, which is this machine's."""
        kept = ("_stack", "_kind", "hidden_size", "segment", "_native", "features", "_states")
        state = {name: getattr(self, name) for name in kept}
        for name in ("_arrays", "top"):
            state[name] = getattr(self, name)[..., : self.hidden_size].copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.features = np.array(self.features, order="C")  # joblib may map it read-only
        self._bind()


def _pack(layer: Any, width: int, lanes: int) -> np.ndarray:
    """Block by block of ``lanes`` units: biases, weights by input and unit of the state, peepholes
    (``block_size`` in native/step_kernels.h). Units of the padding have zero weights.
    """
    w_x, w_h, b_x, b_h, *see = (w.numpy() for w in layer.weights() if w is not None)
    hidden = layer.hidden_size
    b_x, b_h = b_x.reshape(-1, hidden), b_h.reshape(-1, hidden)
    bias = b_x + b_h
    if isinstance(layer, GRUCell):  # the reset gate acts on the state's part alone
        bias = np.concatenate([bias[:2], b_x[2:], b_h[2:]])
    # (gates * hidden, k) to (k * gates, hidden)
    by_input = (weights.T.reshape(-1, hidden) for weights in (w_x, w_h))
    values = np.concatenate([bias, *by_input, *see])
    padded = np.pad(values, [(0, 0), (0, width - hidden)])
    return padded.reshape(len(values), width // lanes, lanes).transpose(1, 0, 2).ravel()
