"""Recurrent cells: the equations of one step, and how a sequence is read with them.

Each equation stands once, in ``step``. The native kernels are the only other place that has them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnforecast.exceptions import DataError
from rnnforecast.nn._kernels import Given, flatten, run

__all__ = ["CELLS", "Cell", "FusedCell", "State", "cell_class", "is_fused", "register_cell"]

State = tuple[Tensor, ...]

CELLS: dict[str, type[Cell]] = {}


def register_cell(name: str) -> Callable[[type[Cell]], type[Cell]]:
    """Class decorator: make a cell known as ``cell=name``."""

    def register(cell: type[Cell]) -> type[Cell]:
        CELLS[name] = cell
        return cell

    return register


def cell_class(cell: Any, owner: str = "RecurrentStack") -> type[Cell]:
    """The class of a cell, given by itself or by its registered name.

    Raises
    ------
    DataError
        If it is neither; the message begins with ``owner``.
    """
    if isinstance(cell, str) and cell in CELLS:
        return CELLS[cell]
    if isinstance(cell, type) and issubclass(cell, Cell):
        return cell
    names = ", ".join(map(repr, sorted(CELLS)))
    raise DataError(
        f"{owner}: cell must be one of {names}, or a subclass of rnnforecast.nn.Cell. Got {cell!r}"
    )


class Cell(nn.Module, ABC):
    """One recurrent cell, ``(x, state) -> (out, state)``: state goes in and comes out.

    A subclass makes its parameters in ``__init__(input_size, hidden_size)`` and defines ``step``,
    and ``start`` where its first state is not one tensor of zeros like its output. It then works in
    every network, in both directions, dilated, as a decoder and in a stream. Parameters and linear
    layers of its own start uniform within ±1/sqrt(hidden_size), unless it has a method
    ``reset(generator)`` that fills them.

    Parameters
    ----------
    input_size, hidden_size : int

    Examples
    --------
    >>> import torch
    >>> from rnnforecast.nn import Cell, RecurrentStack
    >>> class Leaky(Cell):  # Jaeger et al. 2007, Neural Networks 20(3), eq. 2
    ...     def __init__(self, input_size, hidden_size):
    ...         super().__init__(input_size, hidden_size)
    ...         self.read = torch.nn.Linear(input_size + hidden_size, hidden_size)
    ...
    ...     def start(self, batch):
    ...         return (torch.zeros(batch, self.hidden_size),)
    ...
    ...     def step(self, x, state):
    ...         (h,) = state
    ...         h = 0.8 * h + 0.2 * torch.tanh(self.read(torch.cat([x, h], -1)))
    ...         return h, (h,)
    >>> outputs, last = RecurrentStack(Leaky, 3, 8, n_layers=2)(torch.ones(4, 7, 3))
    >>> outputs.shape, last.shape
    (torch.Size([4, 7, 8]), torch.Size([4, 8]))
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        # torch refuses NumPy's integers, which a grid of numpy.arange is made of
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "step" in own and "scan" not in own and "kernel" not in own:
            cls.scan = Cell.scan  # type: ignore[method-assign]  # no kernel has these equations

    def start(self, batch: int) -> State:
        """First state, each tensor ``(batch, ...)``; taken to the input's type and device."""
        like = next(self.parameters(), torch.empty(0))
        return (like.new_zeros(batch, self.hidden_size),)

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step.

        Parameters
        ----------
        x : Tensor of shape (batch, input_size)
        state : tuple of Tensor

        Returns
        -------
        out : Tensor of shape (batch, hidden_size)
        state : tuple of Tensor
            Of the shapes that came in.
        """

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read a sequence from its first step to its last.

        Parameters
        ----------
        x : Tensor of shape (batch, time, input_size)
        state : tuple of Tensor, optional
            Of :meth:`start`, if None.
        lengths : int64 Tensor of shape (batch,), optional
            Steps that each row has. After them its state is carried and its outputs are zero.

        Returns
        -------
        outputs : Tensor of shape (batch, time, hidden_size)
        state : tuple of Tensor
            After the last step.
        """
        ended = None
        if lengths is not None:
            ended = steps_ended(x, lengths)
            x = x.masked_fill(ended[..., None], 0.0)
        if state is None:
            state = self.first(x)
        outputs = []
        for t in range(x.shape[1]):
            out, new = self.step(x[:, t], state)
            if out.shape != (len(x), self.hidden_size):
                raise DataError(
                    f"{type(self).__name__}.step must return an output of shape "
                    f"{(len(x), self.hidden_size)}. Got {tuple(out.shape)}"
                )
            if ended is not None:
                out = out.masked_fill(ended[:, t, None], 0.0)
                new = tuple(torch.where(ended[:, t].view(-1, *[1] * (n.dim() - 1)), s, n)
                            for s, n in zip(state, new))  # fmt: skip
            outputs.append(out)
            state = tuple(new)
        if not outputs:
            return x.new_zeros(len(x), 0, self.hidden_size), state
        return torch.stack(outputs, 1), state

    def first(self, x: Tensor) -> State:
        """``start`` for every row of x, in its type and on its device."""
        return tuple(
            s.to(x) if s.is_floating_point() else s.to(x.device) for s in self.start(len(x))
        )


