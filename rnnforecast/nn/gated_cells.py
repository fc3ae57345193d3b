"""Gated cells beyond those of the native kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from rnnforecast.nn.cells import ACTIVATIONS, Cell, State, register_cell, steps_ended

__all__ = ["ChoGRUCell", "IndRNNCell", "MGUCell", "MLSTMCell", "SLSTMCell"]

_NEVER = -1e4  # logarithm of a gate that is shut
_CHUNK = 64  # steps of an mLSTM that attend to one another at once


@register_cell("gru_cho")
class ChoGRUCell(Cell):
    """Cho et al. 2014 (arXiv:1406.1078, eq. 5 to 8): the reset gate before the product."""

    recurrent_weights = ("gates.weight", "recurrent.weight")

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        size = self.hidden_size
        self.input = nn.Linear(self.input_size, 3 * size)
        self.gates = nn.Linear(size, 2 * size, bias=False)
        self.recurrent = nn.Linear(size, size, bias=False)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        x_r, x_z, x_n = self.input(x).chunk(3, -1)
        h_r, h_z = self.gates(h).chunk(2, -1)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + self.recurrent(torch.sigmoid(x_r + h_r) * h))
        h = z * h + (1 - z) * n
        return h, (h,)


@register_cell("mgu")
class MGUCell(Cell):
    """The minimal gated unit, a GRU with one gate (Zhou et al. 2016, arXiv:1603.09420, section 3;
    but the candidate sees (1 - z) h, what the gate keeps, where the paper has z h).
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(self.input_size, 2 * self.hidden_size)
        self.gate = nn.Linear(self.hidden_size, self.hidden_size, bias=False)
        self.recurrent = nn.Linear(self.hidden_size, self.hidden_size, bias=False)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        x_z, x_n = self.input(x).chunk(2, -1)
        z = torch.sigmoid(x_z + self.gate(h))
        kept = (1 - z) * h
        h = kept + z * torch.tanh(x_n + self.recurrent(kept))
        return h, (h,)


@register_cell("indrnn")
class IndRNNCell(Cell):
    """Independently recurrent network (Li et al. 2018, arXiv:1803.04831, eq. 2): each unit sees its
    own past alone. Recurrent weights start between 0 and 1.
    """

    def __init__(self, input_size: int, hidden_size: int, activation: str = "relu"):
        super().__init__(input_size, hidden_size)
        self.activation = activation
        self.input = nn.Linear(self.input_size, self.hidden_size)
        self.recurrent = nn.Parameter(torch.rand(self.hidden_size))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        self.recurrent.uniform_(0.0, 1.0, generator=generator)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        h = ACTIVATIONS[self.activation](self.input(x) + self.recurrent * h)
        return h, (h,)


def _n_heads(hidden_size: int) -> int:
    return math.gcd(hidden_size, 4)


