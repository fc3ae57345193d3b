"""Tables and pictures on disk: read with one clear error, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rnnforecast.cli._errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_output", "read", "write_all", "write_table"]

TABLES = (".csv", ".parquet")
PICTURES = (".pdf", ".png", ".svg")


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return "".join(suffixes[-2:])
    return {".pq": ".parquet"}.get(suffixes[-1], suffixes[-1]) if suffixes else ""


def read(path: Path) -> pd.DataFrame:
    """Read a table, CSV or Parquet by its suffix.

    Parameters
    ----------
    path : Path
        File ending in ``.csv``, ``.csv.gz``, ``.parquet`` or ``.pq``.

    Returns
    -------
    DataFrame

    Raises
    ------
    BadInput
        If the file is missing, unreadable, empty or of another kind.
    """
    import pandas as pd

    kind = _suffix(path)
    if not path.exists():
        raise BadInput(f"there is no file {path}")
    if kind not in (*TABLES, ".csv.gz"):
        raise BadInput(f"{path}: expected a file ending in .csv, .csv.gz or .parquet")
    try:
        if kind == ".parquet":
            _need_pyarrow(path)
            frame = pd.read_parquet(path)
            if frame.index.names != [None]:  # an index that pandas stored
                frame = frame.reset_index()
        else:
            frame = pd.read_csv(path)
    except BadInput:
        raise
    except pd.errors.EmptyDataError:
        raise BadInput(f"{path} is empty") from None
    except Exception as error:  # a parser raises what it likes about a broken file
        raise BadInput(f"{path} cannot be read: {error or type(error).__name__}") from error
    if frame.empty:
        raise BadInput(f"{path} holds no rows")
    if kind != ".parquet":
        _check_header(frame, path)
    return frame


def _check_header(frame: pd.DataFrame, path: Path) -> None:
    """Refuse a file with another separator, or whose first line is one of data."""
    import pandas as pd

    names = [str(name) for name in frame.columns]
    for separator in ";\t|":
        if len(names) == 1 and separator in names[0]:
            raise BadInput(
                f"{path}: values must have commas between them (and a decimal point). Got the line "
                f"{names[0]!r}, which seems to be separated by {separator!r}"
            )
    rest = pd.Series([name for name in names if not _is_number(name)])
    stamps = rest[rest.str.count(r"\d") >= 4] if len(rest) else rest
    if len(stamps) and len(stamps) == len(rest) < len(names):
        if pd.to_datetime(stamps, errors="coerce", format="mixed").notna().all():
            raise BadInput(
                f"{path}: the first line must name the columns. Got {','.join(names[:4])!r}, which "
                f"looks like data"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _need_pyarrow(path: Path) -> None:
    from rnnforecast.exceptions import optional_import

    optional_import("pyarrow", "parquet", str(path))


def check_output(
    path: Path | None, kinds: Sequence[str], inputs: Sequence[Path | None] = ()
) -> None:
    """Refuse a file that could not be written, before an hour of training is spent.

    Parameters
    ----------
    path : Path or None
        Where something will be written.
    kinds : sequence of str
        Suffixes that are known how to write: ``TABLES`` or ``PICTURES``.
    inputs : sequence of (Path or None)
        Files that are read, which must not be written over.

    Raises
    ------
    BadInput
        If the suffix is unknown, the folder is missing or cannot be written to, or the file is one
        of ``inputs``.
    """
    if path is None:
        return
    if _suffix(path) not in kinds:
        raise BadInput(f"{path}: expected a file name ending in {' or '.join(kinds)}")
    if path.is_dir():
        raise BadInput(f"{path} is a folder")
    folder = path.parent
    if not folder.is_dir():
        raise BadInput(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise BadInput(f"{path} cannot be written: permission denied")
    if any(given and given.exists() and path.exists() and path.samefile(given) for given in inputs):
        raise BadInput(f"{path} is read as data and would be written over: choose another name")
    if kinds is PICTURES:
        from rnnforecast.exceptions import optional_import

        optional_import("matplotlib", "plot", "--plot")
    if _suffix(path) == ".parquet":
        _need_pyarrow(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, CSV or Parquet by the suffix."""
    if _suffix(path) == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder, removed unless it was renamed."""
    # the suffix stays last: pandas and matplotlib choose the format by it
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_all(writers: Sequence[tuple[Path, Callable[[Path], None]]]) -> None:
    """Write several files, then put all in place: an error leaves none of them behind.

    Parameters
    ----------
    writers : sequence of (path, function)
        Each function writes to the path that it is given.

    Raises
    ------
    BadInput
        If a file cannot be written.
    """
    if not writers:
        return
    (path, write), *others = writers
    with _beside(path) as draft:
        try:
            write(draft)
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror or error}") from error
        write_all(others)
        os.replace(draft, path)
