"""Sequence estimators: what they learn, in which forms they read, and what they refuse."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.utils.class_weight import compute_class_weight

from rnnforecast import SequenceClassifier, SequenceRegressor
from rnnforecast.exceptions import DataError
from rnnforecast.nn import CELLS

TINY = {"hidden_size": 6, "max_epochs": 3, "random_state": 0}


def windows(n=60, time=5, features=2, seed=0):
    """Windows and a number of each that depends on the order of its steps."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, time, features))
    return X, X[:, :, 0] @ np.linspace(0, 1, time)


def ragged(n=60, features=2, seed=0):
    X, y = windows(n, 9, features, seed)
    lengths = np.random.default_rng(seed).integers(2, 10, size=n)
    return [x[-k:] for x, k in zip(X, lengths)], y


def tokens(n=60, seed=0):
    """Lists of the tokens 1 to 4: is the last 4 after the last 3?"""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 5, size=k) for k in rng.integers(3, 12, size=n)]
    last = [[max([-1, *np.flatnonzero(row == t)]) for t in (3, 4)] for row in rows]
    return rows, np.array([three < four for three, four in last])


def with_padding(rows, width, seed=0):
    """Rows of one length, the zeros wherever chance puts them."""
    rng = np.random.default_rng(seed)
    X = np.zeros((len(rows), width), dtype=int)
    for out, row in zip(X, rows):
        out[np.sort(rng.choice(width, len(row), replace=False))] = row
    return X


def answers(model, X):
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


def kept(model):
    """What a fitted estimator knows, to be compared later."""
    return {k: (v if k == "networks_" else copy.deepcopy(v)) for k, v in vars(model).items()}


# -- what is learnt --------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_regression_on_the_order_of_steps(cell):
    X, y = windows(400, 8)
    model = SequenceRegressor(cell=cell, random_state=0).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.95


@pytest.mark.parametrize("attention", [None, "additive", "dot", "multihead"])
def test_a_classification_of_tokens(attention):
    rows, y = tokens(600)
    model = SequenceClassifier(cell="gru", n_tokens=5, attention=attention, random_state=0)
    model.set_params(max_epochs=30).fit(rows[:400], y[:400])
    assert model.score(rows[400:], y[400:]) > 0.9


def test_several_outputs():
    X, y = windows(200)
    Y = np.column_stack([y, 100 + 5 * X[:, -1, 1], np.full(len(X), 7.0)])
    model = SequenceRegressor(random_state=0).fit(X, Y)
    found = model.predict(X)
    assert found.shape == Y.shape
    assert min(r2_score(Y, found, multioutput="raw_values")[:2]) > 0.9
    np.testing.assert_allclose(found[:, 2], 7.0, atol=0.5)  # a constant has the scale one
    one = SequenceRegressor(**TINY)
    as_column = one.fit(X, pd.Series(y)).predict(X)
    np.testing.assert_array_equal(as_column, clone(one).fit(X, y).predict(X))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_first_loss_is_that_of_the_first_weights(loss):
    X, y = windows(40)
    model = SequenceRegressor(loss=loss, batch_size=40, lr=1e-12, max_epochs=1, random_state=0)
    error = (model.fit(X, y).predict(X) - y) / y.std()
    literal = {
        "mse": error**2,
        "mae": abs(error),
        "huber": np.where(abs(error) < 1, error**2 / 2, abs(error) - 0.5),
    }
    assert model.histories_[0].train_loss[0] == pytest.approx(literal[loss].mean(), rel=1e-4)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"a": 1.0, "b": 5.0, "c": 0.5}])
def test_class_weights_are_those_of_the_loss(class_weight):
    X, _ = windows(60)
    y = np.repeat(["a", "b", "c"], [35, 20, 5])
    model = SequenceClassifier(class_weight=class_weight, batch_size=60, lr=1e-12, max_epochs=1)
    model.set_params(random_state=0).fit(X, y)
    code = np.searchsorted(model.classes_, y)
    weight = compute_class_weight(class_weight, classes=np.unique(y), y=y)[code]
    literal = -np.log(model.predict_proba(X)[np.arange(60), code])
    expected = (weight * literal).sum() / weight.sum()
    assert model.histories_[0].train_loss[0] == pytest.approx(expected, rel=1e-5)


