"""Regression with seasonal ARIMA errors for one series: estimation, and the fitted model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, qr

from rnnforecast.baselines._arima_css import conditional_fit
from rnnforecast.baselines._arima_space import ArimaSpace, Filtered
from rnnforecast.baselines._local import LocalModel, leading_missing

__all__ = ["ArimaModel", "Orders", "difference", "fit_arima", "independent"]

_ENOUGH = 0.95  # share of the rows that differencing must leave beside missing ones


@dataclass(frozen=True)
class Orders:
    """(p, d, q)(P, D, Q)[m] and the powers of time in the mean."""

    p: int
    d: int
    q: int
    seasonal_p: int
    seasonal_d: int
    seasonal_q: int
    m: int
    trend: tuple[int, ...]

    @property
    def order(self) -> tuple[int, int, int]:
        return self.p, self.d, self.q

    @property
    def seasonal(self) -> tuple[int, int, int, int]:
        return self.seasonal_p, self.seasonal_d, self.seasonal_q, self.m

    @property
    def n_arma(self) -> int:
        return self.p + self.q + self.seasonal_p + self.seasonal_q

    @property
    def n_lost(self) -> int:
        """Rows lost by differencing."""
        return self.d + self.m * self.seasonal_d

    def without_season(self) -> Orders:
        smaller = replace(self, seasonal_p=0, seasonal_d=0, seasonal_q=0, m=0)
        return smaller.complete() if self.seasonal_d else smaller

    def without_arma(self) -> Orders:
        return replace(self, p=0, q=0, seasonal_p=0, seasonal_q=0)

    def without_differences(self) -> Orders:
        return replace(self, d=0, seasonal_d=0).complete()

    def complete(self) -> Orders:
        """A series that is not differenced needs a constant."""
        lost = self.d + self.seasonal_d == 0 and 0 not in self.trend
        return replace(self, trend=(0, *self.trend)) if lost else self

    def __str__(self) -> str:
        text = f"ARIMA({self.p},{self.d},{self.q})"
        if self.m > 1 and any(self.seasonal[:3]):
            text += f"({self.seasonal_p},{self.seasonal_d},{self.seasonal_q})[{self.m}]"
        names = {(): "", (0,): " with mean", (1,): " with drift", (0, 1): " with linear trend"}
        if self.d + self.seasonal_d > 0 and self.trend == (1,):
            return text + names[(1,)]
        return text + names.get(self.trend, " with trend")


@dataclass(frozen=True)
class ArimaModel(LocalModel):
    """A fitted regression with ARIMA errors, its filter standing at the end of the history.

    Attributes
    ----------
    orders : Orders
    arma : tuple of ndarray
        Coefficients of ar, ma, seasonal ar and seasonal ma.
    trend : ndarray, shape (n_trend,)
        Coefficients of the powers of time in ``orders.trend``; row 0 is time 0.
    beta : ndarray, shape (n_known,)
        Coefficients of the covariates.
    sigma : float
        Standard deviation of the innovations.
    offset, unit : float
        The filter sees ``(y - regression - offset) / unit``.
    n_rows : int
        Rows of the history.
    state, cov : ndarray
        Predicted state of the first future row; empty before ``extended``.
    """

    orders: Orders
    arma: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    trend: np.ndarray
    beta: np.ndarray
    sigma: float
    offset: float
    unit: float
    n_rows: int = 0
    state: np.ndarray | None = None
    cov: np.ndarray | None = None

    def space(self) -> ArimaSpace:
        """State space form of the errors."""
        ar, ma, seasonal_ar, seasonal_ma = self.arma
        o = self.orders
        return ArimaSpace.build(ar, ma, seasonal_ar, seasonal_ma, o.d, o.seasonal_d, max(o.m, 1))

    def _mean(self, start: int, n: int) -> np.ndarray:
        """Trend and offset of rows start..start + n - 1."""
        return time_powers(start, n, self.orders.trend) @ self.trend + self.offset

    def effect(self, x):
        return x @ self.beta if len(self.beta) else 0.0

    def _filter(self, y: np.ndarray, x: np.ndarray, start: int) -> Filtered:
        # a covariate may be missing only where the target is, where nothing is read
        effect = np.nan_to_num(x) @ self.beta
        errors = (y - effect - self._mean(start, len(y))) / self.unit
        return self.space().filter(errors, self.state, self.cov)

    def extended(self, y, x):
        if not len(y):
            return self
        done = self._filter(y, x, self.n_rows)
        return replace(self, n_rows=self.n_rows + len(y), state=done.state, cov=done.cov)

    def future(self, n_steps):
        done = self.space().filter(np.full(n_steps, np.nan), self.state, self.cov)
        mean = done.mean * self.unit + self._mean(self.n_rows, n_steps)
        return mean, self.sigma * np.sqrt(done.variance)

    def in_sample(self, y, x):
        fresh = replace(self, state=None, cov=None)
        done = fresh._filter(y, x, 0)
        errors = done.mean * self.unit
        unknown = fresh.space().diffuse(done)
        if unknown.any():
            # the level is not known yet: the last observation, or the mean before the first one
            seen = y - np.nan_to_num(x) @ self.beta - self._mean(0, len(y))
            row = np.maximum.accumulate(np.where(np.isnan(seen), -1, np.arange(len(y))))
            row = np.concatenate([[-1], row[:-1]])
            last = np.where(row < 0, np.nanmean(seen), seen[row])
            errors = np.where(unknown, last, errors)
        return errors + self._mean(0, len(y)), self.sigma * np.sqrt(done.variance)

    def describe(self):
        return str(self.orders)


def time_powers(start: int, n: int, powers: tuple[int, ...]) -> np.ndarray:
    """Columns t**power of rows start..start + n - 1, shape (n, n_powers)."""
    time = np.arange(start, start + n, dtype=np.float64)
    return np.stack([time**power for power in powers], axis=1) if powers else np.empty((n, 0))


def difference(values: np.ndarray, orders: Orders) -> np.ndarray:
    """Differenced rows, shape (n_rows - n_lost, ...); NaN where a row involved is missing."""
    for lag, times in ((1, orders.d), (orders.m, orders.seasonal_d)):
        for _ in range(times):
            values = values[lag:] - values[:-lag]
    return values


def _feasible(n_observed: int, rank: int, orders: Orders) -> Orders:
    """Orders that so few rows can bear: no season, then no ARMA terms, then no differences."""

    def enough(candidate: Orders) -> bool:
        free = candidate.n_arma + rank + len(candidate.trend) + 1
        return n_observed - candidate.n_lost > free

    plain = orders.without_season()
    for candidate in (orders, plain, plain.without_arma()):
        least_squares = candidate.n_arma == 0 and n_observed - candidate.n_lost >= 2
        if enough(candidate) or least_squares:
            return candidate
    return plain.without_arma().without_differences()


def independent(columns: np.ndarray) -> np.ndarray:
    """Positions of linearly independent columns of unit size, in their order."""
    if not columns.size:
        return np.empty(0, dtype=np.int64)
    _, r, pivot = qr(columns, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    rank = int((size > 1e-9 * max(size[0], 1e-300)).sum())
    return np.sort(pivot[:rank])


def _spread(values: np.ndarray) -> float:
    """Standard deviation of the observed values, or 0 if there is none to speak of."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return 0.0
    spread = float(values.std())
    return spread if spread > 1e-12 * max(float(np.abs(values).max()), 1e-300) else 0.0


