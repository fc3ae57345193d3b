"""What the transformers share: reading and giving back tables, and finding each row's time step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from rnnforecast.data.frames import Table, numeric, read_table
from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError, NotFittedError
from rnnforecast.parameters import estimator


class SeriesTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Abstract base: one column out for each column in, NaN kept, float32 and float64 preserved.

    A subclass writes ``_fit(table, values)``, ``_transform(table, values)`` and, if it can be
    undone, ``_inverse(table, values, columns)``, with the places in ``columns_`` of its columns.
    Key columns named by ``series_id`` and ``time`` are carried through.
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
            If a parameter, a value (see the notes of the class) or a time stamp cannot be used.
            What was fitted before is kept then.
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
            Where the step of a row matters, its time stamp decides. Arrays have none: the array of
            fit is the training range, any other follows on from its end.

        Returns
        -------
        ndarray of shape (n_rows, n_features_out), or DataFrame
            A DataFrame if key columns are used or ``set_output(transform="pandas")`` was called.

        Raises
        ------
        DataError
            If a value cannot be used, a series was not in fit, or a row lies before its first one.
        """
        X, table, values = self._read(X, reset=False)
        out = self._transform(table, values).astype(values.dtype, copy=False)
        return out if len(table.columns) == values.shape[1] else self._wrap(X, table, out)

    @available_if(lambda self: hasattr(self, "_inverse"))
    def inverse_transform(self, X):
        """Undo `transform`.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Transformed rows of fit or after it, found as in `transform`. A frame may hold a part of
            the columns, and columns (name, quantile) of a forecast.

        Returns
        -------
        DataFrame, Series or ndarray
            The container of X. A value too large for a float is infinity.

        Raises
        ------
        DataError
            If a column or a series was not in fit, or a row lies before its first one.
        """
        X, table, values = self._read(X)
        with np.errstate(over="ignore"):
            out = self._inverse(table, values, self._match_columns(table))
            return self._wrap(X, table, out.astype(values.dtype, copy=False))

    _fit: Callable[..., None]
    _transform: Callable[..., np.ndarray]
    _inverse: Callable[..., np.ndarray]

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError(f"{self._owner} is not fitted yet: call fit first")

    def _read(self, X: Any, reset: bool | None = None) -> tuple[Any, Table, np.ndarray]:
        """X (frames as pandas), its table and values; names are stored, checked or ignored."""
        if not reset:
            self._check_fitted()
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
        """Places in ``columns_`` of the columns of transformed rows, by name where fit had any."""
        known, found = {name: i for i, name in enumerate(self.columns_)}, table.frame.columns
        if table.is_array or not hasattr(self, "feature_names_in_"):
            if len(found) != len(known):
                raise DataError(
                    f"{self._owner}: X has {len(found)} columns, expected the {len(known)} of fit"
                )
            return np.arange(len(known))
        bases = [n[0] if isinstance(n, tuple) and n not in known else n for n in found]
        for base, name in zip(bases, found, strict=True):
            if base not in known:
                raise DataError(
                    f"{self._owner}: column {name!r} was not in fit, which saw {self.columns_!r}"
                )
        return np.array([known[base] for base in bases], dtype=np.intp)

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

    def _refuse_below(
        self, table: Table, values: np.ndarray, low: np.ndarray | float, why: str, use: str
    ) -> None:
        """Raise unless the values of each column are above ``low``; NaN passes."""
        bad = values <= low
        if bad.any():
            row, column = np.argwhere(bad)[0]
            least = np.broadcast_to(low, values.shape)[row, column]
            raise DataError(
                f"{self._owner}: column {table.frame.columns[column]!r}, row "
                f"{table.frame.index[row]}: {why} above {least:g}. Got {values[row, column]:g}: "
                f"use {use}"
            )


_Rows = tuple[np.ndarray, np.ndarray]  # series of each row, and its position in the series


def spread(counts: np.ndarray) -> _Rows:
    """Group and place in the group of each row, where groups of these sizes follow each other."""
    group = np.repeat(np.arange(len(counts)), counts)
    return group, np.arange(len(group)) - (np.cumsum(counts) - counts)[group]


@estimator
class SteppedTransformer(SeriesTransformer):
    """Abstract base of transformers for which the time step of a row matters.

    Parameters
    ----------
    series_id : str, optional
        Column that names the series of each row. A MultiIndex (series, time) needs no parameter.
    time : str, optional
        Column of time stamps.
    freq : str, DateOffset or int, optional
        Frequency of the index, if it cannot be inferred.
    """

    series_id: Any = None
    time: Any = None
    freq: Any = None

    def _fit(self, table: Table, values: np.ndarray) -> None:
        own = np.array(values, order="C")  # safe from the caller's later writes
        none = own[:, :0]
        self.panel_ = Panel.build(self._owner, table.keys, own, none, none, none, self.freq)
        self.keys_ = table.keys

    def _locate(
        self, table: Table, values: np.ndarray, is_fitted: Callable[..., bool] | None = None
    ) -> _Rows:
        """Series of each row and its position, counted from the first row of the series in fit.

        The time stamp decides. Rows without one follow on from the end, unless they are those of
        fit: as many, and equal to them or as ``is_fitted(stored, series, positions)`` expects.
        """
        panel, keys = self.panel_, table.keys
        if (keys.levels is None or panel.calendar is None) and len(table) == self.keys_.n_rows:
            series, steps = panel.locate(self._owner, self.keys_)
            positions = steps - 1 + (0 if panel.calendar is None else panel.lengths[series])
            stored = panel.targets[panel.indptr[series] + positions]
            same = is_fitted or (lambda stored, *_: np.array_equal(values, stored, equal_nan=True))
            if same(stored, series, positions):
                return series, positions
        series, steps = panel.locate(self._owner, keys)
        return series, panel.lengths[series] - 1 + steps

    def _extend(
        self, table: Table, values: np.ndarray, is_fitted: Callable[..., bool] | None = None
    ) -> tuple[Panel, np.ndarray, np.ndarray]:
        """The panel of fit with later rows of ``table``; series and position of all its rows."""
        panel, keys = self.panel_, table.keys
        series, positions = self._locate(table, values, is_fitted)
        later = np.flatnonzero(positions >= panel.lengths[series])
        if not len(later):
            return panel, series, positions
        rows = later[np.lexsort((positions[later], series[later]))]
        coming = replace(table, frame=table.frame.iloc[rows], keys=keys.take(rows))
        grown = panel.append(self._owner, coming, values[rows])
        if grown.stamps is not None and keys.has_time:
            # after fit too, days that were observed are steps and holidays are not
            series, steps = grown.locate(self._owner, keys)
            positions = grown.lengths[series] - 1 + steps
        return grown, series, positions
