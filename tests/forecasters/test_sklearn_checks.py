"""scikit-learn's own checks, and the two declared failures held on frames with stamps."""

from __future__ import annotations

import inspect
import pydoc
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnnforecast import (
    BiGRUForecaster,
    BiLSTMForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    DeepRNNForecaster,
    ESRNNForecaster,
    SegmentRNNForecaster,
)

CLASSES = [
    DeepRNNForecaster,
    DeepLSTMForecaster,
    DeepGRUForecaster,
    BiLSTMForecaster,
    BiGRUForecaster,
]
REASON = "a row's step is its position in an array without an index"
DECLARED = {
    "check_methods_sample_order_invariance": REASON,
    "check_methods_subset_invariance": REASON,
}


def declared(estimator):
    return DECLARED


@parametrize_with_checks(
    [
        *(cls(hidden_size=4, n_layers=1, max_epochs=8, lr=0.03, random_state=0) for cls in CLASSES),
        SegmentRNNForecaster(hidden_size=4, max_epochs=12, lr=0.03, random_state=0),
        ESRNNForecaster(
            hidden_size=4,
            max_epochs=5,
            n_batches=10,
            lr=0.05,
            validation_fraction=0.0,
            n_members=1,
            random_state=0,
        ),
    ],
    expected_failed_checks=declared,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [DeepLSTMForecaster(), SegmentRNNForecaster()],
    expected_failed_checks=declared,
)
def test_scikit_learn_with_the_defaults(estimator, check):
    check(estimator)


# -- what the declared failures would have checked, on rows that have a time -----------------------


def frame_of(n=90, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2024-01-01", periods=n, freq="h")
    x = rng.normal(size=(n, 2))
    y = np.sin(np.arange(n) / 4) + x @ [0.5, -0.3] + 0.1 * rng.normal(size=n)
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1]}, index=index), pd.Series(y, index, name="y")


@pytest.fixture(scope="module", params=CLASSES, ids=lambda cls: cls.__name__)
def fitted(request):
    X, y = frame_of()
    fc = request.param(
        horizon=4, lookback=8, hidden_size=6, n_layers=2, max_epochs=2, random_state=0
    )
    return fc.fit(X[:50], y[:50]), X, y


# rows of the training range, of the horizon, far beyond it, and all of them mixed
PARTS = {
    "training rows": slice(2, 48),
    "horizon": slice(50, 54),
    "far beyond": slice(58, 90),
    "both sides of the cutoff": slice(30, 75),
}


@pytest.mark.parametrize("part", PARTS)
def test_sample_order_does_not_matter(fitted, part):
    fc, X, _ = fitted
    rows = X[PARTS[part]]
    order = np.random.default_rng(0).permutation(len(rows))
    for method in (fc.predict, fc.predict_interval):
        # the tolerances of check_methods_sample_order_invariance
        np.testing.assert_allclose(
            method(rows)[order], method(rows.iloc[order]), rtol=1e-7, atol=1e-9
        )


@pytest.mark.parametrize("part", PARTS)
def test_batches_do_not_matter(fitted, part):
    fc, X, _ = fitted
    rows = X[PARTS[part]]
    one_by_one = np.concatenate([fc.predict(rows.iloc[[k]]) for k in range(len(rows))])
    # the tolerance of check_methods_subset_invariance
    np.testing.assert_allclose(fc.predict(rows), one_by_one, rtol=0, atol=1e-7)
    intervals = np.concatenate([fc.predict_interval(rows.iloc[[k]]) for k in range(len(rows))])
    np.testing.assert_allclose(fc.predict_interval(rows), intervals, rtol=0, atol=1e-7)


