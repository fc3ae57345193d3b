"""Whole series for the hybrid of smoothing and network: batches, states, and the loss of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.data.scale import Scale
from rnnforecast.data.windows import gather
from rnnforecast.nn.esrnn import ESRNN, ESRNNSpec, SeriesBatch
from rnnforecast.nn.smoothing import Smoothed, smooth_arrays
from rnnforecast.outputs import Output, PointForecast, PointOutput, masked_mean

__all__ = [
    "HybridOutput",
    "SeriesLoss",
    "SeriesSource",
    "States",
    "appended",
    "first_states",
    "read_series",
    "states_of",
    "warm_rows",
]

_CHUNK_NUMBERS = 1 << 22  # numbers in one pass: bounds the memory
# rows and longest seasons of a stretch that a batch reads of a long series at a time
_MOST_ROWS, _MOST_SEASONS = 1024, 8


def read_series(
    panel: Panel, scale: Scale, series: np.ndarray, stops: np.ndarray, width: int, spec: ESRNNSpec
) -> SeriesBatch:
    """The last ``width`` of the first ``stops[k]`` rows of each series, in float64.

    Every target of a series is a row of the batch, those of one series together. Level and seasons
    before the first row are left empty.
    """
    rows = gather(panel, series, stops, width, 0)
    n = panel.targets.shape[1]
    target = np.tile(np.arange(n), len(series))
    number = np.repeat(series, n) * n + target
    number = np.where(number < spec.n_series, number, target - n)  # new since the fit
    values = scale.targets(rows.targets, series).transpose(0, 2, 1).reshape(-1, width)
    static = scale.static(rows.static)
    size = scale.target_scale[series].reshape(-1, 1)
    static = np.column_stack([np.repeat(static, n, 0), np.log(size) + 3 if scale.log else 0 * size])

    def of_targets(values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.repeat(values, n, 0))

    return SeriesBatch(
        series=torch.as_tensor(number),
        start=torch.as_tensor(np.repeat(np.maximum(width - stops, 0), n)),
        values=torch.as_tensor(values),
        known=of_targets(scale.known(rows.known)),
        past=of_targets(scale.past(rows.past)),
        static=torch.as_tensor(static),
        level=torch.zeros(len(number), dtype=torch.float64),
        seasons=(),
    )


# -- the first states ------------------------------------------------------------------------------


def warm_rows(lengths: np.ndarray, periods: tuple[int, ...], horizon: int) -> np.ndarray:
    """Rows that the first states are measured on: two of the longest season that a series has, but
    never more than half of its origins.
    """
    warm = np.full(len(lengths), 2)
    for period in periods:
        warm = np.where(2 * period <= lengths, 2 * period, warm)
    return np.maximum(np.minimum(warm, (lengths - horizon) // 2), 1)


def first_states(
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
    for period, able in zip(periods, long_enough, strict=True):
        whole = np.pad(rest, ((0, 0), (0, -z.shape[1] % period)), constant_values=np.nan)
        term = _mean(whole.reshape(len(z), -1, period), 1) * able[:, None]
        seasons.append(term)
        rest = rest - np.tile(term, whole.shape[1] // period)[:, : z.shape[1]]
    plain = z.copy()
    for term, period in zip(seasons, periods, strict=True):
        plain -= np.tile(term, -(-z.shape[1] // period))[:, : z.shape[1]]
    head = plain[:, : max(periods[:1], default=1)]
    level = np.where(np.isnan(head).all(1), _mean(plain, 1), _mean(head, 1))
    return level, seasons


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis, NaN left out; 0 where there is nothing else."""
    count = (~np.isnan(x)).sum(axis)
    return np.nansum(x, axis) / np.maximum(count, 1)


def _begun(batch: SeriesBatch, lengths: np.ndarray, spec: ESRNNSpec) -> SeriesBatch:
    """A batch with the states before its first rows, measured on these; ``lengths`` as of rows."""
    warm = warm_rows(lengths, spec.periods, spec.horizon)
    values = batch.values.numpy()
    columns = np.arange(int(warm.max(initial=1)))
    at = np.minimum(batch.start.numpy()[:, None] + columns, values.shape[1] - 1)
    z = np.where(columns < warm[:, None], np.take_along_axis(values, at, 1), np.nan)
    able = np.array([lengths >= 2 * period for period in spec.periods]).reshape(-1, len(lengths))
    level, seasons = first_states(z, spec.periods, able)
    return batch._replace(
        level=torch.as_tensor(level), seasons=tuple(torch.as_tensor(s) for s in seasons)
    )


