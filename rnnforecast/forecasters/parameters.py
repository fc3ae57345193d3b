"""Where the estimators looked for their declaration before it moved down a floor."""

from rnnforecast.parameters import estimator

__all__ = ["estimator"]
