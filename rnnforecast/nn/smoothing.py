"""Exponential smoothing with a level and up to two seasons, vectorised over series.

The equations are those of Smyl 2020 (Int. J. Forecast. 36(1), section 3.1) on a scale where level
and seasons add up: for positive data the logarithm. With the one-step error
e_t = z_t - l_{t-1} - s_t - u_t they read

    l_t     = alpha (z_t - s_t - u_t) + (1 - alpha) l_{t-1}      = l_{t-1} + alpha e_t
    s_{t+m} = gamma (z_t - l_t - u_t) + (1 - gamma) s_t          = s_t + gamma (1 - alpha) e_t
    u_{t+n} = delta (z_t - l_t - s_t) + (1 - delta) u_t          = u_t + delta (1 - alpha) e_t

and a row that was not observed has e_t = 0: the state is carried. So all three are terms that move
by a gain times the error and come back after a period, which for the level is 1. The gradient is
the adjoint of the recursion, one loop back, instead of a tape of some ten thousand operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["smooth"]


def smooth(z: Tensor, gains: Sequence[Tensor], starts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run the recursion over ``z: (batch, time)``, NaN where unobserved; differentiable in all.

    ``gains``, each (batch,), are what a term takes of an error: alpha for the level, (1 - alpha)
    gamma for a season. ``starts``, each (batch, period), are the terms before the first row.
    Returns each term, (batch, time + period): entry t is what it says of row t from the rows
    before, so that entry t + 1 of the level is l_t, and the last ones are of the rows to come.

    >>> z = torch.tensor([[1.0, 2.0, torch.nan, 4.0]])
    >>> smooth(z, [torch.tensor([0.5])], [torch.zeros(1, 1)])[0]
    tensor([[0.0000, 0.5000, 1.2500, 1.2500, 2.6250]])
    """
    return _Smooth.apply(z, *gains, *starts)


class _Smooth(torch.autograd.Function):
    """On arrays (time, batch), whose rows lie together in memory."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, *rest: Tensor) -> Any:
        first, *arrays = (x.detach().cpu().numpy() for x in (z, *rest))
        gains, starts = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
        seen = ~np.isnan(first.T)
        values = np.where(seen, first.T, 0.0).astype(first.dtype, order="C")
        mask = None if seen.all() else seen.astype(values.dtype)
        errors, move = np.empty_like(values), np.empty(values.shape[1], values.dtype)
        empty = np.empty_like(values)
        terms = [np.concatenate([start.T, empty], dtype=values.dtype) for start in starts]
        for t, error in enumerate(errors):
            np.subtract(values[t], terms[0][t], out=error)
            for term in terms[1:]:
                error -= term[t]
            if mask is not None:
                error *= mask[t]
            for gain, term in zip(gains, terms):
                np.multiply(gain, error, out=move)
                np.add(term[t], move, out=term[t + len(term) - len(values)])
        ctx.kept = gains, errors, mask, z.device
        return tuple(torch.from_numpy(term).to(z.device).T for term in terms)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gains, errors, mask, device = ctx.kept
        n_steps, dtype = len(errors), errors.dtype
        bars = [np.array(g.detach().cpu().numpy().T, dtype=dtype, order="C") for g in grads]
        # adjoints of the errors, which by e_t = z_t - ... are those of z too
        error_bars, part = np.zeros_like(errors), np.empty(errors.shape[1], dtype)
        for t in range(n_steps - 1, -1, -1):
            error_bar = error_bars[t]
            for gain, bar in zip(gains, bars):
                np.multiply(gain, bar[t + len(bar) - n_steps], out=part)
                error_bar += part
            if mask is not None:
                error_bar *= mask[t]
            for bar in bars:
                bar[t] += bar[t + len(bar) - n_steps]
                bar[t] -= error_bar
        gain_bars = [(bar[len(bar) - n_steps :] * errors).sum(0) for bar in bars]
        start_bars = [bar[: len(bar) - n_steps].T for bar in bars]
        out = (error_bars.T, *gain_bars, *start_bars)
        return tuple(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in out)
