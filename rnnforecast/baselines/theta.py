"""The Theta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rnnforecast._validation import check_choice, check_real
from rnnforecast.baselines._local import (
    FilterModel,
    LocalForecaster,
    LocalModel,
    leading_missing,
    spread,
)
from rnnforecast.baselines._smoothing import Form, smoother
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator

__all__ = ["ThetaForecaster"]


@dataclass(frozen=True, kw_only=True)
class ThetaModel(FilterModel):
    """Simple exponential smoothing of the seasonally adjusted series less its drift ``b t``, to
    which ``b t`` is added: the Theta method (Hyndman & Billah 2003, IJF 19(2), section 3).
    """

    alpha: float
    b0: float  # slope of the least-squares line
    season: np.ndarray  # by row modulo m, from row 0 of fit on; one number if there is no season
    multiplicative: bool

    def space(self, values):
        return smoother(values, Form(), [self.alpha], [0.0])

    def adjusted(self, y: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The values less their season, and the season."""
        season = self.season[(self.time + row + np.arange(len(y))) % len(self.season)]
        return (y / season if self.multiplicative else y - season), season

    def run(self, y, x, end_only=False):
        values, season = self.adjusted(y, self.row)
        mean, variance, model = super().run(values, x, end_only)
        if self.multiplicative:
            return mean * season, variance * season**2, model
        return mean + season, variance, model

    def moved(self, y, x, shift):
        first = leading_missing(y)
        fresh = self.restarted(first=first, time=shift, centre=0.0)
        # statsmodels starts the smoothing at the first adjusted value
        start = fresh.adjusted(y[first:][:1], first)[0] - fresh.trend(first, 1)
        return replace(fresh, centre=float(start[0]))

    def estimates(self, known):
        return {"alpha": self.alpha, "b0": self.b0, "sigma": self.sigma}


def fit_theta(
    y: np.ndarray, x: np.ndarray, theta: float, m: int, options: dict[str, Any]
) -> LocalModel:
    """Fit to one series without missing values between its first and last observed ones."""
    first = leading_missing(y)
    inner = y[first : len(y) - leading_missing(y[::-1])]
    if np.isnan(inner).any():
        row = first + int(np.argmax(np.isnan(inner)))
        raise DataError(
            f"the Theta method takes no missing values (NaN) between observed ones, and row "
            f"{row} has one: fill them yourself before fit, or use ETSForecaster or "
            f"ARIMAForecaster, which skip them"
        )
    if options["method"] == "mul" and inner.min() <= 0:
        raise DataError(
            f"method='mul' needs values above 0: use method='add' or 'auto'. Got {inner.min():g}"
        )
    alpha, b0, season, multiplicative = 0.5, 0.0, np.zeros(1), False  # of a constant series
    unit, seasonal = spread(inner), options["deseasonalize"] and m > 1 and len(inner) >= 2 * m
    if unit and len(inner) < 3:
        alpha, b0 = 1.0, float(inner[1] - inner[0])
    elif unit:
        from statsmodels.tsa.forecasting.theta import ThetaModel as Estimator

        period = m if seasonal else 1
        options = {**options, "deseasonalize": seasonal}
        estimator = Estimator(inner / unit, period=period, **options)
        found = estimator.fit(use_mle=False)
        alpha = min(max(float(found.params["alpha"]), 1e-4), 1.0)
        b0 = float(found.params["b0"]) * unit
        parts = np.asarray(found.forecast_components(period)["seasonal"])
        if seasonal and np.ptp(parts):  # or the test did not find a season
            multiplicative = not estimator.method.startswith("add")
            season = np.roll(parts, len(y) - leading_missing(y[::-1])) * (
                1 if multiplicative else unit
            )
    kind = f", {'mul' if multiplicative else 'add'} season[{m}]" if len(season) > 1 else ""
    model = ThetaModel(
        form=f"Theta{kind}",
        sigma=1.0,
        unit=1.0,
        slopes={1: (theta - 1) / theta * b0},
        alpha=alpha,
        b0=b0,
        season=season,
        multiplicative=multiplicative,
    ).moved(y, x, 0)
    errors = inner - model.run(inner, x[first:][: len(inner)])[0]
    if multiplicative:
        errors = errors / model.adjusted(inner, first)[1]
    # the first error is 0 by construction
    sigma = np.sqrt(np.sum(errors[1:] ** 2) / max(len(inner) - 3, 1))
    return replace(model, sigma=float(sigma))


@estimator
class ThetaForecaster(LocalForecaster):
    """The Theta method: simple exponential smoothing plus half of the linear trend.

    Covariates are ignored.

    Parameters
    ----------
    theta : float, default 2.0
        Weight of the trend, (theta - 1) / theta of it; 1 is simple exponential smoothing.
    deseasonalize : bool, default True
        Adjust for the season by classical decomposition, where the series has two seasons or more.
    use_test : bool, default True
        Adjust only where the autocorrelation at the season is significant at the 10% level.
    method : {"auto", "add", "mul"}, default "auto"
        Kind of season; "auto" is multiplicative where all values are positive.

    Attributes
    ----------
    params_ : Series, or frame (series × target) of Series
        alpha, b0 and sigma.
    seasonality_ : int
    models_ : list of list
        Parameters and end state of each series and target.

    Raises
    ------
    DataError
        In ``fit``, if a series has missing values between observed ones: fill them yourself, or use
        a forecaster that skips them. Missing values at its start and end are left out.

    Notes
    -----
    Point forecasts are those of statsmodels' ``ThetaModel`` (Assimakopoulos & Nikolopoulos 2000,
    IJF 16(4), in the form of Hyndman & Billah 2003, IJF 19(2), eq. 3), and one-step in-sample
    values the same equation from the rows before, with the fitted alpha and slope. Intervals are
    normal with variance ``sigma² (1 + (h - 1) alpha²)``, as in statsmodels; sigma² is the mean
    square of the one-step errors of the adjusted series (two degrees of freedom less), where
    statsmodels fits an ARIMA to the series with its season, which is too wide for seasonal data.
    ``update`` runs the smoothing on with the fitted parameters; the Kalman filter skips a missing
    row there.

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.date_range("2024-01-01", periods=5, freq="YS")
    >>> fc = ThetaForecaster(horizon=2).fit(pd.DataFrame({"y": [1.0, 3, 5, 7, 9]}, index=index))
    >>> fc.forecast().round(2)
                   y
    2029-01-01  10.0
    2030-01-01  11.0
    """

    theta: float = 2.0
    deseasonalize: bool = True
    use_test: bool = True
    method: str = "auto"

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_real(owner, "theta", self.theta, 1)
        check_choice(owner, "deseasonalize", self.deseasonalize, (True, False))
        check_choice(owner, "use_test", self.use_test, (True, False))
        check_choice(owner, "method", self.method, ("auto", "add", "mul"))

    def _fitter(self, seasonality: int) -> Callable[[np.ndarray, np.ndarray], LocalModel]:
        names = ("deseasonalize", "use_test", "method")
        options = {name: getattr(self, name) for name in names}
        return partial(fit_theta, theta=float(self.theta), m=seasonality, options=options)
