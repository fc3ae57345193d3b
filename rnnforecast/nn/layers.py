"""Stacks of recurrent layers, dropout and initialisation from a private generator."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rnnforecast.nn.cells import make_layer

__all__ = ["RecurrentStack", "SeededDropout", "initialise", "set_generator", "set_precision"]


class SeededDropout(nn.Module):
    """Dropout whose noise comes from a generator of its own, never from torch's global one.

    Parameters
    ----------
    p : float
        Probability that a unit is dropped, in [0, 1).
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        if not self.training or self.p == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep / (1 - self.p)


class RecurrentStack(nn.Module):
    """Layers on top of one another.

    Parameters
    ----------
    cell : str
        Name in ``CELLS``.
    input_size, hidden_size, n_layers : int
    bidirectional : bool, default False
        Each layer reads the look-back in both directions.
    residual : bool, default False
        Each layer above the first adds its input to its output (He et al. 2016, eq. 1).
    dropout : float, default 0.0
        Between layers and after the last.

    Attributes
    ----------
    precision : torch.dtype or None
        Type of its matrix products where that is not the weights'; see :func:`set_precision`.
    """

    precision: torch.dtype | None = None

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        n_layers: int,
        bidirectional: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        sizes = [input_size, *[hidden_size * (2 if bidirectional else 1)] * (n_layers - 1)]
        self.layers = nn.ModuleList(
            [make_layer(cell, size, hidden_size, bidirectional) for size in sizes]
        )
        self.dropout = SeededDropout(dropout)
        self.residual = residual
        self.output_size = hidden_size * (2 if bidirectional else 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (batch, time, input_size).

        Returns
        -------
        outputs : (batch, time, output_size)
        last : (batch, output_size)
        """
        kind, last = x.dtype, x[:, -1]
        with self._mixed(x):
            for depth, layer in enumerate(self.layers):
                out, new_last = layer(x)
                if self.residual and depth > 0:
                    out, new_last = out + x, new_last + _ends(x, layer)
                x, last = self.dropout(out), new_last
            return x.to(kind), self.dropout(last).to(kind)

    def _mixed(self, x: Tensor) -> AbstractContextManager:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(x.device.type, dtype=self.precision)


def _ends(x: Tensor, layer: Any) -> Tensor:
    """What a skip adds to the last states: each direction's own end of ``x: (batch, time,
    size)``.
    """
    if not layer.bidirectional:
        return x[:, -1]
    half = layer.hidden_size
    return torch.cat([x[:, -1, :half], x[:, 0, half:]], dim=-1)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Fill all parameters from ``generator``, as torch's defaults do from the global one.

    Recurrent weights and biases and linear weights: uniform within ±1/sqrt(hidden size or inputs).
    The modules may then adjust their own through ``reset(generator)``; a module with parameters of
    another kind must fill them there.

    Raises
    ------
    TypeError
        If a parameter or buffer is filled by nobody.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    floating = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    with torch.no_grad():
        for _, tensor in floating:
            tensor.fill_(torch.nan)  # on an empty tensor, what nobody fills would be chance
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            bound = 1 / math.sqrt(module.hidden_size)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(max(module.in_features, 1))
        else:
            continue
        for parameter in module.parameters(recurse=False):
            with torch.no_grad():
                parameter.uniform_(-bound, bound, generator=generator)
    for module in network.modules():
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset(generator)
    for name, tensor in floating:
        if torch.isnan(tensor).any():
            raise TypeError(
                f"nothing initialises {name!r}: give its module a method reset(generator) that does"
            )


def set_generator(network: nn.Module, generator: torch.Generator | None) -> None:
    """Give every dropout its generator, or take it away (a fitted network holds none)."""
    for module in network.modules():
        if isinstance(module, SeededDropout):
            module.generator = generator


def set_precision(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Let every stack of recurrent layers compute in ``dtype``, or in its weights' type for None.

    Weights, their gradients and everything around the stacks (normalisation, decoder, loss) stay as
    they are: this is torch's automatic mixed precision for the stacks alone.
    """
    for module in network.modules():
        if isinstance(module, RecurrentStack):
            module.precision = dtype
