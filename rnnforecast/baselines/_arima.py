"""Regression with seasonal ARIMA errors for one series: estimation, and the fitted model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, qr

from rnnforecast.baselines._local import FilterModel, leading_missing

__all__ = ["ArimaModel", "Orders", "fit_arima", "fit_auto_arima"]

_ENOUGH = 0.95  # share of the rows that differencing must leave beside missing ones
_UNKNOWN = 1e4  # a variance this far above that of the innovations: the level is not known yet


class Orders(NamedTuple):
    """(p, d, q)(P, D, Q)[m] and the powers of time in the mean."""

    p: int
    d: int
    q: int
    seasonal_p: int = 0
    seasonal_d: int = 0
    seasonal_q: int = 0
    m: int = 0
    trend: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, int, int]:
        return self.p, self.d, self.q

    @property
    def seasonal(self) -> tuple[int, int, int, int]:
        return self.seasonal_p, self.seasonal_d, self.seasonal_q, self.m

    @property
    def terms(self) -> dict[str, int]:
        """Number of each kind of ARMA coefficient, in the order of statsmodels."""
        return {"ar": self.p, "ma": self.q, "sar": self.seasonal_p, "sma": self.seasonal_q}

    @property
    def n_arma(self) -> int:
        return sum(self.terms.values())

    @property
    def n_lost(self) -> int:
        """Rows lost by differencing."""
        return self.d + self.m * self.seasonal_d

    def complete(self) -> Orders:
        """A series that is not differenced needs a constant."""
        lost = self.n_lost == 0 and 0 not in self.trend
        return self._replace(trend=(0, *self.trend)) if lost else self

    def __str__(self) -> str:
        text = f"ARIMA({self.p},{self.d},{self.q})"
        if any(self.seasonal[:3]):
            text += f"({self.seasonal_p},{self.seasonal_d},{self.seasonal_q})[{self.m}]"
        names = {(): "", (0,): " with mean", (1,): " with drift", (0, 1): " with linear trend"}
        return text + names.get(self.trend, " with trend")


@dataclass(frozen=True, kw_only=True)
class ArimaModel(FilterModel):
    """A fitted regression with ARIMA errors."""

    form: Orders
    arma: np.ndarray  # coefficients in the order of ``form.terms``
    slopes: np.ndarray  # of the powers of time in ``form.trend``; row 0 of fit is time 0
    beta: np.ndarray  # of the covariates
    offset: float = 0.0  # added to the trend, where differencing makes it any number
    time: int = 0  # of row 0
    row: int = 0

    def space(self, values):
        model = _sarimax(values, self.form)
        model.update(np.append(self.arma, 1.0))
        return model

    def trend(self, start, n):
        return _powers(self.time + start, n, self.form.trend) @ self.slopes + self.offset

    def effect(self, x):
        return x @ self.beta if len(self.beta) else 0.0

    def one_step(self, y, x):
        mean, variance = super().one_step(y, x)
        unknown = np.logical_and.accumulate(variance > _UNKNOWN * self.sigma**2)
        unknown[self.first + 3 * self.form.n_lost :] = False
        if unknown.any() and self.form.n_lost:
            # the level is not known yet: the last observation, or the mean before the first one
            rest = y - self.effect(np.nan_to_num(x)) - self.trend(0, len(y))
            row = np.maximum.accumulate(np.where(np.isnan(rest), -1, np.arange(len(y))))
            row = np.concatenate([[-1], row[:-1]])
            last = np.where(row < 0, np.nanmean(rest), rest[row]) + self.trend(0, len(y))
            mean = np.where(unknown, last, mean)
        return mean, variance

    def moved(self, y, x, shift):
        first = leading_missing(y)
        fresh = replace(self, first=first, time=shift, row=first, state=None, cov=None)
        if self.form.n_lost:  # the filter starts at 0, so that its numbers stay small
            start = self.effect(x[first]) + fresh.trend(first, 1)[0] - self.offset
            fresh = replace(fresh, offset=float(y[first] - start))
        return fresh.updated(y, x)


def _sarimax(values: np.ndarray, orders: Orders, **options: Any) -> Any:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    return SARIMAX(values, order=orders.order, seasonal_order=orders.seasonal, trend="n", **options)


def _powers(start: int, n: int, powers: tuple[int, ...]) -> np.ndarray:
    """Columns t**power of rows start..start + n - 1, shape (n, n_powers)."""
    return np.arange(start, start + n, dtype=np.float64)[:, None] ** np.array(powers, dtype=int)


def _difference(values: np.ndarray, orders: Orders) -> np.ndarray:
    """Differenced rows, shape (n_rows - n_lost, ...); NaN where a row involved is missing."""
    for lag, times in ((1, orders.d), (orders.m, orders.seasonal_d)):
        for _ in range(times):
            values = values[lag:] - values[:-lag]
    return values


def _feasible(n_observed: int, n_known: int, asked: Orders) -> Orders:
    """Orders that so few rows can bear: no season, then no ARMA terms, then no differences."""
    plain = asked._replace(seasonal_p=0, seasonal_d=0, seasonal_q=0, m=0).complete()
    flat = plain._replace(p=0, q=0)
    for orders in (asked, plain, flat):
        left = n_observed - orders.n_lost
        if left > orders.n_arma + n_known + len(orders.trend) + 1 or (orders == flat and left > 1):
            return orders
    return flat._replace(d=0).complete()


def _independent(columns: np.ndarray) -> np.ndarray:
    """Positions of linearly independent columns of unit size, in their order."""
    if not columns.size:
        return np.empty(0, dtype=np.int64)
    _, r, pivot = qr(columns, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    return np.sort(pivot[: int((size > 1e-9 * max(size[0], 1e-300)).sum())])


def _spread(values: np.ndarray) -> float:
    """Standard deviation of the observed values, or 0 if there is none to speak of."""
    values = values[~np.isnan(values)]
    spread = float(values.std()) if len(values) > 1 else 0.0
    return spread if spread > 1e-12 * max(float(np.abs(values).max(initial=0)), 1e-300) else 0.0


def fit_arima(y: np.ndarray, x: np.ndarray, orders: Orders, maxiter: int) -> ArimaModel:
    """Maximum likelihood fit to one series with at least two observed values; NaN in ``x`` only
    where ``y`` is NaN.
    """
    first, n_observed, asked = leading_missing(y), int((~np.isnan(y)).sum()), orders
    orders = _feasible(n_observed, x.shape[1], asked)
    note = "" if orders == asked else f"too few rows for {asked}; fitted as {orders}"
    columns = np.hstack([_powers(0, len(y), orders.trend), np.nan_to_num(x)])[first:]
    values, lost, centre = y[first:], orders.n_lost, 0.0
    if lost:
        columns, centre = columns - columns[0], values[0]
    elif 0 in orders.trend:
        centre = np.nanmean(values)
    values = values - centre
    differenced, design = _difference(values, orders), _difference(columns, orders)
    inside = ~np.isnan(differenced)
    # where differencing takes the neighbours of missing rows away, the filter does it instead
    simple = int(inside.sum()) >= _ENOUGH * max(n_observed - lost, 1)
    used = design[inside] if simple else columns[~np.isnan(values)]
    size = np.sqrt(np.mean(used**2, axis=0)) if len(used) else np.ones(columns.shape[1])
    size[~(size > 0)] = 1.0
    keep = _independent(used / size)
    unit = _spread(differenced) or _spread(values) or 1.0
    coefficients = np.zeros(columns.shape[1])
    found = None
    varies = _spread(differenced if simple else values) > 0
    if (orders.n_arma or not simple) and varies and n_observed > orders.n_arma + len(keep) + 1:
        scaled = (columns / size)[:, keep]
        found = _search(values / unit, scaled, orders, simple, maxiter)
    if found is not None:
        params, sigma, converged = found
        coefficients[keep] = params[: len(keep)] * unit / size[keep]
        arma = params[len(keep) :]
    else:
        part = design[inside] / size
        coefficients = np.linalg.lstsq(part, differenced[inside], rcond=None)[0]
        rest = differenced[inside] - part @ coefficients
        sigma = (np.sqrt(np.mean(rest**2)) if len(rest) else _spread(values)) / unit
        coefficients, arma, converged = coefficients / size, np.zeros(orders.n_arma), True
        if orders == asked and orders.n_arma and _spread(differenced):
            note = "the likelihood could not be maximised; the ARMA terms are 0"
    slopes, beta = np.split(coefficients, [len(orders.trend)])
    if not lost and len(slopes):
        slopes[0] += centre
    model = ArimaModel(
        converged=converged,
        note=note,
        form=orders,
        arma=arma,
        slopes=slopes,
        beta=beta,
        sigma=float(sigma) * unit,
        unit=max(float(sigma), 1e-9) * unit,
    )
    return model.moved(y, x, 0)


def _search(
    y: np.ndarray, x: np.ndarray, orders: Orders, simple: bool, maxiter: int
) -> tuple[np.ndarray, float, bool] | None:
    """Coefficients as statsmodels orders them, sigma and convergence; None if that fails."""
    try:
        model = _sarimax(
            y,
            orders,
            exog=x if x.shape[1] else None,
            simple_differencing=simple,
            concentrate_scale=True,
        )
        options = {"cov_type": "none", "low_memory": True}
        if not len(model.param_names):
            found, converged = model.filter([], **options), True
        else:
            found = model.fit(maxiter=maxiter, disp=0, **options)
            if not found.mle_retvals["converged"]:  # on with gradients that are slow and exact
                options |= {"start_params": found.params, "optim_score": "approx"}
                found = model.fit(maxiter=maxiter, disp=0, **options)
            converged = bool(found.mle_retvals["converged"])
    except (LinAlgError, ValueError, IndexError, ZeroDivisionError):
        return None
    params, sigma = np.asarray(found.params, dtype=np.float64), float(np.sqrt(found.scale))
    return (params, sigma, converged) if np.isfinite([*params, sigma]).all() and sigma else None


# -- orders chosen by statsforecast ----------------------------------------------------------------

_FAR = 1000.0  # size of the values over their steps
_TOO_SHORT = 5  # observed rows below which no order is chosen


def fit_auto_arima(
    y: np.ndarray, x: np.ndarray, m: int, settings: dict[str, Any], maxiter: int
) -> ArimaModel:
    """Fit with orders that statsforecast's ``AutoARIMA(**settings)`` chooses.

    They come from the longest stretch without missing values; the coefficients too where that is
    all there is, else they are those of ``fit_arima``.
    """
    seen = np.flatnonzero(~np.isnan(y))
    runs = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
    rows = max(runs, key=len)
    part = y[rows]
    plain = Orders(0, 0, 0, trend=(0,))
    if len(part) < _TOO_SHORT or np.ptp(part) == 0:
        return fit_arima(y, x, plain, maxiter)
    keep = _independent(x[rows] - x[rows].mean(axis=0))
    # far from 0, in its own steps, the level would swamp statsforecast's diffuse start
    step = float(np.median(np.abs(np.diff(part)))) or float(part.std())
    far = bool(np.abs(part).max() > _FAR * step)
    found = _choose(part - part[0] if far else part, x[rows][:, keep], m, settings)
    if found is None:
        return fit_arima(y, x, plain, maxiter)
    orders, coefficient, sigma2 = found
    usable = np.isfinite([*coefficient.values(), sigma2]).all() and sigma2 >= 0
    if len(rows) < len(seen) or not usable or (far and not orders.n_lost):
        return fit_arima(y, x, orders.complete() if far else orders, maxiter)
    arma = [coefficient[f"{kind}{j + 1}"] for kind, n in orders.terms.items() for j in range(n)]
    slopes = [coefficient[("intercept", "drift")[power]] for power in orders.trend]
    beta = np.zeros(x.shape[1])
    beta[keep] = [coefficient[f"ex_{j + 1}"] for j in range(len(keep))]
    sigma = float(np.sqrt(sigma2))
    model = ArimaModel(
        form=orders,
        arma=np.array(arma),
        slopes=np.array(slopes),
        beta=beta,
        offset=-coefficient.get("drift", 0.0) * (rows[0] - 1),  # there the first row is time 1
        sigma=sigma,
        unit=max(sigma, 1e-9 * float(np.nanstd(y))),
    )
    return model.moved(y, x, 0)


def _choose(
    y: np.ndarray, x: np.ndarray, m: int, settings: dict[str, Any]
) -> tuple[Orders, dict[str, float], float] | None:
    """Orders, named coefficients and sigma² by statsforecast; None if it finds no model."""
    from statsforecast.models import AutoARIMA

    try:
        fitted = AutoARIMA(season_length=m, **settings).fit(y, x if x.shape[1] else None).model_
    except (ValueError, ArithmeticError, LinAlgError, KeyError, IndexError, TypeError):
        return None
    p, q, seasonal_p, seasonal_q, period, d, seasonal_d = (int(value) for value in fitted["arma"])
    coefficient = {name: float(value) for name, value in fitted["coef"].items()}
    trend = (0,) * ("intercept" in coefficient) + (1,) * ("drift" in coefficient)
    seasonal = (seasonal_p, seasonal_d, seasonal_q)
    orders = Orders(p, d, q, *seasonal, period if any(seasonal) else 0, trend)
    return orders, coefficient, float(fitted["sigma2"])
