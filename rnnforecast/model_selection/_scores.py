"""Errors of a backtest by model, origin, series and target."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast.data.panel import Panel
from rnnforecast.exceptions import DataError
from rnnforecast.metrics.terms import POINT_ERRORS, inside, naive_scales, pinball, winkler

__all__ = ["metric_names", "origin_scales", "quantile_columns", "score_windows"]

_KEYS = ["origin", "series", "target"]
_INTERVALS = ("coverage", "interval_width", "interval_score")
_NAMES = sorted([*POINT_ERRORS, *_INTERVALS, "pinball"])


def metric_names(metrics: Any) -> dict[str, Any]:
    """Metrics by name: names that are known, and functions by their own names."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    named: dict[str, Any] = {}
    for metric in metrics:
        if not callable(metric) and metric not in _NAMES:
            raise DataError(
                f"compare: metrics must be functions (y_true, y_pred) or among {_NAMES}. "
                f"Got {metric!r}"
            )
        named[getattr(metric, "__name__", repr(metric)) if callable(metric) else metric] = metric
    first = next(iter(named), None)
    if first is None or first in ("coverage", "interval_width"):
        raise DataError(
            f"compare: the first metric ranks the models and must be an error. Got {first!r}"
        )
    return named


def origin_scales(known: dict[Any, Panel], targets: list, season: int) -> pd.DataFrame:
    """What MASE and RMSSE divide by at each origin, from the rows that are known there; NaN for a
    series with no more rows than one season.
    """
    parts = []
    for origin, past in known.items():
        ids = past.ids.to_flat_index()
        index = pd.MultiIndex.from_product([[origin], ids, targets], names=_KEYS)
        scales = np.stack([naive_scales(past, season, power) for power in (1, 2)], axis=-1)
        parts.append(pd.DataFrame(scales.reshape(-1, 2), index=index, columns=[1, 2]))
    return pd.concat(parts)


def score_windows(
    results: pd.DataFrame, metrics: dict[str, Any], scales: pd.DataFrame, coverage: float | None
) -> pd.DataFrame:
    """Metrics of each window of a backtest, indexed by (model, origin, series, target)."""
    keys = ["model", *_KEYS]
    results = results if "series" in results else results.assign(series=0)
    terms = {name: _term(name, results, coverage) for name, m in metrics.items() if not callable(m)}
    scores = results[[*keys, "step"]].assign(**terms).groupby(keys, sort=False).mean()
    units = scales.reindex(scores.index.droplevel("model"))
    seen = results.dropna(subset="y_true").groupby(keys, sort=False)
    for name, metric in metrics.items():
        if callable(metric):
            found = {
                key: float(metric(part["y_true"].to_numpy(), part["y_pred"].to_numpy()))
                for key, part in seen
            }
            scores[name] = pd.Series(found, index=scores.index, dtype=np.float64)
        elif name in POINT_ERRORS:
            error = POINT_ERRORS[name]
            scale = units[error.power].to_numpy() if error.power else 1.0
            scores[name] = error.of_mean(scores[name], scale)
    return scores[list(metrics)]


def _term(name: str, results: pd.DataFrame, coverage: float | None) -> Any:
    """What a metric is the mean of, row by row."""
    true = results["y_true"]
    if name in POINT_ERRORS:
        return POINT_ERRORS[name].term(true, results["y_pred"])
    if name == "pinball":
        levels = quantile_columns(results)
        if not levels:
            raise DataError("compare: pinball needs quantiles: pass quantiles=, e.g. [0.1, 0.9]")
        return np.mean([pinball(true, results[column], q) for column, q in levels.items()], axis=0)
    if "lower" not in results:
        raise DataError(f"compare: {name} needs intervals: pass coverage=, e.g. coverage=0.9")
    lower, upper = results["lower"], results["upper"]
    if name == "interval_width":
        return upper - lower
    if name == "coverage":
        return inside(true, lower, upper)
    if coverage is None:
        raise DataError("compare: interval_score needs the nominal coverage: pass coverage=")
    return winkler(true, lower, upper, coverage)


def quantile_columns(results: pd.DataFrame) -> dict[str, float]:
    """Quantile columns of a backtest and their levels."""
    names = [name for name in map(str, results.columns) if re.fullmatch(r"q0\.\d+|q\d+e-\d+", name)]
    return {name: float(name[1:]) for name in names}
