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


def _forward(
    z: np.ndarray, gains: Sequence[np.ndarray], starts: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Terms, each (time + period, batch), errors and mask, both as ``z: (time, batch)``."""
    n_steps = len(z)
    seen = ~np.isnan(z)
    complete, mask = seen.all(), seen.astype(z.dtype)
    z = np.where(seen, z, 0.0).astype(z.dtype, order="C")  # time by time in memory
    errors, move = np.empty_like(z), np.empty(z.shape[1], z.dtype)
    terms = []
    for start in starts:
        terms.append(np.empty((n_steps + start.shape[1], z.shape[1]), z.dtype))
        terms[-1][: start.shape[1]] = start.T
    for t in range(n_steps):
        error = errors[t]
        np.subtract(z[t], terms[0][t], out=error)
        for term in terms[1:]:
            error -= term[t]
        if not complete:
            error *= mask[t]
        for gain, term in zip(gains, terms):
            np.multiply(gain, error, out=move)
            np.add(term[t], move, out=term[t + len(term) - n_steps])
    return terms, errors, mask


def _backward(bars: list[np.ndarray], gains: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Accumulate, in place, the adjoints of all terms; return those of the errors, which are those
    of z too: (time, batch).
    """
    n_steps, complete = len(mask), mask.all()
    error_bars, part = np.empty_like(mask), np.empty(mask.shape[1], mask.dtype)
    for t in range(n_steps - 1, -1, -1):
        error_bar = error_bars[t]
        error_bar[:] = 0.0
        for gain, bar in zip(gains, bars):
            np.multiply(gain, bar[t + len(bar) - n_steps], out=part)
            error_bar += part
        if not complete:
            error_bar *= mask[t]
        for bar in bars:
            bar[t] += bar[t + len(bar) - n_steps]
            bar[t] -= error_bar
    return error_bars


class _Smooth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, *rest: Tensor) -> Any:
        first, *arrays = (x.detach().cpu().numpy() for x in (z, *rest))
        n = len(arrays) // 2
        terms, ctx.errors, ctx.mask = _forward(first.T, arrays[:n], arrays[n:])
        ctx.gains, ctx.device = arrays[:n], z.device
        return tuple(torch.from_numpy(term).to(z.device).T for term in terms)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dtype, n_steps = ctx.errors.dtype, len(ctx.errors)
        bars = [np.array(g.detach().cpu().numpy().T, dtype=dtype, order="C") for g in grads]
        error_bar = _backward(bars, ctx.gains, ctx.mask)
        gain_bars = [(bar[len(bar) - n_steps :] * ctx.errors).sum(0) for bar in bars]
        start_bars = [bar[: len(bar) - n_steps].T for bar in bars]
        out = (error_bar.T, *gain_bars, *start_bars)
        return tuple(torch.from_numpy(np.ascontiguousarray(x)).to(ctx.device) for x in out)
