"""Seasonal adjustment by classical decomposition or STL, for series with missing values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data._transformer import SteppedTransformer, is_sampled_from, sample_rows
from rnnforecast.data.calendar import IrregularCalendar, default_seasonality
from rnnforecast.data.frames import Table
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError

__all__ = ["Deseasonalizer", "seasonal_indices"]

_MAX_ITERATIONS = 50
_TOLERANCE = 1e-9


class Deseasonalizer(SteppedTransformer):
    """Remove a fixed seasonal pattern from each series.

    Parameters
    ----------
    seasonality : int, optional
        Steps in one period; 1 changes nothing. None: from the frequency of the index by
        `rnnforecast.data.calendar.default_seasonality` (24 for hours, 7 for days, 12 for months,
        ...), and where that knows none, as for arrays, from the autocorrelation of the data by
        `rnnforecast.data.seasonality.choose_seasonality`.
    model : {"additive", "multiplicative"}, default="additive"
        Subtract the index of the season, or divide by it (positive values only).
    method : {"means", "stl"}, default="means"
        "means": classical decomposition, equal to `statsmodels.tsa.seasonal.seasonal_decompose` on
        complete data. "stl": phase means of the seasonal component of robust STL, less sensitive to
        outliers; missing values are filled by the classical decomposition for STL only.
    series_id, time : str, optional
        Columns that name the series and the time stamp of each row; they are carried through, and
        `transform` then returns a DataFrame. A MultiIndex (series, time) needs no parameter.
    freq : str, DateOffset or int, optional
        Frequency of the index, if it cannot be inferred.

    Attributes
    ----------
    seasonality_ : int
        The period in use.
    seasonal_ : ndarray of shape (n_series, seasonality_, n_columns)
        Indices of the season: phase 0 is that of the series' first row in fit. Additive indices sum
        to 0, multiplicative ones have mean 1.
    panel_ : Panel
        Time grid of fit, without its values.
    columns_ : list

    Notes
    -----
    The phase of a row comes from its time stamp, so rows of any later date are adjusted by the
    right index, gaps or not. On a trading calendar it comes from the weekly pattern: a holiday does
    not shift the weekdays. Arrays have no stamps: an array with as many rows as in fit that agrees
    with the training rows (before or after transformation) is the training range; any other array
    follows on directly from its end.

    NaN stays NaN; indices are estimated from observed values. `inverse_transform` also takes
    columns (name, quantile).

    References
    ----------
    Cleveland, Cleveland, McRae and Terpenning, "STL", Journal of Official Statistics 6, 1990.

    Examples
    --------
    >>> season = Deseasonalizer(seasonality=2).fit([[9.0], [11], [9], [11], [9], [11]])
    >>> season.seasonal_.ravel().tolist()
    [-1.0, 1.0]
    >>> season.inverse_transform([[20.0], [20.0]]).ravel().tolist()  # the two rows that follow
    [19.0, 21.0]
    """

    def __init__(
        self,
        *,
        seasonality=None,
        model="additive",
        method="means",
        series_id=None,
        time=None,
        freq=None,
    ):
        self.seasonality = seasonality
        self.model = model
        self.method = method
        self.series_id = series_id
        self.time = time
        self.freq = freq

    def fit(self, X, y=None):
        """Estimate the seasonal indices of each series and column.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            Sorted by time within each series; two periods or more.
        y : ignored

        Returns
        -------
        Deseasonalizer

        Raises
        ------
        DataError
            If a series is shorter than two periods, a phase is never observed, or a multiplicative
            season meets values that are not positive.
        """
        check_int(self._owner, "seasonality", self.seasonality, none=True)
        check_choice(self._owner, "model", self.model, ["additive", "multiplicative"])
        check_choice(self._owner, "method", self.method, ["means", "stl"])
        X, table, values = self._read(X, fitted=False)
        self._check_positive(table, values)
        panel = self._build(table, values)
        period = self.seasonality
        if period is None:
            period = 1 if panel.calendar is None else default_seasonality(panel.calendar)
            period = choose_seasonality(panel) if period == 1 else period
        names = list(table.frame.columns)
        seasonal = np.stack(
            [self._indices(panel, i, int(period), names) for i in range(panel.n_series)]
        )
        self._remember(X, table)
        self.seasonality_, self.seasonal_ = int(period), seasonal
        self.panel_ = replace(panel, targets=np.empty((0, 0)))
        self.keys_ = table.keys
        self._sample = sample_rows(values)
        adjusted = self._adjust(values, *self._phases(table, training=True), slice(None), -1)
        self._adjusted_sample = sample_rows(adjusted)
        return self

    def transform(self, X):
        """Remove the season.

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
        training = is_sampled_from(self._sample, self.keys_.n_rows, values)
        adjusted = self._adjust(values, *self._phases(table, training), slice(None), -1)
        return self._wrap(X, table, adjusted)

    def inverse_transform(self, X):
        """Put the season back.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n_rows, n_columns)
            A frame may hold a part of the columns.

        Returns
        -------
        DataFrame, Series or ndarray
            The container of X.
        """
        X, table, values, columns = self._read_inverse(X)
        training = is_sampled_from(self._adjusted_sample, self.keys_.n_rows, values)
        levels = self._adjust(values, *self._phases(table, training), columns, 1)
        return self._wrap_inverse(X, table, levels)

    def _adjust(self, values, series, phases, columns, sign) -> np.ndarray:
        season = self.seasonal_[series, phases][:, columns]
        if self.model == "additive":
            out = values + sign * season
        else:
            out = values * season if sign > 0 else values / season
        return out.astype(values.dtype, copy=False)

    def _phases(self, table: Table, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Series and phase of each row."""
        series, positions = self._locate(table, training)
        panel, keys = self.panel_, table.keys
        if training and keys.levels is None:
            keys = self.keys_
        if _by_pattern(panel) and keys.levels is not None:
            for i, rows in group_rows(series):
                positions[rows] = panel.calendar.steps(panel.starts[i], keys.stamps(rows))
        elif _by_pattern(panel):  # an array that follows on
            ahead = positions - panel.lengths[series] + 1
            end = panel.calendar.steps(panel.starts[0], panel.time_index(0)[-1:])[0]
            positions = end + ahead
        return series, positions % self.seasonality_

    def _indices(self, panel: Panel, i: int, period: int, names: list) -> np.ndarray:
        """Indices of series i, shape (period, n_columns)."""
        values = panel.targets[panel.series(i)].astype(np.float64)
        if period == 1:
            neutral = 0.0 if self.model == "additive" else 1.0
            return np.full((1, values.shape[1]), neutral)
        if _by_pattern(panel):
            assert panel.calendar is not None and panel.starts is not None
            steps = panel.calendar.steps(panel.starts[i], panel.time_index(i))
            grid = np.full((int(steps.max()) + 1, values.shape[1]), np.nan)
            grid[steps] = values
            values = grid
        if len(values) < 2 * period:
            raise DataError(
                f"{self._owner}: {panel.label(i)} has {len(values)} steps; seasonality {period} "
                f"needs at least "
                f"{2 * period} (n_samples = {len(values)}): use seasonality <= {len(values) // 2}"
            )
        return np.stack(
            [
                seasonal_indices(
                    values[:, j],
                    period,
                    self.model,
                    self.method,
                    f"{self._owner}: {panel.label(i)}, column {name!r}",
                )
                for j, name in enumerate(names)
            ],
            axis=1,
        )

    def _check_positive(self, table: Table, values: np.ndarray) -> None:
        if self.model == "multiplicative" and (values <= 0).any():
            row, column = np.argwhere(values <= 0)[0]
            raise DataError(
                f"{self._owner}: column {table.frame.columns[column]!r}, row "
                f"{table.frame.index[row]}: a "
                f"multiplicative season needs positive values. Got {values[row, column]:g}: use "
                f"model='additive'"
            )


def _by_pattern(panel: Panel) -> bool:
    """True if phases come from the pattern of a trading calendar, not from counting rows."""
    return panel.stamps is not None and not isinstance(panel.calendar, IrregularCalendar)


def seasonal_indices(x: np.ndarray, period: int, model: str, method: str, who: str) -> np.ndarray:
    """Seasonal index of each phase; phase j holds steps j, j + period, ...

    Parameters
    ----------
    x : ndarray of float64, shape (n_steps,)
        One series on its grid, NaN where unobserved; ``n_steps >= 2 * period``.
    period : int
        2 or more.
    model : {"additive", "multiplicative"}
        Multiplicative indices need positive values.
    method : {"means", "stl"}
    who : str
        Series and column, for messages.

    Returns
    -------
    ndarray of shape (period,)
        With mean 0 (additive) or 1 (multiplicative). Neutral if nothing was observed.

    Raises
    ------
    DataError
        If a phase was never observed where the trend is known.

    Notes
    -----
    "means" is the decomposition of `statsmodels.tsa.seasonal.seasonal_decompose`: a centred moving
    average over one period is the trend, and the index of a phase is the mean of what is left.
    Missing values are replaced by trend times (plus) index and the decomposition is repeated until
    it no longer changes; the indices are means of observed values only.
    """
    seen = ~np.isnan(x)
    additive = model == "additive"
    if not seen.any():
        return np.zeros(period) if additive else np.ones(period)
    if seen.all():
        indices, filled = _classical(x, x, period, additive, who)[0], x
    else:
        indices, filled = _classical_with_gaps(x, seen, period, additive, who)
    return indices if method == "means" else _stl(filled, seen, period, additive)


def _classical(
    x: np.ndarray, filled: np.ndarray, period: int, additive: bool, who: str
) -> tuple[np.ndarray, np.ndarray]:
    """Indices from the observed ``x``, with the trend of ``filled``, shape (n_steps,)."""
    trend = _centred_average(filled, period)
    left = x - trend if additive else x / trend
    indices = _phase_means(left, period)
    if np.isnan(indices).any():
        phase = int(np.flatnonzero(np.isnan(indices))[0])
        raise DataError(
            f"{who}: phase {phase} of the seasonal period {period} is never observed (half a "
            f"period at each end does not count): use a shorter seasonality= or more rows"
        )
    return (indices - indices.mean() if additive else indices / indices.mean()), trend


def _classical_with_gaps(
    x: np.ndarray, seen: np.ndarray, period: int, additive: bool, who: str
) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange(len(x))
    filled = np.where(seen, x, np.interp(steps, steps[seen], x[seen]))
    size = np.abs(x[seen]).max() if additive else 1.0
    indices, trend = _classical(x, filled, period, additive, who)
    for _ in range(_MAX_ITERATIONS):
        level, season = _extend(trend, period), indices[steps % period]
        filled = np.where(seen, x, level + season if additive else level * season)
        if not additive:  # an extrapolated trend must not turn negative
            filled = np.where(filled > 0, filled, np.nanmin(x))
        before = indices
        indices, trend = _classical(x, filled, period, additive, who)
        if np.abs(indices - before).max() <= _TOLERANCE * size:
            break
    return indices, filled


def _centred_average(x: np.ndarray, period: int) -> np.ndarray:
    """Moving average over one period, both ends weighted by half if it is even; NaN at the ends."""
    shift = x.mean()  # sums of small numbers lose less
    sums = np.concatenate([[0.0], np.cumsum(x - shift)])
    means = (sums[period:] - sums[:-period]) / period
    if period % 2 == 0:
        means = (means[1:] + means[:-1]) / 2
    trend = np.full(len(x), np.nan)
    half = period // 2
    trend[half : half + len(means)] = means + shift
    return trend


def _extend(trend: np.ndarray, period: int) -> np.ndarray:
    """The trend, continued at both ends by a straight line through its nearest period."""
    known = np.flatnonzero(~np.isnan(trend))
    full = trend.copy()
    for part, where in (
        (known[: period + 1], slice(None, known[0])),
        (known[-period - 1 :], slice(known[-1] + 1, None)),
    ):
        steps = np.arange(len(trend))[where]
        if len(part) < 2:
            full[where] = trend[part[0]]
        elif len(steps):
            centre = part.mean()
            slope, level = np.polyfit(part - centre, trend[part], 1)
            full[where] = level + slope * (steps - centre)
    return full


def _phase_means(x: np.ndarray, period: int) -> np.ndarray:
    """Mean of the observed values of each phase, NaN where there are none."""
    seen = ~np.isnan(x)
    phase = np.arange(len(x)) % period
    total = np.bincount(phase, weights=np.where(seen, x, 0.0), minlength=period)
    count = np.bincount(phase, weights=seen.astype(np.float64), minlength=period)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def _stl(filled: np.ndarray, seen: np.ndarray, period: int, additive: bool) -> np.ndarray:
    """Phase means of the robust STL seasonal component (on logs if multiplicative)."""
    from statsmodels.tsa.seasonal import STL

    values = filled if additive else np.log(filled)
    season = STL(values, period=period, robust=True).fit().seasonal
    season = np.where(seen, season, np.nan)
    indices = _phase_means(season, period)
    if additive:
        return indices - indices.mean()
    return np.exp(indices) / np.exp(indices).mean()
