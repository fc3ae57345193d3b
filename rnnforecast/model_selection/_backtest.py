"""Rolling-origin evaluation: fit, forecast, move on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from rnnforecast._validation import check_int, check_quantiles, check_real
from rnnforecast.data.frames import read_table, read_targets, to_pandas
from rnnforecast.exceptions import DataError, RNNForecastError
from rnnforecast.metrics._unwrap import interval_of, quantiles_of
from rnnforecast.model_selection._models import (
    hide_future,
    key_columns,
    named_models,
    raw_targets,
    to_raw,
    update_model,
)
from rnnforecast.model_selection._rows import Rows, rows_of_table

__all__ = ["Data", "Plan", "backtest", "origins_of", "read_data", "run"]

_OWNER = "backtest"


@dataclass(frozen=True)
class Data:
    """What is forecast: rows with their keys, and y where it is apart.

    Attributes
    ----------
    frame : DataFrame, shape (n_rows, n_columns)
    y : Series, DataFrame, ndarray or None
    rows : Rows
    keys : tuple
        Columns that hold the series and the time.
    """

    frame: pd.DataFrame
    y: Any
    rows: Rows
    keys: tuple[Any, ...]

    def part(self, which: np.ndarray) -> tuple[pd.DataFrame, Any]:
        """The rows and the y of a mask or of positions."""
        y = self.y
        if y is not None:
            y = y.iloc[which] if isinstance(y, (pd.Series, pd.DataFrame)) else y[which]
        return self.frame.iloc[which], y


@dataclass(frozen=True)
class Plan:
    """What is asked of every model at every origin.

    Attributes
    ----------
    origins : list of int
        Positions of the last training stamp among the data's unique stamps, ascending.
    horizon : int
    coverage : float or None
    quantiles : tuple of float
    """

    origins: list[int]
    horizon: int
    coverage: float | None = None
    quantiles: tuple[float, ...] = ()


def read_data(df: Any, y: Any, series_id: Any, time: Any) -> Data:
    """Any input as frame, y and keys."""
    frame, is_array = to_pandas(_OWNER, df)
    table = read_table(_OWNER, frame, series_id, time)
    if y is not None:
        values, names, index = read_targets(_OWNER, y, len(frame))
        if index is not None and not is_array and not index.equals(frame.index):
            raise DataError(
                f"{_OWNER}: df and y have different indices: align them, e.g. y.reindex(df.index)"
            )
        if not isinstance(y, (pd.Series, pd.DataFrame)):
            y = values[:, 0] if np.ndim(y) == 1 else values
    keys = tuple(name for name in (series_id, time) if name is not None)
    return Data(frame, y, rows_of_table(table), keys)


def origins_of(n_stamps: int, horizon: int, n_origins: int, step: int) -> list[int]:
    """Positions of the rolling origins; the last one's horizon ends with the data."""
    first = n_stamps - 1 - horizon - (n_origins - 1) * step
    if first < 0:
        raise DataError(
            f"{_OWNER}: horizon {horizon}, step {step} and n_origins {n_origins} need more than "
            f"{horizon + (n_origins - 1) * step} time stamps, got {n_stamps}: use fewer origins, a "
            f"smaller step or a shorter horizon"
        )
    return [first + k * step for k in range(n_origins)]


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
        True fits a fresh clone at each origin. False fits once, at the first, and then gives the
        new rows to ``update``: the weights stay, the history moves on.
    coverage : float, default=None
        Also give the ends of the central intervals of this coverage, between 0 and 1.
    quantiles : sequence of float, default=None
        Also give these quantiles, between 0 and 1.
    series_id, time : str, default=None
        Columns that hold the series' name and the time stamp; None takes them from the
        forecasters' parameters of that name.
    n_jobs : int, default=None
        Jobs that joblib runs side by side, over models and origins (over models for
        ``refit=False``). Seconds measured side by side are longer than alone.
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
        ``predict_seconds`` of wall time for all rows of the origin together.

    Raises
    ------
    DataError
        If the data are too short or an argument is out of its range.
    RNNForecastError
        If a model fails; the message names the model and the origin.

    Notes
    -----
    Time stamps are the unique stamps of all series, so that no series is trained on dates on which
    another is tested. A series that has no row up to an origin is left out of that origin, and of
    all later ones for ``refit=False``.

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
    if coverage is not None:
        check_real(_OWNER, "coverage", coverage, 0.0, 1.0, closed="neither")
    levels = () if quantiles is None else check_quantiles(_OWNER, quantiles)
    models = named_models(forecasters)
    data = read_data(df, y, *key_columns(models, series_id, time))
    origins = origins_of(len(data.rows.stamps), horizon, n_origins, step or horizon)
    plan = Plan(origins, horizon, coverage, levels)
    return run(models, data, plan, refit=refit, n_jobs=n_jobs, verbose=verbose)


def run(
    models: dict[str, Any],
    data: Data,
    plan: Plan,
    *,
    refit: bool = True,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Backtest named models; the arguments are checked."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    groups = [[origin] for origin in plan.origins] if refit else [plan.origins]
    jobs = [(name, group) for name in models for group in groups]
    parts: Iterator[list[pd.DataFrame]] = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_run_origins)(name, models[name], data, plan, group) for name, group in jobs
    )
    shown = tqdm(parts, total=len(jobs), desc=_OWNER, disable=not verbose)
    return pd.concat([part for group in shown for part in group], ignore_index=True)


