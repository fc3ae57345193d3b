"""From a hybrid forecaster's parameters and a panel to its trained ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.forecasters._esrnn_model import ESModel, stretch
from rnnforecast.forecasters._esrnn_units import ESUnits, hybrid_loss, pinball
from rnnforecast.nn import initialise, set_generator
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec, SeriesBatch
from rnnforecast.training import Callback, History, ProgressBar, Settings, train
from rnnforecast.training.source import Units

__all__ = ["ESPlan", "ESRun", "initial_states"]

_MOST_POSITIONS = 128  # read before a forecast


@dataclass(frozen=True)
class ESPlan:
    """What a fit will do.

    Attributes
    ----------
    spec : ESRNNSpec
    train_rows : ndarray of int, shape (n_series,)
        Leading rows of each series that weights are trained on.
    warm : ndarray of int, shape (n_series,)
        Rows before the first position that counts: the first states are measured on them.
    most_rows : int
        Rows of a stretch that a batch reads of each series.
    """

    spec: ESRNNSpec
    train_rows: np.ndarray
    warm: np.ndarray
    most_rows: int

    def seasonal(self, virtual: np.ndarray) -> np.ndarray:
        """Whether each series has two of each season to train on: (n_periods, n)."""
        rows = self.train_rows[virtual // self.spec.n_targets]
        return np.array([rows >= 2 * p for p in self.spec.periods]).reshape(-1, len(virtual))


def initial_states(
    z: np.ndarray, periods: tuple[int, ...], long_enough: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Level and seasons before the first row, from the mean by phase of the first rows.

    Parameters
    ----------
    z : ndarray, shape (n, n_rows)
        First rows of each series on the additive scale; NaN where unobserved or beyond them.
    periods : tuple of int
    long_enough : ndarray of bool, shape (n_periods, n)
        Whether a series has the season.

    Returns
    -------
    level : ndarray, shape (n,)
        Mean of the first period of the series less its seasons.
    seasons : list of ndarray, shape (n, period)
    """
    rest = z - _mean(z, 1)[:, None]
    seasons: list[np.ndarray] = []
    for period, able in zip(periods, long_enough):
        whole = np.pad(rest, ((0, 0), (0, -z.shape[1] % period)), constant_values=np.nan)
        term = _mean(whole.reshape(len(z), -1, period), 1) * able[:, None]
        seasons.append(term)
        rest = rest - np.tile(term, whole.shape[1] // period)[:, : z.shape[1]]
    plain = z.copy()
    for term, period in zip(seasons, periods):
        plain -= np.tile(term, -(-z.shape[1] // period))[:, : z.shape[1]]
    head = plain[:, : max(periods[:1], default=1)]
    level = np.where(np.isnan(head).all(1), _mean(plain, 1), _mean(head, 1))
    return level, seasons


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis, NaN left out; 0 where there is nothing else."""
    count = (~np.isnan(x)).sum(axis)
    return np.nansum(x, axis) / np.maximum(count, 1)


class SeriesSource:
    """Random batches of whole series, each with random phases of positions.

    Parameters
    ----------
    panel, units, covariates
        As of :func:`rnnforecast.forecasters._esrnn_model.stretch`.
    plan : ESPlan
    batch_size : int
        Series (times phases) of a batch.
    n_batches : int
        Of an epoch.
    like : Tensor
        Type and device of the batches.
    """

    def __init__(self, panel, units, covariates, plan, batch_size, n_batches, like):
        self.panel, self.units, self.covariates = panel, units, covariates
        self.plan, self.n_batches, self.like = plan, n_batches, like
        spec = plan.spec
        able = plan.train_rows >= plan.warm + spec.horizon
        self.able = np.flatnonzero(np.repeat(able, spec.n_targets))
        self.batch_size = min(batch_size, len(self.able))
        self.n_phases = max(min(spec.stride, batch_size // max(self.batch_size, 1)), 1)

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[SeriesBatch, Tensor, list[int]]]:
        n, size = len(self.able), self.batch_size
        order = np.empty(0, dtype=np.int64)
        for _ in range(self.n_batches):
            if len(order) < size:
                fresh = torch.randperm(n, generator=generator).numpy()
                order = np.concatenate([order, fresh])
            virtual, order = self.able[order[:size]], order[size:]
            phases = torch.randperm(self.plan.spec.stride, generator=generator)[: self.n_phases]
            rows = self.plan.train_rows[virtual // self.plan.spec.n_targets]
            spare = np.maximum(rows - self.plan.most_rows, 0)
            if spare.any():  # of long series, stretches that end anywhere
                share = torch.rand(len(rows), generator=generator).numpy()
                rows = rows - (share * (spare + 1)).astype(np.int64)
            yield self.take(virtual, rows, phases.tolist())

    def take(
        self, virtual: np.ndarray, rows: np.ndarray, phases: list[int]
    ) -> tuple[SeriesBatch, Tensor, list[int]]:
        """Series up to row ``rows[k]`` of each; their first counted columns; the ends of the
        phases.
        """
        spec = self.plan.spec
        least = spec.window + spec.horizon + spec.stride - 1
        width = max(min(int(rows.max()), self.plan.most_rows), least)
        batch = stretch(self.panel, self.units, self.covariates, virtual, rows, width, self.like)
        warm = self.plan.warm[virtual // spec.n_targets]
        level, seasons = self.first_states(batch, virtual, warm)
        batch = batch._replace(
            level=self.like.new_tensor(level),
            seasons=tuple(self.like.new_tensor(season) for season in seasons),
        )
        first = batch.start + torch.as_tensor(warm, device=self.like.device)
        return batch, first, [width - 1 - spec.horizon - phase for phase in phases]

    def first_states(
        self, batch: SeriesBatch, virtual: np.ndarray, warm: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Level and seasons before the first rows of a batch, measured on ``warm[k]`` of them."""
        values = batch.values.cpu().numpy().astype(np.float64)
        columns = np.arange(int(warm.max()))
        at = np.minimum(batch.start.cpu().numpy()[:, None] + columns, values.shape[1] - 1)
        z = np.where(columns < warm[:, None], np.take_along_axis(values, at, 1), np.nan)
        return initial_states(z, self.plan.spec.periods, self.plan.seasonal(virtual))


def errors(network: ESRNN, batch: SeriesBatch, first: Tensor, ends: list[int]):
    """Forecast errors on the additive scale at all positions of some phases.

    Parameters
    ----------
    network : ESRNN
    batch : SeriesBatch
    first : (batch,), int64
        Positions that have seen fewer columns are left out.
    ends : list of int

    Returns
    -------
    forecast : (n_positions, n_phases * batch, horizon)
        With the effect of the steps' own covariates.
    truth : same shape
        NaN where unobserved or left out.
    smoothed : Smoothed
    """
    effect: Any = network.covariates(batch.series, batch.known)
    plain = batch.values - effect
    smoothed = network.smooth(batch, plain)
    positions = network.positions(batch, plain, smoothed, ends)
    raw, location = network(positions)
    forecast = location + raw[..., 0]
    steps = 1 + torch.arange(network.spec.horizon, device=forecast.device)
    truths, added = [], []
    for last in positions.last:
        at = last[:, None] + steps  # (n_positions, horizon)
        counted = (last[:, None] + 1 >= first)[..., None]
        truth = batch.values[:, at].transpose(0, 1)
        truths.append(torch.where(counted, truth, torch.nan))
        if network.spec.n_known:
            added.append(effect[:, at].transpose(0, 1))
    if added:
        forecast = forecast + torch.cat(added, 1)
    return forecast, torch.cat(truths, 1), smoothed


@dataclass
class ESRun:
    """One fit: data, settings and randomness."""

    panel: Panel
    units: ESUnits
    covariates: Units
    plan: ESPlan
    settings: Settings
    loss: str
    tau: float
    level_penalty: float
    batch_size: int
    n_batches: int
    device: torch.device
    name: str

    def __post_init__(self):
        like = torch.zeros(0, device=self.device)
        self.source = SeriesSource(
            self.panel,
            self.units,
            self.covariates,
            self.plan,
            self.batch_size,
            self.n_batches,
            like,
        )
        self._scale = like.new_tensor(self.units.scale.ravel())
        # log of truth over the seasonal naive error is scale z + centre
        self._centre = like.new_tensor((self.units.centre - np.log(self.units.naive)).ravel())
        self.held = self.panel.lengths - self.plan.train_rows
        self._virtual = np.arange(self.panel.n_series * self.plan.spec.n_targets)

    # -- one member --------------------------------------------------------------------------------

    def network(self, generator: torch.Generator) -> ESRNN:
        """A new network with the first states of every series."""
        with torch.device("meta"):  # torch's own initialisation draws from the global generator
            network = ESRNN(self.plan.spec)
        network = network.to_empty(device="cpu")
        initialise(network, generator)
        with torch.no_grad():
            network.seasonal.copy_(torch.as_tensor(self.plan.seasonal(self._virtual)))
            if self.plan.spec.n_known:
                self._first_effect(network)
        return network.to(self.device)

    def _first_effect(self, network: ESRNN) -> None:
        """Least squares of seasonal differences on those of the covariates, slightly shrunk."""
        spec, panel = self.plan.spec, self.panel
        lag = spec.periods[0] if spec.periods else 1
        own = np.arange(len(panel.targets)) - np.repeat(panel.indptr[:-1], panel.lengths)
        rows = np.flatnonzero((own >= lag) & (own < np.repeat(self.plan.train_rows, panel.lengths)))
        x = self.covariates.known(panel.known)
        dx = np.nan_to_num(x[rows] - x[rows - lag])
        owner = np.repeat(np.arange(panel.n_series), panel.lengths)
        everything = panel.targets.reshape(-1, 1)
        virtual = owner[:, None] * spec.n_targets + np.arange(spec.n_targets)
        z = self.units.to(everything, virtual.ravel()).reshape(panel.targets.shape)
        weight = np.zeros((spec.n_targets, 2 * spec.n_known))
        for target in range(spec.n_targets):
            dz = z[rows, target] - z[rows - lag, target]
            seen = ~np.isnan(dz)
            gram = dx[seen].T @ dx[seen]
            gram += (1e-3 * max(seen.sum(), 1)) * np.eye(spec.n_known)
            weight[target, : spec.n_known] = np.linalg.solve(gram, dx[seen].T @ dz[seen])
        network.effect.linear.weight.copy_(torch.as_tensor(weight))

    def member(self, seed: int, verbose: int) -> tuple[ESRNN, History]:
        """A trained network, on the CPU; ``seed`` draws its weights, batches and dropout."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        network = self.network(generator)
        callbacks: list[Callback] = []
        if verbose:
            total = self.settings.max_epochs * self.n_batches
            callbacks.append(ProgressBar(self.name, total))
        noise = generator
        if self.device.type != "cpu":  # dropout draws where it happens
            noise = torch.Generator(device=self.device).manual_seed(seed)
        set_generator(network, noise)
        try:
            history = train(
                network, self.source, self._loss, self.settings, generator, None, callbacks
            )
        finally:
            set_generator(network, None)
        return network.cpu(), history

    def _loss(self, network: Any, batch: tuple[SeriesBatch, Tensor, list[int]]) -> Tensor:
        series, first, ends = batch
        forecast, truth, smoothed = errors(network, series, first, ends)
        error = forecast - truth
        if self.units.log:
            own = series.series.repeat(len(ends))
            scale, centre = self._scale[own, None], self._centre[own, None]
            weight = torch.exp((truth * scale + centre).clamp(max=30.0))
            value = hybrid_loss(self.loss, self.tau, error * scale, weight, self.units.relative)
        else:  # the unit of the errors already is the seasonal naive error
            value = pinball(self.tau, error)
        if self.level_penalty:
            # Smyl 2020, section 3.3: squared second differences of the log level
            rough = smoothed.level.diff(dim=1).diff(dim=1)
            value = value + self.level_penalty * rough.square().mean()
        return value

    # -- the ensemble ------------------------------------------------------------------------------

    def _held_parts(self, most: int):
        """Series and phases of origins over the held-out rows (the last ones, if none are)."""
        spec = self.plan.spec
        free = int(self.held.max()) - spec.horizon + 1
        phases = min(max(free, 1), spec.stride)
        chosen = np.unique(np.linspace(0, phases - 1, min(phases, most)).astype(int)).tolist()
        for start in range(0, len(self._virtual), 512):
            for phase in chosen:
                part = self._virtual[start : start + 512]
                yield part, self.panel.lengths[part // spec.n_targets], [phase]

    @torch.no_grad()
    def calibrate(self, networks: list[ESRNN]) -> np.ndarray:
        """Errors of the ensemble at rolling origins over the held-out rows (trained rows where
        there are none), on the additive scale: (n_errors, horizon, n_targets).
        """
        spec = self.plan.spec
        like = networks[0].alpha_logit
        source = SeriesSource(self.panel, self.units, self.covariates, self.plan, 1, 1, like.cpu())
        held = np.where(self.held >= spec.horizon, self.plan.train_rows, 0)
        if not held.any():
            held = np.minimum(self.plan.warm, self.panel.lengths - spec.horizon)
        found: list[list[np.ndarray]] = [[] for _ in range(spec.n_targets)]
        for part, rows, phases in self._held_parts(12):
            batch, _, ends = source.take(part, rows, phases)
            series = part // spec.n_targets
            # counted from the stretch's first row, which is not the series' where that is long
            dropped = np.maximum(rows - batch.values.shape[1], 0)
            own = np.maximum(held[series] - dropped, self.plan.warm[series])
            own = np.where(held[series] > 0, own, rows + 1)
            first = batch.start + torch.as_tensor(own)
            values = [errors(network, batch, first, ends)[:2] for network in networks]
            truth = values[0][1]
            mean = torch.stack([v[0] for v in values]).mean(0)
            error = (truth - mean).numpy()
            for target in range(spec.n_targets):
                mine = error[:, part % spec.n_targets == target].reshape(-1, spec.horizon)
                found[target].append(mine[~np.isnan(mine).all(1)])
        return _together([np.concatenate(parts) for parts in found], spec.horizon)

    def model(self, networks: list[ESRNN]) -> ESModel:
        """The trained ensemble with the states of the whole history."""
        spec = self.plan.spec
        width = int(self.plan.train_rows.max())
        n_positions = max((width - spec.horizon - spec.window) // spec.stride + 1, 1)
        n_positions = min(n_positions, _MOST_POSITIONS)
        level, seasons = self._first_states()
        empty = ESModel(spec, (), self.units, self.covariates, n_positions, level, seasons)
        done = [network.eval().requires_grad_(False).cpu().double() for network in networks]
        return replace(empty, members=tuple(empty.begun(n, self.panel) for n in done))

    def _first_states(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Level and seasons before the first row of every series."""
        n_targets = self.plan.spec.n_targets
        like = torch.zeros(0, dtype=torch.float64)
        parts = []
        for start in range(0, len(self._virtual), 4096):
            virtual = self._virtual[start : start + 4096]
            warm = self.plan.warm[virtual // n_targets]
            batch = stretch(
                self.panel, self.units, self.covariates, virtual, warm, int(warm.max()), like
            )
            parts.append(self.source.first_states(batch, virtual, warm))
        levels, seasons = zip(*parts)
        return np.concatenate(levels), tuple(np.concatenate(column) for column in zip(*seasons))


def _together(parts: list[np.ndarray], horizon: int) -> np.ndarray:
    """Errors of each target side by side, (n, horizon, n_targets); NaN where one has fewer."""
    out = np.full((max(map(len, parts)), horizon, len(parts)), np.nan)
    for target, part in enumerate(parts):
        out[: len(part), :, target] = part
    return out
