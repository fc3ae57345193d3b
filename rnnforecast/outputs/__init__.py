"""What a network's numbers mean: an ``Output`` turns them into a ``Forecast`` and trains on it.

An output says how many numbers the network gives for each step and target, what they stand for once
location and scale are known, and how far that is from the truth. It alone knows how location and
scale act on its numbers.
"""

from rnnforecast.outputs.conformal import ConformalErrors, ConformalForecast, conformal_quantile
from rnnforecast.outputs.forecast import (
    AGGREGATES,
    Forecast,
    NormalForecast,
    PointForecast,
    QuantileForecast,
    TransformedForecast,
)
from rnnforecast.outputs.output import LOSSES, Output, PointOutput, QuantileOutput, masked_mean

__all__ = [
    "AGGREGATES",
    "LOSSES",
    "ConformalErrors",
    "ConformalForecast",
    "Forecast",
    "NormalForecast",
    "Output",
    "PointForecast",
    "PointOutput",
    "QuantileForecast",
    "QuantileOutput",
    "TransformedForecast",
    "conformal_quantile",
    "masked_mean",
]
