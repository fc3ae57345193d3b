"""Outputs and forecasts: losses against scikit-learn, quantiles that cannot cross, averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

from rnnforecast.exceptions import DataError
from rnnforecast.outputs import (
    LOSSES,
    ConformalErrors,
    ConformalForecast,
    Forecast,
    NormalForecast,
    PointForecast,
    PointOutput,
    QuantileForecast,
    QuantileOutput,
    TransformedForecast,
    masked_mean,
)

LEVELS = (0.05, 0.3, 0.5, 0.9)


def with_missing(seed=0, shape=(6, 4, 2)):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=shape)
    truth[rng.random(shape) < 0.3] = np.nan
    return truth, rng


def said(output, raw):
    """The forecast of raw numbers at location 0 and scale 1."""
    raw = torch.as_tensor(raw)
    zeros = raw.new_zeros(raw.shape[:-1])
    return output.forecast(raw, zeros, zeros + 1)


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
    raw = 2 * rng.normal(size=(*truth.shape, 1))
    seen = ~np.isnan(truth)
    output = PointOutput(loss)
    value = output.loss(said(output, raw), torch.as_tensor(truth))
    np.testing.assert_allclose(value, expected(truth[seen], raw[..., 0][seen]))


def test_every_loss_is_registered_as_a_function_of_the_error():
    error = torch.tensor([-3.0, 0.0, 0.5])
    for name, function in LOSSES.items():
        assert function(error).shape == error.shape
        assert PointOutput(name).loss(PointForecast(error), torch.zeros(3)) == (
            function(error).mean()
        )


def test_quantile_loss_is_the_pinball_loss():
    truth, rng = with_missing()
    output = QuantileOutput(LEVELS)
    values = rng.normal(size=(*truth.shape, len(LEVELS)))
    seen = ~np.isnan(truth)
    forecast = QuantileForecast(torch.as_tensor(values), LEVELS)
    value = output.loss(forecast, torch.as_tensor(truth))
    expected = np.mean(
        [
            mean_pinball_loss(truth[seen], values[..., k][seen], alpha=level)
            for k, level in enumerate(LEVELS)
        ]
    )
    np.testing.assert_allclose(value, expected)


@pytest.mark.parametrize("output", [PointOutput("mse"), QuantileOutput(LEVELS)])
def test_nothing_observed_is_no_loss_and_no_gradient(output):
    raw = torch.randn(3, 2, 1, output.n_params, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    loss = output.loss(said(output, raw), torch.full((3, 2, 1), torch.nan))
    loss.backward()
    assert loss == 0
    assert (raw.grad == 0).all()


@pytest.mark.parametrize("output", [PointOutput("mae"), QuantileOutput(LEVELS)])
def test_an_unobserved_truth_has_no_gradient(output):
    raw = torch.randn(3, 2, 1, output.n_params, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    truth = torch.zeros(3, 2, 1)
    truth[1, 0] = torch.nan
    output.loss(said(output, raw), truth).backward()
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
    forecast = said(QuantileOutput(LEVELS), torch.tensor(raw, dtype=dtype))
    assert (forecast.values.diff() >= 0).all()
    # the median is free, the others are softplus steps from their neighbours
    middle = torch.tensor(raw[2], dtype=dtype)
    assert forecast.point == forecast.median == forecast.values[2] == middle
    steps = np.logaddexp(0, [raw[0], raw[1], raw[3]])
    expected = [raw[2] - steps[1] - steps[0], raw[2] - steps[1], raw[2], raw[2] + steps[2]]
    np.testing.assert_allclose(forecast.values, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("levels", [(0.5,), (0.5, 0.9), (0.1, 0.5)])
def test_quantiles_on_one_side_only(levels):
    raw = torch.randn(5, 3, len(levels), generator=torch.Generator().manual_seed(0))
    forecast = said(QuantileOutput(levels), raw)
    assert forecast.values.shape == raw.shape
    assert (forecast.values.diff() >= 0).all()
    assert torch.equal(forecast.point, raw[..., levels.index(0.5)])


# -- location and scale ----------------------------------------------------------------------------


@pytest.mark.parametrize("output", [PointOutput(), QuantileOutput(LEVELS)])
def test_location_and_scale_move_all_of_it(output):
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 3, 2, output.n_params, generator=rng)
    location, scale = torch.randn(4, 1, 2, generator=rng), torch.rand(4, 1, 2, generator=rng)
    plain = said(output, raw)
    moved = output.forecast(raw, location, scale)
    torch.testing.assert_close(moved.point, plain.point * scale + location)
    if output.n_params > 1:
        levels = (0.05, 0.4, 0.9)
        expected = plain.quantile(levels) * scale[..., None] + location[..., None]
        torch.testing.assert_close(moved.quantile(levels), expected)


def test_levels_between_trained_ones_are_linear_and_none_beyond():
    values = torch.tensor([[[-2.0, 0.0, 0.5, 3.0]]])
    forecast = QuantileForecast(values, LEVELS)
    out = forecast.quantile((0.05, 0.175, 0.5, 0.7))[0, 0]
    np.testing.assert_allclose(out, [-2.0, -1.0, 0.5, 1.75], rtol=1e-6)
    with pytest.raises(DataError, match="reach beyond the trained ones"):
        forecast.quantile((0.04, 0.5))
    with pytest.raises(DataError, match="samples need a whole distribution"):
        forecast.sample(3)


# -- kinds of forecast -----------------------------------------------------------------------------


def normal(rows=3, steps=4, targets=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(rows, steps, targets, generator=rng).double()
    return NormalForecast(centre, 0.5 + torch.rand(rows, steps, targets, generator=rng).double())


def test_normal_quantiles_and_samples_are_scipys():
    forecast = normal()
    levels = (0.01, 0.2, 0.5, 0.975)
    expected = stats.norm.ppf(
        np.array(levels), forecast.centre.numpy()[..., None], forecast.deviation.numpy()[..., None]
    )
    np.testing.assert_allclose(forecast.quantile(levels), expected)
    drawn = forecast.sample(4000, torch.Generator().manual_seed(1))
    z = ((drawn - forecast.centre) / forecast.deviation).flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_samples_by_inversion_have_the_quantiles():
    forecast = normal(1, 1, 1)
    drawn = Forecast.sample(forecast, 20_000, torch.Generator().manual_seed(0))[:, 0, 0, 0]
    z = ((drawn - forecast.centre) / forecast.deviation).numpy()
    # inside the outermost of the 99 quantiles, those of the distribution
    np.testing.assert_allclose(
        np.quantile(z, [0.1, 0.3, 0.5, 0.9]), stats.norm.ppf([0.1, 0.3, 0.5, 0.9]), atol=0.06
    )


def test_an_increasing_function_moves_the_quantiles():
    inner = normal()
    location, scale = torch.full_like(inner.centre, 2.0), torch.full_like(inner.centre, 0.3)
    forecast = TransformedForecast(inner, location, scale, torch.exp)
    levels = (0.1, 0.5, 0.8)
    mean, deviation = 2 + 0.3 * inner.centre, 0.3 * inner.deviation
    exact = stats.lognorm(deviation.numpy(), scale=np.exp(mean.numpy()))
    for k, level in enumerate(levels):
        np.testing.assert_allclose(forecast.quantile(levels)[..., k], exact.ppf(level))
    np.testing.assert_allclose(forecast.median, exact.median())
    np.testing.assert_allclose(forecast.mean, exact.mean(), rtol=1e-2)
    plain = TransformedForecast(inner, location, scale)
    np.testing.assert_allclose(plain.quantile(levels), 2 + 0.3 * inner.quantile(levels))


def test_a_point_has_no_spread():
    forecast = PointForecast(torch.ones(2, 3, 1))
    assert (forecast.quantile((0.5,)) == 1).all()
    with pytest.raises(DataError, match="no quantiles but the median"):
        forecast.quantile((0.1, 0.5))
    assert forecast.widened(1) is forecast


def forecasts():
    """Two of every kind, of the same shape."""
    errors = ConformalErrors(np.random.default_rng(0).normal(size=(30, 4, 2)))
    for make in (
        lambda f: f,
        lambda f: PointForecast(f.centre),
        lambda f: QuantileForecast(f.quantile((0.1, 0.5, 0.9)), (0.1, 0.5, 0.9)),
        lambda f: ConformalForecast(PointForecast(f.centre), errors, f.deviation[:, :1]),
        lambda f: TransformedForecast(f, f.centre, f.deviation, torch.exp),
    ):
        yield make(normal(seed=0)), make(normal(seed=1))


@pytest.mark.parametrize("pair", list(forecasts()), ids=lambda pair: type(pair[0]).__name__)
def test_indexing_joining_and_averaging(pair):
    one, two = pair
    levels = (0.5,) if isinstance(one, PointForecast) else (0.1, 0.5, 0.9)
    whole = one.quantile(levels)
    np.testing.assert_allclose(one[1:, :3].quantile(levels), whole[1:, :3])
    rows, steps = np.array([2, 0, 2]), np.array([1, 3, 0])
    np.testing.assert_allclose(one[rows, steps].point, one.point[rows, steps])
    np.testing.assert_allclose(one[rows, steps].quantile(levels), whole[rows, steps])
    joined = Forecast.joined([one, two])
    assert joined.point.shape == (6, 4, 2)
    np.testing.assert_allclose(joined.quantile(levels)[3:], two.quantile(levels))
    np.testing.assert_allclose(Forecast.joined([one], 1).point, one.point)
    if isinstance(one, (PointForecast, QuantileForecast)):  # number by number
        three = [one, two, Forecast.joined([two[:1], one[1:]])]
        for name in ("median", "mean"):
            each = np.stack([f.quantile(levels) for f in three])
            average = Forecast.averaged(three, name)
            np.testing.assert_allclose(average.quantile(levels), getattr(np, name)(each, 0))
            four = [*three, one]
            each = np.stack([f.quantile(levels) for f in four])
            average = Forecast.averaged(four, name)
            np.testing.assert_allclose(average.quantile(levels), getattr(np, name)(each, 0))
            assert (average.quantile(levels).diff() >= 0).all()  # members in order: so is theirs
        assert Forecast.averaged([one], "median") is one


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("kind", ["normal", "quantiles"])
def test_spreads_beyond_the_horizon_grow_as_those_inside_it(horizon, kind):
    forecast = normal(2, 10, 1)
    if kind == "quantiles":
        forecast = QuantileForecast(forecast.quantile((0.1, 0.5, 0.9)), (0.1, 0.5, 0.9))
    wide = forecast.widened(horizon)
    np.testing.assert_allclose(wide.median, forecast.median)
    before = forecast.quantile((0.1, 0.9)).diff()[..., 0]
    after = wide.quantile((0.1, 0.9)).diff()[..., 0]
    np.testing.assert_allclose(after[:, :horizon], before[:, :horizon])
    growth = np.full((2, 1, 1), 0.5)
    if horizon > 1:
        ratio = (before[:, horizon - 1 : horizon] / before[:, :1]).numpy()
        growth = np.clip(np.log(ratio) / np.log(horizon), 0, 0.5)
    factor = (np.arange(horizon + 1, 11)[:, None] / horizon) ** growth
    np.testing.assert_allclose(
        after[:, horizon:], before[:, horizon - 1 : horizon].numpy() * factor
    )
