"""Distributions that are trained, and sampled paths: numbers against SciPy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from rnnforecast import DeepRNNForecaster
from rnnforecast.outputs import (
    Forecast,
    NormalOutput,
    QuantileForecast,
    SampleForecast,
    StudentTOutput,
)

SOFTPLUS = torch.nn.functional.softplus
LEAST = 1e-3


def scipys(output, raw, location, scale):
    """The distribution that the numbers stand for."""
    raw = torch.as_tensor(raw)
    centre = raw[..., 0].numpy() * scale + location
    spread = (SOFTPLUS(raw[..., 1]).numpy() + LEAST) * scale
    if isinstance(output, NormalOutput):
        return stats.norm(centre, spread)
    return stats.t(2 + LEAST + SOFTPLUS(raw[..., 2]).numpy(), centre, spread)


def drawn(output, seed=0, shape=(5, 4, 2)):
    rng = np.random.default_rng(seed)
    raw = 2 * rng.normal(size=(*shape, output.n_params))
    location, scale = rng.normal(size=shape), rng.uniform(0.1, 9, size=(shape[0], 1, shape[2]))
    forecast = output.forecast(*map(torch.as_tensor, (raw, location, scale)))
    return forecast, scipys(output, raw, location, scale), rng


BOTH = pytest.mark.parametrize("output", [NormalOutput(), StudentTOutput()])


@BOTH
def test_the_loss_is_scipys_negative_log_likelihood_of_what_was_observed(output):
    forecast, expected, rng = drawn(output)
    truth = rng.normal(size=(5, 4, 2)) * 5
    truth[rng.random(truth.shape) < 0.3] = np.nan
    value = output.loss(forecast, torch.as_tensor(truth))
    np.testing.assert_allclose(value, -np.nanmean(expected.logpdf(truth)))


@BOTH
def test_nothing_observed_is_no_loss_and_no_gradient(output):
    raw = torch.randn(3, 2, 1, output.n_params, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    forecast = output.forecast(raw, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    truth = torch.full((3, 2, 1), torch.nan)
    loss = output.loss(forecast, truth)
    loss.backward(retain_graph=True)
    assert loss == 0
    assert (raw.grad == 0).all()
    truth[1, 0] = 0.3
    output.loss(forecast, truth).backward()
    assert (raw.grad[1, 0] != 0).all()
    assert (raw.grad[[0, 2]] == 0).all()


@BOTH
def test_quantiles_levels_and_samples_are_scipys(output):
    forecast, expected, rng = drawn(output)
    levels = (0.001, 0.2, 0.5, 0.975)
    for k, level in enumerate(levels):
        np.testing.assert_allclose(forecast.quantile(levels)[..., k], expected.ppf(level))
    np.testing.assert_allclose(forecast.median, expected.median())
    np.testing.assert_allclose(forecast.mean, expected.mean())
    each = rng.uniform(1e-4, 1, size=(3, 5, 4, 2))
    found = forecast.value_at(torch.as_tensor(each))
    np.testing.assert_allclose(found, expected.ppf(each))
    paths = forecast.sample(400, torch.Generator().manual_seed(1)).numpy()
    assert stats.kstest(expected.cdf(paths).ravel(), "uniform").pvalue > 1e-3


@BOTH
def test_location_and_scale_act_on_all_but_the_degrees_of_freedom(output):
    raw = torch.randn(4, 3, 2, output.n_params, generator=torch.Generator().manual_seed(0))
    plain = output.forecast(raw, torch.zeros(4, 1, 2), torch.ones(4, 1, 2))
    moved = output.forecast(raw, torch.full((4, 1, 2), 7.0), torch.full((4, 1, 2), 3.0))
    torch.testing.assert_close(moved.quantile((0.1, 0.6)), 7 + 3 * plain.quantile((0.1, 0.6)))
    if isinstance(output, StudentTOutput):
        assert torch.equal(moved.df, plain.df)
        assert (moved.df > 2).all()
        assert np.isfinite(stats.t(moved.df.double().numpy()).var()).all()


@BOTH
def test_a_spread_beyond_the_horizon_grows_around_the_same_centre(output):
    forecast = drawn(output)[0]
    wider = forecast.widened(2)
    assert torch.equal(wider.median, forecast.median)
    growth = (forecast.spread()[:, 1] / forecast.spread()[:, 0]).log2().clamp(0, 0.5)
    for step in (3, 4):
        expected = forecast.spread()[:, 1] * (step / 2) ** growth
        torch.testing.assert_close(wider.spread()[:, step - 1], expected)


def test_levels_of_any_forecast_are_read_between_its_quantiles():
    forecast = drawn(NormalOutput())[0]
    levels = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(
        Forecast.value_at(forecast, levels).movedim(0, -1),
        forecast.quantile(levels.flatten().tolist()),
    )
    table = QuantileForecast(torch.tensor([[[0.0, 1.0, 5.0]]]), (0.01, 0.5, 0.99))
    halfway = table.value_at(torch.tensor(0.745))
    assert halfway.item() == pytest.approx(3.0)


# -- paths -----------------------------------------------------------------------------------------


def test_quantiles_of_paths_are_numpys():
    paths = np.random.default_rng(0).normal(size=(3, 4, 2, 37))
    forecast = SampleForecast(torch.as_tensor(paths))
    levels = (0.001, 0.1, 0.5, 0.66, 0.999)
    expected = np.quantile(paths, levels, axis=-1, method="hazen")
    np.testing.assert_allclose(forecast.quantile(levels), np.moveaxis(expected, 0, -1))
    np.testing.assert_allclose(forecast.median, np.median(paths, -1))
    np.testing.assert_allclose(forecast.mean, paths.mean(-1))
    one = SampleForecast(torch.ones(2, 3, 1, 1))
    assert (one.quantile((0.1, 0.9)) == 1).all()


def test_samples_are_whole_paths_each_once_before_any_comes_again():
    # path k of row r has 100 r + k at all of its steps and targets
    values = 100 * torch.arange(3.0)[:, None] + torch.arange(10.0)
    forecast = SampleForecast(values[:, None, None].expand(3, 4, 2, 10))
    drawn = forecast.sample(25, torch.Generator().manual_seed(0))
    assert drawn.shape == (25, 3, 4, 2)
    assert (drawn == drawn[:, :, :1, :1]).all()
    number = drawn[:, :, 0, 0] - 100 * torch.arange(3)
    for row in range(3):
        assert sorted(number[:10, row].tolist()) == sorted(number[10:20, row].tolist())
        assert sorted(number[:10, row].tolist()) == list(range(10))
    # series are not tied to each other
    assert not torch.equal(number[:10, 0], number[:10, 1])
    assert forecast.widened(1) is forecast


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_members_are_averaged_path_by_path(aggregate):
    parts = [SampleForecast(torch.randn(2, 3, 1, 8)) for _ in range(3)]
    found = Forecast.averaged(parts, aggregate)
    expected = getattr(np, aggregate)([part.paths.numpy() for part in parts], axis=0)
    np.testing.assert_allclose(found.paths, expected, rtol=1e-6)
    assert torch.equal(Forecast.joined([parts[0][:, :2], parts[0][:, 2:]], 1).paths, parts[0].paths)


@BOTH
def test_a_trained_distribution_covers_what_comes(output):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": 3 + 2 * rng.standard_t(5, size=1500)})
    fc = DeepRNNForecaster(
        horizon=2,
        lookback=8,
        seasonality=1,
        hidden_size=4,
        n_layers=1,
        max_epochs=8,
        scaler="series",
        output=output,
        random_state=0,
    ).fit(frame[:1000])
    quantiles = fc.rolling_forecast(frame[1000:], quantiles=[0.1, 0.9])["y"]
    truth = frame["y"].loc[quantiles.index.get_level_values(-1)].to_numpy()
    inside = (truth >= quantiles[0.1]) & (truth <= quantiles[0.9])
    assert inside.mean() == pytest.approx(0.8, abs=0.05)
    drawn = fc.sample(2000, horizon=2, random_state=0)
    assert drawn.to_numpy().mean() == pytest.approx(3, abs=0.4)
    assert (fc.forecast(quantiles=[0.05, 0.5, 0.95]).diff(axis=1).iloc[:, 1:] > 0).all(axis=None)
