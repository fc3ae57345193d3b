"""The hybrid network: smoothing coefficients of new series, several numbers a step, any cell."""

from __future__ import annotations

import pytest
import torch

from rnnforecast.nn import Cell, initialise
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec, SeriesBatch

SPEC = ESRNNSpec(
    n_series=6,
    n_targets=2,
    periods=(4,),
    window=5,
    horizon=3,
    stride=2,
    dilations=((1, 2), (3,)),
    hidden_size=6,
    dropout=0.0,
    n_known=1,
    n_past=2,
    n_static=2,
)


class Sum(Cell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.read = torch.nn.Linear(input_size, hidden_size)

    def step(self, x, state):
        out = 0.5 * state[0] + self.read(x)
        return out, (out,)


def network_of(spec=SPEC):
    network = ESRNN(spec).double().eval()
    generator = torch.Generator().manual_seed(0)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.02 if parameter.shape[-1] == spec.n_series else 0.5
            parameter.uniform_(-scale, scale, generator=generator)
    return network


def batch_of(spec=SPEC, series=(0, 1, 3), time=21):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = len(series)
    return SeriesBatch(
        torch.tensor(series),
        torch.tensor([0, 2, 0][:n]),
        normal(n, time),
        normal(n, time, spec.n_known),
        torch.randint(0, 3, (n, time, spec.n_past), generator=generator).double(),
        torch.randint(0, 3, (n, spec.n_static), generator=generator).double(),
        normal(n),
        (normal(n, 4),),
    )


def forward(network, batch):
    plain = batch.values - network.covariates(batch.series, batch.known)
    smoothed = network.smooth(batch, plain)
    positions = network.positions(batch, plain, smoothed, [15, 16])
    return positions, *network(positions)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def test_a_new_series_takes_the_mean_logit_of_its_target():
    network = network_of()
    with torch.no_grad():
        network.seasonal[0, 4] = 0.0
    series = torch.tensor([4, -2, 3, -1])
    alpha, gammas = network.coefficients(series)
    for k, column in enumerate(([4], [0, 2, 4], [3], [1, 3, 5])):
        logits = network.alpha_logit, network.gamma_logit, network.trust_logit
        a, g, t = (sigmoid(40 * logit[..., column].mean(-1)) for logit in logits)
        torch.testing.assert_close(alpha[k], a)
        torch.testing.assert_close(gammas[:, k], torch.zeros(1) if k == 0 else g, check_dtype=False)
        torch.testing.assert_close(network.trust(series)[:, k], 2 * t)
    known = torch.randn(2, 5, 1, dtype=torch.float64)
    found = network.covariates(torch.tensor([-2, -1]), known)
    torch.testing.assert_close(
        found, torch.stack([network.effect(known)[0, :, 0], network.effect(known)[1, :, 1]])
    )
    forward(network, batch_of(series=(-2, -1, 5)))[1].sum().backward()
    assert network.alpha_logit.grad.isfinite().all()


@pytest.mark.parametrize("cell", ["lstm", "gru", Sum])
@pytest.mark.parametrize("n_params", [1, 3])
def test_raw_numbers_stand_on_what_the_smoothing_expects(cell, n_params):
    network = network_of(SPEC._replace(cell=cell, n_params=n_params))
    positions, raw, location = forward(network, batch_of())
    n_positions, batch = positions.features.shape[:2]
    assert raw.shape == (n_positions, batch, 3, n_params) and location.shape == raw.shape[:3]
    x = positions.features
    linear = x[..., :5] @ network.skip.weight.T
    torch.testing.assert_close(location, positions.base + linear)
    states, _ = network.stack(x.transpose(0, 1))
    hidden = torch.tanh(network.adapter(states[1]))  # of the second row of the batch
    expected = (network.head.weight @ hidden.T).T + network.head.bias
    torch.testing.assert_close(raw[:, 1].flatten(1), expected)


def test_categories_are_read_by_their_embeddings():
    spec = SPEC._replace(past_levels=(0, 3), static_levels=(3, 0))
    network, batch = network_of(spec), batch_of(spec)
    first = forward(network, batch)[1:]
    past, static = batch.past.clone(), batch.static.clone()
    past[..., 1], static[:, 0] = (past[..., 1] + 1) % 3, (static[:, 0] + 1) % 3
    other = batch._replace(past=past, static=static)
    assert (forward(network, other)[1] - first[0]).abs().max() > 1e-6
    with torch.no_grad():
        for columns in (network.past_columns, network.static_columns):
            (table,) = columns.tables
            table[:3] = table[[2, 0, 1]]
    for a, b in zip(forward(network, other)[1:], first):
        torch.testing.assert_close(a, b)