def test_balanced_classes_are_found_more_often():
    rng = np.random.default_rng(0)
    y = (rng.random(500) < 0.1).astype(int)
    X = rng.normal(size=(500, 6)) + 0.7 * y[:, None] * np.linspace(0, 1, 6)
    recall = [
        SequenceClassifier(class_weight=w, max_epochs=20, random_state=0)
        .fit(X, y)
        .predict(X)[y == 1]
        for w in (None, "balanced")
    ]
    assert recall[1].mean() > recall[0].mean() + 0.1


@pytest.mark.parametrize("labels", [[3, 7], ["no", "yes"], [False, True], [-1, 0, 4]])
def test_labels_come_back_as_they_were(labels):
    X, y = windows(90)
    code = np.digitize(y, np.quantile(y, np.linspace(0, 1, len(labels) + 1)[1:-1]))
    truth = np.array(labels)[code]
    model = SequenceClassifier(**TINY).fit(X, truth)
    np.testing.assert_array_equal(model.classes_, labels)
    assert model.predict(X).dtype == truth.dtype
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1.0)


# -- forms of X ------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("attention", [None, "additive"])
def test_a_window_is_the_same_in_every_form(features, attention):
    X, y = windows(features=features)
    model = SequenceRegressor(attention=attention, n_channels=features, **TINY)
    expected = clone(model).fit(X, y).predict(X)
    flat = X.reshape(len(X), -1)
    for form in (list(X), [x.tolist() for x in X], flat, pd.DataFrame(flat), flat.tolist()):
        np.testing.assert_array_equal(clone(model).fit(form, y).predict(form), expected)
    model.fit(X, y)
    np.testing.assert_allclose(model.predict(list(X[:, 1:])), model.predict(X[:, 1:]), rtol=1e-12)


def test_columns_of_a_table_are_scaled_by_themselves():
    X, y = windows(features=1)
    table = X[:, :, 0]
    model = SequenceRegressor(**TINY)
    expected = model.fit(table, y).predict(table)
    other = table * [1, 1e3, 1e-3, 10, 1] + [0, 5, 5, -100, 1e4]
    np.testing.assert_allclose(clone(model).fit(other, y).predict(other), expected, rtol=1e-3)
    # of a window a step is not: the same numbers mean the same at each of them
    model.set_params(n_channels=1).fit(table, y)
    assert model.location_.shape == (1,)
    assert model.location_[0] == pytest.approx(table.mean())


def test_channels_are_one_step_after_the_other():
    X, y = windows(features=2)
    model = SequenceRegressor(n_channels=2, **TINY).fit(X.reshape(len(X), -1), y)
    assert model.n_features_in_ == 10
    np.testing.assert_allclose(model.location_, X.mean((0, 1)), rtol=1e-12)
    model.fit(X, y)
    assert model.n_features_in_ == 2


