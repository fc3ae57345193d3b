"""Forecasters: the contract, the deep recurrent family, intervals."""

from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.forecasters.deep import (
    BiGRUForecaster,
    BiLSTMForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    DeepRNNForecaster,
)
from rnnforecast.forecasters.deepar import DeepARForecaster
from rnnforecast.forecasters.esrnn import ESRNNForecaster
from rnnforecast.forecasters.graph import GraphGRUForecaster
from rnnforecast.forecasters.segment import SegmentRNNForecaster

__all__ = [
    "BaseForecaster",
    "BiGRUForecaster",
    "BiLSTMForecaster",
    "DeepARForecaster",
    "DeepGRUForecaster",
    "DeepLSTMForecaster",
    "DeepRNNForecaster",
    "ESRNNForecaster",
    "GraphGRUForecaster",
    "SegmentRNNForecaster",
]
