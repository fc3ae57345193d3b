"""ARIMA whose orders are chosen from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._arima_fit import ArimaModel, Orders, fit_arima, independent
from rnnforecast.baselines._local import leading_missing
from rnnforecast.baselines.arima import ArimaBase
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import optional_import

__all__ = ["AutoARIMAForecaster"]

_CRITERIA = ("aicc", "aic", "bic")
_FAR = 1000.0  # size of the values over their steps
_TOO_SHORT = 5  # observed rows below which no order is chosen


def fit_auto_arima(
    y: np.ndarray, x: np.ndarray, m: int, settings: dict[str, Any], maxiter: int
) -> ArimaModel:
    """Fit to one series; the orders come from its longest stretch without missing values.

    Parameters
    ----------
    y : ndarray, shape (n_rows,)
        At least two observed values.
    x : ndarray, shape (n_rows, n_known)
        NaN only where ``y`` is NaN.
    m : int
        Steps in a season, 1 for none.
    settings : dict
        Arguments of statsforecast's ``AutoARIMA``.
    maxiter : int
        Limit of iterations, where the parameters have to be estimated here.
    """
    start, stop = _longest_stretch(y)
    part = y[start:stop]
    plain = Orders(0, 0, 0, 0, 0, 0, 0, (0,))
    if len(part) < _TOO_SHORT or np.ptp(part) == 0:
        return fit_arima(y, x, plain, "mle", maxiter)
    keep = independent(x[start:stop] - x[start:stop].mean(axis=0))
    # far from 0, in its own steps, the level would swamp statsforecast's diffuse start
    step = float(np.median(np.abs(np.diff(part)))) or float(part.std())
    far = bool(np.abs(part).max() > _FAR * step)
    found = _choose(part - part[0] if far else part, x[start:stop][:, keep], m, settings)
    if found is None:
        return fit_arima(y, x, plain, "mle", maxiter)
    orders, coefficients, sigma2 = found
    whole = stop - start == int((~np.isnan(y)).sum())
    usable = np.isfinite([*coefficients.values(), sigma2]).all() and sigma2 >= 0
    if not whole or not usable or (far and not orders.n_lost):
        return fit_arima(y, x, orders.complete() if far else orders, "mle", maxiter)
    return _model(y, x, keep, orders, coefficients, sigma2)


def _longest_stretch(y: np.ndarray) -> tuple[int, int]:
    """First row and end of the longest run of observed values."""
    seen = np.concatenate([[0], ~np.isnan(y), [0]]).astype(np.int8)
    change = np.diff(seen)
    starts, stops = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])


def _choose(
    y: np.ndarray, x: np.ndarray, m: int, settings: dict[str, Any]
) -> tuple[Orders, dict[str, float], float] | None:
    """Orders, named coefficients and sigma² by statsforecast; None if it finds no model."""
    from statsforecast.models import AutoARIMA

    model = AutoARIMA(season_length=m, **settings)
    try:
        fitted = model.fit(y, x if x.shape[1] else None).model_
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, KeyError, IndexError, TypeError):
        return None
    p, q, seasonal_p, seasonal_q, period, d, seasonal_d = (int(value) for value in fitted["arma"])
    coefficients = {name: float(value) for name, value in fitted["coef"].items()}
    trend = (0,) * ("intercept" in coefficients) + (1,) * ("drift" in coefficients)
    seasonal = seasonal_p + seasonal_d + seasonal_q > 0
    orders = Orders(p, d, q, seasonal_p, seasonal_d, seasonal_q, period if seasonal else 0, trend)
    return orders, coefficients, float(fitted["sigma2"])


def _model(
    y: np.ndarray,
    x: np.ndarray,
    keep: np.ndarray,
    orders: Orders,
    coefficients: dict[str, float],
    sigma2: float,
) -> ArimaModel:
    """The model with statsforecast's coefficients, filtered over the history."""

    def terms(stem: str, n: int) -> np.ndarray:
        return np.array([coefficients[f"{stem}{j + 1}"] for j in range(n)], dtype=np.float64)

    beta = np.zeros(x.shape[1])
    beta[keep] = [coefficients[f"ex_{j + 1}"] for j in range(len(keep))]
    names = {0: "intercept", 1: "drift"}
    trend = np.array([coefficients[names[power]] for power in orders.trend], dtype=np.float64)
    sigma = float(np.sqrt(sigma2))
    first = leading_missing(y)
    offset = 0.0
    if orders.n_lost:  # any constant will do; this one keeps the numbers small
        offset = float(y[first] - x[first] @ beta - sum(trend * first))
    elif 1 in orders.trend:
        offset = -float(coefficients["drift"] * (first - 1))  # there the first row is time 1
    model = ArimaModel(
        converged=True,
        note="",
        orders=orders,
        arma=(
            terms("ar", orders.p),
            terms("ma", orders.q),
            terms("sar", orders.seasonal_p),
            terms("sma", orders.seasonal_q),
        ),
        trend=trend,
        beta=beta,
        sigma=sigma,
        offset=offset,
        unit=max(sigma, 1e-9 * float(np.nanstd(y))) or 1.0,
    )
    return model.extended(y, x)


