"""Errors on the scale of a naive forecast's errors in the training data, and panels of series."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.data.frames import read_table
from rnnforecast.data.panel import Panel, group_rows
from rnnforecast.exceptions import DataError
from rnnforecast.metrics._arrays import Scores, average_outputs, is_panel, to_rows
from rnnforecast.metrics._point import point_means, smape
from rnnforecast.metrics._texts import METRIC
from rnnforecast.metrics.terms import naive_scales, observed_mean
from rnnforecast.parameters import documented

__all__ = ["by_series", "mase", "naive_scale", "owa", "owa_from_scores", "rmsse"]


def naive_scale(y_train: Any, *, seasonality: int = 1, power: int = 1) -> np.ndarray:
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
    check_int("naive_scale", "seasonality", seasonality)
    train = _training("naive_scale", y_train, seasonality)
    return naive_scales(train, seasonality, power)[0]


def _training(metric: str, y_train: Any, seasonality: int) -> Panel:
    """Training rows in order of time, those of dates and panels on the grid of their calendar."""
    frame = pd.DataFrame(to_rows(metric, "y_train", y_train))
    index = getattr(y_train, "index", None)
    if isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex, pd.MultiIndex)):
        frame = frame.set_axis(index).sort_index()
    keys, none = read_table(metric, frame).keys, np.empty((len(frame), 0))
    train = Panel.build(f"{metric}: y_train", keys, frame.to_numpy(), none, none, none)
    longest = int(train.lengths.max())
    if longest <= seasonality:
        data = "the longest series of y_train" if train.is_panel else "y_train"
        raise DataError(
            f"{metric}: {data} has {longest} rows; seasonality {seasonality} needs at least "
            f"{seasonality + 1}: use a shorter seasonality or more training data"
        )
    return train


def scaled(
    metric: str,
    means: Callable[[Any, Any], np.ndarray],
    y_true: Any,
    y_pred: Any,
    y_train: Any,
    seasonality: int,
    multioutput: str,
    power: int = 1,
) -> Any:
    """``means(y_true, y_pred)``, (targets,), over the naive scale; series by series in a panel."""
    check_int(metric, "seasonality", seasonality)
    train = _training(metric, y_train, seasonality)
    if is_panel(y_true) and not train.is_panel:
        raise DataError(f"{metric}: y_train must have a MultiIndex (series, time), as y_true has")
    if train.is_panel:
        by_name = pd.DataFrame(by_series(means, y_true, y_pred, average=False))
        errors, place = by_name.to_numpy(), _places(metric, by_name.index, train.ids)
    else:
        errors, place = means(y_true, y_pred)[None], np.zeros(1, dtype=int)
    scales = naive_scales(train, seasonality, power)[place]
    if errors.shape != scales.shape:
        raise DataError(
            f"{metric}: y_true has {errors.shape[1]} targets and y_train {scales.shape[1]}: they "
            f"must agree"
        )
    scores = np.sqrt(errors / scales) if power == 2 else errors / scales
    over = 0 if multioutput == "raw_values" else 1  # series, or the targets of each first
    return average_outputs(metric, observed_mean(scores, axis=over), multioutput)


def _places(metric: str, names: pd.Index, known: pd.Index) -> np.ndarray:
    """Positions of the series of y_true among those of y_train."""
    place = known.get_indexer(names)
    if (place < 0).any():
        lost = names[place < 0].tolist()[0]
        raise DataError(f"{metric}: series {lost!r} of y_true is not in y_train")
    return place


@documented(METRIC)
def mase(
    y_true: Any,
    y_pred: Any,
    y_train: Any,
    *,
    seasonality: int = 1,
    multioutput: str = "uniform_average",
) -> Scores:
    """Mean absolute scaled error: relative to the (seasonal) naive forecast in training.

    Below 1 where the forecast beats the naive forecast's one-season-ahead error in training. NaN
    where the training data are constant; means leave such targets and series out, and series of a
    panel that are no longer than one season (a `DataError` if all are that short).

    Notes
    -----
    Hyndman & Koehler (2006), "Another look at measures of forecast accuracy", section 3, with the
    seasonal denominator of the M4 competition.

    Examples
    --------
    >>> mase([5.0, 6.0], [5.0, 5.0], y_train=[1.0, 2.0, 4.0, 4.0])
    0.5
    """
    means = partial(point_means, "mase")
    return scaled("mase", means, y_true, y_pred, y_train, seasonality, multioutput)


@documented(METRIC)
def rmsse(
    y_true: Any,
    y_pred: Any,
    y_train: Any,
    *,
    seasonality: int = 1,
    multioutput: str = "uniform_average",
) -> Scores:
    """Root mean squared scaled error of the M5 competition; NaN and panels as in `mase`.

    Notes
    -----
    Makridakis, Spiliotis & Assimakopoulos (2022), "M5 accuracy competition: Results, findings, and
    conclusions".

    Examples
    --------
    >>> rmsse([5.0, 6.0], [5.0, 4.0], y_train=[1.0, 2.0, 3.0])
    1.4142135623730951
    """
    means = partial(point_means, "rmsse")
    return scaled("rmsse", means, y_true, y_pred, y_train, seasonality, multioutput, power=2)


@documented(METRIC)
def owa(y_true: Any, y_pred: Any, y_naive: Any, y_train: Any, *, seasonality: int = 1) -> float:
    """Overall weighted average of the M4 competition: sMAPE and MASE relative to a naive forecast.

    Both errors are averaged over series and targets before the ratios are taken, as in M4.

    Parameters
    ----------
    y_naive : array-like, same shape as y_true
        Forecast of the reference: Naive 2 in M4, that is the last value of the seasonally adjusted
        data.

    Returns
    -------
    float
        1 for the reference itself, lower is better.

    Examples
    --------
    >>> owa([5.0, 5.0], [5.0, 5.0], [4.0, 4.0], y_train=[1.0, 2.0, 4.0, 4.0])
    0.0
    """
    scores: list[float] = []
    for pred in (y_pred, y_naive):
        percent = by_series(smape, y_true, pred) if is_panel(y_true) else smape(y_true, pred)
        scores += [float(percent), float(mase(y_true, pred, y_train, seasonality=seasonality))]
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
    names, groups = _rows_of_series("y_true", y_true)
    true, pred = y_true.to_numpy(dtype=np.float64, na_value=np.nan), _aligned(y_true, y_pred)
    parts: list[tuple] = [(true[rows], pred[rows]) for rows in groups]
    if y_train is not None:
        known, train_rows = _rows_of_series("y_train", y_train)
        train = [y_train.iloc[train_rows[k]] for k in _places("by_series", names, known)]
        past = [rows.set_axis(rows.index.get_level_values(-1)).sort_index() for rows in train]
        parts = [(*part, rows) for part, rows in zip(parts, past, strict=True)]
    values = np.asarray([metric(*part) for part in parts], dtype=np.float64)
    if average:
        mean = observed_mean(values)
        return float(mean) if np.ndim(mean) == 0 else mean
    if values.ndim == 1:
        return pd.Series(values, index=names)
    return pd.DataFrame(values, index=names, columns=getattr(y_true, "columns", None))


def _rows_of_series(name: str, data: Any) -> tuple[pd.Index, list[np.ndarray]]:
    """Names of the series in order of appearance, and the row numbers of each."""
    if not is_panel(data):
        raise DataError(
            f"by_series: {name} must be a Series or DataFrame with a MultiIndex (series, time). "
            f"Got {type(data).__name__}"
        )
    series = data.index.droplevel(-1)
    names = series.unique()
    return names, [rows for _, rows in group_rows(names.get_indexer(series))]


def _aligned(y_true: Any, y_pred: Any) -> np.ndarray:
    """Forecast values in the order of the truth's rows."""
    if is_panel(y_pred) and not y_pred.index.equals(y_true.index):
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
