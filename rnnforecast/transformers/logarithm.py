"""Logarithms, and their inverse."""

from __future__ import annotations

import numpy as np

from rnnforecast._validation import check_choice, check_real
from rnnforecast.data.frames import Table
from rnnforecast.transformers._base import SeriesTransformer

__all__ = ["LogTransformer"]


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
    and `transform`; the message names their column and row.

    Examples
    --------
    >>> LogTransformer(offset=1.0).fit_transform([[0.0], [1.0]]).round(4).tolist()
    [[0.0], [0.6931]]
    """

    offset_: np.ndarray

    def __init__(self, *, offset="auto"):
        self.offset = offset

    def _fit(self, table: Table, values: np.ndarray) -> None:
        if isinstance(self.offset, str):
            check_choice(self._owner, "offset", self.offset, ["auto"])
            low = np.min(values, axis=0, initial=np.inf, where=~np.isnan(values)).astype(np.float64)
            self.offset_ = np.where(low > 0, 0.0, 1.0 - np.minimum(low, 0.0))
        else:
            check_real(self._owner, "offset", self.offset, -np.inf, closed="neither")
            self.offset_ = np.full(values.shape[1], float(self.offset))
        self._check_above(table, values)

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        self._check_above(table, values)
        with np.errstate(divide="ignore", invalid="ignore"):  # of the branch that is not taken
            plain = np.log(values + self.offset_)
            return np.where(self.offset_ == 1.0, np.log1p(values, dtype=np.float64), plain)

    def _inverse(self, table: Table, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        offset = self.offset_[columns]
        plain = np.exp(values, dtype=np.float64) - offset
        return np.where(offset == 1.0, np.expm1(values, dtype=np.float64), plain)

    def _check_above(self, table: Table, values: np.ndarray) -> None:
        bad = values <= -self.offset_
        if bad.any():
            low = 0.0 - self.offset_[np.argwhere(bad)[0, 1]]
            why = f"the logarithm needs values above {low:g}"
            self._refuse(table, values, bad, why, "use a larger offset=")
