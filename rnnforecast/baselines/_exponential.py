"""Exponential smoothing of one series: forms, their choice and estimation, and the fitted models.

Forms whose components are all additive are linear: their likelihood, with missing values, is that
of statsmodels' Kalman filter (``statespace.ExponentialSmoothing``). The others run through
``ETSModel``, whose recursion takes no missing values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from rnnforecast.baselines.local import SCORES, FilterModel, LocalModel, leading_missing
from rnnforecast.exceptions import DataError

__all__ = ["Form", "LinearModel", "MultiplicativeModel", "fit_ets"]

_RECENT = 1000  # rows at the end of a series that its form and smoothing are estimated from
_SMOOTH = 24  # a longer season starts as a smooth curve: so many of its Fourier terms
_N_PATHS = 5000
_NAMES = "smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend"
_ROUNDS = 4
_GAIN = 0.03  # of the log-likelihood, below which no further round is made


@dataclass(frozen=True)
class Form:
    """Components of the model: error, trend, damped, seasonal; m steps in a season."""

    error: str
    trend: str | None
    damped: bool
    seasonal: str | None
    m: int

    @property
    def linear(self) -> bool:
        return self.error == "add" and self.seasonal != "mul"

    @property
    def n_season(self) -> int:
        return self.m if self.seasonal else 0

    @property
    def n_parameters(self) -> int:
        """Smoothing parameters, initial states (seasons sum to a constant) and the variance."""
        n = 3 + (2 if self.trend else 0) + int(self.damped)
        return n + self.n_season

    @property
    def names(self) -> list[str]:
        """Smoothing parameters in the order of statsmodels."""
        given = [True, self.trend, self.seasonal, self.damped]
        return [name for name, use in zip(_NAMES, given, strict=True) if use]

    def __str__(self) -> str:
        trend = "N" if self.trend is None else "Ad" if self.damped else "A"
        seasonal = {None: "N", "add": "A", "mul": "M"}[self.seasonal]
        text = f"ETS({'A' if self.error == 'add' else 'M'},{trend},{seasonal})"
        return f"{text}[{self.m}]" if self.seasonal else text


PLAIN = Form("add", None, False, None, 1)


class Estimate(NamedTuple):
    """Smoothing parameters, state before the first row (level, slope, season) and fit."""

    smoothing: np.ndarray
    start: np.ndarray
    log_likelihood: float
    sigma: float
    converged: bool


# -- additive forms --------------------------------------------------------------------------------


def _space(values: np.ndarray, form: Form, start: np.ndarray, concentrate: bool) -> Any:
    """Statsmodels' linear model, its season ordered from that of the last row backwards."""
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

    return ExponentialSmoothing(
        values,
        trend=form.trend is not None,
        damped_trend=form.damped,
        seasonal=form.m if form.seasonal else None,
        initialization_method="known",
        initial_level=start[0],
        initial_trend=start[1] if form.trend else None,
        initial_seasonal=start[-form.m :] if form.seasonal else None,
        concentrate_scale=concentrate,
    )


def _fit_linear(y: np.ndarray, form: Form, maxiter: int) -> Estimate:
    """Maximum likelihood: the best start for given smoothing, the best smoothing from there, ..."""
    best = None
    for alpha, share in product((0.5, 0.1, 0.9), (0.1, 0.9) if form.trend else (0.0,)):
        usual = dict(zip(_NAMES, (alpha, share * alpha, 0.05 * (1 - alpha), 0.95), strict=True))
        smoothing = np.array([usual[name] for name in form.names])
        if best is None:
            best = _at(y, form, smoothing)
            start = best.start
        new = _filtered(y, form, smoothing, start)
        best = new if new.log_likelihood > best.log_likelihood else best
    for _ in range(_ROUNDS):
        model = _space(y, form, best.start, concentrate=True)
        if not np.isfinite(model.untransform_params(best.smoothing)).all():
            break  # at the end of a parameter's range
        found = model.fit(best.smoothing, maxiter=maxiter, disp=0, cov_type="none", low_memory=True)
        new = _at(y, form, np.asarray(found.params), bool(found.mle_retvals["converged"]))
        gain, best = new.log_likelihood - best.log_likelihood, new
        if gain < _GAIN:
            break
    return best


