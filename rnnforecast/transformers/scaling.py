"""Invertible changes of scale that ignore NaN: logarithms, by series, and by window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int, check_real
from rnnforecast.data.frames import Table
from rnnforecast.data.panel import match_series
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator
from rnnforecast.transformers._base import SeriesTransformer

__all__ = ["LogTransformer", "SeriesScaler", "WindowScaler"]

# divisor of groups of values, with their absolute values; and what is subtracted before
_METHODS: dict[str, tuple[Callable[..., pd.DataFrame], str]] = {
    "standard": (lambda values, sizes: values.std(ddof=0), "mean"),
    "robust": (lambda values, sizes: values.quantile(0.75) - values.quantile(0.25), "median"),
    "minmax": (lambda values, sizes: values.max() - values.min(), "min"),
    "mean_abs": (lambda values, sizes: sizes.mean(), "none"),
    "max_abs": (lambda values, sizes: sizes.max(), "none"),
    "none": (lambda values, sizes: sizes.max() * 0 + 1, "none"),
}


def _statistics(
    values: np.ndarray, groups: np.ndarray, n_groups: int, method: str, shift: str
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of the observed values in groups of rows, both (n_groups, n_columns)."""
    frame = pd.DataFrame(np.asarray(values, dtype=np.float64))
    rows, sizes = frame.groupby(groups), frame.abs().groupby(groups)
    size, scale = sizes.max(), _METHODS[method][0](rows, sizes)
    centre = size * 0 if shift == "none" else getattr(rows, shift)()
    # a scale that is unknown, zero, or rounding of a constant of that size counts as 1
    scale = scale.where(scale > 10 * np.finfo(np.float64).eps * size, 1.0)
    every = np.arange(n_groups)
    return centre.reindex(every).fillna(0.0).to_numpy(), scale.reindex(every).fillna(1.0).to_numpy()


