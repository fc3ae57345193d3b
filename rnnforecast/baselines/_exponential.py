"""Exponential smoothing of one series: forms, their choice and estimation, and the fitted models.

Forms whose components are all additive are linear: statsmodels' Kalman filter gives their
likelihood, missing values or not (``statespace.ExponentialSmoothing``). The others run through its
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

from rnnforecast.baselines._local import SCORES, FilterModel, LocalModel, leading_missing
from rnnforecast.exceptions import DataError

_RECENT = 1000  # rows at the end of a series that its form and smoothing are estimated from
_SMOOTH = 24  # a longer season starts as a smooth curve: so many of its Fourier terms
_N_PATHS = 5000
_ROUNDS = 4
_GAIN = 0.03  # of the log-likelihood, below which no further round is made
_NAMES = "smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend"


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
        return [name for name, use in zip(_NAMES, given, strict=True) if use]

    @property
    def n_states(self) -> int:
        return 1 + bool(self.trend) + self.m

    @property
    def n_parameters(self) -> int:
        """Smoothing parameters, states at the start (seasons sum to a constant) and variance."""
        return len(self.names) + self.n_states - bool(self.seasonal) + 1

    def __str__(self) -> str:
        trend = "N" if self.trend is None else "Ad" if self.damped else "A"
        seasonal = {None: "N", "add": f"A)[{self.m}]", "mul": f"M)[{self.m}]"}[self.seasonal]
        text = f"ETS({'A' if self.error == 'add' else 'M'},{trend},{seasonal}"
        return text if self.seasonal else text + ")"


class Estimate(NamedTuple):
    """Smoothing parameters, state before the first row (level, slope, season) and likelihood."""

    smoothing: np.ndarray
    start: np.ndarray
    log_likelihood: float
    sigma: float
    converged: bool = True


# -- additive forms --------------------------------------------------------------------------------


def _space(values: np.ndarray, form: Form, start: np.ndarray, concentrate: bool) -> Any:
    """Statsmodels' linear model; the season in ``start`` is ordered from the last row backwards."""
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

    return ExponentialSmoothing(
        values,
        trend=form.trend is not None,
        damped_trend=form.damped,
        seasonal=form.m or None,
        initialization_method="known",
        initial_level=start[0],
        initial_trend=start[1] if form.trend else None,
        initial_seasonal=start[-form.m :] if form.seasonal else None,
        concentrate_scale=concentrate,
    )


def _fit_linear(y: np.ndarray, form: Form, maxiter: int) -> Estimate:
    """Maximum likelihood: the best start for some smoothing, the best smoothing from it, ..."""
    options = {"maxiter": maxiter, "disp": 0, "cov_type": "none", "low_memory": True}
    grid = []
    for alpha, share in product((0.5, 0.1, 0.9), (0.1, 0.9) if form.trend else (0.0,)):
        usual = dict(zip(_NAMES, (alpha, share * alpha, 0.05 * (1 - alpha), 0.95), strict=True))
        grid.append(np.array([usual[name] for name in form.names]))
    start = best_start(y, form, grid[0], np.zeros(form.n_states))
    best = max((_at(y, form, smoothing, start) for smoothing in grid), key=lambda e: e[2])
    for _ in range(_ROUNDS):
        model = _space(y, form, best.start, concentrate=True)
        if not np.isfinite(model.untransform_params(best.smoothing)).all():
            break  # at the end of a parameter's range
        found = model.fit(best.smoothing, **options)
        new = _at(y, form, np.asarray(found.params))
        gain = new.log_likelihood - best.log_likelihood
        best = new._replace(converged=bool(found.mle_retvals["converged"]))
        if gain < _GAIN:
            break
    return best


def _at(
    y: np.ndarray, form: Form, smoothing: np.ndarray, start: np.ndarray | None = None
) -> Estimate:
    """The likelihood of given smoothing parameters, from their best start if none is given."""
    if start is None:
        start = best_start(y, form, smoothing, np.zeros(form.n_states))
    model = _space(y, form, start, concentrate=True)
    found = model.filter(smoothing, cov_type="none", low_memory=True)
    return Estimate(smoothing, start, found.llf, float(np.sqrt(found.scale)))


