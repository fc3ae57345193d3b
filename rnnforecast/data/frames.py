"""Any frame or array that a user passes in as a ``Table`` of columns and row keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_array

from rnnforecast.data._stamps import check_kind, numbers
from rnnforecast.exceptions import DataError

__all__ = [
    "Keys",
    "Table",
    "copies_on_write",
    "numeric",
    "read_table",
    "read_targets",
    "rows_where",
    "to_pandas",
]

# kinds of objects that count as numbers, as pandas names them
_NUMBERS = ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty")
_PIECE = 1 << 18  # rows at once: a mask of them all would be a quarter of float32 data


@dataclass(frozen=True)
class Keys:
    """The series and the time stamp of each row."""

    series: np.ndarray | None  # (n_rows,), position in ``ids``; None for a single series
    ids: pd.Index  # names of the series; each has a row
    codes: np.ndarray | None  # (n_rows,), position in ``levels``; None if it has all rows' stamps
    levels: pd.Index | None  # time stamps; None where the input has no index (an array)
    names: tuple  # of the series levels and of the time level, for indices made later
    n_rows: int

    @property
    def has_time(self) -> bool:
        return self.levels is not None

    def label(self, code: int) -> str:
        """How messages name a series."""
        if self.series is None:
            return "the series"
        return f"series {self.ids[[code]].tolist()[0]!r}"  # plain numbers, not NumPy's

    def stamps(self, rows: Any) -> pd.Index:
        """Stamps of the given rows."""
        assert self.levels is not None
        return self.levels[rows] if self.codes is None else self.levels[self.codes[rows]]

    def ranks(self) -> np.ndarray:
        """A whole number for each row, in order of time."""
        assert self.levels is not None
        if self.codes is None:
            return numbers(self.levels)
        rises = self.levels.is_monotonic_increasing
        return self.codes if rises else np.argsort(self.levels.argsort())[self.codes]

    def take(self, rows: np.ndarray) -> Keys:
        """Some rows, in this order."""
        series, ids, levels = self.series, self.ids, self.levels
        codes = None if self.codes is None else self.codes[rows]
        if series is not None:
            series, present = _factorize(series[rows], sort=True)
            ids = ids[present]
        if levels is not None and codes is None:
            levels = levels[rows]
        return replace(self, series=series, ids=ids, codes=codes, levels=levels, n_rows=len(rows))

    def without_time(self) -> Keys:
        """The same rows, counted."""
        return replace(self, codes=None, levels=None)


@dataclass(frozen=True)
class Table:
    """Columns and keys of one input."""

    frame: pd.DataFrame  # the columns that are not keys, untouched
    keys: Keys
    columns: list  # names of all columns, key columns too, in order
    is_array: bool  # it had no names: an array or a list

    def __len__(self) -> int:
        return len(self.frame)


def read_table(
    owner: str, X: Any, series_id: Any = None, time: Any = None, index_only: bool = False
) -> Table:
    """Read a frame, series or array for ``owner``, whom messages name; bad input is refused.

    ``series_id`` and ``time`` are columns or index levels. With ``index_only`` a frame may have no
    column at all: its index says which rows are meant.
    """
    frame, is_array = to_pandas(owner, X)
    shape = f"(shape={frame.shape})"
    if frame.shape[1] == 0 and (is_array or not index_only):
        raise DataError(
            f"Found array with 0 feature(s) {shape} while a minimum of 1 is required by {owner}."
        )
    if len(frame) == 0:
        raise DataError(f"Found array with 0 sample(s) {shape} for {owner}: no rows")
    columns = list(frame.columns)
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"{owner}: column {repeated[0]!r} appears more than once: rename one")
    for role, column in (("series_id", series_id), ("time", time)):
        if column is not None and column not in columns and column not in frame.index.names:
            raise DataError(
                f"{owner}: {role}={column!r} is not a column; the columns are {_some(columns)}"
            )
    keys = _keys(owner, frame, series_id, time, is_array)
    drop = [name for name in (series_id, time) if name is not None and name in columns]
    return Table(frame.drop(columns=drop) if drop else frame, keys, columns, is_array)


def to_pandas(owner: str, X: Any) -> tuple[pd.DataFrame, bool]:
    """Any frame, series or 2-D array as a DataFrame, and whether it was an array."""
    if isinstance(X, pd.DataFrame):
        return X, False
    if isinstance(X, pd.Series):
        return X.to_frame(name="y" if X.name is None else X.name), False
    if X is None:
        raise DataError(f"{owner}: X must be a DataFrame, Series or 2-D array. Got None")
    if not isinstance(X, (np.ndarray, list, tuple)) and not hasattr(X, "toarray"):
        frame = _from_narwhals(X)
        if frame is not None:
            return frame, False
    # sklearn's own refusals of sparse, complex, one-dimensional and non-numeric input
    array = check_array(X, dtype="numeric", ensure_all_finite="allow-nan", estimator=owner)
    return pd.DataFrame(array, copy=False), True


def _from_narwhals(X: Any) -> pd.DataFrame | None:
    import narwhals as nw

    native = nw.from_native(X, pass_through=True, allow_series=True)
    native = native.collect() if isinstance(native, nw.LazyFrame) else native
    native = native.to_frame() if isinstance(native, nw.Series) else native
    if not isinstance(native, nw.DataFrame):
        return None
    # column by column: needs no pyarrow for polars
    return pd.DataFrame({name: _column(native[name]) for name in native.columns}, copy=False)


def _column(series: Any) -> Any:
    """Values of a narwhals series; time stamps keep their zone, which NumPy has no room for."""
    values, zone = series.to_numpy(), getattr(series.dtype, "time_zone", None)
    return values if zone is None else pd.DatetimeIndex(values, tz="UTC").tz_convert(zone)


def _keys(owner: str, frame: pd.DataFrame, series_id: Any, time: Any, is_array: bool) -> Keys:
    if isinstance(frame.index, pd.MultiIndex) and series_id is None and time is None:
        return _multiindex_keys(frame.index)
    for level in (series_id, time):
        if level is not None and level not in frame.columns:
            frame = frame.reset_index(level=level)
    stamps: pd.Index | None = frame.index
    if time is not None:
        stamps = _parse_time(owner, frame[time], time)
    elif isinstance(stamps, pd.MultiIndex):
        raise DataError(
            f"{owner}: with series_id={series_id!r} the index must be the time alone, got a "
            f"MultiIndex of {stamps.nlevels} levels: name the time column with time="
        )
    elif is_array or (series_id is not None and is_default(stamps)):
        stamps = None  # pandas' default index numbers all rows: no time axis of interleaved series
    if stamps is not None:
        check_kind(stamps, owner)
    name = time if time is not None else (None if stamps is None else stamps.name)
    if series_id is None:
        return Keys(None, pd.RangeIndex(1), None, stamps, (None, name), len(frame))
    series, ids = _factorize(frame[series_id])
    if (series < 0).any():
        raise DataError(f"{owner}: column {series_id!r} (series_id) has missing values")
    codes, stamps = (None, None) if stamps is None else _factorize(stamps, sort=True)
    ids = pd.Index(ids, name=series_id)
    return Keys(series, ids, codes, stamps, (series_id, name), len(frame))


def _factorize(values: Any, sort: bool = False) -> tuple[np.ndarray, pd.Index]:
    """Codes in half the memory, and what they stand for."""
    codes, unique = pd.factorize(values, sort=sort)
    return codes.astype(np.int32), unique


def is_default(index: pd.Index | None) -> bool:
    """Whether an index is pandas' default one: 0, 1, 2, ..."""
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _multiindex_keys(index: pd.MultiIndex) -> Keys:
    if any(codes.min() < 0 for codes in index.codes):
        raise DataError("the MultiIndex (series, time) has missing values (NaN or NaT)")
    levels = index.levels[-1]
    check_kind(levels, "the last level of the MultiIndex")
    names = tuple(index.names)
    if index.nlevels == 2:
        series, ids = index.codes[0], index.levels[0]
        present = np.zeros(len(ids), dtype=bool)
        present[series[np.append(0, rows_where(np.not_equal, series))]] = True
        if not present.all():
            series, ids = (np.cumsum(present) - 1)[series], ids[present]
    else:
        shape = [len(level) for level in index.levels[:-1]]
        series, unique = _factorize(np.ravel_multi_index(index.codes[:-1], shape))
        codes = np.unravel_index(unique, shape)
        ids = pd.MultiIndex(index.levels[:-1], codes, names=names[:-1])
    return Keys(np.asarray(series), ids, np.asarray(index.codes[-1]), levels, names, len(index))


