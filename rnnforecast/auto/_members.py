"""Forecasters as members of an ensemble: fitted on panels, in log units where that was asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnforecast.data.panel import Panel
from rnnforecast.forecasters.base import BaseForecaster

__all__ = ["Member", "combine", "is_positive"]


@dataclass
class Member:
    """One forecaster of the ensemble.

    Attributes
    ----------
    name : str
    forecaster : BaseForecaster
        Fitted; forecasts logarithms if ``log``.
    log : bool
    weight : float
    """

    name: str
    forecaster: BaseForecaster
    log: bool = False
    weight: float = 0.0

    def fit(self, panel: Panel) -> list[str]:
        """Fit the forecaster to ``panel``; return the warnings that it gave, which stay inside."""
        self.forecaster._check_params()
        view = self.view(panel)
        # recorded rather than shown: they stand in the leaderboard
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted = self.forecaster._fit_panel(view)
        self.forecaster.__dict__.update({"panel_": view}, **fitted)
        return [str(warning.message) for warning in caught]

    def view(self, panel: Panel) -> Panel:
        """``panel`` in the member's own units; a value without a logarithm counts as unobserved."""
        if not self.log:
            return panel
        positive = panel.targets > 0
        logs = np.full_like(panel.targets, np.nan)
        np.log(panel.targets, out=logs, where=positive)
        return replace(panel, targets=logs)

    def moved(self, panel: Panel) -> Member:
        """The same weights at the end of the longer history ``panel``."""
        view = self.view(panel)
        # not copy.copy, which would move a network to the CPU as a pickle does
        forecaster = object.__new__(type(self.forecaster))
        forecaster.__dict__.update(vars(self.forecaster))
        changed = forecaster._update_panel(view)
        forecaster.__dict__.update({"panel_": view}, **changed)
        return replace(self, forecaster=forecaster)

    def named(self, **attributes: Any) -> None:
        """Give the forecaster the fitted attributes that do not depend on its model."""
        self.forecaster.__dict__.update(attributes)

    def future(self, series: np.ndarray, n_steps: int, known: np.ndarray) -> np.ndarray:
        """Point forecasts in raw units, shape (s, n_steps, n_targets)."""
        return self._raw(self.forecaster._predict_future(series, n_steps, known))

    def in_sample(self, series: np.ndarray, positions: np.ndarray, known: np.ndarray) -> np.ndarray:
        """One-step values of rows of the history in raw units, shape (n, n_targets)."""
        return self._raw(self.forecaster._predict_in_sample(series, positions, known))

    def _raw(self, values: np.ndarray) -> np.ndarray:
        if not self.log:
            return values
        with np.errstate(over="ignore"):  # not finite: counts as no forecast
            return np.exp(values)


def is_positive(panel: Panel) -> bool:
    """Whether all observed targets are above zero, so that logarithms lose nothing."""
    return bool(np.nanmin(panel.targets) > 0)


def combine(
    members: Sequence[Member], fallback: Member, forecast: Callable[[Member], np.ndarray]
) -> np.ndarray:
    """Weighted mean of the members' forecasts.

    Where a member has no finite forecast (a regression at a step whose covariates are missing) the
    others make up for its weight; where none has, the fallback forecasts.

    Parameters
    ----------
    members : sequence of Member
        Of weights above 0.
    fallback : Member
    forecast : callable
        ``forecast(member)``, arrays of one shape.

    Returns
    -------
    ndarray
    """
    total = weight = None
    for member in members:
        values = forecast(member)
        finite = np.isfinite(values)
        part = np.where(finite, values, 0.0) * member.weight
        share = finite * member.weight
        total, weight = (
            (part, share) if total is None or weight is None else (total + part, weight + share)
        )
    assert total is not None and weight is not None
    if (weight > 0).all():
        return total / weight
    spare = forecast(fallback)
    return np.divide(total, weight, out=spare.astype(np.float64, copy=True), where=weight > 0)
