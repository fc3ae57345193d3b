"""Conformal quantiles against their definition, and the coverage of intervals."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnforecast import DeepGRUForecaster
from rnnforecast.outputs import (
    ConformalErrors,
    ConformalForecast,
    PointForecast,
    conformal_quantile,
)


def brute_force(errors, level):
    """The ceil((n + 1) level)-th of the errors and infinity; lower levels by mirror image."""
    level = Fraction(str(level))
    if level == Fraction(1, 2):
        return np.median(errors)
    if level < Fraction(1, 2):
        return -brute_force([-e for e in errors], 1 - level)
    rank = ceil((len(errors) + 1) * level)
    return sorted(errors)[min(rank, len(errors)) - 1]


LEVELS = st.sampled_from(
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95, 0.975, 0.99]
)


@settings(max_examples=300, deadline=None)
@given(
    errors=st.lists(st.floats(-100, 100), min_size=1, max_size=60),
    level=LEVELS,
)
def test_conformal_quantile_against_its_definition(errors, level):
    assert conformal_quantile(np.asarray(errors), level) == brute_force(errors, level)


@settings(max_examples=100, deadline=None)
@given(errors=st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_conformal_quantiles_do_not_cross(errors):
    levels = np.linspace(0.01, 0.99, 99).round(2)
    values = [conformal_quantile(np.asarray(errors), level) for level in levels]
    assert (np.diff(values) >= 0).all()


def test_small_samples_by_hand():
    nine = np.arange(1.0, 10.0)
    assert conformal_quantile(nine, 0.9) == 9.0  # ceil(10 * 0.9) = 9
    assert conformal_quantile(nine, 0.8) == 8.0
    assert conformal_quantile(nine, 0.1) == 1.0
    assert conformal_quantile(nine, 0.2) == 2.0
    assert conformal_quantile(nine, 0.5) == 5.0
    assert conformal_quantile(nine, 0.99) == 9.0  # too few errors: the largest
    assert conformal_quantile(np.array([]), 0.9) == 0.0


@pytest.mark.parametrize("n", [19, 99, 199])
@pytest.mark.parametrize("level", [0.1, 0.9])
def test_the_guarantee_by_simulation(n, level):
    """P(new error <= quantile) is at least the level above, at most it below (Lei et al. 2018)."""
    rng = np.random.default_rng(n)
    hits = [rng.normal() <= conformal_quantile(rng.normal(size=n), level) for _ in range(4000)]
    # exactly level here, as (n + 1) level is whole; four standard errors
    assert abs(np.mean(hits) - level) < 4 * np.sqrt(level * (1 - level) / 4000)


def test_quantiles_stand_around_the_point_in_the_unit_of_the_series():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(50, 3, 2))
    errors[rng.random(errors.shape) < 0.2] = np.nan
    scale = np.array([[1.0, 2.0], [10.0, 20.0]])
    point = rng.normal(size=(2, 3, 2))
    levels = (0.1, 0.5, 0.9)
    around = PointForecast(torch.as_tensor(point))
    scales = torch.as_tensor(scale[[1, 0]])[:, None]
    forecast = ConformalForecast(around, ConformalErrors(errors), scales)
    out = forecast.quantile(levels)
    for same in (forecast.point, forecast.median, forecast.mean):
        np.testing.assert_array_equal(same, point)
    for k, i in enumerate((1, 0)):
        for step in range(3):
            for target in range(2):
                own = errors[:, step, target]
                own = own[~np.isnan(own)]
                for j, level in enumerate(levels):
                    expected = point[k, step, target] + scale[i, target] * brute_force(own, level)
                    np.testing.assert_allclose(out[k, step, target, j], expected)
    # some rows and steps of it say the same of them
    np.testing.assert_array_equal(forecast[1:, [2, 0]].quantile(levels), out[1:, [2, 0]])


def test_samples_are_errors_of_past_origins_over_all_steps():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(40, 3, 2))
    errors[5, 1, 0] = np.nan  # no whole path
    point, scale = torch.zeros(2, 5, 2).double(), torch.tensor([[[1.0, 2.0]], [[10.0, 20.0]]])
    conformal = ConformalErrors(errors)
    forecast = ConformalForecast(PointForecast(point), conformal, scale.double())
    drawn = forecast.sample(50, torch.Generator().manual_seed(0)) / scale
    assert drawn.shape == (50, 2, 5, 2)
    grow = (np.arange(4, 6) / 3)[:, None] ** conformal.growth()
    for path in drawn.flatten(0, 1).numpy():
        (origin,) = np.flatnonzero(np.isclose(errors[:, 0, 0], path[0, 0]))
        assert origin != 5
        np.testing.assert_allclose(path[:3], errors[origin])
        np.testing.assert_allclose(path[3:], errors[origin, 2] * grow)
    assert len(np.unique(drawn[..., 0, 0])) > 20
    again = forecast.sample(50, torch.Generator().manual_seed(0)) / scale
    assert torch.equal(again, drawn)


def test_a_step_with_few_errors_borrows_those_of_all_steps():
    errors = np.random.default_rng(0).normal(size=(40, 3, 1))
    errors[19:, 1] = np.nan  # 19 are left, one short of enough
    offsets = ConformalErrors(errors).offsets(3, (0.9,))
    pooled = errors[~np.isnan(errors)]
    assert offsets[1, 0, 0] == brute_force(pooled, 0.9)
    assert offsets[0, 0, 0] == brute_force(errors[:, 0, 0], 0.9)
    none = ConformalErrors(np.full((5, 2, 1), np.nan))
    assert (none.offsets(4, (0.1, 0.9)) == 0).all()


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, 0.0), (0.3, 0.3), (0.5, 0.5), (1.0, 0.5), (-1.0, 0.0)]
)
def test_growth_is_the_slope_of_the_log_error(power, expected):
    base = np.random.default_rng(0).normal(size=(30, 1, 1))
    steps = np.arange(1, 9)[None, :, None]
    conformal = ConformalErrors(base * steps**power)
    np.testing.assert_allclose(conformal.growth(), [expected], atol=1e-12)
    offsets = conformal.offsets(20, (0.1, 0.9))
    factor = (np.arange(9, 21) / 8) ** expected
    np.testing.assert_allclose(offsets[8:], offsets[7] * factor[:, None, None])
    alone = ConformalErrors(base)
    np.testing.assert_allclose(alone.growth(), [0.5])


# -- coverage of a fitted forecaster ---------------------------------------------------------------


def noise(n, seed):
    """An autoregression with Gaussian noise."""
    rng = np.random.default_rng(seed)
    y = np.zeros(n)
    for t in range(1, n):
        y[t] = 0.6 * y[t - 1] + rng.normal()
    return pd.DataFrame({"y": 20 + 3 * y})


@pytest.mark.parametrize("quantiles", [None, (0.05, 0.95)])
def test_coverage_of_one_step_intervals(quantiles):
    df = noise(2400, seed=1)
    fc = DeepGRUForecaster(
        horizon=1,
        lookback=8,
        seasonality=1,
        hidden_size=8,
        n_layers=1,
        max_epochs=6,
        lr=0.01,
        quantiles=quantiles,
        validation_fraction=0.2,
        random_state=0,
    ).fit(df[:1600])
    fc.update(df[1600:])
    lower, upper = fc.predict_interval(df[1600:], coverage=0.9).T
    truth = df["y"][1600:]
    coverage = np.mean((truth >= lower) & (truth <= upper))
    # 800 trials of 0.9: standard error 0.011; 320 calibration errors add 0.017
    assert 0.84 < coverage < 0.95
    # no wider than it must be: the true width is 2 * 1.645 * 3
    assert np.mean(upper - lower) < 1.25 * 2 * 1.645 * 3
    # each tail for itself
    assert 0.02 < np.mean(truth < lower) < 0.09
    assert 0.02 < np.mean(truth > upper) < 0.09


def test_coverage_of_every_step_of_the_horizon():
    df = noise(1800, seed=2)
    fc = DeepGRUForecaster(
        horizon=4,
        lookback=8,
        seasonality=1,
        hidden_size=8,
        n_layers=1,
        max_epochs=4,
        lr=0.01,
        validation_fraction=0.25,
        random_state=0,
    ).fit(df[:1400])
    inside = []
    for origin in range(1400, 1790, 6):
        interval = fc.forecast(quantiles=[0.1, 0.9])["y"]
        truth = df["y"][origin : origin + 4].to_numpy()
        inside.append((truth >= interval[0.1]) & (truth <= interval[0.9]))
        fc.update(df[origin : origin + 6])
    coverage = np.mean(inside, axis=0)
    # 65 origins a step: standard error 0.05
    assert ((coverage > 0.66) & (coverage < 0.94)).all()
    assert 0.72 < coverage.mean() < 0.88
