"""The state space form of a seasonal ARIMA with known parameters: filter and forecast.

The ARMA part of the differenced series is in Harvey's form (Durbin & Koopman 2012, Time Series
Analysis by State Space Methods, 2nd ed., eqs 3.17 and 3.20), and the differences are undone by
states that hold the last values of the series, from a diffuse start (ibid., section 3.4). Variances
are in units of the innovation variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, solve_discrete_lyapunov

__all__ = ["ArimaSpace", "Filtered", "polynomial"]

_STEADY = 1e-14  # change of the covariance that counts as none
_DIFFUSE = 1e6  # variance of a state that nothing is known of, as in statsmodels


@dataclass(frozen=True)
class Filtered:
    """One-step predictions of each row, from the rows before it.

    Attributes
    ----------
    mean, variance : ndarray, shape (n_rows,)
    state : ndarray, shape (k,)
        Predicted state of the row after the last.
    cov : ndarray, shape (k, k)
    """

    mean: np.ndarray
    variance: np.ndarray
    state: np.ndarray
    cov: np.ndarray


@dataclass(frozen=True)
class ArimaSpace:
    """Lag polynomials of a seasonal ARIMA.

    Attributes
    ----------
    ar : ndarray, shape (k,)
        phi_1..phi_k of the expanded (seasonal times plain) AR polynomial, zeros up to the state's
        size.
    ma : ndarray, shape (k - 1,)
        theta_1..theta_(k-1), expanded alike.
    diff : ndarray, shape (n_diff,)
        delta_1.. so that the differenced series is y_t - sum_i delta_i y_(t-i).
    """

    ar: np.ndarray
    ma: np.ndarray
    diff: np.ndarray

    @classmethod
    def build(
        cls,
        ar: np.ndarray,
        ma: np.ndarray,
        seasonal_ar: np.ndarray,
        seasonal_ma: np.ndarray,
        d: int,
        seasonal_d: int,
        m: int,
    ) -> ArimaSpace:
        """Expand ``(1 - ar B)(1 - seasonal_ar B^m)`` and its like."""
        phi = -np.convolve(polynomial(-ar, 1), polynomial(-seasonal_ar, m))[1:]
        theta = np.convolve(polynomial(ma, 1), polynomial(seasonal_ma, m))[1:]
        difference = np.ones(1)
        for lag, times in ((1, d), (m, seasonal_d)):
            for _ in range(times):
                difference = np.convolve(difference, polynomial(np.array([-1.0]), lag))
        k = max(len(phi), len(theta) + 1)
        return cls(
            np.pad(phi, (0, k - len(phi))),
            np.pad(theta, (0, k - 1 - len(theta))),
            -difference[1:],
        )

    @property
    def n_diff(self) -> int:
        return len(self.diff)

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the state of row 0: stationary ARMA part, diffuse levels."""
        k, n = len(self.ar), len(self.ar) + self.n_diff
        cov = np.zeros((n, n))
        transition = np.eye(k, k, 1)
        transition[:, 0] = self.ar
        noise = np.concatenate([[1.0], self.ma])
        try:
            with np.errstate(all="ignore"):
                arma = solve_discrete_lyapunov(transition, np.outer(noise, noise))
        except (LinAlgError, ValueError):
            arma = np.full((k, k), np.nan)
        if not np.isfinite(arma).all() or (np.diag(arma) < -1e-8).any():
            arma = _DIFFUSE * np.eye(k)  # a unit root in the AR part
        cov[:k, :k] = (arma + arma.T) / 2
        cov[range(k, n), range(k, n)] = _DIFFUSE
        return np.zeros(n), cov

    def _transition(self, values: np.ndarray) -> np.ndarray:
        """The transition matrix times ``values``, shape (n,) or (n, any)."""
        k = len(self.ar)
        out = np.empty_like(values)
        out[:k] = self.ar.reshape(-1, *[1] * (values.ndim - 1)) * values[0]
        out[: k - 1] += values[1:k]
        if self.n_diff:
            out[k] = values[0] + self.diff @ values[k:]
            out[k + 1 :] = values[k:-1]
        return out

    def filter(
        self, y: np.ndarray, state: np.ndarray | None = None, cov: np.ndarray | None = None
    ) -> Filtered:
        """Kalman filter over ``y``, shape (n_rows,); NaN is a row without observation.

        From the state and covariance of row 0, or from ``start()``. A run of NaN is a forecast.
        """
        if state is None or cov is None:
            state, cov = self.start()
        k = len(self.ar)
        design = np.zeros(len(state))
        design[0], design[k:] = 1.0, self.diff
        used = np.flatnonzero(design)
        weights = design[used]
        impulse = np.zeros(len(state))
        impulse[0], impulse[1:k] = 1.0, self.ma
        noise = np.outer(impulse, impulse)
        mean, variance = np.empty(len(y)), np.empty(len(y))
        joint, steady = np.zeros(len(state)), False  # covariance of state and observation
        for t, value in enumerate(y.tolist()):
            mean[t] = weights @ state[used]
            observed = value == value
            if steady and observed:  # the covariance does not change any more
                variance[t] = variance[t - 1]
                state = self._transition(state + joint * ((value - mean[t]) / variance[t]))
                continue
            joint = cov[:, used] @ weights
            variance[t] = weights @ joint[used]
            before = cov
            if observed and variance[t] > 0:
                state = state + joint * ((value - mean[t]) / variance[t])
                cov = cov - np.outer(joint, joint / variance[t])
            state = self._transition(state)
            cov = self._transition(self._transition(cov).T) + noise
            steady = observed and np.abs(cov - before).max() <= _STEADY * variance[t]
        return Filtered(mean, variance, state, cov)

    def diffuse(self, filtered: Filtered) -> np.ndarray:
        """Rows whose level was not known yet, shape (n_rows,)."""
        return filtered.variance > _DIFFUSE * 1e-2


def polynomial(coefficients: np.ndarray, lag: int) -> np.ndarray:
    """``1 + c_1 B^lag + c_2 B^(2 lag) + ...`` as an array of coefficients."""
    out = np.zeros(len(coefficients) * lag + 1)
    out[0] = 1.0
    if len(coefficients):
        out[lag::lag] = coefficients
    return out
