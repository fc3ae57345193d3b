"""Exponential smoothing: additive forms by a Kalman filter, missing values or not; the others by
statsmodels' ``ETSModel``, whose recursion takes none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.optimize import minimize

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._local import (
    FilterModel,
    LocalForecaster,
    LocalModel,
    leading_missing,
    spread,
)
from rnnforecast.baselines._smoothing import NAMES, Form, likeliest_start, likelihood, smoother
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator

__all__ = ["ETSForecaster"]

_RECENT = 2000  # rows at the end of a series that its form and smoothing are estimated from
_MISSING = 300  # missing values among them, beyond which fewer rows are taken
_N_PATHS = 5000


@dataclass(frozen=True, kw_only=True)
class EtsModel(LocalModel):
    """A fitted form, and its log-likelihood in units of the values' standard deviation."""

    form: Form
    smoothing: np.ndarray
    start: np.ndarray  # level, slope and season before row ``first``
    log_likelihood: float = 0.0

    def estimates(self, known):
        names = [*self.form.names, "sigma"]
        return dict(zip(names, [*self.smoothing, self.sigma], strict=True))


@dataclass(frozen=True, kw_only=True)
class LinearModel(EtsModel, FilterModel):
    """An additive form; its start is that of ``(y - centre) / unit``, its season backwards."""

    def space(self, values):
        return smoother(values, self.form, self.smoothing, self.start)

    def started(self, y: np.ndarray, first: int, season: Any = None) -> Any:
        """The same at the likeliest start for the rows from ``first`` on."""
        early = (y[first:][: max(_RECENT, 2 * self.form.m)] - self.centre) / self.unit
        start = likeliest_start(early, self.form, self.smoothing, season)
        return self.restarted(first=first, start=start)

    def moved(self, y, x, shift):
        first, m, season = leading_missing(y), self.form.m, None
        if m:  # the latest season, turned to the first row
            assert self.state is not None
            season = self.state[-m:][(self.row - shift - first + 1 + np.arange(m)) % m]
        return self.started(y, first, season)


def _fit_linear(y: np.ndarray, form: Form, maxiter: int) -> EtsModel:
    """Maximum likelihood."""
    centre, unit = float(np.nanmean(y)), spread(y)
    z = (y - centre) / unit

    def smoothing(free: np.ndarray) -> np.ndarray:  # beta < alpha < 1 - gamma
        share = dict(zip(NAMES, (1.0, free[0], 1 - free[0], 1.0), strict=True))
        return free * np.array([share[name] for name in form.names])

    def loss(free: np.ndarray) -> float:
        return -likelihood(z, form, smoothing(free))[0] / len(z)

    grid = []
    for alpha in (0.5, 0.1, 0.9):
        usual = dict(zip(NAMES, (alpha, 0.1, 0.05, 0.95), strict=True))
        grid.append(np.array([usual[name] for name in form.names]))
    found = minimize(
        loss,
        min(grid, key=loss),
        method="L-BFGS-B",
        bounds=[(0.8, 0.98) if "damp" in name else (1e-4, 1 - 1e-4) for name in form.names],
        options={"maxiter": maxiter, "ftol": 1e-8},
    )
    best = smoothing(found.x)
    value, variance = likelihood(z, form, best)
    return LinearModel(
        form=form,
        smoothing=best,
        start=likeliest_start(z, form, best),
        log_likelihood=value,
        sigma=float(np.sqrt(variance)) * unit,
        converged=found.status != 1,  # 1: the limit of iterations
        unit=unit,
        centre=centre,
    )


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


