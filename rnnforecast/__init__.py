"""Deep recurrent forecasters for time series with scikit-learn's interface.

Public names are loaded on first use (PEP 562), so that ``import rnnforecast`` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC = {
    "AutoForecaster": "rnnforecast.auto",
    "DeepRNNForecaster": "rnnforecast.forecasters",
    "DeepLSTMForecaster": "rnnforecast.forecasters",
    "DeepGRUForecaster": "rnnforecast.forecasters",
    "BiLSTMForecaster": "rnnforecast.forecasters",
    "BiGRUForecaster": "rnnforecast.forecasters",
    "DeepARForecaster": "rnnforecast.forecasters",
    "ESRNNForecaster": "rnnforecast.forecasters",
    "GraphGRUForecaster": "rnnforecast.forecasters",
    "SequenceClassifier": "rnnforecast.sequences",
    "SequenceRegressor": "rnnforecast.sequences",
    "SegmentRNNForecaster": "rnnforecast.forecasters",
    "NaiveForecaster": "rnnforecast.baselines",
    "ARIMAForecaster": "rnnforecast.baselines",
    "AutoARIMAForecaster": "rnnforecast.baselines",
    "ETSForecaster": "rnnforecast.baselines",
    "ThetaForecaster": "rnnforecast.baselines",
    "SlidingWindows": "rnnforecast.transformers",
    "Differencer": "rnnforecast.transformers",
    "Deseasonalizer": "rnnforecast.transformers",
    "LogTransformer": "rnnforecast.transformers",
    "SeriesScaler": "rnnforecast.transformers",
    "WindowScaler": "rnnforecast.transformers",
    "PanelTimeSeriesSplit": "rnnforecast.model_selection",
    "backtest": "rnnforecast.model_selection",
    "compare": "rnnforecast.model_selection",
    "diebold_mariano": "rnnforecast.model_selection",
    "plot_forecast": "rnnforecast.plotting",
    "show_versions": "rnnforecast._versions",
}
_MODULES = ("datasets", "exceptions", "inspection", "metrics", "model_selection", "plotting")

__all__ = [*_PUBLIC, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = import_module(f"rnnforecast.{name}")
    else:
        raise AttributeError(f"module 'rnnforecast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from rnnforecast._versions import show_versions
    from rnnforecast.auto import AutoForecaster
    from rnnforecast.baselines import (
        ARIMAForecaster,
        AutoARIMAForecaster,
        ETSForecaster,
        NaiveForecaster,
        ThetaForecaster,
    )
    from rnnforecast.forecasters import (
        BiGRUForecaster,
        BiLSTMForecaster,
        DeepARForecaster,
        DeepGRUForecaster,
        DeepLSTMForecaster,
        DeepRNNForecaster,
        ESRNNForecaster,
        GraphGRUForecaster,
        SegmentRNNForecaster,
    )
    from rnnforecast.model_selection import (
        PanelTimeSeriesSplit,
        backtest,
        compare,
        diebold_mariano,
    )
    from rnnforecast.plotting import plot_forecast
    from rnnforecast.transformers import (
        Deseasonalizer,
        Differencer,
        LogTransformer,
        SeriesScaler,
        SlidingWindows,
        WindowScaler,
    )
