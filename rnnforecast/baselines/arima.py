"""Seasonal ARIMA with covariates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._local import (
    FilterModel,
    LocalForecaster,
    LocalModel,
    leading_missing,
    spread,
)
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator

__all__ = ["ARIMAForecaster", "ArimaBase", "ArimaModel", "Orders", "fit_arima"]

_TRENDS = {"n": (), "c": (0,), "t": (1,), "ct": (0, 1)}
_ENOUGH = 0.95  # share of the rows that differencing must leave beside missing ones


class Orders(NamedTuple):
    """(p, d, q), (P, D, Q, m) and the powers of time in the mean."""

    order: tuple[int, int, int] = (0, 0, 0)
    seasonal: tuple[int, int, int, int] = (0, 0, 0, 0)
    trend: tuple[int, ...] = ()

    @property
    def n_lost(self) -> int:
        """Rows lost by differencing."""
        return self.order[1] + self.seasonal[1] * self.seasonal[3]

    @property
    def n_arma(self) -> int:
        return sum(self.order[::2] + self.seasonal[:3:2])

    def __str__(self) -> str:
        text = "ARIMA({},{},{})".format(*self.order)
        if any(self.seasonal[:3]):
            text += "({},{},{})[{}]".format(*self.seasonal)
        names = {(): "", (0,): " with mean", (1,): " with drift", (0, 1): " with linear trend"}
        return text + names[self.trend]


@dataclass(frozen=True, kw_only=True)
class ArimaModel(FilterModel):
    """A fitted regression with ARIMA errors; row 0 of fit is time 0."""

    form: Orders
    arma: np.ndarray  # coefficients in the order of statsmodels

    def space(self, values):
        model = _sarimax(values, self.form)
        model.update(np.append(self.arma, 1.0))
        return model

    def moved(self, y, x, shift):
        first = leading_missing(y)
        fresh = self.restarted(first=first, time=shift, centre=0.0)
        if self.form.n_lost:  # the filter starts at 0, so that its numbers stay small
            start = y[first] - self.effect(x[first]) - fresh.trend(first, 1)[0]
            fresh = replace(fresh, centre=float(start))
        return fresh

    def estimates(self, known):
        named = {("const", "drift")[power]: slope for power, slope in self.slopes.items()}
        arma = self.space(np.zeros(1)).param_names
        named |= zip(known, self.beta, strict=True)
        return named | dict(zip(arma, [*self.arma, self.sigma**2], strict=True))


def _sarimax(values: np.ndarray, orders: Orders, **options: Any) -> Any:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    return SARIMAX(values, order=orders.order, seasonal_order=orders.seasonal, trend="n", **options)


def fit_arima(y: np.ndarray, x: np.ndarray, orders: Orders, maxiter: int) -> LocalModel:
    """Maximum likelihood fit to one series with at least two observed values; NaN in ``x`` only
    where ``y`` is NaN.
    """
    from statsmodels.tsa.statespace.tools import diff

    first, n_observed, lost = leading_missing(y), int((~np.isnan(y)).sum()), orders.n_lost
    time = np.arange(float(len(y)))[:, None] ** np.array(orders.trend, dtype=int)
    columns, values = np.hstack([time, np.nan_to_num(x)])[first:], y[first:]
    if n_observed - lost <= orders.n_arma + columns.shape[1] + 1 or not spread(values):
        return _plain(y, x, orders)
    centre = values[0] if lost else np.nanmean(values) if 0 in orders.trend else 0.0
    values, columns = values - centre, columns - columns[0] * bool(lost)
    changes = diff(values, orders.order[1], orders.seasonal[1], orders.seasonal[3])
    unit, size = spread(changes) or spread(values), np.sqrt(np.mean(columns**2, axis=0))
    size[size == 0] = 1.0
    # where differencing takes the neighbours of missing rows away, the filter does it instead
    simple = int((~np.isnan(changes)).sum()) >= _ENOUGH * (n_observed - lost)
    try:
        model = _sarimax(
            values / unit,
            orders,
            exog=columns / size if columns.size else None,
            simple_differencing=simple,
            concentrate_scale=True,
        )
        options = {"maxiter": maxiter, "disp": 0, "cov_type": "none", "low_memory": True}
        found = model.fit(**options) if model.param_names else model.filter([])
        converged = getattr(found, "mle_retvals", {"converged": True})["converged"]
        if not converged:  # on with gradients that are slow and exact
            found = model.fit(found.params, optim_score="approx", **options)
            converged = found.mle_retvals["converged"]
    except (LinAlgError, ValueError, IndexError, ZeroDivisionError):
        return _plain(y, x, orders)
    sigma = float(np.sqrt(found.scale)) * unit
    if not (np.isfinite([*found.params, sigma]).all() and sigma > 0):
        return _plain(y, x, orders)
    n_trend, n = time.shape[1], columns.shape[1]
    coefficients = np.asarray(found.params[:n]) * unit / size
    slopes = dict(zip(orders.trend, coefficients[:n_trend].tolist(), strict=True))
    if not lost and 0 in slopes:
        slopes[0] += centre
    return ArimaModel(
        form=orders,
        sigma=sigma,
        unit=max(sigma, 1e-9 * unit),
        converged=bool(converged),
        slopes=slopes,
        beta=coefficients[n_trend:],
        arma=np.asarray(found.params[n:]),
    ).moved(y, x, 0)


def _plain(y: np.ndarray, x: np.ndarray, asked: Orders) -> LocalModel:
    """A random walk, or a mean, where the rows do not bear the orders that were asked for."""
    seen, walk = y[~np.isnan(y)], min(asked.n_lost, 1)
    orders = Orders((0, walk, 0), trend=() if walk else (0,))
    sigma = float(np.sqrt(np.mean(np.diff(seen) ** 2))) if walk else spread(seen)
    note = f"too few rows, or too little in them, for {asked}; fitted as {orders}"
    return ArimaModel(
        form=orders,
        sigma=sigma,
        unit=sigma or 1.0,
        note="" if orders == asked else note,
        slopes={} if walk else {0: float(seen.mean())},
        beta=np.zeros(x.shape[1]),
        arma=np.zeros(0),
    ).moved(y, x, 0)


class ArimaBase(LocalForecaster):
    """What ARIMA with given and with chosen orders have in common."""

    _uses_known = True

    def _rows_of(self, X: Any) -> Any:
        rows = super()._rows_of(X)
        missing = np.isnan(rows.known)
        if missing.any():
            row, column = np.argwhere(missing)[0]
            raise DataError(
                f"{type(self).__name__}: known covariate {self.roles_.known[column]!r} is "
                f"missing (NaN) in row {row} of X: fill it first, as a regression cannot use it"
            )
        return rows

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # scikit-learn's X is covariates, and a regression takes none missing; targets may be
        tags.input_tags.allow_nan = False
        return tags

    @property
    def order_(self) -> Any:
        """(p, d, q) in use: a tuple, or a frame (series × target)."""
        return self._per_series(lambda model: model.form.order, "order_")

    @property
    def seasonal_order_(self) -> Any:
        """(P, D, Q, m) in use: a tuple, or a frame (series × target)."""
        return self._per_series(lambda model: model.form.seasonal, "seasonal_order_")


@estimator
class ARIMAForecaster(ArimaBase):
    """Regression with seasonal ARIMA errors, by maximum likelihood.

    Parameters
    ----------
    order : tuple of 3 ints, default (1, 0, 0)
        (p, d, q): autoregressive terms, differences, moving-average terms.
    seasonal_order : tuple of 3 or 4 ints, default (0, 0, 0, 0)
        (P, D, Q) or (P, D, Q, m). Without m, or with m = 0, the season is ``seasonality``.
    trend : {None, "n", "c", "t", "ct"}, default None
        Mean of the series: nothing, a constant, a linear trend in time, or both. None: a constant
        unless the series is differenced. With one difference, "t" is a drift.
    maxiter : int, default 100
        Limit of the optimiser's iterations.

    Attributes
    ----------
    order_, seasonal_order_ : tuple, or frame (series × target)
        Orders in use.
    params_ : Series, or frame (series × target) of Series
        Estimates, on the scale of the data.
    converged_ : bool, or frame (series × target)
    seasonality_ : int
    models_ : list of list
        Parameters and end state of each series and target.

    Raises
    ------
    DataError
        In ``fit``, if a covariate is NaN where the target is observed, or a series has fewer than
        two observed values.

    Notes
    -----
    The model is ``y_t = trend_t + beta' x_t + u_t`` with u a seasonal ARIMA (Box, Jenkins, Reinsel
    & Ljung 2015, Time Series Analysis, 5th ed., eq. 9.1.4 for u). Parameters and forecasts are
    those of statsmodels' ``SARIMAX``. Its Kalman filter skips a missing target; the likelihood is
    that of the differenced series, or of the levels where differencing would take more than 5% of
    the observed rows along. Intervals are normal, with the parameters taken as known.

    A series with too few rows for its parameters is fitted as a random walk, or as a mean where it
    is not differenced, without covariates; a warning names it and ``order_`` shows what was used.
    ``update`` runs the filter on and keeps the parameters. In-sample rows whose level is not
    identified yet (the first ``d + D m``) get the last value, the very first one the mean.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> index = pd.period_range("2020-01", periods=40, freq="M")
    >>> df = pd.DataFrame({"y": 0.5 ** np.arange(40) + 10}, index=index)
    >>> fc = ARIMAForecaster(order=(0, 1, 0), horizon=2).fit(df)
    >>> fc.forecast().round(3)
               y
    2023-05  10.0
    2023-06  10.0
    """

    order: tuple[int, int, int] = (1, 0, 0)
    seasonal_order: tuple[int, ...] = (0, 0, 0, 0)
    trend: str | None = None
    maxiter: int = 100

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_int(owner, "maxiter", self.maxiter)
        check_choice(owner, "trend", self.trend, (None, *_TRENDS))
        _check_orders(owner, "order", self.order, (3,))
        _check_orders(owner, "seasonal_order", self.seasonal_order, (3, 4))
        lost = self.order[1] + self.seasonal_order[1]
        gone = [power for power in _TRENDS[self.trend or "n"] if power < lost]
        if gone:
            raise DataError(
                f"{owner}: trend={self.trend!r} has a term that differencing removes: with "
                f"d + D = {lost} expected {'t' if lost == 1 else 'n'!r} or None. "
                f"Got d={self.order[1]}, D={self.seasonal_order[1]}"
            )

    def _season(self, panel: Panel) -> int:
        given = self.seasonal_order[3] if len(self.seasonal_order) == 4 else 0
        return int(given) or super()._season(panel)

    def _fitter(self, seasonality: int) -> Callable[[np.ndarray, np.ndarray], LocalModel]:
        p, d, q, seasonal_p, seasonal_d, seasonal_q = map(
            int, (*self.order, *self.seasonal_order[:3])
        )
        m = seasonality if seasonal_p + seasonal_d + seasonal_q else 0
        if m == 1:
            raise DataError(
                f"{type(self).__name__}: seasonal_order={tuple(self.seasonal_order)} needs a "
                f"season of 2 or more steps, and none was found: pass seasonality=, e.g. "
                f"seasonality=12. Got {seasonality}"
            )
        trend = _TRENDS[self.trend or ("n" if d + seasonal_d else "c")]
        orders = Orders((p, d, q), (seasonal_p, seasonal_d, seasonal_q, m), trend)
        return partial(fit_arima, orders=orders, maxiter=int(self.maxiter))


def _check_orders(owner: str, name: str, value: Any, lengths: tuple[int, ...]) -> None:
    good = isinstance(value, (tuple, list)) and len(value) in lengths
    if not good or any(
        isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < 0 for v in value
    ):
        kind = " or ".join(str(length) for length in lengths)
        raise DataError(
            f"{owner}: {name} must be a tuple of {kind} integers of 0 or more. Got {value!r}"
        )
