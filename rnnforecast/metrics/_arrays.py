"""What every metric does first and last: arrays of rows by outputs, and the mean of outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError
from rnnforecast.metrics.terms import observed_mean

__all__ = ["Scores", "average_outputs", "check_pair", "check_weight", "is_panel", "to_rows"]

Scores = float | np.ndarray
PANDAS = (pd.Series, pd.DataFrame)


def is_panel(data: Any) -> bool:
    """Whether the rows are labelled (series, time)."""
    return isinstance(data, PANDAS) and isinstance(data.index, pd.MultiIndex)


def to_rows(metric: str, name: str, data: Any) -> np.ndarray:
    """Values as float64 of shape (rows, outputs); leading axes of a 3-D array become rows."""
    try:
        if isinstance(data, PANDAS):
            values = data.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            values = np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{metric}: {name} must hold numbers: {error}") from error
    if values.ndim == 0:
        raise DataError(f"{metric}: {name} must be an array, not one number. Got {data!r}")
    if values.size == 0:
        raise DataError(f"{metric}: {name} is empty (shape {values.shape})")
    if np.isinf(values).any():
        raise DataError(f"{metric}: {name} has infinite values: replace them by NaN or numbers")
    return values[:, None] if values.ndim == 1 else values.reshape(-1, values.shape[-1])


def check_pair(
    metric: str, y_true: Any, y_pred: Any, name: str = "y_pred"
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and forecast, both (rows, outputs): of one shape, one index, numbers where observed."""
    true, pred = to_rows(metric, "y_true", y_true), to_rows(metric, name, y_pred)
    if true.shape != pred.shape:
        raise DataError(
            f"{metric}: y_true and {name} must have the same shape: got {np.shape(y_true)} and "
            f"{np.shape(y_pred)}"
        )
    labelled = isinstance(y_true, PANDAS) and isinstance(y_pred, PANDAS)
    if labelled and not any(isinstance(d.index, pd.RangeIndex) for d in (y_true, y_pred)):
        if not y_true.index.equals(y_pred.index):
            raise DataError(
                f"{metric}: y_true and {name} have different index labels: align them first, for "
                f"example {name}.reindex(y_true.index)"
            )
    lost = np.isnan(pred) & ~np.isnan(true)
    if lost.any():
        row = int(np.flatnonzero(lost.any(axis=1))[0])
        raise DataError(
            f"{metric}: {name} is NaN at {int(lost.sum())} of {lost.size} positions where y_true "
            f"was observed, the first in row {row}: forecasts must be numbers there"
        )
    return true, pred


def check_weight(metric: str, sample_weight: Any, n_rows: int) -> np.ndarray | None:
    """Weights of the rows, shape (n_rows,), or None."""
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n_rows,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError(
            f"{metric}: sample_weight must hold {n_rows} finite numbers >= 0, one for each row. "
            f"Got shape {weight.shape}"
        )
    return weight


def average_outputs(metric: str, scores: np.ndarray, multioutput: str) -> Scores:
    """The scores of the outputs, (outputs,), or their mean over outputs that have one."""
    if multioutput == "raw_values":
        return scores
    if multioutput == "uniform_average":
        return float(observed_mean(scores))
    raise DataError(
        f"{metric}: multioutput must be 'uniform_average' or 'raw_values'. Got {multioutput!r}"
    )
