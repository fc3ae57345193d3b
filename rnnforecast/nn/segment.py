"""Segment-wise recurrent network (Lin et al. 2023, "SegRNN", arXiv:2308.11200; IoT-J 2026).

Every target is a sample of its own, with shared weights. Its look-back is folded into segments,
each of which is one step of a recurrent layer; the last state, repeated for every segment of the
horizon, takes one further step of the same layer on a position and channel embedding, so that all
segments are decoded at once (section 3.3, "parallel multi-step forecasting").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn.layers import RecurrentStack, SeededDropout
from rnnforecast.nn.window import Inputs, Window, WindowNetwork, last_observed

__all__ = ["SEGMENT_CELLS", "SegmentNetwork", "SegmentSpec"]

# cells that can take a step from any state: their weights are laid out as torch has them
SEGMENT_CELLS = ("gru", "lstm", "rnn")


class SegmentSpec(NamedTuple):
    """Everything that fixes a network's shape, as plain numbers and names."""

    n_targets: int
    n_past: int
    n_known: int
    n_static: int
    lookback: int
    horizon: int
    n_params: int
    cell: str
    hidden_size: int
    dropout: float
    shift: str  # what is taken off a window: "last", "mean" or "none"
    segment: int
    pull: bool  # start between last value and mean

    @property
    def season(self) -> int:
        """None: no forecast starts from the last season."""
        return 1

    @property
    def normalise(self) -> bool:
        """Whether windows are scaled by their own deviation too."""
        return self.shift == "mean"


