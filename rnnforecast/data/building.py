"""Rows of an input on the grid of their calendar, series by series, or after those of a panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rnnforecast.data._stamps import numbers
from rnnforecast.data.calendar import Calendar, OffGridError, infer_calendar
from rnnforecast.data.frames import Keys, Table, rows_where
from rnnforecast.data.roles import Column, read_columns
from rnnforecast.exceptions import DataError

if TYPE_CHECKING:
    from rnnforecast.data.panel import Panel

__all__ = ["append", "build", "grown", "steps_of_rows"]

Who = Callable[[int], str]  # how a message begins, for a series of the panel to be


def build(
    cls: type[Panel],
    owner: str,
    keys: Keys,
    targets: np.ndarray,
    past: np.ndarray,
    known: np.ndarray,
    static_rows: np.ndarray,
    freq: Any = None,
    columns: tuple[Column, ...] = (),
    calendar: Calendar | None = None,
) -> Panel:
    """Put the rows of an input, (n_rows, n_columns) each, on the grid of their calendar.

    The calendar is inferred from the longest series, with ``freq`` if given, or it is that of
    an earlier fit. ``static_rows`` must be constant within each series. Arrays are not copied
    where no row moves. Stamps that are unsorted, repeated or off the grid are refused.
    """
    series, indptr = keys.series, np.array([0, keys.n_rows])
    if series is not None:
        cuts = rows_where(np.not_equal, series)
        if len(cuts) >= len(keys.ids):  # a series stands in several pieces
            order = np.argsort(np.argsort(pd.unique(series))[series], kind="stable")
            keys, series, static_rows = keys.take(order), series[order], static_rows[order]
            targets, past, known = targets[order], past[order], known[order]
            cuts = rows_where(np.not_equal, series)
        indptr = np.concatenate([[0], cuts, [keys.n_rows]])
    series = np.zeros(1, dtype=np.int64) if series is None else series[indptr[:-1]].astype(np.int64)
    counts, grid = np.diff(indptr), indptr

    def who(i: int) -> str:
        return f"{owner}: {keys.label(series[i])}"

    starts = stamps = places = absent = None
    if keys.levels is None:
        calendar = None
    else:
        _check_sorted(who, keys, indptr)
        starts = keys.stamps(indptr[:-1])
        inferred = calendar is None
        compare = inferred and freq is None and len(series) > 1
        if calendar is None:
            longest = int(np.argmax(counts))
            calendar = infer_calendar(keys.stamps(slice(*indptr[longest : longest + 2])), freq)
        if calendar.own_grid:
            stamps = keys.stamps(slice(None))
        else:
            place, last = np.argsort(series), indptr[1:] - 1
            spans = steps_of_rows(owner, calendar, starts, place, keys, last) + 1
            if (spans != counts).any():
                steps = steps_of_rows(owner, calendar, starts, place, keys, slice(None))
                if inferred:
                    _check_spans(who, calendar, indptr, steps, compare)
                grid = _offsets(spans)
                places = steps + np.repeat(grid[:-1], counts)
                absent = np.ones(int(grid[-1]), dtype=bool)
                absent[places] = False

    def on_grid(values: np.ndarray) -> np.ndarray:
        if places is None:
            return values
        full = np.full((int(grid[-1]), values.shape[1]), np.nan, dtype=values.dtype)
        full[places] = values
        return full

    static = _constants(who, static_rows, indptr, columns)
    ids = keys.ids if (series == np.arange(len(keys.ids))).all() else keys.ids[series]
    arrays = on_grid(targets), on_grid(past), on_grid(known), static, grid
    named = ids, keys.names, keys.series is not None
    return cls(*arrays, *named, calendar, starts, stamps, absent, columns)


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Where groups of so many rows begin, and the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _check_sorted(who: Who, keys: Keys, indptr: np.ndarray) -> None:
    """Raise unless stamps rise within each series."""
    ranks = keys.ranks()
    bad = rows_where(np.less_equal, ranks)
    bad = bad[indptr[np.searchsorted(indptr, bad)] != bad]  # within a series
    if not len(bad):
        return
    i = int(np.searchsorted(indptr, bad[0], side="right")) - 1
    own = ranks[indptr[i] : indptr[i + 1]]
    repeated = pd.Series(own).duplicated()
    if repeated.any():
        row = indptr[i] + np.argmax(repeated)
        raise DataError(
            f"{who(i)}: time stamp {keys.stamps([row])[0]} appears more than once: aggregate or "
            f"drop the repeated rows; rows of several series need series_id= or a MultiIndex "
            f"(series, time)"
        )
    raise DataError(
        f"{who(i)}: time stamps are not sorted: call sort_index() first. If a splitter shuffled "
        f"the rows, use TimeSeriesSplit (or PanelTimeSeriesSplit), or shuffle=False"
    )


def _check_spans(
    who: Who, calendar: Calendar, indptr: np.ndarray, steps: np.ndarray, compare: bool
) -> None:
    """Raise where nearly all of the grid is gaps, or (``compare``) a series has a coarser one."""
    counts, spans = np.diff(indptr), steps[indptr[1:] - 1] + 1
    sparse = spans > 1001 + 100 * counts
    if sparse.any():
        i = int(np.argmax(sparse))
        raise DataError(
            f"{who(i)}: {counts[i]} rows span {spans[i]} steps of the grid {calendar!r}: pass "
            f"freq= with the real interval of the data"
        )
    apart = np.append(np.diff(steps), 0)
    apart[indptr[1:] - 1] = np.iinfo(np.int64).max
    least = np.minimum.reduceat(apart, indptr[:-1])
    coarse = (least > 1) & (counts > 3)
    if compare and coarse.any():
        i = int(np.argmax(coarse))
        raise DataError(
            f"{who(i)} has a row every {least[i]} steps or more of the grid {calendar!r} that the "
            f"longest series has: fit series of different frequencies apart, or pass freq= to put "
            f"them on one grid"
        )


def steps_of_rows(
    owner: str, calendar: Calendar, origins: pd.Index, place: np.ndarray, keys: Keys, rows: Any
) -> np.ndarray:
    """Steps of rows from ``origins[place[k]]``, that of series k, on a regular calendar; all rows
    are checked. Where all stamps stand on one grid, only the distinct ones are counted.
    """
    assert keys.levels is not None
    try:
        if keys.series is None or keys.codes is None:
            return calendar.steps(origins[0], keys.levels)[rows]
        try:
            every = origins.append(keys.levels)
            steps = calendar.steps(every.min(), every)
        except OffGridError:
            starts = origins.take(place[keys.series])
            return calendar.steps(starts, keys.stamps(slice(None)))[rows]
    except OffGridError as error:
        who = keys.label(0 if keys.series is None else keys.series[error.row])
        raise DataError(f"{owner}: {who}: {error}") from error
    begin, at = steps[: len(origins)], steps[len(origins) :]
    return at[keys.codes[rows]] - begin[place[keys.series[rows]]]


def _constants(who: Who, values: np.ndarray, indptr: np.ndarray, columns: tuple) -> np.ndarray:
    """Static covariates of each series from those of its rows, shape (n_series, n_columns)."""
    static = values[indptr[:-1]]
    if not static.size:
        return static
    same = (values == np.repeat(static, np.diff(indptr), axis=0)) | np.isnan(values)
    missing = np.isnan(static)
    # a category that fit did not see is missing, and no reason to refuse a series
    missing[:, [c.kind == "category" for c in columns if c.role == "static"] or slice(0)] = False
    wrong = missing.any(axis=1) | ~np.logical_and.reduceat(same.all(axis=1), indptr[:-1])
    if wrong.any():
        raise DataError(
            f"{who(int(np.argmax(wrong)))}: a static column is missing or changes over time: make "
            f"it one of known="
        )
    return static


# -- after the rows of a panel ---------------------------------------------------------------------


def append(panel: Panel, owner: str, table: Table, targets: np.ndarray | None = None) -> Panel:
    """The panel with the rows of ``table`` after its own; new series stand after the old ones.

    Rows of old series come after their last one, with NaN rows between where steps are left
    out; rows without time stamps follow on. ``table`` has the columns of this panel (static
    ones are looked at for new series only), but not the targets where these are given, of shape
    (n_rows, n_targets).
    """
    keys, new = table.keys, panel.match(owner, table.keys) < 0
    timed = panel.calendar is not None and keys.has_time
    keys = panel.same_kind(owner, keys) if timed else keys.without_time()
    if panel.calendar is not None and not keys.has_time and new.any():
        raise DataError(
            f"{owner}: {keys.label(int(np.argmax(new)))} is new, and its rows have no time stamps: "
            f"give X a MultiIndex (series, time), or name the column of time stamps with time="
        )
    columns = panel.columns
    if targets is None:
        targets = read_columns(owner, table.frame, columns, "target")
    past, known = (read_columns(owner, table.frame, columns, role) for role in ("past", "known"))
    arrays = targets, past, known, _static_of_new(panel, owner, table, new)
    added = panel.build(owner, keys, *arrays, columns=columns, calendar=panel.calendar)
    slot = panel.ids.get_indexer(added.ids) if panel.is_panel else np.zeros(1, dtype=np.int64)
    old, n_new = slot >= 0, int(new.sum())
    slot[~old] = panel.n_series + np.arange(n_new)
    gaps = np.zeros(panel.n_series + n_new, dtype=np.int64)
    if added.starts is not None:
        gaps[slot[old]] = _gaps(panel, owner, added.starts[old], slot[old])
    return _joined(panel, added, slot, gaps)


def grown(panel: Panel, targets: np.ndarray, past: np.ndarray, known: np.ndarray) -> Panel:
    """The panel with the next rows of every series, (n_rows, n_series, n_columns) each."""
    n_rows, n = len(targets), panel.n_series
    new: dict[str, Any] = {
        name: part.transpose(1, 0, 2).reshape(n * n_rows, part.shape[2])
        for name, part in (("targets", targets), ("past", past), ("known", known))
    }
    added = replace(panel, **new, indptr=np.arange(n + 1) * n_rows, stamps=None, absent=None)
    return _joined(panel, added, np.arange(n), np.zeros(n, dtype=np.int64))


def _static_of_new(panel: Panel, owner: str, table: Table, new: np.ndarray) -> np.ndarray:
    """Static columns of the rows of new series; those of the others are not looked at."""
    names = [column.name for column in panel.columns if column.role == "static"]
    if not names or not new.any():
        return np.zeros((len(table), panel.static.shape[1]), dtype=np.float32)
    lacking = [name for name in names if name not in table.frame.columns]
    if lacking:
        raise DataError(
            f"{owner}: static column {lacking[0]!r} is missing from X, and "
            f"{table.keys.label(int(np.argmax(new)))} is new: pass its static columns"
        )
    values = read_columns(owner, table.frame, panel.columns, "static")
    return np.where(new[table.keys.series][:, None], values, values.dtype.type(0))


def _gaps(panel: Panel, owner: str, firsts: pd.Index, series: np.ndarray) -> np.ndarray:
    """Steps left out between the last row of a series and the first new one."""
    assert panel.calendar is not None
    lasts = panel.lasts()[series]
    bad = numbers(firsts) <= numbers(lasts)
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(
            f"{owner}: row {firsts[k]} is not after the cutoff of {panel.label(int(series[k]))}, "
            f"{lasts[k]}: pass new rows only"
        )
    if panel.calendar.own_grid:
        return np.zeros(len(series), dtype=np.int64)
    try:
        return panel.calendar.steps(lasts, firsts) - 1
    except OffGridError as error:
        raise DataError(f"{owner}: {panel.label(int(series[error.row]))}: {error}") from error


def _joined(panel: Panel, added: Panel, slot: np.ndarray, gaps: np.ndarray) -> Panel:
    """Old rows, gaps and new rows; series i of ``added`` is series ``slot[i]`` of the result."""
    n = panel.n_series
    before = np.append(panel.lengths, np.zeros(len(gaps) - n, dtype=np.int64)) + gaps
    lengths = before.copy()
    lengths[slot] += added.lengths
    indptr = _offsets(lengths)
    kept = np.repeat(indptr[:n] - panel.indptr[:-1], panel.lengths)
    kept += np.arange(len(kept))
    fresh = np.repeat((indptr[:-1] + before)[slot] - added.indptr[:-1], added.lengths)
    fresh += np.arange(len(fresh))

    def join(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        # a float32 history takes float64 rows without rounding them
        whole = np.full((int(indptr[-1]), old.shape[1]), np.nan, np.result_type(old, new))
        whole[kept], whole[fresh] = old, new
        return whole

    absent = np.ones(int(indptr[-1]), dtype=bool)
    absent[kept] = False if panel.absent is None else panel.absent
    absent[fresh] = False if added.absent is None else added.absent
    ids, static, starts, stamps = panel.ids, panel.static, panel.starts, panel.stamps
    if stamps is not None:
        later = added.stamps
        if later is None:  # rows without time stamps follow on
            series = np.repeat(slot, added.lengths)
            later = panel.stamps_at(series, fresh - indptr[series])
        source = np.empty(int(indptr[-1]), dtype=np.int64)
        source[np.concatenate([kept, fresh])] = np.arange(len(source))
        stamps = stamps.append(panel.as_given(later)).rename(stamps.name).take(source)
    new = slot >= n
    if new.any():
        ids, static = ids.append(added.ids[new]), np.concatenate([static, added.static[new]])
        if starts is not None and added.starts is not None:
            starts = starts.append(panel.as_given(added.starts[new])).rename(starts.name)
    return replace(
        panel,
        targets=join(panel.targets, added.targets),
        past=join(panel.past, added.past),
        known=join(panel.known, added.known),
        static=static,
        indptr=indptr,
        ids=ids,
        starts=starts,
        stamps=stamps,
        absent=absent if absent.any() else None,
    )
