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
from rnnforecast.data.scale import Scale
from rnnforecast.data.windows import WindowBatch, WindowIndex, gather
from rnnforecast.nn import Inputs
from rnnforecast.training._rows import ScaledRows, scaled_rows

__all__ = ["Batch", "Units", "WindowSource", "measure_units", "to_inputs"]


class Batch(NamedTuple):
    """Inputs and truth of one step, in series units."""

    inputs: Inputs
    truth: Tensor  # (batch, horizon, n_targets)


@dataclass(frozen=True)
class Units(Scale):
    """A ``Scale`` with the calendar's phases beside it; on its way out.

    Attributes
    ----------
    phases : CalendarPhases or None
        What the time stamp of a window's origin tells beside the static covariates.
    """

    phases: CalendarPhases | None = None

    def constants(self, panel: Panel, series: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Scaled static covariates and the phases of the origins: (n, n_static + n_phases)."""
        static = self.static(panel.static[series])
        if self.phases is None:
            return static
        return np.concatenate([static, self.phases.at(panel, series, origins)], axis=1)

    def restore(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Back to the data's unit; values: (n_series, n_steps, n_targets[, n_levels])."""
        loc, scale = self.target_loc[series][:, None], self.target_scale[series][:, None]
        if values.ndim == 4:
            loc, scale = loc[..., None], scale[..., None]
        return values * scale + loc


def measure_units(
    panel: Panel, per_series: bool = True, phases: CalendarPhases | None = None
) -> Units:
    """``Scale.of`` with phases; on its way out."""
    return Units(**vars(Scale.of(panel, per_series)), phases=phases)


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
