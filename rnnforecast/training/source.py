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

__all__ = ["Batch", "WindowSource", "static_inputs", "to_inputs"]

_MOST_BYTES = 1 << 24  # on a CPU: larger data are scaled batch by batch, memory stays the data's
_SHARE = 0.25  # of a GPU's free memory
_CHUNK = 1 << 18  # rows scaled at once


class Batch(NamedTuple):
    """Inputs and truth of one step, on the scale of each series."""

    inputs: Inputs
    truth: Tensor  # (batch, horizon, n_targets)


def static_inputs(
    panel: Panel,
    scale: Scale,
    phases: CalendarPhases | None,
    series: np.ndarray,
    origins: np.ndarray,
) -> np.ndarray:
    """Static covariates, with the calendar's phases at the origins beside them: (n, columns)."""
    static = scale.static(panel.static[series])
    if phases is None:
        return static
    return np.concatenate([static, phases.at(panel, series, origins)], axis=1)


def to_inputs(
    batch: WindowBatch, scale: Scale, static: np.ndarray, device: torch.device, dtype: torch.dtype
) -> Batch:
    """Scale gathered windows and make tensors of them; ``static`` is of :func:`static_inputs`."""

    def tensor(values: np.ndarray) -> Tensor:
        # first the type: not every device has float64
        scaled = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        if device.type == "cuda":
            return scaled.pin_memory().to(device, non_blocking=True)
        return scaled.to(device)

    inputs = Inputs(
        targets=tensor(scale.targets(batch.targets, batch.series)),
        past=tensor(scale.past(batch.past)),
        known=tensor(scale.known(batch.known)),
        future_known=tensor(scale.known(batch.future_known)),
        static=tensor(static),
    )
    return Batch(inputs, tensor(scale.targets(batch.future_targets, batch.series)))


def _fits(panel: Panel, device: torch.device) -> bool:
    """Whether all rows, scaled, are small beside the memory of the device."""
    n_bytes = 4 * sum(array.size for array in (panel.targets, panel.past, panel.known))
    if device.type == "cuda":
        return n_bytes <= int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return device.type == "cpu" and n_bytes <= _MOST_BYTES


def _scaled_rows(
    panel: Panel, scale: Scale, device: torch.device, before: int
) -> dict[str, Tensor]:
    """All rows scaled, float32 on the device, behind ``before`` rows without a value."""
    found = {}
    for name in ("targets", "past", "known"):
        values = getattr(panel, name)
        n, width = values.shape
        out = torch.full((before + n, width), torch.nan, dtype=torch.float32, device=device)
        for start in range(0, n if width else 0, _CHUNK):
            part = values[start : start + _CHUNK]
            stop = start + len(part)
            if name == "targets":
                own = np.searchsorted(panel.indptr[1:], np.arange(start, stop), side="right")
                part = scale.targets(part[:, None], own)[:, 0]
            else:
                part = getattr(scale, name)(part)
            out[before + start : before + stop] = torch.from_numpy(part.astype(np.float32))
        found[name] = out
    return found


def _stretches(rows: Tensor, starts: Tensor, steps: int) -> Tensor:
    """Rows ``starts[k] .. starts[k] + steps - 1``: (batch, steps, columns), without an index of
    every row.
    """
    n, width = rows.shape
    if width == 0:
        return rows.new_empty((len(starts), steps, 0))
    view = rows.as_strided((n - steps + 1, steps, width), (width, width, 1))
    return view.index_select(0, starts)


@dataclass(eq=False)
class WindowSource:
    """Random batches of windows; an epoch is one pass, or ``max_steps`` batches if that is less.

    Where the data are small beside the device's memory, all rows are scaled once and stand on it,
    and a batch is gathered there; else each batch is gathered from the panel and scaled. What a
    window would read before the first row of its series is NaN. ``like`` is another source of the
    same panel, scale and device, whose scaled rows this one shares. ``offsets`` are the origins of
    several windows in one stretch, counted from its last one's; the static inputs of a batch then
    have one row for each.
    """

    panel: Panel
    windows: WindowIndex  # their forecast rows lie within the series
    scale: Scale
    phases: CalendarPhases | None
    lookback: int
    horizon: int
    batch_size: int
    max_steps: int
    device: torch.device
    like: WindowSource | None = None
    offsets: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.batch_size = min(self.batch_size, len(self.windows))
        self._rows: dict[str, Tensor] | None = None
        if self.like is not None:
            self._rows = self.like._rows
        elif _fits(self.panel, self.device):
            self._rows = _scaled_rows(self.panel, self.scale, self.device, 2 * self.lookback)

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

    def evenly(self, most: int, batch_size: int) -> Iterator[Batch]:
        """At most ``most`` windows spread evenly, in batches."""
        return self._batches(self.windows.spread(most), batch_size)

    def _batches(self, numbers: np.ndarray, size: int) -> Iterator[Batch]:
        """Windows in the order of their numbers, ``size`` at a time."""
        series, origins = self.windows[numbers]
        offsets = np.zeros(1, dtype=np.int64) if self.offsets is None else self.offsets
        n, each = len(offsets), (origins[:, None] + offsets).ravel()
        static = static_inputs(self.panel, self.scale, self.phases, np.repeat(series, n), each)
        parts = [slice(start, start + size) for start in range(0, len(numbers), size)]
        own = [slice(k * size * n, (k + 1) * size * n) for k in range(len(parts))]
        if self._rows is None:
            for part, rows in zip(parts, own):
                windows = gather(
                    self.panel, series[part], origins[part], self.lookback, self.horizon
                )
                yield to_inputs(windows, self.scale, static[rows], self.device, torch.float32)
            return
        # all numbers of an epoch go to the device at once: no step waits for a copy. Empty rows
        # stand before the first one, enough for a source of longer windows too
        first = len(self._rows["targets"]) - len(self.panel.targets) - self.lookback
        starts = torch.from_numpy(self.panel.indptr[series] + origins + first).to(self.device)
        outside = torch.from_numpy(self.lookback - origins).to(self.device)
        begins = bool((origins < self.lookback).any())
        on_device = torch.from_numpy(static.astype(np.float32)).to(self.device)
        for part, rows in zip(parts, own):
            yield self._gathered(starts[part], on_device[rows], outside[part] if begins else None)

    def _gathered(self, starts: Tensor, static: Tensor, outside: Tensor | None) -> Batch:
        lookback, steps, rows = self.lookback, self.lookback + self.horizon, self._rows
        assert rows is not None
        targets = _stretches(rows["targets"], starts, steps)
        past = _stretches(rows["past"], starts, lookback)
        known = _stretches(rows["known"], starts, steps)
        if outside is not None:  # rows of the series before
            ahead = torch.arange(steps, device=starts.device)[None, :, None]
            for part in (targets, past, known):
                part.masked_fill_(ahead[:, : part.shape[1]] < outside[:, None, None], torch.nan)
        inputs = Inputs(
            targets[:, :lookback], past, known[:, :lookback], known[:, lookback:], static
        )
        return Batch(inputs, targets[:, lookback:])
