"""Networks: recurrent cells, stacks and the forecasting networks. No pandas here."""

from rnnforecast.nn.cells import CELLS, Cell, cell_class, register_cell
from rnnforecast.nn.covariates import CovariateEncoder
from rnnforecast.nn.layers import (
    RecurrentStack,
    SeededDropout,
    initialise,
    set_generator,
    set_precision,
)
from rnnforecast.nn.network import ForecastNetwork, NetworkSpec
from rnnforecast.nn.window import Inputs, Window, WindowNetwork, WindowSpec, unfold

__all__ = [
    "CELLS",
    "Cell",
    "CovariateEncoder",
    "ForecastNetwork",
    "Inputs",
    "NetworkSpec",
    "RecurrentStack",
    "SeededDropout",
    "Window",
    "WindowNetwork",
    "WindowSpec",
    "cell_class",
    "initialise",
    "register_cell",
    "set_generator",
    "set_precision",
    "unfold",
]
