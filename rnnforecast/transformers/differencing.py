"""Differences at one or more lags, and their inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.data.frames import Table
from rnnforecast.data.panel import Panel
from rnnforecast.data.windows import gather
from rnnforecast.exceptions import DataError
from rnnforecast.parameters import estimator
from rnnforecast.transformers._base import SteppedTransformer, spread

__all__ = ["Differencer"]


@estimator
class Differencer(SteppedTransformer):
    r"""Difference each series, at one or more lags in turn: :math:`\prod_j (1 - B^{l_j})\, x_t`.

    Parameters
    ----------
    lags : tuple of int, default=(1,)
        Steps; ``(1, 24)`` takes the change of the seasonal change.

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

    *Time.* Rows in the training range are differenced against the values seen in fit, so that any
    subset in any order gives the same answer; those after it against its end and one another, so
    that a test fold has no NaN at its head. `inverse_transform` knows the array of fit by its
    number of rows and NaN in the first ``sum(lags)`` steps.

    *Inverse in the training range.* A difference is added to the values that fit saw at the lags (a
    one-step forecast); where fit itself had no difference and X is NaN, the value seen in fit is
    returned. So the round trip is exact, and a NaN harms its own row only.

    *Inverse after it.* Differences are cumulated from the end. If the last values of fit are
    missing, the last ones observed at the same lag stand in, and steps that X skips count as no
    change. A NaN difference leaves the level unknown from there on, so every later row that builds
    on it is NaN too: the inverse of `transform` returns the value or NaN, never another value.

    Quantiles cannot be cumulated: columns (name, quantile) are refused. So are lags that are no
    positive integers, and, after the training range, two rows with the same time stamp.

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

    lags: Any = (1,)

    def _fit(self, table: Table, values: np.ndarray) -> None:
        lags = tuple(self.lags) if isinstance(self.lags, (list, tuple)) else (self.lags,)
        if not lags:
            raise DataError(f"{self._owner}: lags must hold at least one lag. Got {self.lags!r}")
        for lag in lags:
            check_int(self._owner, "lags", lag)
        self.lags_ = tuple(int(lag) for lag in lags)
        super()._fit(table, values)

    def _transform(self, table: Table, values: np.ndarray) -> np.ndarray:
        panel, series, positions = self._extend(table, values)
        return values.astype(np.float64) + self._sum_at_lags(panel, series, positions)

    def _inverse(self, table: Table, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        quantiles = [name for name in table.frame.columns if isinstance(name, tuple)]
        if quantiles and quantiles[0] not in self.columns_:
            raise DataError(
                f"{self._owner}: column {quantiles[0]!r}: quantiles of differences do not add up "
                f"to quantiles of levels: invert a point forecast, or fit the forecaster on levels"
            )

        def has_fitted_head(stored, series, positions):
            return np.isnan(values[positions < sum(self.lags_)]).all()

        every = np.full((len(values), len(self.columns_)), np.nan)
        every[:, columns] = values
        panel, series, positions = self._extend(table, every, has_fitted_head)
        stored = _take(self.panel_, series, positions)
        at_lags = self._sum_at_lags(self.panel_, series, positions)
        never = np.isnan(every) & np.isnan(stored + at_lags)
        levels = np.where(never, stored, every - at_lags)
        later = positions >= self.panel_.lengths[series]
        if later.any():
            levels[later] = self._continue(panel)[(panel.indptr[series] + positions)[later]]
        return levels[:, columns]

    def _sum_at_lags(self, panel: Panel, series: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Terms of prod(1 - B**lag) x_t but x_t itself; NaN where one is missing or before fit."""
        factors, reached = np.ones(1), np.ones(1)
        for lag in self.lags_:
            zeros = np.zeros(lag - 1)
            factors = np.convolve(factors, [1, *zeros, -1])
            reached = np.convolve(reached, [1, *zeros, 1])
        # powers that cancel too: differencing lag by lag, in any order, needs their values
        powers = np.flatnonzero(reached)[1:]
        return sum(factors[power] * _take(panel, series, positions - power) for power in powers)

    def _continue(self, panel: Panel) -> np.ndarray:
        """Levels of rows after fit, from the differences there; one lag is undone at a time."""
        series, place = spread(panel.lengths)
        later = place >= self.panel_.lengths[series]
        values = panel.targets.astype(np.float64)
        if panel.absent is not None:
            values[panel.absent & later] = 0.0  # a skipped step: no change
        rows = pd.DataFrame(values, copy=False)
        levels, steps = [rows[~later]], rows[later]
        for lag in self.lags_[:-1]:
            levels.append(levels[-1].groupby(series[~later]).diff(lag))
        for lag, level in zip(reversed(self.lags_), reversed(levels), strict=True):
            # the last value observed a whole number of lags before stands for all before it
            phase = series * lag + place % lag
            last = level.groupby(phase[~later]).last().reindex(phase[later])
            steps = steps.groupby(phase[later]).cumsum(skipna=False) + last.to_numpy()
        return steps.reindex(rows.index).to_numpy()


def _take(panel: Panel, series: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values at positions of series, NaN beyond their ends: (n, n_columns)."""
    return gather(panel, series, positions, 0, 1).future_targets[:, 0].astype(np.float64)
