"""Batches of scaled windows for the training loop, gathered straight from the panel."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Static covariates, with the calendar's phases at the origins beside them.

    Parameters
    ----------
    panel : Panel
    scale : Scale
    phases : CalendarPhases or None
    series, origins : ndarray of int, shape (n,)

    Returns
    -------
    ndarray, shape (n, n_static + number of phases)
    """
    static = scale.static(panel.static[series])
    if phases is None:
        return static
    return np.concatenate([static, phases.at(panel, series, origins)], axis=1)


def to_inputs(
    batch: WindowBatch, scale: Scale, static: np.ndarray, device: torch.device, dtype: torch.dtype
) -> Batch:
    """Scale gathered windows and make tensors of them; ``static`` is of :func:`static_inputs`."""
    loc = scale.target_loc[batch.series][:, None]
    size = scale.target_scale[batch.series][:, None]

    def tensor(values: np.ndarray) -> Tensor:
        # first the type: not every device has float64
        scaled = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        if device.type == "cuda":
            return scaled.pin_memory().to(device, non_blocking=True)
        return scaled.to(device)

    inputs = Inputs(
        targets=tensor((batch.targets - loc) / size),
        past=tensor(scale.past(batch.past)),
        known=tensor(scale.known(batch.known)),
        future_known=tensor(scale.known(batch.future_known)),
        static=torch.as_tensor(static).to(dtype).to(device),
    )
    return Batch(inputs, tensor((batch.future_targets - loc) / size))


class _ScaledRows:
    """All rows of a panel, scaled, as float32 on the device that trains.

    A window is a stretch of rows, so that a batch of windows is some rows of an overlapping view of
    the data, ``view[p] = rows[p : p + steps]``: no index of every row is made. Rows without a value
    stand before the first one, for windows that begin before it.
    """

    def __init__(self, panel: Panel, scale: Scale, device: torch.device, before: int):
        self.before = before

        def columns(values: np.ndarray, scaled) -> Tensor:
            n, width = values.shape
            out = torch.full((before + n, width), torch.nan, dtype=torch.float32, device=device)
            for start in range(0, n if width else 0, _CHUNK):
                stop = min(start + _CHUNK, n)
                part = scaled(values[start:stop], start, stop).astype(np.float32)
                out[before + start : before + stop] = torch.from_numpy(part)
            return out

        def targets(values: np.ndarray, start: int, stop: int) -> np.ndarray:
            own = np.searchsorted(panel.indptr[1:], np.arange(start, stop), side="right")
            return (values - scale.target_loc[own]) / scale.target_scale[own]

        self.targets = columns(panel.targets, targets)
        self.past = columns(panel.past, lambda values, *_: scale.past(values))
        self.known = columns(panel.known, lambda values, *_: scale.known(values))

    def stretches(self, name: str, starts: Tensor, steps: int) -> Tensor:
        """Rows ``starts[k] .. starts[k] + steps - 1`` of a kind of column: (batch, steps,
        columns).
        """
        rows = getattr(self, name)
        n, width = rows.shape
        if width == 0:
            return rows.new_empty((len(starts), steps, 0))
        view = rows.as_strided((n - steps + 1, steps, width), (width, width, 1))
        return view.index_select(0, starts + self.before)


def _fits(panel: Panel, device: torch.device) -> bool:
    """Whether all rows, scaled, are small beside the memory of the device."""
    n_bytes = 4 * sum(array.size for array in (panel.targets, panel.past, panel.known))
    if device.type == "cuda":
        return n_bytes <= int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return device.type == "cpu" and n_bytes <= _MOST_BYTES


class WindowSource:
    """Random batches of windows; an epoch is one pass, or ``max_steps`` batches if that is less.

    Where the data are small beside the device's memory, all rows are scaled once and stand on it,
    and a batch is gathered there; else each batch is gathered from the panel and scaled. What a
    window would read before the first row of its series is NaN.

    Parameters
    ----------
    panel : Panel
    windows : WindowIndex
        Their forecast rows lie within the series.
    scale : Scale
    phases : CalendarPhases or None
    lookback, horizon, batch_size : int
    max_steps : int
        Most batches of an epoch.
    device : torch.device
    like : WindowSource, optional
        Another source of the same panel, scale and device, whose scaled rows this one shares.
    offsets : ndarray of int, optional
        Origins of several windows in one stretch, counted from its last one's; the static inputs of
        a batch then have one row for each.
    """

    def __init__(
        self,
        panel: Panel,
        windows: WindowIndex,
        scale: Scale,
        phases: CalendarPhases | None,
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
        self.scale = scale
        self.phases = phases
        self.lookback = lookback
        self.horizon = horizon
        self.batch_size = min(batch_size, len(windows))
        self.max_steps = max_steps
        self.device = device
        self._offsets = np.zeros(1, dtype=np.int64) if offsets is None else offsets
        self._rows: _ScaledRows | None
        if like is not None:
            self._rows = like._rows
        else:
            self._rows = (
                _ScaledRows(panel, scale, device, lookback) if _fits(panel, device) else None
            )

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
        static = static_inputs(
            self.panel,
            self.scale,
            self.phases,
            np.repeat(series, n),
            (origins[:, None] + self._offsets).ravel(),
        )
        parts = [slice(start, start + size) for start in range(0, len(numbers), size)]
        of_part = [static[k * size * n : (k + 1) * size * n] for k in range(len(parts))]
        rows = self._rows
        if rows is None:
            for part, some in zip(parts, of_part, strict=True):
                gathered = gather(
                    self.panel, series[part], origins[part], self.lookback, self.horizon
                )
                yield to_inputs(gathered, self.scale, some, self.device, torch.float32)
            return
        # all numbers of an epoch go to the device at once: no step waits for a copy
        starts = self.panel.indptr[series] + origins - self.lookback
        at = torch.from_numpy(starts).to(self.device)
        outside = torch.from_numpy(self.lookback - origins).to(self.device)
        begins = bool((origins < self.lookback).any())
        on_device = torch.from_numpy(static.astype(np.float32)).to(self.device)
        for k, part in enumerate(parts):
            own = on_device[k * size * n : (k + 1) * size * n]
            yield self._gathered(rows, at[part], own, outside[part] if begins else None)

    def _gathered(
        self, rows: _ScaledRows, starts: Tensor, static: Tensor, outside: Tensor | None
    ) -> Batch:
        lookback, steps = self.lookback, self.lookback + self.horizon
        targets = rows.stretches("targets", starts, steps)
        past = rows.stretches("past", starts, lookback)
        known = rows.stretches("known", starts, steps)
        if outside is not None:  # rows of the series before
            ahead = torch.arange(steps, device=starts.device)[None, :, None]
            for part in (targets, past, known):
                part.masked_fill_(ahead[:, : part.shape[1]] < outside[:, None, None], torch.nan)
        inputs = Inputs(
            targets=targets[:, :lookback],
            past=past,
            known=known[:, :lookback],
            future_known=known[:, lookback:],
            static=static,
        )
        return Batch(inputs, targets[:, lookback:])
