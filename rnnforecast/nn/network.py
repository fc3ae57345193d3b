"""The forecasting network: normalise the window, encode it, decode all steps at once.

The encoder is a stack of recurrent layers over the steps of the window, or over segments of it:
``segment`` neighbouring steps folded into one (Lin et al. 2023, section 3.2). The forecast starts
from an anchor (a learnt mixture of the window's last value, its mean and its last season, plus a
linear map of the window), to which the decoded deviation and an interaction of x_h with the
encoding are added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn.covariates import Interaction
from rnnforecast.nn.layers import RecurrentStack
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

    @property
    def joint(self) -> int:
        """Targets that one encoding reads: all, or one."""
        return 1 if self.independent else self.n_targets


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
        layers = (spec.n_layers, spec.bidirectional, spec.residual, spec.dropout)
        self.encoder = RecurrentStack(spec.cell, size * spec.segment, spec.hidden_size, *layers)
        context = self.encoder.output_size + self.static_columns.n_values
        self.head = nn.Linear(context, spec.horizon * joint * spec.n_params)
        self.skip = nn.Linear(spec.lookback, spec.horizon, bias=False)
        self.anchor_logits = nn.Parameter(torch.zeros(spec.horizon, 3))
        if spec.known:
            self.interaction = Interaction(
                context, self.effect.encoder.n_values, spec.hidden_size, joint * spec.n_params
            )

    def reset(self, generator: torch.Generator) -> None:
        """Start at the anchor's forecast, blind to missing marks and to constants of the window."""
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.weight[:, self.encoder.output_size :] = 0.0
            self.head.bias.zero_()
            self.skip.weight.zero_()
            self.anchor_logits.zero_()
            for name, weight in self.encoder.layers[0].named_parameters():
                if "weight_ih" in name:
                    weight[:, self._marks] = 0.0

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

    def encode(self, values: Tensor, observed: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (rows, steps // segment, size) and last output (rows, size) of the encoder; a row
        is one of the batch, or one target of it if these are independent.
        """
        return self.encoder(fold(self.features(values, observed, past), self.spec.segment))

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

    def decode(self, window: Window, context: Tensor) -> tuple[Tensor, Tensor]:
        """Anchor: a mixture of the naive forecasts, plus a linear map of the window, the same for
        all targets (Zeng et al. 2023, eq. 1).
        """
        spec = self.spec
        raw = self._together(self.head(context).view(len(context), spec.horizon, -1))
        mixture = torch.softmax(self.anchor_logits, dim=-1)  # (horizon, 3)
        anchor = (self.anchors(window) * mixture[None, :, None, :]).sum(-1)
        linear = self.skip(window.values.transpose(1, 2)).transpose(1, 2)
        return raw, anchor + linear * window.scale

    def add_known(self, raw: Tensor, context: Tensor, future_known: Tensor) -> Tensor:
        """Raw deviations with the interaction of the steps' own covariates, same shape."""
        if not self.spec.known:
            return raw
        known = self.effect.encoder.values(future_known)
        return raw + self._together(self.interaction(context, self._for_each(known)))

    def context(self, window: Window, inputs: Inputs) -> Tensor:
        """Encoding with the static covariates beside it."""
        encoded = self.encode(window.values, window.observed, inputs.past)[1]
        return self.with_static(encoded, inputs.static)

    def with_static(self, encoded: Tensor, static: Tensor) -> Tensor:
        """What the decoder reads: encodings with the static covariates beside them."""
        if not self.spec.static:
            return encoded
        static = self.static_columns.values(static)
        return torch.cat([encoded, self._for_each(static)], dim=-1)

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
