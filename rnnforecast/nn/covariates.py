"""What covariates known in the future do to a forecast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CovariateEffect", "Interaction"]


class CovariateEffect(nn.Module):
    """k(x): what known covariates add to the targets of their own step, linear plus one hidden
    layer.
    """

    def __init__(self, n_known: int, n_targets: int, hidden_size: int):
        super().__init__()
        self.n_known = n_known
        self.linear = nn.Linear(2 * n_known, n_targets)
        self.hidden = nn.Linear(2 * n_known, hidden_size)
        self.out = nn.Linear(hidden_size, n_targets, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Start without effect; marks of missing values start at zero weight."""
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            self.hidden.weight[:, self.n_known :] = 0.0
            self.out.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, time, n_known), NaN where missing; returns (batch, time, n_targets)."""
        missing = torch.isnan(x)
        x = torch.cat([torch.where(missing, 0.0, x), missing.to(x.dtype)], dim=-1)
        return self.linear(x) + self.out(functional.gelu(self.hidden(x)))


class Interaction(nn.Module):
    """How the encoding changes what covariates do; exactly zero for covariates at their mean."""

    def __init__(self, context_size: int, n_known: int, hidden_size: int, n_out: int):
        super().__init__()
        self.context = nn.Linear(context_size, hidden_size)
        self.known = nn.Linear(n_known, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, n_out, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Start without interaction."""
        with torch.no_grad():
            self.out.weight.zero_()

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        """context: (batch, size); x: (batch, steps, n_known); returns (batch, steps, n_out)."""
        base = self.context(context)[:, None]
        x = torch.where(torch.isnan(x), 0.0, x)
        return self.out(functional.gelu(base + self.known(x)) - functional.gelu(base))
