"""scikit-learn's own checks of the sequence estimators, without a declared failure."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnnforecast import SequenceClassifier, SequenceRegressor


@parametrize_with_checks([SequenceRegressor(), SequenceClassifier()])
def test_scikit_learn_with_the_defaults(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        cls(**params)
        for cls in (SequenceRegressor, SequenceClassifier)
        for params in (
            {"cell": "gru", "bidirectional": True, "attention": "additive"},
            {"cell": "rnn", "early_stopping": True, "patience": 20},
            {"cell": "rnn", "n_members": 2, "n_channels": 1, "lr_schedule": "linear"},
        )
    ]
)
def test_scikit_learn_with_others(estimator, check):
    check(estimator)
