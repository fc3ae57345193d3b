"""States that move on row by row against encoding all rows at once: any cell, any column."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from rnnforecast.nn import CELLS, Cell, ForecastNetwork, Inputs, NetworkSpec, RecurrentStack
from rnnforecast.nn import step as step_module
from rnnforecast.nn.library import library
from rnnforecast.nn.step import StackStep
from rnnforecast.nn.stream import StreamEncoder, can_stream


class Leaky(Cell):
    """Somebody's cell: a state of its own shape beside the hidden one."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.read = nn.Linear(input_size + hidden_size, hidden_size)
        self.rate = nn.Parameter(torch.rand(hidden_size))

    def start(self, batch):
        return torch.zeros(batch, self.hidden_size), torch.zeros(batch)

    def step(self, x, state):
        h, mean = state
        new = torch.tanh(self.read(torch.cat([x, h], -1)))
        h = h + torch.sigmoid(self.rate) * (new - h)
        return h + mean[:, None], (h, 0.9 * mean + 0.1 * x.mean(-1))


class Same(CELLS["lstm"]):
    """An LSTM under another name."""


def network_of(cell, **more):
    spec = NetworkSpec(
        **{
            "n_targets": 2, "past": (), "known": (), "static": (), "lookback": 24, "horizon": 4,
            "season": 6, "n_params": 1, "cell": cell, "hidden_size": 10, "n_layers": 2,
            "bidirectional": False, "residual": True, "dropout": 0.1, "shift": "mean", **more,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    network = ForecastNetwork(spec).double().eval()
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -0.4, 0.4)
    return network


def history(spec, n_series, n):
    """Random rows with a tenth missing: targets, past, known; the last column may be codes."""
    rng = np.random.default_rng(0)
    parts = []
    for k, levels in (
        (spec.n_targets, ()),
        (len(spec.past), spec.past),
        (len(spec.known), spec.known),
    ):
        part = rng.standard_normal((n_series, n, k))
        if any(levels):
            part[..., -1] = rng.integers(0, levels[-1], part.shape[:2])
        part[rng.random(part.shape) < 0.1] = np.nan
        parts.append(part)
    return parts


@torch.no_grad()
def all_at_once(network, rows, n):
    """Encoding of rows 0 .. n - 1 in one pass, in the unit of the first look-back."""
    targets, past, known = (torch.from_numpy(part[:, :n]) for part in rows)
    residual = network.take_effect(Inputs(targets, past, known, known[:, :0], targets[:, 0, :0]))
    first = network.normalise(residual[:, : network.spec.lookback])
    observed = ~torch.isnan(residual)
    unit = torch.where(observed, (residual - first.centre) / first.scale, 0.0)
    return network.encode(unit, observed, past)[1].numpy()


def opened(network, rows, **options):
    targets, past, known = (
        torch.from_numpy(part[:, : network.spec.lookback].copy()) for part in rows
    )
    inputs = Inputs(targets, past, known, known[:, :0], targets[:, 0, :0])
    return StreamEncoder(network, inputs, **options)


CASES = [
    {"cell": Leaky},
    {"cell": Leaky, "segment": 5, "season": 1, "independent": True},
    {"cell": Same, "segment": 2},
    {"cell": "gru", "past": (0, 4)},
    {"cell": "lstm", "known": (0, 4), "past": (0,)},
    {"cell": "rnn", "known": (3,), "past": (2,),
     "independent": True},
]  # fmt: skip


@pytest.mark.parametrize("native", [False, None])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_equal_encoding_the_whole_history(case, native):
    network = network_of(**case)
    assert can_stream(network)
    rows = history(network.spec, 3, 80)
    targets, past, known = rows
    streams = [opened(network, rows, native=native, dtype=d) for d in ("float64", "float32")]
    for t in range(24, 80):
        if t == 50:  # a copy goes on alike
            streams = [copy.deepcopy(streams[0]), pickle.loads(pickle.dumps(streams[1]))]  # noqa: S301
        for stream in streams:
            stream.push(targets[:, t], past[:, t], known[:, t] if network.spec.known else None)
        if t < 40 or t % 9 == 0:
            expected = all_at_once(network, rows, t + 1)
            for stream, most in zip(streams, (1e-10, 1e-5)):
                assert np.abs(stream.encoded - expected).max() < most


def test_only_what_the_library_has_runs_in_it():
    features = np.zeros((1, 4, 3))
    there = library() is not None
    assert StackStep(RecurrentStack("gru", 3, 4, 2), features).compiled == there
    for cell in (Leaky, Same):
        assert not StackStep(RecurrentStack(cell, 3, 4, 2), features).compiled
    dilated = RecurrentStack("gru", 3, 4, dilations=((1, 2), (4,)), residual=True).double()
    x = np.random.default_rng(0).standard_normal((2, 11, 3))
    step = StackStep(dilated, x)
    assert not step.compiled
    for t in range(11):
        top = step.advance(t)
    expected = dilated(torch.from_numpy(x))[1].detach().numpy()
    assert np.abs(top - expected).max() < 1e-12
    assert not can_stream(network_of("gru", bidirectional=True))


@pytest.mark.skipif(library() is None, reason="the kernels are not built")
def test_a_stream_moves_between_machines(monkeypatch):
    """Opened without the library and gone on with it, and the other way round."""
    network = network_of("lstm", segment=2)
    rows = history(network.spec, 2, 40)
    for native_first in (False, True):
        with monkeypatch.context() as patch:
            if not native_first:
                patch.setattr(step_module, "library", lambda: None)
            stream = opened(network, rows)
            stream.push(rows[0][:, 24], None, None)
            saved = pickle.dumps(stream)
        with monkeypatch.context() as patch:
            if native_first:
                patch.setattr(step_module, "library", lambda: None)
            stream = pickle.loads(saved)  # noqa: S301
            for t in range(25, 40):
                stream.push(rows[0][:, t], None, None)
        assert np.abs(stream.encoded - all_at_once(network, rows, 40)).max() < 1e-12
