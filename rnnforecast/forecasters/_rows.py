"""From the rows of X to (series, step), and back: the bookkeeping of ``BaseForecaster``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils.validation import _check_feature_names

from rnnforecast.data.building import build_panel
from rnnforecast.data.frames import Keys, Table, numeric, read_table, read_targets
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.roles import Roles, as_list, resolve_roles
from rnnforecast.exceptions import DataError

__all__ = [
    "Rows",
    "align_index",
    "append_rows",
    "check_columns",
    "check_each_series",
    "check_observed",
    "future_known",
    "named_like_fit",
    "read_fit",
    "truth_of",
    "without_default_index",
]


@dataclass(frozen=True)
class Rows:
    """The rows that a prediction was asked for.

    Attributes
    ----------
    series : ndarray of int, shape (n,)
    steps : ndarray of int, shape (n,)
        1 is the first step after the series' history; 0 and below lie in it.
    known : ndarray, shape (n, n_known)
    """

    series: np.ndarray
    steps: np.ndarray
    known: np.ndarray

    def future(self, panel: Panel) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Future rows laid out by series and step.

        Returns
        -------
        unique : ndarray of int, shape (s,)
            The series that have future rows.
        n_steps : int
        known : ndarray, shape (s, n_steps, n_known)
            NaN at steps without a row.
        place : ndarray of int, shape (n_future,)
            Position of each future row's series in ``unique``.
        """
        ahead = self.steps > 0
        unique, place = np.unique(self.series[ahead], return_inverse=True)
        n_steps = int(self.steps[ahead].max())
        _check_once(panel, place * n_steps + self.steps[ahead])
        known = np.full((len(unique), n_steps, self.known.shape[1]), np.nan)
        known[place, self.steps[ahead] - 1] = self.known[ahead]
        return unique, n_steps, known, place

    def fill(self, panel: Panel, future: Callable, in_sample: Callable) -> np.ndarray:
        """Values of every row, in the order of X, from the two kinds of prediction."""
        ahead = self.steps > 0
        out: np.ndarray | None = None
        if ahead.any():
            unique, n_steps, known, place = self.future(panel)
            values = future(unique, n_steps, known)
            chosen = values[place, self.steps[ahead] - 1]
            out = np.empty((len(ahead), *chosen.shape[1:]))
            out[ahead] = chosen
        if not ahead.all():
            back = ~ahead
            series = self.series[back]
            positions = panel.lengths[series] - 1 + self.steps[back]
            values = in_sample(series, positions, self.known[back])
            if out is None:
                out = np.empty((len(ahead), *values.shape[1:]))
            out[back] = values
        assert out is not None
        return out


def _check_once(panel: Panel, places: np.ndarray) -> None:
    """Raise if two rows are the same step; on a grid of its own, rows between two steps may be."""
    own_grid = panel.calendar is not None and panel.calendar.own_grid
    if not own_grid and len(np.unique(places)) < len(places):
        raise DataError(
            "X has two rows for the same time stamp of a series: drop the repeated rows"
        )


class Reading(NamedTuple):
    """The rows that a fit was given."""

    panel: Panel
    roles: Roles
    columns: list
    is_array: bool


def read_fit(forecaster: Any, X: Any, y: Any) -> Reading:
    """Read and check the rows of ``fit``; nothing but the column parameters is looked at.

    Raises
    ------
    DataError
        If the data cannot be used.
    """
    owner = type(forecaster).__name__
    table = read_table(owner, X, forecaster.series_id, forecaster.time)
    targets, names, keys = None, None, table.keys
    if y is not None:
        targets, names, index = read_targets(owner, y, len(table))
        keys = align_index(owner, table, index)
    roles = resolve_roles(
        owner, table, names, forecaster.target, forecaster.known, forecaster.static
    )
    if targets is None:
        targets = numeric(owner, table.frame, roles.targets)
    check_observed(owner, targets, roles.targets)
    panel = build_panel(
        owner,
        keys,
        targets,
        numeric(owner, table.frame, roles.past),
        numeric(owner, table.frame, roles.known),
        numeric(owner, table.frame, roles.static),
        forecaster.freq,
    )
    check_each_series(owner, panel, roles.targets)
    return Reading(panel, roles, list(table.columns), table.is_array)


