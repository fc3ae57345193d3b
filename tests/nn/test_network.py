"""The forecasting network against its description, step by step in NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rnnforecast.nn import ForecastNetwork, Inputs, NetworkSpec, initialise, unfold
from rnnforecast.nn.network import Encoding

SPEC = NetworkSpec(
    n_targets=2,
    past=(0,),
    known=(0, 0),
    static=(0,),
    lookback=7,
    horizon=5,
    season=3,
    n_params=3,
    cell="gru",
    hidden_size=4,
    n_layers=2,
    bidirectional=False,
    residual=False,
    dropout=0.0,
    shift="mean",
)


def network_of(spec=SPEC, seed=0, everywhere=True):
    """A network in float64; with ``everywhere`` no parameter is left at zero."""
    network = ForecastNetwork(spec).double().eval()
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    if everywhere:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-0.7, 0.7, generator=generator)
    return network


def inputs_of(spec=SPEC, batch=3, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)

    def values(*shape, share=missing):
        out = rng.normal(size=shape)
        return torch.as_tensor(np.where(rng.random(shape) < share, np.nan, out))

    return Inputs(
        values(batch, spec.lookback, spec.n_targets),
        values(batch, spec.lookback, len(spec.past)),
        values(batch, spec.lookback, len(spec.known)),
        values(batch, spec.horizon, len(spec.known)),
        values(batch, len(spec.static), share=0),
    )


# -- literal NumPy ---------------------------------------------------------------------------------


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def number(parameter):
    return parameter.detach().numpy()


def literal_effect(network, x):
    """k(x) of one step, x: (n_known,) with NaN."""
    marked = np.r_[np.nan_to_num(x), np.isnan(x)]
    e = network.effect
    hidden = gelu(number(e.hidden.weight) @ marked + number(e.hidden.bias))
    return number(e.linear.weight) @ marked + number(e.linear.bias) + number(e.out.weight) @ hidden


def literal_residual(network, targets, known):
    return np.array([y - literal_effect(network, x) for y, x in zip(targets, known)])


def literal_window(r, horizon, season, normalise=True):
    """Last value, mean, last season and scale of one column ``r: (lookback,)``."""
    seen = r[~np.isnan(r)]
    mean = seen.mean() if len(seen) else 0.0
    last = seen[-1] if len(seen) else mean
    scale = max(np.abs(seen - mean).mean(), 1e-2) if len(seen) > 1 else 1.0
    n, seasonal = len(r), []
    for h in range(horizon):
        # whole seasons only, newest first: the rows whose phase is that of step h
        cycles = n // season
        rows = [n - season * k + h % season for k in range(1, cycles + 1)]
        found = [r[row] for row in rows if not np.isnan(r[row])]
        seasonal.append(found[0] if found else mean)
    if season == 1 or n < season:
        seasonal = [last] * horizon
    return last, mean, np.array(seasonal), scale if normalise else 1.0


def literal_features(r, past, means, scales, season):
    """What the encoder reads, (lookback, size)."""
    z = (r - means) / scales
    columns = [np.nan_to_num(z)]
    if season > 1:
        step = np.zeros_like(z)
        step[season:] = np.nan_to_num(z[season:] - z[:-season])
        columns.append(step)
    columns += [np.isnan(r), np.nan_to_num(past), np.isnan(past)]
    return np.hstack([np.asarray(c, dtype=float) for c in columns])


def literal_forward(network, inputs, k):
    """Raw output, location and scale of window k."""
    spec = network.spec
    targets, past, known, future, static = (t[k].numpy() for t in inputs)
    r = literal_residual(network, targets, known)
    stats = [
        literal_window(r[:, j], spec.horizon, spec.season, spec.shift == "mean")
        for j in range(spec.n_targets)
    ]
    means = np.array([s[1] for s in stats]) if spec.shift == "mean" else np.zeros(spec.n_targets)
    scales = np.array([s[3] for s in stats])
    raw = np.empty((spec.horizon, spec.n_targets, spec.n_params))
    location = np.empty((spec.horizon, spec.n_targets))
    each = [[j] for j in range(spec.n_targets)] if spec.independent else [range(spec.n_targets)]
    for group in map(list, each):
        features = literal_features(r[:, group], past, means[group], scales[group], spec.season)
        n = len(features) // spec.segment
        folded = features[len(features) - n * spec.segment :].reshape(n, -1)
        with torch.no_grad():  # the encoder is tested in test_layers.py
            encoded = network.encoder(torch.as_tensor(folded)[None])[1][0].numpy()
        context = np.r_[encoded, static]
        own = number(network.head.weight) @ context + number(network.head.bias)
        own = own.reshape(spec.horizon, len(group), spec.n_params)
        i = network.interaction
        for h in range(spec.horizon):
            base = number(i.context.weight) @ context + number(i.context.bias)
            moved = base + number(i.known.weight) @ np.nan_to_num(future[h])
            extra = number(i.out.weight) @ (gelu(moved) - gelu(base))
            raw[h, group] = own[h] + extra.reshape(len(group), spec.n_params)
            logits = number(network.anchor_logits)[h]
            share = np.exp(logits) / np.exp(logits).sum()
            weights = number(network.skip.weight)[h]
            for position, j in enumerate(group):
                last, mean, seasonal, _ = stats[j]
                location[h, j] = share @ [last, mean, seasonal[h]]
                # the values are the first of the features
                location[h, j] += scales[j] * (weights @ features[:, position])
            location[h, group] += literal_effect(network, future[h])[group]
    return raw, location, scales


# -- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.6])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"season": 1},
        {"shift": "none"},
        {"season": 9},
        {"segment": 3},  # the oldest of seven steps is left over
        {"segment": 7, "season": 1},
        {"independent": True},
        {"independent": True, "segment": 2, "bidirectional": True},
    ],
)
def test_forward_is_its_description(change, missing):
    network = network_of(replace(SPEC, **change))
    inputs = inputs_of(network.spec, missing=missing)
    raw, location, scale = network(inputs)
    for k in range(3):
        expected = literal_forward(network, inputs, k)
        np.testing.assert_allclose(raw[k].detach(), expected[0], atol=1e-10)
        np.testing.assert_allclose(location[k].detach(), expected[1], atol=1e-10)
        np.testing.assert_allclose(scale[k, 0].detach(), expected[2], atol=1e-10)


@pytest.mark.parametrize("season", [1, 2, 3, 7, 9])
def test_anchors_against_loops(season):
    network = network_of(replace(SPEC, season=season, known=()))
    r = inputs_of(network.spec, batch=6, missing=0.4).targets
    r[0] = np.nan  # nothing observed at all
    r[1, :-1] = np.nan  # one observation
    r[2] = 3.25  # flat
    window = network.normalise(r)
    for k in range(6):
        for j in range(2):
            last, mean, seasonal, scale = literal_window(r[k, :, j].numpy(), 5, season)
            anchors = network.anchors(window)[k, :, j].numpy()
            np.testing.assert_allclose(anchors[:, 0], last, atol=1e-12)
            np.testing.assert_allclose(anchors[:, 1], mean, atol=1e-12)
            np.testing.assert_allclose(anchors[:, 2], seasonal, atol=1e-12)
            np.testing.assert_allclose(window.scale[k, 0, j], scale, atol=1e-12)


def test_fewer_steps_are_the_first_of_more():
    network = network_of()
    inputs = inputs_of()
    raw, location, _ = network(inputs)
    short = inputs._replace(future_known=inputs.future_known[:, :2])
    raw_2, location_2, _ = network(short)
    torch.testing.assert_close(raw_2, raw[:, :2])
    torch.testing.assert_close(location_2, location[:, :2])


def test_a_missing_value_reaches_neither_output_nor_gradient():
    network = network_of()
    inputs = inputs_of(missing=0.3)
    inputs = inputs._replace(
        targets=inputs.targets.requires_grad_(),
        past=inputs.past.requires_grad_(),
        known=inputs.known.requires_grad_(),
        future_known=inputs.future_known.requires_grad_(),
    )
    raw, location, scale = network(inputs)
    (raw.square().sum() + location.square().sum() + scale.square().sum()).backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()
    for values in inputs[:4]:
        assert torch.isfinite(values.grad).all()
        missing = torch.isnan(values.detach())
        assert missing.any()
        assert (values.grad[missing] == 0).all()
        assert (values.grad[~missing] != 0).any()


def test_a_window_without_any_value_still_forecasts():
    network = network_of()
    inputs = Inputs(
        *(torch.full_like(t, torch.nan) for t in inputs_of()[:4]), torch.zeros(3, 1).double()
    )
    for out in network(inputs):
        assert torch.isfinite(out).all()


def test_gradient_against_finite_differences():
    spec = replace(SPEC, lookback=4, horizon=2, season=2, hidden_size=2, n_layers=1, n_params=1)
    network = network_of(spec)
    inputs = inputs_of(spec, batch=2, missing=0.25, seed=3)
    assert torch.isnan(inputs.targets).any()
    names, parameters = zip(*network.named_parameters())

    def forward(*values):
        out = torch.func.functional_call(network, dict(zip(names, values)), (inputs,))
        return torch.cat([out[0].flatten(), out[1].flatten(), out[2].flatten()])

    assert torch.autograd.gradcheck(forward, parameters)


def test_interaction_is_zero_for_covariates_at_their_mean():
    network = network_of()
    generator = torch.Generator().manual_seed(0)
    context = Encoding(torch.randn(3, 5, dtype=torch.float64, generator=generator))
    zero = torch.zeros(3, 5, 2, dtype=torch.float64)
    raw = torch.zeros(3, 5, 2, 3, dtype=torch.float64)
    assert network.add_known(raw, context, zero).abs().max() < 1e-15  # SIMD tails round apart
    missing = network.add_known(raw, context, torch.full_like(zero, torch.nan))
    assert missing.abs().max() < 1e-15
    assert (network.add_known(raw, context, zero + 1) != 0).all()


def test_the_untrained_network_is_its_anchor():
    """Without head noise, raw outputs are small and covariates act nowhere."""
    network = network_of(everywhere=False)
    inputs = inputs_of()
    raw, location, _ = network(inputs)
    without = network.anchors(network.normalise(inputs.targets)).mean(-1)
    torch.testing.assert_close(location, without)  # equal shares of the three anchors
    other = inputs._replace(future_known=inputs.future_known * 5)
    torch.testing.assert_close(network(other)[0], raw)


def test_the_untrained_network_does_not_see_missing_marks():
    network = network_of(everywhere=False)
    names = [n for n, _ in network.encoder.layers[0].named_parameters() if "weight_ih" in n]
    weight = dict(network.encoder.layers[0].named_parameters())[names[0]]
    # values (2), seasonal differences (2), marks (2), past (1), its mark (1)
    assert (weight[:, [4, 5, 7]] == 0).all()
    assert (weight[:, [0, 1, 2, 3, 6]] != 0).all()


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_window_in_another_unit_gives_the_same_deviation(cell, bidirectional):
    """Reversible instance normalisation: y -> a y + b moves location and scale, not raw."""
    spec = replace(SPEC, known=(), cell=cell, bidirectional=bidirectional)
    network = network_of(spec)
    inputs = inputs_of(spec)
    raw, location, scale = network(inputs)
    raw_2, location_2, scale_2 = network(inputs._replace(targets=40 * inputs.targets + 300))
    torch.testing.assert_close(raw_2, raw)
    torch.testing.assert_close(location_2, 40 * location + 300)
    torch.testing.assert_close(scale_2, 40 * scale)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("change", [{}, {"segment": 2}, {"independent": True, "segment": 3}])
def test_dense_windows_read_the_state_that_has_come_that_far(change, missing):
    """Window k of a stretch against an encoder run over the stretch's rows up to its end, in the
    unit of the first window.
    """
    spec = replace(SPEC, lookback=6, season=2, **change)
    network = network_of(spec)
    n = 4
    extra = (n - 1) * spec.segment
    long = inputs_of(replace(spec, lookback=6 + extra, horizon=5 + extra), 3, missing, seed=5)
    static = long.static.repeat_interleave(n, 0) + torch.arange(3 * n)[:, None]
    raw, location, scale = network.forward_dense(long._replace(static=static))
    assert len(raw) == 3 * n
    residual = network.take_effect(long)
    first = network.normalise(residual[:, :6])
    seen = ~torch.isnan(residual)
    unit = torch.where(seen, (residual - first.centre) / first.scale, 0.0)
    for k in range(n):
        here = k * spec.segment
        rows = torch.arange(3) * n + k
        window = network.normalise(residual[:, here : here + 6])
        # rows that segments leave over stand in front of all of them: 6 is a multiple of segment
        until = slice(here + 6)
        last = network.encode(unit[:, until], seen[:, until], long.past[:, until])[1]
        each = spec.n_targets if spec.independent else 1
        context = Encoding(torch.cat([last, static[rows].repeat_interleave(each, 0)], -1))
        future = long.future_known[:, here : here + 5]
        own, anchor = network.decode(window, context)
        own = network.add_known(own, context, future)
        torch.testing.assert_close(raw[rows], own)
        torch.testing.assert_close(location[rows], anchor + network.effect(future))
        torch.testing.assert_close(scale[rows], window.scale)


def test_the_first_dense_window_is_the_window_itself():
    spec = replace(SPEC, lookback=6, season=2, segment=2)
    network = network_of(spec)
    long = inputs_of(replace(spec, lookback=10, horizon=9), 3, 0.2)
    dense = network.forward_dense(long._replace(static=long.static.repeat_interleave(3, 0)))
    window = Inputs(
        long.targets[:, :6],
        long.past[:, :6],
        long.known[:, :6],
        long.future_known[:, :5],
        long.static,
    )
    for found, expected in zip(dense, network(window)):
        torch.testing.assert_close(found[::3], expected)


def test_unfold_against_slices():
    x = torch.arange(2 * 11 * 3.0).view(2, 11, 3)
    expected = [x[b, start : start + 4] for b in range(2) for start in (0, 3, 6)]
    torch.testing.assert_close(unfold(x, 4, 3), torch.stack(expected))
