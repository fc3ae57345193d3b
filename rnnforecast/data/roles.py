"""Which column plays which part (target, known-future, past-only or static covariate), and what it
holds: numbers or categories.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data.frames import Table, holds_numbers, numeric
from rnnforecast.exceptions import DataError

__all__ = ["Column", "Roles", "as_list", "columns_of", "read_columns", "resolve_roles"]

_WORDS = ("string", "categorical")  # as pandas names them
_CATEGORIES = (*_WORDS, "mixed", "mixed-integer")


@dataclass(frozen=True)
class Column:
    """One column of a panel. A category that is missing, or that fit did not see, is NaN."""

    name: Any
    role: str  # target, past, known or static
    kind: str = "number"  # or category
    categories: tuple = ()  # what the codes 0, 1, 2, ... stand for


@dataclass(frozen=True)
class Roles:
    """Column names by role, as resolved from the data in ``fit``."""

    targets: list
    known: list
    past: list
    static: list
    separate_y: bool  # the targets came as ``y``, not in ``X``

    def __str__(self) -> str:
        named = {"target": self.targets, "known": self.known, "past": self.past}
        named["static"] = self.static
        return ", ".join(f"{role}={names}" for role, names in named.items() if names)


def as_list(names: Any) -> list:
    """One name or several as a list; None as the empty list."""
    if names is None:
        return []
    if isinstance(names, np.ndarray):
        return names.ravel().tolist()  # Python's own strings and integers
    return list(names) if isinstance(names, (list, tuple, set, pd.Index)) else [names]


def resolve_roles(
    owner: str, table: Table, y_names: list | None, target: Any, known: Any, static: Any
) -> Roles:
    """Give every column of ``table`` its role.

    With ``y_names`` every column but the static ones is known in the future, and columns named by
    ``target`` are left out. Without, ``target`` names the targets (all columns that have no other
    role and are not words if None), and the columns without a role are past-only.
    """
    columns = list(table.frame.columns)
    named = {"target": as_list(target), "known": as_list(known), "static": as_list(static)}
    seen: dict = {}
    for role, name in ((role, name) for role, names in named.items() for name in names):
        if name not in columns and not (role == "target" and y_names is not None):
            hint = (
                "; X is an array without names: pass a frame (in a Pipeline with "
                "set_output(transform='pandas') on the steps before)"
            )
            raise DataError(
                f"{owner}: {role} column {name!r} is not in X; the columns are {columns}"
                + (hint if table.is_array and isinstance(name, str) else "")
            )
        if name in seen:
            raise DataError(f"{owner}: column {name!r} is named as {seen[name]} and as {role}")
        seen[name] = role
    rest = [name for name in columns if name not in seen]
    if y_names is not None:
        both = [name for name in y_names if name in rest and not table.is_array]
        if both:
            raise DataError(
                f"{owner}: column {both[0]!r} is in X and in y, so that the target would be its "
                f"own covariate: drop it from X, or pass X alone with target={both[0]!r}"
            )
        known_names = [name for name in columns if name in rest or seen.get(name) == "known"]
        return Roles(list(y_names), known_names, [], named["static"], True)
    # a text among numbers is a mistake, and no covariate
    words = {n for n in rest if pd.api.types.infer_dtype(table.frame[n]) in _WORDS}
    targets = named["target"] or [name for name in rest if name not in words] or rest
    if not targets:
        raise DataError(f"{owner}: no target column is left; the columns are {columns}")
    past = [name for name in rest if name not in targets]
    return Roles(targets, named["known"], past, named["static"], False)


def columns_of(frame: pd.DataFrame, roles: Roles) -> tuple[Column, ...]:
    """The columns of a panel by role, with the categories that ``frame`` has."""
    columns = [Column(name, "target") for name in roles.targets]
    for role in ("past", "known", "static"):
        for name in getattr(roles, role):
            own, found = frame[name], Column(name, role)
            if not holds_numbers(own) and pd.api.types.infer_dtype(own) in _CATEGORIES:
                with suppress(TypeError):  # lists, say: reading refuses them
                    categories = tuple(pd.Categorical(own).categories.tolist())
                    found = Column(name, role, "category", categories)
            columns.append(found)
    return tuple(columns)


def read_columns(
    owner: str, frame: pd.DataFrame, columns: tuple[Column, ...], role: str
) -> np.ndarray:
    """Columns of one role as floats, shape (n_rows, n_columns): numbers, or codes of categories."""
    chosen = [column for column in columns if column.role == role]
    if any(column.kind == "category" for column in chosen):
        coded = {c.name: frame[c.name] for c in chosen}
        for c in chosen:
            if c.kind == "category":
                coded[c.name] = _codes(frame[c.name], c.categories)
        frame = pd.DataFrame(coded, copy=False)
    return numeric(owner, frame, [column.name for column in chosen])


def _codes(column: pd.Series, categories: tuple) -> pd.Series:
    try:
        values = pd.Categorical(column)
    except TypeError:  # lists, say
        return column
    known = pd.Index(categories, dtype=object, tupleize_cols=False)
    codes = known.get_indexer(values.categories.astype(object)).astype(np.float32)
    codes[codes < 0] = np.nan
    return pd.Series(np.append(codes, np.float32(np.nan))[values.codes], index=column.index)
