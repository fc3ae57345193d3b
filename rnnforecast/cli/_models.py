"""Model names of the command line and the estimators behind them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rnnforecast.cli._errors import BadInput

__all__ = ["DEFAULT_COMPARISON", "MODELS", "build", "build_all"]

# name -> public class of rnnforecast, parameters that the name implies
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "deep-rnn": ("DeepRNNForecaster", {}),
    "deep-lstm": ("DeepLSTMForecaster", {}),
    "deep-gru": ("DeepGRUForecaster", {}),
    "bi-lstm": ("BiLSTMForecaster", {}),
    "bi-gru": ("BiGRUForecaster", {}),
    "segment-rnn": ("SegmentRNNForecaster", {}),
    "es-rnn": ("ESRNNForecaster", {}),
    "auto": ("AutoForecaster", {}),
    "naive": ("NaiveForecaster", {"strategy": "last"}),
    "seasonal-naive": ("NaiveForecaster", {"strategy": "seasonal"}),
    "drift": ("NaiveForecaster", {"strategy": "drift"}),
    "arima": ("ARIMAForecaster", {}),
    "auto-arima": ("AutoARIMAForecaster", {}),
    "ets": ("ETSForecaster", {}),
    "theta": ("ThetaForecaster", {}),
}
DEFAULT_COMPARISON = ("deep-lstm", "bi-gru", "seasonal-naive", "ets", "arima")

# parameters of this command line that only some models have -> the option that sets them
_OPTIONS = {
    "lookback": "--lookback",
    "max_epochs": "--max-epochs",
    "time_budget": "--time-budget",
    "seasonality": "--seasonality",
    "order": "--order",
    "seasonal_order": "--seasonal-order",
}


def _class_of(name: str) -> type:
    import rnnforecast

    return getattr(rnnforecast, MODELS[name][0])


def _accepts(name: str) -> set[str]:
    """Return the parameters that the model has and its name leaves open."""
    accepted = set(inspect.signature(_class_of(name)).parameters) - set(MODELS[name][1])
    # a season means nothing to the naive forecasts that do not use one
    return accepted - {"seasonality"} if name in ("naive", "drift") else accepted


def build(name: str, roles: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Make the estimator called ``name``.

    Parameters
    ----------
    name : str
        A key of ``MODELS``.
    roles : mapping
        ``horizon``, ``target`` and the like: every model has them.
    settings : mapping
        Parameters that only some models have; None means the model's own default.

    Returns
    -------
    estimator

    Raises
    ------
    BadInput
        If a setting that was given does not apply to the model.
    """
    return build_all([name], roles, settings)[name]


def build_all(
    names: Sequence[str], roles: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Make several estimators; a setting must apply to one of them at least."""
    given = {key: value for key, value in settings.items() if value is not None}
    accepted = {name: _accepts(name) for name in names}
    for key in given:
        if key in _OPTIONS and not any(key in accepts for accepts in accepted.values()):
            raise BadInput(f"{_OPTIONS[key]} does not apply to {', '.join(names)}")
    models = {}
    for name in names:
        parameters = {key: value for key, value in given.items() if key in accepted[name]}
        models[name] = _class_of(name)(**roles, **MODELS[name][1], **parameters)
    return models
