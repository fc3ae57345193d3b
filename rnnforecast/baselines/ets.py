"""Exponential smoothing.

Forms whose components are all additive are linear: their one-step errors are a filter of the rows,
and their states after any row come from statsmodels' ``statespace.ExponentialSmoothing``, missing
values or not. The others run through its ``ETSModel``, whose recursion takes none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._local import (
    FilterModel,
    LocalForecaster,
    LocalModel,
    leading_missing,
    spread,
)
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters.parameters import estimator

__all__ = ["ETSForecaster"]

_RECENT = 1000  # rows at the end of a series that its form and smoothing are estimated from
_MISSING = 300  # missing values among them, beyond which fewer rows are taken
_SMOOTH = 24  # a longer season starts as a smooth curve: so many of its Fourier terms
_N_PATHS = 5000
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
        seasonal = {None: "N)", "add": f"A)[{self.m}]", "mul": f"M)[{self.m}]"}[self.seasonal]
        return f"ETS({'A' if self.error == 'add' else 'M'},{trend},{seasonal}"


class Estimate(NamedTuple):
    """Smoothing parameters, state before the first row (level, slope, season) and likelihood."""

    smoothing: np.ndarray
    start: np.ndarray
    log_likelihood: float
    sigma: float
    converged: bool = True


# -- additive forms --------------------------------------------------------------------------------


class Errors(NamedTuple):
    """One-step errors from a start of zero with missing values of zero, ``(n_rows,)``, and what
    they lose by a unit of each missing value and of each term of the start, ``(n_rows, n)``.
    """

    errors: np.ndarray
    missing: np.ndarray
    terms: np.ndarray

    def start(self, form: Form) -> np.ndarray:
        """The likeliest level, slope and season before the first row.

        The errors are linear in them, and so least squares finds them (Hyndman, Koehler, Ord &
        Snyder 2008, section 5.1), with the missing values as further unknowns.
        """
        design = np.hstack([self.missing, self.terms])
        found = np.linalg.lstsq(design, self.errors, rcond=1e-10)[0][self.missing.shape[1] :]
        n, start = form.n_states - form.m, np.zeros(form.n_states)
        start[:n] = found[:n]
        if len(found) > n:
            start[n:] = (_season_terms(form.m) @ found[n:])[::-1]  # backwards, as statsmodels'
        return start

    def likelihood(self) -> tuple[float, float]:
        """Log-likelihood from the likeliest start, and the variance: that of the Kalman filter.

        The missing values are integrated out (Gómez, Maravall & Peña 1999, Journal of Econometrics
        88(2), section 3), which brings in the determinant of their effects.
        """
        k, n = self.missing.shape[1], len(self.errors) - self.missing.shape[1]
        joined = np.column_stack([self.missing, self.terms, self.errors])
        size = np.abs(np.diag(np.linalg.qr(joined, mode="r")))
        variance = max(size[-1] ** 2, 1e-30) / n
        return -n / 2 * (np.log(2 * np.pi * variance) + 1) - np.log(size[:k]).sum(), variance


@cache
def _season_terms(m: int) -> np.ndarray:
    """Seasons that sum to zero, ``(m, n_terms)``."""
    if m <= _SMOOTH:
        return np.vstack([np.eye(m - 1), -np.ones(m - 1)])
    angle = np.outer(np.arange(m), np.arange(1, _SMOOTH // 2 + 1)) * 2 * np.pi / m
    return np.hstack([np.cos(angle), np.sin(angle)])


def _later(response: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Columns: the response to something that comes ``by`` rows later."""
    rows = np.arange(len(response))[:, None] - by
    return np.where(rows >= 0, response[rows], 0.0)


def _errors(y: np.ndarray, form: Form, smoothing: np.ndarray, season: Any = None) -> Errors:
    """Errors of an additive form with a given ``season`` before the first row, or with any.

    The equations of Hyndman et al. 2008, table 2.2, solved for the errors, are a rational filter:
    ``errors = lfilter(turn * fade, numerator, y)``.
    """
    given = dict(zip(form.names, smoothing, strict=True))
    alpha, beta, gamma = (given.get(name, 0.0) for name in _NAMES[:3])
    phi, m = given.get("damping_trend", 1.0), form.m
    fade = np.array([1.0, -phi]) if form.trend else np.ones(1)
    cycle = np.ones(max(m, 1))  # 1 + B + ... + B^(m-1)
    turn = np.convolve([1.0, -1.0], cycle)
    numerator = np.convolve(fade, turn)
    numerator[1:] += alpha * np.convolve(fade, cycle)
    if form.trend:
        numerator[1:-1] += beta * phi * cycle
    if m:
        numerator[m:] += gamma * fade
    n, seen = len(y), ~np.isnan(y)
    rows, z = np.arange(n), np.where(seen, y, 0.0)
    if season is not None:
        z = z - np.resize(season[::-1], n) * seen
    # a season, an impulse, a level and a slope
    unit = [
        (rows % max(m, 1) == 0) * 1.0,
        (rows == 0) * 1.0,
        np.ones(n),
        np.cumsum(phi ** (rows + 1)),
    ]
    plain, whole, impulse, *states = lfilter(np.convolve(fade, turn), numerator, [z, *unit])
    terms = np.stack(states[: form.n_states - m], axis=1)
    if m and season is None:
        terms = np.hstack([terms, _later(whole, np.arange(m)) @ _season_terms(m)])
    return Errors(plain, _later(impulse, rows[~seen]), terms)


