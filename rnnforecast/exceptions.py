"""Errors raised by rnnforecast: each is also the built-in that a caller would catch."""

from __future__ import annotations

from sklearn.exceptions import NotFittedError as _SklearnNotFittedError

__all__ = [
    "DataError",
    "DivergedError",
    "NotFittedError",
    "OptionalDependencyError",
    "RNNForecastError",
]


class RNNForecastError(Exception):
    """Base of every error that the library raises on purpose."""


class DataError(RNNForecastError, ValueError):
    """The data or an argument cannot be used; the message names the cause and the remedy."""


class DivergedError(RNNForecastError, ArithmeticError):
    """Training produced no finite loss."""


class NotFittedError(RNNForecastError, _SklearnNotFittedError):
    """A fitted estimator was needed."""


class OptionalDependencyError(RNNForecastError, ImportError):
    """A package of an optional extra is missing; the message names the extra."""


def optional_import(module: str, extra: str, why: str):
    """Import ``module``, or say which extra of ``pyproject.toml`` brings what ``why`` needs."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionalDependencyError(
            f"{why} needs {module.split('.')[0]!r}, which is not installed: "
            f"pip install 'rnnforecast[{extra}]'"
        ) from error
