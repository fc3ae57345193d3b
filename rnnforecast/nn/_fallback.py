"""The recurrent layers in torch's operations, for where the native kernels cannot serve.

Torch's own layers where they are fast; for the GRU and the Elman cell on a CPU, and for peepholes
anywhere, passes written by hand: the input's products of all steps are one matrix product, the loop
over time holds what depends on the step before and nothing else, and the gradients of the weights
are one matrix product at the end.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rnnforecast.nn import _buffers

__all__ = ["Plan", "differentiable", "literal", "own", "pays"]


class Plan(Protocol):
    """What a call does beyond its tensors.

    Attributes
    ----------
    cell : {"rnn", "lstm", "gru"}
    directions : tuple of bool
        For each direction, whether it runs from the last step to the first.
    """

    @property
    def cell(self) -> str: ...
    @property
    def directions(self) -> tuple[bool, ...]: ...


def own(plan: Plan, x: Tensor, h0: Any, c0: Any, weights: tuple[Any, ...]) -> Any:
    """Outputs, last states and last cells by the fastest way that torch has.

    Parameters
    ----------
    plan : Plan
    x : (batch, time, inputs)
    h0, c0 : (directions, batch, hidden), or None for zeros
    weights : tuple of Tensor or None
        Of each direction: w_ih, w_hh, b_ih, b_hh, peephole.

    Returns
    -------
    outputs : (batch, time, directions * hidden)
    h_n : (directions, batch, hidden)
    c_n : (directions, batch, hidden), or None but for "lstm"
    """
    plain = all(weight is None for weight in weights[4::5])
    usual = plan.directions in ((False,), (False, True))
    if pays(plan.cell, x, (h0, c0, *weights), plain and usual):
        return _by_hand(plan, x, h0, c0, weights)
    if not (plain and usual) or not x.shape[1]:
        return literal(plan, x, h0, c0, weights)
    flat = [weight for weight in weights if weight is not None]
    zeros = x.new_zeros(len(plan.directions), x.shape[0], weights[1].shape[1])
    h0 = zeros if h0 is None else h0
    options = (weights[2] is not None, 1, 0.0, False, len(plan.directions) == 2, True)
    if plan.cell == "lstm":
        return torch.lstm(x, (h0, zeros if c0 is None else c0), flat, *options)
    function = torch.gru if plan.cell == "gru" else torch.rnn_tanh
    return *function(x, h0, flat, *options), None


def follows_operations() -> bool:
    """Whether somebody records or differentiates every operation: a trace, or forward-mode AD."""
    return torch.jit.is_tracing() or torch.autograd.forward_ad._current_level >= 0


def pays(
    cell: str, x: Tensor, tensors: tuple[Tensor | None, ...], torch_has_it: bool = True
) -> bool:
    """Whether the passes written by hand are the fastest way for this call.

    Measured on one core at batch 1 to 256, hidden 32 to 128: training takes a half to 0.9 of the
    time of torch's own GRU and Elman layers; without gradients theirs are as fast or faster, and
    their LSTM (oneDNN) always is.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    x : (batch, time, inputs)
    tensors : tuple of Tensor or None
        The other inputs of the call.
    torch_has_it : bool, default True
        Whether torch has such a layer; without peepholes it has.
    """
    given = [x, *(tensor for tensor in tensors if tensor is not None)]
    if not (x.shape[0] and x.shape[1]) or any(
        tensor.dtype != x.dtype or tensor.device != x.device for tensor in given
    ):
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if follows_operations():
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    if not torch_has_it:
        return True
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    usual = x.dtype in (torch.float32, torch.float64) and x.device.type == "cpu"
    return trains and usual and cell != "lstm"


# ---- step by step --------------------------------------------------------------------------------


def literal(
    plan: Plan, x: Tensor, h0: Tensor | None, c0: Tensor | None, weights: tuple[Any, ...]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The recurrence step by step, differentiable any number of times; arguments as for ``own``."""
    outs, lasts, cells = [], [], []
    for d, reverse in enumerate(plan.directions):
        w_ih, w_hh, b_ih, b_hh, peephole = weights[5 * d : 5 * d + 5]
        zeros = x.new_zeros(x.shape[0], w_hh.shape[1])
        h = zeros if h0 is None else h0[d]
        c = zeros if c0 is None else c0[d]
        projected = functional.linear(x, w_ih, b_ih)  # (batch, time, gates * hidden)
        steps = range(x.shape[1])
        states: list[Any] = [None] * x.shape[1]
        for t in reversed(steps) if reverse else steps:
            h, c = _literal_step(plan.cell, projected[:, t], h, c, w_hh, b_hh, peephole)
            states[t] = h
        outs.append(
            torch.stack(states, 1) if states else x.new_zeros(x.shape[0], 0, zeros.shape[1])
        )
        lasts.append(h)
        cells.append(c)
    c_n = torch.stack(cells) if plan.cell == "lstm" else None
    return torch.cat(outs, -1), torch.stack(lasts), c_n


