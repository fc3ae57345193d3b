"""The encoder of a network fed row by row: an observation costs one step, not a look-back."""

from __future__ import annotations

import copy
import ctypes
from typing import Any

import numpy as np
import torch

from rnnforecast.nn.network import ForecastNetwork
from rnnforecast.nn.step import StackStep
from rnnforecast.nn.window import Inputs

__all__ = ["StreamEncoder", "can_stream"]


class _Push(ctypes.Structure):
    """``Push`` of native/step.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "n_targets", "n_past", "season")),
        *((name, ctypes.c_int64) for name in ("capacity", "size", "share", "at", "before")),
        *((name, ctypes.c_void_p) for name in ("targets", "past", "centre", "scale", "features")),
    ]


def can_stream(network: Any) -> bool:
    """Whether a network's encoder is causal and can advance step by step."""
    return isinstance(network, ForecastNetwork) and not network.encoder.bidirectional


class StreamEncoder:
    """States of a network's encoder for some windows, advanced by the rows that follow them.

    They equal those of encoding all rows from each window's start at once, in the unit of that
    window. With segments of S steps there are S sets of states, one for each phase: every row
    completes a segment of one of them. ``inputs`` are the windows in series units, float64 on the
    CPU; ``dtype`` is that of the arithmetic, and ``native=False`` keeps it to torch.
    """

    def __init__(
        self,
        network: ForecastNetwork,
        inputs: Inputs,
        dtype: str = "float64",
        native: bool | None = None,
    ):
        spec = network.spec
        self._effect = _frozen(network.effect) if spec.known else None
        self._columns = _frozen(network.past_columns)
        features, self._centre, self._scale = _open(network, inputs)
        n_rows, count, size = features.shape
        self._segment, self._season = spec.segment, spec.season
        self._keep = max(spec.segment, spec.season)  # rows that a new one looks back on
        buffer = np.zeros((n_rows, max(count, self._keep) + self._keep, size), dtype)
        buffer[:, :count] = features
        self._at = self._count = count
        self._n_series = len(inputs.targets)
        # the new row in series units, targets less the covariates' effect
        self._targets = np.zeros_like(self._centre)
        self._past = np.zeros((self._n_series, len(spec.past)))
        self._step = StackStep(network.encoder, buffer, spec.segment, spec.segment, native)
        self._bind()
        for ahead in range(1, spec.segment + 1):  # the phase of the whole window is the last
            phase = (count + ahead) % spec.segment
            self._step.advance(phase, phase, (count - phase) // spec.segment)

    def _bind(self) -> None:
        self._buffer = self._step.features
        n_rows, capacity, size = self._buffer.shape
        columns = (self._targets.shape[1], self._past.shape[1], self._season)
        share = n_rows // self._n_series
        arrays = (self._targets, self._past, self._centre, self._scale, self._buffer)
        addresses = [array.ctypes.data for array in arrays]
        self._push = _Push(n_rows, *columns, capacity, size, share, 0, 0, *addresses)
        self._push_at = ctypes.c_void_p(ctypes.addressof(self._push))
        self._compiled = self._step.compiled and not self._columns.categories
        self._new_targets = self._targets.reshape(self._n_series, -1)

    def push(self, targets: Any, past: Any, known: Any) -> None:
        """Advance by one row in series units, NaN where not observed: ``targets`` (n, n_targets) or
        a number, ``past`` (n, n_past) and ``known`` (n, n_known) or None.
        """
        if self._effect is not None:
            targets = targets - self._effect(torch.from_numpy(known)[None])[0].numpy()
        self._new_targets[...] = targets
        if past is not None:
            self._past[...] = past
        at, count = self._at, self._count
        if at == self._buffer.shape[1]:
            self._buffer[:, : self._keep] = self._buffer[:, at - self._keep :]
            at = self._keep
        self._at, self._count = at + 1, count + 1
        start, phase = at + 1 - self._segment, (count + 1) % self._segment
        if self._compiled:
            self._push.at, self._push.before = at, count
            self._step.push(self._push_at, start, phase)
        else:
            self._fill(at, count)
            self._step.advance(start, phase)

    def _fill(self, at: int, before: int) -> None:
        """As ``push`` of native/step.cpp: the features of the row at position ``at``."""
        n = self._targets.shape[1]
        missing = np.isnan(self._targets)
        values = np.where(missing, 0.0, (self._targets - self._centre) / self._scale)
        parts = [values]
        if self._season > 1:
            step = np.zeros_like(values)
            if before >= self._season:
                then = self._buffer[:, at - self._season]
                both = ~missing & (then[:, 2 * n : 3 * n] == 0)
                step = np.where(both, values.astype(then.dtype) - then[:, :n], 0.0)
            parts.append(step)
        parts.append(missing)
        if self._past.shape[1]:
            past = self._columns(torch.from_numpy(self._past)).numpy()
            parts.append(np.repeat(past, len(values) // self._n_series, axis=0))
        self._buffer[:, at] = np.concatenate(parts, axis=1)

    @property
    def encoded(self) -> np.ndarray:
        """Output of the last layer, (rows, encoder output size): a copy."""
        return self._step.top[:, : self._step.hidden_size].copy()

    @property
    def hidden(self) -> np.ndarray:
        """States of the phase that was completed last, (n_layers, rows, hidden size): a view."""
        state = self._step.hidden[self._count % self._segment]
        return state[..., : self._step.hidden_size]

    def __getstate__(self) -> dict[str, Any]:
        bound = ("_push", "_push_at", "_buffer", "_new_targets")
        return {name: value for name, value in vars(self).items() if name not in bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in ("_centre", "_scale", "_targets", "_past"):  # joblib may map them read-only
            setattr(self, name, np.array(getattr(self, name), order="C"))
        self._bind()


def _frozen(module: Any) -> Any:
    return copy.deepcopy(module).cpu().double().requires_grad_(False)


@torch.inference_mode()
def _open(network: ForecastNetwork, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of windows (rows, steps, size); the centre and scale that stay: (rows, joint)."""
    weight = next(network.parameters())
    inputs = Inputs(*(part.to(weight) for part in inputs))
    window = network.normalise(network.take_effect(inputs))
    features = network.features(window.values, window.observed, inputs.past)
    parts = (features, *(part.reshape(len(features), -1) for part in (window.centre, window.scale)))
    read, centre, scale = (part.cpu().double().numpy().copy() for part in parts)
    return read, centre, scale
