"""Scalers with an inverse that ignore NaN: by series, and by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data._transformer import SeriesTransformer, match_series
from rnnforecast.exceptions import DataError

__all__ = ["SeriesScaler", "WindowScaler", "series_statistics", "window_statistics"]

_SERIES_METHODS = ("standard", "robust", "minmax", "mean_abs", "max_abs")
_WINDOW_METHODS = ("standard", "robust", "minmax", "mean_abs", "max_abs", "none")
_SHIFTS = ("mean", "median", "last", "none")


def series_statistics(
    values: np.ndarray, codes: np.ndarray, n_series: int, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of each series, from observed values only.

    Parameters
    ----------
    values : ndarray, shape (n_rows, n_columns)
        NaN is ignored.
    codes : ndarray of int, shape (n_rows,)
        Series of each row, 0 to ``n_series`` - 1.
    n_series : int
    method : {"standard", "robust", "minmax", "mean_abs", "max_abs"}
        As for `SeriesScaler`.

    Returns
    -------
    centre, scale : ndarray of float64, shape (n_series, n_columns)
        0 and 1 where nothing was observed; scale 1 where the values are constant.
    """
    frame = pd.DataFrame(np.asarray(values, dtype=np.float64))
    groups = frame.groupby(codes)
    size = frame.abs().groupby(codes).max()
    zero = pd.DataFrame(0.0, index=size.index, columns=size.columns)
    if method == "standard":
        centre, scale = groups.mean(), groups.std(ddof=0)
    elif method == "robust":
        centre, scale = groups.median(), groups.quantile(0.75) - groups.quantile(0.25)
    elif method == "minmax":
        centre, scale = groups.min(), groups.max() - groups.min()
    elif method == "mean_abs":
        centre, scale = zero, frame.abs().groupby(codes).mean()
    else:
        centre, scale = zero, size
    every = np.arange(n_series)
    centre, scale, size = (part.reindex(every).to_numpy() for part in (centre, scale, size))
    return np.nan_to_num(centre, nan=0.0), _usable_scale(scale, size)


