"""The hybrid of exponential smoothing and a recurrent network (Smyl 2020, Int. J. Forecast. 36(1)).

Every series has its own smoothing coefficients; one network is shared. At positions one stride
apart, the network reads the last ``window`` rows less their season and the level at the position,
squashed by asinh (a logarithm with both signs, linear near zero), and gives what the next
``horizon`` rows will add to level plus season:

    forecast_{t+h} = l_t + s_{t+h} + u_{t+h} + network(window at t)_h

All is on an additive scale, in units of each series: for positive data that of the logarithm, where
sum means product. Positions are read by dilated LSTM layers in residual blocks. With a stride of
one season, one step of the recurrence is one season of rows, and each training batch has a phase of
its own; ``stride=1`` with dilations ((1, 4), (24, 168)) is the network of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnforecast.nn.covariates import CovariateEffect, CovariateEncoder
from rnnforecast.nn.layers import RecurrentStack, SeededDropout
from rnnforecast.nn.smoothing import Smoothed, smooth

__all__ = ["ESRNN", "ESRNNSpec", "Positions", "SeriesBatch"]

_SQUASH = 8.0  # seasonal naive errors up to which inputs are nearly linear, then logarithmic
_RATE = 40.0  # how much faster smoothing coefficients learn than weights (Smyl's per-series rate)


class ESRNNSpec(NamedTuple):
    """Everything that fixes a network's shape."""

    n_series: int  # series times targets: each target of a series is smoothed on its own
    n_targets: int
    periods: tuple[int, ...]
    window: int
    horizon: int
    stride: int
    dilations: tuple[tuple[int, ...], ...]
    hidden_size: int
    dropout: float
    n_known: int
    n_past: int
    n_static: int
    cell: Any = "lstm"  # a registered name, or a subclass of Cell
    n_params: int = 1
    past_levels: tuple[int, ...] = ()  # categories of each column, 0 for a number
    known_levels: tuple[int, ...] = ()
    static_levels: tuple[int, ...] = ()


class SeriesBatch(NamedTuple):
    """Whole series side by side, aligned at their ends."""

    series: Tensor  # (batch,), int64: series times targets
    start: Tensor  # (batch,), int64: column of the first row; columns before it are NaN
    values: Tensor  # (batch, time), in units of the series; NaN where unobserved
    known: Tensor  # (batch, time, n_known)
    past: Tensor  # (batch, time, n_past)
    static: Tensor  # (batch, n_static)
    level: Tensor  # (batch,): before the first row, as measured on the first rows
    seasons: tuple[Tensor, ...]  # each (batch, period): of the first rows, measured likewise


class Positions(NamedTuple):
    """Positions that a network reads, phases stacked along the batch."""

    features: Tensor  # (n_positions, batch, size)
    base: Tensor  # (n_positions, batch, horizon): level plus season of the rows to come
    last: Tensor  # (n_phases, n_positions), int64: column of the last row that was seen


