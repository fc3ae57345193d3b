"""Rows of an input put in order of series and on the grid of their calendar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data.calendar import Calendar, OffGridError, infer_calendar
from rnnforecast.data.frames import Keys
from rnnforecast.data.roles import Column
from rnnforecast.exceptions import DataError

__all__ = ["Layout", "constant_rows", "lay_out", "offsets", "steps_of_rows"]


@dataclass(frozen=True)
class Layout:
    """Where the rows of an input stand in a panel.

    Attributes
    ----------
    series : ndarray of int, shape (n_series,)
        Positions in ``keys.ids`` of the panel's series, which stand in order of appearance.
    order : ndarray of int, shape (n_rows,), or None
        The input's rows, series by series; None where they stand so already.
    counts : ndarray of int, shape (n_series,)
        Rows that the input has of each series.
    indptr : ndarray of int64, shape (n_series + 1,)
        Of the panel's rows: those of the input, and those of gaps.
    places : ndarray of int, shape (n_rows,), or None
        Rows of the panel where the rows of the input stand; None where there are no gaps.
    calendar : Calendar or None
    starts, stamps : Index or None
        As in ``Panel``.
    """

    series: np.ndarray
    order: np.ndarray | None
    counts: np.ndarray
    indptr: np.ndarray
    places: np.ndarray | None = None
    calendar: Calendar | None = None
    starts: pd.Index | None = None
    stamps: pd.Index | None = None

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Rows of the panel from those of the input, NaN in the gaps; a view where none moves."""
        if self.order is not None:
            values = values[self.order]
        if self.places is None:
            return values
        full = np.full((int(self.indptr[-1]), values.shape[1]), np.nan, dtype=values.dtype)
        full[self.places] = values
        return full

    def absent(self) -> np.ndarray | None:
        """Rows of the panel that the input does not have, or None."""
        if self.places is None:
            return None
        absent = np.ones(int(self.indptr[-1]), dtype=bool)
        absent[self.places] = False
        return absent