@estimator
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

    offset: float | str = "auto"

    def _fit(self, table: Table, values: np.ndarray) -> None:
        if isinstance(self.offset, str):
            check_choice(self._owner, "offset", self.offset, ["auto"])
            low = np.min(values, axis=0, initial=np.inf, where=~np.isnan(values)).astype(np.float64)
            self.offset_ = np.where(low > 0, 0.0, 1.0 - np.minimum(low, 0.0))
        else:
            check_real(self._owner, "offset", self.offset, -np.inf, closed="neither")
            self.offset_ = np.full(values.shape[1], float(self.offset))
        self._transform(table, values)  # refuses what has no logarithm

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        low = 0.0 - self.offset_
        self._refuse_below(table, values, low, "the logarithm needs values", "a larger offset=")
        with np.errstate(divide="ignore", invalid="ignore"):  # of the branch that is not taken
            plain = np.log(values + self.offset_)
            return np.where(self.offset_ == 1.0, np.log1p(values, dtype=np.float64), plain)

    def _inverse(self, table: Table, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        offset = self.offset_[columns]
        plain = np.exp(values, dtype=np.float64) - offset
        return np.where(offset == 1.0, np.expm1(values, dtype=np.float64), plain)


@estimator
class SeriesScaler(SeriesTransformer):
    """Scale each series by statistics of its own observed training values.

    Parameters
    ----------
    method : {"standard", "robust", "minmax", "mean_abs", "max_abs"}, default="standard"
        "standard": subtract the mean, divide by the standard deviation (``ddof=0``).
        "robust": subtract the median, divide by the interquartile range.
        "minmax": map the training range to [0, 1].
        "mean_abs" and "max_abs": divide by the mean or the largest absolute value, with no shift.
    series_id : str, optional
        Column that names the series of each row. A MultiIndex (series, time) needs no parameter.

    Attributes
    ----------
    center_, scale_ : ndarray of shape (n_series, n_columns)
        In the units of the data; one row for an array or a single series.
    series_ : Index of shape (n_series,), or None
        Names of the series; None for an array or a single series.
    columns_ : list
        Columns that are scaled.

    Notes
    -----
    NaN is ignored in fit and stays NaN. A constant column is divided by 1; a column that a series
    never observed is left as it is.

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.MultiIndex.from_product([["A", "B"], range(3)], names=["series", "time"])
    >>> df = pd.DataFrame({"y": [1.0, 2, 3, 10, 20, 30]}, index=index)
    >>> SeriesScaler(method="minmax").fit_transform(df)[:, 0].tolist()
    [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]
    """

    method: str = "standard"
    series_id: Any = None

    def _fit(self, table: Table, values: np.ndarray) -> None:
        check_choice(self._owner, "method", self.method, list(_METHODS)[:-1])
        keys, shift = table.keys, _METHODS[self.method][1]
        self.series_ = None if keys.series is None else keys.ids
        groups = np.zeros(len(table), dtype=np.intp) if keys.series is None else keys.series
        self.center_, self.scale_ = _statistics(values, groups, len(keys.ids), self.method, shift)

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        center, scale = self._match(table)
        return (values - center) / scale

    def _inverse(self, table: Table, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        center, scale = self._match(table)
        return values * scale[:, columns] + center[:, columns]

    def _match(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale for each row, or one of both for all."""
        places = match_series(self._owner, self.series_, table.keys)
        series = places if table.keys.series is None else places[table.keys.series]
        return self.center_[series], self.scale_[series]


@estimator
class WindowScaler(SeriesTransformer):
    """Scale each window (row) by its own statistics.

    Rows are windows of ``n_columns`` variables flattened time by time, oldest first, as
    `rnnforecast.SlidingWindows` makes them: ``(n_windows, lookback * n_columns)``. The
    transformer keeps no statistics: what belongs to a window is scaled (`transform_targets`) and
    unscaled (`inverse_transform`) by passing the windows themselves.

    Parameters
    ----------
    method : {"standard", "robust", "minmax", "mean_abs", "max_abs", "none"}, default="standard"
        The divisor: standard deviation (``ddof=0``), interquartile range, range, mean or largest
        absolute value, or 1.
    shift : {"mean", "median", "last", "none"}, default="mean"
        What is subtracted: the mean, the median, the last observed value, or 0.
    n_columns : int, default=1
        Number of variables in a window.
    targets : sequence of int, optional
        Positions, among the ``n_columns``, of the variables that the rows given together with
        ``windows=`` hold. Default: all.

    Notes
    -----
    ``method="standard", shift="mean"`` is the normalisation of RevIN (Kim et al. 2022, eq. 1-2,
    without the learned affine part); ``method="none", shift="last"`` that of NLinear (Zeng et al.
    2023, section 4). NaN is ignored and stays NaN; a constant window is divided by 1, a window that
    observed nothing is left as it is. Rows whose width is no multiple of ``n_columns`` raise
    `rnnforecast.exceptions.DataError`.

    Examples
    --------
    >>> import numpy as np
    >>> scaler = WindowScaler(method="mean_abs", shift="last").fit([[1.0, 2.0, 3.0]])
    >>> windows = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    >>> scaler.transform(windows).tolist()
    [[-1.0, -0.5, 0.0], [-1.0, -0.5, 0.0]]
    >>> scaler.inverse_transform([[0.5], [0.5]], windows=windows).tolist()
    [[4.0], [40.0]]
    """

    method: str = "standard"
    shift: str = "mean"
    n_columns: int = 1
    targets: Any = None

    def _fit(self, table: Table, values: np.ndarray) -> None:
        check_choice(self._owner, "method", self.method, _METHODS)
        check_choice(self._owner, "shift", self.shift, ["mean", "median", "last", "none"])
        check_int(self._owner, "n_columns", self.n_columns)
        every = np.arange(self.n_columns)
        self.targets_ = every if self.targets is None else np.asarray(self.targets, dtype=np.intp)
        if not len(self.targets_) or not np.isin(self.targets_, every).all():
            raise DataError(
                f"{self._owner}: targets must be positions below n_columns={self.n_columns}. "
                f"Got {self.targets!r}"
            )
        self._check_width(values, self.n_columns)

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        return self._rescale(values, values, np.arange(self.n_columns))

    def transform_targets(self, Y, windows):
        """Scale what follows the windows, for example training targets, by the statistics of the
        windows.

        Parameters
        ----------
        Y : array or DataFrame of shape (n_windows, horizon * n_targets)
        windows : array or DataFrame of shape (n_windows, lookback * n_columns)
            The unscaled windows that the rows of Y follow.

        Returns
        -------
        ndarray or DataFrame
            The container and shape of Y.

        Raises
        ------
        DataError
            If the shapes do not fit together.
        """
        return self._rescale_behind(windows, Y)

    def inverse_transform(self, X, windows=None):
        """Bring scaled rows back to the units of the windows that they belong to.

        Parameters
        ----------
        X : array or DataFrame of shape (n_windows, horizon * n_targets)
            Scaled rows: forecasts of any horizon, or the scaled windows themselves.
        windows : array or DataFrame of shape (n_windows, lookback * n_columns)
            The unscaled windows. Required: a scaled window alone does not know its level.

        Returns
        -------
        ndarray or DataFrame
            The container and shape of X.

        Raises
        ------
        DataError
            If ``windows`` is missing, or the shapes do not fit together.
        """
        if windows is None:
            raise DataError(
                f"{self._owner}: inverse_transform needs windows=, the unscaled windows that the "
                f"rows of X come from"
            )
        return self._rescale_behind(windows, X, undo=True)

    def _rescale_behind(self, windows: Any, X: Any, undo: bool = False) -> Any:
        """Rows of the targets, by the statistics of their windows, in the container of X."""
        _, _, before = self._read(windows, reset=False)
        X, table, values = self._read(X)
        if len(before) != len(values):
            raise DataError(
                f"{self._owner}: X has {len(values)} rows and windows has {len(before)}: pass the "
                f"window of each row"
            )
        self._check_width(values, len(self.targets_))
        out = self._rescale(before, values, self.targets_, undo)
        return self._wrap(X, table, out.astype(values.dtype, copy=False))

    def _rescale(
        self, windows: np.ndarray, values: np.ndarray, columns: np.ndarray, undo: bool = False
    ) -> np.ndarray:
        n, rows = len(windows), windows.reshape(-1, self.n_columns)
        groups = np.repeat(np.arange(n), windows.shape[1] // self.n_columns)
        centre, scale = _statistics(rows, groups, n, self.method, self.shift)
        centre, scale = centre[:, None, columns], scale[:, None, columns]
        parts = values.reshape(n, -1, len(columns))
        return (parts * scale + centre if undo else (parts - centre) / scale).reshape(values.shape)

    def _check_width(self, values: np.ndarray, n_columns: int) -> None:
        if values.shape[1] % n_columns:
            raise DataError(
                f"{self._owner}: rows of {values.shape[1]} values do not divide into {n_columns} "
                f"columns: pass windows flattened to (n_windows, steps * {n_columns})"
            )
