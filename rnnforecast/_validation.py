"""Checks of parameters: each error says who, what was expected and what came."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from rnnforecast.exceptions import DataError

__all__ = [
    "check_bool",
    "check_choice",
    "check_int",
    "check_quantiles",
    "check_real",
    "quantiles_in_order",
]


def check_int(owner: str, name: str, value: Any, minimum: int = 1, none: bool = False) -> None:
    """Raise unless ``value`` is a whole number of at least ``minimum`` (or None where allowed)."""
    if value is None and none:
        return
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < minimum:
        kind = f"an integer >= {minimum}" + (" or None" if none else "")
        raise DataError(f"{owner}: {name} must be {kind}. Got {value!r}")


def check_real(
    owner: str,
    name: str,
    value: Any,
    low: float,
    high: float = float("inf"),
    *,
    closed: str = "both",
    none: bool = False,
) -> None:
    """Raise unless ``value`` is a real number between ``low`` and ``high``.

    ``closed`` says which ends belong to the range: "both", "low", "high" or "neither".
    """
    if value is None and none:
        return
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    above = real and (value >= low if closed in ("both", "low") else value > low)
    below = real and (value <= high if closed in ("both", "high") else value < high)
    if not (above and below):
        left = "[" if closed in ("both", "low") else "("
        right = "]" if closed in ("both", "high") else ")"
        kind = f"a number in {left}{low:g}, {high:g}{right}" + (" or None" if none else "")
        raise DataError(f"{owner}: {name} must be {kind}. Got {value!r}")


def check_bool(owner: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is True or False, or the integer 1 or 0."""
    if not (isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1))):
        raise DataError(f"{owner}: {name} must be True or False. Got {value!r}")


def check_choice(owner: str, name: str, value: Any, choices: Any) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    known = list(choices)
    if not any(value is choice or value == choice for choice in known):
        raise DataError(f"{owner}: {name} must be one of {known}. Got {value!r}")


def check_quantiles(owner: str, quantiles: Any) -> tuple[float, ...]:
    """Quantile levels as a sorted tuple of unique numbers strictly between 0 and 1."""
    return tuple(sorted(set(quantiles_in_order(owner, quantiles))))


def quantiles_in_order(owner: str, quantiles: Any) -> tuple[float, ...]:
    """Quantile levels as they were asked for, each strictly between 0 and 1."""
    try:
        levels = tuple(float(level) for level in quantiles)
    except (TypeError, ValueError):
        raise DataError(
            f"{owner}: quantiles must be a list of numbers between 0 and 1. Got {quantiles!r}"
        ) from None
    if not levels or not all(0 < level < 1 for level in levels):  # NaN too
        raise DataError(f"{owner}: quantiles must be strictly between 0 and 1. Got {quantiles!r}")
    return levels
