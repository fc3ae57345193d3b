"""The forecasting network: normalise the window, encode it, decode all steps at once.

The encoder is a stack of recurrent layers over the steps of the window, or over segments of it:
``segment`` neighbouring steps folded into one (Lin et al. 2023, section 3.2). The forecast starts
from an anchor (a learnt mixture of the window's last value, its mean and its last season, plus a
linear map of the window), to which the decoded deviation and an interaction of x_h with the
encoding are added.

The deviations of all steps are one linear map of the last state ("direct"), or each step is decoded
by itself: an embedding of the step, added to a map of the last state, is read by recurrent layers
that go on from the encoder's states (decoder="recurrent"), and asks the encoder's outputs
(attention; Luong et al. 2015, arXiv:1508.04025, eq. 5 to 8, in which attention comes after the
recurrent step). No step reads the covariates of another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn.attention import Attention
from rnnforecast.nn.covariates import Interaction
from rnnforecast.nn.layers import PLAIN, Depth, RecurrentStack
from rnnforecast.nn.window import (
    Inputs,
    Window,
    WindowNetwork,
    WindowSpec,
    by_target,
    fold,
    last_observed,
    unfold,
)

__all__ = ["ForecastNetwork", "NetworkSpec"]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(WindowSpec):
    """What fixes a network's shape."""

    season: int
    n_layers: int
    bidirectional: bool
    residual: bool
    independent: bool = False
    depth: Depth = PLAIN
    dilations: tuple[tuple[int, ...], ...] | None = None
    attention: str | None = None
    decoder: str = "direct"  # or "recurrent"
    supervised: bool = False  # every layer forecasts by itself, where depth.output_from_all

    @property
    def joint(self) -> int:
        """Targets that one encoding reads: all, or one."""
        return 1 if self.independent else self.n_targets


class Encoding(NamedTuple):
    """What the decoder reads of a window; a row is one of the batch, or one of its targets."""

    last: Tensor  # (rows, size), static covariates beside it
    outputs: Tensor | None = None  # (rows, segments, encoder's output size)
    states: Any = None  # of every layer