def read_history(estimator: Any, rows: Any) -> Panel:
    """Rows of any series, with the columns of fit, as a panel of their own."""
    owner, roles = type(estimator).__name__, estimator.roles_
    table = read_table(owner, rows, estimator.series_id, estimator.time)
    wanted = [*roles.targets, *roles.past, *roles.known, *roles.static]
    missing = [name for name in wanted if name not in table.frame.columns]
    if missing:
        raise DataError(
            f"{owner}: column {missing[0]!r} is missing from history; the columns are "
            f"{table.columns}"
        )
    return build_panel(
        owner,
        table.keys,
        numeric(owner, table.frame, roles.targets),
        numeric(owner, table.frame, roles.past),
        numeric(owner, table.frame, roles.known),
        numeric(owner, table.frame, roles.static),
        estimator.freq,
    )


def align_index(owner: str, table: Table, y_index: pd.Index | None) -> Keys:
    """Keys of the rows, checked against the index of y, or taken from it where X is an array."""
    keys = table.keys
    if y_index is None:
        return keys
    if table.is_array:
        if isinstance(y_index, pd.MultiIndex) and keys.series is None:
            raise DataError(
                f"{owner}: y has a MultiIndex {tuple(y_index.names)}, but X is an array, so that "
                f"predict could not tell the series of its rows: keep X a frame (in a Pipeline "
                f"with set_output(transform='pandas') on the steps before)"
            )
        dates = isinstance(y_index, (pd.DatetimeIndex, pd.PeriodIndex))
        if dates and keys.series is None:
            return replace(keys, levels=y_index, names=(None, y_index.name))
        return keys
    if not y_index.equals(table.frame.index):
        raise DataError(
            f"{owner}: X and y have different indices: align them first, e.g. y = "
            f"y.reindex(X.index)"
        )
    return keys


def without_default_index(table: Table) -> Table:
    """Treat pandas' default index (0, 1, 2, ... by itself) as no index: the rows follow on, as an
    array's do.

    For the scikit-learn door only (y apart from X), where a frame without an index of its own must
    give what its array gives. A fold's RangeIndex that starts later, or an integer index, is a time
    axis.
    """
    levels = table.keys.levels
    plain = isinstance(levels, pd.RangeIndex) and levels.start == 0 and levels.step == 1
    if not plain or table.keys.codes is not None:
        return table
    return replace(table, keys=replace(table.keys, levels=None))


def check_observed(owner: str, targets: np.ndarray, names: list) -> None:
    """Raise if a target has no observed value at all."""
    empty = np.isnan(targets).all(axis=0)
    if empty.any():
        raise DataError(
            f"{owner}: target {names[int(np.argmax(empty))]!r} has no observed value (all NaN)"
        )


def check_each_series(owner: str, panel: Panel, names: list) -> None:
    """Raise if a target of one series of a panel has no observed value."""
    if panel.n_series == 1:
        return
    for i in range(panel.n_series):
        empty = np.isnan(panel.targets[panel.series(i)]).all(axis=0)
        if empty.any():
            raise DataError(
                f"{owner}: {panel.label(i)}: target {names[int(np.argmax(empty))]!r} has no "
                f"observed value "
                f"(all NaN): leave this series out"
            )


def named_like_fit(estimator: Any, table: Table) -> Table:
    """Give the columns of an array the names seen in fit, where their number agrees."""
    names = getattr(estimator, "feature_names_in_", None)
    if not table.is_array or names is None or table.frame.shape[1] != len(names):
        return table
    return replace(table, frame=table.frame.set_axis(list(names), axis=1), columns=list(names))


