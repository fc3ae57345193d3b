"""Rows to take windows from: those of fit, and later ones behind them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from rnnforecast.data.frames import Keys
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.windows import WindowIndex

__all__ = ["Span", "any_nan", "strided"]


@dataclass(frozen=True)
class Span:
    """A stretch of each series.

    Attributes
    ----------
    fitted : Panel
        The rows of fit.
    panel : Panel
        The rows of the span; those of series i begin at its position ``start[i]`` in ``fitted``.
    start : ndarray of int, shape (n_series,)
    later : dict
        Stamps of the rows after fit by series, where the rows are their own grid.
    """

    fitted: Panel
    panel: Panel
    start: np.ndarray
    later: dict = field(default_factory=dict)

    @classmethod
    def stored(cls, panel: Panel) -> Span:
        """The rows of fit."""
        return cls(panel, panel, np.zeros(panel.n_series, dtype=np.int64))

    @classmethod
    def extended(
        cls,
        panel: Panel,
        keys: Keys,
        series: np.ndarray,
        positions: np.ndarray,
        values: np.ndarray,
        lookback: int,
    ) -> Span:
        """The rows of fit, from ``lookback`` before the first position on, and those after fit.

        Parameters
        ----------
        panel : Panel
        keys : Keys
        series, positions : ndarray of int, shape (n_rows,)
        values : ndarray, shape (n_rows, n_columns)
            Used at positions after the rows of fit.
        lookback : int
        """
        if (positions < panel.lengths[series]).all():
            return cls.stored(panel)
        start = np.zeros(panel.n_series, dtype=np.int64)
        dtype, width = np.result_type(panel.targets, values), values.shape[1]
        parts = [np.empty((0, width), dtype=dtype)] * panel.n_series
        later = {}
        for i, rows in group_rows(series):
            n, place = int(panel.lengths[i]), positions[rows]
            start[i] = max(min(int(place.min()), n) - lookback, 0)
            stop = max(int(place.max()) + 1, n)
            parts[i] = np.full((stop - start[i], width), np.nan, dtype=dtype)
            parts[i][: n - start[i]] = panel.targets[panel.series(i)][start[i] :]
            after = place >= n
            parts[i][place[after] - start[i]] = values[rows][after]
            if panel.stamps is not None and keys.levels is not None and after.any():
                stamps = keys.stamps(rows)[after].sort_values()
                skipped = stop - n - len(stamps)  # steps before the first of the later rows
                later[i] = panel.future_index(i, skipped).append(stamps) if skipped else stamps
        indptr = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        none = np.empty((int(indptr[-1]), 0), dtype=dtype)
        grown = replace(panel, targets=np.concatenate(parts), past=none, known=none, indptr=indptr)
        return cls(panel, grown, start, later)

    def times(self, i: int, n: int) -> pd.Index:
        """Stamps of the first ``n`` positions of series i; unknown ones from the calendar."""
        own = self.fitted.time_index(i)
        ahead = n - len(own)
        if ahead <= 0:
            return own
        seen = self.later.get(i, own[:0])[:ahead]
        if len(seen) == ahead:
            return own.append(seen)
        return own.append(self.fitted.future_index(i, ahead))

    def index(self, series: np.ndarray, rows: np.ndarray) -> pd.Index:
        """Stamps of rows of the span, with the series for a panel."""
        parts, codes, order = [], [], []
        for i, at in group_rows(series):
            places = rows[at] + self.start[i]
            parts.append(self.times(i, int(places.max()) + 1)[places])
            codes.append(i)
            order.append(at)
        if not parts:
            return self.fitted.join_index([self.fitted.time_index(0)[:0]], [0])
        index = self.fitted.join_index(parts, codes)
        return index if len(parts) == 1 else index[np.argsort(np.concatenate(order))]


def strided(values: np.ndarray, length: int, index: WindowIndex, ahead: int) -> np.ndarray:
    """Windows of one series as a read-only view, flattened time by time.

    Parameters
    ----------
    values : ndarray, shape (n_rows, n_columns)
        C-contiguous.
    length : int
        Rows of a window.
    index : WindowIndex
    ahead : int
        First row of a window, counted from its origin: ``-length`` for the past, 0 for the future.

    Returns
    -------
    ndarray, shape (n_windows, length * n_columns)
    """
    width = values.shape[1]
    flat = values.reshape(-1)
    every = np.lib.stride_tricks.sliding_window_view(flat, length * width)[::width]
    return every[int(index.first[0]) + ahead :: index.stride][: len(index)]


def any_nan(windows: np.ndarray) -> np.ndarray:
    """Rows with NaN, shape (n_windows,), without a copy of all windows at once."""
    if not len(windows):
        return np.zeros(0, dtype=bool)
    return np.concatenate(
        [np.isnan(windows[i : i + 1024]).any(axis=1) for i in range(0, len(windows), 1024)]
    )
