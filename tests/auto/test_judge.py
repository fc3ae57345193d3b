"""Losses against the library's metrics, and the greedy choice against its definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rnnforecast import metrics
from rnnforecast.auto.judge import METRICS, Judge, choose_weights

SEASON = 4


def example(seed=0, n_series=3, n_origins=2, n_steps=5, missing=0.1):
    rng = np.random.default_rng(seed)
    train = rng.normal(size=(n_series, 40)).cumsum(axis=1) + 50 * (1 + np.arange(n_series))[:, None]
    truth = train[:, -1:, None] + rng.normal(size=(n_series, n_origins, n_steps)).cumsum(axis=2)
    forecast = truth + rng.normal(size=truth.shape)
    truth = np.where(rng.random(truth.shape) < missing, np.nan, truth)
    return train, truth[..., None], forecast[..., None]


def judge_of(metric, train, truth, reference=None):
    power = 2 if metric == "rmsse" else 1
    scale = [metrics.naive_scale(row, seasonality=SEASON, power=power) for row in train]
    return Judge(metric, truth, np.array(scale), reference)


def panel_of(values):
    """Forecast values of each series as a frame with (series, time), as the metrics take them."""
    flat = values.reshape(len(values), -1)
    index = pd.MultiIndex.from_product([range(len(flat)), range(flat.shape[1])])
    return pd.Series(flat.ravel(), index=index)


@pytest.mark.parametrize("metric", ["mase", "rmsse", "smape", "mae"])
def test_losses_are_those_of_the_metrics(metric):
    train, truth, forecast = example()
    y, f = panel_of(truth), panel_of(forecast)
    past = panel_of(train)
    if metric in ("mase", "rmsse"):

        def score(y_true, y_pred, y_train):
            return getattr(metrics, metric)(y_true, y_pred, y_train, seasonality=SEASON)

        expected = metrics.by_series(score, y, f, past)
    else:
        expected = metrics.by_series(getattr(metrics, metric), y, f)
    assert judge_of(metric, train, truth).loss(forecast) == pytest.approx(expected, rel=1e-12)


def test_owa_is_the_mean_of_both_ratios():
    train, truth, forecast = example()
    reference = np.nan_to_num(truth, nan=0.0) + 2.0
    judge = judge_of("owa", train, truth, reference)
    smape, mase = (judge_of(name, train, truth) for name in ("smape", "mase"))
    expected = metrics.owa_from_scores(
        smape.loss(forecast), mase.loss(forecast), smape.loss(reference), mase.loss(reference)
    )
    assert judge.loss(forecast) == pytest.approx(expected, rel=1e-12)
    assert judge.loss(reference) == pytest.approx(1.0, rel=1e-12)


def test_a_series_without_a_scale_does_not_count_unless_all_lack_it():
    train, truth, forecast = example()
    train[1] = 7.0
    whole = judge_of("mase", train, truth)
    rest = Judge("mase", truth[[0, 2]], whole.scale[[0, 2]])
    assert whole.loss(forecast) == pytest.approx(rest.loss(forecast[[0, 2]]), rel=1e-12)
    none = Judge("mase", truth, np.full((3, 1), np.nan))
    assert none.loss(forecast) == pytest.approx(Judge("mae", truth, whole.scale).loss(forecast))


def test_a_forecast_that_is_not_finite_is_worst():
    train, truth, forecast = example(missing=0.0)
    forecast[0, 0, 0] = np.inf
    assert judge_of("mae", train, truth).loss(forecast) == np.inf
    truth[0, 0, 0] = np.nan  # where nothing was observed it does not matter
    assert np.isfinite(judge_of("mae", train, truth).loss(forecast))


def test_opposite_errors_share_the_weight():
    train, truth, _ = example(missing=0.0)
    judge = judge_of("mae", train, truth)
    weights = choose_weights(judge, [truth + 1.0, truth - 1.0, truth + 1.1])
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.0])
    assert judge.loss((truth + 1.0 + truth - 1.0) / 2) == pytest.approx(0.0, abs=1e-12)


def greedy(loss, forecasts, rounds):
    """Caruana et al. 2004, section 2.1, in so many words."""
    bag, found = [], []
    for _ in range(rounds):
        trials = [
            loss(np.mean([forecasts[j] for j in [*bag, k]], axis=0)) for k in range(len(forecasts))
        ]
        bag = [*bag, int(np.argmin(trials))]
        found.append((min(trials), list(bag)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_the_shares_of_the_best_bag(seed, monkeypatch):
    monkeypatch.setattr("rnnforecast.auto.judge._NEAR", np.inf)
    rng = np.random.default_rng(seed)
    train, truth, _ = example(seed, missing=0.0)
    forecasts = [truth + rng.normal(size=truth.shape) for _ in range(4)]
    judge = judge_of("mae", train, truth)
    weights = choose_weights(judge, forecasts)
    best, _ = min(greedy(judge.loss, forecasts, 30), key=lambda pair: pair[0])
    mixed = sum(w * f for w, f in zip(weights, forecasts))
    assert weights.sum() == pytest.approx(1.0)
    assert judge.loss(mixed) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_any_single_forecast(metric, seed, monkeypatch):
    monkeypatch.setattr("rnnforecast.auto.judge._MOST_VALUES", 40)  # weights from a part
    rng = np.random.default_rng(seed)
    train, truth, _ = example(seed, n_series=12)
    forecasts = [
        np.nan_to_num(truth, nan=60.0) + rng.normal(size=truth.shape) * size
        for size in (0.5, 0.55, 0.6, 3.0)
    ]
    judge = judge_of(metric, train, truth, forecasts[-1])
    weights = choose_weights(judge, forecasts)
    mixed = sum(w * f for w, f in zip(weights, forecasts))
    assert judge.loss(mixed) <= min(map(judge.loss, forecasts)) + 1e-12
    assert weights[-1] == 0.0  # far from the best
