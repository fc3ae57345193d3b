"""Errors of a backtest by model, origin, series and target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.exceptions import DataError
from rnnforecast.metrics import naive_scale
from rnnforecast.model_selection._rows import Rows

__all__ = ["metric_names", "naive_scales", "quantile_columns", "score_windows"]

# what the mean of a row-wise term over the window is turned into
_TERMS = {
    "mae": "absolute",
    "mse": "squared",
    "rmse": "squared",
    "mape": "percentage",
    "smape": "symmetric",
    "mase": "absolute",
    "rmsse": "squared",
    "coverage": "inside",
    "interval_width": "width",
    "interval_score": "interval",
    "pinball": "pinball",
}
_SCALED = {"mase": "scale1", "rmsse": "scale2"}
_NO_RANK = ("coverage", "interval_width")
_INTERVALS = ("coverage", "interval_width", "interval_score")


def metric_names(metrics: Sequence[Any]) -> dict[str, Any]:
    """Metrics by name: names that are known, and functions by their own names."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    named: dict[str, Any] = {}
    for metric in metrics:
        if not callable(metric) and metric not in _TERMS:
            raise DataError(
                f"compare: metrics must be functions (y_true, y_pred) or among {sorted(_TERMS)}. "
                f"Got {metric!r}"
            )
        named[getattr(metric, "__name__", repr(metric)) if callable(metric) else metric] = metric
    first = next(iter(named), None)
    if first is None or first in _NO_RANK:
        raise DataError(
            f"compare: the first metric ranks the models and must be an error. Got {first!r}"
        )
    return named


def naive_scales(
    truth: np.ndarray, targets: list, rows: Rows, origins: Sequence[int], seasonality: int
) -> pd.DataFrame:
    """Denominators of MASE and RMSSE from the truth up to each origin.

    Parameters
    ----------
    truth : ndarray, shape (n_rows, n_targets)
    targets : list
        Names of the targets.
    rows : Rows
        Series and stamp of each row.
    origins : sequence of int
        Positions of the origins among the stamps.
    seasonality : int

    Returns
    -------
    DataFrame
        Columns origin, series, target, scale1, scale2; NaN for a series with no more rows than one
        season up to the origin.
    """
    series = np.zeros(len(truth), dtype=np.int64) if rows.series is None else rows.series
    ids = rows.ids.to_flat_index()
    found: list[tuple] = []
    codes, sizes = np.unique(series, return_counts=True)
    groups = np.split(np.argsort(series, kind="stable"), np.cumsum(sizes)[:-1])
    for code, mine in zip(codes, groups):
        time = rows.time[mine]
        # on the grid of the stamps, so that a missing row does not shift the season
        grid = np.full((time.max() - time.min() + 1, len(targets)), np.nan)
        grid[time - time.min()] = truth[mine]
        for origin in origins:
            past = grid[: max(origin - time.min() + 1, 0)]
            scales = np.full((2, len(targets)), np.nan)
            if len(past) > seasonality:
                for power in (1, 2):
                    scales[power - 1] = naive_scale(past, seasonality=seasonality, power=power)
            name = 0 if rows.series is None else ids[code]
            found += [
                (rows.stamps[origin], name, target, *scales[:, k])
                for k, target in enumerate(targets)
            ]
    return pd.DataFrame(found, columns=["origin", "series", "target", "scale1", "scale2"])


