"""What a backtest asks of a model: its name, no sight of the future, and forecasts in raw units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError
from rnnforecast.metrics._unwrap import innermost, unwrap

__all__ = ["hide_future", "key_columns", "named_models", "raw_targets", "to_raw", "update_model"]

_PROBE = 64  # training rows on which the way through a pipeline and back is checked


def named_models(forecasters: Any) -> dict[str, Any]:
    """Estimators by name: a mapping's keys, else class names, numbered where they repeat."""
    if isinstance(forecasters, Mapping):
        models = {str(name): model for name, model in forecasters.items()}
    else:
        single = hasattr(forecasters, "fit") or not isinstance(forecasters, Sequence)
        models = {}
        for model in [forecasters] if single else forecasters:
            base = name = type(innermost(model)).__name__
            number = 2
            while name in models:
                name, number = f"{base}-{number}", number + 1
            models[name] = model
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


def _find(name: Any, columns: pd.Index) -> Any:
    """The raw column behind a name that ColumnTransformer may have prefixed; None if unknown."""
    if name in columns:
        return name
    tail = name.split("__", 1)[-1] if isinstance(name, str) else None
    return tail if tail is not None and tail in columns else None


def _names(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set, pd.Index, np.ndarray)) else [value]


def raw_targets(model: Any, columns: pd.Index) -> list:
    """Columns of the data that a fitted model forecasts.

    Raises
    ------
    DataError
        If a step of a pipeline made the target, so that no column of the data is its truth.
    """
    targets = _names(getattr(unwrap(model).forecaster, "target_names_", None))
    found = [_find(name, columns) for name in targets]
    if not targets or any(name is None for name in found):
        raise DataError(
            f"the targets {targets} are not columns of the data {list(columns)[:8]}: name them "
            f"with target=, or pass y"
        )
    return found


def hide_future(model: Any, X: pd.DataFrame, keys: Sequence[Any]) -> pd.DataFrame:
    """Future rows with NaN for what is not known at the origin: targets and past-only covariates.

    Where a pipeline makes the known covariates from other columns, which columns those are cannot
    be told, and only the targets are hidden.
    """
    forecaster = unwrap(model).forecaster
    targets = {_find(name, X.columns) for name in _names(forecaster.target_names_)} - {None}
    given = [
        _find(name, X.columns)
        for role in ("known", "static")
        for name in _names(getattr(forecaster, role, None))
    ]
    hidden = X.copy()
    for column in X.columns:
        dtype = X[column].dtype
        if column in keys or not pd.api.types.is_numeric_dtype(dtype):
            continue
        if column in targets or (None not in given and column not in given):
            floating = isinstance(dtype, np.dtype) and dtype.kind == "f"
            hidden[column] = np.full(len(X), np.nan, dtype=dtype if floating else np.float64)
    return hidden


def update_model(model: Any, X: Any, y: Any) -> None:
    """Append observed rows to a fitted model's history, through the steps of its pipelines."""
    if hasattr(model, "update"):
        model.update(X, y)
    elif hasattr(model, "steps"):
        inner = X if len(model.steps) == 1 else model[:-1].transform(X)
        update_model(model.steps[-1][1], inner, y)
    elif hasattr(model, "best_estimator_"):
        update_model(model.best_estimator_, X, y)
    elif hasattr(model, "regressor_") and hasattr(model, "transformer_"):
        values = np.asarray(y, dtype=np.float64)
        inside = np.asarray(model.transformer_.transform(values.reshape(len(values), -1)))
        update_model(model.regressor_, X, inside[:, 0] if values.ndim == 1 else inside)
    else:
        raise DataError(f"{type(model).__name__} has no update(): backtest it with refit=True")


def to_raw(
    model: Any, train: pd.DataFrame, X: pd.DataFrame, forecasts: list[np.ndarray]
) -> list[np.ndarray]:
    """Forecasts of a model fitted without y, in the units of the data.

    A pipeline whose steps change the target column forecasts the changed target. The forecasts are
    put into the transformed rows and sent back through ``inverse_transform`` of every step.

    Parameters
    ----------
    model : fitted estimator
    train : DataFrame
        Rows that it was fitted on; the last few tell whether the target changes.
    X : DataFrame
        Rows that were forecast.
    forecasts : list of ndarray, shape (rows, targets)

    Returns
    -------
    list of ndarray, shape (rows, targets)

    Raises
    ------
    DataError
        If the target changes and a step cannot be inverted.
    """
    steps = _steps(model)
    if not steps:
        return forecasts
    names = _names(unwrap(model).forecaster.target_names_)
    raw = raw_targets(model, train.columns)
    probe = train.tail(_PROBE)
    inside = _forward(steps, probe)
    truth = probe[raw].to_numpy(dtype=np.float64, na_value=np.nan)
    if _same(_columns(inside, names), truth):
        return forecasts
    back = _backward(steps, inside, probe)
    if not _same(_columns(back, raw), truth):
        raise DataError(
            f"the pipeline changes the target {raw} and its inverse_transform does not restore it, "
            f"so its forecasts cannot be compared in the units of the data: give every step an "
            f"inverse, or transform the target with TransformedTargetRegressor and pass y"
        )
    rows = _forward(steps, X)
    return [
        _columns(_backward(steps, _with_columns(rows, names, values), X), raw)
        for values in forecasts
    ]


def _steps(model: Any) -> list[Any]:
    """Fitted transformers on the way to the forecaster, outermost first."""
    steps: list[Any] = []
    while not hasattr(model, "target_names_"):
        if hasattr(model, "steps"):
            steps += [
                step for _, step in model.steps[:-1] if step is not None and step != "passthrough"
            ]
            model = model.steps[-1][1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            break
    return steps


def _forward(steps: list[Any], X: pd.DataFrame) -> pd.DataFrame:
    index = X.index
    for step in steps:
        X = step.transform(X)
    return _framed(X, index, None)


def _backward(steps: list[Any], X: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    for step in reversed(steps):
        if not hasattr(step, "inverse_transform"):
            raise DataError(
                f"{type(step).__name__} changes the target and has no inverse_transform: leave the "
                f"target out of it, or transform it with TransformedTargetRegressor and pass y"
            )
        names = getattr(step, "feature_names_in_", None)
        # a step fitted on an array is given one, to keep to what it saw
        given = X if names is not None else X.to_numpy()
        X = _framed(step.inverse_transform(given), like.index, names)
    return X


def _framed(X: Any, index: pd.Index, names: Any) -> pd.DataFrame:
    if isinstance(X, pd.DataFrame):
        return X
    return pd.DataFrame(np.asarray(X), index=index, columns=None if names is None else list(names))


def _columns(X: pd.DataFrame, names: list) -> np.ndarray:
    return X[names].to_numpy(dtype=np.float64, na_value=np.nan)


def _with_columns(X: pd.DataFrame, names: list, values: np.ndarray) -> pd.DataFrame:
    X = X.copy()
    for position, name in enumerate(names):
        X[name] = values[:, position]
    return X


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if left.shape != right.shape:
        return False
    size = np.nanmax(np.abs(right), initial=0.0, axis=0)
    return np.allclose(left, right, rtol=1e-5, atol=1e-6 * size, equal_nan=True)
