"""The Theta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_real
from rnnforecast.baselines._local import LocalForecaster, LocalModel, leading_missing
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError

__all__ = ["ThetaForecaster"]

_METHODS = ("auto", "add", "mul")


@dataclass(frozen=True)
class ThetaModel(LocalModel):
    """Exponential smoothing with half of the trend of one seasonally adjusted series.

    Attributes
    ----------
    alpha : float
        Smoothing of the level.
    slope : float
        b_0, the slope of the least-squares line.
    weight : float
        (theta - 1) / theta.
    season : ndarray, shape (m,)
        Seasonal factors or terms by row modulo m; one neutral value if there is no season.
    multiplicative : bool
    sigma : float
        Standard deviation of the one-step errors of the adjusted series.
    first : int
        First observed row.
    start, level : float
        Level before that row, and at the end of the history.
    n_rows : int
    age : int
        Missing rows at the end of the history: the forecast goes on from the last observed one.
    """

    alpha: float
    slope: float
    weight: float
    season: np.ndarray
    multiplicative: bool
    sigma: float
    first: int
    start: float
    level: float
    n_rows: int
    age: int

    def _adjust(self, y: np.ndarray, row: int) -> np.ndarray:
        season = self._season(row, len(y))
        return y / season if self.multiplicative else y - season

    def _season(self, row: int, n: int) -> np.ndarray:
        return self.season[(row + np.arange(n)) % len(self.season)]

    def _levels(
        self, y: np.ndarray, row: int, level: float, age: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Level, and missing rows in a row, before each row of ``y`` and after the last.

        Each of shape (n_rows + 1,).
        """
        levels, ages = np.empty(len(y) + 1), np.empty(len(y) + 1, dtype=np.int64)
        for t, value in enumerate(self._adjust(y, row).tolist()):
            levels[t], ages[t] = level, age
            age += 1
            if value == value:
                level, age = level + self.alpha * (value - level), 0
        levels[-1], ages[-1] = level, age
        return levels, ages

    def _drift(self, n_seen: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        # Hyndman & Billah 2003, IJF 19(2), eq. 3, with T = n_seen and h = ahead
        decay = (1 - (1 - self.alpha) ** n_seen) / self.alpha
        return self.weight * self.slope * (ahead - 1 + decay)

    def future(self, n_steps):
        ahead = self.age + np.arange(1, n_steps + 1)
        seen = np.full(n_steps, self.n_rows - self.age - self.first)
        adjusted = self.level + self._drift(seen, ahead)
        return self._restore(adjusted, self._sd(ahead), self.n_rows)

    def _sd(self, ahead: np.ndarray) -> np.ndarray:
        return self.sigma * np.sqrt(1 + (ahead - 1) * self.alpha**2)

    def in_sample(self, y, x):
        inside = y[self.first :]
        levels, ages = self._levels(inside, self.first, self.start, 0)
        ahead = 1 + ages[:-1]
        adjusted = levels[:-1] + self._drift(np.arange(len(inside)) - ages[:-1], ahead)
        sd = self._sd(ahead)
        pad = (self.first, 0)
        adjusted, sd = np.pad(adjusted, pad, mode="edge"), np.pad(sd, pad, mode="edge")
        return self._restore(adjusted, sd, 0)

    def _restore(self, adjusted: np.ndarray, sd: np.ndarray, row: int):
        season = self._season(row, len(adjusted))
        if self.multiplicative:
            return adjusted * season, sd * np.abs(season)
        return adjusted + season, sd

    def extended(self, y, x):
        levels, ages = self._levels(y, self.n_rows, self.level, self.age)
        n_rows = self.n_rows + len(y)
        return replace(self, level=float(levels[-1]), n_rows=n_rows, age=int(ages[-1]))

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
) -> ThetaModel:
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
    if not len(season):
        season, multiplicative = np.zeros(1), False
    model = ThetaModel(
        converged=True,
        note="",
        alpha=alpha,
        slope=slope,
        weight=(theta - 1) / theta,
        season=np.roll(season, first % len(season)),
        multiplicative=multiplicative,
        sigma=0.0,
        first=first,
        start=0.0,
        level=0.0,
        n_rows=first,
        age=0,
    )
    # statsmodels starts the smoothing at the first adjusted value
    model = replace(model, start=float(model._adjust(inner, first)[0]))
    fitted = model._levels(inner, first, model.start, 0)[0][:-1]
    fitted = fitted + model._drift(np.arange(len(inner)), np.ones(len(inner)))
    errors = (model._adjust(inner, first) - fitted)[1:]  # the first one is 0 by construction
    sigma = float(np.sqrt(np.sum(errors**2) / max(len(errors) - 2, 1)))
    return replace(model, sigma=sigma, level=model.start).extended(y[first:], x)


