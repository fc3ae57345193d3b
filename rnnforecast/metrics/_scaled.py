"""Errors on the scale of a naive forecast's errors in the training data, and panels of series."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.data.calendar import infer_calendar
from rnnforecast.exceptions import DataError
from rnnforecast.metrics._arrays import (
    Scores,
    average_outputs,
    check_pair,
    observed_mean,
    quiet_nanmean,
    to_rows,
)
from rnnforecast.metrics._point import smape

__all__ = ["by_series", "mase", "naive_scale", "owa", "owa_from_scores", "rmsse"]


def naive_scale(
    y_train: Any, *, seasonality: int = 1, power: int = 1, metric: str = "naive_scale"
) -> np.ndarray:
    """Mean ``|y[t] - y[t - seasonality]| ** power`` of training data: what MASE divides by.

    Parameters
    ----------
    y_train : array-like, shape (n,) or (n, targets)
        Training truth of one series, in order of time; rows follow one another. A pandas object
        with dates or periods as index is sorted first, and a row that its regular grid lacks counts
        as unobserved. Pairs with a NaN do not count.
    seasonality : int, default=1
        Steps between the pair.
    power : int, default=1
        1 for MASE, 2 for RMSSE.
    metric : str, default="naive_scale"
        Who asks, for error messages.

    Returns
    -------
    ndarray, shape (targets,)
        NaN where the scale is zero (a constant series) or no pair was observed.

    Raises
    ------
    DataError
        If the seasonality is not a positive integer or the data are no longer than one season.

    Examples
    --------
    >>> naive_scale([1.0, 2.0, 4.0, 4.0])
    array([1.])
    """
    check_int(metric, "seasonality", seasonality)
    train = to_rows(metric, "y_train", y_train)
    if isinstance(y_train, (pd.Series, pd.DataFrame)):
        train = _on_grid(train, y_train.index)
    if len(train) <= seasonality:
        raise DataError(
            f"{metric}: y_train has {len(train)} rows; seasonality {seasonality} needs at least "
            f"{seasonality + 1}: use a shorter seasonality or more training data"
        )
    change = np.abs(train[seasonality:] - train[:-seasonality]) ** power
    scale = observed_mean(change, ~np.isnan(change))
    return np.where(scale > 0, scale, np.nan)


def _on_grid(train: np.ndarray, index: pd.Index) -> np.ndarray:
    """Rows in order of time, with NaN rows in the gaps of a regular calendar, (steps, targets)."""
    if not isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        return train
    order = np.argsort(index.asi8, kind="stable")
    index = index[order]
    distance = np.diff(index.asi8)
    if len(distance) < 2 or not distance.all() or (distance == distance[0]).all():
        return train[order]
    calendar = infer_calendar(index)
    if calendar.own_grid:
        return train[order]
    steps = calendar.steps(index[0], index)
    grid = np.full((int(steps[-1]) + 1, train.shape[1]), np.nan)
    grid[steps] = train[order]
    return grid


def _is_panel(data: Any) -> bool:
    return isinstance(data, (pd.Series, pd.DataFrame)) and isinstance(data.index, pd.MultiIndex)


def _scaled_error(
    metric: str, y_true: Any, y_pred: Any, y_train: Any, seasonality: int, power: int
) -> np.ndarray:
    """Mean error to the given power over its naive scale, (targets,)."""
    true, pred = check_pair(metric, y_true, y_pred)
    scale = naive_scale(y_train, seasonality=seasonality, power=power, metric=metric)
    if len(scale) != true.shape[1]:
        raise DataError(
            f"{metric}: y_true has {true.shape[1]} targets and y_train "
            f"{len(scale)}: they must agree"
        )
    return observed_mean(np.abs(true - pred) ** power, ~np.isnan(true)) / scale


def mase(
    y_true: Any,
    y_pred: Any,
    y_train: Any,
    *,
    seasonality: int = 1,
    multioutput: str = "uniform_average",
) -> Scores:
    """Mean absolute scaled error: relative to the (seasonal) naive forecast in training.

    Parameters
    ----------
    y_true : array-like, shape (n,) or (n, targets)
        Truth; NaN does not count. A pandas object with a MultiIndex (series, time) is scored series
        by series, each on its own scale, and averaged over the series.
    y_pred : array-like, same shape
        Forecast.
    y_train : array-like, shape (m,) or (m, targets)
        What the forecaster was trained on, in order of time; a MultiIndex (series, time) for a
        panel.
    seasonality : int, default=1
        Steps of one season of the naive forecast; M4 uses 24 for hours, 12 for months, 4 for
        quarters and 1 for the rest.
    multioutput : {"uniform_average", "raw_values"}, default="uniform_average"
        The mean over the targets, or one value for each.

    Returns
    -------
    float, or ndarray of shape (targets,)
        Below 1 where the forecast beats the naive forecast's one-season-ahead error in training.
        NaN where nothing was observed or the training data are constant; means leave such targets
        and series out.

    Raises
    ------
    DataError
        If shapes differ, the seasonality is not a positive integer, the training data are no longer
        than one season, or a series has no training data.

    Notes
    -----
    Hyndman & Koehler (2006), "Another look at measures of forecast accuracy", section 3, with the
    seasonal denominator of the M4 competition.

    Examples
    --------
    >>> mase([5.0, 6.0], [5.0, 5.0], y_train=[1.0, 2.0, 4.0, 4.0])
    0.5
    """
    if _is_panel(y_train) or _is_panel(y_true):
        metric = partial(mase, seasonality=seasonality, multioutput=multioutput)
        return by_series(metric, y_true, y_pred, y_train)
    scores = _scaled_error("mase", y_true, y_pred, y_train, seasonality, power=1)
    return average_outputs("mase", scores, multioutput)


def rmsse(
    y_true: Any,
    y_pred: Any,
    y_train: Any,
    *,
    seasonality: int = 1,
    multioutput: str = "uniform_average",
) -> Scores:
    """Root mean squared scaled error of the M5 competition.

    Parameters
    ----------
    y_true, y_pred, y_train, seasonality, multioutput
        As in `mase`; M5 uses a seasonality of 1.

    Returns
    -------
    float, or ndarray of shape (targets,)
        As in `mase`.

    Raises
    ------
    DataError
        As in `mase`.

    Notes
    -----
    Makridakis, Spiliotis & Assimakopoulos (2022), "M5 accuracy competition: Results, findings, and
    conclusions".

    Examples
    --------
    >>> rmsse([5.0, 6.0], [5.0, 4.0], y_train=[1.0, 2.0, 3.0])
    1.4142135623730951
    """
    if _is_panel(y_train) or _is_panel(y_true):
        metric = partial(rmsse, seasonality=seasonality, multioutput=multioutput)
        return by_series(metric, y_true, y_pred, y_train)
    scores = np.sqrt(_scaled_error("rmsse", y_true, y_pred, y_train, seasonality, power=2))
    return average_outputs("rmsse", scores, multioutput)


def owa(y_true: Any, y_pred: Any, y_naive: Any, y_train: Any, *, seasonality: int = 1) -> float:
    """Overall weighted average of the M4 competition: sMAPE and MASE relative to a naive forecast.

    Both errors are averaged over series and targets before the ratios are taken, as in M4.

    Parameters
    ----------
    y_true, y_pred, y_train, seasonality
        As in `mase`.
    y_naive : array-like, same shape as y_true
        Forecast of the reference: Naive 2 in M4, that is the last value of the seasonally adjusted
        data.

    Returns
    -------
    float
        1 for the reference itself, lower is better.

    Raises
    ------
    DataError
        As in `mase`, or if the reference has no error.

    Examples
    --------
    >>> owa([5.0, 5.0], [5.0, 5.0], [4.0, 4.0], y_train=[1.0, 2.0, 4.0, 4.0])
    0.0
    """
    scores: list[float] = []
    for forecast in (y_pred, y_naive):
        if _is_panel(y_true):
            symmetric = by_series(smape, y_true, forecast)
        else:
            symmetric = smape(y_true, forecast)
        scaled = mase(y_true, forecast, y_train, seasonality=seasonality)
        scores += [float(symmetric), float(scaled)]
    return owa_from_scores(*scores)


def owa_from_scores(
    smape_value: float, mase_value: float, naive_smape: float, naive_mase: float
) -> float:
    """Overall weighted average from errors that are known already.

    Parameters
    ----------
    smape_value, mase_value : float
        Errors of the forecast, averaged over all series.
    naive_smape, naive_mase : float
        Errors of the reference, averaged over all series.

    Returns
    -------
    float
        ``(smape_value / naive_smape + mase_value / naive_mase) / 2``.

    Raises
    ------
    DataError
        If an error of the reference is not positive.

    Notes
    -----
    Makridakis, Spiliotis & Assimakopoulos (2020), "The M4 Competition".

    Examples
    --------
    The winner of M4 and Naive 2, as published:

    >>> round(owa_from_scores(11.374, 1.536, 13.564, 1.912), 3)
    0.821
    """
    for name, value in (("naive_smape", naive_smape), ("naive_mase", naive_mase)):
        if value <= 0:
            raise DataError(
                f"owa: {name} must be positive, the reference's error is the unit. Got {value!r}"
            )
    return float((smape_value / naive_smape + mase_value / naive_mase) / 2)


def by_series(
    metric: Callable[..., Any],
    y_true: pd.Series | pd.DataFrame,
    y_pred: Any,
    y_train: pd.Series | pd.DataFrame | None = None,
    *,
    average: bool = True,
) -> Any:
    """Score each series of a panel by itself.

    Parameters
    ----------
    metric : callable
        ``metric(y_true, y_pred)``, or ``metric(y_true, y_pred, y_train)`` if ``y_train`` is given.
        Bind options with `functools.partial`.
    y_true : Series or DataFrame
        Truth with a MultiIndex (series, time).
    y_pred : Series, DataFrame or array-like
        Forecast with the same labels in any order, or an array row for row.
    y_train : Series or DataFrame, default=None
        Training truth with a MultiIndex (series, time).
    average : bool, default=True
        The mean over the series whose score is not NaN, or the score of each series.

    Returns
    -------
    float, ndarray of shape (targets,), Series or DataFrame
        A pandas object indexed by series for ``average=False``; values are arrays or columns where
        the metric gives one value for each target.

    Raises
    ------
    DataError
        If the labels do not agree, or a series has no training data.

    Examples
    --------
    >>> index = pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["series", "time"])
    >>> truth = pd.Series([1.0, 2.0, 3.0, 4.0], index=index)
    >>> from rnnforecast.metrics import mae
    >>> by_series(mae, truth, truth + [0.0, 1.0, 2.0, 2.0], average=False)
    series
    a    0.5
    b    2.0
    dtype: float64
    """
    if not _is_panel(y_true):
        raise DataError(
            f"by_series: y_true must be a Series or DataFrame with a MultiIndex (series, time). "
            f"Got {type(y_true).__name__}"
        )
    true = y_true.to_numpy(dtype=np.float64, na_value=np.nan)
    pred = _aligned(y_true, y_pred)
    train = None if y_train is None else _rows_of_series("y_train", y_train)
    scores: dict[Any, Any] = {}
    for key, rows in _rows_of_series("y_true", y_true).items():
        arguments = [true[rows], pred[rows]]
        if train is not None and y_train is not None:
            if key not in train:
                raise DataError(f"by_series: series {key!r} of y_true is not in y_train")
            part = y_train.iloc[train[key]]
            arguments.append(part.set_axis(part.index.get_level_values(-1)).sort_index())
        scores[key] = metric(*arguments)
    values = np.asarray(list(scores.values()), dtype=np.float64)
    if average:
        mean = quiet_nanmean(values)
        return float(mean) if np.ndim(mean) == 0 else mean
    return _labelled(values, scores, y_true)


def _labelled(values: np.ndarray, scores: dict, y_true: Any) -> pd.Series | pd.DataFrame:
    names = list(y_true.index.names[:-1])
    if len(names) == 1:
        index = pd.Index(list(scores), name=names[0])
    else:
        index = pd.MultiIndex.from_tuples(list(scores), names=names)
    if values.ndim == 1:
        return pd.Series(values, index=index)
    return pd.DataFrame(values, index=index, columns=getattr(y_true, "columns", None))


def _rows_of_series(name: str, data: Any) -> dict[Any, np.ndarray]:
    """Row numbers of each series, in order of appearance."""
    if not _is_panel(data):
        raise DataError(
            f"by_series: {name} must have a MultiIndex (series, time) as y_true has. Got "
            f"{type(data).__name__}"
        )
    codes, keys = pd.factorize(data.index.droplevel(-1))
    order = np.argsort(codes, kind="stable")
    bounds = np.cumsum(np.bincount(codes, minlength=len(keys)))[:-1]
    return dict(zip(keys, np.split(order, bounds)))


def _aligned(y_true: Any, y_pred: Any) -> np.ndarray:
    """Forecast values in the order of the truth's rows."""
    if _is_panel(y_pred) and not y_pred.index.equals(y_true.index):
        missing = len(y_true.index.difference(y_pred.index))
        if missing or y_pred.index.has_duplicates or len(y_pred) != len(y_true):
            raise DataError(
                f"by_series: y_pred must have each label (series, time) of y_true once: {missing} "
                f"of {len(y_true)} are missing, and it has {len(y_pred)} rows"
            )
        y_pred = y_pred.reindex(y_true.index)
    values = np.asarray(y_pred, dtype=np.float64)
    if len(values) != len(y_true):
        raise DataError(f"by_series: y_true has {len(y_true)} rows, y_pred has {len(values)}")
    return values
