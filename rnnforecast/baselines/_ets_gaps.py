"""Likelihood of additive exponential smoothing with missing values.

statsmodels has two routes. ``ETSModel`` takes no NaN. ``statespace.ExponentialSmoothing`` does, but
its "concentrated" initial states are not the best ones then, and estimating them all by search is
slow for long seasons. The innovations are linear in the initial state, so least squares gives it at
once (Hyndman, Koehler, Ord & Snyder 2008, section 5.1; with the weights of the missing rows,
chapter 12).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from rnnforecast.baselines._ets_model import EtsForm, transition

__all__ = ["Profile", "maximise", "profile"]

_EDGE = 1e-4  # distance of the parameters from the ends of their ranges, as in statsmodels
_DAMPING = (0.8, 0.98)
_TOLERANCE = 1e-4  # state variance, over the error's, that a search may forget


class Profile(NamedTuple):
    """Best initial state for given smoothing parameters.

    Attributes
    ----------
    log_likelihood, sigma : float
    state : ndarray, shape (2 + m,)
        Level, slope and season by row modulo m (summing to 0).
    """

    log_likelihood: float
    sigma: float
    state: np.ndarray


def profile(
    y: np.ndarray, form: EtsForm, smoothing: tuple[float, float, float, float], tolerance: float
) -> Profile:
    """Likelihood of ``y``, shape (n_rows,), at ``smoothing`` = (alpha, beta, gamma, phi)."""
    m, phi = form.m, smoothing[3]
    n = 2 + m
    # column 0 starts from the state 0 and reads y; column 1 + j from unit vector j, reading 0
    states = np.hstack([np.zeros((n, 1)), np.eye(n)])
    reads = np.zeros(1 + n)
    errors, variance = np.empty((len(y), 1 + n)), np.ones(len(y))
    cov: np.ndarray | None = None
    gain = np.zeros(n)
    gain[:2] = smoothing[:2]
    for t, value in enumerate(y.tolist()):
        phase = 2 + t % m
        missing = value != value
        reads[0] = 0.0 if missing else value
        mean = states[0] + phi * states[1]
        if form.seasonal:
            mean = mean + states[phase]
        error = errors[t] = reads - mean
        states[0] += phi * states[1]
        states[1] *= phi
        if cov is None and not missing:
            states[0] += gain[0] * error
            states[1] += gain[1] * error
            if form.seasonal:
                states[phase] += smoothing[2] * error
            continue
        full, weights = gain.copy(), np.zeros(n)
        weights[:2] = 1.0, phi
        if form.seasonal:
            full[phase], weights[phase] = smoothing[2], 1.0
        kalman, variance[t], cov = transition(cov, weights, full, phi, missing, tolerance)
        if not missing:
            states += np.outer(kalman, error)
    return _best_start(errors[~np.isnan(y)], variance[~np.isnan(y)], form)


def _best_start(errors: np.ndarray, variance: np.ndarray, form: EtsForm) -> Profile:
    """Weighted least squares of the errors on the initial state."""
    used = [0] + ([1] if form.trend else []) + (list(range(2, 2 + form.m)) if form.seasonal else [])
    scale = np.sqrt(variance)[:, None]
    design = -errors[:, 1:][:, used] / scale
    rest = errors[:, 0] / scale[:, 0]
    best = np.linalg.lstsq(design, rest, rcond=None)[0]
    state = np.zeros(2 + form.m)
    state[used] = best
    if form.seasonal:
        shift = state[2:].mean()
        state[0] += shift
        state[2:] -= shift
    n = len(rest)
    sigma2 = float(np.sum((rest - design @ best) ** 2)) / n
    if sigma2 <= 0:
        raise ValueError("the errors vanish")
    likelihood = -0.5 * n * (np.log(2 * np.pi * sigma2) + 1) - 0.5 * float(np.log(variance).sum())
    return Profile(likelihood, float(np.sqrt(sigma2)), state)


def maximise(
    y: np.ndarray, form: EtsForm, maxiter: int
) -> tuple[tuple[float, float, float, float], Profile, bool]:
    """Smoothing parameters of the greatest likelihood, the profile there, and convergence.

    The parameters stay in 0 < beta < alpha < 1, 0 < gamma < 1 - alpha, 0.8 <= phi <= 0.98.
    """

    def smoothing(free: np.ndarray) -> tuple[float, float, float, float]:
        values = list(free)
        alpha = values.pop(0)
        beta = alpha * values.pop(0) if form.trend else 0.0
        gamma = (1 - alpha) * values.pop(0) if form.seasonal else 0.0
        phi = values.pop(0) if form.damped else 1.0
        return float(alpha), float(beta), float(gamma), float(phi)

    def loss(free: np.ndarray) -> float:
        return -profile(y, form, smoothing(free), _TOLERANCE).log_likelihood / len(y)

    rest = [0.1] * bool(form.trend) + [0.05] * bool(form.seasonal) + [0.95] * form.damped
    starts = [np.array([alpha, *rest]) for alpha in (0.1, 0.5, 0.9)]
    bounds = [(_EDGE, 1 - _EDGE)] * (len(starts[0]) - form.damped) + [_DAMPING] * form.damped
    start = min(starts, key=loss)
    found = minimize(
        loss,
        start,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": maxiter, "eps": 1e-6, "ftol": 1e-8, "gtol": 1e-5},
    )
    best = smoothing(found.x)
    return best, profile(y, form, best, 0.0), bool(found.success)
