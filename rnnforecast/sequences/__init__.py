"""Estimators that read whole sequences and give one answer to each."""

from rnnforecast.sequences.estimators import SequenceClassifier, SequenceRegressor

__all__ = ["SequenceClassifier", "SequenceRegressor"]