def test_order_and_batches_do_not_matter_for_a_panel_with_unequal_ends():
    X, y = frame_of()
    frame = pd.concat({"a": X.assign(y=y), "b": X.assign(y=2 * y + 3)}, names=["id", "time"])
    time = frame.index.get_level_values("time")
    ends = frame.index.get_level_values("id").map({"a": X.index[49], "b": X.index[41]})
    fc = DeepGRUForecaster(
        horizon=4,
        lookback=8,
        target="y",
        known=["a", "b"],
        hidden_size=6,
        max_epochs=2,
        random_state=0,
    ).fit(frame[time <= ends])
    rows = frame.groupby(level="id").tail(70)
    order = np.random.default_rng(0).permutation(len(rows))
    whole = fc.predict(rows)
    np.testing.assert_allclose(whole[order], fc.predict(rows.iloc[order]), rtol=1e-7, atol=1e-9)
    one_by_one = np.concatenate([fc.predict(rows.iloc[[k]]) for k in order])
    np.testing.assert_allclose(whole[order], one_by_one, rtol=0, atol=1e-7)


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_survive_clone_and_set_params(cls):
    changed = {
        "horizon": 3,
        "lookback": 9,
        "target": ["a", "b"],
        "quantiles": (0.1, 0.9),
        "hidden_size": 5,
        "loss": "mse",
        "random_state": 4,
    }
    fc = cls().set_params(**changed)
    copy = clone(fc)
    for name, value in fc.get_params().items():
        assert copy.get_params()[name] == value
    for name, value in changed.items():
        assert getattr(copy, name) is not None
        assert getattr(copy, name) == value
    assert set(fc.get_params()) == set(DeepRNNForecaster().get_params())
    with pytest.raises(TypeError):
        cls(24)  # keyword only
    with pytest.raises(TypeError):
        cls(hidden_units=3)


@pytest.mark.parametrize("cls", [*CLASSES, SegmentRNNForecaster, ESRNNForecaster])
def test_parameters_are_documented_and_named_with_their_class(cls):
    signature, shown = inspect.signature(cls), pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert list(signature.parameters) == list(inspect.signature(cls.__init__).parameters)[1:]
    assert set(signature.parameters) == set(cls().get_params())
    for name, parameter in signature.parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert re.search(rf"^{name} : ", inspect.getdoc(cls), re.MULTILINE), name
        assert re.search(rf"^ *\|? *{name} : ", shown, re.MULTILINE), name  # what help() shows
    with pytest.raises(TypeError, match=f"{cls.__name__}.*'hidden_units'"):
        cls(hidden_units=3)


@pytest.mark.parametrize("cls", [DeepLSTMForecaster, SegmentRNNForecaster, ESRNNForecaster])
def test_fitted_attributes_are_documented(cls):
    frame = pd.DataFrame({"y": np.sin(np.arange(60.0)) + 2})
    fc = cls(max_epochs=1, n_members=1).fit(frame)
    section = inspect.getdoc(cls).split("\nAttributes\n---")[1].split("\nExamples\n")[0]
    documented = set(re.findall(r"^(\w+_) : |^(\w+_)$", section, re.MULTILINE))
    documented = {name for pair in documented for name in pair if name}
    assert {name for name in vars(fc) if name.endswith("_")} <= documented
    assert all(hasattr(fc, name) for name in documented)


@pytest.mark.parametrize("cls", [DeepLSTMForecaster, SegmentRNNForecaster, ESRNNForecaster])
def test_another_default_keeps_the_check_of_a_parameter(cls):
    for name, message in (
        ("max_epochs", "an integer >= 1"),
        ("dropout", r"a number in \[0, 1\)"),
        ("early_stopping", "True or False"),
        ("loss", "one of"),
    ):
        with pytest.raises(ValueError, match=f"{cls.__name__}: {name} must be {message}"):
            cls(**{name: -1}).fit(np.ones((30, 1)))


@pytest.mark.parametrize(
    ("cls", "cell", "both"),
    [
        (DeepRNNForecaster, "lstm", False),
        (DeepLSTMForecaster, "lstm", False),
        (DeepGRUForecaster, "gru", False),
        (BiLSTMForecaster, "lstm", True),
        (BiGRUForecaster, "gru", True),
    ],
)
def test_the_named_forecasters_are_the_general_one(cls, cell, both):
    y = np.sin(np.arange(60.0))[:, None]
    options = {"lookback": 6, "hidden_size": 4, "max_epochs": 1, "random_state": 0}
    named = cls(**options)
    assert (named.cell, named.bidirectional) == (cell, both)
    general = DeepRNNForecaster(cell=cell, bidirectional=both, **options)
    np.testing.assert_array_equal(
        named.fit(y).forecast(horizon=3), general.fit(y).forecast(horizon=3)
    )
    if cls is not DeepRNNForecaster:
        other = "gru" if cell == "lstm" else "lstm"
        with pytest.raises(
            ValueError, match=f"{cls.__name__}: cell must be '{cell}'.*DeepRNNForec"
        ):
            cls(cell=other, **options).fit(y)
    if both:
        with pytest.raises(ValueError, match="bidirectional must be True"):
            cls(bidirectional=False, **options).fit(y)
