"""LSTM with peepholes, as a module with torch's interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnnforecast.nn.recurrence import FusedLSTM

__all__ = ["PeepholeLSTM"]


class PeepholeLSTM(FusedLSTM):
    """LSTM whose gates see the cell: Gers & Schmidhuber 2000; Graves 2013, eq. 7 to 11.

    Arguments and calls of ``torch.nn.LSTM`` (no ``proj_size``, no packed sequences). Each layer and
    direction has one more weight, ``weight_peephole_l0`` and so on: (3, hidden_size), what the
    input, forget and output gate see of the cell, unit by unit. Zeros there make it an LSTM.

    Examples
    --------
    >>> import torch
    >>> from rnnforecast.nn.peephole import PeepholeLSTM
    >>> layer = PeepholeLSTM(1, 4, batch_first=True)
    >>> outputs, (h_n, c_n) = layer(torch.ones(2, 7, 1))
    >>> bool(torch.equal(outputs[:, -1], h_n[0]))
    True
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.proj_size:
            raise ValueError(f"PeepholeLSTM: proj_size must be 0. Got {self.proj_size}")
        bound = self.hidden_size**-0.5
        for layer in range(self.num_layers):
            for direction in range(2 if self.bidirectional else 1):
                peephole = torch.empty(3, self.hidden_size, **_like(self.weight_ih_l0))
                with torch.no_grad():
                    peephole.uniform_(-bound, bound)
                self.register_parameter(_peephole_name(layer, direction), nn.Parameter(peephole))

    def _weights(self, layer: int, direction: int) -> tuple[Tensor | None, ...]:
        peephole = getattr(self, _peephole_name(layer, direction))
        return *super()._weights(layer, direction)[:4], peephole

    def forward(self, input: Any, hx: Any = None) -> Any:
        states = () if hx is None else tuple(hx)
        if not isinstance(input, Tensor):
            raise TypeError(
                "PeepholeLSTM: the input must be a Tensor (packed sequences are not supported). "
                f"Got {type(input).__name__}"
            )
        self.check_forward_args(*_checkable(input, states, self))
        self._update_flat_weights()  # torch.func.functional_call swaps weights
        outputs, h_n, c_n = self._native(input, states)
        return outputs, (h_n, c_n)


def _peephole_name(layer: int, direction: int) -> str:
    return f"weight_peephole_l{layer}" + ("_reverse" if direction else "")


def _like(tensor: Any) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "device": tensor.device}


def _checkable(x: Tensor, states: tuple[Tensor, ...], layer: nn.RNNBase) -> Any:
    """Input and states as ``check_forward_args`` of torch reads them; zeros if none are given."""
    n = layer.num_layers * (2 if layer.bidirectional else 1)
    if x.ndim not in (2, 3):
        raise ValueError(f"PeepholeLSTM: the input must have 2 or 3 axes. Got {x.ndim}")
    if x.ndim == 2:
        x, states = x[None if layer.batch_first else slice(None)], tuple(s[:, None] for s in states)
        x = x if x.ndim == 3 else x[:, None]
    if not states:
        batch = x.shape[0 if layer.batch_first else 1]
        zeros = x.new_zeros(()).expand(n, batch, layer.hidden_size)
        states = (zeros, zeros)
    return x, states, None
