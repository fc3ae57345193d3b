"""Model names of the command line and the estimators behind them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from click import ClickException

__all__ = ["DEFAULT_COMPARISON", "MODELS", "build"]

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

# parameters that only some models have, and that must not be passed over in silence
_MUST_APPLY = ("lookback", "max_epochs", "time_budget", "seasonality", "order", "seasonal_order")


def build(
    names: Sequence[str], roles: Mapping[str, Any], options: Mapping[str, Any], verbose: int
) -> dict[str, Any]:
    """Make estimators by name.

    ``roles`` are parameters that every model has; of ``options`` each model takes those that it
    has (None: its own default), and what the user set must apply to one of them at least.
    """
    import rnnforecast

    classes = {name: getattr(rnnforecast, MODELS[name][0]) for name in names}
    accepted = {name: set(inspect.signature(kind).parameters) for name, kind in classes.items()}
    for name in {"naive", "drift"} & set(names):
        accepted[name].remove("seasonality")  # it means nothing to them
    given = {key: options[key] for key in _MUST_APPLY if options[key] is not None}
    for key in given:
        if not any(key in accepts for accepts in accepted.values()):
            option = f"--{key.replace('_', '-')}"
            raise ClickException(f"{option} does not apply to {', '.join(names)}")
    given |= {"random_state": options["random_state"], "verbose": verbose}
    models = {}
    for name, kind in classes.items():
        parameters = {key: value for key, value in given.items() if key in accepted[name]}
        models[name] = kind(**roles, **MODELS[name][1], **parameters)
    return models
