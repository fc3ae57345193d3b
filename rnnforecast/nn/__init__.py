"""Networks: recurrent cells, stacks and the forecasting networks. No pandas here."""

from rnnforecast.nn.cells import CELLS, Cell, cell_class, register_cell
from rnnforecast.nn.covariates import CovariateEncoder
from rnnforecast.nn.gated_cells import ChoGRUCell, IndRNNCell, MGUCell, MLSTMCell, SLSTMCell
from rnnforecast.nn.layers import (
    Depth,
    RecurrentStack,
    SeededDropout,
    as_dilations,
    initialise,
    set_generator,
    set_precision,
)
from rnnforecast.nn.linear_cells import LRUCell, MinGRUCell, MinLSTMCell
from rnnforecast.nn.network import ForecastNetwork, NetworkSpec
from rnnforecast.nn.window import Inputs, Window, WindowNetwork, WindowSpec, unfold

__all__ = [
    "CELLS",
    "Cell",
    "ChoGRUCell",
    "CovariateEncoder",
    "Depth",
    "ForecastNetwork",
    "IndRNNCell",
    "Inputs",
    "LRUCell",
    "MGUCell",
    "MLSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "NetworkSpec",
    "RecurrentStack",
    "SLSTMCell",
    "SeededDropout",
    "Window",
    "WindowNetwork",
    "WindowSpec",
    "as_dilations",
    "cell_class",
    "initialise",
    "register_cell",
    "set_generator",
    "set_precision",
    "unfold",
]
