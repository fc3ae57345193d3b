"""Classical forecasters with the contract of every other forecaster: naive, ARIMA, ETS and Theta."""

from rnnforecast.baselines.arima import ARIMAForecaster
from rnnforecast.baselines.ets import ETSForecaster
from rnnforecast.baselines.naive import NaiveForecaster

__all__ = [
    "ARIMAForecaster",
    "ETSForecaster",
    "NaiveForecaster",
]