def _fit_linear(y: np.ndarray, form: Form, maxiter: int) -> Estimate:
    """Maximum likelihood."""
    bounds = dict.fromkeys(_NAMES[:3], (0.0001, 1 - 0.0001)) | {"damping_trend": (0.8, 0.98)}

    def smoothing(free: np.ndarray) -> np.ndarray:  # in the usual region: beta < alpha < 1 - gamma
        share = {"smoothing_trend": free[0], "smoothing_seasonal": 1 - free[0]}
        return np.array(
            [v * share.get(name, 1.0) for name, v in zip(form.names, free, strict=True)]
        )

    def loss(free: np.ndarray) -> float:
        return -_errors(y, form, smoothing(free)).likelihood()[0] / len(y)

    grid = []
    for alpha, share in product((0.5, 0.1, 0.9), (0.1, 0.9) if form.trend else (0.0,)):
        usual = dict(zip(_NAMES, (alpha, share, 0.05, 0.95), strict=True))
        grid.append(np.array([usual[name] for name in form.names]))
    found = minimize(
        loss,
        min(grid, key=loss),
        method="L-BFGS-B",
        bounds=[bounds[name] for name in form.names],
        options={"maxiter": maxiter, "ftol": 1e-8},
    )
    best = smoothing(found.x)
    errors = _errors(y, form, best)
    likelihood, variance = errors.likelihood()
    return Estimate(
        best, errors.start(form), likelihood, float(np.sqrt(variance)), found.status != 1
    )


def smoother(values: np.ndarray, form: Form, smoothing: Any, start: Any) -> Any:
    """Statsmodels' model with innovations of variance 1; the season in ``start`` is ordered from
    the last row backwards.
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


@dataclass(frozen=True, kw_only=True)
class LinearModel(FilterModel):
    """A fitted additive form."""

    form: Form
    smoothing: np.ndarray
    start: np.ndarray  # level, slope and season (from the last row backwards), as filtered

    def space(self, values):
        return smoother(values, self.form, self.smoothing, self.start)

    def moved(self, y, x, shift):
        first, m = leading_missing(y), self.form.m
        season = None
        if m:  # the latest season, turned to the first row
            assert self.state is not None
            season = self.state[-m:][(self.row - shift - first + 1 + np.arange(m)) % m]
        inner = (y[first:][:_RECENT] - self.centre) / self.unit
        start = _errors(inner, self.form, self.smoothing, season).start(self.form)
        if season is not None:
            start[-m:] = season
        return self.restarted(first=first, start=start)

    def estimates(self, known):
        return _named(self)


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
    """A fitted form with a multiplicative component; sigma is relative where its errors are."""

    form: Form
    smoothing: np.ndarray
    start: np.ndarray  # level, slope and season (by row) before row ``first``

    def _smoothed(self, y: np.ndarray) -> Any:
        """Statsmodels' result for rows from ``first`` on; a missing row counts as without error."""
        y, m = y.copy(), self.form.m
        while np.isnan(y).any():
            row = int(np.argmax(np.isnan(y)))
            y[row] = self._smoothed(y[:row]).forecast(1)[0]
        return _ets_model(
            y,
            self.form,
            initialization_method="known",
            initial_level=self.start[0],
            initial_trend=self.start[1] if self.form.trend else None,
            initial_seasonal=self.start[-m:] if m else None,
        ).smooth(self.smoothing)

    def ahead(self, y, x, origins, n_steps):
        mean, deviation = np.empty((2, len(origins), n_steps))
        inside, origins = (origins < len(y)) & (n_steps == 1), origins - self.first
        if inside.any():
            fitted = self._smoothed(y[self.first :]).fittedvalues
            mean[inside, 0] = fitted[np.maximum(origins[inside], 0)]
        for origin in np.unique(origins[~inside]):
            found, chosen = self._smoothed(y[self.first :][: max(origin, 1)]), origins == origin
            # the same draws for every origin
            errors = self.sigma * np.random.default_rng(0).standard_normal((n_steps, _N_PATHS))
            paths = found.simulate(
                n_steps, anchor="end", repetitions=_N_PATHS, random_errors=errors
            )
            mean[chosen & ~inside] = found.forecast(n_steps)
            deviation[chosen & ~inside] = paths.std(axis=1)
        # one step ahead nothing has to be simulated
        size = np.abs(mean[:, 0]) if self.form.error == "mul" else 1.0
        deviation[:, 0] = self.sigma * size
        return mean, deviation

    def moved(self, y, x, shift):
        first, start, m = leading_missing(y), self.start.copy(), self.form.m
        season, part = 1.0 if self.form.seasonal == "mul" else 0.0, y[first : first + max(m, 1)]
        if m:
            start[-m:] = np.roll(start[-m:], self.first - shift - first)
            season = start[-m:][: len(part)]
        start[0] = np.nanmean(part / season if self.form.seasonal == "mul" else part - season)
        return replace(self, start=start, first=first)

    def estimates(self, known):
        return _named(self)


