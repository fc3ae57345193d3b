"""Naive forecasts: the last value, the last season, or the last value and the mean drift."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rnnforecast._validation import check_choice, check_int
from rnnforecast.baselines._local import check_values
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.forecasters.base import BaseForecaster
from rnnforecast.outputs import Forecast, NormalForecast
from rnnforecast.parameters import estimator

__all__ = ["NaiveForecaster"]

_STRATEGIES = ("last", "seasonal", "drift")
_MEASURED = ("drift_", "sigma_", "season_sigma_", "span_", "mean_", "std_")


@estimator
class NaiveForecaster(BaseForecaster):
    """The naive forecast: what every other forecaster has to beat.

    All series are forecast at once. Covariates are ignored.

    Parameters
    ----------
    strategy : {"last", "seasonal", "drift"}, default "last"
        Repeat the last observed value; the last observed value of the same phase of the season; or
        go on from the last value with the mean change of the training rows.
    seasonality : int, optional
        Steps in a season for ``strategy="seasonal"``. None: that of the calendar (24 for hours, 7
        for days, 12 for months), else what the autocorrelation says.

    Attributes
    ----------
    seasonality_ : int
    drift_ : ndarray, shape (n_series, n_targets)
        Mean change a step; 0 unless the strategy is "drift".
    sigma_, season_sigma_ : ndarray, shape (n_series, n_targets)
        Standard deviation of the errors one step and one season ahead.
    span_, mean_, std_ : ndarray, shape (n_series, n_targets)
        Steps between the first and the last observed value, mean and standard deviation.

    Raises
    ------
    DataError
        In ``fit``, if a series has fewer than two observed values.

    Notes
    -----
    Missing values are skipped: the last *observed* value counts, and the interval widens with the
    steps since then. Intervals are normal with the standard deviations of Hyndman & Athanasopoulos
    (2021), Forecasting: Principles and Practice, 3rd ed., table 5.2: ``sigma sqrt(h)``, ``sigma
    sqrt(k + 1)`` with k complete seasons before step h, and ``sigma sqrt(h (1 + h / (T - 1)))``. A
    phase of the season that was never observed gets the last value. In-sample rows before the first
    observation get the mean.

    ``update`` keeps sigma and the drift; those of new series, and of the rows of
    ``forecast(history=)``, are measured there.

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> df = pd.DataFrame({"y": [1.0, 3.0, 2.0, 4.0]}, index=index)
    >>> NaiveForecaster(horizon=2, strategy="drift").fit(df).forecast()
                  y
    2024-01-05  5.0
    2024-01-06  6.0
    """

    strategy: str = "last"
    seasonality: int | None = None

    if TYPE_CHECKING:  # fitted, and so no parameters
        seasonality_: int = field(init=False)
        drift_: np.ndarray = field(init=False)
        sigma_: np.ndarray = field(init=False)
        season_sigma_: np.ndarray = field(init=False)
        span_: np.ndarray = field(init=False)
        mean_: np.ndarray = field(init=False)
        std_: np.ndarray = field(init=False)

    def _check_params(self) -> None:
        super()._check_params()
        owner = type(self).__name__
        check_choice(owner, "strategy", self.strategy, _STRATEGIES)
        check_int(owner, "seasonality", self.seasonality, none=True)

    def _fit_panel(self, panel: Panel) -> dict[str, Any]:
        check_values(type(self).__name__, panel, 2)
        given = self.seasonality
        season = choose_seasonality(panel) if given is None else int(given)
        return {"seasonality_": season, **self._measure(panel, season)}

    def _follow(self, history: Panel, fresh: bool) -> dict[str, Any]:
        n_old = 0 if fresh else self.panel_.n_series
        if history.n_series == n_old:
            return {}
        check_values(type(self).__name__, history, 1)
        found = self._measure(history, self.seasonality_)
        for name, values in found.items():
            old = getattr(self, name)
            # one value says nothing of its own errors: they are those of the usual series
            values = np.where(np.isnan(values), np.nanmedian(old, axis=0), values)
            found[name] = np.concatenate([old[:n_old], values[n_old:]])
        return found

    def _measure(self, panel: Panel, season: int) -> dict[str, np.ndarray]:
        """Fitted values of each series and target, NaN where there are too few rows."""
        targets = panel.targets.T.astype(np.float64)
        found = np.stack([self._measure_target(panel, y, season) for y in targets], axis=-1)
        return dict(zip(_MEASURED, found, strict=True))

    def _measure_target(self, panel: Panel, y: np.ndarray, season: int) -> np.ndarray:
        n, at, drifts = panel.n_series, np.flatnonzero(~np.isnan(y)), self.strategy == "drift"
        series = np.repeat(np.arange(n), panel.lengths)[at]
        count = np.bincount(series, minlength=n)
        end = np.cumsum(count)
        first, last = at[end - count], at[end - 1]
        span = np.maximum(last - first, 1)
        # the mean first, so that large levels cost no digits
        mean = np.bincount(series, y[at], n) / count
        std = np.sqrt(np.bincount(series, (y[at] - mean[series]) ** 2, n) / count)
        drift = (y[last] - y[first]) / span * drifts
        same = series[1:] == series[:-1]
        whose, gap = series[1:][same], np.diff(at)[same]
        change = (y[at[1:]] - y[at[:-1]])[same] - drift[whose] * gap
        sigma = season_sigma = _root_mean(change**2 / gap, whose, n, lost=int(drifts))
        if self.strategy == "seasonal":
            start = panel.indptr[series]
            before = _observed(~np.isnan(y), at - season, start, season)
            known = before >= start
            at, before = at[known], before[known]
            squares = (y[at] - y[before]) ** 2 / ((at - before) // season)
            season_sigma = _root_mean(squares, series[known], n)
            season_sigma = np.where(np.isnan(season_sigma), sigma, season_sigma)
        return np.array([drift, sigma, season_sigma, span, mean, std])

    def _forecast(
        self,
        history: Panel,
        series: np.ndarray,
        origins: np.ndarray,
        n_steps: int,
        known: np.ndarray,
    ) -> Forecast:
        start = history.indptr[series][:, None]
        rows = start + origins[:, None] + np.arange(n_steps)
        mean, deviation = np.empty((2, *rows.shape, history.targets.shape[1]))
        for k, y in enumerate(history.targets.T.astype(np.float64)):
            seen = ~np.isnan(y)
            last = _observed(seen, rows[:, :1] - 1, start, 1)
            ahead = np.maximum(rows - last, 1)
            centre = y[last] + self.drift_[series, k][:, None] * ahead
            grown = ahead / self.span_[series, k][:, None] * (self.strategy == "drift")
            width = self.sigma_[series, k][:, None] * np.sqrt(ahead * (1 + grown))
            if self.strategy == "seasonal":
                m = self.seasonality_
                found = _observed(seen, rows - m * (np.arange(n_steps) // m + 1), start, m)
                centre = np.where(found >= start, y[found], centre)
                seasons = np.maximum(rows - found, m) // m
                wide = self.season_sigma_[series, k][:, None] * np.sqrt(seasons)
                width = np.where(found >= start, wide, width)
            none = last < start
            mean[..., k] = np.where(none, self.mean_[series, k][:, None], centre)
            deviation[..., k] = np.where(none, self.std_[series, k][:, None], width)
        return NormalForecast(torch.from_numpy(mean), torch.from_numpy(deviation))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags

    def _describe(self) -> list[str]:
        season = f"[{self.seasonality_}]" if self.strategy == "seasonal" else ""
        return [f"naive {self.strategy}{season}", *super()._describe()]


def _observed(seen: np.ndarray, rows: np.ndarray, start: np.ndarray, step: int) -> np.ndarray:
    """The first observed one of ``rows``, ``rows - step``, ... from ``start`` on; -1 if none is."""
    rows, start = (np.array(part) for part in np.broadcast_arrays(rows, start))
    flat, low = rows.reshape(-1), start.reshape(-1)
    left = np.arange(len(flat))
    while len(left):
        left = left[(flat[left] >= low[left]) & ~seen[np.maximum(flat[left], 0)]]
        flat[left] -= step
    return np.where(rows < start, -1, rows)


def _root_mean(squares: np.ndarray, series: np.ndarray, n: int, lost: int = 0) -> np.ndarray:
    """Root mean square by series, NaN without any (Hyndman & Athanasopoulos 2021, section 5.4)."""
    count = np.bincount(series, minlength=n)
    total = np.bincount(series, squares, n)
    return np.where(count > 0, np.sqrt(total / np.maximum(count - lost, 1)), np.nan)