def check_columns(estimator: Any, table: Table, history: bool) -> Table:
    """Check the columns of X against those of fit.

    With y apart from X this is scikit-learn's own check (number, names and order), after target
    columns were dropped. Otherwise columns are found by name: the known ones must be there, and
    with ``history`` the target and past ones too; a column that fit did not see is an error.
    """
    owner, roles = type(estimator).__name__, estimator.roles_
    if roles.separate_y:
        return _check_features(estimator, table)
    table = named_like_fit(estimator, table)
    needed = [*roles.known, *(roles.targets + roles.past if history else [])]
    missing = [name for name in needed if name not in table.frame.columns]
    if table.is_array and table.frame.shape[1] != estimator.n_features_in_:
        raise DataError(
            f"X has {table.frame.shape[1]} features, but {owner} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
    if missing:
        kind = "known covariate" if missing[0] in roles.known else "column"
        raise DataError(
            f"{owner}: {kind} {missing[0]!r} is missing from X; the columns are {table.columns}"
        )
    every = {*roles.targets, *roles.known, *roles.past, *roles.static}
    strange = [name for name in table.frame.columns if name not in every]
    if strange:
        raise DataError(
            f"{owner}: column {strange[0]!r} was not in the data passed to fit, which had "
            f"{sorted(every, key=str)}: "
            f"drop it or fit again"
        )
    return table


def _check_features(estimator: Any, table: Table) -> Table:
    """The columns of X where y came apart from it: scikit-learn's check, targets left out."""
    owner = type(estimator).__name__
    fitted = list(getattr(estimator, "feature_names_in_", []))
    targets = set() if table.is_array else {*estimator.roles_.targets, *as_list(estimator.target)}
    columns = [name for name in table.columns if name not in targets]
    expected = [name for name in fitted if name not in targets]
    n_expected = len(expected) if fitted else estimator.n_features_in_
    if len(columns) != n_expected:
        raise DataError(
            f"X has {len(columns)} features, but {owner} is expecting {n_expected} features "
            f"as input"
        )
    if expected == fitted:
        shown = np.empty((1, 1)) if table.is_array else pd.DataFrame(columns=columns)
        _check_feature_names(estimator, shown, reset=False)
    missing = [] if table.is_array else [name for name in expected if name not in columns]
    if missing:
        raise DataError(
            f"{owner}: column {missing[0]!r} is missing from X; the columns are {table.columns}"
        )
    return named_like_fit(estimator, table)


def truth_of(estimator: Any, table: Table, y: Any) -> np.ndarray:
    """Truth of the rows of X, from y or the target columns: (n_rows,) or (n_rows, n_targets)."""
    owner, names = type(estimator).__name__, estimator.target_names_
    if y is None:
        frame = named_like_fit(estimator, table).frame
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise DataError(
                f"{owner}: score without y reads the truth from X, but column {missing[0]!r} is "
                f"not there"
            )
        values = numeric(owner, frame, names)
    else:
        values, _, _ = read_targets(owner, y, len(table))
    return values[:, 0] if values.shape[1] == 1 else values


def future_known(
    owner: str, panel: Panel, names: list, rows: Rows | None, n_steps: int
) -> np.ndarray:
    """Future covariates of every series for steps 1..n_steps, shape (n_series, n_steps, n_known).

    Raises
    ------
    DataError
        If X is None, or a step of a series has no row; the message names the first one.
    """
    if rows is None:
        raise DataError(
            f"{owner}: X must hold the future rows of the known covariates {names}. Got None"
        )
    known = np.full((panel.n_series, n_steps, len(names)), np.nan)
    given = np.zeros((panel.n_series, n_steps), dtype=bool)
    use = (rows.steps > 0) & (rows.steps <= n_steps)
    _check_once(panel, rows.series[use] * n_steps + rows.steps[use])
    known[rows.series[use], rows.steps[use] - 1] = rows.known[use]
    given[rows.series[use], rows.steps[use] - 1] = True
    if panel.calendar is not None and panel.calendar.own_grid:
        # a trading calendar's future holds holidays that have no row: only the end must be there
        given = np.maximum.accumulate(given[:, ::-1], axis=1)[:, ::-1]
    if not given.all():
        series, step = np.argwhere(~given)[0]
        stamp = panel.future_index(int(series), int(step) + 1)[-1]
        raise DataError(
            f"{owner}: {panel.label(int(series))}: the known covariates {names} have no row for "
            f"{stamp} (step {step + 1} of {n_steps}): pass X with {n_steps} future rows, or a "
            f"smaller horizon="
        )
    return known


def append_rows(owner: str, panel: Panel, roles: Roles, table: Table, y: Any) -> Panel:
    """The panel with the rows of ``table`` (and ``y``) after its own; gaps become NaN rows."""
    if roles.separate_y:
        if y is None:
            raise DataError(f"{owner}: update needs y, since fit was given y")
        targets, _, _ = read_targets(owner, y, len(table))
        if targets.shape[1] != len(roles.targets):
            raise DataError(
                f"{owner}: y has {targets.shape[1]} targets, fit had {len(roles.targets)}"
            )
    else:
        targets = numeric(owner, table.frame, roles.targets)
    new = [
        targets,
        numeric(owner, table.frame, roles.past),
        numeric(owner, table.frame, roles.known),
    ]
    series, steps = panel.locate(owner, table.keys)
    if (steps <= 0).any():
        row = int(np.flatnonzero(steps <= 0)[0])
        where = table.keys.stamps(np.array([row]))[0]  # rows of an array always follow on
        raise DataError(
            f"{owner}: row {where} is not after the cutoff of {panel.label(int(series[row]))}, "
            f"{panel.last(int(series[row]))}: pass new rows only"
        )
    own_grid = panel.calendar is not None and panel.calendar.own_grid
    groups = dict(group_rows(series))
    added = np.zeros(panel.n_series, dtype=np.int64)
    for i, rows in groups.items():
        if table.keys.has_time and not table.keys.stamps(rows).is_monotonic_increasing:
            raise DataError(f"{owner}: {panel.label(i)}: time stamps are not sorted")
        if len(np.unique(table.keys.stamps(rows) if table.keys.has_time else rows)) < len(rows):
            raise DataError(f"{owner}: {panel.label(i)}: a time stamp appears more than once")
        added[i] = len(rows) if own_grid else steps[rows[-1]]
    return _concatenate(panel, groups, steps, added, new, table, own_grid)


def _concatenate(
    panel: Panel,
    groups: dict[int, np.ndarray],
    steps: np.ndarray,
    added: np.ndarray,
    new: list[np.ndarray],
    table: Table,
    own_grid: bool,
) -> Panel:
    indptr = np.concatenate([[0], np.cumsum(panel.lengths + added)])
    old_arrays = [panel.targets, panel.past, panel.known]
    arrays = [
        # a float32 history takes float64 rows without rounding them
        np.full((int(indptr[-1]), old.shape[1]), np.nan, dtype=np.result_type(old, added_rows))
        for old, added_rows in zip(old_arrays, new, strict=True)
    ]
    absent = np.zeros(int(indptr[-1]), dtype=bool)
    stamps: list[pd.Index] = []
    for i in range(panel.n_series):
        start, n, old_rows = int(indptr[i]), int(panel.lengths[i]), panel.series(i)
        for array, old in zip(arrays, old_arrays, strict=True):
            array[start : start + n] = old[old_rows]
        if panel.absent is not None:
            absent[start : start + n] = panel.absent[old_rows]
        absent[start + n : int(indptr[i + 1])] = True
        if own_grid:
            stamps.append(panel.time_index(i))
        if i not in groups:
            continue
        rows = groups[i]
        offset = np.arange(len(rows)) if own_grid else steps[rows] - 1
        for array, values in zip(arrays, new, strict=True):
            array[start + n + offset] = values[rows]
        absent[start + n + offset] = False
        if own_grid:
            has_time = table.keys.has_time
            stamps.append(table.keys.stamps(rows) if has_time else panel.future_index(i, len(rows)))
    return replace(
        panel,
        targets=arrays[0],
        past=arrays[1],
        known=arrays[2],
        indptr=indptr.astype(np.int64),
        stamps=stamps[0].append(stamps[1:]) if own_grid else None,
        absent=absent if absent.any() else None,
    )