def test_lists_of_several_lengths_in_every_form():
    X, y = ragged(features=1)
    flat = [x[:, 0] for x in X]
    model = SequenceRegressor(**TINY)
    expected = clone(model).fit(X, y).predict(X)
    column = pd.Series(flat, index=range(100, 160))
    lists = [x.tolist() for x in flat]
    for form in (flat, lists, tuple(flat), column, column.to_numpy(), column.to_frame("texts")):
        np.testing.assert_array_equal(clone(model).fit(form, y).predict(form), expected)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_neighbours_in_a_batch_and_their_length_do_not_matter(cell):
    X, y = ragged()
    model = SequenceRegressor(
        cell=cell, attention="dot", bidirectional=True, n_layers=2, **TINY | {"max_epochs": 1}
    ).fit(X, y)
    whole = model.predict(X)
    one_by_one = np.concatenate([model.predict([x]) for x in X])  # never a step of padding
    np.testing.assert_allclose(whole, one_by_one, rtol=1e-9, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(model.predict([X[k] for k in order]), whole[order], rtol=1e-9)


def test_more_sequences_than_are_answered_at_once():
    X, y = ragged(30)
    model = SequenceClassifier(attention="dot", **TINY).fit(X, y > 0)
    many = X * 70  # 2,100
    np.testing.assert_allclose(
        model.predict_proba(many), np.tile(model.predict_proba(X), (70, 1)), rtol=1e-9
    )
    assert model.attention_weights(many).shape == (2100, max(map(len, X)))


@pytest.mark.parametrize("attention", [None, "multihead"])
def test_padding_is_left_out_wherever_it_stands(attention):
    rows, y = tokens()
    model = SequenceClassifier(n_tokens=5, attention=attention, **TINY)
    expected = clone(model).fit(rows, y).predict_proba(rows)
    for width in (12, 20):
        X = with_padding(rows, width)
        for form in (X, X.astype(np.uint8), pd.DataFrame(X), X[:, :, None], X.tolist()):
            np.testing.assert_array_equal(clone(model).fit(form, y).predict_proba(form), expected)
    model.fit(rows, y)
    assert np.isfinite(model.predict_proba([[0, 0, 0], [1, 0, 2]])).all()  # nothing but padding


def test_attention_weights_lie_where_the_steps_do():
    rows, y = tokens()
    X = with_padding(rows, 15)
    model = SequenceClassifier(n_tokens=5, attention="additive", n_members=2, **TINY).fit(X, y)
    weights = model.attention_weights(X)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    np.testing.assert_array_equal(weights > 0, X > 0)
    packed = model.attention_weights(rows)
    np.testing.assert_array_equal(weights[X > 0], packed[packed > 0])
    numbers, truth = ragged()
    model = SequenceRegressor(attention="dot", **TINY).fit(numbers, truth)
    found = model.attention_weights(numbers)
    assert [int((row > 0).sum()) for row in found] == [len(x) for x in numbers]
    with pytest.raises(DataError, match="SequenceRegressor has no attention: fit it with attent"):
        SequenceRegressor(**TINY).fit(numbers, truth).attention_weights(numbers)


def test_attention_finds_the_one_step_that_matters():
    rng = np.random.default_rng(0)
    X = rng.integers(1, 8, size=(500, 12))
    at = rng.integers(0, 12, size=500)
    y = rng.integers(0, 2, size=500)
    X[np.arange(500), at] = 8 + y  # one of two words among others
    model = SequenceClassifier(cell="rnn", n_tokens=10, attention="additive", random_state=0)
    model.set_params(max_epochs=30).fit(X[:400], y[:400])
    assert model.score(X[400:], y[400:]) > 0.95
    near = np.abs(np.arange(12) - at[400:, None]) <= 1  # its own state, or the one after it
    assert (model.attention_weights(X[400:]) * near).sum(1).mean() > 0.6


# -- training --------------------------------------------------------------------------------------


def test_early_stopping_holds_sequences_out():
    X, y = windows(100)
    model = SequenceRegressor(early_stopping=True, validation_fraction=0.2, patience=2, **TINY)
    assert np.isfinite(model.fit(X, y).histories_[0].val_loss).all()
    # what is held out is of no influence on the weights: its loss is worse, and stops training
    noise = np.random.default_rng(1).normal(size=100)
    model.set_params(max_epochs=200, hidden_size=32).fit(X, noise)
    assert model.n_epochs_ < 200
    assert "2 epochs" in model.histories_[0].stop_reason
    assert model.histories_[0].best_epoch < model.n_epochs_
    assert min(model.histories_[0].val_loss) > 0.5
    model.set_params(early_stopping=False, max_epochs=2).fit(X, y)
    assert np.isnan(model.histories_[0].val_loss).all()


def test_members_are_averaged_and_the_first_is_the_single_one():
    X, y = ragged()
    three = SequenceRegressor(n_members=3, **TINY).fit(X, y)
    one = SequenceRegressor(**TINY).fit(X, y)
    for name, value in one.network_.state_dict().items():
        assert torch.equal(value, three.networks_[0].state_dict()[name])
    each = []
    for network in three.networks_:
        alone = copy.deepcopy(one)
        alone.networks_ = [network]
        each.append(alone.predict(X))
    np.testing.assert_allclose(three.predict(X), np.mean(each, 0), rtol=1e-9)
    assert not np.allclose(each[0], each[1])


@pytest.mark.parametrize("cls", [SequenceRegressor, SequenceClassifier])
def test_the_same_seed_gives_the_same_bits(cls):
    X, y = ragged()
    y = y if cls is SequenceRegressor else y > 0
    model = cls(dropout=0.3, n_layers=2, attention="dot", early_stopping=True, **TINY)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = answers(model.fit(X, y), X)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(2)
    np.testing.assert_array_equal(answers(clone(model).fit(X, y), X), first)
    assert not np.array_equal(answers(clone(model).set_params(random_state=1).fit(X, y), X), first)
    with_system = [answers(clone(model).set_params(random_state=None).fit(X, y), X) for _ in "ab"]
    assert not np.array_equal(*with_system)


@pytest.mark.parametrize("form", ["windows", "ragged", "tokens"])
def test_copies_answer_the_same(form):
    X, y = {"windows": windows, "ragged": ragged, "tokens": tokens}[form]()
    model = SequenceClassifier(n_tokens=5 if form == "tokens" else None, attention="dot", **TINY)
    expected = model.fit(X, y > 0).predict_proba(X)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):  # noqa: S301
        np.testing.assert_array_equal(copied.predict_proba(X), expected)
        assert copied.get_params() == model.get_params()
    assert not hasattr(clone(model), "networks_")
    assert clone(model).get_params() == model.get_params()