@dataclass(frozen=True, kw_only=True)
class MultiplicativeModel(EtsModel):
    """A form with a multiplicative component; sigma is relative where its errors are."""

    def _smoothed(self, y: np.ndarray) -> Any:
        """Statsmodels' result for rows from ``first`` on; a missing row counts as without error."""
        y, m = y.copy(), self.form.m
        for row in np.flatnonzero(np.isnan(y)):
            y[row] = self._smoothed(y[:row]).forecast(1)[0]
        return _ets_model(
            y,
            self.form,
            initialization_method="known",
            initial_level=self.start[0],
            initial_trend=self.start[1] if self.form.trend else None,
            initial_seasonal=self.start[-m:] if m else None,
        ).smooth(self.smoothing)

    def one_step(self, y, x):
        return self._with_deviation(self._smoothed(y[self.first :]).fittedvalues)

    def steps(self, y, n_steps):
        found = self._smoothed(y[self.first :])
        # the same draws for every origin
        errors = self.sigma * np.random.default_rng(0).standard_normal((n_steps, _N_PATHS))
        paths = found.simulate(n_steps, anchor="end", repetitions=_N_PATHS, random_errors=errors)
        mean, deviation = self._with_deviation(found.forecast(n_steps))
        return mean, np.append(deviation[:1], paths[1:].std(axis=1))

    def _with_deviation(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = np.abs(mean) if self.form.error == "mul" else np.ones_like(mean)
        return mean, self.sigma * size

    def moved(self, y, x, shift):
        first, start, m = leading_missing(y), self.start.copy(), self.form.m
        season, part = 1.0 if self.form.seasonal == "mul" else 0.0, y[first : first + max(m, 1)]
        if m:
            start[-m:] = np.roll(start[-m:], self.first - shift - first)
            season = start[-m:][: len(part)]
        start[0] = np.nanmean(part / season if self.form.seasonal == "mul" else part - season)
        return replace(self, start=start, first=first)


def _fit_multiplicative(y: np.ndarray, form: Form, maxiter: int) -> EtsModel:
    unit, n = spread(y), form.n_states - form.m
    found = _ets_model(y / unit, form).fit(maxiter=maxiter, disp=False)
    state, factors = found.initial_state, form.seasonal == "mul"
    season = state[len(state) - form.m :] * (1.0 if factors else unit)
    return MultiplicativeModel(
        form=form,
        smoothing=np.array([getattr(found, name) for name in form.names]),
        start=np.append(state[:n] * unit, season),
        log_likelihood=float(found.llf),
        sigma=float(np.sqrt(found.scale)) * (unit if form.error == "add" else 1.0),
        converged=bool(found.mle_retvals["converged"]),
    )


# -- choice ----------------------------------------------------------------------------------------


def fit_ets(y: np.ndarray, x: np.ndarray, forms: list[Form], maxiter: int) -> LocalModel:
    """Fit the form of the least corrected AIC to a series with two observed values at least."""
    first, plain = leading_missing(y), Form()
    inner = y[first : len(y) - leading_missing(y[::-1])]
    lowest, gaps = float(np.nanmin(inner)), int(np.isnan(inner).sum())
    kept = [form for form in forms if form.linear or (lowest > 0 and not gaps)]
    if not kept:
        name = "seasonal" if forms[0].seasonal == "mul" else "error"
        raise DataError(
            f"{name}='mul' needs values above 0 and none missing (NaN) between observed ones: use "
            f"error='add' with seasonal='add' or None. Got a value of {lowest:g}, {gaps} missing"
        )
    if not spread(inner):  # a series that never changed; half of a change is taken up
        level, alpha, start = float(inner[0]), np.array([0.5]), np.zeros(1)
        still = LinearModel(
            form=plain, smoothing=alpha, start=start, centre=level, unit=1.0, sigma=0.0
        )
        return still.restarted(first=first)
    longest = max(form.m for form in kept)
    # without a season five times as many rows cost no more
    recent = inner[-(max(_RECENT, 20 * longest) if longest else 5 * _RECENT) :]
    missing = np.flatnonzero(np.isnan(recent))
    if len(missing) > _MISSING:
        recent = recent[missing[-_MISSING] :]

    @cache
    def fitted(form: Form) -> EtsModel | None:
        try:
            found = (_fit_linear if form.linear else _fit_multiplicative)(recent, form, maxiter)
        except (ValueError, np.linalg.LinAlgError, IndexError, ArithmeticError):
            return None
        numbers = [*found.smoothing, *found.start, found.sigma, found.log_likelihood]
        return found if np.isfinite(numbers).all() else None

    n = int((~np.isnan(recent)).sum())

    def score(form: Form) -> float:
        # Hyndman et al. 2008, section 7.1
        k, found = form.n_parameters, fitted(form)
        penalty = k + k * (k + 1) / max(n - k - 1, 1)
        return np.inf if found is None else 2 * (penalty - found.log_likelihood)

    able = [f for f in kept if n > f.n_parameters + 1 and len(recent) >= 2 * f.m] or [plain]
    # the season with the simplest trend first
    form = min((f for f in able if f[1:3] == able[0][1:3]), key=score)
    same = [f for f in able if (f.error, f.seasonal) == (form.error, form.seasonal)]
    form = min(same, key=score)
    found = fitted(form) or _fit_linear(recent, plain, maxiter)
    # alternatives left out under "auto" are the rule; a form that was asked for is not
    lost = found.form == plain and plain not in forms
    note = f"too few rows for {forms[0]}, or they say too little; fitted as {plain}" * lost
    if not isinstance(found, LinearModel):
        if len(recent) < len(inner):
            found = _fit_multiplicative(inner, form, maxiter)
        return replace(found, first=first, note=note)
    found = replace(found, note=note)
    return found.started(y, first) if len(recent) < len(inner) else found.restarted(first=first)


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
    parameters and sigma of a long series come from its last 2000 rows (10000 without a season; 20
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
