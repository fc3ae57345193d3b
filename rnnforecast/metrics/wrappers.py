"""The way through scikit-learn's wrappers to the forecaster inside, and back to the outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError

__all__ = ["Unwrapped", "innermost", "layers", "quantiles_of"]


def layers(estimator: Any, *, fitted: bool = True, ensemble: bool = False) -> list[Any]:
    """An estimator, what it wraps, what that wraps, and so on down to the forecaster.

    ``fitted`` follows ``regressor_`` and ``best_estimator_`` rather than the parameters that they
    were cloned from; ``ensemble`` goes on into the first member of a VotingRegressor or the like,
    whose members saw the same rows.
    """
    names = ("regressor_", "best_estimator_") if fitted else ("regressor", "estimator")
    found, inner = [], estimator
    while inner is not None:
        found.append(inner)
        if hasattr(inner, "target_names_"):
            break
        held = [getattr(inner, name, None) for name in names]
        if hasattr(inner, "named_steps"):
            held = [inner.steps[-1][1]]
        elif ensemble and isinstance(members := getattr(inner, "estimators_", None), (list, tuple)):
            held += members
        inner = next((part for part in held if part is not None), None)
    return found


def innermost(estimator: Any) -> Any:
    """The forecaster inside an estimator that need not be fitted."""
    return layers(estimator, fitted=False)[-1]


class Unwrapped:
    """The forecaster inside a fitted estimator, the rows X as it gets them after the steps of every
    Pipeline, and the fitted target transformers around it, the innermost first.
    """

    def __init__(self, estimator: Any, X: Any = None, *, ensemble: bool = False):
        *outer, self.forecaster = layers(estimator, ensemble=ensemble)
        for layer in outer:
            if X is not None and hasattr(layer, "named_steps") and len(layer.steps) > 1:
                X = layer[:-1].transform(X)
        self.X = X
        self.transformers = [e.transformer_ for e in reversed(outer) if hasattr(e, "transformer_")]

    def to_outside(self, values: np.ndarray) -> np.ndarray:
        """Values (rows, targets) in the units of the outermost estimator."""
        for transformer in self.transformers:
            outside = np.asarray(transformer.inverse_transform(values))
            values = outside[:, None] if outside.ndim == 1 else outside
        return values

    def history(self) -> pd.DataFrame:
        """The targets that the forecaster knows, in the units of the outermost estimator."""
        frame = pd.DataFrame(self.method("history", "a scaled error")())
        outside = self.to_outside(frame.to_numpy(dtype=np.float64))
        return pd.DataFrame(outside, index=frame.index, columns=frame.columns)

    def method(self, name: str, wanted: str) -> Any:
        """A method of the forecaster, or an error that says what needs it."""
        if not hasattr(self.forecaster, name):
            raise DataError(
                f"{type(self.forecaster).__name__} has no {name}(): {wanted} needs a fitted "
                f"forecaster of rnnforecast, or use mae_scorer"
            )
        return getattr(self.forecaster, name)


def quantiles_of(estimator: Any, X: Any, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles (ascending) in the units of the outermost estimator, (rows, targets, quantiles)."""
    found = Unwrapped(estimator, X)
    predict = found.method("predict_quantiles", "a score of quantiles or intervals")
    values = np.asarray(predict(found.X, quantiles=list(quantiles)))
    if values.ndim == 2:
        values = values[:, None, :]
    outside = [found.to_outside(values[..., i]) for i in range(values.shape[-1])]
    # a decreasing target transformer turns the order round
    return np.sort(np.stack(outside, axis=-1), axis=-1)