def test_fit_again_forgets_what_was_before():
    X, y = windows()
    frame = pd.DataFrame(X[:, :, 0], columns=list("abcde"))
    model = SequenceRegressor(**TINY).fit(frame, np.column_stack([y, y]))
    assert list(model.feature_names_in_) == list("abcde")
    model.fit(X, y)
    assert not hasattr(model, "feature_names_in_")
    fresh = clone(model).fit(X, y)
    assert set(vars(model)) == set(vars(fresh))
    np.testing.assert_array_equal(model.predict(X), fresh.predict(X))


# -- what is refused -------------------------------------------------------------------------------

X3, Y3 = windows(20)
NAN = X3.copy()
NAN[4, 2, 1] = np.nan
WIDER = [*X3[:10], *np.zeros((10, 5, 3))]
MIXED = [*X3[:10], *np.zeros((10, 5))]
EMPTY = [*X3[:19], np.zeros((0, 2))]

BAD = {
    "nan": (NAN, Y3, {}, "sequence 4 holds NaN or infinity: fill or drop these steps"),
    "nan in a table": (NAN.reshape(20, -1), Y3, {}, "NaN"),
    "other features": (WIDER, Y3, {}, r"one number of features. Got \[2, 3\]"),
    "other dimensions": (MIXED, Y3, {}, r"1-D \(time,\) or 2-D \(time, features\), all alike"),
    "empty": (EMPTY, Y3, {}, "sequence 19 is empty: leave it out"),
    "words": ([["a", "b"], ["c"]] * 10, Y3, {}, "sequence 0 must hold numbers"),
    "texts": (["good film"] * 20, Y3, {"n_tokens": 9}, "could not convert string to float"),
    "deeper lists": ([[[1, 2], [3]], [[1, 2]]] * 10, Y3, {}, "sequence 0 must hold numbers"),
    "no y": (X3, None, {}, "requires y to be passed"),
    "y of another length": (X3, Y3[:19], {}, "inconsistent numbers of samples"),
    "y with NaN": (X3, np.where(Y3 > 0, np.nan, Y3), {}, "Input y contains NaN"),
    "channels": (
        X3.reshape(20, -1),
        Y3,
        {"n_channels": 3},
        "n_channels=3 numbers of each step. Go",
    ),
    "token": ([[1, 2], [4]] * 10, Y3, {"n_tokens": 4}, r"0 \(padding\) to 3. Got 4 in row 1"),
    "negative token": ([[1, -2], [1]] * 10, Y3, {"n_tokens": 4}, "Got -2 in row 0"),
    "half a token": ([[1, 2], [0.5]] * 10, Y3, {"n_tokens": 4}, "Got 0.5 in row 1"),
    "wide tokens": (X3, Y3, {"n_tokens": 4}, "tokens have one number a step. Got 2"),
    "cell": (X3, Y3, {"cell": "lstmm"}, "cell must be one of .*Got 'lstmm'"),
    "attention": (X3, Y3, {"attention": "self"}, "attention must be one of .*Got 'self'"),
    "loss": (X3, Y3, {"loss": "l2"}, "loss must be one of .*Got 'l2'"),
    "size": (X3, Y3, {"hidden_size": 0}, "hidden_size must be an integer >= 1. Got 0"),
    "vocabulary": (X3, Y3, {"n_tokens": 1}, "n_tokens must be an integer >= 2 or None. Got 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_failed_fit_leaves_the_estimator_as_it_was(case):
    X, y, params, message = BAD[case]
    model = SequenceRegressor(**TINY)
    with pytest.raises(ValueError, match=message):
        clone(model).set_params(**params).fit(X, y)
    model.fit(X3, Y3)
    expected, before = model.predict(X3), kept(model)
    with pytest.raises(ValueError, match=message):
        model.set_params(**params).fit(X, y)
    model.set_params(**SequenceRegressor(**TINY).get_params())
    assert set(vars(model)) == set(before)
    assert model.networks_ is before["networks_"]
    np.testing.assert_array_equal(model.predict(X3), expected)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones(20), "SequenceClassifier: y must have at least two classes. Got one class: .*1.0"),
        (Y3, "Unknown label type: continuous"),
        (np.eye(2)[[0, 1] * 10], "y should be a 1d array"),
        (np.where(Y3 > 0, np.nan, 1.0), "Input y contains NaN"),
    ],
)
def test_classes_that_are_none(y, message):
    model = SequenceClassifier(**TINY).fit(X3, Y3 > 0)
    expected = model.predict_proba(X3)
    with pytest.raises(ValueError, match=message):
        model.fit(X3, y)
    np.testing.assert_array_equal(model.predict_proba(X3), expected)


