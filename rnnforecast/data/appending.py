"""Rows added to a panel: of series that it has, and of new ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rnnforecast.data._stamps import numbers
from rnnforecast.data.calendar import OffGridError
from rnnforecast.data.frames import Table
from rnnforecast.data.grid import offsets
from rnnforecast.data.roles import read_columns
from rnnforecast.exceptions import DataError

if TYPE_CHECKING:
    from rnnforecast.data.panel import Panel

__all__ = ["append_arrays", "append_rows"]


def append_rows(panel: Panel, owner: str, table: Table, targets: np.ndarray | None) -> Panel:
    """What ``Panel.append`` gives."""
    new = panel.match(owner, table.keys) < 0
    keys = table.keys
    if panel.calendar is None or not keys.has_time:
        keys = keys.without_time()
    else:
        keys = panel.same_kind(owner, keys)
    if panel.calendar is not None and not keys.has_time and new.any():
        raise DataError(
            f"{owner}: {keys.label(int(np.argmax(new)))} is new, and its rows have no time stamps: "
            f"give X a MultiIndex (series, time), or name the column of time stamps with time="
        )
    if targets is None:
        targets = read_columns(owner, table.frame, panel.columns, "target")
    past = read_columns(owner, table.frame, panel.columns, "past")
    known = read_columns(owner, table.frame, panel.columns, "known")
    static = _static_rows(panel, owner, table, new)
    added = panel.build(
        owner, keys, targets, past, known, static, columns=panel.columns, calendar=panel.calendar
    )
    n_new = int(new.sum())
    slot = panel.ids.get_indexer(added.ids) if panel.is_panel else np.zeros(1, dtype=np.int64)
    old = slot >= 0
    slot[~old] = panel.n_series + np.arange(n_new)
    gaps = np.zeros(panel.n_series + n_new, dtype=np.int64)
    if added.starts is not None:
        gaps[slot[old]] = _gaps(panel, owner, added.starts[old], slot[old])
    return _joined(panel, added, slot, gaps)


def append_arrays(panel: Panel, targets: np.ndarray, past: np.ndarray, known: np.ndarray) -> Panel:
    """What ``Panel.grown`` gives."""
    n_rows, n = len(targets), panel.n_series
    flat = [
        part.transpose(1, 0, 2).reshape(n * n_rows, part.shape[2])
        for part in (targets, past, known)
    ]
    added = replace(
        panel,
        targets=flat[0],
        past=flat[1],
        known=flat[2],
        indptr=np.arange(n + 1) * n_rows,
        stamps=None,
        absent=None,
    )
    return _joined(panel, added, np.arange(n), np.zeros(n, dtype=np.int64))


def _static_rows(panel: Panel, owner: str, table: Table, new: np.ndarray) -> np.ndarray:
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
    try:
        steps = panel.calendar.steps(lasts, firsts)
    except OffGridError as error:
        raise DataError(f"{owner}: {panel.label(int(series[error.row]))}: {error}") from error
    bad = numbers(firsts) <= numbers(lasts)
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(
            f"{owner}: row {firsts[k]} is not after the cutoff of {panel.label(int(series[k]))}, "
            f"{lasts[k]}: pass new rows only"
        )
    return np.zeros_like(steps) if panel.stamps is not None else steps - 1


def _joined(panel: Panel, added: Panel, slot: np.ndarray, gaps: np.ndarray) -> Panel:
    """Old rows, gaps and new rows; series i of ``added`` is series ``slot[i]`` of the result."""
    n = panel.n_series
    before = np.zeros(len(gaps), dtype=np.int64)
    before[:n] = panel.lengths
    lengths = before + gaps
    lengths[slot] += added.lengths
    indptr = offsets(lengths)
    ahead = np.repeat((indptr[:-1] + before + gaps)[slot] - added.indptr[:-1], added.lengths)
    fresh = np.arange(len(ahead)) + ahead
    kept = np.arange(int(panel.indptr[-1]))
    kept += np.repeat(indptr[:n] - panel.indptr[:-1], panel.lengths)
    arrays = []
    for name in ("targets", "past", "known"):
        old, new = getattr(panel, name), getattr(added, name)
        # a float32 history takes float64 rows without rounding them
        whole = np.full((int(indptr[-1]), old.shape[1]), np.nan, np.result_type(old, new))
        whole[kept], whole[fresh] = old, new
        arrays.append(whole)
    absent = np.ones(int(indptr[-1]), dtype=bool)
    absent[kept] = False if panel.absent is None else panel.absent
    absent[fresh] = False if added.absent is None else added.absent
    stamps, starts, ids, static = panel.stamps, panel.starts, panel.ids, panel.static
    if stamps is not None:
        later = added.stamps
        if later is None:  # rows without time stamps follow on
            positions = fresh - np.repeat(indptr[slot], added.lengths)
            later = panel.stamps_at(np.repeat(slot, added.lengths), positions)
        both = stamps.append(later.as_unit(stamps.unit)).rename(stamps.name)
        source = np.empty(len(both), dtype=np.int64)
        source[kept], source[fresh] = np.arange(len(kept)), len(kept) + np.arange(len(fresh))
        stamps = both.take(source)
    if len(gaps) > n:
        new = slot >= n
        ids = ids.append(added.ids[new])
        static = np.concatenate([static, added.static[new]])
        if starts is not None and added.starts is not None:
            later = added.starts[new]
            later = later.as_unit(starts.unit) if isinstance(later, pd.DatetimeIndex) else later
            starts = starts.append(later).rename(starts.name)
    return replace(
        panel,
        targets=arrays[0],
        past=arrays[1],
        known=arrays[2],
        static=static,
        indptr=indptr,
        ids=ids,
        starts=starts,
        stamps=stamps,
        absent=absent if absent.any() else None,
    )
