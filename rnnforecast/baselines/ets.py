"""Exponential smoothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._exponential import fit_ets, forms_of
from rnnforecast.baselines._local import LocalForecaster
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator

__all__ = ["ETSForecaster"]


@estimator
class ETSForecaster(LocalForecaster):
    """Exponential smoothing (error, trend, seasonal), by maximum likelihood.

    Covariates are ignored.

    Parameters
    ----------
    error : {"auto", "add", "mul"}, default "auto"
        "auto" is multiplicative where the season is, else additive.
    trend : {"auto", "add", None}, default "auto"
    damped_trend : {"auto", True, False}, default "auto"
        Whether the trend fades.
    seasonal : {"auto", "add", "mul", None}, default "auto"
    maxiter : int, default 1000
        Limit of iterations of the optimiser.

    Attributes
    ----------
    form_ : str, or frame (series × target)
        Chosen form, e.g. "ETS(A,Ad,N)".
    params_ : Series, or frame (series × target) of Series
        Smoothing parameters and the standard deviation of the errors.
    converged_ : bool, or frame (series × target)
    seasonality_ : int
    models_ : list of list
        Parameters and end state of each series and target.

    Raises
    ------
    DataError
        In ``fit``, if a multiplicative component was asked for and the series has values of 0 or
        below, or missing values inside; or a series has fewer than two observed values.

    Notes
    -----
    "auto" compares forms by the corrected AIC (Hyndman, Koehler, Ord & Snyder 2008, section 7.1):
    first the season (none, additive, and multiplicative with multiplicative errors where all values
    are positive and none is missing), then the trend (none, additive, damped). Form and smoothing
    parameters of a long series come from its last 1000 rows (10000 without a season; 20 seasons,
    if that is more). A season of more than 24 steps starts as a smooth curve, of 12 waves. A
    series with too few rows for a form is fitted with a simpler one; where the form was asked for
    by name, a warning tells.

    Additive forms run through statsmodels' Kalman filter. Nothing is filled: a missing row leaves
    the state uncertain and the interval wider; a multiplicative form (``ETSModel``) passes over it.
    Intervals are exact and normal for additive components; else quantiles of 5000 simulated paths,
    always the same draws. ``update`` runs the filter on and keeps the parameters.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> index = pd.date_range("2020-01-01", periods=48, freq="MS")
    >>> rows = np.random.default_rng(0).normal(size=48) + 10 * np.sin(np.arange(48) * np.pi / 6)
    >>> fc = ETSForecaster(horizon=3).fit(pd.DataFrame({"y": rows}, index=index))
    >>> fc.form_
    'ETS(A,N,A)[12]'
    """

    error: str = "auto"
    trend: str | None = "auto"
    damped_trend: bool | str = "auto"
    seasonal: str | None = "auto"
    maxiter: int = 1000

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_choice(owner, "error", self.error, ("auto", "add", "mul"))
        check_choice(owner, "trend", self.trend, ("auto", "add", None))
        check_choice(owner, "damped_trend", self.damped_trend, ("auto", True, False))
        check_choice(owner, "seasonal", self.seasonal, ("auto", "add", "mul", None))
        check_int(owner, "maxiter", self.maxiter)
        if self.damped_trend is True and self.trend is None:
            raise DataError(
                f"{owner}: damped_trend=True needs a trend: pass trend='add'. Got trend=None"
            )

    def _local_fit(self, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        if self.seasonal in ("add", "mul") and seasonality < 2:
            raise DataError(
                f"{type(self).__name__}: seasonal={self.seasonal!r} needs a season of 2 or more "
                f"steps, and none was found: pass seasonality=, e.g. "
                f"seasonality=12. Got {seasonality}"
            )
        forms = forms_of(self.error, self.trend, self.damped_trend, self.seasonal, seasonality)
        return fit_ets, {"forms": forms, "maxiter": int(self.maxiter)}

    @property
    def form_(self) -> Any:
        """Chosen form, as text, or a frame (series × target)."""
        return self._per_series(lambda model: str(model.form), "form_")

    @property
    def params_(self) -> Any:
        """Smoothing parameters: a Series, or a frame (series × target) of them."""
        return self._per_series(
            lambda model: pd.Series(
                [*model.smoothing, model.sigma], index=[*model.form.names, "sigma"], dtype="float64"
            ),
            "params_",
        )
