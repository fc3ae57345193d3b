"""Seasonal ARIMA with covariates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._arima import ArimaModel, Orders, fit_arima, fit_auto_arima
from rnnforecast.baselines._local import LocalForecaster
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError, optional_import
from rnnforecast.parameters import estimator

__all__ = ["ARIMAForecaster", "AutoARIMAForecaster"]

_TRENDS = {"n": (), "c": (0,), "t": (1,), "ct": (0, 1)}


class _ArimaBase(LocalForecaster):
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

    @property
    def params_(self) -> Any:
        """Estimates: a Series, or a frame (series × target) of them."""
        known = getattr(self, "roles_", None)
        names = [] if known is None else known.known
        return self._per_series(lambda model: _parameters(model, names), "params_")


def _parameters(model: ArimaModel, known: list) -> pd.Series:
    """Named estimates of one series, as statsmodels names them."""
    names = [("const", "drift")[power] for power in model.form.trend]
    names += [*known, *model.space(np.zeros(1)).param_names]
    values = np.concatenate([model.slopes, model.beta, model.arma, [model.sigma**2]])
    return pd.Series(values, index=names)


@estimator
class ARIMAForecaster(_ArimaBase):
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

    def _local_fit(self, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        p, d, q = (int(value) for value in self.order)
        seasonal_p, seasonal_d, seasonal_q = (int(value) for value in self.seasonal_order[:3])
        seasonal = seasonal_p + seasonal_d + seasonal_q > 0
        if seasonal and seasonality < 2:
            raise DataError(
                f"{type(self).__name__}: seasonal_order={tuple(self.seasonal_order)} needs a "
                f"season of 2 or more steps, and none was found: pass seasonality=, e.g. "
                f"seasonality=12. Got {seasonality}"
            )
        auto = (0,) if d + seasonal_d == 0 else ()
        trend = auto if self.trend is None else _TRENDS[self.trend]
        orders = Orders(
            p, d, q, seasonal_p, seasonal_d, seasonal_q, seasonality if seasonal else 0, trend
        )
        return fit_arima, {"orders": orders, "maxiter": int(self.maxiter)}


@estimator
class AutoARIMAForecaster(_ArimaBase):
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
        check_choice(owner, "stepwise", self.stepwise, (True, False))
        check_choice(owner, "approximation", self.approximation, (True, False))

    def _local_fit(self, seasonality: int) -> tuple[Callable, dict[str, Any]]:
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


def _check_orders(owner: str, name: str, value: Any, lengths: tuple[int, ...]) -> None:
    good = isinstance(value, (tuple, list)) and len(value) in lengths
    if not good or any(
        isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < 0 for v in value
    ):
        kind = " or ".join(str(length) for length in lengths)
        raise DataError(
            f"{owner}: {name} must be a tuple of {kind} integers of 0 or more. Got {value!r}"
        )
