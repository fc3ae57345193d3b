"""The autoregressive network against a literal loop, and one pass against step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rnnforecast.nn import Inputs, initialise
from rnnforecast.nn.autoregressive import AutoregressiveNetwork, AutoregressiveSpec

BATCH, LOOKBACK, HORIZON, TARGETS = 3, 7, 4, 2


def network_of(season=3, shift="mean", cell="lstm", past=(0, 3), known=(0,), static=(0,)):
    spec = AutoregressiveSpec(
        n_targets=TARGETS,
        horizon=HORIZON,
        n_params=2,
        cell=cell,
        hidden_size=5,
        dropout=0.0,
        past=past,
        known=known,
        static=static,
        lookback=LOOKBACK,
        shift=shift,
        season=season,
        n_layers=2,
    )
    network = AutoregressiveNetwork(spec)
    generator = torch.Generator().manual_seed(0)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.double()


def batch_of(missing=True, seed=0):
    rng = np.random.default_rng(seed)
    steps = LOOKBACK + HORIZON
    targets = rng.normal(size=(BATCH, steps, TARGETS)).cumsum(1)
    if missing:
        targets[0, :3] = np.nan  # before the first row
        targets[1, 4, 0] = targets[2, LOOKBACK - 1] = np.nan
        targets[1, LOOKBACK + 1, 1] = np.nan
    past = np.stack([rng.normal(size=(BATCH, LOOKBACK)), rng.integers(0, 3, (BATCH, LOOKBACK))], -1)
    known, static = rng.normal(size=(BATCH, steps, 1)), rng.normal(size=(BATCH, 1))
    values = (targets, past, known, static)
    targets, past, known, static = (torch.as_tensor(x, dtype=torch.float64) for x in values)
    inputs = Inputs(targets[:, :LOOKBACK], past, known[:, :LOOKBACK], known[:, LOOKBACK:], static)
    return inputs, targets[:, LOOKBACK:]


def literal(network, inputs, truth):
    """Raw numbers and locations of all steps after the first, one target and step at a time."""
    spec = network.spec
    residual = network.take_effect(inputs)
    window = network.normalise(residual)
    ahead = truth - network.known_effect(inputs.future_known)
    past = torch.cat([inputs.past, torch.full((BATCH, HORIZON, 2), torch.nan)], 1)
    past = network.past_columns(past)
    static = network.static_columns.values(inputs.static)
    known = torch.cat([inputs.known, inputs.future_known], 1)
    effect = network.known_effect(known)
    n = LOOKBACK + HORIZON - 1
    raws, locations = torch.empty(2, BATCH, n, TARGETS, 2, dtype=torch.float64)
    locations = locations[..., 0]
    a, b = network.regression
    for row in range(BATCH):
        for target in range(TARGETS):
            centre = window.centre[row, 0, target]
            unit = window.scale[row, 0, target]
            series = torch.cat([residual[row, :, target], ahead[row, :, target]])
            series = ((series - centre) / unit).tolist()
            xs, last = [], 0.0
            for t in range(n):
                now = series[t]
                mark = float(np.isnan(now))
                last = last if mark else now
                ago = t + 1 - spec.season
                before = series[ago] if ago >= 0 else np.nan
                x = [0.0 if mark else now, mark]
                if spec.season > 1:
                    x.append(np.nan_to_num(before - now))
                x = torch.tensor(x, dtype=torch.float64)
                own = [x, past[row, t], static[row]]
                if spec.shift == "mean":
                    own.append(unit.log()[None])
                xs.append(torch.cat(own))
                start = a * last + b * (last if np.isnan(before) else before)
                locations[row, t, target] = centre + unit * start + effect[row, t + 1, target]
            outputs, _ = network.stack(torch.stack(xs)[None])
            raws[row, :, target] = network.head(outputs[0])
    return raws, locations


@torch.no_grad()
@pytest.mark.parametrize("season", [1, 2, 3, 9])
@pytest.mark.parametrize("shift", ["mean", "none"])
@pytest.mark.parametrize("missing", [False, True])
def test_one_pass_is_the_literal_loop(season, shift, missing):
    network = network_of(season, shift)
    inputs, truth = batch_of(missing)
    raws, locations = literal(network, inputs, truth)
    raw, location, scale = network(inputs, truth, whole=True)
    torch.testing.assert_close(raw, raws)
    torch.testing.assert_close(location, locations)
    assert torch.equal(scale, network.normalise(network.take_effect(inputs)).scale)
    raw, location, _ = network(inputs, truth)  # the steps ahead
    torch.testing.assert_close(raw, raws[:, -HORIZON:])
    torch.testing.assert_close(location, locations[:, -HORIZON:])
    raw, location, _ = network(inputs)  # the next step
    torch.testing.assert_close(raw, raws[:, -HORIZON:][:, :1])
    torch.testing.assert_close(location, locations[:, -HORIZON:][:, :1])


@torch.no_grad()
@pytest.mark.parametrize("season", [1, 2, 3, 9])
@pytest.mark.parametrize("cell", ["lstm", "gru", "mgu", "slstm", "lru"])
def test_reading_step_by_step_is_one_pass(season, cell):
    network = network_of(season, cell=cell)
    inputs, truth = batch_of()
    truth = torch.nan_to_num(truth)
    raw, location, _ = network(inputs, truth)
    window = network.normalise(network.take_effect(inputs))
    plain = (truth - network.known_effect(inputs.future_known) - window.centre) / window.scale
    context, n_paths = network.context(window, inputs), 2
    paths = network.spread(context, n_paths)
    for step in range(HORIZON):
        effect = network.known_effect(inputs.future_known[:, step : step + 1])
        found, start = network.decode(window, context)
        torch.testing.assert_close(found[:, 0], raw[:, step])
        torch.testing.assert_close(start + effect, location[:, step : step + 1])
        both = paths.raw.view(BATCH, n_paths, TARGETS, -1)
        for k in range(n_paths):
            torch.testing.assert_close(both[:, k], raw[:, step])
        value = plain[:, step]
        context = network.read(context, value.flatten())
        paths = network.read(paths, value[:, None].expand(-1, n_paths, -1).flatten())


def test_gradients_are_finite_where_values_are_missing():
    network = network_of()
    inputs, truth = batch_of()
    raw, location, _ = network(inputs, truth, whole=True)
    (raw.square().sum() + location.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_it_starts_at_the_least_squares_of_the_next_value():
    network = network_of(season=3, shift="none", known=(), static=(), past=())
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(400, 3, TARGETS, generator=rng).double()
    steps = list(y.unbind(1))
    for _ in range(LOOKBACK - 2):
        noise = 0.1 * torch.randn(400, TARGETS, generator=rng).double()
        steps.append(0.5 * steps[-1] + 0.4 * steps[-3] + noise)
    y = torch.stack(steps, 1)
    empty = y.new_empty(400, LOOKBACK, 0)
    inputs = Inputs(y[:, :LOOKBACK], empty, empty, empty[:, :1], empty[:, 0])
    truth = y[:, LOOKBACK:].clone()
    truth[3] = torch.nan
    network.prime([(inputs, truth)])
    np.testing.assert_allclose(network.regression.detach(), [0.5, 0.4], atol=0.02)
