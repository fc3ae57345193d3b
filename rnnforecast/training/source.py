"""Batches of scaled windows for the training loop, gathered straight from the panel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import WindowBatch, WindowIndex, gather
from rnnforecast.nn.network import Inputs

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
    """

    target_loc: np.ndarray
    target_scale: np.ndarray
    past_loc: np.ndarray
    past_scale: np.ndarray
    known_loc: np.ndarray
    known_scale: np.ndarray
    static_loc: np.ndarray
    static_scale: np.ndarray

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


def measure_units(panel: Panel, per_series: bool = True) -> Units:
    """Units of a panel: each series by its own mean and deviation, covariates over all rows.

    Parameters
    ----------
    panel : Panel
        Rows of ``fit`` only.
    per_series : bool, default True
        False leaves the targets as they are (shift 0, scale 1).
    """
    shape = (panel.n_series, panel.targets.shape[1])
    loc, scale = np.zeros(shape), np.ones(shape)
    if per_series:
        for i in range(panel.n_series):
            loc[i], scale[i] = _moments(panel.targets[panel.series(i)])
    return Units(loc, scale, *_moments(panel.past), *_moments(panel.known), *_moments(panel.static))


def to_inputs(batch: WindowBatch, units: Units, device: torch.device, dtype: torch.dtype) -> Batch:
    """Scale gathered windows and make tensors of them."""
    loc = units.target_loc[batch.series][:, None]
    scale = units.target_scale[batch.series][:, None]

    def tensor(values: np.ndarray) -> Tensor:
        # first the type: not every device has float64
        return torch.as_tensor(values).to(dtype).to(device)

    inputs = Inputs(
        targets=tensor((batch.targets - loc) / scale),
        past=tensor((batch.past - units.past_loc) / units.past_scale),
        known=tensor(units.known(batch.known)),
        future_known=tensor(units.known(batch.future_known)),
        static=tensor((batch.static - units.static_loc) / units.static_scale),
    )
    return Batch(inputs, tensor((batch.future_targets - loc) / scale))


class WindowSource:
    """Random batches of windows; an epoch is one pass, or ``max_steps`` batches if that is less.

    Parameters
    ----------
    panel : Panel
    windows : WindowIndex
    units : Units
    lookback, horizon, batch_size : int
    max_steps : int
        Most batches of an epoch.
    device : torch.device
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
    ):
        self.panel = panel
        self.windows = windows
        self.units = units
        self.lookback = lookback
        self.horizon = horizon
        self.batch_size = min(batch_size, len(windows))
        self.max_steps = max_steps
        self.device = device

    def __len__(self) -> int:
        return min(-(-len(self.windows) // self.batch_size), self.max_steps)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        n, need = len(self.windows), len(self) * self.batch_size
        if n <= 4 * need:
            order = torch.randperm(n, generator=generator)[:need].numpy()
        else:  # a permutation of very many windows would be larger than the data
            order = torch.randint(n, (need,), generator=generator).numpy()
        for start in range(0, len(order), self.batch_size):
            yield self.take(order[start : start + self.batch_size])

    def take(self, numbers: np.ndarray) -> Batch:
        """The windows of the given numbers as one batch."""
        series, origins = self.windows[numbers]
        gathered = gather(self.panel, series, origins, self.lookback, self.horizon)
        return to_inputs(gathered, self.units, self.device, torch.float32)

    def evenly(self, most: int, batch_size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """At most ``most`` windows spread evenly, in batches with their numbers."""
        numbers = self.windows.spread(most)
        for start in range(0, len(numbers), batch_size):
            part = numbers[start : start + batch_size]
            yield part, self.take(part)