class ESRNN(nn.Module):
    """Per-series smoothing and the shared network, for one :class:`ESRNNSpec`."""

    seasonal: Tensor

    def __init__(self, spec: ESRNNSpec):
        super().__init__()
        self.spec = spec
        n = len(spec.periods)
        # coefficients are sigmoid(_RATE * parameter)
        self.alpha_logit = nn.Parameter(torch.zeros(spec.n_series))
        self.gamma_logit = nn.Parameter(torch.zeros(n, spec.n_series))
        self.trust_logit = nn.Parameter(torch.zeros(n, spec.n_series))
        # whether a series is long enough for a season
        self.register_buffer("seasonal", torch.ones(n, spec.n_series))
        self.past_columns = CovariateEncoder(spec.n_past, spec.past_levels)
        self.static_columns = CovariateEncoder(spec.n_static, spec.static_levels)
        size = spec.window + self.past_columns.size + self.static_columns.n_values
        self.dropout = SeededDropout(spec.dropout)
        self.stack = RecurrentStack(
            spec.cell, size, spec.hidden_size, residual=True, dilations=spec.dilations
        )
        self.adapter = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.head = nn.Linear(spec.hidden_size, spec.horizon * spec.n_params)
        self.skip = nn.Linear(spec.window, spec.horizon, bias=False)
        if spec.n_known:
            hidden = min(spec.hidden_size, 16)
            self.effect = CovariateEffect(spec.n_known, spec.n_targets, hidden, spec.known_levels)

    def reset(self, generator: torch.Generator) -> None:
        """Start close to the forecast of the smoothing alone."""
        with torch.no_grad():
            self.alpha_logit.fill_(-1.0 / _RATE)
            self.gamma_logit.fill_(-1.5 / _RATE)
            self.trust_logit[:1] = 0.0  # the first season as measured,
            self.trust_logit[1:] = -1.1 / _RATE  # the second, from two or so of each phase, half
            self.seasonal.fill_(1.0)
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.skip.weight.zero_()

    def coefficients(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothing coefficients of some series.

        Parameters
        ----------
        series : (batch,), int64
            Series times targets. A negative number, ``target - n_targets``, is a series that was
            not there in training: it takes the mean of those of its target.

        Returns
        -------
        alpha : (batch,)
        gammas : (n_periods, batch)
            0 for a season that the series is too short for.
        """
        alpha = torch.sigmoid(_RATE * self._of(self.alpha_logit, series))
        gammas = torch.sigmoid(_RATE * self._of(self.gamma_logit, series))
        able = torch.where(series < 0, 1.0, self.seasonal[:, series.clamp(min=0)])
        return alpha, gammas * able

    def trust(self, series: Tensor) -> Tensor:
        """Factor between 0 and 2 on the seasons as measured on the first rows, chosen by training:
        (n_periods, batch).
        """
        return 2 * torch.sigmoid(_RATE * self._of(self.trust_logit, series))

    def _of(self, logits: Tensor, series: Tensor) -> Tensor:
        """``logits: (..., n_series)`` of some series, or the mean of all for a new one."""
        if not len(series) or series.min() >= 0:
            return logits[..., series]
        mean = logits.unflatten(-1, (-1, self.spec.n_targets)).mean(-2)
        return torch.where(
            series < 0, mean[..., series % self.spec.n_targets], logits[..., series.clamp(min=0)]
        )

    def covariates(self, series: Tensor, known: Tensor) -> Tensor | float:
        """What known covariates ``(batch, time, n_known)`` add to their own rows: (batch, time)."""
        if not self.spec.n_known:
            return 0.0
        target = (series % self.spec.n_targets)[:, None, None]
        added = self.effect(known)
        return added.gather(2, target.expand(-1, added.shape[1], 1))[..., 0]

    def smooth(self, batch: SeriesBatch, plain: Tensor) -> Smoothed:
        """Level and seasons of whole series from their first rows on; ``plain: (batch, time)`` is
        their values less the effect of covariates.
        """
        alpha, gammas = self.coefficients(batch.series)
        seasons = []
        for trust, first in zip(self.trust(batch.series), batch.seasons):
            period = first.shape[1]
            own = torch.arange(period, device=plain.device) - batch.start[:, None]
            seasons.append((trust[:, None] * first).gather(1, own % period))
        return smooth(plain, alpha, list(gammas), batch.level, seasons)

    def positions(
        self, batch: SeriesBatch, plain: Tensor, smoothed: Smoothed, ends: Iterable[int]
    ) -> Positions:
        """Inputs at positions one stride apart, the last of them at each of ``ends``.

        Parameters
        ----------
        batch : SeriesBatch
        plain : (batch, time)
        smoothed : Smoothed
        ends : iterable of int
            Column of the last row that a phase sees, at least ``window - 1``. All phases get as
            many positions as the one with the fewest.
        """
        parts = [self._phase(batch, plain, smoothed, end) for end in ends]
        fewest = min(len(part.last) for part in parts)
        return Positions(
            torch.cat([part.features[-fewest:] for part in parts], 1),
            torch.cat([part.base[-fewest:] for part in parts], 1),
            torch.stack([part.last[-fewest:] for part in parts]),
        )

    def _phase(self, batch: SeriesBatch, plain: Tensor, smoothed: Smoothed, end: int) -> Positions:
        spec, n_steps = self.spec, plain.shape[1]
        first = (end - (spec.window - 1)) % spec.stride
        last = torch.arange(first + spec.window - 1, end + 1, spec.stride, device=plain.device)
        level = smoothed.level[:, last, None]  # (batch, positions, 1)
        season: Tensor | float = 0.0
        ahead: Tensor | float = 0.0
        for term, period in zip(smoothed.seasons, spec.periods):
            season = season + term[:, :n_steps]
            # of rows beyond one period, the latest that is known of their phase
            steps = 1 + torch.arange(spec.horizon, device=plain.device) % period
            ahead = ahead + term[:, last[:, None] + steps]
        residual = (plain - season)[:, first : end + 1].unfold(1, spec.window, spec.stride)
        # what was not observed is what the smoothing expects
        parts = [_SQUASH * torch.asinh(torch.nan_to_num(residual - level) / _SQUASH)]
        shape = (*level.shape[:2], -1)
        if spec.n_past:
            parts.append(self.past_columns(batch.past[:, last]))
        if spec.n_static:
            parts.append(self.static_columns.values(batch.static)[:, None].expand(shape))
        # a position before the series' first row says nothing, whatever the batch pads
        inside = (last >= batch.start[:, None])[..., None]
        features = torch.where(inside, torch.cat(parts, -1), 0.0)
        base = (level + ahead).expand(*shape[:2], spec.horizon)
        return Positions(features.transpose(0, 1), base.transpose(0, 1), last)

    def forward(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """Raw numbers and where they stand, without the effect of covariates.

        Returns
        -------
        raw : (n_positions, batch, horizon, n_params)
        location : (n_positions, batch, horizon)
        """
        spec, features = self.spec, positions.features
        states = self.stack(self.dropout(features).transpose(0, 1))[0].transpose(0, 1)
        raw = self.head(torch.tanh(self.adapter(states)))
        location = positions.base + self.skip(features[..., : spec.window])
        return raw.unflatten(-1, (spec.horizon, spec.n_params)), location