def _at(y: np.ndarray, form: Form, smoothing: np.ndarray, converged: bool = True) -> Estimate:
    """The best start for given smoothing parameters, and the likelihood there."""
    start = _best_start(y, form, smoothing, np.zeros(1 + bool(form.trend) + form.n_season))
    return _filtered(y, form, smoothing, start, converged)


def _filtered(
    y: np.ndarray, form: Form, smoothing: np.ndarray, start: np.ndarray, converged: bool = True
) -> Estimate:
    model = _space(y, form, start, concentrate=True)
    found = model.filter(smoothing, cov_type="none", low_memory=True)
    return Estimate(smoothing, start, found.llf, float(np.sqrt(found.scale)), converged)


def _best_start(
    y: np.ndarray, form: Form, smoothing: np.ndarray, start: np.ndarray, season: bool = True
) -> np.ndarray:
    """Level, slope and, with ``season``, seasons before the first row that are the likeliest.

    The innovations are linear in them, and so least squares finds them (Hyndman, Koehler, Ord &
    Snyder 2008, section 5.1; with the Kalman filter's weights where rows are missing, chapter 12).
    """
    from statsmodels.tsa.statespace.kalman_filter import MEMORY_CONSERVE, MEMORY_NO_FORECAST

    model = _space(y, form, start, concentrate=False)
    model.update(np.append(smoothing, 1.0))
    model.ssm.set_conserve_memory(MEMORY_CONSERVE & ~MEMORY_NO_FORECAST)
    forward, gain = model.ssm["transition"], model.ssm["selection"]
    seen = ~np.isnan(y)

    def errors(state: np.ndarray) -> np.ndarray:
        model.ssm.initialize_known(forward @ np.append(0.0, state), gain @ gain.T)
        found = model.ssm.filter()
        return (found.forecasts_error[0] / np.sqrt(found.forecasts_error_cov[0, 0]))[seen]

    basis = np.eye(len(start))[: 1 + bool(form.trend)]
    if season and form.seasonal:
        terms = np.eye(form.m)
        if form.m > _SMOOTH:
            angle = np.outer(np.arange(1, _SMOOTH // 2 + 1), np.arange(form.m)) * 2 * np.pi / form.m
            terms = np.vstack([np.cos(angle), np.sin(angle)])
        terms = terms - terms.mean(axis=1, keepdims=True)  # the level holds their mean
        basis = np.vstack([basis, np.pad(terms, ((0, 0), (len(start) - form.m, 0)))])
    rest = errors(start)
    design = np.stack([errors(start + part) - rest for part in basis], axis=1)
    return start - np.linalg.lstsq(design, rest, rcond=1e-10)[0] @ basis


@dataclass(frozen=True, kw_only=True)
class LinearModel(FilterModel):
    """A fitted additive form.

    Attributes
    ----------
    form : Form
    smoothing : ndarray
        In the order of ``form.names``.
    start : ndarray
        Level, slope and season (from the last row backwards) before row ``first``, as filtered.
    centre : float
    """

    form: Form
    smoothing: np.ndarray
    start: np.ndarray
    centre: float

    def space(self, values):
        model = _space(values, self.form, self.start, concentrate=False)
        model.update(np.append(self.smoothing, 1.0))
        return model

    def trend(self, start, n):
        return np.full(n, self.centre)

    def moved(self, y, x, shift):
        first, start, m = leading_missing(y), np.zeros_like(self.start), self.form.n_season
        if m:  # the latest season, turned to the first row
            assert self.state is not None
            start[-m:] = self.state[-m:][(self.row - shift - first + 1 + np.arange(m)) % m]
        inner = (y[first:] - self.centre) / self.unit
        start = _best_start(inner, self.form, self.smoothing, start, season=False)
        fresh = replace(self, start=start, first=first, row=first, state=None, cov=None)
        return fresh.updated(y, x)

    def describe(self):
        return str(self.form)


# -- forms with a multiplicative component ---------------------------------------------------------


def _ets_model(y: np.ndarray, form: Form, **start: Any) -> Any:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    return ETSModel(
        y,
        error=form.error,
        trend=form.trend,
        damped_trend=form.damped,
        seasonal=form.seasonal,
        seasonal_periods=form.m if form.seasonal else None,
        **start,
    )


def _fit_multiplicative(y: np.ndarray, form: Form, maxiter: int) -> Estimate:
    found = _ets_model(y, form).fit(maxiter=maxiter, disp=False)
    smoothing = np.array([getattr(found, name) for name in form.names])
    state = np.asarray(found.initial_state)
    start = np.concatenate([state[: 1 + bool(form.trend)], state[len(state) - form.n_season :]])
    converged = bool(found.mle_retvals["converged"])
    return Estimate(smoothing, start, float(found.llf), float(np.sqrt(found.scale)), converged)


@dataclass(frozen=True, kw_only=True)
class MultiplicativeModel(LocalModel):
    """A fitted form with a multiplicative component.

    Attributes
    ----------
    form : Form
    smoothing : ndarray
        In the order of ``form.names``.
    start : ndarray
        Level, slope and season (by row) before row ``first``.
    sigma : float
        Standard deviation of the errors, relative to the mean where these are multiplicative.
    """

    form: Form
    smoothing: np.ndarray
    start: np.ndarray
    sigma: float

    def _smoothed(self, y: np.ndarray) -> Any:
        """Statsmodels' result for ``y`` from ``first`` on; a missing row has no error."""
        y, m = y[self.first :].copy(), self.form.n_season
        while np.isnan(y).any():
            gap = int(np.argmax(np.isnan(y)))
            width = int(np.argmin(np.append(np.isnan(y[gap:]), False)))
            before = np.concatenate([np.full(self.first, np.nan), y[:gap]])
            y[gap : gap + width] = self._smoothed(before).forecast(width)
        model = _ets_model(
            y,
            self.form,
            initialization_method="known",
            initial_level=self.start[0],
            initial_trend=self.start[1] if self.form.trend else None,
            initial_seasonal=self.start[-m:] if m else None,
        )
        return model.smooth(self.smoothing)

    def _size(self, mean: np.ndarray) -> np.ndarray:
        """Quantiles of one error around ``mean``, less the mean."""
        size = np.abs(mean) if self.form.error == "mul" else np.ones_like(mean)
        return self.sigma * size[..., None] * SCORES

    def ahead(self, y, x, origins, n_steps):
        mean, deviation = np.empty((len(origins), n_steps)), np.empty((len(origins), n_steps, 25))
        inside = (origins < len(y)) & (n_steps == 1)
        if inside.any():
            fitted = np.pad(self._smoothed(y).fittedvalues, (self.first, 0), mode="edge")
            mean[inside, 0] = fitted[origins[inside]]
            deviation[inside] = self._size(mean[inside])
        for origin in np.unique(origins[~inside]):
            found = self._smoothed(y[: max(origin, self.first + 1)])
            centre = np.asarray(found.forecast(n_steps))
            # the same draws for every origin
            draws = np.random.default_rng(0).standard_normal((n_steps, _N_PATHS))
            paths = found.simulate(
                n_steps, anchor="end", repetitions=_N_PATHS, random_errors=draws * self.sigma
            )
            wide = np.quantile(paths, ndtr(SCORES), axis=1).T - centre[:, None]
            wide[0] = self._size(centre[:1])[0]  # one step ahead it is normal
            mean[origins == origin], deviation[origins == origin] = centre, wide
        return mean, deviation

    def moved(self, y, x, shift):
        first, m = leading_missing(y), self.form.n_season
        season = np.roll(self.start[-m:], self.first - shift - first) if m else np.zeros(1)
        part = y[first : first + max(m, 1)]
        season_of_part = season[np.arange(len(part)) % len(season)]
        mul = self.form.seasonal == "mul"
        level = np.nanmean(part / season_of_part if mul else part - season_of_part)
        start = np.concatenate([[level], self.start[1 : len(self.start) - m], season[:m]])
        return replace(self, start=start, first=first)

    def describe(self):
        return str(self.form)


# -- choice ----------------------------------------------------------------------------------------


def fit_ets(
    y: np.ndarray,
    x: np.ndarray,
    error: str,
    trend: str | None,
    damped: bool | str,
    seasonal: str | None,
    m: int,
    maxiter: int,
) -> LocalModel:
    """Fit to one series ``y``, shape (n_rows,), with at least two observed values.

    ``x`` is ignored; the rest is as in ``ETSForecaster``, and "auto" is decided here.
    """
    first = leading_missing(y)
    inner = y[first : len(y) - leading_missing(y[::-1])]
    lowest, complete = float(np.nanmin(inner)), not np.isnan(inner).any()
    _check_multiplicative(error, seasonal, lowest, complete)
    centre, unit = float(np.nanmean(inner)), float(np.nanstd(inner))
    if unit <= 1e-12 * max(float(np.nanmax(np.abs(inner))), 1e-300):
        # a series that never changed; half of a change is taken up
        never = Estimate(np.array([0.5]), np.zeros(1), 0.0, 0.0, True)
        return _linear_model(y, PLAIN, never, float(inner[0]), 1.0, first, "")
    seasons, trends = _candidates(error, trend, damped, seasonal, m, lowest > 0 and complete)
    recent = inner[-max(_RECENT, 20 * m) :]
    if np.isnan(recent).mean() > 0.5:
        recent = inner

    @cache
    def estimated(form: Form, whole: bool = False) -> Estimate | None:
        rows = inner if whole else recent
        try:
            if form.linear:
                found = _fit_linear((rows - centre) / unit, form, maxiter)
            else:
                found = _fit_multiplicative(rows / unit, form, maxiter)
        except (ValueError, np.linalg.LinAlgError, IndexError, ArithmeticError):
            return None
        numbers = [*found.smoothing, *found.start, found.sigma, found.log_likelihood]
        return found if np.isfinite(numbers).all() else None

    form, note = _choose(estimated, recent, m, seasons, trends)
    found = estimated(form, not form.linear)
    if found is None:
        note = f"{form} could not be fitted; fitted as {PLAIN}"
        form, found = PLAIN, estimated(PLAIN)
    if found is None:
        raise DataError(
            "exponential smoothing could not be fitted: use another forecaster, or drop this series"
        )
    if form.linear:
        if len(recent) < len(inner):
            found = _at((inner - centre) / unit, form, found.smoothing, found.converged)
        return _linear_model(y, form, found, centre, unit, first, note)
    start = found.start.copy()
    start[: len(start) - (form.m if form.seasonal == "mul" else 0)] *= unit
    return MultiplicativeModel(
        converged=found.converged,
        note=note,
        first=first,
        form=form,
        smoothing=found.smoothing,
        start=start,
        sigma=found.sigma * (unit if form.error == "add" else 1.0),
    )


def _linear_model(
    y: np.ndarray, form: Form, found: Estimate, centre: float, unit: float, first: int, note: str
) -> LocalModel:
    model = LinearModel(
        converged=found.converged,
        note=note,
        first=first,
        sigma=found.sigma * unit,
        unit=unit,
        row=first,
        form=form,
        smoothing=found.smoothing,
        start=found.start,
        centre=centre,
    )
    return model.updated(y, np.empty((len(y), 0)))


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
    trends: list[tuple[str | None, bool]] = [(None, False)] if trend != "add" else []
    if trend is not None:
        trends += [("add", value) for value in dampings]
    return seasons, trends


def _choose(
    estimated: Callable,
    rows: np.ndarray,
    m: int,
    seasons: list[tuple[str, str | None]],
    trends: list[tuple[str | None, bool]],
) -> tuple[Form, str]:
    """Form of the least AICc: the season first, with the simplest trend, then the trend."""
    n = int((~np.isnan(rows)).sum())

    def form(season: tuple[str, str | None], trend: tuple[str | None, bool]) -> Form:
        return Form(season[0], *trend, season[1], m if season[1] else 1)

    def possible(candidate: Form) -> bool:
        return n > candidate.n_parameters + 1 and len(rows) >= 2 * candidate.n_season

    def score(candidate: Form) -> float:
        # Hyndman et al. 2008, section 7.1
        k, found = candidate.n_parameters, estimated(candidate)
        if found is None or n - k - 1 <= 0:
            return np.inf
        return 2 * k - 2 * found.log_likelihood + 2 * k * (k + 1) / (n - k - 1)

    def least(forms: list[Form]) -> Form:
        return forms[0] if len(forms) == 1 else min(forms, key=score)

    asked = form(seasons[0], trends[0])
    usable = [form(s, trends[0]) for s in seasons if possible(form(s, trends[0]))]
    best = least(usable) if usable else form((seasons[0][0], None), trends[0])
    season = best.error, best.seasonal
    chosen = least(
        [form(season, t) for t in trends if possible(form(season, t))]
        or [form(season, (None, False))]
    )
    # alternatives left out under "auto" are the rule; a form that was asked for is not
    reduced = (len(seasons) == 1 and chosen.seasonal != asked.seasonal) or (
        (None, False) not in trends and chosen.trend is None
    )
    return chosen, f"too few rows for {asked}; fitted as {chosen}" if reduced else ""
