"""Exponential smoothing of one series: choice of the form, and estimation by statsmodels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.linalg import LinAlgError

from rnnforecast.baselines._ets_gaps import maximise
from rnnforecast.baselines._ets_model import EtsForm, EtsModel
from rnnforecast.baselines._local import leading_missing
from rnnforecast.exceptions import DataError

__all__ = ["fit_ets"]

_LONG_SEASON = 12  # beyond this, forms are compared with heuristic initial states


@dataclass(frozen=True)
class Estimate:
    """What statsmodels found, for the scaled series.

    Attributes
    ----------
    smoothing : tuple of float
        alpha, beta, gamma, phi.
    level, slope : float
        Before the first row.
    season : ndarray, shape (m,)
        By row of the series modulo m.
    log_likelihood, sigma : float
    converged : bool
    """

    smoothing: tuple[float, float, float, float]
    level: float
    slope: float
    season: np.ndarray
    log_likelihood: float
    sigma: float
    converged: bool


def fit_ets(
    y: np.ndarray,
    x: np.ndarray,
    error: str,
    trend: str | None,
    damped: bool | str,
    seasonal: str | None,
    m: int,
    maxiter: int,
) -> EtsModel:
    """Fit to one series.

    Parameters
    ----------
    y : ndarray, shape (n_rows,)
        At least two observed values.
    x : ndarray
        Ignored.
    error, trend, damped, seasonal, m, maxiter
        As in ``ETSForecaster``; "auto" is decided here.
    """
    first = leading_missing(y)
    last = len(y) - leading_missing(y[::-1])
    inner = y[first:last]
    lowest, complete = float(np.nanmin(inner)), not np.isnan(inner).any()
    _check_multiplicative(error, seasonal, lowest, complete)
    unit = float(np.nanstd(inner))
    if unit <= 1e-12 * max(float(np.nanmax(np.abs(inner))), 1e-300):
        return _constant(float(inner[0]), first).extended(y[first:], x)
    center = float(np.nanmean(inner))  # additive forms do not mind, and their numbers stay small
    n = int((~np.isnan(inner)).sum())
    positive = lowest > 0 and complete
    seasons, trends = _candidates(error, trend, damped, seasonal, m, positive)

    @cache
    def estimated(form: EtsForm, start: str) -> Estimate | None:
        rows = inner - center if form.linear else inner
        return _estimate(rows / unit, form, start, maxiter)

    form, note = _choose(estimated, len(inner), n, m, seasons, trends)
    estimate = estimated(form, "estimated")
    if estimate is None:
        plain = EtsForm("add", None, False, None, 1)
        note = f"{form} could not be fitted; fitted as {plain}"
        form, estimate = plain, estimated(plain, "estimated")
    if estimate is None:
        raise DataError(
            "exponential smoothing could not be fitted: use another forecaster, or drop this series"
        )
    model = _model(form, estimate, unit, center if form.linear else 0.0, first, note)
    return model.extended(y[first:], x)


def _check_multiplicative(error: str, seasonal: str | None, lowest: float, complete: bool) -> None:
    name = "error" if error == "mul" else "seasonal" if seasonal == "mul" else None
    if name is None:
        return
    if lowest <= 0:
        raise DataError(
            f"{name}='mul' needs values above 0: use {name}='add' or 'auto'. "
            f"Got a value of {lowest:g}"
        )
    if not complete:
        raise DataError(
            f"{name}='mul' cannot be estimated with missing values (NaN) between observed ones: "
            f"use error='add' with seasonal='add' or None, or fill them yourself before fit"
        )


def _candidates(
    error: str, trend: str | None, damped: bool | str, seasonal: str | None, m: int, positive: bool
) -> tuple[list[tuple[str, str | None]], list[tuple[str | None, bool]]]:
    """(error, seasonal) pairs and (trend, damped) pairs to choose from, simplest first."""
    own_error = "add" if error == "auto" else error
    if m < 2 or seasonal is None:
        seasons: list[tuple[str, str | None]] = [(own_error, None)]
    elif seasonal == "auto":
        seasons = [(own_error, None), (own_error, "add")]
        if positive and error != "add":
            seasons.append(("mul", "mul"))
    else:
        seasons = [("mul" if error == "auto" and seasonal == "mul" else own_error, seasonal)]
    dampings = [False, True] if damped == "auto" else [bool(damped)]
    trends: list[tuple[str | None, bool]] = []
    if trend != "add":
        trends.append((None, False))
    if trend is not None:
        trends += [("add", value) for value in dampings]
    return seasons, trends


def _choose(
    estimated: Callable,
    n_rows: int,
    n: int,
    m: int,
    seasons: list[tuple[str, str | None]],
    trends: list[tuple[str | None, bool]],
) -> tuple[EtsForm, str]:
    """Form of the least AICc: the season first, with the simplest trend, then the trend."""

    def form(season: tuple[str, str | None], trend: tuple[str | None, bool]) -> EtsForm:
        return EtsForm(season[0], *trend, season[1], m if season[1] else 1)

    def possible(candidate: EtsForm) -> bool:
        return n > candidate.n_parameters + 1 and (not candidate.seasonal or n_rows >= 2 * m)

    asked = form(seasons[0], trends[0])
    usable = [s for s in seasons if possible(form(s, trends[0]))]
    if not usable:
        usable = [(seasons[0][0], None)]
    long = m > _LONG_SEASON and n_rows >= 10 + 2 * (m // 2)
    start = "heuristic" if long else "estimated"
    season = _least(estimated, n, [(s, form(s, trends[0])) for s in usable], start)
    able = [t for t in trends if possible(form(season, t))] or [(None, False)]
    trend = _least(estimated, n, [(t, form(season, t)) for t in able], start)
    chosen = form(season, trend)
    # alternatives left out under "auto" are the rule; a form that was asked for is not
    reduced = (len(seasons) == 1 and chosen.seasonal != asked.seasonal) or (
        None not in [t for t, _ in trends] and chosen.trend is None
    )
    note = f"too few rows for {asked}; fitted as {chosen}" if reduced else ""
    return chosen, note


def _least(estimated: Callable, n: int, options: list, start: str):
    """The option whose form has the least corrected AIC (Hyndman et al. 2008, section 7.1)."""
    if len(options) == 1:
        return options[0][0]
    scores = []
    for _, form in options:
        estimate = estimated(form, start)
        k = form.n_parameters
        if estimate is None or n - k - 1 <= 0:
            scores.append(np.inf)
        else:
            scores.append(2 * k - 2 * estimate.log_likelihood + 2 * k * (k + 1) / (n - k - 1))
    return options[int(np.argmin(scores))][0]


def _estimate(y: np.ndarray, form: EtsForm, start: str, maxiter: int) -> Estimate | None:
    """Maximum likelihood by statsmodels; None if that fails."""
    try:
        estimate = _with_gaps if np.isnan(y).any() else _complete
        found = estimate(y, form, start, maxiter)
    except (ValueError, LinAlgError, IndexError, ZeroDivisionError):
        return None
    numbers = [*found.smoothing, found.level, found.slope, found.sigma, found.log_likelihood]
    return found if np.isfinite(numbers).all() and np.isfinite(found.season).all() else None


def _complete(y: np.ndarray, form: EtsForm, start: str, maxiter: int) -> Estimate:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    model = ETSModel(
        y,
        error=form.error,
        trend=form.trend,
        damped_trend=form.damped,
        seasonal=form.seasonal,
        seasonal_periods=form.m if form.seasonal else None,
        initialization_method=start,
    )
    result = model.fit(maxiter=maxiter, disp=False)
    level, slope, season = _initial(np.asarray(result.initial_state), form)
    return Estimate(
        (
            float(result.smoothing_level),
            float(result.smoothing_trend) if form.trend else 0.0,
            float(result.smoothing_seasonal) if form.seasonal else 0.0,
            float(result.damping_trend) if form.damped else 1.0,
        ),
        level,
        slope,
        season,
        float(result.llf),
        float(np.sqrt(result.scale)),
        bool(result.mle_retvals["converged"]),
    )


def _initial(state: np.ndarray, form: EtsForm) -> tuple[float, float, np.ndarray]:
    """Level, slope and season (by row) of statsmodels' initial state vector."""
    slope = float(state[1]) if form.trend else 0.0
    if form.seasonal:
        return float(state[0]), slope, np.array(state[-form.m :], dtype=np.float64)
    return float(state[0]), slope, np.zeros(1)


