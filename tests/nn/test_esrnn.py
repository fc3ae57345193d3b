"""The hybrid network: smoothing coefficients of new series, several numbers a step, any cell."""

from __future__ import annotations

from dataclasses import replace

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
    n_params=1,
    cell="lstm",
    dropout=0.0,
    known=(0,),
    past=(0, 0),
    static=(0, 0),
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
            scale = 0.02 if parameter is network.logits else 0.5
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
        normal(n, time, len(spec.known)),
        torch.randint(0, 3, (n, time, len(spec.past)), generator=generator).double(),
        torch.randint(0, 3, (n, len(spec.static)), generator=generator).double(),
        torch.ones(1, n, dtype=torch.float64),
        (normal(n, 1), normal(n, 4)),
    )


def forward(network, batch):
    plain = batch.values - network.covariates(batch.series, batch.known)
    return network(batch, plain, network.smooth(batch, plain), [15, 16])[:2]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def test_a_new_series_takes_the_mean_logit_of_its_target():
    network = network_of()
    series = torch.tensor([4, -2, 3, -1])
    alpha, gammas, trusts = network.coefficients(series)
    for k, column in enumerate(([4], [0, 2, 4], [3], [1, 3, 5])):
        a, g, t = sigmoid(40 * network.logits[:, column].mean(-1))
        torch.testing.assert_close(alpha[k], a)
        torch.testing.assert_close(gammas[0, k], g)
        torch.testing.assert_close(trusts[0, k], 2 * t)
    known = torch.randn(2, 5, 1, dtype=torch.float64)
    found = network.covariates(torch.tensor([-2, -1]), known)
    torch.testing.assert_close(
        found, torch.stack([network.effect(known)[0, :, 0], network.effect(known)[1, :, 1]])
    )
    forward(network, batch_of(series=(-2, -1, 5)))[0].sum().backward()
    assert network.logits.grad.isfinite().all()


def test_a_series_too_short_for_a_season_keeps_it_as_it_was():
    network, batch = network_of(), batch_of()
    terms = network.smooth(batch._replace(able=torch.zeros_like(batch.able)), batch.values)
    torch.testing.assert_close(terms[1][:, 4:], terms[1][:, :-4])
    assert not torch.equal(*(network.smooth(batch, batch.values)[1][:, k : k + 21] for k in (0, 4)))


@pytest.mark.parametrize("cell", ["lstm", "gru", Sum])
@pytest.mark.parametrize("n_params", [1, 3])
def test_raw_numbers_stand_on_what_the_smoothing_expects(cell, n_params):
    network = network_of(replace(SPEC, cell=cell, n_params=n_params))
    batch = batch_of()
    raw, location = forward(network, batch)
    plain = batch.values - network.covariates(batch.series, batch.known)
    for phase, end in enumerate((15, 16)):
        x, base, last = network.read(batch, plain, network.smooth(batch, plain), end)
        n = raw.shape[2]
        x, base = x[:, -n:], base[:, -n:]
        assert last[-1] == end and raw.shape == (2, 3, n, 3, n_params)
        torch.testing.assert_close(location[phase], base + x[..., :5] @ network.skip.weight.T)
        hidden = torch.tanh(network.adapter(network.stack(x)[0][1]))  # of the second row
        expected = (network.head.weight @ hidden.T).T + network.head.bias
        torch.testing.assert_close(raw[phase, 1].flatten(1), expected)


def test_categories_are_read_by_their_embeddings():
    spec = replace(SPEC, past=(0, 3), static=(3, 0))
    network, batch = network_of(spec), batch_of(spec)
    first = forward(network, batch)
    past, static = batch.past.clone(), batch.static.clone()
    past[..., 1], static[:, 0] = (past[..., 1] + 1) % 3, (static[:, 0] + 1) % 3
    other = batch._replace(past=past, static=static)
    assert (forward(network, other)[0] - first[0]).abs().max() > 1e-6
    with torch.no_grad():
        for columns in (network.past_columns, network.static_columns):
            (table,) = columns.tables
            table[:3] = table[[2, 0, 1]]
    for a, b in zip(forward(network, other), first):
        torch.testing.assert_close(a, b)
