"""Seasonal ARIMA with covariates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._arima_fit import ArimaModel, Orders, fit_arima
from rnnforecast.baselines._local import LocalForecaster
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters._rows import Rows

__all__ = ["ARIMAForecaster", "ArimaBase"]

_METHODS = ("mle", "css")
_TRENDS = {"n": (), "c": (0,), "t": (1,), "ct": (0, 1)}


class ArimaBase(LocalForecaster):
    """What ARIMA with given and with chosen orders have in common."""

    _uses_known = True

    def _rows_of(self, X: Any) -> Rows:
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
        return self._per_series(lambda model: model.orders.order, "order_")

    @property
    def seasonal_order_(self) -> Any:
        """(P, D, Q, m) in use: a tuple, or a frame (series × target)."""
        return self._per_series(lambda model: model.orders.seasonal, "seasonal_order_")

    @property
    def params_(self) -> Any:
        """Estimates: a Series, or a frame (series × target) of them."""
        known = getattr(self, "roles_", None)
        names = [] if known is None else known.known
        return self._per_series(lambda model: _parameters(model, names), "params_")


def _parameters(model: ArimaModel, known: list) -> pd.Series:
    """Named estimates of one series, as statsmodels names them."""
    powers = {0: "const", 1: "drift"}
    values = {powers[p]: v for p, v in zip(model.orders.trend, model.trend, strict=True)}
    values |= dict(zip(known, model.beta, strict=True))
    stems = (("ar.L", 1), ("ma.L", 1), ("ar.S.L", model.orders.m), ("ma.S.L", model.orders.m))
    for (stem, step), terms in zip(stems, model.arma, strict=True):
        values |= {f"{stem}{(j + 1) * step}": value for j, value in enumerate(terms)}
    values["sigma2"] = model.sigma**2
    return pd.Series(values, dtype=np.float64)


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
    seasonality : int, optional
        Steps in a season; None: the usual one of the calendar, 1 for integers and arrays.
    method : {"mle", "css"}, default "mle"
        Maximum likelihood, or the conditional sum of squares: much quicker for long seasons, and
        close to it for long series. Missing values cut the series into stretches for "css"; where
        these hold less than half of the rows, it is "mle".
    maxiter : int, default 100
        Limit of the optimiser's iterations.
    horizon : int, default 1
        Steps of ``forecast()`` and ``predict()``.
    target, known, static, series_id, time, freq
        Roles of the columns, as in every forecaster. Known covariates enter linearly, each row's
        own values in its own mean; past-only and static ones are ignored.
    n_jobs : int, optional
        Number of processes over the series of a panel; None is 1.

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
    & Ljung 2015, Time Series Analysis, 5th ed., eq. 9.1.4 for u). Parameters come from statsmodels'
    ``SARIMAX`` on the scaled and differenced series, started from the conditional sum of squares.
    A missing target is skipped by the Kalman filter; where differencing would take more than 5% of
    the other rows along, the levels are filtered instead. Intervals are normal, from the state
    space form with the parameters taken as known.

    A series with too few rows for its parameters is fitted without the season, then without the
    ARMA terms, then without differences; a warning names it and ``order_`` shows what was used.
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

    def __init__(
        self,
        *,
        order: tuple[int, int, int] = (1, 0, 0),
        seasonal_order: tuple[int, ...] = (0, 0, 0, 0),
        trend: str | None = None,
        seasonality: int | None = None,
        method: str = "mle",
        maxiter: int = 100,
        horizon: int = 1,
        target: Any = None,
        known: Any = None,
        static: Any = None,
        series_id: Any = None,
        time: Any = None,
        freq: Any = None,
        n_jobs: int | None = None,
    ):
        self.order = order
        self.seasonal_order = seasonal_order
        self.trend = trend
        self.seasonality = seasonality
        self.method = method
        self.maxiter = maxiter
        self.horizon = horizon
        self.target = target
        self.known = known
        self.static = static
        self.series_id = series_id
        self.time = time
        self.freq = freq
        self.n_jobs = n_jobs

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_choice(owner, "method", self.method, _METHODS)
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

    def _local_fit(self, panel: Panel, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        p, d, q = (int(value) for value in self.order)
        seasonal_p, seasonal_d, seasonal_q = (int(value) for value in self.seasonal_order[:3])
        seasonal = seasonal_p + seasonal_d + seasonal_q > 0
        if seasonal and seasonality < 2:
            raise DataError(
                f"{type(self).__name__}: seasonal_order={tuple(self.seasonal_order)} needs a "
                f"season of 2 or more steps, and the calendar has none: pass seasonality=, e.g. "
                f"seasonality=12. Got {seasonality}"
            )
        auto = (0,) if d + seasonal_d == 0 else ()
        trend = auto if self.trend is None else _TRENDS[self.trend]
        orders = Orders(
            p, d, q, seasonal_p, seasonal_d, seasonal_q, seasonality if seasonal else 0, trend
        )
        return fit_arima, {"orders": orders, "method": self.method, "maxiter": int(self.maxiter)}


def _check_orders(owner: str, name: str, value: Any, lengths: tuple[int, ...]) -> None:
    good = isinstance(value, (tuple, list)) and len(value) in lengths
    if not good or any(
        isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < 0 for v in value
    ):
        kind = " or ".join(str(length) for length in lengths)
        raise DataError(
            f"{owner}: {name} must be a tuple of {kind} integers of 0 or more. Got {value!r}"
        )
