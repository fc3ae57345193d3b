"""Exponential smoothing with a level and up to two seasons, vectorised over series.

The equations are those of Smyl 2020 (Int. J. Forecast. 36(1), section 3.1) on a scale where level
and seasons add up: for positive data that is the logarithm, and the model is the multiplicative one
of the paper with geometric in place of arithmetic means. With the one-step error
e_t = z_t - l_{t-1} - s_t - u_t they read

    l_t     = alpha (z_t - s_t - u_t) + (1 - alpha) l_{t-1}      = l_{t-1} + alpha e_t
    s_{t+m} = gamma (z_t - l_t - u_t) + (1 - gamma) s_t          = s_t + gamma (1 - alpha) e_t
    u_{t+n} = delta (z_t - l_t - s_t) + (1 - delta) u_t          = u_t + delta (1 - alpha) e_t

and a row that was not observed has e_t = 0: the state is carried. The loop runs over time steps and
works on all series at once; the gradient is the hand-written adjoint of the recursion, one loop
back, instead of a tape of some ten thousand small operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Smoothed", "smooth", "smooth_arrays"]


class Smoothed(NamedTuple):
    """What the recursion gives.

    Attributes
    ----------
    level : (batch, time)
        l_t, after the row of time t was seen.
    seasons : tuple of (batch, time + period)
        Entry t is what the season says of row t from the rows up to t - period; the last ``period``
        entries are those of the rows to come.
    """

    level: Any
    seasons: tuple[Any, ...]


def smooth_arrays(
    z: np.ndarray,
    alpha: np.ndarray,
    gammas: Sequence[np.ndarray],
    level: np.ndarray,
    seasons: Sequence[np.ndarray],
) -> Smoothed:
    """Run the recursion on arrays.

    Parameters
    ----------
    z : ndarray, shape (n_series, n_steps)
        Values on the additive scale; NaN where unobserved.
    alpha : ndarray, shape (n_series,)
        Smoothing of the level, in [0, 1].
    gammas : sequence of ndarray, shape (n_series,)
        Smoothing of each season, in [0, 1].
    level : ndarray, shape (n_series,)
        l_{-1}.
    seasons : sequence of ndarray, shape (n_series, period)
        Seasonal terms of the first ``period`` rows.

    Returns
    -------
    Smoothed
        Arrays in the type of ``z``.

    Examples
    --------
    >>> z = np.array([[1.0, 2.0, np.nan, 4.0]])
    >>> smooth_arrays(z, np.array([0.5]), [], np.array([0.0]), []).level
    array([[0.5  , 1.25 , 1.25 , 2.625]])
    """
    steps, terms = _forward(z.T, alpha, gammas, level, seasons)[:2]
    return Smoothed(steps.T, tuple(term.T for term in terms))


def smooth(
    z: Tensor,
    alpha: Tensor,
    gammas: Sequence[Tensor],
    level: Tensor,
    seasons: Sequence[Tensor],
) -> Smoothed:
    """The recursion of :func:`smooth_arrays` on tensors, differentiable in everything.

    Parameters
    ----------
    z : (batch, time), NaN where unobserved
    alpha : (batch,)
    gammas : sequence of (batch,)
    level : (batch,)
    seasons : sequence of (batch, period)

    Returns
    -------
    Smoothed
        Tensors on the device of ``z``; the recursion itself runs on the CPU.
    """
    level_t, *terms = _Smooth.apply(z, alpha, level, len(gammas), *gammas, *seasons)
    return Smoothed(level_t, tuple(terms))


def _forward(
    z: np.ndarray, alpha: np.ndarray, gammas: Any, level: np.ndarray, seasons: Any
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Time-major states: level (time, batch), seasons (time + period, batch), errors."""
    n_steps, n_series = z.shape
    seen = ~np.isnan(z)
    complete = bool(seen.all())
    z = np.array(z, order="C")  # time by time in memory
    z[~seen] = 0.0
    mask = seen.astype(z.dtype)
    steps = np.empty((n_steps, n_series), z.dtype)
    errors = np.empty((n_steps, n_series), z.dtype)
    gains = [(1 - alpha) * gamma for gamma in gammas]
    terms = []
    for season in seasons:
        term = np.empty((n_steps + season.shape[1], n_series), z.dtype)
        term[: season.shape[1]] = season.T
        terms.append(term)
    now = np.array(level, dtype=z.dtype)
    move = np.empty_like(now)
    for t in range(n_steps):
        error = errors[t]
        np.subtract(z[t], now, out=error)
        for term in terms:
            error -= term[t]
        if not complete:
            error *= mask[t]
        np.multiply(alpha, error, out=move)
        now = np.add(now, move, out=steps[t])
        for gain, term in zip(gains, terms):
            period = len(term) - n_steps
            np.multiply(gain, error, out=move)
            np.add(term[t], move, out=term[t + period])
    return steps, terms, errors


