"""The best forecast that a time budget buys: candidates, rolling origins, a weighted ensemble."""

from __future__ import annotations

from rnnforecast.auto.forecaster import AutoForecaster

__all__ = ["AutoForecaster"]