def best_start(
    y: np.ndarray, form: Form, smoothing: np.ndarray, start: np.ndarray, season: bool = True
) -> np.ndarray:
    """``start`` with the likeliest level, slope and, with ``season``, seasons.

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

    basis, m = np.eye(form.n_states)[: form.n_states - form.m], form.m
    if season and m:
        terms = np.eye(m)
        if m > _SMOOTH:
            angle = np.outer(np.arange(1, _SMOOTH // 2 + 1), np.arange(m)) * 2 * np.pi / m
            terms = np.vstack([np.cos(angle), np.sin(angle)])
        terms = terms - terms.mean(axis=1, keepdims=True)  # the level holds their mean
        basis = np.vstack([basis, np.pad(terms, ((0, 0), (form.n_states - m, 0)))])
    rest = errors(start)
    design = np.stack([errors(start + part) - rest for part in basis], axis=1)
    return start - np.linalg.lstsq(design, rest, rcond=1e-10)[0] @ basis


@dataclass(frozen=True, kw_only=True)
class LinearModel(FilterModel):
    """A fitted additive form."""

    form: Form
    smoothing: np.ndarray
    start: np.ndarray  # level, slope and season (from the last row backwards), as filtered
    centre: float

    def space(self, values):
        model = _space(values, self.form, self.start, concentrate=False)
        model.update(np.append(self.smoothing, 1.0))
        return model

    def trend(self, start, n):
        return np.full(n, self.centre)

    def moved(self, y, x, shift):
        first, start, m = leading_missing(y), np.zeros(self.form.n_states), self.form.m
        if m:  # the latest season, turned to the first row
            assert self.state is not None
            start[-m:] = self.state[-m:][(self.row - shift - first + 1 + np.arange(m)) % m]
        inner = (y[first:] - self.centre) / self.unit
        start = best_start(inner, self.form, self.smoothing, start, season=False)
        fresh = replace(self, start=start, first=first, row=first, state=None, cov=None)
        return fresh.updated(y, x)


# -- forms with a multiplicative component ---------------------------------------------------------


def _ets_model(y: np.ndarray, form: Form, **start: Any) -> Any:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    return ETSModel(
        y,
        error=form.error,
        trend=form.trend,
        damped_trend=form.damped,
        seasonal=form.seasonal,
        seasonal_periods=form.m or None,
        **start,
    )


def _fit_multiplicative(y: np.ndarray, form: Form, maxiter: int) -> Estimate:
    found = _ets_model(y, form).fit(maxiter=maxiter, disp=False)
    smoothing, state = np.array([getattr(found, name) for name in form.names]), found.initial_state
    start = np.append(state[: form.n_states - form.m], state[len(state) - form.m :])
    converged = bool(found.mle_retvals["converged"])
    return Estimate(smoothing, start, float(found.llf), float(np.sqrt(found.scale)), converged)


@dataclass(frozen=True, kw_only=True)
class MultiplicativeModel(LocalModel):
    """A fitted form with a multiplicative component."""

    form: Form
    smoothing: np.ndarray
    start: np.ndarray  # level, slope and season (by row) before row ``first``
    sigma: float  # of the errors, relative to the mean where these are multiplicative

    def _smoothed(self, y: np.ndarray) -> Any:
        """Statsmodels' result for rows from ``first`` on; a missing row counts as without error."""
        y, m = y.copy(), self.form.m
        while np.isnan(y).any():
            row = int(np.argmax(np.isnan(y)))
            y[row] = self._smoothed(y[:row]).forecast(1)[0]
        model = _ets_model(
            y,
            self.form,
            initialization_method="known",
            initial_level=self.start[0],
            initial_trend=self.start[1] if self.form.trend else None,
            initial_seasonal=self.start[-m:] if m else None,
        )
        return model.smooth(self.smoothing)

    def _one_error(self, mean: np.ndarray) -> np.ndarray:
        size = np.abs(mean) if self.form.error == "mul" else np.ones_like(mean)
        return self.sigma * size[..., None] * SCORES

    def ahead(self, y, x, origins, n_steps):
        mean = np.empty((len(origins), n_steps))
        deviation = np.empty((*mean.shape, len(SCORES)))
        inside, first = (origins < len(y)) & (n_steps == 1), self.first
        if inside.any():
            fitted = np.pad(self._smoothed(y[first:]).fittedvalues, (first, 0), mode="edge")
            mean[inside, 0] = fitted[origins[inside]]
            deviation[inside] = self._one_error(mean[inside])
        for origin in np.unique(origins[~inside]):
            found = self._smoothed(y[first : max(origin, first + 1)])
            centre = np.asarray(found.forecast(n_steps))
            # the same draws for every origin
            errors = self.sigma * np.random.default_rng(0).standard_normal((n_steps, _N_PATHS))
            paths = found.simulate(
                n_steps, anchor="end", repetitions=_N_PATHS, random_errors=errors
            )
            wide = np.quantile(paths, ndtr(SCORES), axis=1).T - centre[:, None]
            wide[0] = self._one_error(centre[:1])[0]  # one step ahead it is normal
            mean[origins == origin], deviation[origins == origin] = centre, wide
        return mean, deviation

    def moved(self, y, x, shift):
        first, start, m = leading_missing(y), self.start.copy(), self.form.m
        season, part = 1.0 if self.form.seasonal == "mul" else 0.0, y[first : first + max(m, 1)]
        if m:
            start[-m:] = np.roll(start[-m:], self.first - shift - first)
            season = start[-m:][: len(part)]
        start[0] = np.nanmean(part / season if self.form.seasonal == "mul" else part - season)
        return replace(self, start=start, first=first)


# -- choice ----------------------------------------------------------------------------------------