class _Smooth(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, alpha, level, n_seasons, *rest):
        arrays = [_array(x) for x in (z, alpha, level, *rest)]
        gammas, seasons = arrays[3 : 3 + n_seasons], arrays[3 + n_seasons :]
        steps, terms, errors = _forward(arrays[0].T, arrays[1], gammas, arrays[2], seasons)
        ctx.errors, ctx.seen = errors, ~np.isnan(arrays[0].T)
        ctx.rates = (arrays[1], gammas)
        ctx.device = z.device
        return tuple(torch.from_numpy(x).to(z.device).T for x in (steps, *terms))

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[override]
        errors, (alpha, gammas) = ctx.errors, ctx.rates
        # adjoints of l_t and of each season's entries; the loop adds what flows back in time
        level, *terms = (np.array(_array(g).T, dtype=errors.dtype, order="C") for g in grads)
        error_bar = _adjoint(level, terms, alpha, gammas, ctx.seen)
        n_steps = len(errors)
        gains = [
            (term[len(term) - n_steps :] * errors).sum(0) for term in terms
        ]  # adjoint of gamma (1 - alpha)
        alpha_bar = (level * errors).sum(0)
        for gamma, gain in zip(gammas, gains):
            alpha_bar = alpha_bar - gamma * gain
        gamma_bars = [(1 - alpha) * gain for gain in gains]
        first = level[0] - error_bar[0] if n_steps else np.zeros_like(alpha)
        season_bars = [term[: len(term) - n_steps].T for term in terms]
        out = [error_bar.T, alpha_bar, first, *gamma_bars, *season_bars]
        tensors = [torch.from_numpy(np.ascontiguousarray(x)).to(ctx.device) for x in out]
        return tensors[0], tensors[1], tensors[2], None, *tensors[3:]


def _adjoint(
    level: np.ndarray,
    terms: list[np.ndarray],
    alpha: np.ndarray,
    gammas: list[np.ndarray],
    seen: np.ndarray,
) -> np.ndarray:
    """Accumulate, in place, the adjoints of all states; return those of the errors, which by
    e_t = z_t - ... are those of z too: (time, batch).
    """
    n_steps = len(level)
    complete, mask = bool(seen.all()), seen.astype(level.dtype)
    gains = [(1 - alpha) * gamma for gamma in gammas]
    error_bar = np.empty_like(level)
    part = np.empty_like(level[0]) if n_steps else None
    for t in range(n_steps - 1, -1, -1):
        bar = error_bar[t]
        np.multiply(alpha, level[t], out=bar)
        for gain, term in zip(gains, terms):
            later = term[t + len(term) - n_steps]
            np.multiply(gain, later, out=part)
            bar += part
        if not complete:
            bar *= mask[t]
        if t:
            level[t - 1] += level[t]
            level[t - 1] -= bar
        for term in terms:
            term[t] += term[t + len(term) - n_steps]
            term[t] -= bar
    return error_bar


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
