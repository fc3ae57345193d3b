"""Cross-validation over time for panels of series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import TimeSeriesSplit
from sklearn.utils.validation import _num_samples

from rnnforecast._validation import check_int
from rnnforecast.data.frames import Keys, read_table
from rnnforecast.exceptions import DataError

__all__ = ["PanelTimeSeriesSplit", "time_codes"]

_OWNER = "PanelTimeSeriesSplit"


def time_codes(keys: Keys) -> tuple[np.ndarray, pd.Index]:
    """Position of each row's stamp among the sorted unique stamps of all series, and these.

    Rows without time stamps are consecutive steps of their series.
    """
    if keys.has_time:
        codes, stamps = pd.factorize(keys.stamps(np.arange(keys.n_rows)), sort=True)
        return codes, pd.Index(stamps)
    series = np.zeros(keys.n_rows) if keys.series is None else keys.series
    codes = pd.Series(series).groupby(series).cumcount().to_numpy()
    return codes, pd.RangeIndex(int(codes.max()) + 1)


def _read(X: Any, series_id: Any, time: Any) -> tuple[np.ndarray, pd.Index, np.ndarray]:
    """Time codes, stamps and series of rows; whatever has no keys is taken row by row."""
    frame = X.to_frame("y") if isinstance(X, pd.Series) else X
    keyed = series_id is not None or time is not None
    if isinstance(frame, pd.DataFrame):
        index = frame.index
        dates = isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex, pd.MultiIndex))
        keyed = keyed or dates or pd.api.types.is_integer_dtype(index.dtype)
        frame = frame[[name for name in (series_id, time) if name in frame.columns]]
    if not keyed:
        n_rows = _num_samples(X)
        return np.arange(n_rows), pd.RangeIndex(n_rows), np.zeros(n_rows, dtype=np.int64)
    keys = read_table(_OWNER, frame, series_id, time, index_only=True).keys
    series = np.zeros(keys.n_rows, dtype=np.int64) if keys.series is None else keys.series
    return *time_codes(keys), series


class PanelTimeSeriesSplit(TimeSeriesSplit):
    """Time series cross-validation that splits a panel on its unique time stamps.

    In every fold all training rows, of whatever series, come before all test rows. scikit-learn's
    `TimeSeriesSplit` splits on row numbers: on the stacked rows of a panel it trains on one series
    and tests on another over the same dates, which is leakage. For a single series both give the
    same folds.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds.
    max_train_size : int, default=None
        Most time stamps in a training set; None keeps all the past.
    test_size : int, default=None
        Time stamps in a test set; None takes ``n_stamps // (n_splits + 1)``.
    gap : int, default=0
        Time stamps left out between training and test.
    series_id : str, default=None
        Column with the name of the series.
    time : str, default=None
        Column with the time stamps.

    Notes
    -----
    The series and the time of a row come from the columns named here, else from a MultiIndex
    (series, time), else from the index: dates, periods or integers. Rows need no order. Arrays, and
    frames with another kind of index, are taken row by row, as in `TimeSeriesSplit`.

    A series without a single training row in a fold has no past to be forecast from: its rows are
    left out of that fold's test set.

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.MultiIndex.from_product([["a", "b"], range(4)], names=["series", "time"])
    >>> panel = pd.DataFrame({"y": range(8)}, index=index)
    >>> for train, test in PanelTimeSeriesSplit(n_splits=2, test_size=1).split(panel):
    ...     print(train, test)
    [0 1 4 5] [2 6]
    [0 1 2 4 5 6] [3 7]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        max_train_size: int | None = None,
        test_size: int | None = None,
        gap: int = 0,
        series_id: Any = None,
        time: Any = None,
    ):
        self.n_splits = n_splits
        self.max_train_size = max_train_size
        self.test_size = test_size
        self.gap = gap
        self.series_id = series_id
        self.time = time

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers of the training and test sets.

        Parameters
        ----------
        X : DataFrame, Series or array-like, n rows
        y, groups : object
            Ignored, groups with a warning: the series of a row comes from the data.

        Yields
        ------
        train, test : ndarray of int
            Row numbers, ascending.

        Raises
        ------
        DataError
            If there are too few time stamps, or a parameter is out of its range.
        """
        check_int(_OWNER, "n_splits", self.n_splits)
        check_int(_OWNER, "max_train_size", self.max_train_size, none=True)
        check_int(_OWNER, "test_size", self.test_size, none=True)
        check_int(_OWNER, "gap", self.gap, minimum=0)
        time, stamps, series = _read(X, self.series_id, self.time)
        try:
            folds = list(super().split(stamps, groups=groups))
        except ValueError as error:
            raise DataError(
                f"{_OWNER}: {error} Samples are the {len(stamps)} time stamps: use fewer splits, a "
                f"smaller test_size or a smaller gap"
            ) from error
        for train, test in folds:
            in_train = np.isin(time, train)
            in_test = np.isin(time, test) & np.isin(series, series[in_train])
            if not in_test.any():
                raise DataError(
                    f"{_OWNER}: the fold that tests from {stamps[test[0]]} on has no series with "
                    f"both training and test rows: use fewer splits or a larger test_size"
                )
            yield np.flatnonzero(in_train), np.flatnonzero(in_test)