def fit_ets(y: np.ndarray, x: np.ndarray, forms: list[list[Form]], maxiter: int) -> LocalModel:
    """Fit the form of the least corrected AIC to a series with two observed values at least.

    ``forms`` has a row for each season and a column for each trend, as ``forms_of`` gives them.
    """
    first = leading_missing(y)
    inner = y[first : len(y) - leading_missing(y[::-1])]
    lowest, complete = float(np.nanmin(inner)), not np.isnan(inner).any()
    kept = [row for row in forms if row[0].linear or (lowest > 0 and complete)]
    if not kept:
        name = "seasonal" if forms[0][0].seasonal == "mul" else "error"
        if lowest <= 0:
            raise DataError(
                f"{name}='mul' needs values above 0: use {name}='add' or 'auto'. "
                f"Got a value of {lowest:g}"
            )
        raise DataError(
            f"{name}='mul' cannot be estimated with missing values (NaN) between observed ones: "
            f"use error='add' with seasonal='add' or None, or fill them yourself before fit"
        )
    centre, unit = float(np.nanmean(inner)), float(np.nanstd(inner))
    longest = max(row[0].m for row in kept)
    # without a season ten times as many rows cost no more
    recent = inner[-(max(_RECENT, 20 * longest) if longest else 10 * _RECENT) :]
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

    found: Estimate | None
    if unit <= 1e-12 * max(float(np.nanmax(np.abs(inner))), 1e-300):
        # a series that never changed; half of a change is taken up
        form, note, centre, unit = Form(), "", float(inner[0]), 1.0
        found = Estimate(np.array([0.5]), np.zeros(1), 0.0, 0.0)
    else:
        form, note = _choose(estimated, recent, kept, len(forms) == 1)
        found = estimated(form, not form.linear)
        if found is None:
            form, note = Form(), f"{form} could not be fitted; fitted as {Form()}"
            found = estimated(form)
    if found is None:
        raise DataError(
            "exponential smoothing could not be fitted: use another forecaster, or drop this series"
        )
    common: dict[str, Any] = {
        "note": note,
        "converged": found.converged,
        "first": first,
        "form": form,
    }
    if not form.linear:
        start, sigma = found.start.copy(), found.sigma * (unit if form.error == "add" else 1.0)
        start[: len(start) - (form.m if form.seasonal == "mul" else 0)] *= unit
        return MultiplicativeModel(**common, smoothing=found.smoothing, start=start, sigma=sigma)
    if found.sigma and len(recent) < len(inner):
        found = _at((inner - centre) / unit, form, found.smoothing)
    sigma, start = found.sigma * unit, found.start
    common |= {"smoothing": found.smoothing, "start": start, "sigma": sigma, "unit": unit}
    return LinearModel(**common, row=first, centre=centre).updated(y, np.empty((len(y), 0)))


def forms_of(
    error: str, trend: str | None, damped: bool | str, seasonal: str | None, m: int
) -> list[list[Form]]:
    """Forms to choose from by season and trend, simplest first; arguments of ``ETSForecaster``."""
    own = "add" if error == "auto" else error
    if m < 2 or seasonal is None:
        seasons: list[tuple[str, str | None]] = [(own, None)]
    elif seasonal == "auto":
        seasons = [(own, None), (own, "add"), ("mul", "mul")][: 2 if error == "add" else 3]
    else:
        seasons = [("mul" if error == "auto" and seasonal == "mul" else own, seasonal)]
    trends: list[tuple[str | None, bool]] = [(None, False)] * (trend != "add")
    if trend is not None:
        trends += [("add", bool(d)) for d in ((False, True) if damped == "auto" else (damped,))]
    return [[Form(e, *t, s, m if s else 0) for t in trends] for e, s in seasons]


def _choose(
    estimated: Callable, rows: np.ndarray, forms: list[list[Form]], by_name: bool
) -> tuple[Form, str]:
    """Form of the least AICc, the season with the simplest trend first, and what to note."""
    n = int((~np.isnan(rows)).sum())

    def score(form: Form) -> float:
        # Hyndman et al. 2008, section 7.1
        k, found = form.n_parameters, estimated(form)
        return np.inf if found is None else 2 * (k - found[2] + k * (k + 1) / (n - k - 1))

    def least(candidates: list[Form], otherwise: Form) -> Form:
        able = [f for f in candidates if n > f.n_parameters + 1 and len(rows) >= 2 * f.m]
        return min(able, key=score) if len(able) > 1 else [*able, otherwise][0]

    plain, asked = Form(forms[0][0].error), forms[0][0]
    best = least([row[0] for row in forms], asked._replace(seasonal=None, m=0))
    same = [f for row in forms for f in row if (f.error, f.seasonal) == (best.error, best.seasonal)]
    chosen = least(
        same or [plain._replace(trend=f.trend, damped=f.damped) for f in forms[0]], plain
    )
    # alternatives left out under "auto" are the rule; a form that was asked for is not
    lost = (by_name and chosen.seasonal != asked.seasonal) or (asked.trend and not chosen.trend)
    return chosen, f"too few rows for {asked}; fitted as {chosen}" if lost else ""
