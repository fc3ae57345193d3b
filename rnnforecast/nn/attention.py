"""Attention over the states of an encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rnnforecast.exceptions import DataError

__all__ = ["ATTENTIONS", "Attention"]

ATTENTIONS = ("additive", "dot", "multihead")
_HEADS = 4


class Attention(nn.Module):
    """What queries take from a sequence of states: a weighted mean of these.

    Parameters
    ----------
    kind : {"additive", "dot", "multihead"}
        "additive": v' tanh(W q + U s) (Bahdanau et al. 2015, arXiv:1409.0473, appendix A.1.2).
        "dot": (W q)' (U s) / sqrt(size) (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).
        "multihead": four of these, or as many as divide the size, each over its share of the
        states' projection (eq. 4 and 5 there).
    query_size, size : int
        Of a query and of a state; what is taken has the latter.

    Examples
    --------
    >>> import torch
    >>> taken, weights = Attention("dot", 3, 8)(torch.ones(2, 5, 3), torch.ones(2, 7, 8))
    >>> taken.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 7]))
    """

    def __init__(self, kind: str, query_size: int, size: int):
        super().__init__()
        if kind not in ATTENTIONS:
            raise DataError(f"Attention: kind must be one of {list(ATTENTIONS)}. Got {kind!r}")
        self.kind = kind
        self.heads = math.gcd(size, _HEADS) if kind == "multihead" else 1
        self.query = nn.Linear(query_size, size)
        self.key = nn.Linear(size, size, bias=False)
        if kind == "additive":
            self.energy = nn.Linear(size, 1, bias=False)
        if kind == "multihead":
            self.value = nn.Linear(size, size, bias=False)
            self.out = nn.Linear(size, size)

    def forward(
        self, queries: Tensor, states: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means and weights.

        Parameters
        ----------
        queries : Tensor of shape (batch, n_queries, query_size)
        states : Tensor of shape (batch, time, size)
        lengths : int64 Tensor of shape (batch,), optional
            States that each row has; those after them get no weight.

        Returns
        -------
        taken : Tensor of shape (batch, n_queries, size)
        weights : Tensor of shape (batch, n_queries, time)
            Each row adds up to one; of several heads the mean.
        """
        q, k = self.query(queries), self.key(states)
        if self.kind == "additive":
            scores = self.energy(torch.tanh(q[:, :, None] + k[:, None]))[..., 0][:, None]
        else:
            q, k = (self._split(part) for part in (q, k))
            scores = q @ k.mT / math.sqrt(q.shape[-1])
        if lengths is not None:
            steps = torch.arange(states.shape[1], device=states.device)
            ended = steps >= lengths.clamp(min=1)[:, None]
            scores = scores.masked_fill(ended[:, None, None], -math.inf)
        weights = torch.softmax(scores, -1)  # (batch, heads, n_queries, time)
        if self.kind == "multihead":
            taken = weights @ self._split(self.value(states))
            return self.out(taken.transpose(1, 2).flatten(2)), weights.mean(1)
        return weights[:, 0] @ states, weights[:, 0]

    def _split(self, x: Tensor) -> Tensor:
        """(batch, n, size) to (batch, heads, n, size of a head)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
