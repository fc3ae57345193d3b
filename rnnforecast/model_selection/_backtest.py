"""Rolling-origin evaluation: fit, forecast, move on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import clone

from rnnforecast._validation import check_int, check_quantiles, check_real
from rnnforecast.data.frames import Keys, read_table, read_targets, to_pandas
from rnnforecast.exceptions import DataError, RNNForecastError
from rnnforecast.forecasters import BaseForecaster
from rnnforecast.model_selection._models import (
    forecast_rows,
    hide_future,
    key_columns,
    named_models,
    raw_targets,
    target_columns,
    update_model,
)
from rnnforecast.model_selection._splitters import time_codes

__all__ = ["Data", "backtest", "read_data"]

_OWNER = "backtest"


@dataclass(frozen=True)
class Data:
    """Rows with their keys, and y where it was given beside them."""

    frame: pd.DataFrame
    y: pd.DataFrame | None
    flat: bool  # y is 1-D
    keys: Keys
    columns: tuple[Any, ...]  # of the series and the time, None where there is none
    time: np.ndarray  # (n_rows,), positions in the stamps
    stamps: pd.Index  # of all series, sorted and unique

    @property
    def series(self) -> np.ndarray:
        """Code of each row's series, shape (n_rows,)."""
        return np.zeros(len(self.time), int) if self.keys.series is None else self.keys.series

    def rows(self, which: np.ndarray) -> tuple[Any, ...]:
        """X, or X and y, of a mask or of positions."""
        X = self.frame.iloc[which]
        if self.y is None:
            return (X,)
        return X, self.y.iloc[which, 0] if self.flat else self.y.iloc[which]

    def values(self, names: list, which: Any = slice(None)) -> np.ndarray:
        """Targets of some rows, (rows, targets): those of y, else the named columns."""
        part = (self.frame[names] if self.y is None else self.y).iloc[which]
        return part.to_numpy(dtype=np.float64, na_value=np.nan)

    def started(self, names: list) -> np.ndarray:
        """When each target of a row's series was observed once at least, shape (n_rows,)."""
        time = np.where(np.isnan(self.values(names)), np.inf, self.time[:, None])
        firsts = pd.DataFrame(np.column_stack([self.time, time])).groupby(self.series)
        return firsts.transform("min").to_numpy().max(axis=1)


def read_data(df: Any, y: Any, series_id: Any, time: Any) -> Data:
    """Any input as frame, y and keys."""
    frame, is_array = to_pandas(_OWNER, df)
    keys, flat = read_table(_OWNER, frame, series_id, time).keys, False
    if y is not None:
        values, names, index = read_targets(_OWNER, y, len(frame))
        if index is not None and not is_array and not index.equals(frame.index):
            raise DataError(
                f"{_OWNER}: df and y have different indices: align them, e.g. y.reindex(df.index)"
            )
        y, flat = pd.DataFrame(values, index=frame.index, columns=names), np.ndim(y) == 1
    return Data(frame, y, flat, keys, (series_id, time), *time_codes(keys))


