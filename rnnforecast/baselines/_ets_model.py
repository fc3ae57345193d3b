"""Exponential smoothing with known parameters: recursions, forecasts and their distribution.

Equations of Hyndman, Koehler, Ord & Snyder (2008), Forecasting with Exponential Smoothing, table
2.2 and 2.3: level l, trend b, season s by phase; ``base = l + phi b`` and the mean is base, base +
s or base s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rnnforecast.baselines._local import LocalModel

__all__ = ["EtsForm", "EtsModel", "transition"]

_N_PATHS = 5000
_FORGOTTEN = 1e-10  # a state variance below this (in units of the error's) is none


@dataclass(frozen=True)
class EtsForm:
    """Components of the model: error, trend, damped, seasonal; m steps in a season."""

    error: str
    trend: str | None
    damped: bool
    seasonal: str | None
    m: int

    @property
    def linear(self) -> bool:
        """All components additive: the state space form is linear and normal."""
        return self.error == "add" and self.seasonal != "mul"

    @property
    def n_parameters(self) -> int:
        """Smoothing parameters, initial states (seasons sum to a constant) and the variance."""
        n = 3 + (2 if self.trend else 0) + int(self.damped)
        return n + (self.m if self.seasonal else 0)

    def __str__(self) -> str:
        trend = "N" if self.trend is None else "Ad" if self.damped else "A"
        seasonal = {None: "N", "add": "A", "mul": "M"}[self.seasonal]
        text = f"ETS({'A' if self.error == 'add' else 'M'},{trend},{seasonal})"
        return f"{text}[{self.m}]" if self.seasonal else text


@dataclass(frozen=True)
class EtsModel(LocalModel):
    """A fitted model and its state at the end of the history.

    Attributes
    ----------
    form : EtsForm
    alpha, beta, gamma, phi : float
        0 where the component is absent; phi is 1 for a trend that is not damped.
    sigma : float
        Standard deviation of the errors; relative to the mean where the error is multiplicative.
    first : int
        Row of the first observed value, where the recursion starts.
    start : tuple of (float, float, ndarray)
        Level, trend and season by phase (row number modulo m) before that row.
    level, slope : float
    season : ndarray, shape (m,)
        At the end of the history.
    cov : ndarray or None
        Covariance of (level, slope, season) in units of the error variance, after missing rows;
        None for 0.
    n_rows : int
    """

    form: EtsForm
    alpha: float
    beta: float
    gamma: float
    phi: float
    sigma: float
    first: int
    start: tuple[float, float, np.ndarray]
    level: float
    slope: float
    season: np.ndarray
    cov: np.ndarray | None
    n_rows: int

    # -- recursion --------------------------------------------------------------------------------

    def reset(self) -> EtsModel:
        """The model before the first observed row."""
        level, slope, season = self.start
        return replace(self, level=level, slope=slope, season=season, cov=None, n_rows=self.first)

    def _run(self, y: np.ndarray) -> tuple[EtsModel, np.ndarray, np.ndarray]:
        """Model after the rows ``y``, their one-step means and the variances over sigma²."""
        seasonal, phi = self.form.seasonal, self.phi
        alpha, beta, gamma = self.alpha, self.beta, self.gamma
        level, slope, season = self.level, self.slope, self.season.tolist()
        m, cov = len(season), self.cov
        mean, variance = np.empty(len(y)), np.ones(len(y))
        for t, value in enumerate(y.tolist()):
            phase = (self.n_rows + t) % m
            s = season[phase]
            base = level + phi * slope
            mu = base * s if seasonal == "mul" else base + s
            mean[t] = mu
            missing = value != value
            error = 0.0 if missing else value - mu
            if cov is not None or (missing and self.form.linear):
                gain, variance[t], cov = self._uncertain(cov, phase, missing)
                level, slope = base + gain[0] * error, phi * slope + gain[1] * error
                season = (np.asarray(season) + gain[2:] * error).tolist()
                continue
            # with e = y - mean the updates are the same for additive and multiplicative errors
            by_season = _ratio(error, s) if seasonal == "mul" else error
            level, slope = base + alpha * by_season, phi * slope + beta * by_season
            # over the new level, as in statsmodels' estimation (the table has the old base)
            season[phase] = s + gamma * (_ratio(error, level) if seasonal == "mul" else error)
        end = replace(
            self,
            level=level,
            slope=slope,
            season=np.asarray(season),
            cov=cov,
            n_rows=self.n_rows + len(y),
        )
        return end, mean, variance

    def _uncertain(
        self, cov: np.ndarray | None, phase: int, missing: bool
    ) -> tuple[np.ndarray, float, np.ndarray | None]:
        """``transition`` of the row at ``phase``."""
        w, g = np.zeros(2 + len(self.season)), np.zeros(2 + len(self.season))
        w[:2], g[:2] = (1.0, self.phi), (self.alpha, self.beta)
        if self.form.seasonal:
            w[2 + phase], g[2 + phase] = 1.0, self.gamma
        return transition(cov, w, g, self.phi, missing)

    # -- LocalModel -------------------------------------------------------------------------------

    def extended(self, y, x):
        return self._run(y)[0]

    def in_sample(self, y, x):
        _, mean, variance = self.reset()._run(y[self.first :])
        mean = np.concatenate([np.full(self.first, mean[0]), mean])
        variance = np.concatenate([np.full(self.first, variance[0]), variance])
        return mean, self._size(mean) * np.sqrt(variance)

    def _size(self, mean: np.ndarray) -> np.ndarray:
        """Standard deviation of an error around ``mean``."""
        return self.sigma * (np.abs(mean) if self.form.error == "mul" else np.ones_like(mean))

    def future(self, n_steps):
        """Mean and standard deviation; the latter is NaN where ``quantiles`` has to simulate."""
        damping = np.cumsum(self.phi ** np.arange(1, n_steps + 1))
        phase = (self.n_rows + np.arange(n_steps)) % len(self.season)
        base, season = self.level + damping * self.slope, self.season[phase]
        mean = base * season if self.form.seasonal == "mul" else base + season
        if not self.form.linear:
            return mean, np.full(n_steps, np.nan)
        # Hyndman et al. 2008, eq. 6.1 and table 6.1: c_j = alpha + beta phi_j + gamma [m divides j]
        steps = np.arange(1, n_steps + 1)
        weight = self.alpha + self.beta * damping
        if self.form.seasonal:
            weight = weight + self.gamma * (steps % len(self.season) == 0)
        variance = 1.0 + np.concatenate([[0.0], np.cumsum(weight[:-1] ** 2)])
        if self.cov is not None:
            rows = np.zeros((n_steps, len(self.cov)))
            rows[:, 0], rows[:, 1] = 1.0, damping
            if self.form.seasonal:
                rows[np.arange(n_steps), 2 + phase] = 1.0
            variance = variance + np.einsum("hi,ij,hj->h", rows, self.cov, rows)
        return mean, self.sigma * np.sqrt(variance)

    def quantiles(self, n_steps, levels):
        if self.form.linear:
            return super().quantiles(n_steps, levels)
        return np.quantile(self._simulate(n_steps), levels, axis=1).T

    def _simulate(self, n_steps: int) -> np.ndarray:
        """Sample paths with normal errors, shape (n_steps, n_paths); always the same draws."""
        draws = np.random.default_rng(0).standard_normal((n_steps, _N_PATHS))
        level, slope = np.full(_N_PATHS, self.level), np.full(_N_PATHS, self.slope)
        season = np.repeat(self.season[:, None], _N_PATHS, axis=1)
        out = np.empty_like(draws)
        for t in range(n_steps):
            phase = (self.n_rows + t) % len(season)
            s, base = season[phase].copy(), level + self.phi * slope
            mul = self.form.seasonal == "mul"
            mean = base * s if mul else base + s
            error = self._size(mean) * draws[t]
            out[t] = mean + error
            with np.errstate(all="ignore"):
                by_season = np.where(s != 0, error / s, 0.0) if mul else error
                level, slope = (
                    base + self.alpha * by_season,
                    self.phi * slope + self.beta * by_season,
                )
                by_level = np.where(level != 0, error / level, 0.0) if mul else error
            season[phase] = s + self.gamma * by_level
        return out

    def describe(self):
        return str(self.form)


def transition(
    cov: np.ndarray | None,
    w: np.ndarray,
    g: np.ndarray,
    phi: float,
    missing: bool,
    tolerance: float = _FORGOTTEN,
) -> tuple[np.ndarray, float, np.ndarray | None]:
    """Kalman step of the linear form where the state is not known exactly.

    In the innovations form ``y_t = w' x_(t-1) + e_t``, ``x_t = F x_(t-1) + g e_t`` (Hyndman et al.
    2008, eq. 3.1) a missing y_t leaves e_t unknown, and so the state uncertain (ibid., chapter 12).

    Parameters
    ----------
    cov : ndarray, shape (2 + m, 2 + m), or None for a known state
        Of level, slope and the season by phase, over sigma².
    w, g : ndarray, shape (2 + m,)
    phi : float
    missing : bool
    tolerance : float
        Below this the covariance counts as none.

    Returns
    -------
    gain : ndarray, shape (2 + m,)
    variance : float
        Of the one-step error, over sigma².
    cov : ndarray or None
        After the row.
    """
    n = len(w)
    cov = np.zeros((n, n)) if cov is None else cov
    forward = _move(cov, phi)
    variance = float(w @ cov @ w) + 1.0
    after = _move(forward.T, phi) + np.outer(g, g)
    if missing:
        return np.zeros(n), variance, after
    gain = (forward @ w + g) / variance
    after -= np.outer(gain, gain) * variance
    return gain, variance, after if np.abs(after).max() > tolerance else None


def _move(values: np.ndarray, phi: float) -> np.ndarray:
    """F times ``values``: the slope moves into the level; seasons keep their phase."""
    out = values.copy()
    out[0] += phi * values[1]
    out[1] *= phi
    return out


def _ratio(a: float, b: float) -> float:
    return a / b if b != 0 else 0.0
