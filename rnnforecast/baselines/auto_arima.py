"""Seasonal ARIMA with covariates and with orders that statsforecast chooses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._local import LocalModel
from rnnforecast.baselines.arima import ArimaBase, ArimaModel, Orders, fit_arima
from rnnforecast.exceptions import optional_import
from rnnforecast.parameters import estimator

__all__ = ["AutoARIMAForecaster"]

_TOO_SHORT = 5  # observed rows below which no order is chosen
_FAR = 1000.0  # size of the values over their steps


def fit_auto_arima(y: np.ndarray, x: np.ndarray, m: int, settings: dict[str, Any]) -> LocalModel:
    """Fit with orders that statsforecast's ``AutoARIMA(**settings)`` chooses.

    They come from the longest stretch without missing values; the coefficients too where that is
    all there is, else they are those of ``fit_arima``.
    """
    from statsforecast.models import AutoARIMA

    seen = np.flatnonzero(~np.isnan(y))
    rows = max(np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1), key=len)
    plain = Orders(trend=(0,))
    if len(rows) < _TOO_SHORT or np.ptp(y[rows]) == 0:
        return fit_arima(y, x, plain, 100)
    known, step = x[rows] if x.shape[1] else None, float(np.median(np.abs(np.diff(y[rows]))))
    # a level far from 0, in its own steps, would swamp statsforecast's diffuse start
    level = float(y[rows].mean()) if np.abs(y[rows]).max() > _FAR * step else 0.0
    try:
        found = AutoARIMA(season_length=m, **settings).fit(y[rows] - level, known).model_
    except (ValueError, ArithmeticError, LookupError, TypeError, np.linalg.LinAlgError):
        return fit_arima(y, x, plain, 100)
    p, q, seasonal_p, seasonal_q, period, d, seasonal_d = (int(value) for value in found["arma"])
    coefficient = {name: float(value) for name, value in found["coef"].items()}
    slopes = {1: coefficient["drift"]} if "drift" in coefficient else {}
    if "intercept" in coefficient or (level and not d + seasonal_d):
        slopes[0] = level + coefficient.get("intercept", 0.0)
    seasonal = seasonal_p, seasonal_d, seasonal_q
    orders = Orders((p, d, q), (*seasonal, period if any(seasonal) else 0), tuple(sorted(slopes)))
    usable = np.isfinite([*coefficient.values(), found["sigma2"]]).all() and found["sigma2"] >= 0
    if len(rows) < len(seen) or not usable:
        return fit_arima(y, x, orders, 100)
    terms = {"ar": p, "ma": q, "sar": seasonal_p, "sma": seasonal_q}
    sigma = float(np.sqrt(found["sigma2"]))
    return ArimaModel(
        form=orders,
        sigma=sigma,
        unit=max(sigma, 1e-9 * float(y[rows].std())),
        slopes=dict(sorted(slopes.items())),
        beta=np.array([coefficient[f"ex_{j + 1}"] for j in range(x.shape[1])]),
        arma=np.array([coefficient[f"{k}{j + 1}"] for k, n in terms.items() for j in range(n)]),
    ).moved(y, x, 0)


@estimator
class AutoARIMAForecaster(ArimaBase):
    """Regression with seasonal ARIMA errors, its orders chosen by statsforecast.

    Needs the extra ``auto``: ``pip install rnnforecast[auto]``.

    Parameters
    ----------
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

    d: int | None = None
    D: int | None = None
    max_p: int = 5
    max_q: int = 5
    max_P: int = 2
    max_Q: int = 2
    criterion: str = "aicc"
    stepwise: bool = True
    approximation: bool = False

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        for name in ("d", "D"):
            check_int(owner, name, getattr(self, name), minimum=0, none=True)
        for name in ("max_p", "max_q", "max_P", "max_Q"):
            check_int(owner, name, getattr(self, name), minimum=0)
        check_choice(owner, "criterion", self.criterion, ("aicc", "aic", "bic"))
        for name in ("stepwise", "approximation"):
            check_choice(owner, name, getattr(self, name), (True, False))

    def _fitter(self, seasonality: int) -> Callable[[np.ndarray, np.ndarray], LocalModel]:
        optional_import("statsforecast.models", "auto", type(self).__name__)
        names = ("d", "D", "max_p", "max_q", "max_P", "max_Q", "stepwise", "approximation")
        settings = {name: getattr(self, name) for name in names} | {"ic": self.criterion}
        return partial(fit_auto_arima, m=seasonality, settings=settings)
