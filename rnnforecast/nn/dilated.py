"""Dilated LSTM layers and the residual stack of them (Chang et al. 2017; Smyl 2020, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rnnforecast.nn.recurrence import FusedLSTM

__all__ = ["DilatedLSTM", "DilatedResidualStack"]


class DilatedLSTM(nn.Module):
    """LSTM whose state at step t comes from step t - dilation (Chang et al. 2017, eq. 3).

    The sequence falls into ``dilation`` interleaved ones that never meet, so they run side by side
    as a larger batch with fewer steps.

    Parameters
    ----------
    input_size, hidden_size : int
    dilation : int
    """

    def __init__(self, input_size: int, hidden_size: int, dilation: int = 1):
        super().__init__()
        self.dilation = dilation
        self.lstm = FusedLSTM(int(input_size), int(hidden_size))  # NumPy's are refused

    def forward(self, x: Tensor) -> Tensor:
        """x: (time, batch, input_size); returns (time, batch, hidden_size)."""
        n_steps, batch, size = x.shape
        d = min(self.dilation, n_steps)
        missing = -n_steps % d
        if missing:
            x = torch.cat([x, x.new_zeros(missing, batch, size)])
        out, _ = self.lstm(x.reshape(-1, d * batch, size))
        return out.reshape(n_steps + missing, batch, -1)[:n_steps]


class DilatedResidualStack(nn.Module):
    """Blocks of dilated layers, each block after the first adding its input to its output.

    Parameters
    ----------
    input_size, hidden_size : int
    dilations : sequence of sequences of int
        One inner sequence a block, e.g. ``((1, 4), (24, 168))``.
    """

    def __init__(self, input_size: int, hidden_size: int, dilations: Sequence[Sequence[int]]):
        super().__init__()
        self.blocks = nn.ModuleList()
        size = input_size
        for block in dilations:
            layers = []
            for dilation in block:
                layers.append(DilatedLSTM(size, hidden_size, dilation))
                size = hidden_size
            self.blocks.append(nn.ModuleList(layers))

    def forward(self, x: Tensor) -> Tensor:
        """x: (time, batch, input_size); returns (time, batch, hidden_size)."""
        for depth, block in enumerate(self.blocks):
            out = x
            for layer in block:  # type: ignore[attr-defined]
                out = layer(out)
            x = out + x if depth else out
        return x