def _estimate(
    y: np.ndarray, m: int, seasonal: bool, use_test: bool, method: str
) -> tuple[float, float, np.ndarray, bool]:
    """alpha, slope, seasonal terms (none: empty) and whether these are factors, by statsmodels."""
    from statsmodels.tsa.forecasting.theta import ThetaModel as Model

    unit = float(y.std())
    if unit <= 1e-12 * max(float(np.abs(y).max()), 1e-300):
        return 0.5, 0.0, np.empty(0), False
    if len(y) < 3:
        return 1.0, float(y[1] - y[0]), np.empty(0), False
    model = Model(
        y / unit,
        period=m if seasonal else 1,
        deseasonalize=seasonal,
        use_test=use_test,
        method=method,
    )
    result = model.fit(use_mle=False)
    alpha = min(max(float(result.params["alpha"]), 1e-4), 1.0)
    additive, season = model.method.startswith("add"), np.empty(0)
    if seasonal:
        parts = np.asarray(result.forecast_components(m)["seasonal"])
        if np.ptp(parts) > 0:  # the test did not find the season missing
            season = np.roll(parts, len(y) % m)
    return (
        alpha,
        float(result.params["b0"]) * unit,
        season * unit if additive else season,
        not additive,
    )


class ThetaForecaster(LocalForecaster):
    """The Theta method: simple exponential smoothing plus half of the linear trend.

    Parameters
    ----------
    theta : float, default 2.0
        Weight of the trend, (theta - 1) / theta of it; 1 is simple exponential smoothing.
    seasonality : int, optional
        Steps in a season; None: the usual one of the calendar, 1 (no season) for integers and
        arrays.
    deseasonalize : bool, default True
        Adjust for the season by classical decomposition, where the series has two seasons or more.
    use_test : bool, default True
        Adjust only where the autocorrelation at the season is significant at the 10% level.
    method : {"auto", "add", "mul"}, default "auto"
        Kind of season; "auto" is multiplicative where all values are positive.
    horizon : int, default 1
        Steps of ``forecast()`` and ``predict()``.
    target, known, static, series_id, time, freq
        Roles of the columns, as in every forecaster. Covariates are ignored.
    n_jobs : int, optional
        Number of processes over the series of a panel; None is 1.

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
    IJF 16(4), in the form of Hyndman & Billah 2003, IJF 19(2), eq. 3). One-step in-sample values
    run the same equation from the rows before, with the fitted alpha and slope. Intervals are
    normal with variance ``sigma² (1 + (h - 1) alpha²)``, as in statsmodels; sigma² is the mean
    square of the one-step errors of the adjusted series (two degrees of freedom less), where
    statsmodels fits an ARIMA to the series with its season, which is too wide for seasonal data.
    ``update`` runs the smoothing on with the fitted parameters; a missing row there leaves the
    level as it is.

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

    def __init__(
        self,
        *,
        theta: float = 2.0,
        seasonality: int | None = None,
        deseasonalize: bool = True,
        use_test: bool = True,
        method: str = "auto",
        horizon: int = 1,
        target: Any = None,
        known: Any = None,
        static: Any = None,
        series_id: Any = None,
        time: Any = None,
        freq: Any = None,
        n_jobs: int | None = None,
    ):
        self.theta = theta
        self.seasonality = seasonality
        self.deseasonalize = deseasonalize
        self.use_test = use_test
        self.method = method
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
        check_real(owner, "theta", self.theta, 1)
        check_choice(owner, "deseasonalize", self.deseasonalize, (True, False))
        check_choice(owner, "use_test", self.use_test, (True, False))
        check_choice(owner, "method", self.method, _METHODS)

    def _local_fit(self, panel: Panel, seasonality: int) -> tuple[Callable, dict[str, Any]]:
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
                {"alpha": model.alpha, "b0": model.slope, "sigma": model.sigma}
            ),
            "params_",
        )