def _run_origins(
    name: str, model: Any, data: Data, plan: Plan, origins: list[int]
) -> list[pd.DataFrame]:
    """Fit at the first origin, update at the others; the forecasts from each."""
    fitted, previous, parts = clone(model), -1, []
    known = _known(data.rows, origins[0])
    for origin in origins:
        stamp = data.rows.stamps[origin]
        train = known & (data.rows.time <= origin)
        test = _test_rows(data.rows, known, origin, plan.horizon)
        try:
            start = perf_counter()
            if previous < 0:
                X, y = data.part(train)
                fitted.fit(X) if y is None else fitted.fit(X, y)
            else:
                X, y = data.part(train & (data.rows.time > previous))
                update_model(fitted, X, y)
            fit_seconds = perf_counter() - start
            part = _forecast(fitted, data, plan, train, test)
        except Exception as error:
            kind = DataError if isinstance(error, ValueError) else RNNForecastError
            raise kind(
                f"{_OWNER}: model {name!r} at origin {stamp}: {type(error).__name__}: {error}"
            ) from error
        part.insert(0, "model", name)
        part.insert(1, "origin", stamp)
        part.insert(part.columns.get_loc("predict_seconds"), "fit_seconds", fit_seconds)
        # the step counts stamps after this origin
        part["step"] -= origin
        parts.append(part)
        previous = origin
    return parts


def _known(rows: Rows, origin: int) -> np.ndarray:
    """Mask of the rows of series that have begun by the origin."""
    if rows.series is None:
        return np.ones(len(rows.time), dtype=bool)
    begun = np.bincount(rows.series[rows.time <= origin], minlength=len(rows.ids)) > 0
    return begun[rows.series]


def _test_rows(rows: Rows, known: np.ndarray, origin: int, horizon: int) -> np.ndarray:
    """Positions of the rows to forecast, by series and time."""
    found = np.flatnonzero(known & (rows.time > origin) & (rows.time <= origin + horizon))
    if len(found) == 0:
        raise DataError(
            f"{_OWNER}: no series has rows both before and after origin {rows.stamps[origin]}: use "
            f"fewer origins"
        )
    series = np.zeros(len(found)) if rows.series is None else rows.series[found]
    return found[np.lexsort((rows.time[found], series))]


def _forecast(
    model: Any, data: Data, plan: Plan, train: np.ndarray, test: np.ndarray
) -> pd.DataFrame:
    """Forecasts of the test rows beside their truth, one row for each row and target."""
    X, y = data.part(test)
    if y is None:
        targets = raw_targets(model, data.frame.columns)
        values = X[targets].to_numpy(dtype=np.float64, na_value=np.nan)
        X = hide_future(model, X, data.keys)
    else:
        values, targets, _ = read_targets(_OWNER, y, len(X))
    start = perf_counter()
    pred = np.asarray(model.predict(X), dtype=np.float64)
    seconds = perf_counter() - start
    columns: dict[str, np.ndarray] = {"y_pred": pred[:, None] if pred.ndim == 1 else pred}
    _check_forecast("y_pred", columns["y_pred"], values.shape)
    if plan.coverage is not None:
        columns["lower"], columns["upper"] = interval_of(model, X, plan.coverage)
    if plan.quantiles:
        levels = quantiles_of(model, X, plan.quantiles)
        columns |= {f"q{q:g}": levels[..., i] for i, q in enumerate(plan.quantiles)}
    if y is None:
        back = to_raw(model, data.frame[train], X, list(columns.values()))
        columns = _ordered(dict(zip(columns, back)))
    for column, found in columns.items():
        _check_forecast(column, found, values.shape)
    n_targets = len(targets)
    rows = np.repeat(test, n_targets)
    keys: dict[str, Any] = {}
    if data.rows.series is not None:
        keys["series"] = data.rows.ids.to_flat_index().take(data.rows.series[rows])
    keys["time"] = data.rows.stamps.take(data.rows.time[rows])
    keys["step"] = data.rows.time[rows]
    keys["target"] = np.tile(np.asarray(targets, dtype=object), len(test))
    keys["y_true"] = values.ravel()
    frame = pd.DataFrame(keys | {name: found.ravel() for name, found in columns.items()})
    frame["predict_seconds"] = seconds
    return frame


def _ordered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ends and quantiles in order again, should an inverse have turned them round."""
    for names in (["lower", "upper"], [name for name in columns if name.startswith("q")]):
        if names and names[0] in columns:
            values = np.sort(np.stack([columns[name] for name in names]), axis=0)
            columns |= dict(zip(names, values))
    return columns


def _check_forecast(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise DataError(
            f"{name} should have shape {shape}, one row for each row of X. Got {values.shape}"
        )
    lost = int((~np.isfinite(values)).sum())
    if lost:
        raise DataError(f"{name} is NaN or infinite at {lost} of {values.size} positions")
