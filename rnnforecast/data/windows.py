"""Windows as index arithmetic over a panel: nothing is copied until a batch is gathered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnforecast.data.panel import Panel

__all__ = ["WindowBatch", "WindowIndex", "gather"]


@dataclass(frozen=True)
class WindowIndex:
    """All windows of a panel in a range of positions, numbered without being stored."""

    first: np.ndarray  # (n_series,), first origin: the position of the first forecast row
    counts: np.ndarray  # (n_series,), number of windows
    stride: int = 1  # rows between neighbouring origins

    @classmethod
    def between(
        cls, low: np.ndarray, high: np.ndarray, horizon: int, stride: int = 1
    ) -> WindowIndex:
        """Windows whose forecast rows all lie in positions ``low[i] <= p < high[i]``."""
        low = np.asarray(low, dtype=np.int64)
        room = np.asarray(high, dtype=np.int64) - horizon - low
        return cls(low, np.where(room < 0, 0, room // stride + 1), stride)

    @classmethod
    def training(
        cls, lengths: np.ndarray, held: np.ndarray, lookback: int, horizon: int
    ) -> WindowIndex:
        """Windows to train on: their forecast rows lie before a series' last ``held[i]`` rows.

        Of a series of n rows, fewer than a look-back and a horizon, the first window looks back on
        ``(n - horizon) // 2`` rows or one; with fewer than ``horizon + 1`` rows it gives none.
        """
        high = np.asarray(lengths, dtype=np.int64) - held
        first = np.where(high >= lookback + horizon, lookback, np.maximum((high - horizon) // 2, 1))
        return cls.between(first, high, horizon)

    def stops(self, horizon: int) -> np.ndarray:
        """Rows of each series up to the end of its last window; 0 where it has none."""
        last = self.first + (self.counts - 1) * self.stride + horizon
        return np.where(self.counts > 0, last, 0)

    def later(self, rows: np.ndarray | int) -> WindowIndex:
        """The windows from ``rows`` rows after each first origin on (stride 1 only)."""
        return WindowIndex(self.first + rows, np.maximum(self.counts - rows, 0))

    def every(self, stride: int) -> WindowIndex:
        """Every so many windows, the last one of each series among them (stride 1 only)."""
        return WindowIndex(
            self.first + (self.counts - 1) % stride, -(-self.counts // stride), stride
        )

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __getitem__(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Series and origin of windows, each of shape (n,)."""
        numbers = np.asarray(numbers, dtype=np.int64)
        ends = np.cumsum(self.counts)
        series = np.searchsorted(ends, numbers, side="right")
        within = numbers - (ends[series] - self.counts[series])
        return series, self.first[series] + within * self.stride

    def spread(self, most: int) -> np.ndarray:
        """Numbers of at most ``most`` windows, spread evenly over all of them."""
        n = len(self)
        return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


@dataclass(frozen=True)
class WindowBatch:
    """Gathered windows; NaN where a value is missing or the window leaves its series."""

    series: np.ndarray  # (batch,), as are the origins
    origins: np.ndarray
    targets: np.ndarray  # (batch, lookback, n_targets)
    past: np.ndarray  # (batch, lookback, n_past)
    known: np.ndarray  # (batch, lookback, n_known)
    future_targets: np.ndarray  # (batch, horizon, n_targets)
    future_known: np.ndarray  # (batch, horizon, n_known)
    static: np.ndarray  # (batch, n_static)


def gather(
    panel: Panel, series: np.ndarray, origins: np.ndarray, lookback: int, horizon: int
) -> WindowBatch:
    """Copy windows out of the flat arrays; ``series`` and ``origins`` are of shape (batch,).

    The window of origin p looks back on positions p - lookback .. p - 1 of its series and forecasts
    positions p .. p + horizon - 1.
    """
    offsets = np.arange(-lookback, horizon)
    positions = np.asarray(origins)[:, None] + offsets
    lengths = panel.lengths[series][:, None]
    inside = (positions >= 0) & (positions < lengths)
    complete = bool(inside.all())
    rows = panel.indptr[series][:, None] + positions
    if not complete:
        rows = np.where(inside, rows, panel.indptr[series][:, None])

    def take(array: np.ndarray, columns: slice) -> np.ndarray:
        part = array[rows[:, columns]]
        if not complete and part.size:
            part[~inside[:, columns]] = np.nan
        return part

    back, ahead = slice(0, lookback), slice(lookback, None)
    return WindowBatch(
        series=np.asarray(series),
        origins=np.asarray(origins),
        targets=take(panel.targets, back),
        past=take(panel.past, back),
        known=take(panel.known, back),
        future_targets=take(panel.targets, ahead),
        future_known=take(panel.known, ahead),
        static=panel.static[series],
    )
