"""Tables and pictures on disk: read with one clear error, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from click import ClickException, echo

from rnnforecast.exceptions import optional_import

__all__ = ["PICTURES", "TABLES", "check_output", "read", "write_all", "write_table"]

TABLES = (".csv", ".csv.gz", ".parquet", ".pq")
PICTURES = (".pdf", ".png", ".svg")


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith((".parquet", ".pq"))


def _check_kind(path: Path, kinds: tuple[str, ...]) -> None:
    if not path.name.lower().endswith(kinds):
        raise ClickException(f"{path}: expected a file name ending in {' or '.join(kinds)}")
    if _is_parquet(path):
        optional_import("pyarrow", "parquet", str(path))


def read(path: Path) -> pd.DataFrame:
    """Read a table, CSV or Parquet by its suffix; an error names what is wrong in one line."""
    if not path.exists():
        raise ClickException(f"there is no file {path}")
    _check_kind(path, TABLES)
    try:
        frame = pd.read_parquet(path) if _is_parquet(path) else _read_csv(path)
    except Exception as error:  # a parser raises what it likes about a broken file
        raise ClickException(f"{path} cannot be read: {error or type(error).__name__}") from error
    if frame.empty:
        raise ClickException(f"{path} holds no rows")
    if _is_parquet(path):  # with the index that pandas stored, if any
        return frame if frame.index.names == [None] else frame.reset_index()
    if not isinstance(frame.index, pd.RangeIndex):  # the values would stand under wrong names
        raise ClickException(f"{path}: its rows have more values than its first line has names")
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    """Read values with commas between them, or whatever stands between the names."""
    # sep=None would sniff, and cut the only name "temperature" into four columns at its e and a
    names = pd.read_csv(path, nrows=0).columns
    other = [mark for mark in ";\t|" if len(names) == 1 and mark in names[0]]
    return pd.read_csv(path, sep=other[0] if other else ",")


def check_output(path: Path | None, kinds: tuple[str, ...], *inputs: Path | None) -> None:
    """Refuse a file that could not be written, or that is read, before an hour of training."""
    if path is None:
        return
    _check_kind(path, kinds)
    if kinds is PICTURES:
        optional_import("matplotlib", "plot", "--plot")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ClickException(
            f"{path} cannot be written: there is no folder {path.parent}, or it is write-protected"
        )
    if any(given and given.exists() and path.exists() and path.samefile(given) for given in inputs):
        message = f"{path} is read as data and would be written over: choose another name"
        raise ClickException(message)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, CSV or Parquet by the suffix."""
    (table.to_parquet if _is_parquet(path) else table.to_csv)(path, index=False)


def write_all(
    writers: Sequence[tuple[Path | None, Callable[[Path], None]]], quiet: bool = False
) -> None:
    """Write the files that have a path, then put all in place: an error leaves none behind."""
    moves = []
    with ExitStack() as stack:
        for path, write in writers:
            if path is not None:
                draft = Path(stack.enter_context(TemporaryDirectory(dir=path.parent)), path.name)
                write(draft)
                moves.append((draft, path))
        for draft, path in moves:
            os.replace(draft, path)
            if not quiet:
                echo(f"wrote {path}", err=True)