def window_statistics(
    windows: np.ndarray, method: str, shift: str
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of each window, from observed values only.

    Parameters
    ----------
    windows : ndarray, shape (n_windows, lookback, n_columns)
    method : {"standard", "robust", "minmax", "mean_abs", "max_abs", "none"}
    shift : {"mean", "median", "last", "none"}
        As for `WindowScaler`.

    Returns
    -------
    centre, scale : ndarray of float64, shape (n_windows, 1, n_columns)
    """
    windows = np.asarray(windows, dtype=np.float64)
    seen = ~np.isnan(windows)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    known = np.where(seen, windows, 0.0)
    empty = ~seen.any(axis=1, keepdims=True)
    mean = known.sum(axis=1, keepdims=True) / count
    size = np.abs(known).max(axis=1, keepdims=True)
    if method == "standard":
        deviation = np.where(seen, windows - mean, 0.0)
        scale = np.sqrt((deviation**2).sum(axis=1, keepdims=True) / count)
    elif method == "robust":
        filled = np.where(empty, 0.0, windows)
        low, high = np.nanquantile(filled, [0.25, 0.75], axis=1, keepdims=True)
        scale = high - low
    elif method == "minmax":
        high = np.where(seen, windows, -np.inf).max(axis=1, keepdims=True)
        low = np.where(seen, windows, np.inf).min(axis=1, keepdims=True)
        scale = np.where(empty, 0.0, high) - np.where(empty, 0.0, low)
    elif method == "mean_abs":
        scale = np.abs(known).sum(axis=1, keepdims=True) / count
    else:
        scale = size if method == "max_abs" else np.ones_like(mean)
    if shift == "mean":
        centre = mean
    elif shift == "median":
        centre = np.nanmedian(np.where(empty, 0.0, windows), axis=1, keepdims=True)
    elif shift == "last":
        last = windows.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
        centre = np.take_along_axis(known, last[:, None], axis=1)
    else:
        centre = np.zeros_like(mean)
    return centre, _usable_scale(scale, size)


def _usable_scale(scale: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Scale with 1 in place of what is unknown, zero, or rounding of a constant of that size."""
    rounding = 10 * np.finfo(np.float64).eps * size
    return np.where(scale > np.nan_to_num(rounding), scale, 1.0)


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
        Column that names the series of each row. It is carried through unchanged, and `transform`
        then returns a DataFrame. A MultiIndex (series, time) needs no parameter.

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
    never observed is left as it is. A series that was not in fit raises
    `rnnforecast.exceptions.DataError`.

    `inverse_transform` also takes a frame with some of the columns only, such as a forecast of the
    target, and columns (name, quantile).

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.MultiIndex.from_product([["A", "B"], range(3)], names=["series", "time"])
    >>> df = pd.DataFrame({"y": [1.0, 2, 3, 10, 20, 30]}, index=index)
    >>> SeriesScaler(method="minmax").fit_transform(df)[:, 0].tolist()
    [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]
    """

    def __init__(self, *, method="standard", series_id=None):
        self.method = method
        self.series_id = series_id

    def fit(self, X, y=None):
        """Compute the statistics of each series.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
        y : ignored

        Returns
        -------
        SeriesScaler

        Raises
        ------
        DataError
            If ``method`` is unknown, or X holds text or infinite values.
        """
        check_choice(self._owner, "method", self.method, _SERIES_METHODS)
        X, table, values = self._read(X, fitted=False)
        keys = table.keys
        ids = None if keys.series is None else keys.ids
        codes = match_series(self._owner, keys, ids, len(table))
        n_series = 1 if ids is None else len(ids)
        center, scale = series_statistics(values, codes, n_series, self.method)
        self._remember(X, table)
        self.series_, self.center_, self.scale_ = ids, center, scale
        return self

    def transform(self, X):
        """Scale rows by the statistics of their series.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)

        Returns
        -------
        ndarray of shape (n_rows, n_columns), or DataFrame
            A DataFrame if ``series_id`` is used or ``set_output(transform="pandas")`` was called.

        Raises
        ------
        DataError
            If a series was not in fit.
        """
        X, table, values = self._read(X)
        codes = match_series(self._owner, table.keys, self.series_, len(table))
        scaled = (values - self.center_[codes]) / self.scale_[codes]
        return self._wrap(X, table, scaled.astype(values.dtype, copy=False))

    def inverse_transform(self, X):
        """Undo the scaling.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Scaled values; a frame may hold a part of the columns.

        Returns
        -------
        DataFrame, Series or ndarray
            The container of X.
        """
        X, table, values, columns = self._read_inverse(X)
        codes = match_series(self._owner, table.keys, self.series_, len(table))
        levels = values * self.scale_[codes][:, columns] + self.center_[codes][:, columns]
        return self._wrap_inverse(X, table, levels.astype(values.dtype, copy=False))


class WindowScaler(SeriesTransformer):
    """Scale each window (row) by its own statistics.

    Rows are windows of ``n_columns`` variables flattened time by time, oldest first, as
    `rnnforecast.data.SlidingWindows` makes them: ``(n_windows, lookback * n_columns)``. The
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
    observed nothing is left as it is.

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

    def __init__(self, *, method="standard", shift="mean", n_columns=1, targets=None):
        self.method = method
        self.shift = shift
        self.n_columns = n_columns
        self.targets = targets

    def fit(self, X, y=None):
        """Check the parameters against the shape of the windows; no statistics are kept.

        Parameters
        ----------
        X : array or DataFrame of shape (n_windows, lookback * n_columns)
        y : ignored

        Returns
        -------
        WindowScaler

        Raises
        ------
        DataError
            If a parameter is unknown, or the width of X is no multiple of ``n_columns``.
        """
        check_choice(self._owner, "method", self.method, _WINDOW_METHODS)
        check_choice(self._owner, "shift", self.shift, _SHIFTS)
        check_int(self._owner, "n_columns", self.n_columns)
        targets = range(self.n_columns) if self.targets is None else self.targets
        targets = np.asarray(list(targets), dtype=np.intp)
        if not len(targets) or targets.min() < 0 or targets.max() >= self.n_columns:
            raise DataError(
                f"{self._owner}: targets must be positions below n_columns={self.n_columns}. "
                f"Got {self.targets!r}"
            )
        X, table, values = self._read(X, fitted=False)
        self._split(values, self.n_columns)
        self._remember(X, table)
        self.targets_ = targets
        return self

    def transform(self, X):
        """Scale windows by their own statistics.

        Parameters
        ----------
        X : array or DataFrame of shape (n_windows, lookback * n_columns)

        Returns
        -------
        ndarray of shape (n_windows, lookback * n_columns)
            A DataFrame after ``set_output(transform="pandas")``.
        """
        X, _, values = self._read(X)
        parts = self._split(values, self.n_columns)
        centre, scale = window_statistics(parts, self.method, self.shift)
        scaled = ((parts - centre) / scale).reshape(values.shape)
        return scaled.astype(values.dtype, copy=False)

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
        centre, scale = self._statistics_of(windows, Y)
        Y, table, values = self._read(Y, fitted=False)
        parts = self._split(values, centre.shape[2])
        scaled = ((parts - centre) / scale).reshape(values.shape)
        return self._wrap_inverse(Y, table, scaled.astype(values.dtype, copy=False))

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
        self._check_fitted()
        if windows is None:
            raise DataError(
                f"{self._owner}: inverse_transform needs windows=, the unscaled windows that the "
                f"rows of X come from"
            )
        centre, scale = self._statistics_of(windows, X)
        X, table, values = self._read(X, fitted=False)
        parts = self._split(values, centre.shape[2])
        levels = (parts * scale + centre).reshape(values.shape)
        return self._wrap_inverse(X, table, levels.astype(values.dtype, copy=False))

    def _statistics_of(self, windows: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Statistics of the targets in ``windows``, both of shape (n_windows, 1, n_targets)."""
        _, _, values = self._read(windows)
        n_rows = len(X)
        if len(values) != n_rows:
            raise DataError(
                f"{self._owner}: X has {n_rows} rows and windows has {len(values)}: pass the "
                f"window of each row"
            )
        parts = self._split(values, self.n_columns)
        centre, scale = window_statistics(parts, self.method, self.shift)
        return centre[..., self.targets_], scale[..., self.targets_]

    def _split(self, values: np.ndarray, n_columns: int) -> np.ndarray:
        if values.shape[1] % n_columns:
            raise DataError(
                f"{self._owner}: rows of {values.shape[1]} values do not divide into {n_columns} "
                f"columns: pass windows flattened to (n_windows, steps * {n_columns})"
            )
        return values.reshape(len(values), -1, n_columns)