def rows_where(test: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Rows whose value and the one before it pass ``test``."""
    parts = [np.zeros(0, dtype=np.int64)]
    for start in range(1, len(values), _PIECE):
        some = values[start - 1 : start + _PIECE]
        parts.append(np.flatnonzero(test(some[1:], some[:-1])) + start)
    return np.concatenate(parts)


def _parse_time(owner: str, column: pd.Series, name: Any) -> pd.Index:
    if column.isna().any():
        raise DataError(f"{owner}: column {name!r} (time) has missing values")
    if not (pd.api.types.is_string_dtype(column.dtype) or column.dtype == object):
        return pd.Index(column)
    kind = pd.api.types.infer_dtype(column)
    if kind == "integer":  # to_datetime would take them for nanoseconds
        return pd.Index(column.astype("int64"))
    try:
        return pd.PeriodIndex(column) if kind == "period" else pd.Index(pd.to_datetime(column))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{owner}: column {name!r} (time) cannot be read as time stamps: {error}"
        ) from error


def numeric(owner: str, frame: pd.DataFrame, columns: list) -> np.ndarray:
    """Columns as floats, shape (n_rows, n_columns), NaN kept; float32 if all are, and a view, which
    is read-only, where pandas can give one. Text, dates, complex and infinite numbers are refused.
    """
    if not columns:
        return np.empty((len(frame), 0), dtype=np.float32)
    part = frame if list(frame.columns) == list(columns) else frame[columns]
    for column, dtype in part.dtypes.items():
        if pd.api.types.is_complex_dtype(dtype):
            raise DataError(f"Complex data not supported: column {column!r} for {owner}")
        if not holds_numbers(part[column]):
            raise DataError(
                f"{owner}: column {column!r} has dtype {dtype}, expected numbers: encode it (for "
                f"example with OneHotEncoder in a ColumnTransformer), or drop it"
            )
    small = all(dtype == np.float32 for dtype in part.dtypes)
    values = part.to_numpy(dtype=np.float32 if small else np.float64, na_value=np.nan)
    if np.isinf([np.fmax.reduce(values, axis=None), np.fmin.reduce(values, axis=None)]).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise DataError(
            f"Input X contains infinity or a value too large for dtype('float64'): {owner}, column "
            f"{columns[column]!r}, row {row}: replace it by NaN (unobserved) or by a number"
        )
    first = frame[columns[0]]
    if first.dtype == values.dtype and np.may_share_memory(values, first.to_numpy()):
        values = values.view()
        values.flags.writeable = False
    return values


def copies_on_write() -> bool:
    """Whether a write to a frame leaves others alone that share its rows: from pandas 3 on."""
    return int(pd.__version__.split(".")[0]) > 2 or pd.options.mode.copy_on_write is True


def holds_numbers(column: pd.Series) -> bool:
    """Whether a column holds real numbers or booleans, as its dtype says or as its objects are."""
    dtype = column.dtype
    if pd.api.types.is_object_dtype(dtype):
        return pd.api.types.infer_dtype(column, skipna=True) in _NUMBERS
    return pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)


def read_targets(owner: str, y: Any, n_rows: int) -> tuple[np.ndarray, list, pd.Index | None]:
    """Read ``y``: values of shape (n_rows, n_targets), names, and the index if it has one."""
    index = y.index if isinstance(y, (pd.Series, pd.DataFrame)) else None
    # polars and the like have no index: their rows go with those of X
    frame = _from_narwhals(y) if index is None else to_pandas(owner, y)[0]
    if frame is None:
        array = np.asarray(y)
        if array.ndim not in (1, 2):
            raise DataError(f"{owner}: y must be 1-D or 2-D. Got shape {array.shape}")
        single = array.ndim == 1 or array.shape[1] == 1
        names = ["y"] if single else [f"y{i}" for i in range(array.shape[1])]
        frame = pd.DataFrame(array.reshape(len(array), -1), columns=names)
    if len(frame) != n_rows:
        raise DataError(
            f"{owner}: Found input variables with inconsistent numbers of samples: X has {n_rows} "
            f"rows, y has {len(frame)}"
        )
    return numeric(owner, frame, list(frame.columns)), list(frame.columns), index


def _some(names: list, most: int = 8) -> str:
    return repr(names) if len(names) <= most else f"{names[:most]!r} and {len(names) - most} more"
