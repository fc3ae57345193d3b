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
    SampleForecast,
    StudentTForecast,
    TransformedForecast,
)
from rnnforecast.outputs.output import (
    LOSSES,
    NormalOutput,
    Output,
    PointOutput,
    QuantileOutput,
    StudentTOutput,
    masked_mean,
)

__all__ = [
    "AGGREGATES",
    "LOSSES",
    "ConformalErrors",
    "ConformalForecast",
    "Forecast",
    "NormalForecast",
    "NormalOutput",
    "Output",
    "PointForecast",
    "PointOutput",
    "QuantileForecast",
    "QuantileOutput",
    "SampleForecast",
    "StudentTForecast",
    "StudentTOutput",
    "TransformedForecast",
    "conformal_quantile",
    "masked_mean",
]
