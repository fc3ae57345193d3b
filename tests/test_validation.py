"""Checks of parameters: what passes, what is refused and how."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from rnnforecast import exceptions
from rnnforecast._validation import check_choice, check_int, check_quantiles, check_real
from rnnforecast.exceptions import DataError, optional_import


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_pass(value):
    check_int("Someone", "horizon", value)


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "3", None, np.float64(2), [1]])
def test_other_things_are_no_whole_numbers(value):
    with pytest.raises(DataError, match=r"Someone: horizon must be an integer >= 1\. Got"):
        check_int("Someone", "horizon", value)


def test_none_passes_where_it_may():
    check_int("Someone", "lookback", None, none=True)
    check_real("Someone", "clip", None, 0, none=True)
    with pytest.raises(DataError, match="or None"):
        check_int("Someone", "lookback", 0, none=True)
    with pytest.raises(DataError, match="or None"):
        check_real("Someone", "clip", -1, 0, none=True)


@pytest.mark.parametrize(
    ("closed", "low", "high"),
    [
        ("both", True, True),
        ("low", True, False),
        ("high", False, True),
        ("neither", False, False),
    ],
)
def test_the_ends_of_a_range(closed, low, high):
    for value, inside in ((0, low), (1.0, high), (0.5, True), (-0.1, False), (1.1, False)):
        if inside:
            check_real("Someone", "share", value, 0, 1, closed=closed)
        else:
            with pytest.raises(DataError, match="Someone: share must be a number in"):
                check_real("Someone", "share", value, 0, 1, closed=closed)


@pytest.mark.parametrize("value", [np.nan, "0.5", None, True, [0.5]])
def test_other_things_are_no_numbers(value):
    with pytest.raises(DataError, match=r"in \[0, 1\]\. Got"):
        check_real("Someone", "share", value, 0, 1)


def test_choices():
    check_choice("Someone", "cell", "gru", {"gru": 1, "lstm": 2})
    check_choice("Someone", "scaler", None, ("window", None))
    with pytest.raises(DataError, match=r"cell must be one of \['gru', 'lstm'\]\. Got 'tcn'"):
        check_choice("Someone", "cell", "tcn", ["gru", "lstm"])


def test_quantiles_come_back_sorted_and_once():
    assert check_quantiles("Someone", [0.9, 0.1, 0.5, 0.1]) == (0.1, 0.5, 0.9)
    assert check_quantiles("Someone", np.array([0.2])) == (0.2,)


@pytest.mark.parametrize(
    "value", [[], [0.0, 0.5], [0.5, 1.0], [-0.1], ["a"], 0.5, [None], [0.1, np.nan, 0.5]]
)
def test_unusable_quantiles(value):
    with pytest.raises(DataError, match="Someone: quantiles must be"):
        check_quantiles("Someone", value)


def test_errors_are_also_what_a_caller_would_catch():
    assert issubclass(exceptions.DataError, ValueError)
    assert issubclass(exceptions.DivergedError, ArithmeticError)
    assert issubclass(exceptions.NotFittedError, SklearnNotFittedError)
    assert issubclass(exceptions.OptionalDependencyError, ImportError)
    for name in exceptions.__all__:
        assert issubclass(getattr(exceptions, name), exceptions.RNNForecastError)


def test_a_missing_extra_is_named():
    assert optional_import("math", "x", "X").pi > 3
    with pytest.raises(exceptions.OptionalDependencyError) as caught:
        optional_import("not_a_module.inside", "auto", "AutoARIMAForecaster")
    text = str(caught.value)
    assert "AutoARIMAForecaster needs 'not_a_module'" in text
    assert "pip install 'rnnforecast[auto]'" in text
