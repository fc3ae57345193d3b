"""What AutoForecaster tries, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnforecast.baselines import (
    ARIMAForecaster,
    AutoARIMAForecaster,
    ETSForecaster,
    NaiveForecaster,
    ThetaForecaster,
)
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError
from rnnforecast.forecasters import (
    BaseForecaster,
    BiGRUForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    ESRNNForecaster,
    SegmentRNNForecaster,
)
from rnnforecast.metrics.wrappers import innermost

__all__ = ["Candidate", "by_name", "given_candidates", "naive_candidates", "table"]


@dataclass(eq=False)
class Candidate:
    """A forecaster to try, and once it is fitted, one of the ensemble."""

    name: str
    forecaster: BaseForecaster
    log: bool = False  # fitted to logarithms: for series whose swings grow with their level
    weight: float = 0.0  # in the ensemble

    def history(self, panel: Panel) -> Panel:
        """What the forecaster sees of ``panel``; a value without a logarithm is unobserved."""
        if not self.log:
            return panel
        logs = np.full_like(panel.targets, np.nan)
        np.log(panel.targets, out=logs, where=panel.targets > 0)
        return replace(panel, targets=logs)

    def at(self, panel: Panel, fresh: bool = False) -> Candidate:
        """The same weights with another history."""
        return replace(self, forecaster=self.forecaster._at(self.history(panel), fresh))

    def point(self, *request: Any) -> np.ndarray:
        """Point forecasts in the unit of the data for (series, origins, n_steps, known)."""
        forecast = self.forecaster._forecast(self.forecaster.panel_, *request)
        values = forecast.point.detach().cpu().numpy().astype(np.float64)
        with np.errstate(over="ignore"):  # not finite: counts as no forecast
            return np.exp(values) if self.log else values


def naive_candidates(season: int) -> list[Candidate]:
    """What is tried in any case, whatever the budget; the first one is what others must beat."""
    strategies = {"seasonal naive": "seasonal"} if season > 1 else {}
    strategies |= {"naive": "last", "drift": "drift"}
    return [Candidate(name, NaiveForecaster(strategy=s)) for name, s in strategies.items()]


def table(panel: Panel, n_train: int, horizon: int, season: int) -> list[Candidate]:
    """The library's own candidates: cheap ones first, then by what each brought for a second on M4
    Hourly (benchmarks/RESULTS.md). ``n_train`` is the length of a typical series in a trial.
    """
    few = panel.n_series * panel.targets.shape[1] <= 20
    positive = bool(np.nanmin(panel.targets) > 0)
    # a day of hours or less, and rows enough for windows of two weeks
    weekly = season in (24, 48, 96, 144) and 14 * season <= n_train - 2 * horizon
    week: dict[str, Any] = {"seasonality": 7 * season, "lookback": 14 * season, "segment": season}
    large: dict[str, Any] = {"hidden_size": 64, "batch_size": 128}
    # the airline model of Box & Jenkins
    airline = ARIMAForecaster(order=(0, 1, 1), seasonal_order=(0, 1, 1))
    rows = [
        (True, "small GRU", DeepGRUForecaster(hidden_size=16, n_layers=1, max_epochs=10)),
        (True, "Theta", ThetaForecaster()),
        (True, "ETS", ETSForecaster()),
        (few, "ARIMA(2,1,1)", ARIMAForecaster(order=(2, 1, 1))),
        (few and season > 1, "airline ARIMA", airline),
        (positive, "LSTM of logs", DeepLSTMForecaster(**large)),
        (True, "ES-RNN", ESRNNForecaster()),
        (True, "LSTM", DeepLSTMForecaster(**large)),
        (positive and weekly, "GRU of logs, weekly", DeepGRUForecaster(**large, **week)),
        (positive, "GRU of logs", DeepGRUForecaster(**large)),
        (True, "SegRNN", SegmentRNNForecaster()),
        (True, "BiGRU", BiGRUForecaster(**large)),
        (few, "auto ARIMA", AutoARIMAForecaster()),
    ]
    return [Candidate(name, fc, "of logs" in name) for applies, name, fc in rows if applies]


def by_name(estimators: Any) -> dict[str, Any]:
    """Estimators by name: a mapping's keys, else class names, numbered where they repeat.

    The class is that of the forecaster inside a Pipeline, TransformedTargetRegressor or search.
    """
    if isinstance(estimators, Mapping):
        return {str(name): estimator for name, estimator in estimators.items()}
    named: dict[str, Any] = {}
    several = isinstance(estimators, (list, tuple))
    for estimator in estimators if several else [estimators]:
        base = name = type(innermost(estimator)).__name__
        number = 2
        while name in named:
            name, number = f"{base}-{number}", number + 1
        named[name] = estimator
    return named


def given_candidates(owner: str, candidates: Any) -> list[Candidate]:
    """The user's own forecasters: a list, or a mapping of names to them."""
    named = by_name(candidates)
    for name, forecaster in named.items():
        if not isinstance(forecaster, BaseForecaster):
            raise DataError(
                f"{owner}: candidates must be forecasters of rnnforecast, in a list or by name. "
                f"Got {forecaster!r} for {name!r}"
            )
    return [Candidate(name, forecaster) for name, forecaster in named.items()]
