"""Metrics of forecasts as plain functions over arrays, and as scikit-learn scorers.

Every metric ignores positions where the truth is NaN (unobserved), takes pandas objects and arrays
of shape (n,), (n, targets) or (windows, horizon, targets), and returns a float.
"""

from __future__ import annotations

from rnnforecast.metrics import _point, _probabilistic, _scaled, _scorers
from rnnforecast.metrics._point import *  # noqa: F403
from rnnforecast.metrics._probabilistic import *  # noqa: F403
from rnnforecast.metrics._scaled import *  # noqa: F403
from rnnforecast.metrics._scorers import *  # noqa: F403

__all__ = [*_point.__all__, *_probabilistic.__all__, *_scaled.__all__, *_scorers.__all__]