def offsets(counts: np.ndarray) -> np.ndarray:
    """Where groups of so many rows begin and the last one ends, int64, shape (n_groups + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def lay_out(owner: str, keys: Keys, freq: Any = None, calendar: Calendar | None = None) -> Layout:
    """Order rows by series, and find the step of each.

    The calendar is inferred from the longest series, with ``freq`` if given; or it is ``calendar``.
    Stamps that are unsorted, repeated or off the grid are refused.
    """
    series, order, counts = _by_series(keys)
    indptr = offsets(counts)
    if not keys.has_time:
        return Layout(series, order, counts, indptr)
    ranks = keys.ranks() if order is None else keys.ranks()[order]
    _check_sorted(owner, keys, series, indptr, ranks)
    at = indptr[:-1] if order is None else order[indptr[:-1]]
    starts = keys.stamps(at)
    if calendar is None:
        longest = int(np.argmax(counts))
        rows = slice(*indptr[longest : longest + 2].tolist())
        found = infer_calendar(keys.stamps(rows if order is None else order[rows]), freq)
    else:
        found = calendar
    if found.own_grid:
        stamps = keys.stamps(slice(None) if order is None else order)
        return Layout(series, order, counts, indptr, None, found, starts, stamps)
    own = np.empty(len(keys.ids), dtype=np.int64)
    own[series] = np.arange(len(series))
    last = indptr[1:] - 1 if order is None else order[indptr[1:] - 1]
    spans = steps_of_rows(owner, found, starts, own, keys, last) + 1
    if (spans == counts).all():
        return Layout(series, order, counts, indptr, None, found, starts)
    every = np.arange(keys.n_rows) if order is None else order
    steps = steps_of_rows(owner, found, starts, own, keys, every)
    different = calendar is None and freq is None and len(series) > 1
    _check_spans(owner, found, keys, series, indptr, steps, different)
    grid = offsets(spans)
    places = steps + np.repeat(grid[:-1], counts)
    return Layout(series, order, counts, grid, places, found, starts)


def _by_series(keys: Keys) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Series in order of appearance, rows in this order (None as they stand), and their counts."""
    codes, n = keys.series, len(keys.ids)
    if codes is None:
        return np.zeros(1, dtype=np.int64), None, np.array([keys.n_rows])
    cuts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    if len(cuts) + 1 == n:
        edges = np.concatenate([[0], cuts, [len(codes)]])
        return codes[edges[:-1]].astype(np.int64), None, np.diff(edges)
    first = np.empty(n, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # the last one written stays
    series = np.argsort(first)
    place = np.empty(n, dtype=np.int64)
    place[series] = np.arange(n)
    order = np.argsort(place[codes], kind="stable")
    return series, order, np.bincount(codes, minlength=n)[series]


def _check_sorted(
    owner: str, keys: Keys, series: np.ndarray, indptr: np.ndarray, ranks: np.ndarray
) -> None:
    """Raise unless stamps rise within each series."""
    bad = ranks[1:] <= ranks[:-1]
    bad[indptr[1:-1] - 1] = False  # from one series to the next
    if not bad.any():
        return
    i = int(np.searchsorted(indptr, np.argmax(bad), side="right")) - 1
    rows = slice(*indptr[i : i + 2].tolist())
    who = f"{owner}: {keys.label(series[i])}"
    repeated = pd.Series(ranks[rows]).duplicated()
    if repeated.any():
        code = ranks[rows][int(np.argmax(repeated))]
        stamp = keys.stamps(np.flatnonzero(keys.ranks() == code)[:1])[0]
        raise DataError(
            f"{who}: time stamp {stamp} appears more than once: aggregate or drop the repeated "
            f"rows; rows of several series need series_id= or a MultiIndex (series, time)"
        )
    raise DataError(
        f"{who}: time stamps are not sorted: call sort_index() first. If a splitter shuffled the "
        f"rows, use TimeSeriesSplit (or PanelTimeSeriesSplit), or shuffle=False"
    )


def _check_spans(
    owner: str,
    calendar: Calendar,
    keys: Keys,
    series: np.ndarray,
    indptr: np.ndarray,
    steps: np.ndarray,
    different: bool,
) -> None:
    """Raise where nearly all of the grid is gaps, or (``different``) a series has a coarser one."""
    counts, spans = np.diff(indptr), steps[indptr[1:] - 1] + 1
    sparse = spans > 1001 + 100 * counts
    if sparse.any():
        i = int(np.argmax(sparse))
        raise DataError(
            f"{owner}: {keys.label(series[i])}: {counts[i]} rows span {spans[i]} steps of the grid "
            f"{calendar!r}: pass freq= with the real interval of the data"
        )
    apart = np.append(np.diff(steps), 0)
    apart[indptr[1:] - 1] = np.iinfo(np.int64).max
    least = np.minimum.reduceat(apart, indptr[:-1])
    coarse = (least > 1) & (counts > 3)
    if different and coarse.any():
        i = int(np.argmax(coarse))
        raise DataError(
            f"{owner}: {keys.label(series[i])} has a row every {least[i]} steps or more of the "
            f"grid {calendar!r} that the longest series has: fit series of different frequencies "
            f"apart, or pass freq= to put them on one grid"
        )


def steps_of_rows(
    owner: str,
    calendar: Calendar,
    origins: pd.Index,
    place: np.ndarray,
    keys: Keys,
    rows: np.ndarray | slice,
) -> np.ndarray:
    """Steps of rows from the origin of their series, on a regular calendar; int64.

    ``place[k]`` is the position in ``origins`` of series ``keys.ids[k]``. All rows are checked, and
    the steps of ``rows`` returned. Where all stamps stand on one grid, only the distinct ones are
    counted.
    """
    assert keys.levels is not None
    series = np.zeros(keys.n_rows, dtype=np.int64) if keys.series is None else keys.series
    try:
        every = origins.append(keys.levels)
        steps = calendar.steps(every.min(), every)
    except OffGridError:
        try:
            return calendar.steps(origins.take(place[series]), keys.stamps(slice(None)))[rows]
        except OffGridError as error:
            who = keys.label(series[error.row])
            raise DataError(f"{owner}: {who}: {error}") from error
    begin, at = steps[: len(origins)], steps[len(origins) :]
    return at[rows if keys.codes is None else keys.codes[rows]] - begin[place[series[rows]]]


def constant_rows(
    owner: str, values: np.ndarray, layout: Layout, keys: Keys, columns: tuple[Column, ...]
) -> np.ndarray:
    """Static covariates of each series from those of its rows, shape (n_series, n_columns)."""
    if values.shape[1] == 0:
        return np.empty((len(layout.series), 0), dtype=np.float32)
    values = values if layout.order is None else values[layout.order]
    starts = offsets(layout.counts)[:-1]
    static = values[starts]
    same = (values == np.repeat(static, layout.counts, axis=0)) | np.isnan(values)
    # a category that fit did not see is missing, and no reason to refuse a series
    unknown = np.array([c.kind == "category" for c in columns if c.role == "static"], dtype=bool)
    bad = np.isnan(static) & ~unknown if len(unknown) else np.isnan(static)
    wrong = bad.any(axis=1) | ~np.logical_and.reduceat(same.all(axis=1), starts)
    if wrong.any():
        name = f" of {keys.label(int(layout.series[np.argmax(wrong)]))}"
        raise DataError(
            f"{owner}: a static column{name if keys.series is not None else ''} is missing or "
            f"changes over time: make it one of known="
        )
    return static