def _literal_step(
    cell: str, xp: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, b_hh: Any, peephole: Any
) -> tuple[Tensor, Tensor]:
    """One step; ``xp`` and the state's product: (batch, gates * hidden)."""
    hp = functional.linear(h, w_hh, b_hh)
    if cell == "rnn":
        return torch.tanh(xp + hp), c
    if cell == "gru":
        (xr, xz, xn), (hr, hz, hn) = xp.chunk(3, -1), hp.chunk(3, -1)
        z = torch.sigmoid(xz + hz)
        n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        return n + z * (h - n), c
    i, f, g, o = (xp + hp).chunk(4, -1)
    if peephole is not None:  # Graves 2013, eq. 7 and 8: they look at the old cell
        i, f = i + peephole[0] * c, f + peephole[1] * c
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if peephole is not None:  # eq. 10: it looks at the new one
        o = o + peephole[2] * c
    return torch.sigmoid(o) * torch.tanh(c), c


def differentiable(plan: Plan, needs: Any, tensors: Any, grads: Any) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the literal steps.

    Parameters
    ----------
    needs : sequence of bool
        For x, h0, c0 and each weight, whether its gradient is wanted.
    tensors : sequence of Tensor or None
        x, h0, c0 and the weights.
    grads : sequence of Tensor or None
        With respect to outputs, h_n and c_n.
    """
    # aliases: an input may be another one, or computed from it, and autograd.grad would follow that
    tensors = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
    x, h0, c0, *weights = tensors
    outputs: Any = literal(plan, x, h0, c0, tuple(weights))
    pairs = [(out, grad) for out, grad in zip(outputs, grads) if grad is not None]
    wanted = [i for i, tensor in enumerate(tensors) if tensor is not None and needs[i]]
    found = torch.autograd.grad(
        [out for out, _ in pairs],
        [tensors[i] for i in wanted],
        [grad for _, grad in pairs],
        create_graph=True,
        allow_unused=True,
    )
    result: list[Tensor | None] = [None] * len(tensors)
    for i, gradient in zip(wanted, found):
        result[i] = gradient
    return result


# ---- by hand -------------------------------------------------------------------------------------


def _by_hand(plan: Plan, x: Tensor, h0: Any, c0: Any, weights: tuple[Any, ...]) -> Any:
    outs, lasts, cells = [], [], []
    for d, reverse in enumerate(plan.directions):
        first = x.new_zeros(x.shape[0], weights[5 * d + 1].shape[1])
        h = first if h0 is None else h0[d]
        c = None
        if plan.cell == "lstm":
            c = first if c0 is None else c0[d]
        alone = SimpleNamespace(cell=plan.cell, directions=(reverse,))
        out, h_n, c_n = _ByHand.apply(alone, x, h, c, *weights[5 * d : 5 * d + 5])
        outs.append(out)
        lasts.append(h_n)
        cells.append(c_n)
    outputs = outs[0] if len(outs) == 1 else torch.cat(outs, -1)
    return outputs, torch.stack(lasts), torch.stack(cells) if plan.cell == "lstm" else None


class _ByHand(torch.autograd.Function):
    """One layer in one direction, as one node of the graph.

    Inside, tensors are time-major and in the order in which the steps are read.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, h0: Tensor, c0: Any, *weights: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh, peephole = weights
        steps = _time_major(x, plan.directions[0])
        states = _memory(x, x.shape[1] + 1, x.shape[0], w_hh.shape[1])
        states[0] = h0
        c_n: Any = None
        saved: list[Any] = [None, None]
        if plan.cell == "gru":
            saved[0] = _gru_steps(steps, states, w_ih, w_hh, b_ih, b_hh)
        else:
            bias = None if b_ih is None else b_ih + b_hh
            projected = functional.linear(steps, w_ih, bias)  # (time, batch, gates * hidden)
            if plan.cell == "rnn":
                _rnn_steps(projected, states, w_hh)
            else:
                saved = list(_lstm_steps(projected, states, c0, w_hh, peephole))
                c_n = saved[1][-1].clone()
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h0, c0, *weights, states, *saved)
        outputs = _batch_major(states[1:], plan.directions[0])
        # a copy: results may be changed in place
        return _memory(x, *outputs.shape).copy_(outputs), states[-1].clone(), c_n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, h0, c0, *weights = ctx.saved_tensors[:8]
        states, *saved = ctx.saved_tensors[8:]
        if all(grad is None for grad in grads):
            return (None,) * 9
        if torch.is_grad_enabled():  # create_graph
            # the literal steps have a first and a last state for each direction
            h0, c0, *last = (None if t is None else t[None] for t in (h0, c0, *grads[1:]))
            tensors = (x, h0, c0, *weights)
            found = differentiable(ctx.plan, ctx.needs_input_grad[1:], tensors, (grads[0], *last))
            found[1:3] = (None if grad is None else grad[0] for grad in found[1:3])
            return None, *found
        (reverse,), cell = ctx.plan.directions, ctx.plan.cell
        w_ih, w_hh, b_ih, _, peephole = weights
        d_out = torch.zeros_like(states[1:]) if grads[0] is None else _time_major(grads[0], reverse)
        d_h = torch.zeros_like(states[0]) if grads[1] is None else grads[1]
        d_c = d_peephole = None
        if cell == "rnn":
            d_state, d_h = _rnn_back(d_out, d_h, states, w_hh)
            parts = [d_state]
        elif cell == "gru":
            d_state, d_n, d_h = _gru_back(d_out, d_h, states, saved[0], w_hh)
            parts = [d_state[:, :, : 2 * h0.shape[1]], d_n]
        else:
            d_c = torch.zeros_like(c0) if grads[2] is None else grads[2]
            d_state, d_h, d_c, d_peephole = _lstm_back(
                d_out, d_h, d_c, saved[0], saved[1], w_hh, peephole
            )
            parts = [d_state]
        d_x, d_w_ih = _input_gradients(x, parts, w_ih, reverse, ctx.needs_input_grad[1])
        d_w_hh = d_state.flatten(0, 1).T @ states[:-1].flatten(0, 1)
        d_b_ih = d_b_hh = None
        if b_ih is not None:
            d_b_ih = torch.cat([part.sum((0, 1)) for part in parts])
            d_b_hh = d_state.sum((0, 1)) if cell == "gru" else d_b_ih
        return None, d_x, d_h, d_c, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_peephole