def _with_gaps(y: np.ndarray, form: EtsForm, start: str, maxiter: int) -> Estimate:
    # the initial states are always the best ones
    smoothing, best, converged = maximise(y, form, maxiter)
    return Estimate(
        smoothing,
        float(best.state[0]),
        float(best.state[1]),
        best.state[2:],
        best.log_likelihood,
        best.sigma,
        converged,
    )


def _model(
    form: EtsForm, found: Estimate, unit: float, center: float, first: int, note: str
) -> EtsModel:
    """The model before its first observed row, on the scale of the data."""
    alpha, beta, gamma, phi = found.smoothing
    additive = form.seasonal != "mul"
    season = np.roll(found.season * (unit if additive else 1.0), first % form.m)
    start = found.level * unit + center, found.slope * unit, season
    return EtsModel(
        converged=found.converged,
        note=note,
        form=form,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        phi=phi,
        sigma=found.sigma * (unit if form.error == "add" else 1.0),
        first=first,
        start=start,
        level=start[0],
        slope=start[1],
        season=season,
        cov=None,
        n_rows=first,
    )


def _constant(value: float, first: int) -> EtsModel:
    """A series that never changed: its level, without error; half of a change is taken up."""
    form = EtsForm("add", None, False, None, 1)
    found = Estimate((0.5, 0.0, 0.0, 1.0), value, 0.0, np.zeros(1), 0.0, 0.0, True)
    return _model(form, found, 1.0, 0.0, first, "")