class AutoARIMAForecaster(ArimaBase):
    """Regression with seasonal ARIMA errors, its orders chosen by statsforecast.

    Needs the extra ``auto``: ``pip install rnnforecast[auto]``.

    Parameters
    ----------
    seasonality : int, optional
        Steps in a season; None: the usual one of the calendar, 1 (no season) for integers and
        arrays.
    d, D : int, optional
        Differences and seasonal differences; None: by unit root tests.
    max_p, max_q, max_P, max_Q : int, default 5, 5, 2, 2
        Greatest orders tried.
    criterion : {"aicc", "aic", "bic"}, default "aicc"
        What the chosen orders minimise.
    stepwise : bool, default True
        Walk through neighbouring orders; False tries all.
    approximation : bool, default False
        Compare orders by conditional sums of squares: quicker for long seasons.
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
        Chosen orders; ``repr`` shows them too.
    params_ : Series, or frame (series × target) of Series
        Estimates.
    converged_ : bool, or frame (series × target)
    seasonality_ : int
    models_ : list of list
        Parameters and end state of each series and target.

    Raises
    ------
    OptionalDependencyError
        In ``fit``, if statsforecast is not installed.
    DataError
        In ``fit``, as for ``ARIMAForecaster``.

    Notes
    -----
    The search is that of Hyndman & Khandakar (2008), Journal of Statistical Software 27(3), as in
    R's auto.arima. With a complete series the coefficients are statsforecast's; forecasts,
    intervals, in-sample values and ``update`` run through the same state space form as
    ``ARIMAForecaster``. With missing values inside, the orders are chosen on the longest stretch
    without them, and the parameters are then estimated as in ``ARIMAForecaster`` from all rows. A
    constant series, or one with fewer than five rows, gets its mean.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rows = np.random.default_rng(0).normal(size=60).cumsum()
    >>> fc = AutoARIMAForecaster(horizon=3).fit(pd.Series(rows))  # doctest: +SKIP
    >>> fc.order_  # doctest: +SKIP
    (0, 1, 0)
    """

    def __init__(
        self,
        *,
        seasonality: int | None = None,
        d: int | None = None,
        D: int | None = None,
        max_p: int = 5,
        max_q: int = 5,
        max_P: int = 2,
        max_Q: int = 2,
        criterion: str = "aicc",
        stepwise: bool = True,
        approximation: bool = False,
        horizon: int = 1,
        target: Any = None,
        known: Any = None,
        static: Any = None,
        series_id: Any = None,
        time: Any = None,
        freq: Any = None,
        n_jobs: int | None = None,
    ):
        self.seasonality = seasonality
        self.d = d
        self.D = D
        self.max_p = max_p
        self.max_q = max_q
        self.max_P = max_P
        self.max_Q = max_Q
        self.criterion = criterion
        self.stepwise = stepwise
        self.approximation = approximation
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
        for name in ("d", "D"):
            check_int(owner, name, getattr(self, name), minimum=0, none=True)
        for name in ("max_p", "max_q", "max_P", "max_Q"):
            check_int(owner, name, getattr(self, name), minimum=0)
        check_choice(owner, "criterion", self.criterion, _CRITERIA)
        check_choice(owner, "stepwise", self.stepwise, (True, False))
        check_choice(owner, "approximation", self.approximation, (True, False))

    def _local_fit(self, panel: Panel, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        optional_import("statsforecast.models", "auto", type(self).__name__)
        settings = {
            "d": self.d,
            "D": self.D,
            "max_p": self.max_p,
            "max_q": self.max_q,
            "max_P": self.max_P,
            "max_Q": self.max_Q,
            "ic": self.criterion,
            "stepwise": bool(self.stepwise),
            "approximation": bool(self.approximation),
        }
        return fit_auto_arima, {"m": seasonality, "settings": settings, "maxiter": 100}
