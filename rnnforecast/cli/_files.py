"""Tables and pictures on disk: read with one clear error, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from click import ClickException

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PICTURES", "TABLES", "check_output", "read", "write_all", "write_table"]

TABLES = (".csv", ".parquet")
PICTURES = (".pdf", ".png", ".svg")


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return "".join(suffixes[-2:])
    return {".pq": ".parquet"}.get(suffixes[-1], suffixes[-1]) if suffixes else ""


def read(path: Path) -> pd.DataFrame:
    """Read a table, CSV or Parquet by its suffix; an error names what is wrong in one line."""
    import pandas as pd

    from rnnforecast.exceptions import optional_import

    kind = _suffix(path)
    if not path.exists():
        raise ClickException(f"there is no file {path}")
    if kind not in (*TABLES, ".csv.gz"):
        raise ClickException(f"{path}: expected a file ending in .csv, .csv.gz or .parquet")
    if kind == ".parquet":
        optional_import("pyarrow", "parquet", str(path))
    try:
        frame = pd.read_parquet(path) if kind == ".parquet" else _read_csv(path)
    except pd.errors.EmptyDataError:
        raise ClickException(f"{path} is empty") from None
    except Exception as error:  # a parser raises what it likes about a broken file
        raise ClickException(f"{path} cannot be read: {error or type(error).__name__}") from error
    if frame.empty:
        raise ClickException(f"{path} holds no rows")
    if kind == ".parquet":  # with the index that pandas stored, if any
        return frame if frame.index.names == [None] else frame.reset_index()
    if not isinstance(frame.index, pd.RangeIndex):  # the values would stand under wrong names
        raise ClickException(f"{path}: its rows have more values than its first line has names")
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    """Read values with commas between them, or whatever stands between the names."""
    import pandas as pd

    # sep=None would sniff, and cut the only name "temperature" into four columns at its e and a
    names = pd.read_csv(path, nrows=0).columns
    other = [mark for mark in ";\t|" if len(names) == 1 and mark in names[0]]
    return pd.read_csv(path, sep=other[0] if other else ",")


def check_output(
    path: Path | None, kinds: Sequence[str], inputs: Sequence[Path | None] = ()
) -> None:
    """Refuse a file that could not be written, or that is read, before an hour of training."""
    from rnnforecast.exceptions import optional_import

    if path is None:
        return
    if _suffix(path) not in kinds:
        raise ClickException(f"{path}: expected a file name ending in {' or '.join(kinds)}")
    if path.is_dir():
        raise ClickException(f"{path} is a folder")
    if not path.parent.is_dir():
        raise ClickException(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ClickException(f"{path} cannot be written: permission denied")
    if any(given and given.exists() and path.exists() and path.samefile(given) for given in inputs):
        message = f"{path} is read as data and would be written over: choose another name"
        raise ClickException(message)
    if kinds is PICTURES:
        optional_import("matplotlib", "plot", "--plot")
    if _suffix(path) == ".parquet":
        optional_import("pyarrow", "parquet", str(path))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, CSV or Parquet by the suffix."""
    if _suffix(path) == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


def write_all(writers: Sequence[tuple[Path, Callable[[Path], None]]]) -> None:
    """Write several files, then put all in place: an error leaves none of them behind."""
    # the suffix stays last: pandas and matplotlib choose the format by it
    drafts = [path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}") for path, _ in writers]
    try:
        for (path, write), draft in zip(writers, drafts, strict=True):
            try:
                write(draft)
            except OSError as error:
                message = f"{path} cannot be written: {error.strerror or error}"
                raise ClickException(message) from error
        for (path, _), draft in zip(writers, drafts, strict=True):
            os.replace(draft, path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
