"""Cross-validation over time, rolling-origin backtests, leaderboards and the test behind them."""

from __future__ import annotations

from rnnforecast.model_selection._backtest import backtest
from rnnforecast.model_selection._compare import compare
from rnnforecast.model_selection._diebold_mariano import DieboldMariano, diebold_mariano
from rnnforecast.model_selection._search import SharedGridSearchCV
from rnnforecast.model_selection._splitters import PanelTimeSeriesSplit

__all__ = [
    "DieboldMariano",
    "PanelTimeSeriesSplit",
    "SharedGridSearchCV",
    "backtest",
    "compare",
    "diebold_mariano",
]
