"""The Theta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_real
from rnnforecast.baselines._exponential import Form, LinearModel
from rnnforecast.baselines._local import LocalForecaster, leading_missing
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator

__all__ = ["ThetaForecaster"]


@dataclass(frozen=True, kw_only=True)
class ThetaModel(LinearModel):
    """Simple exponential smoothing of the seasonally adjusted series, with a drift.

    That is the Theta method (Hyndman & Billah 2003, IJF 19(2), section 3): smoothing of the series
    less its drift ``b t``, to which ``b t`` is added.

    Attributes
    ----------
    slope : float
        b_0, the slope of the least-squares line.
    weight : float
        (theta - 1) / theta.
    season : ndarray, shape (m,)
        Seasonal factors or terms by row modulo m, from row 0 of fit on; one if there is no season.
    multiplicative : bool
    time : int
        Time of row 0.
    """

    slope: float
    weight: float
    season: np.ndarray
    multiplicative: bool
    time: int = 0

    def trend(self, start, n):
        time = self.time + start + np.arange(n)
        return self.centre + self.weight * self.slope * time

    def _season(self, start: int, n: int) -> np.ndarray:
        return self.season[(self.time + start + np.arange(n)) % len(self.season)]

    def _adjusted(self, y: np.ndarray, row: int) -> np.ndarray:
        season = self._season(row, len(y))
        return y / season if self.multiplicative else y - season

    def run(self, y, x, row, at=None):
        season = self._season(row, len(y))
        done = super().run(self._adjusted(y, row), x, row, at)
        if self.multiplicative:
            return done._replace(mean=done.mean * season, variance=done.variance * season**2)
        return done._replace(mean=done.mean + season)

    def moved(self, y, x, shift):
        fresh = replace(self, time=shift, first=leading_missing(y), centre=0.0)
        # statsmodels starts the smoothing at the first adjusted value
        start = fresh._adjusted(y[fresh.first :][:1], fresh.first) - fresh.trend(fresh.first, 1)
        fresh = replace(fresh, centre=float(start[0]), row=fresh.first, state=None, cov=None)
        return fresh.updated(y, x)

    def describe(self):
        if len(self.season) == 1:
            return "Theta"
        return f"Theta, {'mul' if self.multiplicative else 'add'} season[{len(self.season)}]"


def fit_theta(
    y: np.ndarray,
    x: np.ndarray,
    theta: float,
    m: int,
    deseasonalize: bool,
    use_test: bool,
    method: str,
) -> LinearModel:
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
    if method == "mul" and inner.min() <= 0:
        raise DataError(
            f"method='mul' needs values above 0: use method='add' or 'auto'. Got {inner.min():g}"
        )
    seasonal = deseasonalize and m > 1 and len(inner) >= 2 * m and np.ptp(inner) > 0
    alpha, slope, season, multiplicative = _estimate(inner, m, seasonal, use_test, method)
    model = ThetaModel(
        sigma=1.0,
        unit=1.0,
        row=0,
        form=Form(),
        smoothing=np.array([alpha]),
        start=np.zeros(1),
        centre=0.0,
        slope=slope,
        weight=(theta - 1) / theta,
        season=np.roll(season, first % len(season)),
        multiplicative=multiplicative,
    ).moved(y, x, 0)
    errors = inner - model.run(inner, x[: len(inner)], first).mean
    if multiplicative:
        errors = errors / model._season(first, len(inner))
    # the first error is 0 by construction
    sigma = np.sqrt(np.sum(errors[1:] ** 2) / max(len(inner) - 3, 1))
    return replace(model, sigma=float(sigma))


def _estimate(
    y: np.ndarray, m: int, seasonal: bool, use_test: bool, method: str
) -> tuple[float, float, np.ndarray, bool]:
    """alpha, slope, seasonal terms and whether these are factors, by statsmodels."""
    from statsmodels.tsa.forecasting.theta import ThetaModel as Model

    unit, none = float(y.std()), np.zeros(1)
    if unit <= 1e-12 * max(float(np.abs(y).max()), 1e-300):
        return 0.5, 0.0, none, False
    if len(y) < 3:
        return 1.0, float(y[1] - y[0]), none, False
    period = m if seasonal else 1
    model = Model(y / unit, period=period, deseasonalize=seasonal, use_test=use_test, method=method)
    result = model.fit(use_mle=False)
    alpha = min(max(float(result.params["alpha"]), 1e-4), 1.0)
    slope, additive = float(result.params["b0"]) * unit, model.method.startswith("add")
    parts = np.asarray(result.forecast_components(period)["seasonal"])
    if not seasonal or np.ptp(parts) == 0:  # or the test did not find a season
        return alpha, slope, none, False
    season = np.roll(parts, len(y) % m)
    return alpha, slope, season * unit if additive else season, not additive


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

    def _local_fit(self, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        options = {
            "theta": float(self.theta),
            "m": seasonality,
            "deseasonalize": bool(self.deseasonalize),
            "use_test": bool(self.use_test),
            "method": self.method,
        }
        return fit_theta, options

    @property
    def params_(self) -> Any:
        """alpha, b0 and sigma: a Series, or a frame (series × target) of them."""
        return self._per_series(
            lambda model: pd.Series(
                {"alpha": model.smoothing[0], "b0": model.slope, "sigma": model.sigma}
            ),
            "params_",
        )
