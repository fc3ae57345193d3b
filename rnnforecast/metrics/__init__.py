"""Metrics of forecasts as plain functions over arrays, and as scikit-learn scorers.

Every metric ignores positions where the truth is NaN (unobserved), takes pandas objects and arrays
of shape (n,), (n, targets) or (windows, horizon, targets), and returns a float.
"""

from __future__ import annotations

from rnnforecast.metrics._point import mae, mape, mse, r2, rmse, smape
from rnnforecast.metrics._probabilistic import (
    coverage,
    coverage_error,
    interval_score,
    interval_width,
    pinball_loss,
    scaled_pinball_loss,
)
from rnnforecast.metrics._scaled import (
    by_series,
    mase,
    naive_scale,
    owa,
    owa_from_scores,
    rmsse,
)
from rnnforecast.metrics._scorers import (
    ForecastScorer,
    get_scorer,
    mae_scorer,
    make_coverage_scorer,
    make_interval_scorer,
    make_mase_scorer,
    make_pinball_scorer,
    make_rmsse_scorer,
    make_scorer,
    mape_scorer,
    mase_scorer,
    mse_scorer,
    pinball_scorer,
    r2_scorer,
    rmse_scorer,
    rmsse_scorer,
    smape_scorer,
)

__all__ = [
    "ForecastScorer",
    "by_series",
    "coverage",
    "coverage_error",
    "get_scorer",
    "interval_score",
    "interval_width",
    "mae",
    "mae_scorer",
    "make_coverage_scorer",
    "make_interval_scorer",
    "make_mase_scorer",
    "make_pinball_scorer",
    "make_rmsse_scorer",
    "make_scorer",
    "mape",
    "mape_scorer",
    "mase",
    "mase_scorer",
    "mse",
    "mse_scorer",
    "naive_scale",
    "owa",
    "owa_from_scores",
    "pinball_loss",
    "pinball_scorer",
    "r2",
    "r2_scorer",
    "rmse",
    "rmse_scorer",
    "rmsse",
    "rmsse_scorer",
    "scaled_pinball_loss",
    "smape",
    "smape_scorer",
]