def _named(model: LinearModel | MultiplicativeModel) -> dict[str, float]:
    return dict(zip([*model.form.names, "sigma"], [*model.smoothing, model.sigma], strict=True))


# -- choice ----------------------------------------------------------------------------------------


def fit_ets(y: np.ndarray, x: np.ndarray, forms: list[Form], maxiter: int) -> LocalModel:
    """Fit the form of the least corrected AIC to a series with two observed values at least."""
    first, plain = leading_missing(y), Form()
    inner = y[first : len(y) - leading_missing(y[::-1])]
    lowest = float(np.nanmin(inner))
    kept = [f for f in forms if f.linear or (lowest > 0 and not np.isnan(inner).any())]
    if not kept:
        name = "seasonal" if forms[0].seasonal == "mul" else "error"
        if lowest <= 0:
            raise DataError(
                f"{name}='mul' needs values above 0: use {name}='add' or 'auto'. "
                f"Got a value of {lowest:g}"
            )
        raise DataError(
            f"{name}='mul' cannot be estimated with missing values (NaN) between observed ones: "
            f"use error='add' with seasonal='add' or None, or fill them yourself before fit"
        )
    centre, unit = float(np.nanmean(inner)), spread(inner)
    if not unit:  # a series that never changed; half of a change is taken up
        return LinearModel(
            form=plain, smoothing=np.array([0.5]), start=np.zeros(1), sigma=0.0,
            unit=1.0, centre=float(inner[0]), first=first, row=first,
        )  # fmt: skip
    longest = max(form.m for form in kept)
    # without a season ten times as many rows cost no more
    recent = inner[-(max(_RECENT, 20 * longest) if longest else 10 * _RECENT) :]
    missing = np.flatnonzero(np.isnan(recent))
    if len(missing) > _MISSING:
        recent = recent[missing[-_MISSING] :]

    @cache
    def estimated(form: Form, whole: bool = False) -> Estimate | None:
        try:
            if form.linear:
                found = _fit_linear((recent - centre) / unit, form, maxiter)
            else:
                found = _fit_multiplicative((inner if whole else recent) / unit, form, maxiter)
        except (ValueError, np.linalg.LinAlgError, IndexError, ArithmeticError):
            return None
        numbers = [*found.smoothing, *found.start, found.sigma, found.log_likelihood]
        return found if np.isfinite(numbers).all() else None

    n = int((~np.isnan(recent)).sum())

    def score(form: Form) -> float:
        # Hyndman et al. 2008, section 7.1
        k, found = form.n_parameters, estimated(form)
        return np.inf if found is None else 2 * (k - found[2] + k * (k + 1) / max(n - k - 1, 1))

    able = [f for f in kept if n > f.n_parameters + 1 and len(recent) >= 2 * f.m] or [plain]
    # the season with the simplest trend first
    form = min((f for f in able if f[1:3] == able[0][1:3]), key=score)
    same = [f for f in able if (f.error, f.seasonal) == (form.error, form.seasonal)]
    form = min(same, key=score)
    found = estimated(form, whole=not form.linear)
    if found is None and form != plain:
        form, found = plain, estimated(plain)
    if found is None:
        raise DataError(
            "exponential smoothing could not be fitted: use another forecaster, or drop this series"
        )
    # alternatives left out under "auto" are the rule; a form that was asked for is not
    lost = form == plain and plain not in forms
    common: dict[str, Any] = {
        "form": form,
        "smoothing": found.smoothing,
        "first": first,
        "converged": found.converged,
        "note": f"{forms[0]} needs more rows or could not be fitted; fitted as {form}" * lost,
    }
    if form.linear:
        start = found.start
        if len(recent) < len(inner):
            early = (inner[: max(_RECENT, 2 * form.m)] - centre) / unit
            start = _errors(early, form, found.smoothing).start(form)
        scale = {"sigma": found.sigma * unit, "unit": unit, "centre": centre}
        return LinearModel(**common, **scale, start=start, row=first)
    start, sigma = found.start.copy(), found.sigma * (unit if form.error == "add" else 1.0)
    start[: len(start) - (form.m if form.seasonal == "mul" else 0)] *= unit
    return MultiplicativeModel(**common, start=start, sigma=sigma)


