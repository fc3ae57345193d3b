"""Differences at one or more lags, and their inverse."""

from __future__ import annotations

import numpy as np

from rnnforecast._validation import check_int
from rnnforecast.data._transformer import SteppedTransformer
from rnnforecast.data.panel import group_rows
from rnnforecast.exceptions import DataError

__all__ = ["Differencer", "difference", "integrate"]


class Differencer(SteppedTransformer):
    r"""Difference each series, at one or more lags in turn: :math:`\prod_j (1 - B^{l_j})\, x_t`.

    Parameters
    ----------
    lags : tuple of int, default=(1,)
        Steps; ``(1, 24)`` takes the change of the seasonal change.
    series_id, time : str, optional
        Columns that name the series and the time stamp of each row; they are carried through, and
        `transform` then returns a DataFrame. A MultiIndex (series, time) needs no parameter.
    freq : str, DateOffset or int, optional
        Frequency of the index, if it cannot be inferred.

    Attributes
    ----------
    panel_ : Panel
        The rows of fit on their time grid.
    lags_ : tuple of int
    columns_ : list
        Columns that are differenced.

    Notes
    -----
    Lags count time steps, not rows: a row missing from a regular grid is an unobserved step. A
    difference that involves an unobserved value is NaN, and so are the first ``sum(lags)`` steps of
    each series.

    *Which rows are meant.* The time stamp decides. Rows in the training range are differenced
    against the values seen in fit, so that any subset in any order gives the same answer; rows
    after it are differenced against the end of the training range and against one another, so that
    a test fold has no NaN at its head. An array has no stamps: in `transform`, the very array of
    fit is the training range; in `inverse_transform`, an array with as many rows as in fit and NaN
    in its head (the first ``sum(lags)`` steps) is; any other array follows on directly from the
    end.

    *Inverse in the training range.* A difference is added to the values that fit saw at the lags (a
    one-step forecast); where fit itself had no difference and X is NaN, the value seen in fit is
    returned. So the round trip is exact, and a NaN harms its own row only.

    *Inverse after it.* Differences are cumulated from the end. If the last values of fit are
    missing, the last ones observed at the same lag stand in, and steps that X skips count as no
    change. A NaN difference leaves the level unknown from there on, so every later row that builds
    on it is NaN too: the inverse of `transform` returns the value or NaN, never another value.

    Quantiles cannot be cumulated; columns (name, quantile) are refused.

    References
    ----------
    Box, Jenkins, Reinsel and Ljung, *Time Series Analysis*, 5th ed., 2015, eq. 4.1.2 and 9.1.3.

    Examples
    --------
    >>> differencer = Differencer().fit([[1.0], [3.0], [6.0]])
    >>> differencer.transform([[10.0], [11.0]]).ravel().tolist()  # rows that follow
    [4.0, 1.0]
    >>> differencer.inverse_transform([[4.0], [1.0]]).ravel().tolist()
    [10.0, 11.0]
    """

    def __init__(self, *, lags=(1,), series_id=None, time=None, freq=None):
        self.lags = lags
        self.series_id = series_id
        self.time = time
        self.freq = freq

    def fit(self, X, y=None):
        """Store the training rows, from which later rows are differenced and levels restored.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Sorted by time within each series.
        y : ignored

        Returns
        -------
        Differencer

        Raises
        ------
        DataError
            If ``lags`` are not positive integers, or stamps are unsorted, repeated or off the grid.
        """
        lags = tuple(self.lags) if isinstance(self.lags, (list, tuple)) else (self.lags,)
        if not lags:
            raise DataError(f"{self._owner}: lags must hold at least one lag. Got {self.lags!r}")
        for lag in lags:
            check_int(self._owner, "lags", lag)
        X, table, values = self._read(X, fitted=False)
        panel = self._build(table, values)
        self._remember(X, table)
        self.panel_, self.keys_, self.lags_ = panel, table.keys, tuple(int(lag) for lag in lags)
        return self

    def transform(self, X):
        """Difference rows of the training range or rows that follow it.

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
            If a series was not in fit, or a row lies before the training range.
        """
        X, table, values = self._read(X)
        series, positions = self._rows(table, self._is_training(table, values))
        out = np.empty(values.shape, dtype=np.float64)
        for i, rows in group_rows(series):
            history = self.panel_.targets[self.panel_.series(i)]
            out[rows] = difference(history, positions[rows], values[rows], self.lags_)
        return self._wrap(X, table, out.astype(values.dtype, copy=False))

    def inverse_transform(self, X):
        """Restore levels from differences.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Differences; a frame may hold a part of the columns.

        Returns
        -------
        DataFrame, Series or ndarray
            The container of X. See the notes of the class for the rules.

        Raises
        ------
        DataError
            If a series was not in fit, a row lies before the training range, or columns are
            quantiles.
        """
        X, table, values, columns = self._read_inverse(X)
        quantiles = [name for name in table.frame.columns if isinstance(name, tuple)]
        if quantiles and quantiles[0] not in self.columns_:
            raise DataError(
                f"{self._owner}: column {quantiles[0]!r}: quantiles of differences do not add up "
                f"to quantiles of levels: invert a point forecast, or fit the forecaster on levels"
            )
        series, positions = self._rows(table, self._has_training_head(values))
        out = np.empty(values.shape, dtype=np.float64)
        for i, rows in group_rows(series):
            history = self.panel_.targets[self.panel_.series(i)][:, columns]
            out[rows] = integrate(history, positions[rows], values[rows], self.lags_)
        return self._wrap_inverse(X, table, out.astype(values.dtype, copy=False))

    def _has_training_head(self, values: np.ndarray) -> bool:
        """True for as many rows as in fit with NaN in all first ``sum(lags)`` steps."""
        panel, n_rows = self.panel_, self.keys_.n_rows
        if len(values) != n_rows:
            return False
        if panel.calendar is None:
            positions = np.arange(n_rows)
        else:
            series, steps = panel.locate(self._owner, self.keys_)
            positions = panel.lengths[series] - 1 + steps
        return bool(np.isnan(values[positions < sum(self.lags_)]).all())


