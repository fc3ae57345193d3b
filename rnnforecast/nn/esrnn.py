"""The hybrid of exponential smoothing and a recurrent network (Smyl 2020, Int. J. Forecast. 36(1)).

Every series has its own smoothing coefficients; one network is shared. At positions one stride
apart it reads the last ``window`` rows less their season and the level at the position, squashed by
asinh, and gives what the next ``horizon`` rows will add to level plus season:

    forecast_{t+h} = l_t + s_{t+h} + u_{t+h} + network(window at t)_h

All is on an additive scale, in units of each series: for positive data that of the logarithm. With
a stride of one season, one step of the recurrence is one season of rows, and each training batch
has a phase of its own; ``stride=1`` with dilations ((1, 4), (24, 168)) is the paper's network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnforecast.nn.covariates import CovariateEffect, CovariateEncoder, Spec
from rnnforecast.nn.layers import RecurrentStack, SeededDropout
from rnnforecast.nn.smoothing import smooth

__all__ = ["ESRNN", "ESRNNSpec", "SeriesBatch"]

_SQUASH = 8.0  # seasonal naive errors up to which inputs are nearly linear, then logarithmic
_RATE = 40.0  # how much faster smoothing coefficients learn than weights (Smyl's per-series rate)


@dataclass(frozen=True, kw_only=True)
class ESRNNSpec(Spec):
    """What fixes a network's shape."""

    n_series: int  # series times targets: each target of a series is smoothed on its own
    periods: tuple[int, ...]
    window: int
    stride: int
    dilations: tuple[tuple[int, ...], ...]


class SeriesBatch(NamedTuple):
    """Whole series side by side, aligned at their ends."""

    series: Tensor  # (batch,), int64: series times targets
    start: Tensor  # (batch,), int64: column of the first row; columns before it are NaN
    values: Tensor  # (batch, time), in units of the series; NaN where unobserved
    known: Tensor  # (batch, time, n_known)
    past: Tensor  # (batch, time, n_past)
    static: Tensor  # (batch, n_static)
    able: Tensor  # (n_periods, batch), 1 where a series is long enough for a season, else 0
    starts: tuple[Tensor, ...]  # (batch, 1) and (batch, period): level and seasons at first


