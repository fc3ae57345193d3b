"""Whole series for the hybrid of smoothing and network: batches of them, and the loss of both."""

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
from rnnforecast.outputs import Output, PointForecast, PointOutput, masked_mean

__all__ = ["HybridOutput", "SeriesLoss", "SeriesReader", "SeriesSource", "first_states"]


def first_states(z: np.ndarray, periods: tuple[int, ...], able: np.ndarray) -> list[np.ndarray]:
    """Level ``(n, 1)`` and seasons ``(n, period)`` before the first row, from the mean by phase of
    the first rows ``z: (n, n_rows)``, NaN where unobserved; ``able: (n_periods, n)`` says which
    series have a season. The level is the mean of the first period less the seasons.
    """
    rest, seasons = z - _mean(z, 1)[:, None], []
    for period, has in zip(periods, able, strict=True):
        whole = np.pad(rest, ((0, 0), (0, -z.shape[1] % period)), constant_values=np.nan)
        seasons.append(_mean(whole.reshape(len(z), -1, period), 1) * has[:, None])
        rest = rest - np.resize(seasons[-1].T, rest.T.shape).T
    for term in seasons:
        z = z - np.resize(term.T, z.T.shape).T
    head = z[:, : max(periods[:1], default=1)]
    level = np.where(np.isnan(head).all(1), _mean(z, 1), _mean(head, 1))
    return [level[:, None], *seasons]


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis, NaN left out; 0 where there is nothing else."""
    return np.nansum(x, axis) / np.maximum((~np.isnan(x)).sum(axis), 1)


@dataclass(frozen=True)
class SeriesReader:
    """Reads series up to some row, every target of a series as a row of the batch.

    Of a long series the last rows are read. The states before the first of them are measured on
    two of the longest season that fits twice, but never on more than half of the origins.
    """

    panel: Panel
    scale: Scale
    spec: ESRNNSpec
    place: np.ndarray  # (n_series,), which series of the network each is; -1 if it has none
    most_rows: int  # of a series that are read
    device: torch.device
    dtype: torch.dtype

    def tensor(self, values: np.ndarray) -> Tensor:
        # first the type: not every device has float64
        return torch.as_tensor(values).to(self.dtype).to(self.device)

    def read(self, series: np.ndarray, stops: np.ndarray, width: int) -> tuple[SeriesBatch, Tensor]:
        """The last ``width`` of the first ``stops[k]`` rows of each series, aligned at their ends,
        and the column after the rows that the first states were measured on.
        """
        spec, scale, n = self.spec, self.scale, self.spec.n_targets
        rows = gather(self.panel, series, stops, width, 0)
        number = np.repeat(self.place[series], n) * n + np.tile(np.arange(n), len(series))
        values = scale.targets(rows.targets, series).transpose(0, 2, 1).reshape(-1, width)
        stops = np.repeat(np.minimum(stops, width), n)
        warm = np.full(len(stops), 2)
        for period in spec.periods:
            warm = np.where(2 * period <= stops, 2 * period, warm)
        warm = np.maximum(np.minimum(warm, (stops - spec.horizon) // 2), 1)
        columns = np.arange(int(warm.max(initial=1)))
        at = np.minimum((width - stops)[:, None] + columns, width - 1)
        first = np.where(columns < warm[:, None], np.take_along_axis(values, at, 1), np.nan)
        able = np.array([stops >= 2 * period for period in spec.periods]).reshape(-1, len(stops))
        size = np.log(scale.target_scale[series].reshape(-1, 1)) + 3 if scale.log else 0.0
        static = np.repeat(scale.static(rows.static), n, 0)
        static = np.column_stack([static, np.broadcast_to(size, (len(static), 1))])
        batch = SeriesBatch(
            series=torch.as_tensor(number).to(self.device),
            start=torch.as_tensor(width - stops).to(self.device),
            values=self.tensor(values),
            known=self.tensor(np.repeat(scale.known(rows.known), n, 0)),
            past=self.tensor(np.repeat(scale.past(rows.past), n, 0)),
            static=self.tensor(static),
            able=self.tensor(able),
            starts=tuple(self.tensor(term) for term in first_states(first, spec.periods, able)),
        )
        return batch, batch.start + torch.as_tensor(warm).to(self.device)


class Stretch(NamedTuple):
    """A batch of series; forecasts that have seen fewer than ``first`` columns do not count."""

    series: SeriesBatch
    first: Tensor  # (batch,), int64
    ends: list[int]  # column of the last row that each phase of positions sees


class SeriesSource:
    """Random batches of whole series, each with random phases of positions.

    Of each series the first ``stops[i]`` rows train. A batch has ``batch_size`` rows: series times
    targets, times phases where there are few series.
    """

    def __init__(self, reader: SeriesReader, stops: np.ndarray, batch_size: int, n_batches: int):
        spec = reader.spec
        self.reader, self.stops, self.n_batches = reader, stops, n_batches
        self._able = np.flatnonzero(stops >= spec.horizon + 1)
        self._size = min(max(batch_size // spec.n_targets, 1), len(self._able))
        most = batch_size // max(self._size * spec.n_targets, 1)
        self._n_phases = max(min(spec.stride, most), 1)

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, generator: torch.Generator) -> Iterator[Stretch]:
        order = np.empty(0, dtype=np.int64)
        for _ in range(self.n_batches):
            if len(order) < self._size:
                fresh = torch.randperm(len(self._able), generator=generator).numpy()
                order = np.concatenate([order, fresh])
            series, order = self._able[order[: self._size]], order[self._size :]
            phases = torch.randperm(self.reader.spec.stride, generator=generator)
            stops = self.stops[series]
            spare = np.maximum(stops - self.reader.most_rows, 0)
            if spare.any():  # of long series, stretches that end anywhere
                share = torch.rand(len(stops), generator=generator, dtype=torch.float32).numpy()
                stops = stops - (share * (spare + 1)).astype(np.int64)
            yield self.take(series, stops, phases[: self._n_phases].tolist())

    def take(
        self, series: np.ndarray, stops: np.ndarray, phases: list[int], held: Any = None
    ) -> Stretch:
        """Series up to row ``stops[k]``; only forecasts of the last ``held[k]`` rows count."""
        spec = self.reader.spec
        least = spec.window + spec.horizon + spec.stride - 1
        width = max(min(int(stops.max()), self.reader.most_rows), least)
        batch, first = self.reader.read(series, stops, width)
        if held is not None:
            first = first.clamp(min=width - torch.as_tensor(np.repeat(held, spec.n_targets)))
        return Stretch(batch, first, [width - 1 - spec.horizon - phase for phase in phases])


@dataclass
class SeriesLoss:
    """Loss of all forecasts in a batch of series, which sees ``unit * z + shift``: where level and
    seasons multiply, the logarithm of multiples of the series' seasonal naive error.
    """

    output: Output
    unit: Tensor  # (n_series * n_targets, 1, 1), as is the shift
    shift: Tensor
    level_penalty: float = 0.0  # weight of the mean squared second difference of the level

    def __call__(self, network: ESRNN, batch: Stretch) -> Tensor:
        series, first, ends = batch
        effect: Any = network.covariates(series.series, series.known)
        plain = series.values - effect
        terms = network.smooth(series, plain)
        raw, location, last = network(series, plain, terms, ends)
        at = last[..., None] + 1 + torch.arange(network.spec.horizon, device=raw.device)
        counted = last[:, None] + 1 >= first[:, None]  # (n_phases, batch, n_positions)
        truth = torch.where(counted[..., None], series.values[:, at].transpose(0, 1), torch.nan)
        if network.spec.known:
            location = location + effect[:, at].transpose(0, 1)
        unit, shift = self.unit[series.series], self.shift[series.series]

        def rows(x: Tensor) -> Tensor:
            return x.expand(location.shape).flatten(0, 2)[..., None]

        forecast = self.output.forecast(
            raw.flatten(0, 2)[:, :, None], rows(location * unit + shift), rows(unit)
        )
        value = self.output.loss(forecast, rows(truth * unit + shift))
        if self.level_penalty:
            # Smyl 2020, section 3.3: squared second differences of the log level
            rough = terms[0][:, 1:].diff(n=2, dim=1)
            value = value + self.level_penalty * rough.square().mean()
        return value


class HybridOutput(PointOutput):
    """A point forecast trained in the measures that users score by.

    "relative" is the mean of 2 |f - y| / (f + y), over that of the seasonal naive forecast, where
    forecasts are logarithms; "scaled" the mean of |f - y| over the series' seasonal naive error, as
    it is where ``relative`` is None; "balanced" the mean of both. ``tau`` is the level of the
    pinball loss.
    """

    def __init__(self, measure: str, tau: float, relative: float | None):
        super().__init__()
        self.measure, self.tau, self.relative = measure, tau, relative

    def loss(self, forecast: PointForecast, truth: Tensor) -> Tensor:
        mask = ~torch.isnan(truth)
        error = torch.where(mask, forecast.value - truth, 0.0)
        parts = [error.abs()]
        if self.relative is not None:
            weight = torch.exp(torch.where(mask, truth, 0.0).clamp(max=30.0))
            measures = {  # 2 |f - y| / (f + y) = 2 tanh(|log f - log y| / 2)
                "relative": 2 * torch.tanh(error.abs() / 2) / self.relative,
                "scaled": weight * torch.expm1(error.clamp(-5.0, 5.0)).abs(),
            }
            parts = [v for name, v in measures.items() if self.measure in (name, "balanced")]
        # twice the pinball weight of forecast minus truth: 1 on both sides at 0.5
        side = torch.where(error < 0, 2 * self.tau, 2 * (1 - self.tau))
        return masked_mean(side * sum(parts) / len(parts), mask)
