"""Columns as networks read them, against the description, number by number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rnnforecast.nn import CovariateEncoder, ForecastNetwork, Inputs, NetworkSpec, initialise
from rnnforecast.nn.segment import SegmentNetwork, SegmentSpec

LEVELS = (0, 3, 0, 5)


def encoder_of(levels=LEVELS):
    encoder = CovariateEncoder(levels).double()
    initialise(encoder, torch.Generator().manual_seed(0))
    return encoder


def literal(encoder, row):
    """Values and marks of one row of columns."""
    levels = LEVELS
    numbers = [row[k] for k, n in enumerate(levels) if not n]
    out = [0.0 if np.isnan(v) else v for v in numbers]
    tables = iter(encoder.tables)
    for value, n in zip(row, levels):
        if n:
            table = next(tables).detach().numpy()
            known = not np.isnan(value) and 0 <= value < n
            out += list(table[int(value)] if known else table[n])
    return [*out, *(float(np.isnan(v)) for v in numbers)]


def test_an_encoder_is_its_description():
    encoder = encoder_of()
    x = np.array(
        [[1.5, 0, -2.0, 4], [np.nan, 2, 0.5, np.nan], [0.1, -1, np.nan, 5], [2.0, 1, 3.0, 0]]
    )
    found = encoder(torch.as_tensor(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(found, [literal(encoder, row) for row in x], rtol=0, atol=0)
    assert (encoder.n_values, encoder.n_marks, encoder.size) == (2 + 2 + 3, 2, 9)
    assert encoder.numbers == [0, 2]
    for table in encoder.tables:
        assert not table[-1].any()  # unknown: the average of all, until training says else
        assert (table[:-1] != 0).all()


def test_numbers_alone_are_values_and_marks():
    x = torch.tensor([[1.0, torch.nan], [torch.nan, 3.0]])
    encoder = CovariateEncoder((0, 0))
    assert not list(encoder.parameters())
    expected = torch.tensor([[1.0, 0, 0, 1], [0, 3, 1, 0]])
    assert torch.equal(encoder(x), expected)
    assert torch.equal(encoder.values(x), expected[:, :2])


PLAIN = {"n_targets": 2, "past": (0, 0), "known": (0, 0), "static": (0, 0), "lookback": 6,
         "horizon": 4, "n_params": 2, "cell": "gru", "hidden_size": 6, "dropout": 0.0}  # fmt: skip
FORECAST = NetworkSpec(
    **PLAIN, season=2, n_layers=1, bidirectional=False, residual=False, shift="mean"
)
SEGMENT = SegmentSpec(**PLAIN, shift="last", segment=2, pull=True)


def network_of(spec):
    kind = ForecastNetwork if isinstance(spec, NetworkSpec) else SegmentNetwork
    with torch.device("meta"):
        network = kind(spec)
    network = network.to_empty(device="cpu").double().eval()
    generator = torch.Generator().manual_seed(0)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.7, 0.7, generator=generator)
    return network


def inputs_of(spec, batch=3):
    rng = np.random.default_rng(0)

    def columns(*shape):
        x = rng.normal(size=shape)
        x[..., 1] = rng.integers(0, 3, size=shape[:-1])
        return torch.as_tensor(x)

    return Inputs(
        torch.as_tensor(rng.normal(size=(batch, spec.lookback, 2))),
        columns(batch, spec.lookback, 2),
        columns(batch, spec.lookback, 2),
        columns(batch, spec.horizon, 2),
        columns(batch, 2),
    )


@pytest.mark.parametrize("spec", [FORECAST, replace(FORECAST, independent=True), SEGMENT], ids=str)
@pytest.mark.parametrize("role", ["past", "known", "static"])
def test_a_category_reaches_the_forecast_by_its_embedding_alone(spec, role):
    network = network_of(replace(spec, **{role: (0, 3)}))
    inputs = inputs_of(spec)
    fields = {"known": ("known", "future_known")}.get(role, (role,))
    first = network(inputs)
    other = {}
    for name in fields:  # another code with the same embedding
        x = getattr(inputs, name).clone()
        x[..., 1] = (x[..., 1] + 1) % 3
        other[name] = x
    swapped = network(inputs._replace(**other))
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(first, swapped))
    encoder = network.effect.encoder if role == "known" else getattr(network, f"{role}_columns")
    with torch.no_grad():
        (table,) = encoder.tables
        table[:3] = table[[2, 0, 1]]
    for a, b in zip(first, network(inputs._replace(**other))):
        torch.testing.assert_close(a, b)
    unknown = {name: getattr(inputs, name).clone() for name in fields}
    for code in (torch.nan, 3.0, -1.0):
        for x in unknown.values():
            x[..., 1] = code
        results = network(inputs._replace(**unknown))
        assert all(r.isfinite().all() for r in results)
        if code != code:
            missing = results
        for a, b in zip(results, missing):
            torch.testing.assert_close(a, b)


def test_an_untrained_network_does_not_see_categories_ahead():
    spec = replace(FORECAST, known=(0, 3))
    network = ForecastNetwork(spec).double().eval()
    initialise(network, torch.Generator().manual_seed(0))
    inputs = inputs_of(spec)
    other = inputs._replace(future_known=inputs.future_known.flip(1))
    for a, b in zip(network(inputs), network(other)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_window_that_begins_late_is_masked(n):
    """n rows at the end of a look-back of 8: statistics of these alone, marks before them."""
    spec = replace(FORECAST, lookback=8, season=4, known=(), static=())
    network = network_of(spec)
    inputs = inputs_of(spec)
    targets, past = inputs.targets.clone(), inputs.past.clone()
    targets[:, : 8 - n], past[:, : 8 - n] = torch.nan, torch.nan
    window = network.normalise(targets)
    seen = targets[:, 8 - n :]
    torch.testing.assert_close(network.anchors(window)[:, 0, :, 0], seen[:, -1])
    torch.testing.assert_close(network.anchors(window)[:, 0, :, 1], seen.mean(1))
    for h in range(spec.horizon):
        row = 8 - 4 + h % 4  # of the last season; a row before it is as far from the start
        expected = targets[:, row] if row >= 8 - n else seen.mean(1)
        torch.testing.assert_close(network.anchors(window)[:, h, :, 2], expected)
    features = network.features(window.values, window.observed, past)
    before = features[:, : 8 - n]
    # values, seasonal differences, marks; past, its marks
    assert not before[..., :4].any() and (before[..., 4:6] == 1).all()
    assert not before[..., 6:8].any() and (before[..., 8:] == 1).all()
    assert not features[:, 8 - n :, 4:6].any()
    for result in network(Inputs(targets, past, *inputs[2:])):
        assert result.isfinite().all()
