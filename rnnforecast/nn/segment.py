"""Segment-wise recurrent network (Lin et al. 2023, "SegRNN", arXiv:2308.11200; IoT-J 2026).

Every target is a sample of its own, with shared weights. Its look-back is folded into segments,
each of which is one step of a recurrent layer; the last state, repeated for every segment of the
horizon, takes one further step of the same layer on a position and channel embedding, so that all
segments are decoded at once (section 3.3, "parallel multi-step forecasting").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnnforecast.nn.cells import is_fused
from rnnforecast.nn.layers import RecurrentStack, SeededDropout
from rnnforecast.nn.window import Inputs, Window, WindowNetwork, WindowSpec, by_target, fold

__all__ = ["SegmentNetwork", "SegmentSpec"]


@dataclass(frozen=True, kw_only=True)
class SegmentSpec(WindowSpec):
    """What fixes a network's shape."""

    pull: bool  # start between last value and mean


class SegmentNetwork(WindowNetwork):
    """Encoder and decoder for one :class:`SegmentSpec`."""

    def __init__(self, spec: SegmentSpec):
        super().__init__(spec)
        size, hidden = spec.segment, spec.hidden_size
        self.n_out = math.ceil(spec.horizon / size)
        self.embed = nn.Linear(2 * size, hidden)  # values and missing marks
        if spec.past:
            self.past = nn.Linear(size * self.past_columns.size, hidden, bias=False)
        if spec.static:
            self.static = nn.Linear(self.static_columns.n_values, hidden, bias=False)
        self.encoder = RecurrentStack(spec.cell, hidden, hidden, 1)
        half = hidden // 2
        self.position = nn.Parameter(torch.empty(self.n_out, half))
        self.channel = nn.Parameter(torch.empty(spec.n_targets, hidden - half))
        self.dropout = SeededDropout(spec.dropout)
        self.head = nn.Linear(hidden, size * spec.n_params)
        if spec.pull:
            self.pull = nn.Parameter(torch.empty(spec.horizon))
            self.stay = nn.Parameter(torch.empty(spec.horizon))

    def reset(self, generator: torch.Generator) -> None:
        """Embeddings standard normal; blind to marks and past covariates."""
        with torch.no_grad():
            self.position.normal_(generator=generator)
            self.channel.normal_(generator=generator)
            self.embed.weight[:, self.spec.segment :] = 0.0
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            if self.spec.past:
                self.past.weight.zero_()
            if self.spec.pull:
                self.pull.zero_()
                self.stay.fill_(1.0)

    @torch.no_grad()
    def prime(self, batches: Iterable[tuple[Inputs, Tensor]]) -> None:
        """Begin each step at the point between last value and mean that errs least (squared), and
        as near to the mean of the series, which is zero, as errs least.
        """
        if not self.spec.pull:
            return
        parts = []
        for inputs, truth in batches:
            window = self.normalise(self.take_effect(inputs))
            parts.append((window.last, window.mean, truth - self.known_effect(inputs.future_known)))
        last, mean, truth = map(torch.cat, zip(*parts))

        def nearest(start: Tensor, way: Tensor) -> Tensor:
            way = torch.where(torch.isnan(truth), 0.0, way)
            up = (way * torch.nan_to_num(truth - start)).sum((0, 2))
            return (up / (way.square().sum((0, 2)) + 1e-12)).clamp(0, 1)

        self.pull.copy_(nearest(last, mean - last))
        start = last + self.pull[:, None] * (mean - last)
        self.stay.copy_(nearest(torch.zeros_like(start), start))

    def context(self, window: Window, inputs: Inputs) -> tuple[Tensor | None, ...]:
        """The static effect, (batch, hidden) or None, and the last state of every target, each
        (batch * n_targets, ...).
        """
        size = self.spec.segment
        values, observed = (fold(by_target(x), size) for x in (window.values, window.observed))
        x = self.embed(torch.cat([values, (~observed).to(values.dtype)], -1))
        if self.spec.past:
            past = self.past(fold(self.past_columns(inputs.past), size))
            x = x + past.repeat_interleave(self.spec.n_targets, 0)
        state = self.encoder.scan(torch.relu(x))[1][0]
        static = None
        if self.spec.static:
            static = self.static(self.static_columns.values(inputs.static))
        return static, *state

    def decode(self, window: Window, context: Any) -> tuple[Tensor, Tensor]:
        """One step of the recurrent layer for every segment of the horizon (eq. 7-9)."""
        spec = self.spec
        out = self.head(self.dropout(self._step(*context)))
        out = out.view(*out.shape[:2], self.n_out * spec.segment, spec.n_params)
        raw = out[:, :, : spec.horizon].transpose(1, 2)
        anchor = window.centre.expand(-1, spec.horizon, -1)
        if spec.pull:
            anchor = anchor + self.pull[:, None] * (window.mean - anchor)
            anchor = self.stay[:, None] * anchor
        return raw, anchor

    def _step(self, static: Tensor | None, *state: Tensor) -> Tensor:
        """One step from the last states on the embeddings: (batch, n_targets, n_out, hidden)."""
        cell: Any = self.encoder.layers[0]
        n, n_out, hidden = self.spec.n_targets, self.n_out, self.spec.hidden_size
        x = torch.cat(
            [self.position.expand(n, -1, -1), self.channel[:, None].expand(-1, n_out, -1)], -1
        )[None]
        if static is not None:
            x = x + static[:, None, None]
        if is_fused(cell):  # its products are the same for all windows, or for all segments
            return cell.step(x, tuple(s.view(-1, n, 1, hidden) for s in state))[0]
        x = x.expand(len(state[0]) // n, -1, -1, -1)
        state = tuple(s.repeat_interleave(n_out, 0) for s in state)
        out, _ = cell.step(x.reshape(-1, hidden), state)
        return out.view(-1, n, n_out, hidden)
