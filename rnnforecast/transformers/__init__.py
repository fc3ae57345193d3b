"""Transformers for scikit-learn that know time: windows, differences, seasons, logs, scales."""

from rnnforecast.transformers.differencing import Differencer
from rnnforecast.transformers.scaling import LogTransformer, SeriesScaler, WindowScaler
from rnnforecast.transformers.seasonal import Deseasonalizer
from rnnforecast.transformers.sliding import SlidingWindows

__all__ = [
    "Deseasonalizer",
    "Differencer",
    "LogTransformer",
    "SeriesScaler",
    "SlidingWindows",
    "WindowScaler",
]
