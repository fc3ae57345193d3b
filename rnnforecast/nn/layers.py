"""Stacks of recurrent layers, dropout, and initialisation from a private generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnforecast.exceptions import DataError
from rnnforecast.nn._kernels import flatten, run
from rnnforecast.nn.cells import Cell, State, cell_class, is_fused, last_step, steps_ended

__all__ = [
    "PLAIN",
    "Depth",
    "RecurrentStack",
    "SeededDropout",
    "as_dilations",
    "initialise",
    "set_generator",
    "set_precision",
]


class SeededDropout(nn.Module):
    """Dropout with probability ``p``, its noise from a generator of its own, not the global one.

    ``same`` drops the same units in all steps of ``x: (batch, time, size)`` (Gal & Ghahramani 2016,
    arXiv:1512.05287, section 4).
    """

    def __init__(self, p: float, same: bool = False):
        super().__init__()
        self.p, self.same = p, same
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        like = x[:, :1] if self.same and x.dim() == 3 else x
        keep = torch.empty_like(like).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep / (1 - self.p)


class _BothDirections(nn.Module):
    """Two cells, one from the first step to the last and one from the last to the first."""

    def __init__(self, ahead: Any, back: Any):
        super().__init__()
        self.ahead, self.back = ahead, back

    def _apply(self, *args: Any, **kwargs: Any) -> _BothDirections:
        super()._apply(*args, **kwargs)
        flatten(self.ahead, self.back)
        return self

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As ``Cell.scan``; outputs and states of both, those of the second behind."""
        ahead: Any = self.ahead
        back: Any = self.back
        if lengths is None and is_fused(ahead):  # in one call
            weights = (*ahead.weights(), *back.weights())
            return run(type(ahead), x, state, weights, (False, True))
        half = len(state or ()) // 2
        first, second = (None, None) if state is None else (state[:half], state[half:])
        out, one = ahead.scan(x, first, lengths)
        other_out, other = back.scan(_turned(x, lengths), second, lengths)
        return torch.cat([out, _turned(other_out, lengths)], -1), (*one, *other)


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The steps that each row has, the last one first."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    at = torch.as_tensor(lengths, device=x.device)[:, None] - 1 - steps
    return x.gather(1, torch.where(at < 0, steps, at)[..., None].expand_as(x))


