"""Seasonal adjustment by classical decomposition or STL, for series with missing values."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_choice, check_int
from rnnforecast.data.frames import Table
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator
from rnnforecast.transformers._base import SteppedTransformer, spread

__all__ = ["Deseasonalizer"]

# what takes a season away, and what puts it back
_MODELS = {
    "additive": (operator.sub, operator.add),
    "multiplicative": (operator.truediv, operator.mul),
}
_MAX_ITERATIONS = 50
_TOLERANCE = 1e-6  # of the largest value


@estimator
class Deseasonalizer(SteppedTransformer):
    """Remove a fixed seasonal pattern from each series.

    Parameters
    ----------
    seasonality : int, optional
        Steps in one period; 1 changes nothing. None: the season that all forecasters of the library
        take, `rnnforecast.data.seasonality.choose_seasonality`: from the frequency of the index (24
        for hours, 7 for days, 12 for months, ...), and where that knows none, as for arrays, from
        the autocorrelation of the data.
    model : {"additive", "multiplicative"}, default="additive"
        Subtract the index of the season, or divide by it (positive values only).
    method : {"means", "stl"}, default="means"
        "means": classical decomposition, equal to `statsmodels.tsa.seasonal.seasonal_decompose` on
        complete data. "stl": phase means of the seasonal component of robust STL, less sensitive to
        outliers; missing values are filled by the classical decomposition for STL only.

    Attributes
    ----------
    seasonality_ : int
        The period in use.
    seasonal_ : ndarray of shape (n_series, seasonality_, n_columns)
        Indices of the season: phase 0 is that of the series' first row in fit. Additive indices sum
        to 0, multiplicative ones have mean 1.
    panel_ : Panel
        The rows of fit on their time grid.
    columns_ : list
        Columns that are adjusted.

    Notes
    -----
    The phase of a row comes from its time stamp, so rows of any later date are adjusted by the
    right index, gaps or not. On a trading calendar it comes from the weekly pattern: a holiday does
    not shift the weekdays.

    NaN stays NaN; indices are means of observed values only. A series that is shorter than two
    periods, a phase that is never observed where the trend is known, and values that are not
    positive for a multiplicative season raise `rnnforecast.exceptions.DataError` in `fit`.

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

    seasonality: int | None = None
    model: str = "additive"
    method: str = "means"

    def _fit(self, table: Table, values: np.ndarray) -> None:
        check_int(self._owner, "seasonality", self.seasonality, none=True)
        check_choice(self._owner, "model", self.model, _MODELS)
        check_choice(self._owner, "method", self.method, ["means", "stl"])
        if self.model == "multiplicative":
            why = "a multiplicative season needs positive values"
            self._refuse_below(table, values, 0.0, why, "model='additive'")
        super()._fit(table, values)
        panel, period = self.panel_, self.seasonality
        # on a trading calendar a holiday is no step, but it does not shift the weekdays
        calendar = panel.calendar
        self._by_pattern = calendar is not None and calendar.own_grid and calendar.season > 1
        self.seasonality_ = int(choose_seasonality(panel) if period is None else period)
        self.seasonal_ = self._indices()

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        remove, _ = _MODELS[self.model]
        return remove(values, self._season(*self._locate(table, values)))

    def _inverse(self, table: Table, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        remove, restore = _MODELS[self.model]

        def is_adjusted(stored, series, positions):
            adjusted = remove(stored, self._season(series, positions))[:, columns]
            size = np.abs(np.nan_to_num(adjusted)).max()
            return np.allclose(values, adjusted, rtol=0.0, atol=1e-6 * size, equal_nan=True)

        season = self._season(*self._locate(table, values, is_adjusted))
        return restore(values, season[:, columns])

    def _season(self, series: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Index of the season of each row, shape (n_rows, n_columns)."""
        if self._by_pattern:
            stamps = self.panel_.stamps_at(series, positions)
            positions = self._steps_of_pattern(series, stamps)
        return self.seasonal_[series, positions % self.seasonality_]

    def _steps_of_pattern(self, series: np.ndarray, stamps: Any) -> np.ndarray:
        """Steps of a trading calendar, holidays too, from the first row of series to stamps."""
        calendar, starts = self.panel_.calendar, self.panel_.starts
        assert calendar is not None and starts is not None
        return calendar.steps(starts[series], stamps)

    def _indices(self) -> np.ndarray:
        """Indices of the season, shape (n_series, period, n_columns)."""
        panel, period = self.panel_, self.seasonality_
        owner, steps = spread(panel.lengths)
        if self._by_pattern:
            steps = self._steps_of_pattern(owner, panel.stamps)
        counts = steps[panel.indptr[1:] - 1] + 1
        if period > 1 and counts.min() < 2 * period:
            i = int(np.argmax(counts < 2 * period))
            raise DataError(
                f"{self._owner}: {panel.label(i)} has {counts[i]} steps; seasonality {period} "
                f"needs at least {2 * period} (n_samples = {counts[i]}): use seasonality <= "
                f"{counts[i] // 2}"
            )
        series, step = spread(counts)
        values = np.full((len(series), len(self.columns_)), np.nan)
        values[(np.cumsum(counts) - counts)[owner] + steps] = panel.targets
        x, phases = pd.DataFrame(values), series * period + step % period
        x = x.mask(x.groupby(series).transform("count") == 0, 1.0)  # never observed: neutral
        has_trend = (step >= period // 2) & (step < counts[series] - period // 2)
        unseen = np.argwhere(x[has_trend].groupby(phases[has_trend]).count().to_numpy() == 0)
        if len(unseen):
            i, phase = divmod(int(unseen[0, 0]), period)
            raise DataError(
                f"{self._owner}: {panel.label(i)}, column {self.columns_[unseen[0, 1]]!r}: phase "
                f"{phase} of the seasonal period {period} is never observed (half a period at each "
                f"end does not count): use a shorter seasonality= or more rows"
            )
        return self._estimate(x, series, phases).reshape(panel.n_series, period, -1)

    def _estimate(self, x: pd.DataFrame, series: np.ndarray, phases: np.ndarray) -> np.ndarray:
        """Indices of each series' phases, shape (n_series * period, n_columns)."""
        remove, restore = _MODELS[self.model]
        period, additive = self.seasonality_, self.model == "additive"
        size = x.abs().groupby(series).max().to_numpy().repeat(period, axis=0) if additive else 1.0
        complete = bool(x.notna().all(axis=None))
        filled, indices = _interpolate(x, series), np.full((1, x.shape[1]), np.inf)
        for _ in range(_MAX_ITERATIONS):  # missing values hold the season found before
            # the trend of seasonal_decompose: with half a step at both ends of an even period
            trend = pd.DataFrame(filled.groupby(series).rolling(period).mean().to_numpy())
            trend = (trend if period % 2 else trend.rolling(2).mean()).shift(-(period // 2))
            before, means = indices, remove(x, trend).groupby(phases).mean().to_numpy()
            indices = self._normalise(means)
            if complete or (np.abs(indices - before) <= _TOLERANCE * size).all():
                break
            season = indices[phases]
            filled = x.fillna(restore(_interpolate(remove(x, season), series), season))
        if self.method == "means" or period == 1:
            return indices
        from statsmodels.tsa.seasonal import STL

        parts = filled if additive else np.log(filled)
        for _, own in x.groupby(series):
            for j, column in own.items():
                seen = slice(column.first_valid_index(), column.last_valid_index())
                stl = STL(parts.loc[seen, j].to_numpy(), period=period, robust=True)
                parts.loc[seen, j] = stl.fit().seasonal
        means = parts.where(x.notna()).groupby(phases).mean().to_numpy()
        return self._normalise(means if additive else np.exp(means))

    def _normalise(self, means: np.ndarray) -> np.ndarray:
        """Means of phases with mean 0 (additive) or 1 (multiplicative) in each series."""
        remove, _ = _MODELS[self.model]
        parts = means.reshape(-1, self.seasonality_, means.shape[1])
        return remove(parts, parts.mean(axis=1, keepdims=True)).reshape(means.shape)


def _interpolate(x: pd.DataFrame, series: np.ndarray) -> pd.DataFrame:
    """Missing values on a line between their neighbours; the nearest value at a series' ends."""
    before, after = x.groupby(series).ffill(), x.groupby(series).bfill()
    return x.interpolate().where(before.notna() & after.notna(), before.fillna(after))
