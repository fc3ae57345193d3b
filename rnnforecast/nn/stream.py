"""The encoder of a network fed row by row: an observation costs one step, not a look-back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from rnnforecast.nn.covariates import CovariateEffect
from rnnforecast.nn.network import ForecastNetwork
from rnnforecast.nn.step import StackStep, can_step
from rnnforecast.nn.window import Inputs

__all__ = ["StreamEncoder", "can_stream"]


class _Push(ctypes.Structure):
    """``Push`` of native/step.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "n_targets", "n_past", "season")),
        *((name, ctypes.c_int64) for name in ("capacity", "size", "share", "at", "before")),
        *((name, ctypes.c_void_p) for name in ("targets", "past", "centre", "scale", "features")),
    ]


class _RowFeatures:
    """What the encoder reads of one new row, as ``ForecastNetwork.features`` has it of a window.

    Parameters
    ----------
    features : ndarray, shape (n_rows, capacity, size)
        Buffer to fill.
    n_past, season : int
    centre, scale : ndarray of float64, shape (n_rows, n_targets)
    share : int, default 1
        So many neighbouring rows read the same past covariates.

    Attributes
    ----------
    targets : ndarray of float64, shape (n_rows, n_targets)
        The new row in series units less the covariates' effect; written by the caller.
    past : ndarray of float64, shape (n_rows / share, n_past)
        Likewise.
    """

    def __init__(
        self,
        features: np.ndarray,
        n_past: int,
        season: int,
        centre: np.ndarray,
        scale: np.ndarray,
        share: int = 1,
    ):
        self.features = features
        self.season = season
        self.centre = np.array(centre, np.float64, order="C")
        self.scale = np.array(scale, np.float64, order="C")
        self.share = share
        self.targets = np.zeros_like(self.centre)
        self.past = np.zeros((len(features) // share, n_past))
        self._bind()

    def _bind(self) -> None:
        n_rows, capacity, size = self.features.shape
        self.struct = _Push(
            n_rows=n_rows,
            n_targets=self.targets.shape[1],
            n_past=self.past.shape[1],
            season=self.season,
            capacity=capacity,
            size=size,
            share=self.share,
            targets=self.targets.ctypes.data,
            past=self.past.ctypes.data,
            centre=self.centre.ctypes.data,
            scale=self.scale.ctypes.data,
            features=self.features.ctypes.data,
        )
        self.struct_at = ctypes.c_void_p(ctypes.addressof(self.struct))

    def share_buffer(self, features: np.ndarray) -> None:
        self.features = features
        for name in ("centre", "scale", "targets", "past"):  # writable, and aligned
            setattr(self, name, np.array(getattr(self, name), order="C"))
        self._bind()

    def fill(self, at: int, before: int) -> None:
        """The features of the new row at position ``at``, ``before`` rows being before it."""
        n = self.targets.shape[1]
        now = self.features[:, at]
        missing = np.isnan(self.targets)
        now[:, :n] = np.where(missing, 0.0, (self.targets - self.centre) / self.scale)
        place = n
        if self.season > 1:
            now[:, n : 2 * n] = 0.0
            if before >= self.season:
                then = self.features[:, at - self.season]
                both = ~missing & (then[:, 2 * n : 3 * n] == 0)
                now[:, n : 2 * n] = np.where(both, now[:, :n] - then[:, :n], 0.0)
            place = 2 * n
        now[:, place : place + n] = missing
        place += n
        if self.past.shape[1]:
            past = np.repeat(self.past, self.share, axis=0)
            unknown = np.isnan(past)
            now[:, place : place + unknown.shape[1]] = np.where(unknown, 0.0, past)
            now[:, place + unknown.shape[1] :] = unknown

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.startswith("struct")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()


def can_stream(network: Any) -> bool:
    """Whether a network's encoder is causal and can advance step by step."""
    return isinstance(network, ForecastNetwork) and can_step(network.encoder)


class StreamEncoder:
    """States of a network's encoder for some windows, advanced by the rows that follow them.

    They equal those of encoding all rows from each window's start at once, in the unit of that
    window. With segments of S steps there are S sets of states, one for each phase: every row
    completes a segment of one of them.

    Parameters
    ----------
    network : ForecastNetwork
        See :func:`can_stream`.
    inputs : Inputs
        Windows in series units, float64 on the CPU; ``future_known`` and ``static`` are not read.
    dtype : {"float64", "float32"}, default "float64"
        Of the arithmetic.
    native : bool, optional
        False keeps to NumPy.
    """

    def __init__(
        self,
        network: ForecastNetwork,
        inputs: Inputs,
        dtype: str = "float64",
        native: bool | None = None,
    ):
        spec = network.spec
        self._effect = _Effect(network.effect) if spec.n_known else None
        features, centre, scale = _open(network, inputs)
        n_rows, count, size = features.shape
        self._keep = max(spec.segment, spec.season)  # rows that a new one looks back on
        buffer = np.zeros((n_rows, max(count, self._keep) + self._keep, size), dtype)
        buffer[:, :count] = features
        self._at = self._count = count
        self._n_series = len(inputs.targets)
        self._row = _RowFeatures(
            buffer, spec.n_past, spec.season, centre, scale, n_rows // len(inputs.targets)
        )
        self._step = StackStep(network.encoder, buffer, spec.segment, spec.segment, native)
        self._buffer = buffer
        self._segment = spec.segment
        self._bind()
        for ahead in range(1, spec.segment + 1):  # the phase of the whole window is the last
            phase = (count + ahead) % spec.segment
            self._step.advance(phase, phase, (count - phase) // spec.segment)

    def _bind(self) -> None:
        self._compiled = self._step.compiled
        self._targets = self._row.targets.reshape(self._n_series, -1)

    def push(self, targets: Any, past: Any, known: Any) -> None:
        """Advance by one row.

        Parameters
        ----------
        targets : ndarray of float64, shape (n, n_targets), or a number
            In series units, NaN where not observed.
        past : ndarray, shape (n, n_past), or None
        known : ndarray, shape (n, n_known), or None
        """
        if self._effect is not None:
            targets = targets - self._effect(known)
        self._targets[...] = targets
        if past is not None:
            self._row.past[...] = past
        at, count = self._at, self._count
        if at == self._buffer.shape[1]:
            self._buffer[:, : self._keep] = self._buffer[:, at - self._keep :]
            at = self._keep
        self._at, self._count = at + 1, count + 1
        start, phase = at + 1 - self._segment, (count + 1) % self._segment
        if self._compiled:
            struct = self._row.struct
            struct.at = at
            struct.before = count
            self._step.push(self._row.struct_at, start, phase)
        else:
            self._row.fill(at, count)
            self._step.advance(start, phase)

    @property
    def encoded(self) -> np.ndarray:
        """Output of the last layer, (rows, encoder output size): a copy."""
        return self._step.top[:, : self._step.hidden_size].copy()

    @property
    def hidden(self) -> np.ndarray:
        """Hidden states of the phase that was completed last: (n_layers, rows, hidden size), a
        view.
        """
        state = self._step.hidden[self._count % self._segment]
        return state[..., : self._step.hidden_size]

    def __getstate__(self) -> dict[str, Any]:
        return {name: v for name, v in vars(self).items() if name != "_targets"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # joblib does not keep two names of one array together, and may map it read-only
        self._buffer = np.array(self._buffer, order="C")
        self._row.share_buffer(self._buffer)
        self._step.share_buffer(self._buffer)
        self._bind()


class _Effect:
    """``CovariateEffect`` of one row in NumPy: torch's calls would outweigh the step."""

    def __init__(self, effect: CovariateEffect):
        def array(weight: torch.Tensor) -> np.ndarray:
            return np.ascontiguousarray(weight.detach().cpu().double().numpy().T)

        self._linear, self._bias = array(effect.linear.weight), array(effect.linear.bias)
        self._hidden, self._shift = array(effect.hidden.weight), array(effect.hidden.bias)
        self._out = array(effect.out.weight)

    def __call__(self, known: np.ndarray) -> np.ndarray:
        """known: (n, n_known), NaN where missing; returns (n, n_targets)."""
        from scipy.special import ndtr

        missing = np.isnan(known)
        x = np.concatenate([np.where(missing, 0.0, known), missing], axis=1)
        hidden = x @ self._hidden + self._shift
        # GELU: x times the normal distribution function (Hendrycks & Gimpel 2016)
        return x @ self._linear + self._bias + (hidden * ndtr(hidden)) @ self._out


@torch.inference_mode()
def _open(network: ForecastNetwork, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of windows (rows, steps, size); the centre and scale that stay: (rows, joint)."""
    weight = next(network.parameters())
    inputs = Inputs(*(part.to(weight) for part in inputs))
    window = network.normalise(network.take_effect(inputs))
    features = network.features(window.values, window.observed, inputs.past)
    rows = len(features)
    return (
        features.cpu().double().numpy(),
        window.centre.cpu().double().numpy().reshape(rows, -1),
        window.scale.cpu().double().numpy().reshape(rows, -1),
    )
