"""Building a panel: rows sorted by series and put on the grid of their calendar."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data.calendar import Calendar, infer_calendar
from rnnforecast.data.frames import Keys
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.exceptions import DataError

__all__ = ["build_panel"]

_Rows = slice | np.ndarray


def build_panel(
    owner: str,
    keys: Keys,
    targets: np.ndarray,
    past: np.ndarray,
    known: np.ndarray,
    static_rows: np.ndarray,
    freq: Any = None,
) -> Panel:
    """Put rows on the grid of their calendar.

    Parameters
    ----------
    owner : str
        Name of the estimator, for messages.
    keys : Keys
        Series and stamp of each row.
    targets, past, known, static_rows : ndarray, shape (n_rows, n_columns)
        ``static_rows`` must be constant within each series.
    freq : str, DateOffset or int, optional
        Frequency; inferred from the longest series if None.

    Returns
    -------
    Panel
        Views of the arrays passed, where no row had to move.

    Raises
    ------
    DataError
        If stamps are unsorted, repeated or off the grid, or a static column varies within a series.
    """
    groups = _groups(keys)
    lengths = np.array([_size(rows) for _, rows in groups])
    first = np.array([_first(rows) for _, rows in groups])
    ids = keys.ids[[code for code, _ in groups]]
    arrays = [targets, past, known]
    calendar = stamps = starts = absent = None
    in_order = bool((first == np.concatenate([[0], np.cumsum(lengths)[:-1]])).all())
    moved = not (in_order and all(isinstance(rows, slice) for _, rows in groups))
    if keys.has_time:
        for code, rows in groups:
            _check_sorted(owner, keys.stamps(rows), keys, code)
        calendar = infer_calendar(keys.stamps(groups[int(np.argmax(lengths))][1]), freq)
        inferred = freq is None and len(groups) > 1
        starts = keys.stamps(first)
        if calendar.own_grid:
            stamps = keys.stamps(_order(groups) if moved else slice(None))
        else:
            spans = np.array([_span(owner, calendar, keys, group, inferred) for group in groups])
            if (spans != lengths).any():
                places = [_places(owner, calendar, keys, *group) for group in groups]
                arrays, absent = _spread(arrays, groups, places, spans)
                lengths, moved = spans, False
    static = _static(owner, static_rows, groups, keys)
    if moved:
        order = _order(groups)
        arrays = [array[order] for array in arrays]
    return Panel(
        targets=arrays[0],
        past=arrays[1],
        known=arrays[2],
        static=static,
        indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=ids,
        names=keys.names,
        is_panel=keys.series is not None,
        calendar=calendar,
        starts=starts,
        stamps=stamps,
        absent=absent,
    )


_Group = tuple[int, _Rows]  # code of a series, and its rows in order


def _groups(keys: Keys) -> list[_Group]:
    """Rows of each series in order of appearance; slices where a series' rows stand together."""
    if keys.series is None:
        return [(0, slice(0, keys.n_rows))]
    codes = keys.series
    cuts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1, [len(codes)]])
    if len(cuts) - 1 == len(keys.ids):
        together = pairwise(cuts)
        return [(int(codes[start]), slice(int(start), int(end))) for start, end in together]
    return [*sorted(group_rows(codes), key=lambda group: group[1][0])]


def _size(rows: _Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _first(rows: _Rows) -> int:
    return rows.start if isinstance(rows, slice) else int(rows[0])


def _order(groups: list[_Group]) -> np.ndarray:
    """All rows, series by series."""
    return np.concatenate([np.r_[rows] if isinstance(rows, slice) else rows for _, rows in groups])


def _check_sorted(owner: str, stamps: pd.Index, keys: Keys, code: int) -> None:
    if stamps.is_monotonic_increasing and stamps.is_unique:
        return
    who = f"{keys.label(code)}: " if keys.series is not None else ""
    if stamps.has_duplicates:
        raise DataError(
            f"{owner}: {who}time stamp {stamps[stamps.duplicated()][0]} appears more than once: "
            f"aggregate or "
            f"drop the repeated rows; rows of several series need series_id= or a MultiIndex "
            f"(series, time)"
        )
    raise DataError(
        f"{owner}: {who}time stamps are not sorted: call sort_index() first. If a splitter "
        f"shuffled the rows, use TimeSeriesSplit (or PanelTimeSeriesSplit), or shuffle=False"
    )


def _span(owner: str, calendar: Calendar, keys: Keys, group: _Group, inferred: bool) -> int:
    """Steps from a series' first row to its last; refuses one that is coarser than the grid."""
    places = _places(owner, calendar, keys, *group)
    apart = int(np.diff(places).min()) if len(places) > 3 else 1
    if inferred and apart > 1:
        raise DataError(
            f"{owner}: {keys.label(group[0])} has a row every {apart} steps or more "
            f"of the grid {calendar!r} that the longest series has: fit series of different "
            f"frequencies apart, or pass freq= to put them on one grid"
        )
    return int(places[-1]) + 1


def _places(owner: str, calendar: Calendar, keys: Keys, code: int, rows: _Rows) -> np.ndarray:
    stamps = keys.stamps(rows)
    try:
        places = calendar.steps(stamps[0], stamps)
    except DataError as error:
        who = f"{keys.label(code)}: " if keys.series is not None else ""
        raise DataError(f"{owner}: {who}{error}") from error
    if places[-1] > 1000 + 100 * len(places):
        raise DataError(
            f"{owner}: {len(places)} rows span {places[-1] + 1} steps of the grid {calendar!r}: "
            f"pass freq= with "
            f"the real interval of the data"
        )
    return places


def _spread(arrays: list, groups: list, places: list, spans: np.ndarray) -> tuple[list, np.ndarray]:
    """Rows at their places on the grid, NaN in the gaps."""
    offsets = np.concatenate([[0], np.cumsum(spans)])
    where = np.concatenate([place + a for place, a in zip(places, offsets[:-1], strict=True)])
    order = _order(groups)
    spread = []
    for array in arrays:
        full = np.full((int(offsets[-1]), array.shape[1]), np.nan, dtype=array.dtype)
        full[where] = array[order]
        spread.append(full)
    absent = np.ones(int(offsets[-1]), dtype=bool)
    absent[where] = False
    return spread, absent


def _static(owner: str, rows_values: np.ndarray, groups: list, keys: Keys) -> np.ndarray:
    if rows_values.shape[1] == 0:
        return np.empty((len(groups), 0), dtype=np.float32)
    static = np.empty((len(groups), rows_values.shape[1]), dtype=rows_values.dtype)
    for place, (code, rows) in enumerate(groups):
        values = rows_values[rows]
        if not ((values == values[0]) | np.isnan(values)).all() or np.isnan(values[0]).any():
            name = f" of {keys.label(code)}" if keys.series is not None else ""
            raise DataError(
                f"{owner}: a static column{name} is missing or changes over time: make it one of "
                f"known="
            )
        static[place] = values[0]
    return static