class SegmentNetwork(WindowNetwork):
    """Encoder and decoder for one :class:`SegmentSpec`."""

    def __init__(self, spec: SegmentSpec):
        super().__init__(spec)
        size, hidden = spec.segment, spec.hidden_size
        self.n_out = math.ceil(spec.horizon / size)
        self.embed = nn.Linear(2 * size, hidden)  # values and missing marks
        if spec.n_past:
            self.past = nn.Linear(2 * size * spec.n_past, hidden, bias=False)
        if spec.n_static:
            self.static = nn.Linear(spec.n_static, hidden, bias=False)
        self.encoder = RecurrentStack(spec.cell, hidden, hidden, 1)
        half = hidden // 2
        self.position = nn.Parameter(torch.empty(self.n_out, half))
        self.channel = nn.Parameter(torch.empty(spec.n_targets, hidden - half))
        self.dropout = SeededDropout(spec.dropout)
        self.head = nn.Linear(hidden, size * spec.n_params)
        if spec.pull:
            self.pull = nn.Parameter(torch.empty(spec.horizon))

    def reset(self, generator: torch.Generator) -> None:
        """Embeddings standard normal; blind to marks and past covariates until training shows
        some.
        """
        with torch.no_grad():
            self.position.normal_(generator=generator)
            self.channel.normal_(generator=generator)
            self.embed.weight[:, self.spec.segment :] = 0.0
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            if self.spec.n_past:
                self.past.weight.zero_()
            if self.spec.pull:
                self.pull.zero_()

    @torch.no_grad()
    def prime(self, batches: Iterable[tuple[Inputs, Tensor]]) -> None:
        """Begin each step at the point between last value and mean that errs least (squared)."""
        if not self.spec.pull:
            return
        up, down = torch.zeros_like(self.pull), torch.full_like(self.pull, 1e-12)
        for inputs, truth in batches:
            window = self.normalise(inputs.targets)
            way = window.anchors[..., 1] - window.anchors[..., 0]
            way = torch.where(torch.isnan(truth), 0.0, way)
            up += (way * torch.nan_to_num(truth - window.anchors[..., 0])).sum((0, 2))
            down += way.square().sum((0, 2))
        self.pull.copy_((up / down).clamp(0, 1))

    def normalise(self, residual: Tensor) -> Window:
        """Statistics of a window, ``residual: (batch, lookback, n_targets)``; as the base class has
        them for ``shift="mean"``. Else ``anchors: (batch, 1, n_targets, 2)`` are last value and
        mean alone, which is a fifth of the time of a step.
        """
        if self.spec.shift == "mean":
            return super().normalise(residual)
        observed = ~torch.isnan(residual)
        values = torch.where(observed, residual, 0.0)
        mean = torch.zeros_like(values[:, :1])
        last = mean
        if self.spec.shift == "last":
            last = last_observed(values, observed, mean)  # eq. 3
            values = torch.where(observed, values - last, 0.0)
        if self.spec.pull:
            mean = last + values.sum(1, keepdim=True) / observed.sum(1, keepdim=True).clamp(min=1)
        anchors = torch.stack([last, mean], dim=-1)
        return Window(values, observed, anchors, last, torch.ones_like(last))

    def context(self, window: Window, inputs: Inputs) -> Tensor:
        """Last state of every target, and the static effect: (batch, n_targets, n_states, hidden).

        States are h for "rnn" and "gru", h and c for "lstm".
        """
        x = torch.cat([self._fold(window.values), self._fold(~window.observed)], -1)
        x = self.embed(x)  # (batch, n_targets, n_segments, hidden)
        if self.spec.n_past:
            missing = torch.isnan(inputs.past)
            past = torch.cat([torch.where(missing, 0.0, inputs.past), missing.to(x.dtype)], -1)
            x = x + self.past(self._fold(past).transpose(1, 2).flatten(2))[:, None]
        x = torch.relu(x)
        batch, channels, segments, hidden = x.shape
        x = x.reshape(batch * channels, segments, hidden)
        # a layer gives h alone, and the decoder of an LSTM starts from c too
        states = self._layer(x)[1] if self.spec.cell == "lstm" else (self.encoder(x)[1],)
        parts = [s.view(batch, channels, hidden) for s in states]
        if self.spec.n_static:
            parts.append(self.static(inputs.static)[:, None].expand(-1, channels, -1))
        return torch.stack(parts, 2)

    @property
    def _layer(self) -> Any:
        """The recurrent layer, with weights named as torch names them."""
        layer: Any = self.encoder.layers[0]
        return layer.rnn

    def _fold(self, x: Tensor) -> Tensor:
        """(batch, lookback, size) to (batch, size, segments, segment); the oldest rest is left
        out.
        """
        size = self.spec.segment
        n = x.shape[1] // size
        x = x[:, x.shape[1] - n * size :].transpose(1, 2)
        return x.reshape(*x.shape[:2], n, size).to(self.embed.weight.dtype)

    def decode(self, window: Window, context: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the recurrent layer for every segment of the horizon (eq. 7-9)."""
        spec = self.spec
        states = self._step(context)  # (batch, n_targets, n_out, hidden)
        out = self.head(self.dropout(states))
        out = out.view(*out.shape[:2], self.n_out * spec.segment, spec.n_params)
        raw = out[:, :, : spec.horizon].transpose(1, 2)
        anchor = window.centre.expand(-1, spec.horizon, -1)
        if spec.pull:
            anchor = anchor + self.pull[:, None] * (window.anchors[..., 1] - anchor)
        return raw, anchor

    def _step(self, context: Tensor) -> Tensor:
        """The step on the embeddings. Their part of the gates is the same for every window, and
        the state's part for every segment, so that each is computed once.
        """
        rnn, spec = self._layer, self.spec
        embedded = torch.cat(
            [
                self.position.expand(spec.n_targets, -1, -1),
                self.channel[:, None].expand(-1, self.n_out, -1),
            ],
            -1,
        )
        given = functional.linear(embedded, rnn.weight_ih_l0, rnn.bias_ih_l0)[None]
        if spec.n_static:
            given = given + functional.linear(context[:, :, -1:], rnn.weight_ih_l0)
        state = context[:, :, :1]  # (batch, n_targets, 1, hidden)
        carried = functional.linear(state, rnn.weight_hh_l0, rnn.bias_hh_l0)
        if spec.cell == "rnn":
            return torch.tanh(given + carried)
        if spec.cell == "gru":
            a, b = given.chunk(3, -1), carried.chunk(3, -1)
            reset, update = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            return torch.lerp(torch.tanh(a[2] + reset * b[2]), state, update)
        i, f, g, o = (given + carried).chunk(4, -1)
        cell = torch.sigmoid(f) * context[:, :, 1:2] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell)