def _row_terms(
    results: pd.DataFrame, wanted: set[str], coverage: float | None
) -> dict[str, np.ndarray]:
    """Row-wise terms that are wanted, NaN where the truth was not observed, each (rows,)."""
    true, pred = results["y_true"].to_numpy(), results["y_pred"].to_numpy()
    error = np.abs(true - pred)
    terms: dict[str, np.ndarray] = {"absolute": error, "squared": error**2}
    if "percentage" in wanted:
        terms["percentage"] = 100 * error / np.maximum(np.abs(true), np.finfo(np.float64).eps)
    if "symmetric" in wanted:
        size = np.abs(true) + np.abs(pred)
        zero = np.where(np.isnan(size), np.nan, 0.0)
        terms["symmetric"] = np.divide(200 * error, size, out=zero, where=size > 0)
    if wanted & {"inside", "width", "interval"}:
        lower, upper = results["lower"].to_numpy(), results["upper"].to_numpy()
        seen = ~np.isnan(true)
        terms["inside"] = np.where(seen, (true >= lower) & (true <= upper), np.nan)
        terms["width"] = upper - lower
        if coverage is not None:
            outside = np.maximum(lower - true, 0.0) + np.maximum(true - upper, 0.0)
            terms["interval"] = terms["width"] + 2.0 / (1.0 - coverage) * outside
    if "pinball" in wanted:
        levels = quantile_columns(results)
        losses = [
            np.maximum(q * (true - results[name]), (q - 1) * (true - results[name]))
            for name, q in levels.items()
        ]
        terms["pinball"] = np.mean(losses, axis=0)
    return terms


def quantile_columns(results: pd.DataFrame) -> dict[str, float]:
    """Quantile columns of a backtest and their levels."""
    found = {}
    for name in results.columns:
        if isinstance(name, str) and name.startswith("q"):
            try:
                found[name] = float(name[1:])
            except ValueError:
                continue
    return found


def score_windows(
    results: pd.DataFrame,
    metrics: dict[str, Any],
    scales: pd.DataFrame | None,
    coverage: float | None = None,
) -> pd.DataFrame:
    """Metrics of each window.

    Parameters
    ----------
    results : DataFrame
        What `backtest` returns.
    metrics : dict
        From `metric_names`.
    scales : DataFrame or None
        From `naive_scales`; needed for MASE and RMSSE.
    coverage : float or None
        Nominal coverage of the intervals, for the interval score.

    Returns
    -------
    DataFrame
        Indexed by (model, origin, series, target), a column for each metric; NaN where nothing was
        observed.

    Raises
    ------
    DataError
        If a metric needs intervals or quantiles that the backtest does not hold.
    """
    names = [name for name, metric in metrics.items() if not callable(metric)]
    _check_columns(results, names, coverage)
    if "series" not in results:
        results = results.assign(series=0)
    keys = ["model", "origin", "series", "target"]
    terms = _row_terms(results, {_TERMS[name] for name in names}, coverage)
    frame = pd.DataFrame({key: results[key].to_numpy() for key in keys} | terms)
    means = frame.groupby(keys, sort=False)[list(terms)].mean()
    if scales is not None:
        means = means.join(scales.set_index(["origin", "series", "target"]), on=keys[1:])
    scores = {}
    for name, metric in metrics.items():
        if callable(metric):
            scores[name] = _by_window(results, keys, metric).reindex(means.index)
            continue
        values = means[_TERMS[name]]
        if name in _SCALED:
            values = values / means[_SCALED[name]]
        scores[name] = np.sqrt(values) if name in ("rmse", "rmsse") else values
    return pd.DataFrame(scores, index=means.index)


def _check_columns(results: pd.DataFrame, names: list[str], coverage: float | None) -> None:
    for name in names:
        if name in _INTERVALS and "lower" not in results:
            raise DataError(f"compare: {name} needs intervals: pass coverage=, e.g. coverage=0.9")
        if name == "interval_score" and coverage is None:
            raise DataError("compare: interval_score needs the nominal coverage: pass coverage=")
        if name == "pinball" and not quantile_columns(results):
            raise DataError("compare: pinball needs quantiles: pass quantiles=, e.g. [0.1, 0.9]")


def _by_window(results: pd.DataFrame, keys: list[str], metric: Callable[..., float]) -> pd.Series:
    found = {}
    for key, part in results.groupby(keys, sort=False):
        seen = part["y_true"].notna().to_numpy()
        true, pred = part["y_true"].to_numpy()[seen], part["y_pred"].to_numpy()[seen]
        found[key] = float(metric(true, pred)) if len(true) else np.nan
    return pd.Series(found).rename_axis(keys)
