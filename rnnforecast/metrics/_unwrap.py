"""The forecaster inside scikit-learn's wrappers, and the way to it and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError

__all__ = ["Unwrapped", "innermost", "interval_of", "quantiles_of", "unwrap"]


@dataclass(frozen=True)
class Unwrapped:
    """A fitted forecaster and its surroundings.

    Attributes
    ----------
    forecaster : estimator
        What is inside every Pipeline, TransformedTargetRegressor and search.
    X : Any
        The rows as the forecaster gets them: after the steps of every Pipeline around it.
    transformers : tuple of transformers
        Fitted target transformers of TransformedTargetRegressor, the innermost first.
    """

    forecaster: Any
    X: Any
    transformers: tuple[Any, ...]

    def to_outside(self, values: np.ndarray) -> np.ndarray:
        """Values (rows, targets) from the forecaster's units to the outermost estimator's."""
        for transformer in self.transformers:
            outside = np.asarray(transformer.inverse_transform(values))
            values = outside[:, None] if outside.ndim == 1 else outside
        return values

    def history(self) -> pd.DataFrame:
        """The targets that the forecaster knows, in the units of the outermost estimator."""
        if not hasattr(self.forecaster, "history"):
            raise DataError(
                f"{type(self.forecaster).__name__} has no history(): a scaled error needs a fitted "
                f"forecaster of rnnforecast, or use mae_scorer"
            )
        frame = self.forecaster.history()
        if isinstance(frame, pd.Series):
            frame = frame.to_frame()
        if not self.transformers:
            return frame
        outside = self.to_outside(frame.to_numpy(dtype=np.float64))
        return pd.DataFrame(outside, index=frame.index, columns=frame.columns)


def unwrap(estimator: Any, X: Any = None, *, ensemble: bool = False) -> Unwrapped:
    """Descend from a fitted estimator to the forecaster in it.

    Parameters
    ----------
    estimator : fitted estimator
        A forecaster, or a Pipeline, TransformedTargetRegressor or search around one, nested at
        will.
    X : array-like, default=None
        Rows for the outermost estimator; each Pipeline on the way transforms them by its first
        steps.
    ensemble : bool, default=False
        Go on into the first member of a VotingRegressor or the like, whose members saw the same
        rows.

    Returns
    -------
    Unwrapped
    """
    transformers: list[Any] = []
    while not hasattr(estimator, "target_names_"):
        if _is_pipeline(estimator):
            if X is not None and len(estimator.steps) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "regressor_") and hasattr(estimator, "transformer_"):
            transformers.append(estimator.transformer_)
            estimator = estimator.regressor_
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif ensemble and _members(estimator):
            estimator = _members(estimator)[0]
        else:
            break
    return Unwrapped(estimator, X, tuple(reversed(transformers)))


def innermost(estimator: Any) -> Any:
    """The forecaster inside an estimator that need not be fitted.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    estimator
    """
    while True:
        if _is_pipeline(estimator):
            estimator = estimator.steps[-1][1]
        elif getattr(estimator, "regressor", None) is not None:
            estimator = estimator.regressor
        elif getattr(estimator, "estimator", None) is not None:
            estimator = estimator.estimator
        else:
            return estimator


def _is_pipeline(estimator: Any) -> bool:
    return hasattr(estimator, "steps") and hasattr(estimator, "named_steps")


def _members(estimator: Any) -> list[Any]:
    members = getattr(estimator, "estimators_", None)
    return list(members) if isinstance(members, (list, tuple)) and len(members) else []


def interval_of(estimator: Any, X: Any, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends for the rows of X, each (rows, targets), in the outermost units.

    Parameters
    ----------
    estimator : fitted estimator
        As in `unwrap`.
    X : array-like
        Rows for the outermost estimator.
    coverage : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    tuple of two ndarrays, shape (rows, targets)

    Raises
    ------
    DataError
        If the forecaster has no ``predict_interval``.
    """
    found = unwrap(estimator, X)
    if not hasattr(found.forecaster, "predict_interval"):
        raise DataError(
            f"{type(found.forecaster).__name__} has no predict_interval(): interval scores need a "
            f"forecaster of rnnforecast"
        )
    bounds = np.asarray(found.forecaster.predict_interval(found.X, coverage=coverage))
    if bounds.ndim == 2:
        bounds = bounds[:, None, :]
    # a decreasing target transformer swaps the two ends
    ends = np.sort(np.stack([found.to_outside(bounds[..., end]) for end in (0, 1)]), axis=0)
    return ends[0], ends[1]


def quantiles_of(estimator: Any, X: Any, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles for the rows of X, shape (rows, targets, quantiles), in the outermost units.

    Parameters
    ----------
    estimator : fitted estimator
        As in `unwrap`.
    X : array-like
        Rows for the outermost estimator.
    quantiles : sequence of float
        Levels between 0 and 1, ascending.

    Returns
    -------
    ndarray, shape (rows, targets, quantiles)

    Raises
    ------
    DataError
        If the forecaster has no ``predict_quantiles``.
    """
    found = unwrap(estimator, X)
    if not hasattr(found.forecaster, "predict_quantiles"):
        raise DataError(
            f"{type(found.forecaster).__name__} has no predict_quantiles(): quantile scores need a "
            f"forecaster of rnnforecast"
        )
    values = np.asarray(found.forecaster.predict_quantiles(found.X, quantiles=list(quantiles)))
    if values.ndim == 2:
        values = values[:, None, :]
    outside = [found.to_outside(values[..., i]) for i in range(values.shape[-1])]
    # a decreasing target transformer turns the order round
    return np.sort(np.stack(outside, axis=-1), axis=-1)
