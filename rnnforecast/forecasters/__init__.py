"""Forecasters: the contract, the deep recurrent family, intervals."""

from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.deep import (
    BiGRUForecaster,
    BiLSTMForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    DeepRNNForecaster,
)

__all__ = [
    "BaseForecaster",
    "BiGRUForecaster",
    "BiLSTMForecaster",
    "DeepGRUForecaster",
    "DeepLSTMForecaster",
    "DeepRNNForecaster",
]
