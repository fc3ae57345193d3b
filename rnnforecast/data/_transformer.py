"""What the transformers share: reading input, naming columns, and finding each row's step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import validate_data

from rnnforecast.data.building import build_panel
from rnnforecast.data.frames import Keys, Table, numeric, read_table, to_pandas
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.exceptions import DataError, NotFittedError

__all__ = [
    "SeriesTransformer",
    "SteppedTransformer",
    "is_sampled_from",
    "match_series",
    "sample_rows",
]

_N_SAMPLED = 64  # rows by which an array is recognised as the training rows


class SeriesTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Abstract base: one column out for each column in, NaN kept, float32 and float64 preserved.

    Key columns named by the parameters ``series_id`` and ``time``, where a subclass has them, are
    carried through unchanged.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError(f"{self._owner} is not fitted yet: call fit first")

    def _read(self, X: Any, *, fitted: bool = True) -> tuple[Any, Table, np.ndarray]:
        """X (narwhals frames as pandas), its table, and the values of shape (n_rows, n_columns)."""
        if fitted:
            self._check_fitted()
        if not isinstance(X, (pd.DataFrame, pd.Series)):
            frame, is_array = to_pandas(self._owner, X)
            X = frame.to_numpy() if is_array else frame
        keys = (getattr(self, "series_id", None), getattr(self, "time", None))
        table = read_table(self._owner, X, *keys)
        if fitted:
            self._validate_names(X, reset=False)
        return X, table, numeric(self._owner, table.frame, list(table.frame.columns))

    def _validate_names(self, X: Any, *, reset: bool) -> None:
        if isinstance(X, pd.Series):
            X = X.to_frame(name="y" if X.name is None else X.name)
        validate_data(self, X, reset=reset, skip_check_array=True)

    def _remember(self, X: Any, table: Table) -> None:
        """Store names and counts of the columns; the first assignment of every fit."""
        self._validate_names(X, reset=True)
        self.columns_ = list(table.frame.columns)

    def _read_inverse(self, X: Any) -> tuple[Any, Table, np.ndarray, np.ndarray]:
        """Like ``_read`` for transformed rows; the last item maps columns of X to those of fit.

        A frame may hold some of the columns only, and columns (name, quantile) of a forecast.
        """
        self._check_fitted()
        if not isinstance(X, (pd.DataFrame, pd.Series)):
            frame, is_array = to_pandas(self._owner, X)
            X = frame.to_numpy() if is_array else frame
        keys = (getattr(self, "series_id", None), getattr(self, "time", None))
        if isinstance(X, pd.DataFrame) and isinstance(X.index, pd.MultiIndex):
            keys = tuple(key if key in X.columns else None for key in keys)  # type: ignore[assignment]
        table = read_table(self._owner, X, *keys)
        found = list(table.frame.columns)
        columns = self._match(found, positional=table.is_array or self._by_position)
        return X, table, numeric(self._owner, table.frame, found), columns

    @property
    def _by_position(self) -> bool:
        """True if fit saw no column names."""
        return not hasattr(self, "feature_names_in_")

    def _match(self, found: list, positional: bool) -> np.ndarray:
        known = self.columns_
        if positional:
            if len(found) != len(known):
                raise DataError(
                    f"{self._owner}: X has {len(found)} columns, expected the {len(known)} of fit"
                )
            return np.arange(len(known))
        place = {name: i for i, name in enumerate(known)}
        at = []
        for name in found:
            base = name[0] if isinstance(name, tuple) and name not in place else name
            if base not in place:
                raise DataError(
                    f"{self._owner}: column {name!r} was not in fit, which saw {known!r}"
                )
            at.append(place[base])
        return np.asarray(at, dtype=np.intp)

    def _wrap(self, X: Any, table: Table, values: np.ndarray) -> Any:
        """Values as transform returns them: an array, or a frame if X carries key columns."""
        if isinstance(X, pd.DataFrame) and len(table.columns) > table.frame.shape[1]:
            return _with_keys(X, table, values)
        return values

    def _wrap_inverse(self, X: Any, table: Table, values: np.ndarray) -> Any:
        """Values in the container of X: frame for frame, series for series, array for array."""
        if isinstance(X, pd.Series):
            return pd.Series(values[:, 0], index=X.index, name=X.name)
        if not isinstance(X, pd.DataFrame):
            return values
        if len(table.columns) > table.frame.shape[1]:
            return _with_keys(X, table, values)
        return pd.DataFrame(values, index=X.index, columns=X.columns)


def _with_keys(X: pd.DataFrame, table: Table, values: np.ndarray) -> pd.DataFrame:
    place = {name: i for i, name in enumerate(table.frame.columns)}
    columns = {name: values[:, place[name]] if name in place else X[name] for name in X.columns}
    return pd.DataFrame(columns, index=X.index)


def match_series(owner: str, keys: Keys, known: pd.Index | None, n_rows: int) -> np.ndarray:
    """Position in ``known`` of each row's series, int, shape (n_rows,).

    Raises
    ------
    DataError
        If a series was not in fit, or a panel meets a single series.
    """
    if known is None:
        if keys.series is not None and len(keys.ids) > 1:
            raise DataError(
                f"{owner}: fit saw one series without a name, now X has {len(keys.ids)} series: "
                f"fit on the panel"
            )
        return np.zeros(n_rows, dtype=np.intp)
    if keys.series is None:
        raise DataError(
            f"{owner}: fit saw a panel of {len(known)} series, now X does not say which series its "
            f"rows belong to: pass a MultiIndex (series, time) or the key columns of fit"
        )
    at = known.get_indexer(keys.ids)
    if (at < 0).any():
        new = keys.ids[at < 0]
        raise DataError(
            f"{owner}: series {new[0]!r} was not in fit ({len(new)} such series, {len(known)} "
            f"known): fit on data that hold it, or drop its rows"
        )
    return at[keys.series]


class SteppedTransformer(SeriesTransformer):
    """Abstract base of transformers for which the time step of a row matters.

    Subclasses have the parameters ``series_id``, ``time`` and ``freq``. A fit stores ``panel_``
    (the rows of fit on their grid) and ``keys_`` (whose rows they were).
    """

    def _build(self, table: Table, values: np.ndarray) -> Panel:
        none = np.empty((len(values), 0), dtype=values.dtype)
        freq = getattr(self, "freq", None)
        return build_panel(self._owner, table.keys, values, none, none, none, freq).owned()

    def _locate(self, table: Table, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Series of each row and its position, counted from the first row of the series in fit.

        Rows without an index are those of fit if ``training``; else they follow on from the end.
        """
        panel, keys = self.panel_, table.keys
        if keys.levels is None or panel.calendar is None:
            if training:
                series, steps = panel.locate(self._owner, self.keys_)
                if panel.calendar is None:
                    steps = steps - len(steps)
            else:
                series = match_series(
                    self._owner, keys, panel.ids if panel.is_panel else None, len(table)
                )
                steps = np.arange(1, len(table) + 1)
        else:
            series, steps = panel.locate(self._owner, keys)
        return series, panel.lengths[series] - 1 + steps

    def _rows(self, table: Table, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Like ``_locate``, with later rows on their own grid as consecutive steps, none twice."""
        series, positions = self._locate(table, training)
        panel, keys = self.panel_, table.keys
        own_grid = panel.stamps is not None and keys.levels is not None
        for i, rows in group_rows(series):
            place = positions[rows]
            if own_grid:
                place = _consecutive(keys.stamps(rows), place, int(panel.lengths[i]))
                positions[rows] = place
            if len(np.unique(place)) < len(place):
                raise DataError(
                    f"{self._owner}: {panel.label(i)} has two rows with the same time stamp: "
                    f"drop one"
                )
        return series, positions

    def _is_training(self, table: Table, values: np.ndarray) -> bool:
        """True for an array that holds the rows of fit, value for value."""
        panel = self.panel_
        if table.keys.levels is not None and panel.calendar is not None:
            return False
        if len(values) != self.keys_.n_rows:
            return False
        if panel.calendar is None:
            return np.array_equal(values, panel.targets, equal_nan=True)
        series, steps = panel.locate(self._owner, self.keys_)
        at = panel.indptr[series + 1] - 1 + steps
        return np.array_equal(values, panel.targets[at], equal_nan=True)


def _consecutive(stamps: pd.Index, positions: np.ndarray, length: int) -> np.ndarray:
    """Positions on a trading calendar: rows that were observed are steps, holidays are not."""
    later = np.flatnonzero(positions >= length)
    if not len(later):
        return positions
    later = later[stamps[later].argsort()]
    distinct = np.cumsum(np.r_[0, np.asarray(stamps[later][1:] > stamps[later][:-1], dtype=int)])
    positions = positions.copy()
    positions[later] = positions[later[0]] + distinct
    return positions


def sample_rows(values: np.ndarray) -> np.ndarray:
    """Up to 64 evenly spaced rows, by which `is_sampled_from` knows the array again."""
    rows = np.linspace(0, len(values) - 1, min(len(values), _N_SAMPLED)).astype(np.intp)
    return np.array(values[rows], dtype=np.float64)


def is_sampled_from(sample: np.ndarray, n_rows: int, values: np.ndarray) -> bool:
    """True if ``values`` has ``n_rows`` rows and agrees with ``sample`` to 1e-6 of its size."""
    if len(values) != n_rows or values.shape[1] != sample.shape[1]:
        return False
    size = float(np.max(np.abs(sample), initial=0.0, where=~np.isnan(sample)))
    return np.allclose(sample_rows(values), sample, rtol=0.0, atol=1e-6 * size, equal_nan=True)
