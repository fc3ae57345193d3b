"""Cells whose state moves on linearly, h_t = a_t h_{t-1} + b_t: the input alone gives a_t and b_t.

All products of a sequence are then made at once, and only a multiplication and an addition a step
are left, which :func:`linear_scan` does.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu, linear, logsigmoid

from rnnforecast.nn._kernels import is_transformed
from rnnforecast.nn.cells import Cell, State, register_cell, steps_ended

__all__ = ["LRUCell", "LinearCell", "MinGRUCell", "MinLSTMCell", "linear_scan"]

# numbers of one step up to which, and steps from which on, about sqrt(time) chunks side by side are
# faster than one step after the other: 2 sqrt(time) rounds at three times the arithmetic
# (benchmarks/linear_scan.py)
_SMALL, _LONG = 512, 100


class LinearCell(Cell):
    """A cell with a linear recurrence; a subclass has its coefficients and its output.

    The state is one tensor, ``(batch, state_size)``, kept as its real and imaginary part where it
    is complex.
    """

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and addend, each ``(..., state_size)``, of steps ``x: (..., input_size)``."""

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        """Outputs ``(..., hidden_size)`` of states ``(..., state_size)``; the state by default."""
        return h

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        a, b = self.coefficients(x)
        h = a * _joined(state) + b
        return self.read(h, x), _parts(h)

    def scan(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As ``Cell.scan``, all steps' coefficients at once."""
        ended = None if lengths is None else steps_ended(x, lengths)[..., None]
        if ended is not None:
            x = x.masked_fill(ended, 0.0)
        first = _joined(self.first(x) if state is None else state)
        if not x.shape[1]:
            return x.new_zeros(len(x), 0, self.hidden_size), _parts(first)
        a, b = self.coefficients(x)
        if ended is not None:  # the state is carried
            a, b = torch.where(ended, 1.0, a), b.masked_fill(ended, 0.0)
        h = linear_scan(a, b, first)
        outputs = self.read(h, x)
        if ended is not None:
            outputs = outputs.masked_fill(ended, 0.0)
        return outputs, _parts(h[:, -1])


def _joined(state: State) -> Tensor:
    if len(state) == 1:
        return state[0]
    # automatic mixed precision has bfloat16, complex numbers have not
    return torch.complex(*(s.to(torch.promote_types(s.dtype, torch.float32)) for s in state))


def _parts(h: Tensor) -> State:
    return (h.real, h.imag) if h.is_complex() else (h,)


def linear_scan(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    """States h_t = a_t h_{t-1} + b_t of all steps.

    Parameters
    ----------
    a, b : Tensor of shape (batch, time, size)
        Real or complex; they may broadcast to one another over batch and time.
    first : Tensor of shape (batch, size)
        h_0, before the first step.

    Returns
    -------
    Tensor of shape (batch, time, size)

    Examples
    --------
    >>> import torch
    >>> linear_scan(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1), torch.zeros(1, 1)).flatten()
    tensor([1.0000, 1.5000, 1.7500])
    """
    a, b = torch.broadcast_tensors(a, b)
    first = first.expand_as(b[:, 0])
    batch, time, size = b.shape
    if is_transformed():
        return _by_steps(a, b, first)
    if batch * size > _SMALL or time < _LONG:
        return _Scan.apply(a, b, first)
    length = round(time**0.5)
    # chunks side by side: each from zero, then with what reaches it of the state before
    n = -(-time // length)
    pad = (0, 0, 0, n * length - time)
    a, b = (nn.functional.pad(p, pad).reshape(batch * n, length, size) for p in (a, b))
    zero, one = torch.zeros_like(b[:, 0]), torch.ones_like(b[:, 0])
    own, through = _Scan.apply(a, b, zero), _Scan.apply(a, torch.zeros_like(b), one)
    own, through = (p.view(batch, n, length, size) for p in (own, through))
    ends = _Scan.apply(through[:, :, -1], own[:, :, -1], first)
    before = torch.cat([first[:, None], ends[:, :-1]], 1)
    return (own + through * before[:, :, None]).flatten(1, 2)[:, :time]


def _by_steps(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    """As the equation stands: what autograd and torch's transformations can see into."""
    states = []
    for factor, addend in zip(a.unbind(1), b.unbind(1)):
        first = factor * first + addend
        states.append(first)
    return torch.stack(states, 1)


class _Scan(torch.autograd.Function):
    """One step after the other, in place; the gradient is the same recurrence backwards."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, first: Tensor) -> Tensor:
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        last = first
        for now, factor, addend in zip(h.unbind(1), a.unbind(1), b.unbind(1)):
            last = torch.addcmul(addend, factor, last, out=now)
        ctx.save_for_backward(a, b, first, h)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, first, h = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted
            again, needs = _by_steps(a, b, first), ctx.needs_input_grad
            wanted = [part for part, need in zip((a, b, first), needs) if need]
            found = iter(torch.autograd.grad(again, wanted, grad, create_graph=True))
            return tuple(next(found) if need else None for need in needs)
        of_b, factors = grad.clone(memory_format=torch.contiguous_format), a.conj()
        steps = of_b.unbind(1)[::-1]
        for later, now, factor in zip(steps, steps[1:], factors.unbind(1)[::-1]):
            now.addcmul_(factor, later)
        of_a = torch.empty_like(of_b)
        torch.mul(of_b[:, 1:], h[:, :-1].conj(), out=of_a[:, 1:])
        torch.mul(of_b[:, 0], first.conj(), out=of_a[:, 0])
        return of_a, of_b, of_b[:, 0] * factors[:, 0]


@register_cell("mingru")
class MinGRUCell(LinearCell):
    """Feng et al. 2024 (arXiv:2410.01201), section 3.1: a GRU whose gate sees the input alone."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(self.input_size, 2 * self.hidden_size)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, h = self.input(x).chunk(2, -1)
        z = torch.sigmoid(z)
        return 1 - z, z * h


@register_cell("minlstm")
class MinLSTMCell(LinearCell):
    """Feng et al. 2024 (arXiv:2410.01201), section 3.2, with gates that add up to one."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(self.input_size, 3 * self.hidden_size)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f, i, h = self.input(x).chunk(3, -1)
        share = logsigmoid(f) - logsigmoid(i)  # f / (f + i) is its sigmoid, where both are 0 too
        return torch.sigmoid(share), torch.sigmoid(-share) * h


@register_cell("lru")
class LRUCell(LinearCell):
    """Linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349, eq. 5 to 7 and appendix A).

    A complex diagonal recurrence within the unit circle; its real read-out goes through GELU and a
    gated linear unit, which makes the layer nonlinear.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        size = self.hidden_size
        self.decay = nn.Parameter(torch.empty(size))  # log of -log |lambda|
        self.angle = nn.Parameter(torch.empty(size))  # log of the phase of lambda
        self.gain = nn.Parameter(torch.empty(size))  # log of the input's normalisation
        self.input = nn.Linear(self.input_size, 2 * size, bias=False)  # real, imaginary part
        self.output = nn.Linear(2 * size, size, bias=False)
        self.direct = nn.Linear(self.input_size, size, bias=False)
        self.gate = nn.Linear(size, 2 * size)
        self.reset(torch.default_generator)  # as torch's own layers, until ``initialise`` does

    def start(self, batch: int) -> State:
        return super().start(batch) * 2

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Eigenvalues uniform on the ring 0.9 to 0.999, phases up to pi / 10."""
        u, v = torch.rand(2, self.hidden_size, generator=generator).to(self.decay)
        size = torch.sqrt(u * (0.999**2 - 0.9**2) + 0.9**2)
        self.decay.copy_(torch.log(-torch.log(size)))
        self.angle.copy_(torch.log(v * torch.pi / 10 + 1e-6))
        self.gain.copy_(torch.log(torch.sqrt(1 - size**2)))

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        factor = torch.exp(torch.complex(-torch.exp(self.decay), torch.exp(self.angle)))
        # real and imaginary part of each unit side by side, as complex numbers lie
        weight = torch.exp(self.gain)[:, None, None] * self.input.weight.unflatten(
            0, (2, -1)
        ).transpose(0, 1)
        parts = linear(x, weight.flatten(0, 1)).to(factor.real).unflatten(-1, (-1, 2))
        return factor.expand(parts.shape[:-1]), torch.view_as_complex(parts)

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        weight = self.output.weight.unflatten(1, (2, -1)).mT.flatten(1)
        y = linear(torch.view_as_real(h).flatten(-2), weight) + self.direct(x)
        return glu(self.gate(gelu(y)), -1)
