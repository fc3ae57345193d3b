"""Rows of a panel: which series and which of the panel's time stamps each row belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import _num_samples

from rnnforecast.data.frames import Table, read_table

__all__ = ["Rows", "read_rows", "rows_of_table"]


@dataclass(frozen=True)
class Rows:
    """Keys of rows as positions.

    Attributes
    ----------
    stamps : Index, shape (n_stamps,)
        The unique time stamps of all rows, sorted; positions where there are no time stamps.
    time : ndarray of int, shape (n_rows,)
        Position of each row's stamp in ``stamps``.
    series : ndarray of int, shape (n_rows,), or None
        Position of each row's series in ``ids``; None for a single series.
    ids : Index
        Names of the series.
    """

    stamps: pd.Index
    time: np.ndarray
    series: np.ndarray | None
    ids: pd.Index


def rows_of_table(table: Table) -> Rows:
    """Keys of a table's rows; rows without an index are consecutive steps of one series."""
    keys = table.keys
    if not keys.has_time:
        positions = np.arange(len(table))
        if keys.series is not None:
            # rows of each series follow one another
            positions = pd.Series(keys.series).groupby(keys.series).cumcount().to_numpy()
        stamps: pd.Index = pd.RangeIndex(int(positions.max()) + 1)
        return Rows(stamps, positions, keys.series, keys.ids)
    assert keys.levels is not None
    codes, stamps = pd.factorize(keys.levels, sort=True)
    time = codes if keys.codes is None else codes[keys.codes]
    present = np.bincount(time, minlength=len(stamps)) > 0
    if not present.all():  # levels of a MultiIndex may be unused
        time, stamps = (np.cumsum(present) - 1)[time], stamps[present]
    return Rows(pd.Index(stamps), np.asarray(time), keys.series, keys.ids)


def read_rows(owner: str, X: Any, series_id: Any = None, time: Any = None) -> Rows:
    """Keys of anything that can be split: frames, series, and whatever scikit-learn can index.

    Parameters
    ----------
    owner : str
        Who asks, for error messages.
    X : DataFrame, Series, array-like, or any frame that narwhals reads
    series_id, time : str, default=None
        Columns that hold the series' name and the time stamp.

    Returns
    -------
    Rows

    Raises
    ------
    DataError
        If a named column is missing, or the time is not a time.
    """
    named = series_id is not None or time is not None
    if isinstance(X, (pd.DataFrame, pd.Series)):
        timed = (pd.DatetimeIndex, pd.PeriodIndex, pd.MultiIndex)
        number = pd.api.types.is_integer_dtype(X.index.dtype)
        if named or isinstance(X.index, timed) or number:
            frame = X.to_frame("y") if isinstance(X, pd.Series) else X
            # columns play no part here, and a frame may have none
            wanted = [name for name in (series_id, time) if name in frame.columns]
            frame = frame[wanted].assign(**{"": 0})
            return rows_of_table(read_table(owner, frame, series_id, time))
    elif named:
        return rows_of_table(read_table(owner, X, series_id, time))
    n_rows = _num_samples(X)
    return Rows(pd.RangeIndex(n_rows), np.arange(n_rows), None, pd.RangeIndex(1))
