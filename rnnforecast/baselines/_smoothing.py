"""Exponential smoothing with additive components: statsmodels' linear model, and its likelihood.

Its one-step errors are a rational filter of the rows, and linear in the states before the first one
and in the missing values: so least squares finds these in a moment.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter

__all__ = ["NAMES", "Form", "likeliest_start", "likelihood", "smoother"]

NAMES = "smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend"
_SMOOTH = 24  # a longer season starts as a smooth curve: so many of its Fourier terms


class Form(NamedTuple):
    """Components of the model; m steps in a season, 0 without one."""

    error: str = "add"
    trend: str | None = None
    damped: bool = False
    seasonal: str | None = None
    m: int = 0

    @property
    def linear(self) -> bool:
        return self.error == "add" and self.seasonal != "mul"

    @property
    def names(self) -> list[str]:
        """Smoothing parameters in the order of statsmodels."""
        given = True, self.trend, self.seasonal, self.damped
        return [name for name, use in zip(NAMES, given, strict=True) if use]

    @property
    def n_states(self) -> int:
        return 1 + bool(self.trend) + self.m

    @property
    def n_parameters(self) -> int:
        """Smoothing parameters, states at the start (seasons sum to a constant) and variance."""
        return len(self.names) + self.n_states - bool(self.seasonal) + 1

    def __str__(self) -> str:
        trend = "N" if self.trend is None else "Ad" if self.damped else "A"
        seasonal = {None: "N)", "add": f"A)[{self.m}]", "mul": f"M)[{self.m}]"}[self.seasonal]
        return f"ETS({'A' if self.error == 'add' else 'M'},{trend},{seasonal}"


def smoother(values: np.ndarray, form: Form, smoothing: Any, start: Any) -> Any:
    """Statsmodels' linear model with innovations of variance 1; the season in ``start`` is ordered
    from the last row backwards.
    """
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

    model = ExponentialSmoothing(
        values,
        trend=form.trend is not None,
        damped_trend=form.damped,
        seasonal=form.m or None,
        initialization_method="known",
        initial_level=start[0],
        initial_trend=start[1] if form.trend else None,
        initial_seasonal=start[-form.m :] if form.seasonal else None,
        concentrate_scale=False,
    )
    model.update(np.append(smoothing, 1.0))
    return model


def _regression(
    y: np.ndarray, form: Form, smoothing: np.ndarray, season: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the one-step errors lose by a unit of each missing value and of each term of the start,
    ``(n_rows, n)``, and the errors without either, ``(n_rows,)``; with a ``season`` before the
    first row the start has a level and a slope only.

    The equations of Hyndman et al. 2008, table 2.2, solved for the errors, are a rational filter.
    """
    given = dict(zip(form.names, smoothing, strict=True))
    alpha, beta, gamma = (given.get(name, 0.0) for name in NAMES[:3])
    phi, m, n = given.get("damping_trend", 1.0), form.m, len(y)
    fade = np.array([1.0, -phi]) if form.trend else np.ones(1)
    cycle = np.ones(max(m, 1))  # 1 + B + ... + B^(m-1)
    turn = np.convolve(np.convolve([1.0, -1.0], cycle), fade)
    denominator = turn.copy()
    denominator[1:] += alpha * np.convolve(fade, cycle)
    if form.trend:
        denominator[1:-1] += beta * phi * cycle
    if m:
        denominator[m:] += gamma * fade
    rows, seen = np.arange(n), ~np.isnan(y)
    plain = np.where(seen, y, 0.0)
    if season is not None:
        plain = plain - np.resize(season[::-1], n) * seen
    once, level, slope = rows == 0, np.ones(n), np.cumsum(phi ** (rows + 1))
    signals = np.array([plain, once, rows % len(cycle) == 0, level, slope])
    errors, once, whole, *states = lfilter(turn, denominator, signals)
    design = [_later(once, rows[~seen]), *np.array(states)[: form.n_states - m, :, None]]
    if m and season is None:
        design.append(_later(whole, np.arange(m)) @ _season_terms(m))
    return np.hstack(design), errors


def _later(response: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Columns: the response to something that comes ``by`` rows later."""
    rows = np.arange(len(response))[:, None] - by
    return np.where(rows >= 0, response[rows], 0.0)


@cache
def _season_terms(m: int) -> np.ndarray:
    """Seasons that sum to zero, ``(m, n_terms)``."""
    if m <= _SMOOTH:
        return np.vstack([np.eye(m - 1), -np.ones(m - 1)])
    angle = np.outer(np.arange(m), np.arange(1, _SMOOTH // 2 + 1)) * 2 * np.pi / m
    return np.hstack([np.cos(angle), np.sin(angle)])


def likelihood(y: np.ndarray, form: Form, smoothing: np.ndarray) -> tuple[float, float]:
    """Log-likelihood from the likeliest start, that of the Kalman filter, and the variance.

    The missing values are integrated out (Gómez, Maravall & Peña 1999, Journal of Econometrics
    88(2)), which brings in the determinant of their effects.
    """
    missing = np.isnan(y).sum()
    n = len(y) - missing
    joined = np.column_stack(_regression(y, form, smoothing))
    size = np.abs(np.diag(np.linalg.qr(joined, mode="r")))
    variance = max(size[-1] ** 2, 1e-30) / n
    return -n / 2 * (np.log(2 * np.pi * variance) + 1) - np.log(size[:missing]).sum(), variance


def likeliest_start(
    y: np.ndarray, form: Form, smoothing: np.ndarray, season: Any = None
) -> np.ndarray:
    """Level, slope and season (the given one, if any) before the first row.

    The errors are linear in them, and so least squares finds them (Hyndman, Koehler, Ord & Snyder
    2008, section 5.1), with the missing values as further unknowns.
    """
    found = np.linalg.lstsq(*_regression(y, form, smoothing, season), rcond=1e-10)[0]
    found, n = found[np.isnan(y).sum() :], form.n_states - form.m
    if form.m and season is None:
        season = (_season_terms(form.m) @ found[n:])[::-1]  # backwards, as statsmodels has it
    return np.append(found[:n], [] if season is None else season)
