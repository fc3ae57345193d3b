"""Attributions and attacks."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from rnnforecast import (
    DeepGRUForecaster,
    ESRNNForecaster,
    SegmentRNNForecaster,
    SequenceRegressor,
)
from rnnforecast.exceptions import DataError
from rnnforecast.inspection import AdversarialDisplay, AttributionDisplay


@pytest.fixture(scope="session")
def future(fitted):
    index = fitted.future_index()
    rng = np.random.default_rng(0)
    values = {"price": rng.normal(size=len(index)), "shift": "late", "size": 0.0}
    return pd.DataFrame(values, index=index)


@pytest.fixture
def last_value(fit):
    """A network that forecasts the last value, whatever else it reads."""
    model = copy.deepcopy(fit(scaler=None))
    network = model.network_
    for weight in (network.head.weight, network.head.bias, network.skip.weight):
        weight.data.zero_()
    network.anchor_logits.data[:] = network.anchor_logits.new_tensor([900.0, 0.0, 0.0])
    return model


def total(display):
    return display.attributions.to_numpy().sum() + display.static.sum()


# -- integrated gradients --------------------------------------------------------------------------


@pytest.mark.parametrize(("series", "target", "step"), [("A", "load", 1), ("C", "wind", 4)])
def test_attributions_add_up_to_the_forecast(fitted, future, series, target, step):
    options = {"series": series, "target": target, "step": step}
    display = AttributionDisplay.from_estimator(fitted, future=future, **options)
    forecast = fitted.forecast(future)[target].loc[series]
    assert display.forecast == pytest.approx(forecast.iloc[step - 1], abs=1e-9)
    difference = display.forecast - display.baseline_forecast
    assert total(display) == pytest.approx(difference, rel=1e-3, abs=1e-4)
    table = display.attributions
    assert table.columns.tolist() == ["load", "wind", "rain", "price", "shift"]
    assert table.index.equals(
        fitted.panel_.time_index("ABC".index(series))[-24:].append(forecast.index)
    )
    assert (table["shift"] == 0).all()  # a category
    ahead = table["price"].iloc[-4:].to_numpy()
    assert ahead[step - 1] != 0 and (np.delete(ahead, step - 1) == 0).all()
    assert (table.loc[forecast.index, ["load", "wind", "rain"]] == 0).all(axis=None)
    missing = fitted.history().loc[series].index
    holes = table.index.difference(forecast.index)[
        fitted.history().loc[series]["load"].reindex(table.index[:-4]).isna()
    ]
    assert (table.loc[holes, "load"] == 0).all() and len(missing)
    assert list(display.static.index) == ["size"]


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "rnn", "activation": "relu"},
        {"quantiles": [0.1, 0.9]},
        {"scaler": "series"},
        {"scaler": None},
    ],
)
def test_attributions_add_up_for_kinks_and_scalers(fit, options):
    display = AttributionDisplay.from_estimator(fit(**options))
    difference = display.forecast - display.baseline_forecast
    assert total(display) == pytest.approx(difference, rel=1e-3, abs=1e-4)


def test_the_last_value_alone_is_what_a_naive_network_adds(last_value, single):
    display = AttributionDisplay.from_estimator(last_value, step=2)
    values = single["load"].iloc[-24:]
    table = display.attributions["load"].to_numpy()
    assert table[23] == pytest.approx(values.iloc[-1] - values.mean())
    np.testing.assert_allclose(np.delete(table, 23), 0, atol=1e-12)
    assert display.baseline_forecast == pytest.approx(values.mean())
    assert display.forecast == pytest.approx(values.iloc[-1])


def test_calendar_phases_and_other_rows(fit, single):
    days = pd.date_range("2024-01-01", periods=200, freq="D")
    values = 10 + 3 * (days.day_of_week > 4) + np.random.default_rng(0).normal(size=200) / 9
    model = copy.deepcopy(fit(scaler=None)).set_params(seasonality=1, lookback=5)
    model.fit(pd.DataFrame({"y": values}, index=days))
    assert model.phases_ is not None
    display = AttributionDisplay.from_estimator(model)
    assert "calendar" in display.static
    difference = display.forecast - display.baseline_forecast
    assert total(display) == pytest.approx(difference, rel=1e-3, abs=1e-4)
    other = fit()
    halved = make_pipeline(FunctionTransformer(lambda X: X / 2), copy.deepcopy(other))
    display = AttributionDisplay.from_estimator(halved, single[:100])
    assert display.forecast == pytest.approx(
        other.forecast(history=single[:100] / 2)["load"].iloc[0]
    )


def test_what_attributions_refuse(fitted, future, fit, single):
    with pytest.raises(DataError, match=r"future must hold the next 4 rows of .*'price', 'shift'"):
        AttributionDisplay.from_estimator(fitted)
    with pytest.raises(DataError, match="step must be at most 4. Got 5"):
        AttributionDisplay.from_estimator(fitted, future=future, step=5)
    with pytest.raises(DataError, match="target must be one of .* Got 'rain'"):
        AttributionDisplay.from_estimator(fitted, future=future, target="rain")
    few = {"max_epochs": 1, "n_batches": 1, "n_members": 1}
    for model in (
        ESRNNForecaster(**few).fit(single),
        SequenceRegressor().fit([[0.0]] * 9, [0] * 9),
    ):
        with pytest.raises(
            DataError, match="AttributionDisplay takes .*SegmentRNNForecaster, alone"
        ):
            AttributionDisplay.from_estimator(model)


# -- attacks ---------------------------------------------------------------------------------------


def test_attacks_go_farther_than_noise(fitted, future):
    display = AdversarialDisplay.from_estimator(fitted, future=future, random_state=0)
    table = display.shifts
    assert table.index.tolist() == ["A", "B", "C"]
    assert (table["pgd"] >= table["fgsm"]).all() and (table["fgsm"] >= table["noise"]).all()
    assert (table["noise"] > 0).all()
    np.testing.assert_allclose(table["sensitivity"], table["pgd"] / 0.1)
    assert display.adversarial_sensitivity_ == pytest.approx(table["sensitivity"].mean())
    again = AdversarialDisplay.from_estimator(fitted, future=future, random_state=0)
    pd.testing.assert_frame_equal(table, again.shifts)
    assert display.changes.groupby(level=0).size().tolist() == [24, 24, 18]
    one = AdversarialDisplay.from_estimator(fitted, future=future, series="B").shifts
    np.testing.assert_allclose(one[["fgsm", "pgd"]], table.loc[["B"], ["fgsm", "pgd"]], rtol=1e-9)


def test_a_naive_network_moves_as_far_as_its_history(last_value):
    display = AdversarialDisplay.from_estimator(last_value, epsilon=0.25)
    assert display.adversarial_sensitivity_ == pytest.approx(1)
    np.testing.assert_allclose(display.shifts[["noise", "fgsm", "pgd"]], 0.25)


def test_the_forecast_of_a_changed_history_is_what_was_said(fit, single):
    model = fit(scaler=None)
    display = AdversarialDisplay.from_estimator(model, epsilon=0.2)
    deviation, shifts = single["load"].std(ddof=0), {}
    for way, sign in (("up", 1), ("down", -1)):
        change = display.changes[way]["load"]
        assert change.abs().max() <= 0.2 * deviation * (1 + 1e-12)
        changed = single["load"].add(change, fill_value=0).to_frame("load")
        shift = model.forecast(history=changed)["load"].mean() - model.forecast()["load"].mean()
        shifts[way] = sign * shift / deviation
    assert min(shifts.values()) > 0
    assert max(shifts.values()) == pytest.approx(display.shifts["pgd"].iloc[0])


def test_attack_on_a_segment_network(single, quick):
    model = SegmentRNNForecaster(horizon=6, **{**quick, "segment": 6}).fit(single)
    table = AdversarialDisplay.from_estimator(model, epsilon=0.5, n_steps=5).shifts
    assert (table["pgd"] >= table["fgsm"]).all() and (table["fgsm"] > table["noise"]).all()


def test_training_against_an_adversary_leaves_less_to_move():
    """Noise on a wave: what a network reads into the noise can be turned against it."""
    rng, t = np.random.default_rng(0), np.arange(200)
    index = pd.date_range("2024-01-01", periods=200, freq="h")
    df = pd.DataFrame({"y": 3 * np.sin(t * np.pi / 12) + rng.normal(size=200)}, index=index)

    def moved(adversarial):
        model = DeepGRUForecaster(
            horizon=4, hidden_size=8, max_epochs=10, early_stopping=False, lookback=24, segment=1,
            adversarial=adversarial, random_state=0,
        )  # fmt: skip
        return AdversarialDisplay.from_estimator(model.fit(df)).adversarial_sensitivity_

    assert moved(0.3) < 0.95 * moved(0.0)