# -- training --------------------------------------------------------------------------------------


class Stretch(NamedTuple):
    """A batch of stretches of series.

    Attributes
    ----------
    series : SeriesBatch
    first : (batch,), int64
        Forecasts from a position that has seen fewer columns do not count.
    ends : list of int
        Column of the last row that each phase of positions sees.
    """

    series: SeriesBatch
    first: Tensor
    ends: list[int]


class SeriesSource:
    """Random batches of whole series, each with random phases of positions.

    Parameters
    ----------
    panel : Panel
    scale : Scale
    spec : ESRNNSpec
    stops : ndarray of int, shape (n_series,)
        Leading rows of each series that are read.
    batch_size : int
        Rows of a batch: series times targets, times phases where there are few series.
    n_batches : int
        Of an epoch.
    device : torch.device
    """

    def __init__(
        self,
        panel: Panel,
        scale: Scale,
        spec: ESRNNSpec,
        stops: np.ndarray,
        batch_size: int,
        n_batches: int,
        device: torch.device,
    ):
        self.panel, self.scale, self.spec = panel, scale, spec
        self.stops, self.n_batches, self.device = stops, n_batches, device
        warm = warm_rows(stops, spec.periods, spec.horizon)
        self._able = np.flatnonzero(stops >= warm + spec.horizon)
        self._size = min(max(batch_size // spec.n_targets, 1), max(len(self._able), 1))
        most = batch_size // (self._size * spec.n_targets)
        self._n_phases = max(min(spec.stride, most), 1)
        seasons = _MOST_SEASONS * max(spec.periods, default=1)
        self._most_rows = max(_MOST_ROWS, seasons, 4 * spec.window)

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, generator: torch.Generator) -> Iterator[Stretch]:
        order = np.empty(0, dtype=np.int64)
        for _ in range(self.n_batches):
            if len(order) < self._size:
                fresh = torch.randperm(len(self._able), generator=generator).numpy()
                order = np.concatenate([order, fresh])
            series, order = self._able[order[: self._size]], order[self._size :]
            phases = torch.randperm(self.spec.stride, generator=generator)[: self._n_phases]
            stops = self.stops[series]
            spare = np.maximum(stops - self._most_rows, 0)
            if spare.any():  # of long series, stretches that end anywhere
                share = torch.rand(len(stops), generator=generator).numpy()
                stops = stops - (share * (spare + 1)).astype(np.int64)
            yield self.take(series, stops, phases.tolist())

    def take(
        self,
        series: np.ndarray,
        stops: np.ndarray,
        phases: list[int],
        counted: np.ndarray | None = None,
    ) -> Stretch:
        """Series up to row ``stops[k]``; forecasts count from row ``counted[k]`` on (None: from
        where the first states were measured).
        """
        spec = self.spec
        least = spec.window + spec.horizon + spec.stride - 1
        width = max(min(int(stops.max()), self._most_rows), least)
        batch = read_series(self.panel, self.scale, series, stops, width, spec)
        lengths = np.repeat(self.stops[series], spec.n_targets)
        batch = _begun(batch, lengths, spec)
        warm = warm_rows(lengths, spec.periods, spec.horizon)
        if counted is not None:
            dropped = np.maximum(stops - width, 0)
            warm = np.maximum(np.repeat(counted - dropped, spec.n_targets), warm)
        first = batch.start + torch.as_tensor(warm)
        ends = [width - 1 - spec.horizon - phase for phase in phases]
        return Stretch(_moved(batch, self.device, torch.float32), first.to(self.device), ends)


def _moved(batch: SeriesBatch, device: torch.device, dtype: torch.dtype) -> SeriesBatch:
    def move(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(move(one) for one in part)
        return part.to(dtype).to(device) if part.is_floating_point() else part.to(device)

    return SeriesBatch(*(move(part) for part in batch))


@dataclass
class SeriesLoss:
    """Loss of all forecasts in a batch of stretches.

    Attributes
    ----------
    output : Output
    unit, shift : Tensor, shape (n_series * n_targets,)
        The loss sees ``unit * z + shift`` of the additive scale: where level and seasons multiply,
        the logarithm of multiples of the series' seasonal naive error.
    level_penalty : float
        Weight of the mean squared second difference of the level.
    """

    output: Output
    unit: Tensor
    shift: Tensor
    level_penalty: float = 0.0

    def __call__(self, network: ESRNN, batch: Stretch) -> Tensor:
        series, first, ends = batch
        effect: Any = network.covariates(series.series, series.known)
        plain = series.values - effect
        smoothed = network.smooth(series, plain)
        positions = network.positions(series, plain, smoothed, ends)
        raw, location = network(positions)
        steps = 1 + torch.arange(network.spec.horizon, device=raw.device)
        truths, added = [], []
        for last in positions.last:
            at = last[:, None] + steps  # (n_positions, horizon)
            counted = (last[:, None] + 1 >= first)[..., None]
            truth = series.values[:, at].transpose(0, 1)
            truths.append(torch.where(counted, truth, torch.nan))
            if network.spec.n_known:
                added.append(effect[:, at].transpose(0, 1))
        if added:
            location = location + torch.cat(added, 1)
        number = series.series.repeat(len(ends))
        unit, shift = self.unit[number, None], self.shift[number, None]
        value = self.output.loss(
            self.output.forecast(
                raw.flatten(0, 1)[:, :, None],
                (location * unit + shift).flatten(0, 1)[..., None],
                unit.expand(location.shape).flatten(0, 1)[..., None],
            ),
            (torch.cat(truths, 1) * unit + shift).flatten(0, 1)[..., None],
        )
        if self.level_penalty:
            # Smyl 2020, section 3.3: squared second differences of the log level
            rough = smoothed.level.diff(dim=1).diff(dim=1)
            value = value + self.level_penalty * rough.square().mean()
        return value


class HybridOutput(PointOutput):
    """A point forecast trained in the measures that users score by.

    Parameters
    ----------
    name : {"balanced", "relative", "scaled"}
        "relative": mean of 2 |f - y| / (f + y), over that of the seasonal naive forecast, where
        forecasts are logarithms. "scaled": mean of |f - y| over the series' seasonal naive error.
        "balanced": the mean of both.
    tau : float
        Level of the pinball loss; 0.5 is the absolute error.
    relative : float or None
        Relative error of the seasonal naive forecast; None where forecasts are no logarithms, and
        the loss is "scaled" then.
    """

    def __init__(self, name: str, tau: float, relative: float | None):
        super().__init__("mae")
        self.measure, self.tau, self.relative = name, tau, relative

    def loss(self, forecast: PointForecast, truth: Tensor) -> Tensor:
        mask = ~torch.isnan(truth)
        error = torch.where(mask, forecast.value - truth, 0.0)
        # twice the pinball weight of forecast minus truth: 1 on both sides at 0.5
        side = torch.where(error < 0, 2 * self.tau, 2 * (1 - self.tau))
        if self.relative is None:
            return masked_mean(side * error.abs(), mask)
        total = torch.zeros_like(error)
        if self.measure != "scaled":  # 2 |f - y| / (f + y) = 2 tanh(|log f - log y| / 2)
            total = total + 2 * torch.tanh(error.abs() / 2) / self.relative
        if self.measure != "relative":
            weight = torch.exp(torch.where(mask, truth, 0.0).clamp(max=30.0))
            total = total + weight * torch.expm1(error.clamp(-5.0, 5.0)).abs()
        if self.measure == "balanced":
            total = total / 2
        return masked_mean(side * total, mask)


# -- states of a history ---------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """Level and seasons at every row of a panel.

    Attributes
    ----------
    level : ndarray, shape (n_rows, n_targets)
        After the row was seen.
    first : ndarray, shape (n_series, n_targets)
        Level before the first row.
    seasons : tuple of ndarray, shape (n_rows + n_series * period, n_targets)
        What each season said of the row before it was seen; those of a series are followed by those
        of the ``period`` rows to come.
    """

    level: np.ndarray
    first: np.ndarray
    seasons: tuple[np.ndarray, ...]

    def before(self, panel: Panel, series: np.ndarray, origins: np.ndarray, width: int) -> Smoothed:
        """The last ``width`` states before some origins, and the seasons that follow: arrays of
        shape (n * n_targets, ...).
        """
        own = origins[:, None] - width + np.arange(width)
        rows = panel.indptr[series][:, None] + np.maximum(own, 0)
        inside = (own >= 0)[..., None]
        level = np.where(inside, self.level[rows], self.first[series][:, None])
        seasons = []
        for term in self.seasons:
            period = (len(term) - len(self.level)) // max(panel.n_series, 1)
            own = origins[:, None] - width + np.arange(width + period)
            rows = (panel.indptr[series] + period * series)[:, None] + np.maximum(own, 0)
            seasons.append(_by_target(np.where((own >= 0)[..., None], term[rows], 0.0)))
        return Smoothed(_by_target(level), tuple(seasons))


def _by_target(values: np.ndarray) -> np.ndarray:
    """(n, time, n_targets) to (n * n_targets, time)."""
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(-1, values.shape[1])


@torch.inference_mode()
def states_of(network: ESRNN, panel: Panel, scale: Scale, first_lengths: np.ndarray) -> States:
    """Run the smoothing of every series over its whole history; its first states are measured on
    rows among the first ``first_lengths[i]``.
    """
    spec, lengths, n = network.spec, panel.lengths, panel.targets.shape[1]
    network = network.double()
    level = np.empty(panel.targets.shape)
    first = np.empty((panel.n_series, n))
    seasons = tuple(np.empty((len(level) + panel.n_series * p, n)) for p in spec.periods)
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(_CHUNK_NUMBERS // (int(lengths[order[start]]) * n), 1)
        some = order[start : start + size]
        some = some[lengths[some] <= 2 * lengths[some[0]]]
        start += len(some)
        width = int(lengths[some].max())
        batch = read_series(panel, scale, some, lengths[some], width, spec)
        batch = _begun(batch, np.repeat(first_lengths[some], n), spec)
        plain = batch.values - network.covariates(batch.series, batch.known)
        smoothed = network.smooth(batch, plain)
        first[some] = batch.level.numpy().reshape(-1, n)
        own = np.arange(width) - (width - lengths[some])[:, None]
        inside = own >= 0
        rows = (panel.indptr[some][:, None] + own)[inside]
        level[rows] = smoothed.level.numpy().reshape(-1, n, width).transpose(0, 2, 1)[inside]
        for term, found, period in zip(seasons, smoothed.seasons, spec.periods, strict=True):
            own = np.arange(width + period) - (width - lengths[some])[:, None]
            inside = own >= 0
            rows = ((panel.indptr[some] + period * some)[:, None] + own)[inside]
            values = found.numpy().reshape(-1, n, width + period).transpose(0, 2, 1)
            term[rows] = values[inside]
    return States(level, first, seasons)


def appended(
    network: ESRNN, batch: SeriesBatch, plain: Tensor, smoothed: Smoothed, block: Tensor
) -> tuple[SeriesBatch, Tensor, Smoothed]:
    """Take a block of forecasts ``(batch, steps)`` for rows that were seen, and drop as many of the
    oldest.
    """
    n, width = block.shape[1], plain.shape[1]
    alpha, gammas = (x.numpy() for x in network.coefficients(batch.series))
    nexts = [term[:, width:] for term in smoothed.seasons]
    moved = smooth_arrays(block.numpy(), alpha, list(gammas), smoothed.level[:, -1], nexts)
    level = np.concatenate([smoothed.level, moved.level], 1)[:, n:]
    seasons = tuple(
        np.concatenate([old[:, :width], new], 1)[:, n:]
        for old, new in zip(smoothed.seasons, moved.seasons, strict=True)
    )
    past = torch.cat(
        [batch.past, batch.past.new_full((len(plain), n, batch.past.shape[2]), torch.nan)], 1
    )
    batch = batch._replace(past=past[:, n:], start=(batch.start - n).clamp(min=0))
    return batch, torch.cat([plain, block], 1)[:, n:], Smoothed(level, seasons)
