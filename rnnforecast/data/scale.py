"""Shift and scale of every column of a panel: the one way in which rows are measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from rnnforecast.data.panel import Panel

__all__ = ["Scale"]

_ROWS = 1 << 16  # measured at once


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of every column; 0 and 1 where nothing is there to see.

    Targets have those of each series, covariates those of all rows. A scaled value is
    ``(value - loc) / scale``. Codes of categories are left as they are (0 and 1). ``per_series``,
    ``lag`` and ``log`` are those of `Scale.of`.
    """

    target_loc: np.ndarray  # (n_series, n_targets), as is the scale
    target_scale: np.ndarray
    past_loc: np.ndarray  # (n_columns,), as those that follow
    past_scale: np.ndarray
    known_loc: np.ndarray
    known_scale: np.ndarray
    static_loc: np.ndarray
    static_scale: np.ndarray
    per_series: bool = True
    lag: int | None = None
    log: bool = False
    least: np.ndarray | None = None  # (n_series, n_targets), smallest positive value, where ``log``

    @classmethod
    def of(
        cls, panel: Panel, per_series: bool = True, *, lag: int | None = None, log: bool = False
    ) -> Scale:
        """Measure the rows of a panel.

        Parameters
        ----------
        panel : Panel
            Rows to train on only.
        per_series : bool, default True
            False leaves the targets as they are.
        lag : int, optional
            Take the mean absolute difference over so many rows for the scale of targets (over one
            row where a series is shorter): the error of the seasonal naive forecast.
        log : bool, default False
            Measure, and scale, logarithms of the targets; the smallest positive value stands in for
            those that have none.
        """
        loc, scale, least = _of_targets(panel, per_series, lag, log, 0)
        past, known, static = (_of_covariates(panel, r) for r in ("past", "known", "static"))
        return cls(loc, scale, *past, *known, *static, per_series, lag, log, least)

    def on(self, panel: Panel, first: int = 0) -> Scale:
        """Targets from series ``first`` on measured on ``panel``; all else as it was."""
        loc, scale, least = _of_targets(panel, self.per_series, self.lag, self.log, first)
        loc = np.concatenate([self.target_loc[:first], loc])
        scale = np.concatenate([self.target_scale[:first], scale])
        if self.least is not None and least is not None:
            least = np.concatenate([self.least[:first], least])
        return replace(self, target_loc=loc, target_scale=scale, least=least)

    def following(self, panel: Panel) -> Scale:
        """The same for the series that it has, measured for those that ``panel`` has after them."""
        n = len(self.target_loc)
        return self if panel.n_series == n else self.on(panel, n)

    def targets(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Targets ``(k, time, n_targets)`` of series ``(k,)`` scaled."""
        if self.least is not None:
            least = self.least[series][:, None]
            values = np.log(np.where(values <= 0, least, values), dtype=np.float64)
        return (values - self.target_loc[series][:, None]) / self.target_scale[series][:, None]

    def past(self, values: np.ndarray) -> np.ndarray:
        """Past covariates scaled, any shape (..., n_past)."""
        return (values - self.past_loc) / self.past_scale

    def known(self, values: np.ndarray) -> np.ndarray:
        """Known covariates scaled, any shape (..., n_known)."""
        return (values - self.known_loc) / self.known_scale

    def static(self, values: np.ndarray) -> np.ndarray:
        """Static covariates scaled, any shape (..., n_static)."""
        return (values - self.static_loc) / self.static_scale


def _of_targets(
    panel: Panel, per_series: bool, lag: int | None, log: bool, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Location, scale and least value of each series from ``first`` on, (n, n_targets)."""
    indptr, shape = panel.indptr[first:], (panel.n_series - first, panel.targets.shape[1])
    if not per_series:
        return np.zeros(shape), np.ones(shape), None
    values, least = panel.targets, None
    if log:
        positive = np.where(values[indptr[0] :] > 0, values[indptr[0] :], np.inf)
        least = np.minimum.reduceat(positive, indptr[:-1] - indptr[0]).astype(np.float64)
        least = np.where(np.isinf(least), 1.0, least)
        floor = np.repeat(np.concatenate([np.ones((first, shape[1])), least]), panel.lengths, 0)
        values = np.log(np.where(values <= 0, floor, values), dtype=np.float64)
    loc, scale = _moments(values, indptr)
    if lag is not None:
        size = _mean_changes(values, indptr, lag)
        # at least a thousandth of the deviation; a constant has a scale of 1
        scale = np.where(size > 0, np.maximum(size, 1e-3 * scale), scale)
    return loc, scale, least


def _mean_changes(values: np.ndarray, indptr: np.ndarray, lag: int) -> np.ndarray:
    """Mean absolute change over ``lag`` rows (over one in groups with no more) of groups of
    rows ``indptr[i]:indptr[i + 1]``, NaN left out: (n_groups, n_columns); 0 where there is none.
    """
    lengths = np.diff(indptr)
    rows = np.arange(indptr[0], indptr[-1])
    before = rows - np.repeat(np.where(lengths > lag, lag, 1), lengths)
    inside = before >= np.repeat(indptr[:-1], lengths)
    change = np.abs(values[rows[inside]] - values[before[inside]]).astype(np.float64)
    group = np.repeat(np.arange(len(lengths)), lengths)[inside]
    mean = pd.DataFrame(change).groupby(group).mean()
    return mean.reindex(range(len(lengths))).fillna(0.0).to_numpy()


def _of_covariates(panel: Panel, role: str) -> tuple[np.ndarray, np.ndarray]:
    values = getattr(panel, role)
    loc, scale = _moments(values, np.array([0, len(values)]))
    codes = np.array(panel.levels(role), dtype=np.int64).nonzero()[0]
    loc[0, codes], scale[0, codes] = 0.0, 1.0
    return loc[0], scale[0]


def _moments(values: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of columns in groups of rows ``indptr[i]:indptr[i + 1]``, NaN left out; in
    float64, column by column, so that the memory layout does not show in the last bit.
    """
    n = len(indptr) - 1
    means, spreads = np.zeros((n, values.shape[1])), np.ones((n, values.shape[1]))
    # about so many rows at a time
    begins = np.searchsorted(indptr, np.arange(int(indptr[0]), int(indptr[-1]), _ROWS))
    for start, stop in pairwise(np.unique(np.append(begins, n))):
        edges = indptr[start : stop + 1]
        for j in range(values.shape[1]):
            column = values[edges[0] : edges[-1], j]
            there = ~np.isnan(column)
            seen = column[there].astype(np.float64, copy=False)
            counts = np.diff(np.concatenate([[0], np.cumsum(there)])[edges - edges[0]])
            some = np.flatnonzero(counts)
            if not len(some):
                continue
            counts = counts[some]
            first = np.cumsum(counts) - counts
            mean = np.add.reduceat(seen, first) / counts
            seen -= np.repeat(mean, counts)
            # in units of the largest, where its square would overflow or vanish
            unit = np.maximum.reduceat(np.abs(seen), first)
            unit[((unit > 1e-140) & (unit < 1e140)) | (unit == 0)] = 1.0
            if (unit != 1.0).any():
                seen /= np.repeat(unit, counts)
            spread = unit * np.sqrt(np.add.reduceat(np.square(seen, out=seen), first) / counts)
            # of a constant column rounding alone is left, which must not become its scale
            spread[~(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300))] = 1.0
            means[start + some, j], spreads[start + some, j] = mean, spread
    return means, spreads