def test_training_that_diverges_leaves_the_estimator_as_it_was():
    model = SequenceRegressor(**TINY).fit(X3, Y3)
    expected = model.predict(X3)
    model.set_params(lr=1e30, gradient_clip=None, optimizer="sgd", max_epochs=20, cell="rnn")
    with pytest.raises(ArithmeticError, match="use a smaller lr"):
        model.fit(X3, Y3)
    np.testing.assert_array_equal(model.predict(X3), expected)


def test_other_sequences_than_those_of_fit():
    table = SequenceRegressor(**TINY).fit(X3[:, :, 0], Y3)
    with pytest.raises(DataError, match="a 2-D X .fit to an array of shape .* Got sequences of 2"):
        table.predict(X3)
    with pytest.raises(ValueError, match="X has 4 features, but SequenceRegressor is expecting 5"):
        table.predict(X3[:, 1:, 0])
    wide = SequenceRegressor(**TINY).fit(X3, Y3)
    with pytest.raises(DataError, match="sequences of 2 features a step. Got sequences of 3"):
        wide.predict(np.zeros((4, 5, 3)))
    with pytest.raises(DataError, match="sequences of 2 features a step. Got sequences of 1"):
        wide.predict(X3[:, :, 0])
    with pytest.raises(ValueError, match="sequence 0 holds NaN"):
        wide.predict(NAN[4:5])
    with pytest.raises(ValueError, match="not fitted"):
        SequenceRegressor().predict(X3)
    with pytest.raises(ValueError, match="not fitted"):
        SequenceClassifier().predict_proba(X3)


@pytest.mark.parametrize("cls", [SequenceRegressor, SequenceClassifier])
def test_parameters_are_documented(cls):
    text = cls.__doc__
    for name in cls().get_params():
        assert f"\n{name} : " in text or f"{name}, " in text, name
    with pytest.raises(TypeError, match="'hidden_units'"):
        cls(hidden_units=3)