class _Dilated(Cell):
    """A cell whose state at step t comes from step t - dilation (Chang et al. 2017, eq. 3).

    A state holds those of the next ``dilation`` steps: (batch, dilation, ...).
    """

    def __init__(self, cell: Cell, dilation: int):
        super().__init__(cell.input_size, cell.hidden_size)
        self.cell, self.dilation = cell, dilation

    def start(self, batch: int) -> State:
        state = self.cell.start(batch)
        return tuple(s[:, None].repeat_interleave(self.dilation, 1) for s in state)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        out, new = self.cell.step(x, tuple(s[:, 0] for s in state))
        return out, tuple(torch.cat([s[:, 1:], n[:, None]], 1) for s, n in zip(state, new))

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Interleaved sequences never meet: they run side by side as a larger batch."""
        batch, time, _ = x.shape
        if lengths is not None or not time:
            return super().scan(x, state, lengths)
        state = self.first(x) if state is None else state
        outputs = []
        d = self.dilation
        # whole rounds of all sequences, then one more step of the first few
        for part in x.split([time - time % d, time % d], 1):
            if part.shape[1]:
                used = min(d, part.shape[1])
                n = part.shape[1] // used
                rows = part.unflatten(1, (n, used)).transpose(1, 2).reshape(batch * used, n, -1)
                out, new = self.cell.scan(rows, tuple(s[:, :used].flatten(0, 1) for s in state))
                outputs.append(out.unflatten(0, (batch, used)).transpose(1, 2).flatten(1, 2))
                state = tuple(
                    torch.cat([old[:, used:], last.unflatten(0, (batch, used))], 1)
                    for old, last in zip(state, new)
                )
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), state


class _Zoneout(Cell):
    """A cell whose state keeps some numbers of the step before, drawn anew at each step of training
    and averaged in forecasts (Krueger et al. 2017, arXiv:1606.01305, eq. 2 and 3).
    """

    def __init__(self, cell: Cell, p: float):
        super().__init__(cell.input_size, cell.hidden_size)
        self.cell, self.p = cell, p
        self.generator: torch.Generator | None = None

    def start(self, batch: int) -> State:
        return self.cell.start(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        out, new = self.cell.step(x, state)
        is_state = out is new[0]
        mixed = tuple(self._kept(old, now) for old, now in zip(state, new))
        return (mixed[0] if is_state else out), mixed

    def _kept(self, old: Tensor, new: Tensor) -> Tensor:
        if not new.is_floating_point():
            return new
        if not self.training:
            return torch.lerp(new, old, self.p)
        keep = torch.empty_like(new).bernoulli_(self.p, generator=self.generator)
        return torch.where(keep > 0, old, new)


class Depth(NamedTuple):
    """How layers are built and joined, beyond their number.

    Parameters
    ----------
    activation : {"tanh", "relu", "leaky_relu", "sigmoid"}, optional
        Of the cells that have a choice ("rnn" and "indrnn"); the cell's own if None.
    input_to_all : bool
        Every layer reads the input too (Graves 2013, arXiv:1308.0850, figure 1).
    output_from_all : bool
        The output is that of all layers, side by side: a linear read-out of it is the sum of
        those of each layer, y = sum over l of W_l h_l + b (figure 1 there).
    layer_norm : bool
        Outputs of each layer are normalised (Ba et al. 2016, arXiv:1607.06450, eq. 4).
    variational : bool
        Dropout drops the same units in all steps of a sequence.
    zoneout : float
        Share of the state that stays as it was, see Krueger et al. 2017; steps run one by one.
    orthogonal : bool
        Square blocks of recurrent weights start orthogonal (Saxe et al. 2014, arXiv:1312.6120).
    forget_bias : float, optional
        With which forget gates start (Jozefowicz et al. 2015 recommend 1).
    """

    activation: str | None = None
    input_to_all: bool = False
    output_from_all: bool = False
    layer_norm: bool = False
    variational: bool = False
    zoneout: float = 0.0
    orthogonal: bool = False
    forget_bias: float | None = None


PLAIN = Depth()


class RecurrentStack(nn.Module):
    """Layers of recurrent cells on top of one another.

    ``cell`` is a registered name or a class. With ``residual`` each block above the first adds its
    input to its output (He et al. 2016, eq. 1). Dropout is between layers and after the last.
    ``dilations`` has one inner sequence a block, with the dilation of each of its layers (Chang et
    al. 2017; Smyl 2020, figure 3), in place of ``n_layers`` blocks of one plain layer. ``depth``
    has all further options.

    Examples
    --------
    >>> import torch
    >>> stack = RecurrentStack("gru", 3, 8, n_layers=2)
    >>> x = torch.ones(4, 6, 3)
    >>> outputs, last = stack(x)
    >>> first, state = stack.scan(x[:, :2])
    >>> rest, state = stack.scan(x[:, 2:], state)
    >>> bool(torch.allclose(torch.cat([first, rest], 1), outputs, atol=1e-6))
    True
    """

    precision: torch.dtype | None = None  # see set_precision

    def __init__(
        self,
        cell: str | type[Cell],
        input_size: int,
        hidden_size: int,
        n_layers: int = 1,
        bidirectional: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        dilations: Sequence[Sequence[int]] | None = None,
        depth: Depth = PLAIN,
    ):
        super().__init__()
        kind: Any = cell_class(cell, activation=depth.activation)
        own = {} if depth.activation is None else {"activation": depth.activation}
        self.bidirectional, self.residual, self.depth = bidirectional, residual, depth
        width = int(hidden_size) * (2 if bidirectional else 1)
        self.layers = nn.ModuleList()
        self._block_ends = []  # whether a layer is the last of its block
        blocks = [(1,)] * int(n_layers) if dilations is None else dilations
        self.dilations = tuple(tuple(map(int, block)) for block in blocks)
        size = input_size
        for block in self.dilations:
            for k, dilation in enumerate(block, 1):
                cells = [kind(size, hidden_size, **own) for _ in range(2 if bidirectional else 1)]
                if depth.zoneout:
                    cells = [_Zoneout(cell, depth.zoneout) for cell in cells]
                if dilation > 1:
                    cells = [_Dilated(cell, dilation) for cell in cells]
                self.layers.append(_BothDirections(*cells) if bidirectional else cells[0])
                self._block_ends.append(k == len(block))
                size = width + (input_size if depth.input_to_all else 0)
        n = len(self.layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n * depth.layer_norm))
        self.output_size = width * (n if depth.output_from_all else 1)
        self.dropout = SeededDropout(dropout, depth.variational)

    @property
    def is_plain(self) -> bool:
        """Whether its layers are nothing but cells on one another, as native/step.cpp has them."""
        kept = self.depth._replace(variational=False, orthogonal=False, forget_bias=None)
        return kept == PLAIN and not self.bidirectional and all(self._block_ends)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Orthogonal recurrent weights and the bias of forget gates, where asked for."""
        for cell in self.modules():
            if not isinstance(cell, Cell):
                continue
            for name in cell.recurrent_weights if self.depth.orthogonal else ():
                weight = cell.get_parameter(name)
                for block in weight.reshape(-1, weight.shape[-1], weight.shape[-1]):
                    drawn = torch.randn(block.shape, generator=generator, dtype=block.dtype)
                    q, r = torch.linalg.qr(drawn)
                    block.copy_(q * r.diagonal().sign())
            if self.depth.forget_bias is not None and cell.forget_gate is not None:
                name, part, of = cell.forget_gate
                cell.get_parameter(name).chunk(of)[part].fill_(self.depth.forget_bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs and last output, see :meth:`read`."""
        return self.read(x, lengths)[:2]

    def read(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, list[State]]:
        """Read ``x: (batch, time, input_size)``, of which each row has ``lengths`` steps.

        Returns outputs, (batch, time, output_size), zero after a row's end, the output after the
        last step that each direction reads, (batch, output_size), and the states of all layers.
        """
        with self._mixed(x):
            out, skip, states = self._run(x, None, lengths)
            if self.depth.layer_norm or self.depth.output_from_all:
                last = self._ends(out, lengths)
            else:
                last = self._last(out, states[-1], lengths)
            if skip is not None:
                out, last = out + skip, last + self._ends(skip, lengths)
            return self.dropout(out).to(x.dtype), self.dropout(last).to(x.dtype), states

    def scan(
        self, x: Tensor, state: Sequence[State] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, list[State]]:
        """Read on from a state, a tuple of tensors a layer: outputs and the new state."""
        with self._mixed(x):
            out, skip, states = self._run(x, state, lengths)
            outputs = self.dropout(out if skip is None else out + skip).to(x.dtype)
        if self.precision is not None:
            states = [tuple(s.to(x.dtype) if s.is_floating_point() else s for s in layer)
                      for layer in states]  # fmt: skip
        return outputs, states

    def _run(self, x: Tensor, state: Any, lengths: Tensor | None) -> Any:
        """What the last layer gives, what its block adds to it, and the states of all layers."""
        states, skip, out, first, every = [], None, x, x, []
        for depth, layer in enumerate(self.layers):
            if depth:
                ends_block = self._block_ends[depth - 1]
                x = self.dropout(out + skip if ends_block and skip is not None else out)
                skip = x if ends_block and self.residual else skip
                if self.depth.input_to_all:
                    x = torch.cat([x, first], -1)
            given = None if state is None else state[depth]
            out, new = layer.scan(x, given, lengths)  # type: ignore[operator]
            if self.depth.layer_norm:
                out = self.norms[depth](out)
                if lengths is not None:
                    out = out.masked_fill(steps_ended(out, lengths)[..., None], 0.0)
            states.append(new)
            every.append(out if skip is None else out + skip)
        if self.depth.output_from_all:
            return torch.cat(every, -1), None, states
        return out, skip, states

    def _last(self, outputs: Tensor, state: State, lengths: Tensor | None) -> Tensor:
        """The last output of each direction, from the state where that has it: the gradient of a
        slice of all outputs is as large as they are.
        """
        layer: Any = self.layers[-1]
        cell = layer.ahead if self.bidirectional else layer
        if is_fused(cell):
            return torch.cat(state[:: cell.n_states], -1)
        return self._ends(outputs, lengths)

    def _ends(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """What each direction reads last of ``x: (batch, time, output_size)``."""
        last = last_step(x, lengths)
        if not self.bidirectional:
            return last
        n_parts = len(self.layers) if self.depth.output_from_all else 1
        last, first = (part.unflatten(-1, (n_parts, 2, -1)) for part in (last, x[:, 0]))
        return torch.stack([last[:, :, 0], first[:, :, 1]], 2).flatten(1)

    def _mixed(self, x: Tensor) -> Any:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(x.device.type, dtype=self.precision)


def as_dilations(owner: str, dilations: Any) -> tuple[tuple[int, ...], ...]:
    """Blocks of dilations as plain integers, or a DataError that begins with ``owner``."""
    try:
        blocks = tuple(tuple(block) for block in dilations)
    except TypeError:
        blocks = ()
    whole = [isinstance(d, Integral) and int(d) >= 1 for block in blocks for d in block]
    if not whole or not all(whole) or not all(blocks):
        raise DataError(
            f"{owner}: dilations must be blocks of integers >= 1, such as ((1, 2), (7, 14)). Got "
            f"{dilations!r}"
        )
    return tuple(tuple(map(int, block)) for block in blocks)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Fill all parameters from ``generator``, as torch's defaults do from the global one.

    Uniform within ±1/sqrt(hidden size) for all that a cell has, within ±1/sqrt(inputs) for linear
    layers elsewhere; normalisations start as the identity. The modules may then adjust their own
    through ``reset(generator)``, and must fill parameters of another kind there (TypeError).
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    floating = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    cells = [module for module in network.modules() if isinstance(module, Cell)]
    sizes: Any = {part: cell.hidden_size for cell in cells for part in cell.modules()}
    with torch.no_grad():
        for _, tensor in floating:
            tensor.fill_(torch.nan)  # on an empty tensor, what nobody fills would be chance
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()
            elif module in sizes or isinstance(module, nn.Linear):
                size: Any = sizes.get(module) or module.in_features
                bound = 1 / math.sqrt(max(size, 1))
                for parameter in module.parameters(recurse=False):
                    parameter.uniform_(-bound, bound, generator=generator)
    # a stack says how its cells start, after they did
    for module in sorted(network.modules(), key=lambda m: isinstance(m, RecurrentStack)):
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset(generator)
    for name, tensor in floating:
        if torch.isnan(tensor).any():
            raise TypeError(
                f"nothing initialises {name!r}: give its module a method reset(generator) that does"
            )


def set_generator(network: nn.Module, generator: torch.Generator | None) -> None:
    """Give whatever draws noise its generator, or take it away (a fitted network holds none)."""
    for module in network.modules():
        if isinstance(module, (SeededDropout, _Zoneout)):
            module.generator = generator


def set_precision(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Let every recurrent stack compute in ``dtype``, or in its weights' type for None: torch's
    automatic mixed precision for the stacks alone.
    """
    for module in network.modules():
        if isinstance(module, RecurrentStack):
            module.precision = dtype