def fit_arima(
    y: np.ndarray, x: np.ndarray, orders: Orders, method: str, maxiter: int
) -> ArimaModel:
    """Maximum likelihood fit to one series.

    Parameters
    ----------
    y : ndarray, shape (n_rows,)
        At least two observed values.
    x : ndarray, shape (n_rows, n_known)
        NaN only where ``y`` is NaN.
    orders : Orders
    method : {"mle", "css"}
    maxiter : int
    """
    first, seen, asked = leading_missing(y), ~np.isnan(y), orders
    rank = len(independent(_standard(x[seen] - x[seen].mean(axis=0))[0]))
    orders = _feasible(int(seen.sum()), rank, orders)
    columns = np.hstack([time_powers(0, len(y), orders.trend), np.where(np.isnan(x), 0.0, x)])
    work_y, work_x = y[first:], columns[first:]
    differenced = difference(work_y, orders)
    unit = _spread(differenced) or _spread(y) or 1.0
    inside = ~np.isnan(differenced)
    design, size = _standard(difference(work_x, orders), inside)
    kept = int(inside.sum()) / max(int(seen.sum()) - orders.n_lost, 1)
    if np.isnan(work_y).any() and orders.n_lost and kept < _ENOUGH:
        # differencing would take the neighbours of missing rows away: the filter does it instead
        level, size = _standard(work_x - work_x[seen[first:]].mean(axis=0), seen[first:])
        keep = independent(level[seen[first:]])
        scaled = (work_y - work_y[0]) / unit
        estimate = _estimate(scaled, level[:, keep], orders, True, method, maxiter)
    else:
        keep = independent(design[inside])
        scaled = differenced / unit
        estimate = _estimate(scaled, design[:, keep], orders, False, method, maxiter)
    coefficients = np.zeros(columns.shape[1])
    note = "" if orders == asked else f"too few rows for {asked}; fitted as {orders}"
    if estimate is None:
        part = difference(work_x, orders)[inside] / size
        solution = np.linalg.lstsq(part, differenced[inside], rcond=None)[0]
        coefficients[:] = solution / size
        rest = differenced[inside] - part @ solution
        spread = float(np.sqrt(np.mean(rest**2))) if len(rest) else _spread(y)
        estimate = solution, _zeros(orders), spread / unit, True
        if orders == asked and orders.n_arma and _spread(differenced):
            note = "the likelihood could not be maximised; the ARMA terms are 0"
    else:
        coefficients[keep] = estimate[0] * unit / size[keep]
    _, arma, sigma, converged = estimate
    n_trend = len(orders.trend)
    model = ArimaModel(
        converged=converged,
        note=note,
        orders=orders,
        arma=arma,
        trend=coefficients[:n_trend],
        beta=coefficients[n_trend:],
        sigma=sigma * unit,
        offset=float(y[first] - columns[first] @ coefficients) if orders.n_lost else 0.0,
        unit=max(sigma, 1e-9) * unit,
    )
    return model.extended(y, x)


