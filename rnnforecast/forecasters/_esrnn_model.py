"""Fitted hybrid forecaster: networks, states of every series, forecasts from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.forecasters._esrnn_units import ESUnits
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec, SeriesBatch
from rnnforecast.nn.smoothing import Smoothed, smooth_arrays
from rnnforecast.training.source import Units

__all__ = ["ESModel", "Member", "States", "blank", "stretch"]

_CHUNK_NUMBERS = 1 << 22  # numbers in one pass: bounds the memory of a forecast


def blank(panel: Panel, series: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Row numbers of a panel for stretches of ``width`` rows, the last ones of the first
    ``rows[k]`` of series ``series[k]``; -1 before the first row. Shape (n, width).
    """
    own = rows[:, None] - width + np.arange(width)
    return np.where(own < 0, -1, panel.indptr[series][:, None] + own)


def stretch(
    panel: Panel,
    units: ESUnits,
    covariates: Units,
    virtual: np.ndarray,
    rows: np.ndarray,
    width: int,
    like: Tensor,
) -> SeriesBatch:
    """The last ``width`` of the first ``rows[k]`` rows of each series, as tensors.

    Parameters
    ----------
    panel : Panel
    units : ESUnits
    covariates : Units
        Standardise past, known and static columns.
    virtual : ndarray of int, shape (n,)
        Series times targets: ``series * n_targets + target``.
    rows : ndarray of int, shape (n,)
    width : int
    like : Tensor
        Type and device to take.

    Returns
    -------
    SeriesBatch
        Without states before the first row.
    """
    n_targets = panel.targets.shape[1]
    series, target = virtual // n_targets, virtual % n_targets
    at = blank(panel, series, rows, width)
    missing = at < 0

    def tensor(values: np.ndarray) -> Tensor:
        # first the type: not every device has float64
        return torch.as_tensor(values).to(like.dtype).to(like.device)

    def take(values: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> Tensor:
        part = (values[at] - loc) / scale
        if part.size:
            part[missing] = np.nan
        return tensor(part)

    z = units.to(np.where(missing, np.nan, panel.targets[at, target[:, None]]), virtual)
    static = (panel.static[series] - covariates.static_loc) / covariates.static_scale
    spread = np.log(units.scale[series, target]) + 3.0 if units.log else np.zeros(len(series))
    return SeriesBatch(
        series=torch.as_tensor(virtual, device=like.device),
        start=torch.as_tensor(np.maximum(width - rows, 0), device=like.device),
        values=tensor(z),
        known=take(panel.known, covariates.known_loc, covariates.known_scale),
        past=take(panel.past, covariates.past_loc, covariates.past_scale),
        static=tensor(np.column_stack([static, spread])),
        level=like.new_zeros(len(virtual)),
        seasons=(),
    )


@dataclass(frozen=True)
class States:
    """Level and seasons after every row, and the seasons of the rows to come.

    Attributes
    ----------
    level : ndarray, shape (n_rows, n_targets)
    seasons : tuple of ndarray, shape (n_rows, n_targets)
        What each season said of the row before it was seen.
    first : ndarray, shape (n_series * n_targets,)
        Level before the first row.
    ahead : tuple of ndarray, shape (n_series * n_targets, period)
    """

    level: np.ndarray
    seasons: tuple[np.ndarray, ...]
    first: np.ndarray
    ahead: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Member:
    """One trained network and the states of the series under its coefficients."""

    network: ESRNN
    states: States


@dataclass(frozen=True)
class ESModel:
    """The ensemble.

    Attributes
    ----------
    spec : ESRNNSpec
    members : tuple of Member
    units : ESUnits
    covariates : Units
    n_positions : int
        Positions that the networks read before they forecast.
    level : ndarray, shape (n_series * n_targets,)
        Level before the first row of each series, as measured on its first rows.
    seasons : tuple of ndarray, shape (n_series * n_targets, period)
        Seasons, measured likewise.
    """

    spec: ESRNNSpec
    members: tuple[Member, ...]
    units: ESUnits
    covariates: Units
    n_positions: int
    level: np.ndarray
    seasons: tuple[np.ndarray, ...]

    def _virtual(self, series: np.ndarray) -> np.ndarray:
        n_targets = self.spec.n_targets
        return (series[:, None] * n_targets + np.arange(n_targets)).ravel()

    # -- forecasts ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def future(
        self, panel: Panel, series: np.ndarray, n_steps: int, known: np.ndarray
    ) -> np.ndarray:
        """Forecasts on the additive scale, mean of the members: (n_series, n_steps, n_targets)."""
        spec = self.spec
        width = spec.window + (self.n_positions - 1) * spec.stride
        each = (spec.window + spec.hidden_size) * self.n_positions * spec.n_targets
        size = max(_CHUNK_NUMBERS // each, 1)
        parts = []
        for start in range(0, len(series), size):
            chunk = series[start : start + size]
            future = self.covariates.known(known[start : start + size])
            own = [
                self._roll(member, panel, chunk, width, n_steps, future) for member in self.members
            ]
            parts.append(np.mean(own, axis=0))
        return np.concatenate(parts)

    def _roll(self, member, panel, series, width, n_steps, known):
        """One member's forecast: blocks of the horizon, each smoothed before the next."""
        network, states = member.network, member.states
        spec = network.spec
        virtual = self._virtual(series)
        rows = np.repeat(panel.lengths[series], spec.n_targets)
        batch = stretch(
            panel, self.units, self.covariates, virtual, rows, width, network.alpha_logit
        )
        plain = batch.values - network.covariates(batch.series, batch.known)
        alpha, gammas = (x.numpy() for x in network.coefficients(batch.series))
        smoothed = self._recent(panel, states, virtual, rows, width)
        blocks: list[Tensor] = []
        for start in range(0, n_steps, spec.horizon):
            tensors = Smoothed(
                torch.from_numpy(smoothed.level),
                tuple(torch.from_numpy(term) for term in smoothed.seasons),
            )
            positions = network.positions(batch, plain, tensors, [width - 1])
            raw, location = network(positions)
            block = (location + raw[..., 0])[-1]
            blocks.append(block)
            if start + spec.horizon < n_steps:
                batch, plain, smoothed = _append(batch, plain, smoothed, block, alpha, gammas)
        values = torch.cat(blocks, 1)[:, :n_steps]
        if spec.n_known:
            ahead = torch.from_numpy(np.repeat(known, spec.n_targets, 0))
            values = values + network.covariates(batch.series, ahead.to(values.dtype))
        shape = (len(series), spec.n_targets, n_steps)
        return values.numpy().astype(np.float64).reshape(shape).transpose(0, 2, 1)

    def _recent(self, panel, states, virtual, rows, width) -> Smoothed:
        """States at the last ``width`` rows of series; before their first, the first."""
        n_targets = self.spec.n_targets
        at = blank(panel, virtual // n_targets, rows, width)
        target = (virtual % n_targets)[:, None]
        level = np.where(at < 0, states.first[virtual][:, None], states.level[at, target])
        seasons = []
        for term, ahead in zip(states.seasons, states.ahead):
            past = np.where(at < 0, 0.0, term[at, target])
            seasons.append(np.concatenate([past, ahead[virtual]], 1))
        return Smoothed(level, tuple(seasons))

    @torch.inference_mode()
    def in_sample(
        self, panel: Panel, series: np.ndarray, positions: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """One-step values of the smoothing on the additive scale: (n, n_targets)."""
        n_targets = self.spec.n_targets
        at = panel.indptr[series] + positions
        virtual = series[:, None] * n_targets + np.arange(n_targets)
        total = np.zeros((len(series), n_targets))
        for member in self.members:
            states = member.states
            before = np.where((positions > 0)[:, None], states.level[at - 1], states.first[virtual])
            total += before + sum(term[at] for term in states.seasons)
            if self.spec.n_known:
                rows = torch.from_numpy(self.covariates.known(known))[None]
                total += member.network.effect(rows)[0].numpy()
        return total / len(self.members)

    # -- states ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def begun(self, network: ESRNN, panel: Panel) -> Member:
        """A member with the states of the whole history."""
        n_targets = network.spec.n_targets
        trust = network.trust(torch.arange(network.spec.n_series)).numpy()
        empty = States(
            np.empty((0, n_targets)),
            tuple(np.empty((0, n_targets)) for _ in self.seasons),
            self.level,
            tuple(k[:, None] * season for k, season in zip(trust, self.seasons)),
        )
        none = np.zeros(panel.n_series, dtype=np.int64)
        return self._moved(Member(network, empty), none, panel)

    def extended(self, before: Panel, panel: Panel) -> ESModel:
        """The model with the states moved on over the rows that ``panel`` has beside ``before``."""
        members = tuple(self._moved(m, before.lengths, panel) for m in self.members)
        return replace(self, members=members)

    @torch.inference_mode()
    def _moved(self, member: Member, done: np.ndarray, panel: Panel) -> Member:
        network, old = member.network, member.states
        n_targets = network.spec.n_targets
        level = np.empty(panel.targets.shape)
        seasons = [np.empty(panel.targets.shape) for _ in old.seasons]
        own = np.arange(len(panel.targets)) - np.repeat(panel.indptr[:-1], panel.lengths)
        kept = own < np.repeat(done, panel.lengths)
        level[kept] = old.level
        for new, term in zip(seasons, old.seasons):
            new[kept] = term
        ahead = [term.copy() for term in old.ahead]
        for series in self._groups(panel.lengths - done):
            virtual = self._virtual(series)
            first, count = (np.repeat(x[series], n_targets) for x in (done, panel.lengths - done))
            at, z = self._new_rows(network, panel, virtual, first, count)
            target = (virtual % n_targets)[:, None]
            last = panel.indptr[virtual // n_targets] + first - 1
            start = np.where(
                first > 0, level[last, target[:, 0]] if len(level) else 0.0, old.first[virtual]
            )
            alpha, gammas = (x.numpy() for x in network.coefficients(torch.from_numpy(virtual)))
            moved = smooth_arrays(z, alpha, list(gammas), start, [a[virtual] for a in ahead])
            inside = np.arange(z.shape[1]) < count[:, None]
            flat = (at[inside], np.broadcast_to(target, at.shape)[inside])
            level[flat] = moved.level[inside]
            for new, term, nexts in zip(seasons, moved.seasons, ahead):
                new[flat] = term[:, : z.shape[1]][inside]
                rows = count[:, None] + np.arange(nexts.shape[1])
                nexts[virtual] = np.take_along_axis(term, rows, 1)
        return Member(network, States(level, tuple(seasons), old.first, tuple(ahead)))

    def _groups(self, counts: np.ndarray) -> Iterator[np.ndarray]:
        """Series with new rows, those with as many together, in parts that fit in memory."""
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        start = 0
        while start < len(order):
            size = max(_CHUNK_NUMBERS // int(counts[order[start]]), 1)
            part = order[start : start + size]
            part = part[counts[part] <= 2 * counts[part[0]]]
            yield part
            start += len(part)

    def _new_rows(self, network, panel, virtual, first, count):
        """Row numbers, and values less covariates, of the rows after the first ``first[k]``; the
        stretches begin together and end in NaN.
        """
        n_targets = network.spec.n_targets
        series, target = virtual // n_targets, virtual % n_targets
        steps = np.arange(int(count.max()))
        inside = steps < count[:, None]
        at = np.where(inside, panel.indptr[series][:, None] + first[:, None] + steps, 0)
        z = self.units.to(panel.targets[at, target[:, None]], virtual)
        if network.spec.n_known:
            known = torch.from_numpy(self.covariates.known(panel.known[at]))
            z = z - network.covariates(torch.from_numpy(virtual), known).numpy()
        return at, np.where(inside, z, np.nan)


def _append(batch, plain, smoothed, block, alpha, gammas):
    """Take a block of forecasts for rows that were seen, and drop as many of the oldest."""
    n, width = block.shape[1], plain.shape[1]
    nexts = [term[:, width:] for term in smoothed.seasons]
    moved = smooth_arrays(block.numpy(), alpha, list(gammas), smoothed.level[:, -1], nexts)
    level = np.concatenate([smoothed.level, moved.level], 1)[:, n:]
    seasons = tuple(
        np.concatenate([old[:, :width], new], 1)[:, n:]
        for old, new in zip(smoothed.seasons, moved.seasons)
    )
    past = batch.past
    if past.shape[2]:
        unknown = past.new_full((len(past), n, past.shape[2]), torch.nan)
        past = torch.cat([past, unknown], 1)[:, n:]
    batch = batch._replace(past=past, start=(batch.start - n).clamp(min=0))
    return batch, torch.cat([plain, block], 1)[:, n:], Smoothed(level, seasons)
