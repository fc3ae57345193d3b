"""Networks: recurrent cells, stacks and the forecasting network. No pandas here."""

from rnnforecast.nn.cells import CELLS, RecurrentLayer, make_layer, register_cell
from rnnforecast.nn.layers import (
    RecurrentStack,
    SeededDropout,
    initialise,
    set_generator,
    set_precision,
)
from rnnforecast.nn.network import ForecastNetwork, NetworkSpec, unfold
from rnnforecast.nn.window import Inputs, Window, WindowNetwork

__all__ = [
    "CELLS",
    "ForecastNetwork",
    "Inputs",
    "NetworkSpec",
    "RecurrentLayer",
    "RecurrentStack",
    "SeededDropout",
    "Window",
    "WindowNetwork",
    "initialise",
    "make_layer",
    "register_cell",
    "set_generator",
    "set_precision",
    "unfold",
]
