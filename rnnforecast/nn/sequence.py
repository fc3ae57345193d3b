"""A network that reads a whole sequence and gives one answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn.attention import Attention
from rnnforecast.nn.layers import RecurrentStack

__all__ = ["SequenceNetwork", "SequenceSpec"]


class SequenceSpec(NamedTuple):
    """What fixes a network's shape."""

    n_features: int  # of a step; of an embedding, where tokens are read
    n_outputs: int
    cell: Any
    hidden_size: int
    n_layers: int
    bidirectional: bool
    residual: bool
    dropout: float
    attention: str | None = None
    n_tokens: int | None = None


class SequenceNetwork(nn.Module):
    """Recurrent layers, attention over their outputs where asked for, and a linear read-out."""

    def __init__(self, spec: SequenceSpec):
        super().__init__()
        self.spec = spec
        if spec.n_tokens is not None:
            self.embedding = nn.Parameter(torch.empty(spec.n_tokens, spec.n_features))
        layers = (spec.n_layers, spec.bidirectional, spec.residual, spec.dropout)
        self.stack = RecurrentStack(spec.cell, spec.n_features, spec.hidden_size, *layers)
        size = self.stack.output_size
        if spec.attention is not None:
            self.attention = Attention(spec.attention, size, size)
        self.head = nn.Linear(size * (1 if spec.attention is None else 2), spec.n_outputs)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Embeddings standard normal, that of the padding zero."""
        if self.spec.n_tokens is not None:
            self.embedding.normal_(generator=generator)
            self.embedding[0] = 0.0
        self.head.bias.zero_()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Answers (batch, n_outputs).

        ``x: (batch, time, n_features)``, or tokens ``(batch, time)``, of which each row has
        ``lengths`` steps.
        """
        return self.answer(x, lengths)[0]

    def answer(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Answers, and the attention's weights (batch, time) or None."""
        if self.spec.n_tokens is not None:
            x = functional.embedding(x, self.embedding)
        outputs, last = self.stack(x, lengths)
        if self.spec.attention is None:
            return self.head(last), None
        taken, weights = self.attention(last[:, None], outputs, lengths)
        return self.head(torch.cat([last, taken[:, 0]], -1)), weights[:, 0]
