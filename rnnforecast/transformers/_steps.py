"""What transformers share that look at the time step of a row: finding it, and looking back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from rnnforecast.data.building import build_panel
from rnnforecast.data.frames import Keys, Table
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.exceptions import DataError
from rnnforecast.transformers._base import SeriesTransformer

__all__ = ["Grid", "SteppedTransformer", "spread"]

_Rows = tuple[np.ndarray, np.ndarray]  # series of each row, and its position in the series


def spread(counts: np.ndarray) -> _Rows:
    """Group and place in the group of each row, where groups of these sizes follow each other."""
    group = np.repeat(np.arange(len(counts)), counts)
    return group, np.arange(len(group)) - (np.cumsum(counts) - counts)[group]


class Grid(NamedTuple):
    """Values of all series on consecutive steps from the first of fit on, NaN where unobserved."""

    values: np.ndarray  # (n_rows, n_columns)
    indptr: np.ndarray  # series i stands at rows indptr[i]:indptr[i + 1]
    later: dict[int, pd.Index]  # stamps of positions after fit, of series on a trading calendar

    def take(self, series: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Values at positions of series, NaN beyond their ends: (*positions.shape, n_columns)."""
        rows = self.indptr[series] + positions
        outside = (positions < 0) | (rows >= self.indptr[series + 1])
        values = self.values[np.where(outside, 0, rows)]
        values[outside] = np.nan
        return values


class SteppedTransformer(SeriesTransformer):
    """Abstract base of transformers for which the time step of a row matters.

    Subclasses have the parameters ``series_id``, ``time`` and ``freq``. A fit stores ``panel_``
    (the rows of fit on their grid) and ``keys_`` (whose rows they were).
    """

    panel_: Panel
    keys_: Keys

    def _fit(self, table: Table, values: np.ndarray) -> None:
        own = np.array(values, order="C")  # safe from the caller's later writes
        none = own[:, :0]
        freq = getattr(self, "freq", None)
        self.panel_ = build_panel(self._owner, table.keys, own, none, none, none, freq)
        self.keys_ = table.keys

    def _locate(
        self, table: Table, values: np.ndarray, is_fitted: Callable[..., bool] | None = None
    ) -> _Rows:
        """Series of each row and its position, counted from the first row of the series in fit.

        The time stamp decides. Rows without one follow on from the end, unless they are those of
        fit: as many, and equal to them, or ``is_fitted(stored, series, positions)`` says so.
        """
        panel, keys = self.panel_, table.keys
        if (keys.levels is None or panel.calendar is None) and len(table) == self.keys_.n_rows:
            series, steps = panel.locate(self._owner, self.keys_)
            positions = steps - 1 + (0 if panel.calendar is None else panel.lengths[series])
            stored = panel.targets[panel.indptr[series] + positions]
            if is_fitted is None:
                alike = np.array_equal(values, stored, equal_nan=True)
            else:
                alike = is_fitted(stored, series, positions)
            if alike:
                return series, positions
        series, steps = panel.locate(self._owner, keys)
        return series, panel.lengths[series] - 1 + steps

    def _locate_once(
        self, table: Table, values: np.ndarray, is_fitted: Callable[..., bool] | None = None
    ) -> _Rows:
        """Like ``_locate``, with rows on a trading calendar as consecutive steps, and none twice."""
        series, positions = self._locate(table, values, is_fitted)
        later = positions >= self.panel_.lengths[series]
        if self.panel_.stamps is not None and table.keys.levels is not None and later.any():
            # after fit too, days that were observed are steps and holidays are not
            rows = {"first": positions[later], "stamp": table.keys.stamps(later)}
            groups = pd.DataFrame(rows).groupby(series[later])
            place = groups["first"].transform("min") + groups["stamp"].rank("dense") - 1
            positions[later] = place.to_numpy(dtype=np.int64)
        twice = pd.DataFrame({"series": series, "position": positions}).duplicated()
        if twice.any():
            who = f"{self._owner}: {self.panel_.label(int(series[twice.argmax()]))}"
            raise DataError(f"{who} has two rows with the same time stamp: drop one")
        return series, positions

    def _fitted_grid(self) -> Grid:
        return Grid(self.panel_.targets, self.panel_.indptr, {})

    def _extend(self, table: Table, values: np.ndarray, series, positions) -> Grid:
        """The rows of fit, of the series in ``table`` alone, and its later rows behind them."""
        panel, keys = self.panel_, table.keys
        later = np.flatnonzero(positions >= panel.lengths[series])
        if not len(later):
            return self._fitted_grid()
        counts = np.zeros_like(panel.lengths)
        np.maximum.at(counts, series, np.maximum(positions + 1, panel.lengths[series]))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        dtype = np.result_type(panel.targets, values)
        grid = Grid(np.full((indptr[-1], values.shape[1]), np.nan, dtype), indptr, {})
        owner, place = spread(np.minimum(counts, panel.lengths))
        grid.values[indptr[owner] + place] = panel.targets[panel.indptr[owner] + place]
        grid.values[indptr[series[later]] + positions[later]] = values[later]
        for i, rows in group_rows(series[later]) if panel.stamps is not None else []:
            if keys.levels is not None:
                stamps = keys.stamps(later[rows]).sort_values()
                before = int(positions[later[rows]].min() - panel.lengths[i])
                grid.later[i] = panel.future_index(i, before).append(stamps) if before else stamps
        return grid

    def _times(self, i: int, n: int, later: pd.Index | None = None) -> pd.Index:
        """Stamps of the first ``n`` positions of series i, after fit ``later`` or the calendar's."""
        times = self.panel_.time_index(i)
        ahead = n - len(times)
        if ahead <= 0:
            return times
        return times.append(self.panel_.future_index(i, ahead) if later is None else later[:ahead])