def backtest(
    forecasters: Any,
    df: Any,
    y: Any = None,
    *,
    horizon: int,
    n_origins: int = 5,
    step: int | None = None,
    refit: bool = True,
    coverage: float | None = None,
    quantiles: Sequence[float] | None = None,
    series_id: Any = None,
    time: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Forecast from rolling origins and lay the forecasts beside the truth.

    Parameters
    ----------
    forecasters : estimator, list of estimators, or dict of name to estimator
        Forecasters, or a Pipeline, TransformedTargetRegressor or search that ends in one. They
        are cloned and stay as they are. In a list they are named by their classes.
    df : DataFrame, Series or array, or any frame that narwhals reads
        All rows, training and test, as for ``fit``.
    y : array-like, shape (n_rows,) or (n_rows, n_targets), default=None
        Targets; every column of ``df`` is then a covariate known in the future.
    horizon : int
        Number of time stamps to forecast from each origin.
    n_origins : int, default=5
        Number of origins; the forecast from the last one ends with the data.
    step : int, default=None
        Time stamps between origins; None is the horizon, so that no two test windows overlap.
    refit : bool, default=True
        True fits a fresh clone at each origin. False fits once, at the first, and then only moves
        the history on, as ``update`` does: the weights stay.
    coverage : float, default=None
        Also give the ends of the central intervals of this coverage, between 0 and 1.
    quantiles : sequence of float, default=None
        Also give these quantiles, between 0 and 1.
    series_id, time : str, default=None
        Columns that hold the series' name and the time stamp; None takes them from the
        forecasters' parameters of that name.
    n_jobs : int, default=None
        Jobs that joblib runs side by side, over models and origins (over models for
        ``refit=False``). Seconds measured so are longer than alone.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    DataFrame
        One row for each model, origin, row of the data and target, with columns ``model``;
        ``origin``, the stamp of the last training row; ``series``, for a panel; ``time``;
        ``step``, the number of stamps after the origin, from 1; ``target``; ``y_true``, NaN where
        unobserved; ``y_pred``; ``lower`` and ``upper``; a column ``q0.1`` for each quantile;
        ``fit_seconds`` (at this origin: a fit, or an update for ``refit=False``) and
        ``predict_seconds`` of wall time for all rows of the origin together (a share of one pass
        where all origins were forecast at once); for a panel ``n_series``, the number of series
        scored from this origin, that is with an observed truth.

    Raises
    ------
    DataError
        If the data are too short or an argument is out of its range.
    RNNForecastError
        If a model fails; the message names the model and the origin.

    Notes
    -----
    Time stamps are the unique stamps of all series, so that no series is trained on dates on which
    another is tested. A series is forecast from every origin up to which each of its targets was
    observed once at least, however short it is then; until then it is left out, of training too.

    What is not known at the origin, that is target and past-only columns, is NaN in the rows given
    to ``predict``. A Pipeline that changes the target column of ``df`` forecasts the changed
    target: its forecasts come back through the steps' ``inverse_transform``, so that all models are
    compared in the units of the data.

    Examples
    --------
    >>> import pandas as pd
    >>> from rnnforecast import NaiveForecaster
    >>> df = pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    >>> result = backtest(NaiveForecaster(), df, horizon=2, n_origins=2)
    >>> result[["origin", "time", "step", "y_true", "y_pred"]]
       origin  time  step  y_true  y_pred
    0       1     2     1     3.0     2.0
    1       1     3     2     4.0     2.0
    2       3     4     1     5.0     4.0
    3       3     5     2     6.0     4.0
    """
    check_int(_OWNER, "horizon", horizon)
    check_int(_OWNER, "n_origins", n_origins)
    check_int(_OWNER, "step", step, none=True)
    check_real(_OWNER, "coverage", coverage, 0.0, 1.0, closed="neither", none=True)
    levels = () if quantiles is None else check_quantiles(_OWNER, quantiles)
    columns = {f"q{level:g}": level for level in levels}
    if coverage is not None:
        columns = {"lower": (1 - coverage) / 2, "upper": (1 + coverage) / 2} | columns
    models = named_models(forecasters)
    data = read_data(df, y, *key_columns(models, series_id, time))
    step, n_stamps = step or horizon, len(data.stamps)
    first = n_stamps - 1 - horizon - (n_origins - 1) * step
    if first < 0:
        raise DataError(
            f"{_OWNER}: horizon {horizon}, step {step} and n_origins {n_origins} need more than "
            f"{horizon + (n_origins - 1) * step} time stamps, got {n_stamps}: use fewer origins, a "
            f"smaller step or a shorter horizon"
        )
    from tqdm import tqdm

    origins = [first + k * step for k in range(n_origins)]
    jobs = [
        _Job(name, model, data, group, horizon, columns)
        for name, model in models.items()
        for group in ([[origin] for origin in origins] if refit else [origins])
    ]
    parts = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(job.run)() for job in jobs)
    shown = tqdm(parts, total=len(jobs), desc=_OWNER, disable=not verbose)
    results = pd.concat([part for group in shown for part in group], ignore_index=True)
    if "series" in results:
        scored = results["series"].where(results["y_true"].notna())
        groups = scored.groupby([results["model"], results["origin"]])
        results["n_series"] = groups.transform("nunique")
    return results


@dataclass
class _Job:
    """One model, fitted at the first of some origins, and its forecasts from each."""

    name: str
    model: Any
    data: Data
    origins: list[int]
    horizon: int
    columns: dict[str, float]  # the quantiles asked for, by the names of their columns

    @property
    def _levels(self) -> list[float]:
        return sorted({*self.columns.values()})

    def run(self) -> list[pd.DataFrame]:
        data, model = self.data, clone(self.model)
        parts: list[pd.DataFrame] = []
        names = [] if data.y is not None else target_columns(model, data.frame, data.columns)
        started = data.started(names)
        tests = [self._test_rows(started, origin) for origin in self.origins]
        given = np.zeros(len(data.time), dtype=bool)
        for origin, test in zip(self.origins, tests):
            try:
                mine = started <= origin
                start, new = perf_counter(), mine & (data.time <= origin) & ~given
                if not parts:
                    model.fit(*data.rows(new))
                elif new.any():
                    update_model(model, *data.rows(new))
                fit_seconds, given = perf_counter() - start, given | new
                # no series may begin later: it would be measured on rows after its first origin
                plain = getattr(type(model), "predict", None) is BaseForecaster.predict
                late = (started > origin) & (started <= self.origins[-1])
                if plain and len(tests) > 1 and not late.any():
                    return self._at_once(model, mine, given, tests, fit_seconds)
                start, values = perf_counter(), self._values(model, given, test)
                seconds = {"fit_seconds": fit_seconds, "predict_seconds": perf_counter() - start}
                parts.append(self._frame(model, origin, test, values).assign(**seconds))
            except Exception as error:
                kind = DataError if isinstance(error, ValueError) else RNNForecastError
                raise kind(
                    f"{_OWNER}: model {self.name!r} at origin {data.stamps[origin]}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return parts

    def _test_rows(self, started: np.ndarray, origin: int) -> np.ndarray:
        """Positions of the rows to forecast, by series and time."""
        time = self.data.time
        ahead = (time > origin) & (time <= origin + self.horizon)
        found = np.flatnonzero(ahead & (started <= origin))
        if len(found) == 0:
            raise DataError(
                f"{_OWNER}: no series has rows both before and after origin "
                f"{self.data.stamps[origin]}: use fewer origins"
            )
        return found[np.lexsort((time[found], self.data.series[found]))]

    def _values(self, model: Any, given: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Points and quantiles through ``predict``, whatever the model is."""
        X, *y = self.data.rows(test)
        if y:
            return forecast_rows(model, X, self._levels, None)
        X = hide_future(model, X, self.data.columns)
        return forecast_rows(model, X, self._levels, self.data.frame[given])

    def _at_once(
        self, model: Any, started: np.ndarray, given: np.ndarray, tests: list, fit_seconds: float
    ) -> list[pd.DataFrame]:
        """Forecasts from all origins in one pass, each of which knows the rows before it only."""
        data, n_origins, start = self.data, len(tests), perf_counter()
        used = started & (data.time <= self.origins[-1] + self.horizon)
        panel = model._extended(*(*data.rows(used & ~given), None)[:2])
        view = model._at(panel)
        follow_seconds, start = perf_counter() - start, perf_counter()
        keys = read_table(_OWNER, data.frame.iloc[used], *data.columns).keys
        series, steps = panel.locate(_OWNER, keys)
        counted, position = panel.calendar is None or not keys.has_time, data.time[used]
        position = position if counted else panel.lengths[series] - 1 + steps
        until = np.zeros((n_origins, panel.n_series), dtype=np.int64)  # rows up to each origin
        for k, origin in enumerate(self.origins):
            past = data.time[used] <= origin
            np.maximum.at(until[k], series[past], position[past] + 1)
        which = np.repeat(np.arange(n_origins), [len(test) for test in tests])
        rows = (np.cumsum(used) - 1)[np.concatenate(tests)]
        series, position = series[rows], position[rows]
        step = position - until[which, series]
        pairs, place = np.unique(which * panel.n_series + series, return_inverse=True)
        at, of = np.divmod(pairs, panel.n_series)
        known = np.full((len(at), int(step.max()) + 1, panel.known.shape[1]), np.nan)
        known[place, step] = panel.known[panel.indptr[series] + position]
        forecast = view._forecast(panel, of, until[at, of], known.shape[1], known)[place, step]
        table = forecast.quantile(self._levels).unbind(-1) if self._levels else ()
        values = np.stack([part.cpu().numpy() for part in (forecast.point, *table)])
        seconds = (perf_counter() - start) / n_origins
        fits = [fit_seconds] + [follow_seconds / (n_origins - 1)] * (n_origins - 1)
        frames = [
            self._frame(model, origin, test, values[:, which == k])
            for k, (origin, test) in enumerate(zip(self.origins, tests))
        ]
        return [f.assign(fit_seconds=fit, predict_seconds=seconds) for f, fit in zip(frames, fits)]

    def _frame(self, model: Any, origin: int, test: np.ndarray, values: np.ndarray) -> pd.DataFrame:
        """Points and quantiles, (1 + n_levels, rows, targets): a row for each row and target."""
        data, y = self.data, self.data.y
        targets = raw_targets(model, data.frame.columns) if y is None else list(y.columns)
        truth, rows = data.values(targets, test), np.repeat(test, len(targets))
        if values.shape[1:] != truth.shape:
            raise DataError(
                f"y_pred should have shape {truth.shape}, one row for each row of X. Got "
                f"{values.shape[1:]}"
            )
        forecasts = {"y_pred": values[0].ravel()}
        for name, level in self.columns.items():
            forecasts[name] = values[1 + self._levels.index(level)].ravel()
        for name, numbers in forecasts.items():
            if lost := int((~np.isfinite(numbers)).sum()):
                raise DataError(f"{name} is NaN or infinite at {lost} of {len(rows)} positions")
        series = {"series": data.keys.ids.to_flat_index().take(data.series[rows])}
        return pd.DataFrame(
            {
                "model": self.name,
                "origin": data.stamps.take(np.full(len(rows), origin)),
                **(series if data.keys.series is not None else {}),
                "time": data.stamps.take(data.time[rows]),
                "step": data.time[rows] - origin,
                "target": np.tile(np.asarray(targets, dtype=object), len(test)),
                "y_true": truth.ravel(),
                **forecasts,
            }
        )
