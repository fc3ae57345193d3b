"""Classical forecasters with the same contract as all others: naive, ARIMA, ETS and Theta."""

from rnnforecast.baselines.arima import ARIMAForecaster
from rnnforecast.baselines.auto_arima import AutoARIMAForecaster
from rnnforecast.baselines.ets import ETSForecaster
from rnnforecast.baselines.naive import NaiveForecaster
from rnnforecast.baselines.theta import ThetaForecaster

__all__ = [
    "ARIMAForecaster",
    "AutoARIMAForecaster",
    "ETSForecaster",
    "NaiveForecaster",
    "ThetaForecaster",
]