def _memory(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor; on a CPU in memory that a step before has used."""
    if like.device.type == "cpu":
        return _buffers.empty(shape, like.dtype)
    return like.new_empty(shape)


def _time_major(x: Tensor, reverse: bool) -> Tensor:
    """(batch, time, ...) as contiguous (time, batch, ...) in the order of reading."""
    x = x.transpose(0, 1)
    return x.flip(0) if reverse else _memory(x, *x.shape).copy_(x)


def _batch_major(x: Tensor, reverse: bool) -> Tensor:
    return (x.flip(0) if reverse else x).transpose(0, 1)


def _input_gradients(
    x: Tensor, parts: list[Tensor], w_ih: Tensor, reverse: bool, wanted: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of x, if wanted, and of its weights.

    ``parts`` are the gradients of its products, (time, batch, rows), for successive rows of w_ih.
    """
    steps = _time_major(x, reverse).flatten(0, 1)
    flat = [part.flatten(0, 1) for part in parts]
    d_w_ih = torch.cat([part.T @ steps for part in flat])
    if not wanted:
        return None, d_w_ih
    d_x = _memory(x, *steps.shape)
    row = 0
    for part in flat:
        rows = w_ih[row : row + part.shape[1]]
        torch.mm(part, rows, out=d_x) if row == 0 else d_x.addmm_(part, rows)
        row += part.shape[1]
    return _batch_major(d_x.view(x.shape[1], x.shape[0], -1), reverse), d_w_ih


def _rnn_steps(projected: Tensor, states: Tensor, w_hh: Tensor) -> None:
    """Fill ``states: (time + 1, batch, hidden)`` from its first entry (Elman 1990)."""
    w = w_hh.t().contiguous()
    for xp, h, new in zip(projected.unbind(0), states[:-1].unbind(0), states[1:].unbind(0)):
        torch.addmm(xp, h, w, out=new).tanh_()


def _rnn_back(d_out: Tensor, d_h: Tensor, states: Tensor, w_hh: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the sums, (time, batch, hidden), and of the first state."""
    one = states.new_ones(())
    d_sums = _memory(states, *d_out.shape)
    torch.addcmul(one, states[1:], states[1:], value=-1, out=d_sums)  # the slope of tanh
    for g, d in zip(reversed(d_out.unbind(0)), reversed(d_sums.unbind(0))):
        d.mul_(d_h.add(g))
        d_h = torch.mm(d, w_hh)
    return d_sums, d_h


def _gru_steps(
    steps: Tensor, states: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any
) -> Tensor:
    """Fill ``states``; returns r, z, n and the state's product for n: (4, time, batch, hidden).

    Cho et al. 2014 with the reset gate after the recurrent product. Gates stand apart, so that each
    operation of a step reads and writes whole blocks.
    """
    time, batch, hidden = states[1:].shape
    flat = steps.flatten(0, 1)
    bias = b_n = states.new_zeros(hidden)
    gates = _memory(states, 4, time, batch, hidden)
    for k in range(3):  # the input's products go where the gates will be
        rows = slice(k * hidden, (k + 1) * hidden)
        if b_ih is not None:
            bias, b_n = b_ih[rows] + (b_hh[rows] if k < 2 else 0), b_hh[2 * hidden :]
        torch.addmm(bias, flat, w_ih[rows].t(), out=gates[k].flatten(0, 1))
    w = w_hh.view(3, hidden, hidden).transpose(1, 2).contiguous()
    w_rz, w_n = w[:2], w[2]
    for t, (h, new) in enumerate(zip(states[:-1].unbind(0), states[1:].unbind(0))):
        rz, n, hn = gates[:2, t], gates[2, t], gates[3, t]
        rz.baddbmm_(h.expand(2, batch, hidden), w_rz).sigmoid_()
        torch.addmm(b_n, h, w_n, out=hn)
        n.addcmul_(rz[0], hn).tanh_()
        torch.lerp(n, h, rz[1], out=new)
    return gates


def _gru_back(
    d_out: Tensor, d_h: Tensor, states: Tensor, gates: Tensor, w_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the state's products, (time, batch, 3 * hidden), of the input's product for n,
    (time, batch, hidden), and of the first state.
    """
    time, batch, hidden = d_out.shape
    r, z, n, hn = gates
    slope = _memory(states, time, batch, hidden)  # of h by the sum of n: (1 - z) (1 - n^2)
    torch.addcmul(states.new_ones(()), n, n, value=-1, out=slope)
    slope.addcmul_(slope, z, value=-1)
    factors = _memory(states, 3, time, batch, hidden)  # of h by the state's products
    torch.mul(slope, r, out=factors[2])
    torch.mul(factors[2], hn, out=factors[0])
    factors[0].addcmul_(factors[0], r, value=-1)
    torch.sub(states[:-1], n, out=factors[1]).mul_(z)
    factors[1].addcmul_(factors[1], z, value=-1)
    d_state = _memory(states, time, batch, 3, hidden)
    d_n = _memory(states, time, batch, hidden)
    for t in range(time - 1, -1, -1):
        g = torch.add(d_out[t], d_h, out=d_n[t])
        torch.mul(factors[:, t], g, out=d_state[t].transpose(0, 1))
        d_h = torch.addmm(g * z[t], d_state[t].view(batch, -1), w_hh)
    return d_state.flatten(2), d_n.mul_(slope), d_h


def _lstm_steps(
    projected: Tensor, states: Tensor, c0: Tensor, w_hh: Tensor, peephole: Any
) -> tuple[Tensor, Tensor]:
    """Fill ``states``; returns i, f, g, o: (time, batch, 4, hidden), c: (time + 1, batch, hidden).

    Gers et al. 2000; peepholes as in Graves 2013, eq. 7 to 11.
    """
    time, batch, hidden = states[1:].shape
    w = w_hh.t().contiguous()
    gates = projected.view(time, batch, 4, hidden)
    c = torch.empty_like(states)
    c[0] = c0
    for t in range(time):
        a = torch.addmm(projected[t], states[t], w, out=projected[t]).view(batch, 4, hidden)
        if peephole is not None:
            a[:, :2].addcmul_(c[t][:, None], peephole[:2])
        a[:, :2].sigmoid_()
        a[:, 2].tanh_()
        torch.mul(a[:, 1], c[t], out=c[t + 1]).addcmul_(a[:, 0], a[:, 2])
        if peephole is not None:
            a[:, 3].addcmul_(c[t + 1], peephole[2])
        a[:, 3].sigmoid_()
        torch.mul(a[:, 3], c[t + 1].tanh(), out=states[t + 1])
    return gates, c


def _lstm_back(
    d_out: Tensor, d_h: Tensor, d_c: Tensor, gates: Tensor, c: Tensor, w_hh: Tensor, peephole: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of the sums, (time, batch, 4 * hidden), of first state and cell, of peepholes."""
    i, f, g, o = gates.unbind(2)
    tanh_c = c[1:].tanh()
    slope_o = tanh_c * o * (1 - o)
    slope_c = o * (1 - tanh_c * tanh_c)
    if peephole is not None:
        slope_c.addcmul_(slope_o, peephole[2])
    factors = torch.empty_like(gates[:, :, :3])  # of the sums of i, f, g by c
    torch.mul(g * i, 1 - i, out=factors[:, :, 0])
    torch.mul(c[:-1] * f, 1 - f, out=factors[:, :, 1])
    torch.mul(i, 1 - g * g, out=factors[:, :, 2])
    back = f
    if peephole is not None:
        back = f + factors[:, :, 0] * peephole[0] + factors[:, :, 1] * peephole[1]
    d_sums = torch.empty_like(gates)
    for t in range(len(gates) - 1, -1, -1):
        d_new = d_out[t] + d_h
        d_c = torch.addcmul(d_c, d_new, slope_c[t])
        torch.mul(factors[t], d_c[:, None], out=d_sums[t, :, :3])
        torch.mul(slope_o[t], d_new, out=d_sums[t, :, 3])
        d_c = d_c * back[t]
        d_h = d_sums[t].view(d_h.shape[0], -1) @ w_hh
    d_peephole = None
    if peephole is not None:
        seen = ((d_sums[:, :, 0], c[:-1]), (d_sums[:, :, 1], c[:-1]), (d_sums[:, :, 3], c[1:]))
        d_peephole = torch.stack([(d * cells).sum((0, 1)) for d, cells in seen])
    return d_sums.flatten(2), d_h, d_c, d_peephole