def _standard(
    columns: np.ndarray, inside: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Columns over their root mean square, and that size (1 for a column of zeros)."""
    used = columns if inside is None else columns[inside]
    size = np.sqrt(np.mean(used**2, axis=0)) if len(used) else np.ones(columns.shape[1])
    size = np.where(size > 0, size, 1.0)
    return columns / size, size


def _zeros(orders: Orders) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.zeros(orders.p),
        np.zeros(orders.q),
        np.zeros(orders.seasonal_p),
        np.zeros(orders.seasonal_q),
    )


def _estimate(
    y: np.ndarray, x: np.ndarray, orders: Orders, integrate: bool, method: str, maxiter: int
) -> tuple[np.ndarray, Any, float, bool] | None:
    """Coefficients, ARMA terms, sigma and convergence; None where least squares is all there is."""
    n_observed = int((~np.isnan(y)).sum())
    needs_search = orders.n_arma > 0 or integrate
    if not needs_search or n_observed <= orders.n_arma + x.shape[1] + 1 or _spread(y) == 0:
        return None
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    d, seasonal_d = (orders.d, orders.seasonal_d) if integrate else (0, 0)
    seasonal_order = (orders.seasonal_p, seasonal_d, orders.seasonal_q, orders.m)
    try:
        model = SARIMAX(
            y,
            exog=x if x.shape[1] else None,
            order=(orders.p, d, orders.q),
            seasonal_order=seasonal_order,
            trend="n",
            concentrate_scale=True,
        )
        params, scale, converged = _search(model, y, x, orders, integrate, method, maxiter)
    except (LinAlgError, ValueError, IndexError, ZeroDivisionError):
        return None
    if not np.isfinite(params).all() or not np.isfinite(scale) or scale <= 0:
        return None
    cuts = np.cumsum([x.shape[1], orders.p, orders.q, orders.seasonal_p])
    beta, ar, ma, seasonal_ar, seasonal_ma = np.split(params, cuts)
    return beta, (ar, ma, seasonal_ar, seasonal_ma), float(np.sqrt(scale)), converged


def _search(
    model: Any,
    y: np.ndarray,
    x: np.ndarray,
    orders: Orders,
    integrate: bool,
    method: str,
    maxiter: int,
) -> tuple[np.ndarray, float, bool]:
    """Coefficients as statsmodels orders them, sigma² and convergence."""
    start = None
    lags = (orders.p, orders.q, orders.seasonal_p, orders.seasonal_q)
    if orders.n_arma and not integrate:
        found = conditional_fit(y, x, lags, max(orders.m, 1), model, maxiter)
        if found is not None and np.isfinite(found[0]).all():
            if method == "css":
                return found
            start = found[0]
    if not len(model.param_names):
        params, converged = np.empty(0), True
    else:
        result = model.fit(
            start_params=start, maxiter=maxiter, disp=0, cov_type="none", low_memory=True
        )
        params, converged = np.asarray(result.params), bool(result.mle_retvals["converged"])
    return params, float(model.filter(params, cov_type="none", low_memory=True).scale), converged
