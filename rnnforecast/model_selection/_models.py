"""What a backtest asks of a model: its name, no sight of the future, and forecasts in raw units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from rnnforecast.auto.candidates import by_name
from rnnforecast.data.roles import as_list
from rnnforecast.exceptions import DataError
from rnnforecast.metrics.wrappers import Unwrapped, innermost, layers, quantiles_of

__all__ = [
    "forecast_rows",
    "hide_future",
    "key_columns",
    "named_models",
    "raw_targets",
    "target_columns",
    "update_model",
]

_PROBE = 64  # training rows on which the way through a pipeline and back is checked


def named_models(forecasters: Any) -> dict[str, Any]:
    """Estimators by name, checked."""
    models = by_name(forecasters)
    if not models:
        raise DataError("backtest: no forecasters were given")
    for name, model in models.items():
        if not (hasattr(model, "fit") and hasattr(model, "predict")):
            raise DataError(
                f"backtest: forecaster {name!r} must have fit and predict. Got {model!r}"
            )
    return models


def key_columns(models: Mapping[str, Any], series_id: Any, time: Any) -> tuple[Any, Any]:
    """Names of the series and time columns: those given, else what the forecasters say."""
    found = []
    for role, given in (("series_id", series_id), ("time", time)):
        names = {} if given is None else {given: "the caller"}
        for name, model in models.items():
            value = getattr(innermost(model), role, None)
            if value is not None:
                names.setdefault(value, name)
        if len(names) > 1:
            raise DataError(
                f"backtest: forecasters disagree on {role}: {names}. All must use the same column"
            )
        found.append(next(iter(names), None))
    return found[0], found[1]


def _find(names: Any, columns: pd.Index) -> list:
    """The raw columns behind names that ColumnTransformer may have prefixed; None if unknown."""
    found = []
    for name in as_list(names):
        tail = name.split("__", 1)[-1] if isinstance(name, str) else name
        found.append(next((each for each in (name, tail) if each in columns), None))
    return found


def _numbers(frame: pd.DataFrame, columns: list) -> np.ndarray:
    return frame[columns].to_numpy(dtype=np.float64, na_value=np.nan)


def target_columns(model: Any, frame: pd.DataFrame, keys: Sequence[Any]) -> list:
    """Columns that an unfitted model would forecast; none where it or the data do not say."""
    forecaster, columns = innermost(model), frame.columns
    named = _find(getattr(forecaster, "target", None), columns)
    if named or not hasattr(forecaster, "target"):
        return [] if None in named else named
    others = {*keys, *_given_ahead(forecaster, columns)}
    return [c for c in columns if c not in others and is_numeric_dtype(frame[c].dtype)]


def _given_ahead(forecaster: Any, columns: pd.Index) -> list:
    """Columns that the forecaster takes as known in the future or as constant."""
    roles = [getattr(forecaster, role, None) for role in ("known", "static")]
    return [name for role in roles for name in _find(role, columns)]


def raw_targets(model: Any, columns: pd.Index) -> list:
    """Columns of the data that a fitted model forecasts."""
    targets = as_list(getattr(layers(model)[-1], "target_names_", None))
    found = _find(targets, columns)
    if not found or None in found:
        raise DataError(
            f"the targets {targets} are not columns of the data {list(columns)[:8]}: name them "
            f"with target=, or pass y"
        )
    return found


def hide_future(model: Any, X: pd.DataFrame, keys: Sequence[Any]) -> pd.DataFrame:
    """Future rows with NaN where nothing is known at the origin: targets, past-only covariates."""
    # where a pipeline makes the known covariates from columns that cannot be known, targets only
    forecaster, hidden = layers(model)[-1], X.copy()
    targets, given = _find(forecaster.target_names_, X.columns), _given_ahead(forecaster, X.columns)
    unknown = targets if None in given else [c for c in X.columns if c not in given]
    numeric = [c for c in X.columns if c not in keys and is_numeric_dtype(X[c].dtype)]
    hidden[[c for c in numeric if c in unknown]] = np.nan
    return hidden


def update_model(model: Any, X: Any, y: Any = None) -> None:
    """Append observed rows to a fitted model's history, through its pipelines and transformers."""
    inside = Unwrapped(model, X)
    if not hasattr(inside.forecaster, "update"):
        raise DataError(
            f"{type(inside.forecaster).__name__} has no update(): backtest it with refit=True"
        )
    for transformer in reversed(inside.transformers):
        values = np.asarray(y, dtype=np.float64)
        y = np.asarray(transformer.transform(values.reshape(len(values), -1)))
        y = y[:, 0] if values.ndim == 1 else y
    inside.forecaster.update(inside.X, y)


def forecast_rows(
    model: Any, X: pd.DataFrame, levels: Sequence[float], train: pd.DataFrame | None
) -> np.ndarray:
    """Points and quantiles (at ascending levels) in the units of the data, (1 + n_levels, rows,
    targets); ``train`` are rows of a fit without y, where a pipeline may change the target.
    """
    pred = np.asarray(model.predict(X), dtype=np.float64)
    values = [pred.reshape(len(pred), -1)]
    if levels:
        values.extend(np.moveaxis(quantiles_of(model, X, levels), -1, 0))
    if train is not None:
        values = _to_raw(model, train, X, values)
    # a decreasing inverse turns quantiles round
    return np.stack([values[0], *np.sort(values[1:], axis=0)])


def _to_raw(
    model: Any, train: pd.DataFrame, X: pd.DataFrame, forecasts: list[np.ndarray]
) -> list[np.ndarray]:
    """Forecasts put into the transformed rows and sent back through every ``inverse_transform``."""
    pipelines = [layer for layer in layers(model) if hasattr(layer, "named_steps")]
    steps = [step for pipeline in pipelines for _, step in pipeline.steps[:-1]]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    if not steps:
        return forecasts
    names = as_list(layers(model)[-1].target_names_)
    raw, probe = raw_targets(model, train.columns), train.tail(_PROBE)
    inside, truth = _forward(model, probe), _numbers(probe, raw)
    if _same(_numbers(inside, names), truth):
        return forecasts
    invertible = all(hasattr(step, "inverse_transform") for step in steps)
    if not invertible or not _same(_numbers(_backward(steps, inside), raw), truth):
        raise DataError(
            f"the pipeline changes the target {raw} and its inverse_transform does not restore it, "
            f"so its forecasts cannot be compared in the units of the data: give every step an "
            f"inverse, or transform the target with TransformedTargetRegressor and pass y"
        )
    rows, found = _forward(model, X).copy(), []
    for values in forecasts:
        rows[names] = values
        found.append(_numbers(_backward(steps, rows), raw))
    return found


def _forward(model: Any, X: pd.DataFrame) -> pd.DataFrame:
    inside = Unwrapped(model, X).X
    return inside if isinstance(inside, pd.DataFrame) else pd.DataFrame(inside, index=X.index)


def _backward(steps: list[Any], X: pd.DataFrame) -> pd.DataFrame:
    for step in reversed(steps):
        names = getattr(step, "feature_names_in_", None)
        # a step fitted on an array is given one, to keep to what it saw
        back = step.inverse_transform(X if names is not None else X.to_numpy())
        if not isinstance(back, pd.DataFrame):
            back = pd.DataFrame(np.asarray(back), index=X.index, columns=names)
        X = back
    return X


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if left.shape != right.shape:
        return False
    size = np.nanmax(np.abs(right), initial=0.0, axis=0)
    return np.allclose(left, right, rtol=1e-5, atol=1e-6 * size, equal_nan=True)