def steps_ended(x: Tensor, lengths: Tensor) -> Tensor:
    """Whether a row of ``x: (batch, time, ...)`` has no such step any more: (batch, time)."""
    steps = torch.arange(x.shape[1], device=x.device)
    return steps >= torch.as_tensor(lengths, device=x.device)[:, None]


# ---- the cells that the native kernels have ------------------------------------------------------


class FusedCell(Cell):
    """A cell whose ``scan`` runs on the native kernels; weights are named and laid out as torch's.

    Its ``step`` reads nothing but its weights, and takes any leading axes that broadcast. The first
    tensor of the state is the output.
    """

    kernel = ""  # "rnn", "lstm" or "gru"
    gates = n_states = 1
    peepholes = False

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        rows = self.gates * self.hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, self.input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, self.hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        if self.peepholes:  # what input, forget and output gate see of the cell
            self.weight_peephole = nn.Parameter(torch.empty(3, self.hidden_size))
        for parameter in self.parameters():  # as torch's own, until ``initialise`` fills them
            nn.init.uniform_(parameter, -(self.hidden_size**-0.5), self.hidden_size**-0.5)

    def start(self, batch: int) -> State:
        return super().start(batch) * self.n_states

    def weights(self) -> Given:
        """As the kernels take them."""
        return (*self._parameters.values(), None)[:5]

    def _apply(self, *args: Any, **kwargs: Any) -> FusedCell:
        super()._apply(*args, **kwargs)
        flatten(self)
        return self

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        weights = self.weights()
        if lengths is None or not x.shape[1]:
            return run(type(self), x, state, weights)
        ended = steps_ended(x, lengths)
        mark = ended[..., None]
        x = x.masked_fill(mark, 0.0)
        if self.n_states == 2:
            if not x.is_cpu:  # cuDNN wants the weights as they lie
                return super().scan(x, state, lengths)
            # one more input that shuts the input gate and opens the forget gate carries the cell
            x = torch.cat([x, mark.to(x)], -1)
            shut = self.weight_ih.new_tensor([-1e4, 1e4, 0.0, 0.0])
            column = shut.repeat_interleave(self.hidden_size)[:, None]
            weights = (torch.cat([self.weight_ih, column], 1), *weights[1:])
        outputs, last = run(type(self), x, state, weights)
        outputs = outputs.masked_fill(mark, 0.0)
        hidden = last_step(outputs, lengths)
        if state is not None:
            hidden = torch.where(ended[:, :1], state[0], hidden)
        return outputs, (hidden, *last[1:])

    @classmethod
    def by_steps(
        cls, x: Tensor, states: Given, weights: Given, reverse: tuple[bool, ...]
    ) -> tuple[Tensor, State]:
        """As ``run``, step by step: differentiable any number of times."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole")
        outs, lasts, n = [], list[Tensor](), cls.n_states
        for d, backwards in enumerate(reverse):
            cell: Any = SimpleNamespace(**dict(zip(names, weights[5 * d : 5 * d + 5])))
            cell.step, cell.hidden_size = partial(cls.step, cell), cell.weight_hh.shape[1]
            zeros = x.new_zeros(len(x), cell.hidden_size)
            state: Any = tuple(zeros if s is None else s for s in states[n * d : n * d + n])
            out, state = Cell.scan(cell, x.flip(1) if backwards else x, state)
            outs.append(out.flip(1) if backwards else out)
            lasts += state
        return outs[0] if len(outs) == 1 else torch.cat(outs, -1), tuple(lasts)


def is_fused(cell: Any) -> bool:
    """Whether a cell is a fused one with the equations that the kernels have."""
    return isinstance(cell, FusedCell) and type(cell).scan is FusedCell.scan


def last_step(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The last step that each row of ``x: (batch, time, size)`` has."""
    if lengths is None:
        return x[:, -1]
    at = (torch.as_tensor(lengths, device=x.device) - 1).clamp(min=0)
    return x.gather(1, at[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


@register_cell("rnn")
class RNNCell(FusedCell):
    """Elman 1990 (Cognitive Science 14(2))."""

    kernel = "rnn"

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        h = torch.tanh(
            linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        )
        return h, (h,)


@register_cell("gru")
class GRUCell(FusedCell):
    """Cho et al. 2014 (arXiv:1406.1078), the reset gate after the recurrent product as in cuDNN."""

    kernel, gates = "gru", 3

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        x_r, x_z, x_n = linear(x, self.weight_ih, self.bias_ih).chunk(3, -1)
        h_r, h_z, h_n = linear(h, self.weight_hh, self.bias_hh).chunk(3, -1)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        h = n + z * (h - n)
        return h, (h,)


@register_cell("lstm")
class LSTMCell(FusedCell):
    """Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000."""

    kernel, gates, n_states = "lstm", 4, 2

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        sums = linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = sums.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


@register_cell("lstm_peephole")
class PeepholeLSTMCell(FusedCell):
    """LSTM whose gates see the cell (Gers & Schmidhuber 2000; Graves 2013, eq. 7 to 11)."""

    kernel, gates, n_states, peepholes = "lstm", 4, 2, True

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h, c), (see_i, see_f, see_o) = state, self.weight_peephole
        sums = linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = sums.chunk(4, -1)
        c = torch.sigmoid(f + see_f * c) * c + torch.sigmoid(i + see_i * c) * torch.tanh(g)
        h = torch.sigmoid(o + see_o * c) * torch.tanh(c)
        return h, (h, c)
