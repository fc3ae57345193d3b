"""Shift and scale of every column of a panel: the one way in which rows are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from rnnforecast.data.panel import Panel

__all__ = ["Scale"]

_ROWS = 1 << 20  # measured at once


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of every column; 0 and 1 where nothing is there to see.

    Targets have those of each series, covariates those of all rows. A scaled value is
    ``(value - loc) / scale``. Codes of categories are left as they are (0 and 1).

    Attributes
    ----------
    target_loc, target_scale : ndarray, shape (n_series, n_targets)
    past_loc, past_scale, known_loc, known_scale, static_loc, static_scale : ndarray, shape
    (n_columns,)
    per_series : bool
        False: targets are left as they are.
    """

    target_loc: np.ndarray
    target_scale: np.ndarray
    past_loc: np.ndarray
    past_scale: np.ndarray
    known_loc: np.ndarray
    known_scale: np.ndarray
    static_loc: np.ndarray
    static_scale: np.ndarray
    per_series: bool = True

    @classmethod
    def of(cls, panel: Panel, per_series: bool = True) -> Scale:
        """Measure the rows of a panel (those to train on only)."""
        targets = _of_targets(panel, per_series, 0)
        past, known, static = (_of_covariates(panel, k) for k in ("past", "known", "static"))
        return cls(*targets, *past, *known, *static, per_series=per_series)

    def following(self, panel: Panel) -> Scale:
        """The same for the series that it has, measured for those that ``panel`` has after them."""
        first = len(self.target_loc)
        if panel.n_series == first:
            return self
        loc, scale = _of_targets(panel, self.per_series, first)
        return replace(
            self,
            target_loc=np.concatenate([self.target_loc, loc]),
            target_scale=np.concatenate([self.target_scale, scale]),
        )

    def on(self, panel: Panel) -> Scale:
        """Targets measured on ``panel``, whatever series it has; covariates as they were."""
        loc, scale = _of_targets(panel, self.per_series, 0)
        return replace(self, target_loc=loc, target_scale=scale)

    def past(self, values: np.ndarray) -> np.ndarray:
        """Past covariates scaled, any shape (..., n_past)."""
        return (values - self.past_loc) / self.past_scale

    def known(self, values: np.ndarray) -> np.ndarray:
        """Known covariates scaled, any shape (..., n_known)."""
        return (values - self.known_loc) / self.known_scale

    def static(self, values: np.ndarray) -> np.ndarray:
        """Static covariates scaled, any shape (..., n_static)."""
        return (values - self.static_loc) / self.static_scale


def _of_targets(panel: Panel, per_series: bool, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each series from ``first`` on, (n_series - first, n_targets)."""
    if per_series:
        return _moments(panel.targets, panel.indptr[first:])
    shape = (panel.n_series - first, panel.targets.shape[1])
    return np.zeros(shape), np.ones(shape)


def _of_covariates(panel: Panel, role: str) -> tuple[np.ndarray, np.ndarray]:
    values = getattr(panel, role)
    loc, scale = _moments(values, np.array([0, len(values)]))
    kinds = [column.kind for column in panel.columns if column.role == role]
    codes = [j for j, kind in enumerate(kinds) if kind == "category"]
    loc[0, codes], scale[0, codes] = 0.0, 1.0
    return loc[0], scale[0]


def _moments(values: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of columns in each group of rows ``indptr[i]:indptr[i + 1]``, NaN left
    out; in float64, column by column, so that the memory layout does not show in the last bit.
    """
    means = np.zeros((len(indptr) - 1, values.shape[1]))
    spreads = np.ones_like(means)
    for groups in _blocks(indptr):
        edges = indptr[groups.start : groups.stop + 1]
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
            # in units of the largest, whose square neither overflows nor vanishes
            unit = np.maximum.reduceat(np.abs(seen), first)
            unit[((unit > 1e-140) & (unit < 1e140)) | (unit == 0)] = 1.0
            if (unit != 1.0).any():
                seen /= np.repeat(unit, counts)
            spread = unit * np.sqrt(np.add.reduceat(np.square(seen, out=seen), first) / counts)
            # of a constant column rounding alone is left, which must not become its scale
            spread[~(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300))] = 1.0
            means[groups.start + some, j], spreads[groups.start + some, j] = mean, spread
    return means, spreads


def _blocks(indptr: np.ndarray) -> Iterator[slice]:
    """Groups of rows, about a million rows at a time."""
    n = len(indptr) - 1
    starts = np.arange(int(indptr[0]), int(indptr[-1]), _ROWS)
    cuts = np.unique(np.append(np.searchsorted(indptr, starts), n)) if len(starts) else [0, n]
    for a, b in pairwise(cuts):
        yield slice(int(a), int(b))
