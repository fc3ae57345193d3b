"""What every metric does first: arrays of rows by outputs, what was observed, averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError

__all__ = [
    "Scores",
    "average_outputs",
    "check_pair",
    "check_weight",
    "observed_mean",
    "quiet_nanmean",
    "to_rows",
]

Scores = float | np.ndarray


def to_rows(metric: str, name: str, data: Any) -> np.ndarray:
    """Values as float64 of shape (rows, outputs); leading axes of a 3-D array become rows."""
    try:
        if isinstance(data, (pd.Series, pd.DataFrame)):
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
    """Truth and forecast as float64 of one shape (rows, outputs).

    Raises
    ------
    DataError
        If shapes or pandas labels differ, or a forecast is NaN where the truth was observed.
    """
    true = to_rows(metric, "y_true", y_true)
    pred = to_rows(metric, name, y_pred)
    if true.shape != pred.shape:
        raise DataError(
            f"{metric}: y_true and {name} must have the same shape: got {np.shape(y_true)} and "
            f"{np.shape(y_pred)}"
        )
    _check_labels(metric, y_true, y_pred, name)
    lost = np.isnan(pred) & ~np.isnan(true)
    if lost.any():
        row = int(np.flatnonzero(lost.any(axis=1))[0])
        raise DataError(
            f"{metric}: {name} is NaN at {int(lost.sum())} of {lost.size} positions where y_true "
            f"was observed, the first in row {row}: forecasts must be numbers there"
        )
    return true, pred


def _check_labels(metric: str, left: Any, right: Any, name: str) -> None:
    """Two pandas objects are compared row by row, so their labels must agree."""
    kinds = (pd.Series, pd.DataFrame)
    if not (isinstance(left, kinds) and isinstance(right, kinds)):
        return
    plain = isinstance(left.index, pd.RangeIndex) or isinstance(right.index, pd.RangeIndex)
    if not plain and not left.index.equals(right.index):
        raise DataError(
            f"{metric}: y_true and {name} have different index labels: align them first, for "
            f"example {name}.reindex(y_true.index)"
        )


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


def observed_mean(
    values: np.ndarray, observed: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """Mean over the observed rows, (rows, outputs) -> (outputs,); NaN where none was observed."""
    share = observed if weight is None else observed * weight[:, None]
    total = share.sum(axis=0)
    summed = (np.where(observed, values, 0.0) * share).sum(axis=0)
    return np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)


def quiet_nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis that skips NaN, and is NaN without a warning where all are."""
    observed = ~np.isnan(values)
    count = observed.sum(axis=0)
    summed = np.where(observed, values, 0.0).sum(axis=0)
    empty = np.full(np.shape(count), np.nan)
    return np.divide(summed, count, out=empty, where=count > 0)


def average_outputs(metric: str, scores: np.ndarray, multioutput: str) -> Scores:
    """The scores of the outputs, (outputs,), or their mean over outputs that have one."""
    if multioutput == "raw_values":
        return scores
    if multioutput == "uniform_average":
        return float(quiet_nanmean(scores))
    raise DataError(
        f"{metric}: multioutput must be 'uniform_average' or 'raw_values'. Got {multioutput!r}"
    )
