"""The diffusion-convolutional GRU against its equations, written out with NumPy."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.linalg import matrix_power
from torch import nn

from rnnforecast.nn import Inputs, RecurrentStack, initialise
from rnnforecast.nn.graph import DiffusionGRUCell, Graph, GraphNetwork, GraphSpec

W = np.array([[0, 2, 1, 0], [0, 0, 3, 0], [0.5, 0, 0, 0], [0, 0, 0, 0]])  # node 3 stands alone
N = len(W)
GENERATOR = torch.Generator().manual_seed(1)


def seeded(module, seed=0):
    initialise(module, torch.Generator().manual_seed(seed))
    return module.double()


def cell_on(adjacency=W, hops=2, size=3, hidden=5):
    """A cell, and a module that owns it with its graph."""
    graph = Graph(N, hops, adjacency)
    cell = DiffusionGRUCell(size, hidden, graph)
    return cell, seeded(nn.ModuleList([graph, cell]))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolution(x, theta, adjacency, hops, both=True):
    """Li et al. 2018, eq. 2: the sum over k of theta_k1 (D_O^-1 W)^k x + theta_k2 (D_I^-1 W')^k x,
    and theta_0 once; x is (nodes, size), theta (out, walks, size).
    """
    n = len(adjacency)
    inverse = [np.diag([1 / d if d else 0.0 for d in adjacency.sum(axis)]) for axis in (1, 0)]
    forward, backward = inverse[0] @ adjacency, inverse[1] @ adjacency.T
    walks = [np.eye(n)] + [matrix_power(forward, k) for k in range(1, hops + 1)]
    if both:
        walks += [matrix_power(backward, k) for k in range(1, hops + 1)]
    return sum(walk @ x @ theta[:, k].T for k, walk in enumerate(walks))


def literal(cell, x, h, adjacency, hops, both=True):
    """Li et al. 2018, eq. 3 and 4, of one window: x is (nodes, size), h (nodes, hidden)."""
    hidden = h.shape[1]
    walks = 1 + hops * (2 if both else 1)

    def part(layer, gate, size):
        weight = layer.weight.detach().numpy()[gate * hidden : (gate + 1) * hidden]
        return weight.reshape(hidden, walks, size)

    def of_x(gate):
        bias = cell.input.bias.detach().numpy()[gate * hidden : (gate + 1) * hidden]
        return convolution(x, part(cell.input, gate, x.shape[1]), adjacency, hops, both) + bias

    def of_h(layer, gate, h):
        return convolution(h, part(layer, gate, hidden), adjacency, hops, both)

    r = sigmoid(of_x(0) + of_h(cell.gates, 0, h))
    u = sigmoid(of_x(1) + of_h(cell.gates, 1, h))
    c = np.tanh(of_x(2) + of_h(cell.recurrent, 0, r * h))
    return u * h + (1 - u) * c


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("learned", [False, True])
def test_a_step_is_that_of_the_paper(learned, hops):
    cell, (graph, _) = cell_on(None if learned else W, hops)
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(2, N, 3)), rng.normal(size=(2, N, 5))
    weights = W
    if learned:  # Wu et al. 2019, eq. 5
        e1, e2 = (p.detach().numpy() for p in (graph.source, graph.target))
        weights = np.exp(np.maximum(e1 @ e2.T, 0))
        weights /= weights.sum(1, keepdims=True)
        np.testing.assert_allclose(graph.adjacency().detach(), weights, rtol=1e-12)
    rows = [torch.from_numpy(part.reshape(2 * N, -1)) for part in (x, h)]
    out, (state,) = cell.step(rows[0], (rows[1],))
    expected = [literal(cell, *each, weights, hops, not learned) for each in zip(x, h)]
    np.testing.assert_allclose(out.detach(), np.concatenate(expected), rtol=1e-10)
    assert state is out


def test_a_walk_spreads_all_that_a_node_has_and_a_lonely_node_has_none():
    walks = Graph(N, 3, W)(torch.zeros(1, dtype=torch.float64)).numpy()
    assert walks.shape == (7, N, N)
    np.testing.assert_array_equal(walks[0], np.eye(N))
    np.testing.assert_allclose(walks[1:, :3].sum(-1), 1)
    np.testing.assert_array_equal(walks[1:, 3], 0)
    scaled = Graph(N, 3, 7 * W)(torch.zeros(1, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(scaled, walks, rtol=1e-12)


def test_on_a_graph_without_edges_it_is_the_gru_of_cho():
    cell, _ = cell_on(np.zeros((N, N)), hops=1)
    gru = RecurrentStack("gru_cho", 3, 5).double().layers[0]
    with torch.no_grad():
        gru.input.weight.copy_(cell.input.weight[:, :3])
        gru.input.bias.copy_(cell.input.bias)
        gru.gates.weight.copy_(cell.gates.weight[:, :5])
        gru.recurrent.weight.copy_(cell.recurrent.weight[:, :5])
    x = torch.randn(2 * N, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cell.scan(x)[0], gru.scan(x)[0])


def test_a_scan_is_its_steps_and_carries_its_state():
    cell, _ = cell_on()
    x = torch.randn(2 * N, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, last = cell.scan(x)
    state = cell.first(x)
    for t in range(7):
        out, state = cell.step(x[:, t], state)
        torch.testing.assert_close(out, whole[:, t])
    first, state = cell.scan(x[:, :3])
    rest, state = cell.scan(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    torch.testing.assert_close(state, last)
    # of all nodes of a window alike: they are one graph at one time
    lengths = torch.tensor([7, 4]).repeat_interleave(N)
    short, carried = cell.scan(x, lengths=lengths)
    torch.testing.assert_close(short[N:, :4], whole[N:, :4])
    torch.testing.assert_close(carried[0][N:], whole[N:, 3])
    assert not short[N:, 4:].any()


@pytest.mark.parametrize("learned", [False, True])
def test_gradients(learned):
    cell, parts = cell_on(None if learned else W, 2, 2, 2)
    x = torch.randn(N, 3, 2, dtype=torch.float64, requires_grad=True, generator=GENERATOR)
    weights = list(parts.parameters())
    assert len(weights) == (6 if learned else 4)
    assert torch.autograd.gradcheck(lambda x, *_: cell.scan(x)[0], (x, *weights))


def network(n_series=4, **changed):
    shape = {
        "n_targets": 1,
        "horizon": 2,
        "n_params": 1,
        "cell": "gru",
        "hidden_size": 5,
        "dropout": 0.0,
        "lookback": 6,
        "season": 2,
        "n_layers": 2,
        "bidirectional": False,
        "residual": False,
        "past": (0,),
        "known": (0, 3),
        "static": (0,),
        "n_nodes": n_series * changed.get("n_targets", 1),
        "hops": 2,
        "adjacency": tuple(map(tuple, W.tolist())),
    }
    made = seeded(GraphNetwork(GraphSpec(**{**shape, **changed})))
    with torch.no_grad():  # what starts at zero would hide what it reads
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=GENERATOR))
    return made


def inputs(rows=4, n_targets=1):
    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)

    def known(steps):
        codes = torch.randint(3, (rows, steps, 1), generator=GENERATOR).double()
        return torch.cat([normal(rows, steps, 1), codes], -1)

    targets = normal(rows, 6, n_targets)
    targets[1, 2] = torch.nan
    return Inputs(targets, normal(rows, 6, 1), known(6), known(2), normal(rows, 1))


def changed(batch, row, name, value=3.0):
    new = getattr(batch, name).clone()
    new[row, -1] += value
    return batch._replace(**{name: new})


def test_a_node_reads_its_neighbours_and_its_own_steps_ahead_alone():
    net, batch = network(), inputs()
    raw, anchor, scale = net(batch)
    for name, reach in (
        ("targets", True),
        ("past", True),
        ("future_known", False),
        ("static", False),
    ):
        other = net(changed(batch, 0, name))
        moved = (other[0] - raw).abs().amax((1, 2, 3)) > 1e-9
        # nodes 1 and 2 are joined with 0, by edges or against them; node 3 with none
        assert moved.tolist() == [True, reach, reach, False], name
        torch.testing.assert_close(other[1][1:], anchor[1:])
    twice = Inputs(*(torch.cat([part, 2 * part]) for part in batch))  # another time: its own rows
    torch.testing.assert_close(net(twice)[0][:4], raw)


def test_the_order_of_the_nodes_is_no_matter():
    order = [2, 0, 3, 1]
    one, batch = network(), inputs()
    other = network(adjacency=tuple(map(tuple, W[np.ix_(order, order)].tolist())))
    other.load_state_dict(one.state_dict())
    moved = Inputs(*(part[order] for part in batch))
    for a, b in zip(one(batch), other(moved), strict=True):
        torch.testing.assert_close(a[order], b)


def test_several_targets_are_nodes_beside_one_another():
    by_two = np.zeros((4, 4))
    by_two[0, 2] = 1  # the first target of series 0 reads the first of series 1
    adjacency = tuple(map(tuple, by_two.tolist()))
    net = network(2, n_targets=2, independent=True, adjacency=adjacency, known=(), past=())
    batch = inputs(2, 2)
    batch = batch._replace(past=batch.past[..., :0], future_known=batch.future_known[..., :0])
    raw = net(batch)[0]
    targets = batch.targets.clone()
    targets[1, :, 0] += torch.linspace(0, 3, 6, dtype=torch.float64)
    moved = (net(batch._replace(targets=targets))[0] - raw).abs().amax((1, 3)) > 1e-9
    assert moved.tolist() == [[True, False], [True, False]]


def test_all_layers_share_one_graph_that_copies_take_along():
    net, batch = network(adjacency=None), inputs()
    assert sum("source" in name for name in net.state_dict()) == 1
    new = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]  # noqa: S301
    before = net(batch)[0]
    for other in new:
        torch.testing.assert_close(other(batch)[0], before)
        with torch.no_grad():
            other.graph.source.add_(torch.randn(4, 10, generator=GENERATOR))
        assert (other(batch)[0] - before).abs().max() > 1e-6
    torch.testing.assert_close(net(batch)[0], before)


def test_a_new_network_is_blind_to_missing_marks():
    net = GraphNetwork(network().spec)
    initialise(net, torch.Generator().manual_seed(0))
    weight = net.encoder.layers[0].input.weight.detach().unflatten(1, (5, -1))
    assert weight.shape == (15, 5, 5)  # value, seasonal difference, mark, past covariate, its mark
    assert (weight == 0).all(0).all(0).tolist() == [False, False, True, False, True]
