"""Series on a graph: the diffusion-convolutional GRU (Li et al. 2018, arXiv:1707.01926, "DCRNN").

The rows of a batch are the nodes of a graph, all of one window, then all of the next. They share
every weight; what makes a node more than a row is that its cell reads those that random walks on
the graph lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnforecast.nn.cells import Cell, State
from rnnforecast.nn.layers import RecurrentStack
from rnnforecast.nn.network import ForecastNetwork, NetworkSpec

__all__ = ["DiffusionGRUCell", "Graph", "GraphNetwork", "GraphSpec"]

_EMBEDDING = 10  # numbers by which a node is known to a learned graph (Wu et al. 2019, section 4.2)


@dataclass(frozen=True, kw_only=True)
class GraphSpec(NetworkSpec):
    """What fixes a network's shape, and the graph where it is known."""

    n_nodes: int
    hops: int
    adjacency: tuple[tuple[float, ...], ...] | None = None  # None: learned


class Graph(nn.Module):
    """Random walks over the nodes of a graph.

    Parameters
    ----------
    n_nodes, hops : int
        Nodes, and steps of the longest walk.
    adjacency : array-like, shape (n_nodes, n_nodes), optional
        Non-negative; row i has the weights with which node i reads the others. Walks then go along
        the edges and against them (Li et al. 2018, eq. 2). None: learned, and read in its own
        direction (Wu et al. 2019, arXiv:1906.00121, eq. 5 and 7).
    """

    def __init__(self, n_nodes: int, hops: int, adjacency: Any = None):
        super().__init__()
        self.hops, self.known = hops, None if adjacency is None else np.array(adjacency, float)
        self.n_walks = 1 + hops * (1 if adjacency is None else 2)
        if adjacency is None:
            self.source = nn.Parameter(torch.randn(n_nodes, _EMBEDDING))
            self.target = nn.Parameter(torch.randn(n_nodes, _EMBEDDING))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Edges begin about equal, and above the kink of the rectifier, where they learn."""
        for parameter in self.parameters():
            parameter.uniform_(0.0, 2 * _EMBEDDING**-0.5, generator=generator)

    def adjacency(self) -> Tensor:
        """Weights of the edges, (n_nodes, n_nodes)."""
        if self.known is not None:
            return torch.from_numpy(self.known)
        return torch.softmax(torch.relu(self.source @ self.target.T), -1)

    def forward(self, like: Tensor) -> Tensor:
        """Shares in which walks of 0, 1, ..., ``hops`` steps from a node end at each other one, in
        the type of ``like`` and on its device: (n_walks, n_nodes, n_nodes).
        """
        weights = self.adjacency().to(like)
        ways = [weights] if self.known is None else [weights, weights.T]
        walks = [torch.eye(len(weights), dtype=like.dtype, device=like.device)]
        for way in ways:
            degree = way.sum(1, keepdim=True)
            walk = way / torch.where(degree > 0, degree, 1.0)  # D^-1 W
            power = walk
            for k in range(self.hops):
                power = walk @ power if k else walk
                walks.append(power)
        return torch.stack(walks)


class DiffusionGRUCell(Cell):
    """Li et al. 2018, eq. 2 to 4: a GRU whose products are diffusion convolutions.

    Rows come in blocks of the graph's nodes, and the reset gate acts before the product. The graph
    belongs to the network, since all its cells share it.
    """

    def __init__(self, input_size: int, hidden_size: int, graph: Graph):
        super().__init__(input_size, hidden_size)
        self._shared = (graph,)  # no part of this module
        n, size = graph.n_walks, self.hidden_size
        self.input = nn.Linear(n * self.input_size, 3 * size)
        self.gates = nn.Linear(n * size, 2 * size, bias=False)
        self.recurrent = nn.Linear(n * size, size, bias=False)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Sums over all walks begin as large as those of a GRU."""
        for layer in (self.input, self.gates, self.recurrent):
            layer.weight.mul_(self._shared[0].n_walks ** -0.5)

    def step(self, x: Tensor, state: State, walks: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of ``x: (batch * n_nodes, input_size)``; ``walks`` are those of the graph."""
        (h,) = state
        walks = self._shared[0](x) if walks is None else walks
        x_r, x_u, x_c = self.input(_diffused(x, walks)).chunk(3, -1)
        h_r, h_u = self.gates(_diffused(h, walks)).chunk(2, -1)
        u = torch.sigmoid(x_u + h_u)
        c = torch.tanh(x_c + self.recurrent(_diffused(torch.sigmoid(x_r + h_r) * h, walks)))
        h = u * h + (1 - u) * c
        return h, (h,)

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As ``Cell.scan``, with the walks found once."""
        walks = self._shared[0](x)
        steps: Any = SimpleNamespace(
            step=lambda x, state: self.step(x, state, walks),
            first=self.first,
            hidden_size=self.hidden_size,
        )
        return Cell.scan(steps, x, state, lengths)


def _diffused(x: Tensor, walks: Tensor) -> Tensor:
    """What each walk brings to each node, side by side: (batch * n_nodes, n_walks * size)."""
    n_walks, n, _ = walks.shape
    by_node = walks.transpose(0, 1).reshape(n * n_walks, n)
    batch = len(x) // n
    every = torch.bmm(by_node.expand(batch, -1, -1), x.unflatten(0, (batch, n)))
    return every.reshape(len(x), n_walks * x.shape[1])


class GraphNetwork(ForecastNetwork):
    """A forecasting network whose recurrent layers read the neighbours on a graph too.

    A row of its inputs is one series at one time: all series, in the order of the graph, at one
    time, then all at the next. Of several targets of a series each is a node, beside one another.
    """

    def __init__(self, spec: GraphSpec):
        super().__init__(spec)
        self.graph = Graph(spec.n_nodes, spec.hops, spec.adjacency)
        stacks = [part for part in self.modules() if isinstance(part, RecurrentStack)]
        width: Any = self.encoder.layers[0].input_size
        for stack in stacks:
            plain: Any = stack.layers
            stack.layers = nn.ModuleList(
                DiffusionGRUCell(cell.input_size, cell.hidden_size, self.graph) for cell in plain
            )
        walks = range(self.graph.n_walks)
        self._marks = [k * width + mark for k in walks for mark in self._marks]