class ESRNN(nn.Module):
    """Per-series smoothing and the shared network, for one :class:`ESRNNSpec`."""

    def __init__(self, spec: ESRNNSpec):
        super().__init__()
        self.spec = spec
        # each sigmoid(_RATE * logit): alpha, gammas, half of the factors on the first seasons
        self.logits = nn.Parameter(torch.zeros(1 + 2 * len(spec.periods), spec.n_series))
        self.past_columns = CovariateEncoder(spec.past)
        self.static_columns = CovariateEncoder(spec.static)
        size = spec.window + self.past_columns.size + self.static_columns.n_values
        self.dropout = SeededDropout(spec.dropout)
        self.stack = RecurrentStack(
            spec.cell, size, spec.hidden_size, residual=True, dilations=spec.dilations
        )
        self.adapter = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.head = nn.Linear(spec.hidden_size, spec.horizon * spec.n_params)
        self.skip = nn.Linear(spec.window, spec.horizon, bias=False)
        if spec.known:
            hidden = min(spec.hidden_size, 16)
            self.effect = CovariateEffect(spec.known, spec.n_targets, hidden)

    def reset(self, generator: torch.Generator) -> None:
        """Start close to the forecast of the smoothing alone."""
        with torch.no_grad():
            n = len(self.spec.periods)
            # the first season as measured, half of the second, which has two or so of each phase
            first = [-1.0, *[-1.5] * n, *[0.0, -1.1][:n]]
            self.logits.copy_(torch.tensor(first)[:, None].expand_as(self.logits) / _RATE)
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.skip.weight.zero_()

    def coefficients(self, series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alpha (batch,), gammas (n_periods, batch), and a factor between 0 and 2 on each season as
        measured on first rows. A negative number in ``series: (batch,)``, ``target - n_targets``,
        is a series that training did not have: it takes the mean of those of its target.
        """
        n = len(self.spec.periods)
        own = torch.where(
            series < 0,
            self._typical()[:, series % self.spec.n_targets],
            self.logits[:, series.clamp(min=0)],
        )
        found = torch.sigmoid(_RATE * own)
        return found[0], found[1 : 1 + n], 2 * found[1 + n :]

    def _typical(self) -> Tensor:
        """Mean of the logits over series: (coefficients, n_targets)."""
        return self.logits.unflatten(-1, (-1, self.spec.n_targets)).mean(-2)

    def grown(self, n_series: int) -> ESRNN:
        """The same network with room for more series, which begin with the mean of the others."""
        more = (n_series - self.spec.n_series) // self.spec.n_targets
        with torch.device("meta"):  # torch's own initialisation draws from the global generator
            new = ESRNN(replace(self.spec, n_series=n_series))
        new = new.to_empty(device=self.logits.device).to(self.logits.dtype)
        logits = torch.cat([self.logits, self._typical().repeat(1, more)], -1)
        new.load_state_dict({**self.state_dict(), "logits": logits.detach()})
        return new

    def covariates(self, series: Tensor, known: Tensor) -> Tensor | float:
        """What known covariates ``(batch, time, n_known)`` add to their own rows: (batch, time)."""
        if not self.spec.known:
            return 0.0
        target = (series % self.spec.n_targets)[:, None, None]
        added = self.effect(known)
        return added.gather(2, target.expand(-1, added.shape[1], 1))[..., 0]

    def smooth(self, batch: SeriesBatch, plain: Tensor) -> tuple[Tensor, ...]:
        """Level and seasons of ``plain: (batch, time)``, values less the effect of covariates."""
        alpha, gammas, trusts = self.coefficients(batch.series)
        gains, starts = [alpha, *((1 - alpha) * gammas * batch.able)], [batch.starts[0]]
        for trust, first in zip(trusts, batch.starts[1:]):
            own = torch.arange(first.shape[1], device=plain.device) - batch.start[:, None]
            starts.append((trust[:, None] * first).gather(1, own % first.shape[1]))
        return smooth(plain, gains, starts)

    def read(
        self, batch: SeriesBatch, plain: Tensor, terms: tuple[Tensor, ...], end: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs at positions one stride apart, the last of which has seen column ``end``.

        Features (batch, n_positions, size), level plus season of the rows to come (batch,
        n_positions, horizon), and the column of the last row seen (n_positions,).
        """
        spec, n_steps, device = self.spec, plain.shape[1], plain.device
        first = (end - (spec.window - 1)) % spec.stride
        last = torch.arange(first + spec.window - 1, end + 1, spec.stride, device=device)
        level = terms[0][:, last + 1, None]  # (batch, positions, 1)
        season = sum(term[:, :n_steps] for term in terms[1:])
        # of rows beyond one period, the latest that is known of their phase
        steps = torch.arange(spec.horizon, device=device)
        base: Any = sum(
            term[:, last[:, None] + 1 + steps % period]
            for term, period in zip(terms, (1, *spec.periods))
        )
        residual = (plain - season)[:, first : end + 1].unfold(1, spec.window, spec.stride)
        # what was not observed is what the smoothing expects
        parts = [_SQUASH * torch.asinh(torch.nan_to_num(residual - level) / _SQUASH)]
        shape = (*level.shape[:2], -1)
        if spec.past:
            parts.append(self.past_columns(batch.past[:, last]))
        if spec.static:
            parts.append(self.static_columns.values(batch.static)[:, None].expand(shape))
        # a position before the series' first row says nothing, whatever the batch pads
        inside = (last >= batch.start[:, None])[..., None]
        features = torch.where(inside, torch.cat(parts, -1), 0.0)
        return features, base, last

    def forward(
        self, batch: SeriesBatch, plain: Tensor, terms: tuple[Tensor, ...], ends: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Raw numbers (n_phases, batch, n_positions, horizon, n_params), where they stand, without
        the effect of covariates, and the columns of last rows (n_phases, n_positions), for phases
        of positions that end at each of ``ends``; all have as many as the one with the fewest.
        """
        spec = self.spec
        phases = [self.read(batch, plain, terms, end) for end in ends]
        n = min(len(last) for *_, last in phases)
        features, base = (torch.stack([phase[k][:, -n:] for phase in phases]) for k in range(2))
        last = torch.stack([seen[-n:] for *_, seen in phases])
        states = self.stack(self.dropout(features.flatten(0, 1)))[0]
        raw = self.head(torch.tanh(self.adapter(states)))
        raw = raw.unflatten(-1, (spec.horizon, spec.n_params)).unflatten(0, features.shape[:2])
        return raw, base + self.skip(features[..., : spec.window]), last
