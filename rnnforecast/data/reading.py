"""What users pass to a forecaster, read and checked against the columns of fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils.validation import _check_feature_names

from rnnforecast.data.frames import Keys, Table, is_default, numeric, read_table, read_targets
from rnnforecast.data.panel import Panel
from rnnforecast.data.roles import Roles, as_list, columns_of, read_columns, resolve_roles
from rnnforecast.exceptions import DataError

__all__ = [
    "Reading",
    "Rows",
    "future_known",
    "laid_out",
    "read_fit",
    "read_history",
    "read_rows",
    "read_truth",
    "targets_of",
]


class Reading(NamedTuple):
    """The rows that a fit was given; ``columns`` are the names of all columns of X."""

    panel: Panel
    roles: Roles
    columns: list
    is_array: bool


def read_fit(
    owner: str,
    X: Any,
    y: Any = None,
    *,
    target: Any = None,
    known: Any = None,
    static: Any = None,
    series_id: Any = None,
    time: Any = None,
    freq: Any = None,
) -> Reading:
    """Read and check the rows of ``fit``; the parameters are those of every forecaster."""
    table = read_table(owner, X, series_id, time)
    targets, names, keys = None, None, table.keys
    if y is not None:
        targets, names, index = read_targets(owner, y, len(table))
        keys = _aligned(owner, table, index)
    roles = resolve_roles(owner, table, names, target, known, static)
    panel = _panel(owner, table, keys, targets, columns_of(table.frame, roles), freq=freq)
    return Reading(panel, roles, list(table.columns), table.is_array)


def read_history(owner: str, table: Table, y: Any, roles: Roles, fitted: Panel) -> Panel:
    """A panel of its own from rows like those of fit, of any series, on the fitted calendar."""
    keys, calendar = table.keys, fitted.calendar
    if calendar is not None and not keys.has_time:
        raise DataError(
            f"{owner}: history has no time stamps, and the rows of fit had {fitted.lasts().dtype}: "
            f"give it such an index, or the column of time="
        )
    if keys.has_time and calendar is not None:
        keys = fitted.same_kind(owner, keys)
    targets = targets_of(owner, table, y, roles)
    return _panel(owner, table, keys, targets, fitted.columns, calendar=calendar)


def _panel(
    owner: str, table: Table, keys: Keys, targets: np.ndarray | None, columns: tuple, **grid: Any
) -> Panel:
    """The panel of a table, each target of each series observed."""
    names = [column.name for column in columns if column.role == "target"]
    if targets is None:
        targets = read_columns(owner, table.frame, columns, "target")
    past, known, static = (
        read_columns(owner, table.frame, columns, role) for role in ("past", "known", "static")
    )
    panel = Panel.build(owner, keys, targets, past, known, static, columns=columns, **grid)
    unseen = ~panel.observed(np.zeros_like(panel.lengths), panel.lengths)
    if unseen.any():
        i, k = np.argwhere(unseen)[0]
        everywhere = unseen[:, k].all()
        where = "" if everywhere else f"{panel.label(int(i))}: "
        raise DataError(
            f"{owner}: {where}target {names[k]!r} has no observed value (all NaN)"
            + ("" if everywhere else ": leave this series out")
        )
    return panel


def targets_of(owner: str, table: Table, y: Any, roles: Roles) -> np.ndarray | None:
    """Targets of later rows from y, where fit had it apart from X; None if they are in X."""
    if not roles.separate_y:
        return None
    if y is None:
        raise DataError(f"{owner}: update needs y, since fit was given y")
    targets, _, _ = read_targets(owner, y, len(table))
    if targets.shape[1] != len(roles.targets):
        raise DataError(f"{owner}: y has {targets.shape[1]} targets, fit had {len(roles.targets)}")
    return targets


def _aligned(owner: str, table: Table, y_index: pd.Index | None) -> Keys:
    """Keys of the rows, checked against the index of y, or taken from it where X is an array."""
    keys = table.keys
    if y_index is None:
        return keys
    if table.is_array:
        if keys.series is not None:
            return keys
        if isinstance(y_index, pd.MultiIndex):
            raise DataError(
                f"{owner}: y has a MultiIndex {tuple(y_index.names)}, but X is an array, so that "
                f"predict could not tell the series of its rows: keep X a frame (in a Pipeline "
                f"with set_output(transform='pandas') on the steps before)"
            )
        dates = isinstance(y_index, (pd.DatetimeIndex, pd.PeriodIndex))
        return replace(keys, levels=y_index, names=(None, y_index.name)) if dates else keys
    if not y_index.equals(table.frame.index):
        how = "align them first, e.g. y = y.reindex(X.index)"
        raise DataError(f"{owner}: X and y have different indices: {how}")
    return keys


# -- rows after fit --------------------------------------------------------------------------------


def read_rows(forecaster: Any, X: Any, needs: tuple[str, ...] = ("known",)) -> Table:
    """Read rows that come after the fit of a forecaster, and check their columns against it.

    Where X holds the targets, it must have the columns of the roles ``needs``, and none that fit
    did not see; where y came beside it, the check of its columns is scikit-learn's.
    """
    owner, roles = type(forecaster).__name__, forecaster.roles_
    names = getattr(forecaster, "feature_names_in_", None)
    index_only = needs == ("known",) and not roles.known  # time stamps say all there is to say
    table = read_table(owner, X, forecaster.series_id, forecaster.time, index_only)
    # where y came beside X, targets in it are left out before anything else
    targets = set()
    if roles.separate_y and not table.is_array:
        targets = {*roles.targets, *as_list(forecaster.target)}
    columns = [name for name in table.columns if name not in targets]
    fitted = [] if names is None else list(names)
    expected = [name for name in fitted if name not in targets]
    n, m = len(columns), len(expected) if fitted else forecaster.n_features_in_
    if (roles.separate_y or table.is_array) and n != m:  # as scikit-learn says it
        raise DataError(f"X has {n} features, but {owner} is expecting {m} features as input")
    if roles.separate_y:
        if expected == fitted:
            frame = np.empty((1, 1)) if table.is_array else pd.DataFrame(columns=columns)
            _check_feature_names(forecaster, frame, reset=False)
        if is_default(table.keys.levels) and table.keys.codes is None:
            # a frame without an index of its own must give what its array gives; a fold's
            # RangeIndex that starts later, or an integer index, is a time axis
            table = replace(table, keys=table.keys.without_time())
        wanted = [] if table.is_array else [("static", name) for name in expected]
    else:
        wanted = [(role, name) for role in needs for name in getattr(roles, role)]
    table = _named_like_fit(table, names)
    missing = [(role, name) for role, name in wanted if name not in table.columns]
    if missing:
        kind = "known covariate" if missing[0][0] == "known" else "column"
        raise DataError(
            f"{owner}: {kind} {missing[0][1]!r} is missing from X; the columns are {table.columns}"
        )
    every = {*roles.targets, *roles.known, *roles.past, *roles.static}
    strange = [name for name in table.frame.columns if name not in every]
    if strange and not roles.separate_y:
        raise DataError(
            f"{owner}: column {strange[0]!r} was not in the data passed to fit, which had "
            f"{sorted(every, key=str)}: drop it or fit again"
        )
    return table


def _named_like_fit(table: Table, names: Any) -> Table:
    """Give the columns of an array the names seen in fit, where their number agrees."""
    if not table.is_array or names is None or table.frame.shape[1] != len(names):
        return table
    return replace(table, frame=table.frame.set_axis(list(names), axis=1), columns=list(names))


def read_truth(
    owner: str, X: Any, y: Any, target_names: list, names: Any, **keys: Any
) -> np.ndarray:
    """Truth of the rows of X, from y or the target columns: (n_rows,) or (n_rows, n_targets)."""
    table = read_table(owner, X, **keys)
    if y is None:
        frame = _named_like_fit(table, names).frame
        missing = [name for name in target_names if name not in frame.columns]
        if missing:
            raise DataError(
                f"{owner}: score without y reads the truth from X, but column {missing[0]!r} is "
                f"not there"
            )
        values = numeric(owner, frame, target_names)
    else:
        values, _, _ = read_targets(owner, y, len(table))
    return values[:, 0] if values.shape[1] == 1 else values


# -- rows to forecast ------------------------------------------------------------------------------


class Rows(NamedTuple):
    """The rows that a prediction was asked for."""

    series: np.ndarray  # (n,)
    steps: np.ndarray  # (n,); 1 is the first after the series' history, 0 and below lie in it
    known: np.ndarray  # (n, n_known)


def laid_out(
    panel: Panel, place: np.ndarray, rows: Rows, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Covariates of future rows by place and step, (*shape, n_known), and where there is a row."""
    known = np.full((*shape, rows.known.shape[1]), np.nan)
    given = np.zeros(shape, dtype=bool)
    known[place, rows.steps - 1], given[place, rows.steps - 1] = rows.known, True
    own_grid = panel.calendar is not None and panel.calendar.own_grid
    # on a grid of its own, rows between two steps may be the same step
    if not own_grid and given.sum() < len(place):
        raise DataError(
            "X has two rows for the same time stamp of a series: drop the repeated rows"
        )
    return known, given


def future_known(
    owner: str, panel: Panel, names: list, rows: Rows | None, n_steps: int
) -> np.ndarray:
    """Future covariates of every series for steps 1..n_steps, (n_series, n_steps, n_known)."""
    if rows is None:
        raise DataError(
            f"{owner}: X must hold the future rows of the known covariates {names}. Got None"
        )
    use = (rows.steps > 0) & (rows.steps <= n_steps)
    rows = Rows(*(part[use] for part in rows))
    known, given = laid_out(panel, rows.series, rows, (panel.n_series, n_steps))
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