def _terms(lags: tuple[int, ...]) -> dict[int, int]:
    """Coefficients of prod(1 - B**lag) by power of B, that of B**0 left out.

    Powers that cancel stay, with coefficient 0: differencing lag by lag needs their values too, and
    0 * NaN keeps the answer independent of the order of the lags.
    """
    terms = {0: 1}
    for lag in lags:
        shifted = dict(terms)
        for power, factor in terms.items():
            shifted[power + lag] = shifted.get(power + lag, 0) - factor
        terms = shifted
    return {power: factor for power, factor in terms.items() if power}


def _lagged(grid: np.ndarray, places: np.ndarray, lags: tuple[int, ...]) -> np.ndarray:
    """Sum of the terms at the lags, shape (n_rows, n_columns); NaN before the grid."""
    total = np.zeros((len(places), grid.shape[1]))
    for power, factor in _terms(lags).items():
        at = places - power
        total += factor * np.where((at >= 0)[:, None], grid[np.maximum(at, 0)], np.nan)
    return total


def difference(
    history: np.ndarray, positions: np.ndarray, values: np.ndarray, lags: tuple[int, ...]
) -> np.ndarray:
    """Difference rows against the history (training range) and one another (after it).

    Parameters
    ----------
    history : ndarray, shape (n_history, n_columns)
        Values at positions 0, 1, ...
    positions : ndarray of int, shape (n_rows,)
    values : ndarray, shape (n_rows, n_columns)
    lags : tuple of int

    Returns
    -------
    ndarray of float64, shape (n_rows, n_columns)
    """
    n = len(history)
    start = min(max(int(positions.min()) - sum(lags), 0), n - 1)
    grid = np.full((max(int(positions.max()) + 1, n) - start, history.shape[1]), np.nan)
    grid[: n - start] = history[start:]
    later = positions >= n
    grid[positions[later] - start] = values[later]
    return values + _lagged(grid, positions - start, lags)


def integrate(
    history: np.ndarray, positions: np.ndarray, values: np.ndarray, lags: tuple[int, ...]
) -> np.ndarray:
    """Inverse of `difference`; the rules are those of `Differencer`.

    Parameters
    ----------
    history : ndarray, shape (n_history, n_columns)
    positions : ndarray of int, shape (n_rows,)
    values : ndarray, shape (n_rows, n_columns)
        Differences.
    lags : tuple of int

    Returns
    -------
    ndarray of float64, shape (n_rows, n_columns)
    """
    history = np.asarray(history, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    out = np.empty(values.shape)
    inside = positions < len(history)
    if inside.any():
        places, own = positions[inside], values[inside]
        at_lags = _lagged(history, places, lags)
        stored = history[places]
        never = np.isnan(own) & np.isnan(stored + at_lags)
        out[inside] = np.where(never, stored, own - at_lags)
    if not inside.all():
        ahead = positions[~inside] - len(history)
        steps = np.zeros((int(ahead.max()) + 1, values.shape[1]))  # a skipped step: no change
        steps[ahead] = values[~inside]
        out[~inside] = _continue(history, steps, lags)[ahead]
    return out


def _continue(history: np.ndarray, steps: np.ndarray, lags: tuple[int, ...]) -> np.ndarray:
    """Levels of the steps after ``history``, shape of ``steps``: one lag is undone at a time."""
    levels = [history]
    for lag in lags[:-1]:
        before = levels[-1]
        changed = np.full(before.shape, np.nan)
        changed[lag:] = before[lag:] - before[:-lag]
        levels.append(changed)
    for lag, level in zip(reversed(lags), reversed(levels), strict=True):
        steps = _cumulate(_last_of_each_phase(level, lag), steps, lag)
    return steps


def _last_of_each_phase(level: np.ndarray, lag: int) -> np.ndarray:
    """Last observed value of the steps n - lag, ..., n - 1 and of those whole lags earlier."""
    n, width = level.shape
    padded = np.full((-(-n // lag) * lag, width), np.nan)
    padded[len(padded) - n :] = level
    cycles = padded.reshape(-1, lag, width)[::-1]
    newest = np.argmax(~np.isnan(cycles), axis=0)
    return np.take_along_axis(cycles, newest[None], axis=0)[0]


def _cumulate(base: np.ndarray, steps: np.ndarray, lag: int) -> np.ndarray:
    """Running sums at the distance ``lag``, starting from ``base`` (lag, n_columns)."""
    n, width = steps.shape
    padded = np.zeros((-(-n // lag) * lag, width))
    padded[:n] = steps
    sums = np.cumsum(padded.reshape(-1, lag, width), axis=0) + base
    return sums.reshape(-1, width)[:n]
