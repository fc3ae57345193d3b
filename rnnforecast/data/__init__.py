"""Data: frames read into panels, windows over them, calendars, invertible transformers."""

from rnnforecast.data.differencing import Differencer
from rnnforecast.data.scaling import SeriesScaler, WindowScaler
from rnnforecast.data.seasonal import Deseasonalizer
from rnnforecast.data.sliding import SlidingWindows
from rnnforecast.data.transforms import LogTransformer

__all__ = [
    "Deseasonalizer",
    "Differencer",
    "LogTransformer",
    "SeriesScaler",
    "SlidingWindows",
    "WindowScaler",
]