@register_cell("slstm")
class SLSTMCell(Cell):
    """LSTM with exponential input gate (Beck et al. 2024, arXiv:2405.04517, eq. 8 to 17), its
    recurrent weights in four blocks, or as many as divide the hidden size.

    The state is output h, cell c, normaliser n and the logarithm m of what both are divided by.
    """

    recurrent_weights = ("recurrent",)
    forget_gate = ("input.bias", 1, 4)

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(self.input_size, 4 * self.hidden_size)
        heads = _n_heads(self.hidden_size)
        size = self.hidden_size // heads
        self.recurrent = nn.Parameter(torch.empty(4, heads, size, size))
        nn.init.uniform_(self.recurrent, -(self.hidden_size**-0.5), self.hidden_size**-0.5)

    def start(self, batch: int) -> State:
        (zero,) = super().start(batch)
        return zero, zero, zero, zero + _NEVER

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Forget gates that remember from 20 to 400 steps."""
        size = self.hidden_size
        self.input.bias[size : 2 * size] = torch.linspace(3.0, 6.0, size)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c, n, m = state
        blocks = h.view(len(h), *self.recurrent.shape[1:3])
        mixed = torch.einsum("bki,gkij->bgkj", blocks, self.recurrent).flatten(1)
        i, f, z, o = (self.input(x) + mixed).chunk(4, -1)
        kept = logsigmoid(f) + m
        m = torch.maximum(kept, i)
        keep, add = torch.exp(kept - m), torch.exp(i - m)
        c = keep * c + add * torch.tanh(z)
        n = keep * n + add
        h = torch.sigmoid(o) * c / n
        return h, (h, c, n, m)


@register_cell("mlstm")
class MLSTMCell(Cell):
    """LSTM with a matrix memory (Beck et al. 2024, arXiv:2405.04517, eq. 19 to 27), in four heads,
    or as many as divide the hidden size.

    The state is memory C, normaliser n and the logarithm m of what both are divided by. Without
    recurrent weights, steps can attend to one another, which ``scan`` does in chunks.
    """

    forget_gate = ("gates.bias", 1, 2)

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.heads = _n_heads(self.hidden_size)
        self.input = nn.Linear(self.input_size, 4 * self.hidden_size)  # query, key, value, output
        self.gates = nn.Linear(self.input_size, 2 * self.heads)

    def start(self, batch: int) -> State:
        zero = self.gates.weight.new_zeros(batch, self.heads)
        size = self.hidden_size // self.heads
        return (
            zero[..., None, None].repeat(1, 1, size, size),
            zero[..., None].repeat(1, 1, size),
            zero + _NEVER,
        )

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Gates blind to the input at first, forget gates that remember from 20 to 400 steps."""
        self.gates.weight.zero_()
        self.gates.bias[: self.heads] = 0.0
        self.gates.bias[self.heads :] = torch.linspace(3.0, 6.0, self.heads)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key, value (..., heads, size), output gate (..., hidden_size), logarithms of input
        and forget gate (..., heads).
        """
        *qkv, o = self.input(x).chunk(4, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv)
        i, f = self.gates(x).chunk(2, -1)
        return q, k / math.sqrt(k.shape[-1]), v, torch.sigmoid(o), i, logsigmoid(f)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        memory, n, m = state
        q, k, v, o, i, f = self._parts(x)
        kept = f + m
        m = torch.maximum(kept, i)
        keep, add = torch.exp(kept - m)[..., None], torch.exp(i - m)[..., None]
        memory = keep[..., None] * memory + (add * v)[..., None] * k[..., None, :]
        n = keep * n + add * k
        size = torch.maximum((n * q).sum(-1).abs(), _one(m))
        h = (memory @ q[..., None])[..., 0] / size[..., None]
        return o * h.flatten(-2), (memory, n, m)

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As ``Cell.scan``, in chunks of steps that attend to one another."""
        ended = None if lengths is None else steps_ended(x, lengths)[..., None]
        if ended is not None:
            x = x.masked_fill(ended, 0.0)
        state = self.first(x) if state is None else state
        if not x.shape[1]:
            return x.new_zeros(len(x), 0, self.hidden_size), state
        q, k, v, o, i, f = self._parts(x)
        if ended is not None:  # the state is carried
            i, f = i.masked_fill(ended, -math.inf), f.masked_fill(ended, 0.0)
        outputs = []
        for part in zip(*(whole.split(_CHUNK, 1) for whole in (q, k, v, i, f))):
            out, state = _attend(state, *part)
            outputs.append(out)
        out = o * torch.cat(outputs, 1)
        return (out if ended is None else out.masked_fill(ended, 0.0)), state


def _one(m: Tensor) -> Tensor:
    """1, divided by what memory and normaliser are; finite where no gate was ever open, and more
    than zero where one was wide open.
    """
    return torch.exp(-m.clamp(-60.0, 60.0))


def _attend(
    state: State, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor
) -> tuple[Tensor, State]:
    """Steps of an mLSTM at once: (batch, time, hidden_size), and the state after them."""
    memory, n, m = state
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (batch, heads, time, size)
    i, f = i.transpose(1, 2), f.transpose(1, 2).cumsum(-1)  # (batch, heads, time)
    # logarithm of what step t keeps of step s, and of the state before
    weight = f[..., :, None] - f[..., None, :] + i[..., None, :]
    weight = weight.masked_fill(torch.ones_like(weight[0, 0]).triu(1).bool(), -math.inf)
    before = f + m[..., None]
    largest = torch.maximum(weight.amax(-1), before)
    weight = torch.exp(weight - largest[..., None])
    before = torch.exp(before - largest)[..., None]
    share = weight * (q @ k.mT)
    total = share @ v + before * (q @ memory.mT)
    norm = share.sum(-1) + (before * q * n[..., None, :]).sum(-1)
    h = total / torch.maximum(norm.abs(), _one(largest))[..., None]
    last, left = weight[..., -1, :, None], before[..., -1, :]
    memory = left[..., None] * memory + (last * v).mT @ k
    n = left * n + (last * k).sum(-2)
    return h.transpose(1, 2).flatten(2), (memory, n, largest[..., -1])
