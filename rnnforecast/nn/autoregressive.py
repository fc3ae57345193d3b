"""The autoregressive network of Salinas et al. 2020 ("DeepAR", arXiv:1704.04110).

Recurrent layers read one value after another, and their output gives the distribution of the next.
It is trained on the true values of the steps before (figure 2, left) and forecasts by sampling:
each path reads what was drawn for it (right). Unlike there, the known covariates of a step act on
that step alone, as in every :class:`WindowNetwork`, so what is read is a value less their effect.

The distribution stands where a linear autoregression on the last value and the one a season before
the next puts it; the network gives the deviation from there, and the spread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnforecast.nn.layers import RecurrentStack
from rnnforecast.nn.window import Inputs, Window, WindowNetwork, WindowSpec, by_target

__all__ = ["AutoregressiveNetwork", "AutoregressiveSpec", "Reading"]


@dataclass(frozen=True, kw_only=True)
class AutoregressiveSpec(WindowSpec):
    """What fixes a network's shape."""

    season: int
    n_layers: int


class Reading(NamedTuple):
    """Where the network stands after the last value that it read. Its rows are every target of a
    window, or of a path, in the unit of the window.
    """

    raw: Tensor  # (rows, n_params), of the next value
    start: Tensor  # (rows,), where that is expected from
    recent: Tensor  # (rows, season), the latest values; NaN where unobserved
    fixed: Tensor  # (rows, size), inputs that stay the same
    states: Any  # of the layers


