"""Which column plays which part: target, known-future, past-only or static covariate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data.frames import Table
from rnnforecast.exceptions import DataError

__all__ = ["Roles", "as_list", "resolve_roles"]


@dataclass(frozen=True)
class Roles:
    """Column names by role, as resolved from the data in ``fit``.

    Attributes
    ----------
    targets, known, past, static : list
    separate_y : bool
        The targets came as ``y``, apart from ``X``.
    """

    targets: list
    known: list
    past: list
    static: list
    separate_y: bool

    def __str__(self) -> str:
        parts = [f"target={self.targets}"]
        parts += [
            f"{name}={columns}"
            for name, columns in (
                ("known", self.known),
                ("past", self.past),
                ("static", self.static),
            )
            if columns
        ]
        return ", ".join(parts)


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
    role if None), and the columns without a role are past-only.

    Raises
    ------
    DataError
        If a named column does not exist, has two roles, or is a target inside X as well as ``y``.
    """
    columns = list(table.frame.columns)
    named = {"target": as_list(target), "known": as_list(known), "static": as_list(static)}
    for role, names in named.items():
        for name in names:
            if name not in columns and not (role == "target" and y_names is not None):
                hint = (
                    "; X is an array without names: pass a frame (in a Pipeline with "
                    "set_output(transform='pandas') on the steps before)"
                )
                raise DataError(
                    f"{owner}: {role} column {name!r} is not in X; the columns are {columns}"
                    + (hint if table.is_array and isinstance(name, str) else "")
                )
    seen: dict = {}
    for role, names in named.items():
        for name in names:
            if name in seen:
                raise DataError(f"{owner}: column {name!r} is named as {seen[name]} and as {role}")
            seen[name] = role
    rest = [name for name in columns if name not in seen]
    if y_names is not None:
        both = [name for name in y_names if name in rest and not table.is_array]
        if both:
            raise DataError(
                f"{owner}: column {both[0]!r} is in X and in y, so that the target would be its "
                f"own "
                f"covariate: drop it from X, or pass X alone with target={both[0]!r}"
            )
        known_names = [name for name in columns if name in rest or seen.get(name) == "known"]
        return Roles(list(y_names), known_names, [], named["static"], True)
    targets = named["target"] or rest
    if not targets:
        raise DataError(f"{owner}: no target column is left; the columns are {columns}")
    past = [name for name in rest if name not in targets]
    return Roles(targets, named["known"], past, named["static"], False)
