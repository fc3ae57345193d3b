"""What all transformers share: reading input, checking its columns, giving it back as it came."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from rnnforecast.data.frames import Table, numeric, read_table
from rnnforecast.exceptions import DataError, NotFittedError

__all__ = ["SeriesTransformer"]


class SeriesTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Abstract base: one column out for each column in, NaN kept, float32 and float64 preserved.

    A subclass writes ``_fit(table, values)``, which sets its fitted attributes,
    ``_transform(table, values)`` and, if it can be undone, ``_inverse(table, values, columns)``,
    where ``columns`` are the positions in ``columns_`` of the columns of ``values``.

    Key columns named by the parameters ``series_id`` and ``time``, where a subclass has them, are
    carried through unchanged.
    """

    columns_: list
    _places: list[int]  # of columns_ among all columns of X

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def fit(self, X, y=None):
        """Learn from X what `transform` needs.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Sorted by time within each series.
        y : ignored

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        DataError
            If a parameter cannot be used, X holds text or infinite values, time stamps are
            unsorted, repeated or off the grid, or values cannot be transformed (see the notes of
            the class). What was fitted before is kept then.
        """
        fitted = copy.copy(self)  # nothing is half-fitted after an error
        X, table, values = fitted._read(X, reset=True)
        fitted.columns_ = list(table.frame.columns)
        fitted._places = [i for i, name in enumerate(table.columns) if name in table.frame.columns]
        fitted._fit(table, values)
        self.__dict__ = fitted.__dict__
        return self

    def transform(self, X):
        """Transform rows.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)

        Returns
        -------
        ndarray of shape (n_rows, n_columns), or DataFrame
            A DataFrame if key columns are used or ``set_output(transform="pandas")`` was called.

        Raises
        ------
        DataError
            If a series was not in fit, a row lies before the training range, or values cannot be
            transformed (see the notes of the class).
        """
        self._check_fitted()
        X, table, values = self._read(X, reset=False)
        out = self._transform(table, values).astype(values.dtype, copy=False)
        return out if len(table.columns) == values.shape[1] else self._wrap(X, table, out)

    @available_if(lambda self: hasattr(self, "_inverse"))
    def inverse_transform(self, X):
        """Undo `transform`.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Transformed rows, of any time from the training range on. A frame may hold a part of the
            columns, and columns (name, quantile) of a forecast.

        Returns
        -------
        DataFrame, Series or ndarray
            The container of X. A value too large for a float is infinity.

        Raises
        ------
        DataError
            If a column or a series was not in fit, or a row lies before the training range.
        """
        self._check_fitted()
        X, table, values = self._read(X)
        with np.errstate(over="ignore"):
            out = self._inverse(table, values, self._match_columns(table))
            return self._wrap(X, table, out.astype(values.dtype, copy=False))

    def _fit(self, table: Table, values: np.ndarray) -> None:
        raise NotImplementedError

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError(f"{self._owner} is not fitted yet: call fit first")

    def _read(self, X: Any, reset: bool | None = None) -> tuple[Any, Table, np.ndarray]:
        """X (frames of all kinds as pandas), its table, and its values (n_rows, n_columns).

        Names of columns are stored (``reset``), checked against those of fit, or not looked at
        (None).
        """
        series_id, time = getattr(self, "series_id", None), getattr(self, "time", None)
        if isinstance(X, pd.DataFrame) and isinstance(X.index, pd.MultiIndex):
            # a forecast has its keys in the index even if they were columns in fit
            series_id, time = (key if key in X.columns else None for key in (series_id, time))
        table = read_table(self._owner, X, series_id, time)
        if not table.is_array and not isinstance(X, (pd.DataFrame, pd.Series)):
            X = read_table(self._owner, X).frame  # polars, pyarrow: key columns too
        if reset is not None:
            named = table.frame if isinstance(X, pd.Series) else X
            validate_data(self, named, reset=reset, skip_check_array=True)
        return X, table, numeric(self._owner, table.frame, list(table.frame.columns))

    def _match_columns(self, table: Table) -> np.ndarray:
        """Positions in ``columns_`` of the columns of transformed rows, by name where fit had any.

        Shape (n_columns,).
        """
        known, found = {name: i for i, name in enumerate(self.columns_)}, table.frame.columns
        if table.is_array or not hasattr(self, "feature_names_in_"):
            if len(found) != len(known):
                raise DataError(
                    f"{self._owner}: X has {len(found)} columns, expected the {len(known)} of fit"
                )
            return np.arange(len(known))
        places = []
        for name in found:
            base = name[0] if isinstance(name, tuple) and name not in known else name
            if base not in known:
                raise DataError(
                    f"{self._owner}: column {name!r} was not in fit, which saw {self.columns_!r}"
                )
            places.append(known[base])
        return np.asarray(places, dtype=np.intp)

    def _wrap(self, X: Any, table: Table, values: np.ndarray) -> Any:
        """Values in the container of X, with its key columns."""
        if isinstance(X, pd.Series):
            return pd.Series(values[:, 0], index=X.index, name=X.name)
        if not isinstance(X, pd.DataFrame):
            return values
        frame = pd.DataFrame(values, index=X.index, columns=table.frame.columns)
        if len(table.columns) == values.shape[1]:
            return frame
        return pd.concat([X.drop(columns=frame.columns), frame], axis=1)[table.columns]

    def _refuse(self, table: Table, values: np.ndarray, bad: np.ndarray, why: str, do: str) -> None:
        """Raise if a value is ``bad``, naming the first one's column and row."""
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(
                f"{self._owner}: column {table.frame.columns[column]!r}, row "
                f"{table.frame.index[row]}: {why}. Got {values[row, column]:g}: {do}"
            )
