"""Columns beside the targets: how a network reads them, and what those known ahead do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CovariateEffect", "CovariateEncoder", "Interaction", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What fixes the shape of any network, as plain numbers and names.

    ``past``, ``known`` and ``static`` have the categories of each column, 0 for a number.
    """

    n_targets: int
    horizon: int
    n_params: int
    cell: Any  # a registered name, or a subclass of Cell
    hidden_size: int
    dropout: float
    past: tuple[int, ...] = ()
    known: tuple[int, ...] = ()
    static: tuple[int, ...] = ()


class CovariateEncoder(nn.Module):
    """Columns as a network reads them: numbers with marks where they are missing, categories as
    embeddings (Guo & Berkhahn 2016, arXiv:1604.06737).

    Parameters
    ----------
    levels : tuple of int
        Categories of each column, 0 for a number. Codes count from 0; any other code, and NaN, is
        an unknown category, which starts as the average of all.

    Attributes
    ----------
    numbers : list of int or slice
        The columns that are numbers: they come first, in their order.
    n_values, n_marks, size : int
        Numbers and embeddings; missing marks; both.
    """

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.categories = [k for k, n in enumerate(levels) if n]
        numbers = [k for k, n in enumerate(levels) if not n]
        self.numbers: Any = numbers if self.categories else slice(None)  # which copies nothing
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(levels[k] + 1, min((levels[k] + 1) // 2, 8)))
            for k in self.categories
        )
        self.n_marks = len(numbers)
        self.n_values = self.n_marks + sum(table.shape[1] for table in self.tables)
        self.size = self.n_values + self.n_marks

    def reset(self, generator: torch.Generator) -> None:
        """Embeddings standard normal, like scaled numbers, and zero for the unknown."""
        with torch.no_grad():
            for table in self.tables:
                table.normal_(generator=generator)
                table[-1] = 0.0

    def values(self, x: Tensor) -> Tensor:
        """Numbers, zero where missing, then embeddings: (..., n_columns) to (..., n_values)."""
        numbers = x[..., self.numbers]
        parts = [torch.where(torch.isnan(numbers), 0.0, numbers)]
        for k, table in zip(self.categories, self.tables):
            code, unknown = x[..., k], len(table) - 1
            code = torch.where((code >= 0) & (code < unknown), code, unknown)
            parts.append(functional.embedding(code.long(), table))
        return torch.cat(parts, -1) if self.categories else parts[0]

    def forward(self, x: Tensor) -> Tensor:
        """``values``, then missing marks of the numbers: (..., size)."""
        marks = torch.isnan(x[..., self.numbers])
        return torch.cat([self.values(x), marks.to(x.dtype)], -1)


class CovariateEffect(nn.Module):
    """k(x): what known covariates add to the targets of their step, linear plus a hidden layer."""

    def __init__(self, levels: tuple[int, ...], n_targets: int, hidden_size: int):
        super().__init__()
        self.encoder = CovariateEncoder(levels)
        self.linear = nn.Linear(self.encoder.size, n_targets)
        self.hidden = nn.Linear(self.encoder.size, hidden_size)
        self.out = nn.Linear(hidden_size, n_targets, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Start without effect; marks of missing values start at zero weight."""
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            self.hidden.weight[:, self.encoder.n_values :] = 0.0
            self.out.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, time, n_known), NaN where missing; returns (batch, time, n_targets)."""
        x = self.encoder(x)
        return self.linear(x) + self.out(functional.gelu(self.hidden(x)))


class Interaction(nn.Module):
    """How the encoding changes what covariates do; exactly zero for covariates at their mean."""

    def __init__(self, context_size: int, n_values: int, hidden_size: int, n_out: int):
        super().__init__()
        self.context = nn.Linear(context_size, hidden_size)
        self.known = nn.Linear(n_values, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, n_out, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Start without interaction."""
        with torch.no_grad():
            self.out.weight.zero_()

    def forward(self, context: Tensor, values: Tensor) -> Tensor:
        """(batch, size) and encoded values (batch, steps, n_values) to (batch, steps, n_out)."""
        base = self.context(context)[:, None]
        return self.out(functional.gelu(base + self.known(values)) - functional.gelu(base))
