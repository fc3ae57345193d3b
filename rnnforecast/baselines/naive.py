"""Naive forecasts: the last value, the last season, or the last value and the mean drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnforecast._validation import check_choice
from rnnforecast.baselines._local import LocalForecaster, LocalModel
from rnnforecast.data.panel import Panel

__all__ = ["NaiveForecaster"]

_STRATEGIES = ("last", "seasonal", "drift")


@dataclass(frozen=True)
class NaiveModel(LocalModel):
    """Last observed values of one series.

    Attributes
    ----------
    strategy : str
    values : ndarray, shape (m,)
        Last observed value of each phase (row number modulo m); NaN where none was.
    seen : ndarray of int, shape (m,)
        Row of that value; -1 where none was.
    n_rows : int
        Rows of the history.
    slope : float
        Mean change a step; 0 without drift.
    span : int
        Steps that the slope was estimated from.
    sigma, sigma_last : float
        Standard deviation of the errors over one season, and over one step.
    mean, sd : float
        Of the observed values; what is forecast before anything was seen.
    """

    strategy: str
    values: np.ndarray
    seen: np.ndarray
    n_rows: int
    slope: float
    span: int
    sigma: float
    sigma_last: float
    mean: float
    sd: float

    def future(self, n_steps):
        steps = np.arange(1, n_steps + 1)
        last = int(np.argmax(self.seen))
        age = self.n_rows - 1 - int(self.seen[last])  # steps since the last observation
        ahead = age + steps
        mean = self.values[last] + self.slope * ahead
        if self.strategy == "drift":
            # Hyndman & Athanasopoulos 2021, table 5.2
            return mean, self.sigma_last * np.sqrt(ahead * (1 + ahead / self.span))
        sd = self.sigma_last * np.sqrt(ahead)
        if self.strategy == "seasonal":
            m = len(self.values)
            rows = self.n_rows - 1 + steps
            phase = rows % m
            known = self.seen[phase] >= 0
            seasons = (rows - self.seen[phase]) // m  # k + 1 of the table
            mean = np.where(known, self.values[phase], mean)
            sd = np.where(known, self.sigma * np.sqrt(seasons), sd)
        return mean, sd

    def in_sample(self, y, x):
        m = len(self.values) if self.strategy == "seasonal" else 1
        row, value = _before(y, 1)
        gap = np.arange(len(y)) - row
        none = row < 0
        mean = np.where(none, self.mean, value + self.slope * gap)
        grow = gap * (1 + gap / self.span) if self.strategy == "drift" else gap
        sd = np.where(none, self.sd, self.sigma_last * np.sqrt(np.maximum(grow, 0)))
        if m > 1:
            row, value = _before(y, m)
            known = row >= 0
            mean = np.where(known, value, mean)
            seasons = (np.arange(len(y)) - row) // m
            sd = np.where(known, self.sigma * np.sqrt(seasons), sd)
        return mean, sd

    def extended(self, y, x):
        at = np.flatnonzero(~np.isnan(y))
        rows = self.n_rows + at
        values, seen = self.values.copy(), self.seen.copy()
        values[rows % len(values)] = y[at]  # of repeated phases the last one stays
        seen[rows % len(values)] = rows
        return replace(self, values=values, seen=seen, n_rows=self.n_rows + len(y))

    def describe(self):
        season = f"[{len(self.values)}]" if self.strategy == "seasonal" else ""
        return f"naive {self.strategy}{season}"


def _before(y: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Row (-1 if none) and value of the last observation m, 2m, ... rows before each row."""
    n = len(y)
    table = np.full(-(-n // m) * m, np.nan)
    table[:n] = y
    rows = np.where(np.isnan(table), -1, np.arange(len(table))).reshape(-1, m)
    rows = np.maximum.accumulate(rows, axis=0)
    before = np.concatenate([np.full((1, m), -1), rows[:-1]]).reshape(-1)[:n]
    return before, np.where(before < 0, np.nan, y[np.maximum(before, 0)])


def _deviation(errors: np.ndarray, n_parameters: int = 0) -> float:
    """Root mean square of the observed errors (Hyndman & Athanasopoulos 2021, section 5.4)."""
    errors = errors[~np.isnan(errors)]
    if not len(errors):
        return 0.0
    return float(np.sqrt(np.sum(errors**2) / max(len(errors) - n_parameters, 1)))


def fit_naive(y: np.ndarray, x: np.ndarray, strategy: str, m: int) -> NaiveModel:
    """Fit to one series ``y``, shape (n_rows,), with at least two observed values."""
    observed = np.flatnonzero(~np.isnan(y))
    first, last = int(observed[0]), int(observed[-1])
    slope = (y[last] - y[first]) / (last - first) if strategy == "drift" else 0.0
    row, value = _before(y, 1)
    gap = np.where(row < 0, np.nan, np.arange(len(y)) - row)
    # a change over g steps has g times the variance of one step
    errors = (y - value - slope * gap) / np.sqrt(gap)
    sigma_last = _deviation(errors, int(strategy == "drift"))
    row, value = _before(y, m)
    seasons = np.where(row < 0, np.nan, (np.arange(len(y)) - row) // m)
    errors = (y - value) / np.sqrt(seasons)
    sigma = _deviation(errors) if not np.isnan(errors).all() else sigma_last
    empty = NaiveModel(
        converged=True,
        note="",
        strategy=strategy,
        values=np.full(m, np.nan),
        seen=np.full(m, -1, dtype=np.int64),
        n_rows=0,
        slope=float(slope),
        span=last - first,
        sigma=sigma,
        sigma_last=sigma_last,
        mean=float(y[observed].mean()),
        sd=float(y[observed].std()),
    )
    return empty.extended(y, x)


class NaiveForecaster(LocalForecaster):
    """The naive forecast: what every other forecaster has to beat.

    Parameters
    ----------
    strategy : {"last", "seasonal", "drift"}, default "last"
        Repeat the last observed value; the last observed value of the same phase of the season; or
        go on from the last value with the mean change of the training rows.
    seasonality : int, optional
        Steps in a season for ``strategy="seasonal"``. None: the usual one of the calendar (24 for
        hours, 7 for days, 12 for months), 1 for integers and arrays; stored as ``seasonality_``.
    horizon : int, default 1
        Steps of ``forecast()`` and ``predict()``.
    target, known, static, series_id, time, freq
        Roles of the columns, as in every forecaster. Covariates are ignored.
    n_jobs : int, optional
        Number of processes over the series of a panel; None is 1.

    Attributes
    ----------
    seasonality_ : int
    models_ : list of list
        State of each series and target.

    Notes
    -----
    Missing values are skipped: the last *observed* value counts, and the interval widens with the
    steps since then. Intervals are normal with the standard deviations of Hyndman & Athanasopoulos
    (2021), Forecasting: Principles and Practice, 3rd ed., table 5.2: ``sigma sqrt(h)``, ``sigma
    sqrt(k + 1)`` with k complete seasons before step h, and ``sigma sqrt(h (1 + h / (T - 1)))``. A
    phase of the season that was never observed gets the last value. In-sample rows before the first
    observation get the mean. ``update`` keeps sigma and the drift.

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

    def __init__(
        self,
        *,
        strategy: str = "last",
        seasonality: int | None = None,
        horizon: int = 1,
        target: Any = None,
        known: Any = None,
        static: Any = None,
        series_id: Any = None,
        time: Any = None,
        freq: Any = None,
        n_jobs: int | None = None,
    ):
        self.strategy = strategy
        self.seasonality = seasonality
        self.horizon = horizon
        self.target = target
        self.known = known
        self.static = static
        self.series_id = series_id
        self.time = time
        self.freq = freq
        self.n_jobs = n_jobs

    def _check_params(self) -> None:
        super()._check_params()
        check_choice(type(self).__name__, "strategy", self.strategy, _STRATEGIES)

    def _local_fit(self, panel: Panel, seasonality: int) -> tuple[Callable, dict[str, Any]]:
        m = seasonality if self.strategy == "seasonal" else 1
        return fit_naive, {"strategy": self.strategy, "m": m}
