"""From the columns of a file to an indexed frame, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnforecast.cli._errors import BadInput
from rnnforecast.cli._files import read

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Columns", "arrange", "flatten", "load"]


@dataclass(frozen=True)
class Columns:
    """Which column of a file plays which part.

    Parameters
    ----------
    target, known, past : sequence of str
        What is forecast, covariates known in the future, and covariates known up to now.
    time, series_id : str or None
        Time stamps and series of a row; None where the rows are simply in order, or one series.
    """

    target: tuple[str, ...]
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    time: str | None = None
    series_id: str | None = None

    def named(self) -> list[str]:
        """Every column that has a part."""
        own = [name for name in (self.time, self.series_id) if name is not None]
        return [*self.target, *self.known, *self.past, *own]


def load(path: Path, wanted: Columns) -> tuple[pd.DataFrame, Columns]:
    """Read a file and index it by time, or by series and time.

    Parameters
    ----------
    path : Path
        The file.
    wanted : Columns
        What the user named; a missing time column is looked for, and a missing target is the only
        numeric column.

    Returns
    -------
    frame : DataFrame
        The columns in use, rows in order of time.
    columns : Columns
        ``wanted`` with what was found.

    Raises
    ------
    BadInput
        If a column is missing or cannot be used.
    """
    frame = read(path)
    for option, names in (
        ("--target", wanted.target),
        ("--known", wanted.known),
        ("--past", wanted.past),
        ("--time", [wanted.time] if wanted.time else []),
        ("--series-id", [wanted.series_id] if wanted.series_id else []),
    ):
        _check_present(frame, names, path, option)
    time = wanted.time or _find_time(frame, path, exclude=wanted.named())
    if wanted.series_id and time is None:
        raise BadInput(f"{path}: no column holds time stamps: name one with --time")
    target = wanted.target or _only_number(frame, path, {time, wanted.series_id, *wanted.known})
    columns = Columns(target, wanted.known, wanted.past, time, wanted.series_id)
    return arrange(frame, columns, (*target, *columns.past, *columns.known), path), columns


def arrange(frame: pd.DataFrame, columns: Columns, keep: Sequence[str], path: Path) -> pd.DataFrame:
    """Keep some columns, index the rows by time (and series) and put them in order.

    Parameters
    ----------
    frame : DataFrame
        A file as it was read.
    columns : Columns
        The parts of the columns.
    keep : sequence of str
        Names of the columns to keep.
    path : Path
        The file, for messages.

    Returns
    -------
    DataFrame
    """
    index = [name for name in (columns.series_id, columns.time) if name is not None]
    _check_present(frame, [*index, *keep], path, "the forecast")
    kept = frame[[*index, *dict.fromkeys(keep)]]
    for name in keep:
        if kept[name].dtype == object or kept[name].dtype.kind not in "biuf":
            value = next((v for v in kept[name] if not _is_number(v)), None)
            raise BadInput(f"{path}: column {name!r} must hold numbers. Got {value!r}")
    if columns.time is None:
        return kept
    kept = kept.assign(**{columns.time: _stamps(kept[columns.time], path)})
    return kept.set_index(index).sort_index(kind="stable")


def flatten(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Turn the index into columns with the names that the file had.

    Parameters
    ----------
    table : DataFrame
        A forecast: index time, or (series, time); plain columns.
    columns : Columns
        The parts of the columns.

    Returns
    -------
    DataFrame
    """
    names: list[Any] = [columns.time or "step"]
    if table.index.nlevels > 1:
        names.insert(0, columns.series_id or "series")
    return table.rename_axis(index=names).reset_index()


def _check_present(frame: pd.DataFrame, names: Sequence[str], path: Path, role: str) -> None:
    for name in names:
        if name not in frame.columns:
            shown = ", ".join(str(column) for column in frame.columns[:12])
            more = ", ..." if len(frame.columns) > 12 else ""
            raise BadInput(f"{path} has no column {name!r} for {role}; its columns: {shown}{more}")


def _find_time(frame: pd.DataFrame, path: Path, exclude: Sequence[str]) -> str | None:
    """Name the first column of time stamps, or of text that reads as time stamps throughout.

    A column of which only a part reads as time stamps is an error where there is no other: its rows
    would be taken for steps in a row.
    """
    import pandas as pd

    broken = None
    for name in frame.columns:
        column = frame[name]
        if name in exclude or column.isna().all():
            continue
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            return name
        text = pd.api.types.is_string_dtype(column.dtype) or column.dtype == object
        # pandas reads "sun" as a day and "H1" as an hour: a stamp has four digits at least
        first = column[column.notna()].iloc[:1]
        digits = sum(character.isdigit() for character in str(first.iloc[0]))
        if text and digits >= 4 and not _is_number(first.iloc[0]):
            if not _reads(first):
                continue
            if not column.isna().any() and _reads(column):
                return name
            broken = name if broken is None else broken
    if broken is not None:
        _stamps(frame[broken], path)  # which says what is wrong with it
    return None


def _reads(column: pd.Series) -> bool:
    try:
        _parse(column)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _parse(column: pd.Series) -> pd.Series:
    import pandas as pd

    # several offsets from UTC, as around a clock change
    offsets = column.astype(str).str.extract(r":\d\d[\d.:]*([+-]\d\d:?\d\d)$")[0]
    return pd.to_datetime(column, utc=offsets.nunique() > 1)


def _stamps(column: pd.Series, path: Path) -> pd.Series:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column.dtype) or column.dtype.kind in "iu":
        return column  # integers count steps
    if column.isna().any():
        raise BadInput(f"{path}: column {column.name!r} (time) has missing values")
    try:
        return _parse(column)
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).split(". You might want")[0]
        raise BadInput(
            f"{path}: column {column.name!r} cannot be read as time stamps: {reason}"
        ) from error


def _only_number(frame: pd.DataFrame, path: Path, taken: set[str | None]) -> tuple[str, ...]:
    numbers = [c for c in frame.select_dtypes("number").columns if c not in taken]
    if len(numbers) != 1:
        found = f"has the numeric columns {', '.join(map(str, numbers))}" if numbers else ""
        raise BadInput(f"{path} {found or 'has no numeric column'}: name one with --target")
    return (str(numbers[0]),)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
