"""Batches of scaled windows for the training loop, gathered straight from the panel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.data.phases import CalendarPhases
from rnnforecast.data.windows import WindowBatch, WindowIndex, gather
from rnnforecast.nn import Inputs
from rnnforecast.training._rows import ScaledRows, scaled_rows

__all__ = ["Batch", "Units", "WindowSource", "measure_units", "to_inputs"]


class Batch(NamedTuple):
    """Inputs and truth of one step, in series units."""

    inputs: Inputs
    truth: Tensor  # (batch, horizon, n_targets)


@dataclass(frozen=True)
class Units:
    """Shift and scale of every column, from the training rows.

    Attributes
    ----------
    target_loc, target_scale : ndarray, shape (n_series, n_targets)
    past_loc, past_scale, known_loc, known_scale, static_loc, static_scale : ndarray, shape
    (n_columns,)
    phases : CalendarPhases or None
        What the time stamp of a window's origin tells beside the static covariates.
    """

    target_loc: np.ndarray
    target_scale: np.ndarray
    past_loc: np.ndarray
    past_scale: np.ndarray
    known_loc: np.ndarray
    known_scale: np.ndarray
    static_loc: np.ndarray
    static_scale: np.ndarray
    phases: CalendarPhases | None = None

    def constants(self, panel: Panel, series: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Static covariates in units, with the phases of the origins beside them.

        Parameters
        ----------
        panel : Panel
        series, origins : ndarray of int, shape (n,)

        Returns
        -------
        ndarray, shape (n, n_static + number of phases)
        """
        static = (panel.static[series] - self.static_loc) / self.static_scale
        if self.phases is None:
            return static
        return np.concatenate([static, self.phases.at(series, origins)], axis=1)

    def known(self, values: np.ndarray) -> np.ndarray:
        """Known covariates in units, any shape (..., n_known)."""
        return (values - self.known_loc) / self.known_scale

    def restore(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Back to the data's unit; values: (n_series, n_steps, n_targets[, n_levels])."""
        loc, scale = self.target_loc[series][:, None], self.target_scale[series][:, None]
        if values.ndim == 4:
            loc, scale = loc[..., None], scale[..., None]
        return values * scale + loc


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by column, NaN left out; 0 and 1 where nothing is there to see.

    Column by column, so that the same values give the same bits in any memory layout.
    """
    means, spreads = np.zeros(values.shape[1]), np.ones(values.shape[1])
    for j, column in enumerate(values.T):
        seen = column[~np.isnan(column)].astype(np.float64, copy=False)
        if len(seen) == 0:
            continue
        means[j] = seen.mean()
        seen -= means[j]
        # in units of the largest, whose square neither overflows nor vanishes
        largest = np.abs(seen).max()
        if not 1e-140 < largest < 1e140:
            seen /= largest or 1.0
        else:
            largest = 1.0
        spread = largest * np.sqrt(np.square(seen, out=seen).mean())
        # a constant column: rounding alone must not become its unit
        if spread > 1e-12 * max(abs(means[j]), 1e-300):
            spreads[j] = spread
    return means, spreads


def measure_units(
    panel: Panel, per_series: bool = True, phases: CalendarPhases | None = None
) -> Units:
    """Units of a panel: each series by its own mean and deviation, covariates over all rows.

    Parameters
    ----------
    panel : Panel
        Rows of ``fit`` only.
    per_series : bool, default True
        False leaves the targets as they are (shift 0, scale 1).
    phases : CalendarPhases, optional
    """
    shape = (panel.n_series, panel.targets.shape[1])
    loc, scale = np.zeros(shape), np.ones(shape)
    if per_series:
        for i in range(panel.n_series):
            loc[i], scale[i] = _moments(panel.targets[panel.series(i)])
    covariates = (*_moments(panel.past), *_moments(panel.known), *_moments(panel.static))
    return Units(loc, scale, *covariates, phases)


def to_inputs(
    batch: WindowBatch,
    units: Units,
    constants: np.ndarray,
    device: torch.device,
    dtype: torch.dtype,
) -> Batch:
    """Scale gathered windows and make tensors of them; ``constants`` are those of ``Units``."""
    loc = units.target_loc[batch.series][:, None]
    scale = units.target_scale[batch.series][:, None]

    def tensor(values: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> Tensor:
        if not values.size:
            return torch.empty(values.shape, dtype=dtype, device=device)
        # first the type: not every device has float64
        scaled = torch.from_numpy((values - loc) / scale).to(dtype)
        if device.type == "cuda":
            return scaled.pin_memory().to(device, non_blocking=True)
        return scaled.to(device)

    inputs = Inputs(
        targets=tensor(batch.targets, loc, scale),
        past=tensor(batch.past, units.past_loc, units.past_scale),
        known=tensor(batch.known, units.known_loc, units.known_scale),
        future_known=tensor(batch.future_known, units.known_loc, units.known_scale),
        static=torch.as_tensor(constants).to(dtype).to(device),
    )
    return Batch(inputs, tensor(batch.future_targets, loc, scale))


class WindowSource:
    """Random batches of windows; an epoch is one pass, or ``max_steps`` batches if that is less.

    Where the data are small beside the device's memory, all rows are scaled once and stand on it,
    and a batch is gathered there; else each batch is gathered from the panel and scaled.

    Parameters
    ----------
    panel : Panel
    windows : WindowIndex
    units : Units
    lookback, horizon, batch_size : int
    max_steps : int
        Most batches of an epoch.
    device : torch.device
    like : WindowSource, optional
        Another source of the same panel, units and device, whose scaled rows this one shares.
    offsets : ndarray of int, optional
        Origins of several windows in one stretch, counted from its last one's; the constants of a
        batch then have one row for each.
    """

    def __init__(
        self,
        panel: Panel,
        windows: WindowIndex,
        units: Units,
        lookback: int,
        horizon: int,
        batch_size: int,
        max_steps: int,
        device: torch.device,
        like: WindowSource | None = None,
        offsets: np.ndarray | None = None,
    ):
        self.panel = panel
        self.windows = windows
        self.units = units
        self.lookback = lookback
        self.horizon = horizon
        self.batch_size = min(batch_size, len(windows))
        self.max_steps = max_steps
        self.device = device
        self._offsets = np.zeros(1, dtype=np.int64) if offsets is None else offsets
        self._rows: ScaledRows | None
        self._rows = scaled_rows(panel, units, device) if like is None else like._rows
        self._complete = self._all_inside()

    def _all_inside(self) -> bool:
        """Whether every window lies within its series."""
        some = self.windows.counts > 0
        first = self.windows.first[some]
        last = first + (self.windows.counts[some] - 1) * self.windows.stride
        ends = self.panel.lengths[some]
        return bool((first >= self.lookback).all() and (last + self.horizon <= ends).all())

    def __len__(self) -> int:
        return min(-(-len(self.windows) // self.batch_size), self.max_steps)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        n, need = len(self.windows), len(self) * self.batch_size
        if n <= 4 * need:
            order = torch.randperm(n, generator=generator)[:need].numpy()
        else:  # a permutation of very many windows would be larger than the data
            order = torch.randint(n, (need,), generator=generator).numpy()
        yield from self._batches(order, self.batch_size)

    def take(self, numbers: np.ndarray) -> Batch:
        """The windows of the given numbers as one batch."""
        return next(self._batches(numbers, len(numbers)))

    def evenly(self, most: int, batch_size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """At most ``most`` windows spread evenly, in batches with their numbers."""
        numbers = self.windows.spread(most)
        for start in range(0, len(numbers), batch_size):
            part = numbers[start : start + batch_size]
            yield part, self.take(part)

    def _batches(self, numbers: np.ndarray, size: int) -> Iterator[Batch]:
        """Windows in the order of their numbers, ``size`` at a time."""
        series, origins = self.windows[numbers]
        n = len(self._offsets)
        constants = self.units.constants(
            self.panel, np.repeat(series, n), (origins[:, None] + self._offsets).ravel()
        )
        parts = [slice(start, start + size) for start in range(0, len(numbers), size)]
        if self._rows is None or not self._complete:
            for k, part in enumerate(parts):
                gathered = gather(
                    self.panel, series[part], origins[part], self.lookback, self.horizon
                )
                some = constants[k * size * n : (k + 1) * size * n]
                yield to_inputs(gathered, self.units, some, self.device, torch.float32)
            return
        # all numbers of an epoch go to the device at once: no step waits for a copy
        starts = self.panel.indptr[series] + origins - self.lookback
        at = torch.from_numpy(starts).to(self.device)
        static = torch.from_numpy(constants.astype(np.float32)).to(self.device)
        for k, part in enumerate(parts):
            yield self._gathered(self._rows, at[part], static[k * size * n : (k + 1) * size * n])

    def _gathered(self, rows: ScaledRows, starts: Tensor, static: Tensor) -> Batch:
        lookback, steps = self.lookback, self.lookback + self.horizon
        targets = rows.stretches("targets", starts, steps)
        known = rows.stretches("known", starts, steps)
        inputs = Inputs(
            targets=targets[:, :lookback],
            past=rows.stretches("past", starts, lookback),
            known=known[:, :lookback],
            future_known=known[:, lookback:],
            static=static,
        )
        return Batch(inputs, targets[:, lookback:])
