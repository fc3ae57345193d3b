"""All rows of a panel in series units, ready on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rnnforecast.data.panel import Panel

if TYPE_CHECKING:
    from rnnforecast.training.source import Units

__all__ = ["ScaledRows", "scaled_rows"]

_MOST_BYTES = 1 << 24  # on a CPU: larger data are scaled batch by batch, memory stays the data's
_SHARE = 0.25  # of a GPU's free memory
_CHUNK = 1 << 18  # rows scaled at once


class ScaledRows:
    """Rows in units as float32, from which a batch is gathered by one call for each kind of column.

    A window is a stretch of rows, so that a batch of windows is some rows of an overlapping view of
    the data, ``view[p] = rows[p : p + steps]``: no index of every row is made.

    Parameters
    ----------
    panel : Panel
    units : Units
    device : torch.device
        Where the rows stand; the numbers of windows are on it too.
    """

    def __init__(self, panel: Panel, units: Units, device: torch.device):
        self.device = device

        def columns(values: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> Tensor:
            out = torch.empty(values.shape, dtype=torch.float32, device=device)
            for rows in _chunks(len(values) if values.shape[1] else 0):
                if loc.ndim == 1:
                    part = (values[rows] - loc) / scale
                else:
                    places = np.arange(rows.start, min(rows.stop, len(values)))
                    own = np.searchsorted(panel.indptr[1:], places, side="right")
                    part = (values[rows] - loc[own]) / scale[own]
                out[rows] = torch.from_numpy(part.astype(np.float32))
            return out

        self.targets = columns(panel.targets, units.target_loc, units.target_scale)
        self.past = columns(panel.past, units.past_loc, units.past_scale)
        self.known = columns(panel.known, units.known_loc, units.known_scale)

    def stretches(self, name: str, starts: Tensor, steps: int) -> Tensor:
        """Rows ``starts[k] .. starts[k] + steps - 1`` of a kind of column: (batch, steps,
        columns).
        """
        rows = getattr(self, name)
        n, width = rows.shape
        if width == 0:
            return rows.new_empty((len(starts), steps, 0))
        view = rows.as_strided((n - steps + 1, steps, width), (width, width, 1))
        return view.index_select(0, starts)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


def scaled_rows(panel: Panel, units: Units, device: torch.device) -> ScaledRows | None:
    """The rows in units, or None where they would take too much memory of the device."""
    arrays = (panel.targets, panel.past, panel.known)
    n_bytes = 4 * sum(array.size for array in arrays)
    if device.type == "cuda":
        most = int(_SHARE * torch.cuda.mem_get_info(device)[0])
    else:
        most = _MOST_BYTES if device.type == "cpu" else 0
    return ScaledRows(panel, units, device) if n_bytes <= most else None
