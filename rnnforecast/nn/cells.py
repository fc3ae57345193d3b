"""Recurrent layers by name: one small class and one line of registration each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rnnforecast.nn.peephole import PeepholeLSTM
from rnnforecast.nn.recurrence import FusedGRU, FusedLSTM, FusedRNN

__all__ = ["CELLS", "RecurrentLayer", "make_layer", "register_cell"]

CELLS: dict[str, type[RecurrentLayer]] = {}


def register_cell(name: str) -> Callable[[type[RecurrentLayer]], type[RecurrentLayer]]:
    """Class decorator: make a layer known as ``cell=name``."""

    def register(layer: type[RecurrentLayer]) -> type[RecurrentLayer]:
        CELLS[name] = layer
        return layer

    return register


class RecurrentLayer(nn.Module, ABC):
    """One recurrent layer over a sequence, in one direction or both.

    Parameters
    ----------
    input_size, hidden_size : int
    bidirectional : bool
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False):
        super().__init__()
        self.hidden_size = hidden_size
        self.bidirectional = bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run over ``x: (batch, time, input_size)``.

        Returns
        -------
        outputs : (batch, time, output_size)
        last : (batch, output_size)
            Last hidden state of each direction, side by side.
        """


class _TorchLayer(RecurrentLayer):
    """A layer with torch's interface; its weights keep torch's names."""

    module: Any  # a twin of nn.RNN, nn.LSTM or nn.GRU on the native kernels

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False):
        super().__init__(input_size, hidden_size, bidirectional)
        self.rnn = self.module(
            input_size, hidden_size, batch_first=True, bidirectional=bidirectional
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, state = self.rnn(x)
        hidden = state[0] if isinstance(state, tuple) else state  # (directions, batch, hidden)
        return outputs, torch.cat(tuple(hidden), dim=-1)


@register_cell("rnn")
class RNNLayer(_TorchLayer):
    """Elman 1990: h_t = tanh(W x_t + U h_{t-1} + b)."""

    module = FusedRNN


@register_cell("lstm")
class LSTMLayer(_TorchLayer):
    """Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000."""

    module = FusedLSTM


@register_cell("lstm_peephole")
class PeepholeLSTMLayer(_TorchLayer):
    """LSTM whose gates see the cell (Gers & Schmidhuber 2000; Graves 2013, eq. 7 to 11)."""

    module = PeepholeLSTM


@register_cell("gru")
class GRULayer(_TorchLayer):
    """Cho et al. 2014, with the reset gate after the recurrent product, as cuDNN has it."""

    module = FusedGRU


def make_layer(
    cell: str, input_size: int, hidden_size: int, bidirectional: bool = False
) -> RecurrentLayer:
    """A recurrent layer by its registered name."""
    # torch's modules refuse NumPy's integers, which a grid of numpy.arange is made of
    return CELLS[cell](int(input_size), int(hidden_size), bidirectional)