class ForecastNetwork(WindowNetwork):
    """Encoder and decoder for one :class:`NetworkSpec`."""

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        joint = spec.joint
        # see ``features``: as many seasonal differences as values, where there are seasons
        marks = joint * (2 if spec.season > 1 else 1)
        size = marks + joint + self.past_columns.size
        of_step = [*range(marks, marks + joint), *range(size - self.past_columns.n_marks, size)]
        self._marks = [step * size + mark for step in range(spec.segment) for mark in of_step]
        hidden = spec.hidden_size
        layers = (spec.n_layers, spec.bidirectional, spec.residual, spec.dropout)
        self.encoder = RecurrentStack(
            spec.cell, size * spec.segment, hidden, *layers, spec.dilations, spec.depth
        )
        context = self.encoder.output_size + self.static_columns.n_values
        self.by_step = spec.attention is not None or spec.decoder == "recurrent"
        if self.by_step:
            self.position = nn.Parameter(torch.empty(spec.horizon, hidden))
            self.query = nn.Linear(context, hidden)
            step = hidden
            if spec.decoder == "recurrent":
                deep = (len(self.encoder.layers), False, spec.residual, spec.dropout, None)
                self.decoder = RecurrentStack(spec.cell, hidden, hidden, *deep, spec.depth)
                step = self.decoder.output_size
            if spec.attention is not None:
                self.attention = Attention(spec.attention, step, self.encoder.output_size)
                step += self.encoder.output_size
            self.step_head = nn.Linear(step, joint * spec.n_params)
        if spec.decoder == "direct":
            self.head = nn.Linear(context, spec.horizon * joint * spec.n_params)
        self.skip = nn.Linear(spec.lookback, spec.horizon, bias=False)
        self.anchor_logits = nn.Parameter(torch.zeros(spec.horizon, 3))
        if spec.known:
            self.interaction = Interaction(
                context, self.effect.encoder.n_values, hidden, joint * spec.n_params
            )

    def reset(self, generator: torch.Generator) -> None:
        """Start at the anchor's forecast, blind to missing marks and to constants of the window."""
        with torch.no_grad():
            if self.spec.decoder == "direct":
                self.head.weight.mul_(0.1)
                self.head.weight[:, self.encoder.output_size :] = 0.0
                self.head.bias.zero_()
            self.skip.weight.zero_()
            self.anchor_logits.zero_()
            for name, weight in self.encoder.layers[0].named_parameters():
                if name.endswith(("weight_ih", "input.weight")):
                    weight[:, self._marks] = 0.0
            if self.by_step:
                self.position.normal_(generator=generator)
                self.step_head.weight.mul_(0.1)
                self.step_head.bias.zero_()

    @torch.no_grad()
    def prime(self, batches: Iterable[tuple[Inputs, Tensor]]) -> None:
        """Begin with the anchor that errs least at each step."""
        total = torch.zeros_like(self.anchor_logits)
        for inputs, truth in batches:
            truth = truth - self.known_effect(inputs.future_known)
            anchors = self.anchors(self.normalise(self.take_effect(inputs)))
            error = (anchors - truth[..., None]).abs()
            total += torch.nan_to_num(error).sum((0, 2))
        best = total.argmin(-1)
        self.anchor_logits[torch.arange(len(best)), best] = 4.0

    def anchors(self, window: Window) -> Tensor:
        """Last value, mean and last season as forecasts: (batch, horizon, n_targets, 3)."""
        season, horizon = self.spec.season, self.spec.horizon
        last, mean = (one.expand(-1, horizon, -1) for one in (window.last, window.mean))
        seasonal, whole = last, self.spec.lookback // season * season
        if season > 1 and whole:
            residual, observed = (
                x[:, -whole:].unflatten(1, (-1, season)) for x in (window.residual, window.observed)
            )
            phases = last_observed(residual, observed, window.mean[:, None])[:, 0]
            seasonal = phases[:, torch.arange(horizon, device=last.device) % season]
        return torch.stack([last, mean, seasonal], -1)

    def encode(self, values: Tensor, observed: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Outputs (rows, steps // segment, size), last output (rows, size) and states of the
        encoder; a row is one of the batch, or one target of it if these are independent.
        """
        return self.encoder.read(fold(self.features(values, observed, past), self.spec.segment))

    def features(self, values: Tensor, observed: Tensor, past: Tensor) -> Tensor:
        """Values, seasonal differences, missing marks; past covariates and their marks: (rows,
        steps, size).
        """
        if self.spec.independent:
            values, observed = by_target(values), by_target(observed)
        parts = [values]
        season = self.spec.season
        if season > 1:
            both = observed[:, season:] & observed[:, :-season]
            step = torch.where(both, values[:, season:] - values[:, :-season], 0.0)
            parts.append(functional.pad(step, (0, 0, min(season, values.shape[1]), 0)))
        parts.append((~observed).to(values.dtype))
        if self.spec.past:
            parts.append(self._for_each(self.past_columns(past)))
        return torch.cat(parts, dim=-1)

    def _for_each(self, x: Tensor) -> Tensor:
        """What all targets of a window share, once for each row of the encoder."""
        return x.repeat_interleave(self.spec.n_targets, 0) if self.spec.independent else x

    def _together(self, raw: Tensor) -> Tensor:
        """Raw numbers of all rows: (batch, steps, n_targets, n_params)."""
        spec = self.spec
        raw = raw.reshape(-1, spec.n_targets // spec.joint, raw.shape[1], spec.joint, spec.n_params)
        return raw.transpose(1, 2).flatten(2, 3)

    def decode(self, window: Window, context: Encoding) -> tuple[Tensor, Tensor]:
        """Anchor: a mixture of the naive forecasts, plus a linear map of the window, the same for
        all targets (Zeng et al. 2023, eq. 1).
        """
        spec = self.spec
        parts = [self.step_head(self._steps(context)[0])] if self.by_step else []
        if spec.supervised:
            each = [self._of_layer(context, k) for k in range(self.n_outputs)]
            parts.append(torch.stack(each).mean(0))
        elif spec.decoder == "direct":
            parts.append(self.head(context.last).view(len(context.last), spec.horizon, -1))
        raw = self._together(parts[0] if len(parts) == 1 else parts[0] + parts[1])
        mixture = torch.softmax(self.anchor_logits, dim=-1)  # (horizon, 3)
        anchor = (self.anchors(window) * mixture[None, :, None, :]).sum(-1)
        linear = self.skip(window.values.transpose(1, 2)).transpose(1, 2)
        return raw, anchor + linear * window.scale

    def _steps(self, context: Encoding) -> tuple[Tensor, Tensor | None]:
        """The steps ahead as the read-out sees them, (rows, horizon, size), and the weights with
        which each attends to the encoder's outputs, (rows, horizon, segments) or None.
        """
        steps, weights = self.position + self.query(context.last)[:, None], None
        if self.spec.decoder == "recurrent":
            steps = self.decoder.scan(steps, context.states)[0]
        if self.spec.attention is not None:
            taken, weights = self.attention(steps, context.outputs)
            steps = torch.cat([steps, taken], -1)
        return steps, weights

    def weights(self, inputs: Inputs) -> Tensor:
        """Attention of each step ahead to the segments of the window, (rows, horizon, segments)."""
        window = self.normalise(self.take_effect(inputs))
        weights = self._steps(self.context(window, inputs))[1]
        assert weights is not None
        return weights

    @property
    def n_outputs(self) -> int:
        """Layers that the read-out sees."""
        return len(self.encoder.layers) if self.spec.depth.output_from_all else 1

    def _of_layer(self, context: Encoding, layer: int) -> Tensor:
        """What one layer says by itself, of those that lie side by side in the encoding."""
        size = self.encoder.output_size // self.n_outputs
        own = torch.zeros_like(context.last[0])
        own[layer * size : (layer + 1) * size] = own[self.encoder.output_size :] = 1.0
        return self.head(context.last * own).view(len(context.last), self.spec.horizon, -1)

    def says(self, inputs: Inputs) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The forecast, or that of every layer by itself where these are supervised."""
        if not self.spec.supervised:
            return [self(inputs)]
        window = self.normalise(self.take_effect(inputs))
        context = self.context(window, inputs)
        _, anchor = self.decode(window, context)
        raws = [self._together(self._of_layer(context, k)) for k in range(self.n_outputs)]
        future = inputs.future_known
        return [(*self.with_known(r, anchor, context, future), window.scale) for r in raws]

    def add_known(self, raw: Tensor, context: Encoding, future_known: Tensor) -> Tensor:
        """Raw deviations with the interaction of the steps' own covariates, same shape."""
        if not self.spec.known:
            return raw
        known = self.effect.encoder.values(future_known)
        return raw + self._together(self.interaction(context.last, self._for_each(known)))

    def context(self, window: Window, inputs: Inputs) -> Encoding:
        """Encoding with the static covariates beside it."""
        outputs, last, states = self.encode(window.values, window.observed, inputs.past)
        found = self.with_static(last, inputs.static)
        if not self.by_step:
            return found
        # the decoder reads ahead, from the newest state of each layer
        ahead = [s[: len(s) // 2] if self.spec.bidirectional else s for s in states]
        newest = [
            tuple(part[:, -1] for part in state) if dilation > 1 else state
            for state, dilation in zip(ahead, sum(self.encoder.dilations, ()), strict=True)
        ]
        return found._replace(outputs=outputs, states=newest)

    def with_static(self, encoded: Tensor, static: Tensor) -> Encoding:
        """What the decoder reads: encodings with the static covariates beside them."""
        if not self.spec.static:
            return Encoding(encoded)
        static = self.static_columns.values(static)
        return Encoding(torch.cat([encoded, self._for_each(static)], dim=-1))

    def forward_dense(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`forward`, for all windows of a stretch that end on a segment's end.

        The stretch is encoded once, in the unit of its first window, and every later window reads
        the state that has come that far. Anchors, linear map and scale are each window's own.
        ``targets, past, known`` are (batch, lookback + extra, ...), ``extra`` a multiple of
        ``segment``, ``future_known`` (batch, extra + horizon, n_known), ``static`` and results have
        ``batch * n_windows`` rows, windows of one stretch together.
        """
        spec = self.spec
        residual = self.take_effect(inputs)
        windows = unfold(residual, spec.lookback, spec.segment)
        n = len(windows) // len(residual)
        window = self.normalise(windows)
        first = self.normalise(residual[:, : spec.lookback])
        observed = ~torch.isnan(residual)
        unit = (torch.where(observed, residual, first.centre) - first.centre) / first.scale
        outputs = self.encode(unit, observed, inputs.past)[0]
        # windows of a stretch together, in them targets of a window together
        encoded = outputs[:, -n:].unflatten(0, (-1, spec.n_targets // spec.joint))
        context = self.with_static(encoded.transpose(1, 2).flatten(0, 2), inputs.static)
        future = unfold(inputs.future_known, spec.horizon, spec.segment)
        raw, anchor = self.decode(window, context)
        return *self.with_known(raw, anchor, context, future), window.scale
