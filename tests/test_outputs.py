"""Outputs: losses against scikit-learn, quantiles that cannot cross."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

from rnnforecast.outputs import LOSSES, PointOutput, QuantileOutput, masked_mean

LEVELS = (0.05, 0.3, 0.5, 0.9)


def with_missing(seed=0, shape=(6, 4, 2)):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=shape)
    truth[rng.random(shape) < 0.3] = np.nan
    return truth, rng


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mae", mean_absolute_error),
        ("mse", mean_squared_error),
        (
            "huber",
            lambda t, f: np.mean([0.5 * e**2 if abs(e) <= 1 else abs(e) - 0.5 for e in t - f]),
        ),
    ],
)
def test_point_losses_leave_the_unobserved_out(loss, expected):
    truth, rng = with_missing()
    forecast = 2 * rng.normal(size=(*truth.shape, 1))
    seen = ~np.isnan(truth)
    value = PointOutput(loss).loss(torch.as_tensor(forecast), torch.as_tensor(truth))
    np.testing.assert_allclose(value, expected(truth[seen], forecast[..., 0][seen]))


def test_every_loss_is_registered_as_a_function_of_the_error():
    error = torch.tensor([-3.0, 0.0, 0.5])
    for name, function in LOSSES.items():
        assert function(error).shape == error.shape
        assert PointOutput(name).loss(error[:, None], torch.zeros(3)) == function(error).mean()


def test_quantile_loss_is_the_pinball_loss():
    truth, rng = with_missing()
    forecast = rng.normal(size=(*truth.shape, len(LEVELS)))
    seen = ~np.isnan(truth)
    value = QuantileOutput(LEVELS).loss(torch.as_tensor(forecast), torch.as_tensor(truth))
    expected = np.mean(
        [
            mean_pinball_loss(truth[seen], forecast[..., k][seen], alpha=level)
            for k, level in enumerate(LEVELS)
        ]
    )
    np.testing.assert_allclose(value, expected)


@pytest.mark.parametrize("output", [PointOutput("mse"), QuantileOutput(LEVELS)])
def test_nothing_observed_is_no_loss_and_no_gradient(output):
    raw = torch.randn(3, 2, 1, output.n_params, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    loss = output.loss(output.forecast(raw), torch.full((3, 2, 1), torch.nan))
    loss.backward()
    assert loss == 0
    assert (raw.grad == 0).all()


@pytest.mark.parametrize("output", [PointOutput("mae"), QuantileOutput(LEVELS)])
def test_an_unobserved_truth_has_no_gradient(output):
    raw = torch.randn(3, 2, 1, output.n_params, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    truth = torch.zeros(3, 2, 1)
    truth[1, 0] = torch.nan
    output.loss(output.forecast(raw), truth).backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[1, 0] == 0).all()
    assert (raw.grad[0, 0] != 0).any()


def test_masked_mean():
    values = torch.tensor([1.0, torch.inf, 3.0])
    assert masked_mean(values, torch.tensor([True, False, True])) == 2.0
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)) == 0.0


@settings(max_examples=200, deadline=None)
@given(
    raw=st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_quantiles_cannot_cross(raw, dtype):
    output = QuantileOutput(LEVELS)
    forecast = output.forecast(torch.tensor(raw, dtype=dtype))
    assert (forecast.diff() >= 0).all()
    # the median is free, the others are softplus steps from their neighbours
    assert output.point(forecast) == forecast[2] == torch.tensor(raw[2], dtype=dtype)
    steps = np.logaddexp(0, [raw[0], raw[1], raw[3]])
    expected = [raw[2] - steps[1] - steps[0], raw[2] - steps[1], raw[2], raw[2] + steps[2]]
    np.testing.assert_allclose(forecast, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("levels", [(0.5,), (0.5, 0.9), (0.1, 0.5)])
def test_quantiles_on_one_side_only(levels):
    output = QuantileOutput(levels)
    raw = torch.randn(5, 3, len(levels), generator=torch.Generator().manual_seed(0))
    forecast = output.forecast(raw)
    assert forecast.shape == raw.shape
    assert (forecast.diff() >= 0).all()
    assert torch.equal(output.point(forecast), raw[..., levels.index(0.5)])