class AutoregressiveNetwork(WindowNetwork):
    """Network for one :class:`AutoregressiveSpec`; targets are rows of their own."""

    def __init__(self, spec: AutoregressiveSpec):
        super().__init__(spec)
        size = 2 + (spec.season > 1) + (spec.shift == "mean")
        size += self.past_columns.size + self.static_columns.n_values
        layers = (spec.n_layers, False, False, spec.dropout)
        self.stack = RecurrentStack(spec.cell, size, spec.hidden_size, *layers)
        self.head = nn.Linear(self.stack.output_size, spec.n_params)
        self.regression = nn.Parameter(torch.empty(2))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Start as a random walk with a spread of its own."""
        self.head.weight.mul_(0.1)
        self.head.bias.zero_()
        self.regression.copy_(torch.tensor([1.0, 0.0]))

    @torch.no_grad()
    def prime(self, batches: Iterable[tuple[Inputs, Tensor]]) -> None:
        """Start from the least squares of the first step ahead, slightly shrunk."""
        gram, moment = 1e-3 * torch.eye(2).double(), torch.zeros(2).double()
        for inputs, truth in batches:
            window = self.normalise(self.take_effect(inputs))
            unit, x = by_target(window.scale)[:, 0], self._with_gaps(window)
            x = unit * self._regressors(*self._lags(by_target(x)[..., 0]))[:, -1]
            y = truth[:, :1] - self.known_effect(inputs.future_known[:, :1]) - window.centre
            y = by_target(y)[:, 0].double()
            x = torch.where(torch.isnan(y), 0.0, x.double())
            gram, moment = gram + x.T @ x, moment + (x * torch.nan_to_num(y)).sum(0)
        self.regression.copy_(torch.linalg.solve(gram, moment))

    # -- a whole sequence --------------------------------------------------------------------------

    def forward(
        self, inputs: Inputs, truth: Tensor | None = None, whole: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of :class:`WindowNetwork`, for the steps of ``truth: (batch, horizon, n_targets)``,
        each from the true values before it; without truth for the next step alone. ``whole``: for
        all steps of the look-back after its first one too.
        """
        window = self.normalise(self.take_effect(inputs))
        x, known = self._with_gaps(window), inputs.future_known
        if truth is None:
            known = known[:, :1]
        else:
            ahead = truth[:, :-1] - self.known_effect(known[:, :-1])
            seen = ~torch.isnan(ahead)
            ahead = torch.where(seen, ahead - window.centre, 0.0) / window.scale
            x = torch.cat([x, torch.where(seen, ahead, torch.nan)], 1)
        if whole:
            known = torch.cat([inputs.known[:, 1:], known], 1)
        outputs, start, _ = self._encode(x, window, inputs)
        n, shape = known.shape[1], (-1, self.spec.n_targets)
        raw = self.head(outputs[:, -n:]).unflatten(0, shape).transpose(1, 2)
        start = start[:, -n:].unflatten(0, shape).transpose(1, 2)
        location = window.centre + window.scale * start + self.known_effect(known)
        return raw, location, window.scale

    def _with_gaps(self, window: Window) -> Tensor:
        """Values of a window, NaN where unobserved; no gradient passes there."""
        return torch.where(window.observed, window.values, torch.nan)

    def _encode(self, x: Tensor, window: Window, inputs: Inputs) -> tuple[Tensor, Tensor, Any]:
        """Outputs (rows, steps, size) after every value of ``x: (batch, steps, n_targets)``, where
        each next value is expected from (rows, steps), and the states at the end.
        """
        missing = x.shape[1] - inputs.past.shape[1]
        past = functional.pad(inputs.past, (0, 0, 0, missing), value=torch.nan)
        x = by_target(x)[..., 0]
        last, seasonal = self._lags(x)
        fixed = self._fixed(past, inputs.static, window)
        outputs, states = self.stack.scan(self._features(x, seasonal, fixed))
        return outputs, self._regressors(last, seasonal) @ self.regression, states

    def _lags(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """At every step of ``x: (rows, steps)`` the last observed value, zero before the first, and
        the value one season before the next step.
        """
        steps, season = x.shape[1], self.spec.season
        latest = torch.where(torch.isnan(x), 0, torch.arange(steps, device=x.device))
        last = torch.nan_to_num(x).gather(1, latest.cummax(1).values)
        return last, functional.pad(x, (season - 1, 0), value=torch.nan)[:, :steps]

    @staticmethod
    def _regressors(last: Tensor, seasonal: Tensor) -> Tensor:
        return torch.stack([last, torch.where(torch.isnan(seasonal), last, seasonal)], -1)

    def _features(self, x: Tensor, seasonal: Tensor, fixed: Tensor) -> Tensor:
        parts = [torch.nan_to_num(x), torch.isnan(x).to(x.dtype)]
        if self.spec.season > 1:
            parts.append(torch.nan_to_num(seasonal - x))
        return torch.cat([torch.stack(parts, -1), fixed], -1)

    def _fixed(self, past: Tensor, static: Tensor, window: Window) -> Tensor:
        """Past and static columns, and the unit of the window, which its values do not show:
        (rows, steps, size).
        """
        own = self.static_columns.values(static)[:, None].expand(-1, past.shape[1], -1)
        parts = torch.cat([self.past_columns(past), own], -1)
        parts = parts.repeat_interleave(self.spec.n_targets, 0)
        if self.spec.shift != "mean":
            return parts
        unit = by_target(window.scale.log().expand(-1, past.shape[1], -1))
        return torch.cat([parts, unit], -1)

    # -- step by step ------------------------------------------------------------------------------

    def context(self, window: Window, inputs: Inputs) -> Reading:
        """The look-back read."""
        x, season = self._with_gaps(window), self.spec.season
        outputs, start, states = self._encode(x, window, inputs)
        unknown = torch.full_like(inputs.past[:, :1], torch.nan)
        fixed = self._fixed(unknown, inputs.static, window)[:, 0]
        recent = functional.pad(by_target(x)[..., 0], (season, 0), value=torch.nan)[:, -season:]
        return Reading(self.head(outputs[:, -1]), start[:, -1], recent, fixed, states)

    def decode(self, window: Window, context: Reading) -> tuple[Tensor, Tensor]:
        """Of the next step alone."""
        n = self.spec.n_targets
        start = context.start.view(-1, 1, n)
        return context.raw.view(-1, 1, n, self.spec.n_params), window.centre + window.scale * start

    def spread(self, context: Reading, n_paths: int) -> Reading:
        """The same for so many paths of every window: rows are (batch, n_paths, n_targets)."""

        def repeated(x: Tensor) -> Tensor:
            x = x.unflatten(0, (-1, 1, self.spec.n_targets))
            return x.expand(-1, n_paths, *x.shape[2:]).flatten(0, 2)

        states = [tuple(map(repeated, each)) for each in context.states]
        raw, start, recent, fixed = map(repeated, context[:-1])
        return Reading(raw, start, recent, fixed, states)

    def read(self, context: Reading, values: Tensor) -> Reading:
        """One observed value of every row, ``(rows,)``, further."""
        recent = torch.cat([context.recent[:, 1:], values[:, None]], 1)
        seasonal = recent[:, 0]
        x = self._features(values, seasonal, context.fixed)[:, None]
        outputs, states = self.stack.scan(x, context.states)
        start = self._regressors(values, seasonal) @ self.regression
        return Reading(self.head(outputs[:, 0]), start, recent, context.fixed, states)