def forms_of(
    error: str, trend: str | None, damped: bool | str, seasonal: str | None, m: int
) -> list[Form]:
    """Forms to choose from, simplest first; arguments of ``ETSForecaster``."""
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
    return [Form(e, *t, s, m if s else 0) for e, s in seasons for t in trends]


@estimator
class ETSForecaster(LocalForecaster):
    """Exponential smoothing (error, trend, seasonal), by maximum likelihood.

    Covariates are ignored.

    Parameters
    ----------
    error : {"auto", "add", "mul"}, default "auto"
        "auto" is multiplicative where the season is, else additive.
    trend : {"auto", "add", None}, default "auto"
    damped_trend : {"auto", True, False}, default "auto"
        Whether the trend fades.
    seasonal : {"auto", "add", "mul", None}, default "auto"
    maxiter : int, default 1000
        Limit of iterations of the optimiser.

    Attributes
    ----------
    form_ : str, or frame (series × target)
        Chosen form, e.g. "ETS(A,Ad,N)".
    params_ : Series, or frame (series × target) of Series
        Smoothing parameters and the standard deviation of the errors.
    converged_ : bool, or frame (series × target)
    seasonality_ : int
    models_ : list of list
        Parameters and end state of each series and target.

    Raises
    ------
    DataError
        In ``fit``, if a multiplicative component was asked for and the series has values of 0 or
        below, or missing values inside; or a series has fewer than two observed values.

    Notes
    -----
    "auto" compares forms by the corrected AIC (Hyndman, Koehler, Ord & Snyder 2008, section 7.1):
    first the season (none, additive, and multiplicative with multiplicative errors where all values
    are positive and none is missing), then the trend (none, additive, damped). Form, smoothing
    parameters and sigma of a long series come from its last 1000 rows (10000 without a season; 20
    seasons, if that is more; fewer where more than 300 of them are missing). A season of more than
    24 steps starts as a smooth curve, of 12 waves. A series with too few rows for the form that was
    asked for is fitted as ETS(A,N,N), and a warning tells.

    Additive forms run through statsmodels' Kalman filter. Nothing is filled: a missing row leaves
    the state uncertain and the interval wider; a multiplicative form (``ETSModel``) passes over it.
    Intervals are normal: exact for additive components, else with the standard deviation of 5000
    simulated paths, always the same draws. ``update`` runs the filter on and keeps the parameters.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> index = pd.date_range("2020-01-01", periods=48, freq="MS")
    >>> rows = np.random.default_rng(0).normal(size=48) + 10 * np.sin(np.arange(48) * np.pi / 6)
    >>> fc = ETSForecaster(horizon=3).fit(pd.DataFrame({"y": rows}, index=index))
    >>> fc.form_
    'ETS(A,N,A)[12]'
    """

    error: str = "auto"
    trend: str | None = "auto"
    damped_trend: bool | str = "auto"
    seasonal: str | None = "auto"
    maxiter: int = 1000

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_choice(owner, "error", self.error, ("auto", "add", "mul"))
        check_choice(owner, "trend", self.trend, ("auto", "add", None))
        check_choice(owner, "damped_trend", self.damped_trend, ("auto", True, False))
        check_choice(owner, "seasonal", self.seasonal, ("auto", "add", "mul", None))
        check_int(owner, "maxiter", self.maxiter)
        if self.damped_trend is True and self.trend is None:
            raise DataError(
                f"{owner}: damped_trend=True needs a trend: pass trend='add'. Got trend=None"
            )

    def _fitter(self, seasonality: int) -> Callable[[np.ndarray, np.ndarray], LocalModel]:
        if self.seasonal in ("add", "mul") and seasonality < 2:
            raise DataError(
                f"{type(self).__name__}: seasonal={self.seasonal!r} needs a season of 2 or more "
                f"steps, and none was found: pass seasonality=, e.g. "
                f"seasonality=12. Got {seasonality}"
            )
        forms = forms_of(self.error, self.trend, self.damped_trend, self.seasonal, seasonality)
        return partial(fit_ets, forms=forms, maxiter=int(self.maxiter))

    @property
    def form_(self) -> Any:
        """Chosen form, as text, or a frame (series × target)."""
        return self._per_series(lambda model: str(model.form), "form_")
