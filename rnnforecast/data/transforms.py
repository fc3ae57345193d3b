"""Invertible transformations of time series: logarithm, differences, seasonal adjustment."""

from __future__ import annotations

import numpy as np

from rnnforecast._validation import check_choice, check_real
from rnnforecast.data._transformer import SeriesTransformer
from rnnforecast.data.differencing import Differencer
from rnnforecast.data.frames import Table
from rnnforecast.data.seasonal import Deseasonalizer
from rnnforecast.exceptions import DataError

__all__ = ["Deseasonalizer", "Differencer", "LogTransformer"]


class LogTransformer(SeriesTransformer):
    """Natural logarithm of each column, after adding an offset.

    Parameters
    ----------
    offset : float or "auto", default="auto"
        Added before the logarithm, in the units of the data; 1 gives ``log1p``. "auto" chooses for
        each column: 0 if all training values are positive, else 1 minus the smallest one, so that
        counts with zeros get ``log1p`` and the smallest value maps to 0.

    Attributes
    ----------
    offset_ : ndarray of shape (n_columns,)
    columns_ : list
        Columns of fit.

    Notes
    -----
    NaN stays NaN. Values at or below ``-offset_`` raise `rnnforecast.exceptions.DataError` in `fit`
    and `transform`.

    Examples
    --------
    >>> LogTransformer(offset=1.0).fit_transform([[0.0], [1.0]]).round(4).tolist()
    [[0.0], [0.6931]]
    """

    def __init__(self, *, offset="auto"):
        self.offset = offset

    def fit(self, X, y=None):
        """Choose the offset of each column and check that the training values have a logarithm.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
        y : ignored

        Returns
        -------
        LogTransformer

        Raises
        ------
        DataError
            If a value is at or below ``-offset``.
        """
        auto = isinstance(self.offset, str)
        if auto:
            check_choice(self._owner, "offset", self.offset, ["auto"])
        else:
            check_real(self._owner, "offset", self.offset, -np.inf, closed="neither")
        X, table, values = self._read(X, fitted=False)
        if auto:
            low = np.min(values, axis=0, initial=np.inf, where=~np.isnan(values)).astype(np.float64)
            offset = np.where(low > 0, 0.0, 1.0 - np.minimum(low, 0.0))
        else:
            offset = np.full(values.shape[1], float(self.offset))
        self._check_positive(table, values, offset)
        self._remember(X, table)
        self.offset_ = offset
        return self

    def transform(self, X):
        """Take logarithms.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)

        Returns
        -------
        ndarray of shape (n_rows, n_columns)
            A DataFrame after ``set_output(transform="pandas")``.

        Raises
        ------
        DataError
            If a value is at or below ``-offset_``; the message names its column and row.
        """
        X, table, values = self._read(X)
        self._check_positive(table, values, self.offset_)
        logs = np.where(
            self.offset_ == 1.0,
            np.log1p(np.where(self.offset_ == 1.0, values, 0.0), dtype=np.float64),
            np.log(np.where(self.offset_ == 1.0, 1.0, values + self.offset_)),
        )
        return logs.astype(values.dtype, copy=False)

    def inverse_transform(self, X):
        """Exponential of each column, minus the offset.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            A frame may hold a part of the columns.

        Returns
        -------
        DataFrame, Series or ndarray
            The container of X. A logarithm too large for a float gives infinity.
        """
        X, table, values, columns = self._read_inverse(X)
        offset = self.offset_[columns]
        with np.errstate(over="ignore"):
            levels = np.where(
                offset == 1.0,
                np.expm1(values, dtype=np.float64),
                np.exp(values, dtype=np.float64) - offset,
            )
            return self._wrap_inverse(X, table, levels.astype(values.dtype, copy=False))

    def _check_positive(self, table: Table, values: np.ndarray, offset: np.ndarray) -> None:
        bad = values <= -offset
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(
                f"{self._owner}: column {table.frame.columns[column]!r}, row "
                f"{table.frame.index[row]}: the "
                f"logarithm needs values above {0.0 - offset[column]:g}. Got "
                f"{values[row, column]:g}: use a larger offset="
            )
