"""A look inside fitted networks, in scikit-learn's Display convention.

``XDisplay.from_estimator(estimator, X=None, ...)`` computes, and keeps the numbers as attributes;
``plot(ax=None)`` draws them. matplotlib is imported on the first picture (extra ``plot``).
"""

from rnnforecast.inspection.forecasts import ForecastDisplay, ResidualDisplay
from rnnforecast.inspection.sensitivity import AdversarialDisplay, AttributionDisplay
from rnnforecast.inspection.states import AttentionDisplay, GateDisplay, HiddenStateDisplay
from rnnforecast.inspection.training import GradientFlowDisplay, TrainingCurveDisplay

__all__ = [
    "AdversarialDisplay",
    "AttentionDisplay",
    "AttributionDisplay",
    "ForecastDisplay",
    "GateDisplay",
    "GradientFlowDisplay",
    "HiddenStateDisplay",
    "ResidualDisplay",
    "TrainingCurveDisplay",
]
