"""The leaderboard: who forecasts best, by how much, and whether it is luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.data.calendar import default_seasonality, infer_calendar
from rnnforecast.data.frames import read_targets
from rnnforecast.exceptions import DataError
from rnnforecast.metrics._unwrap import innermost
from rnnforecast.model_selection._backtest import Data, Plan, backtest, read_data, run
from rnnforecast.model_selection._diebold_mariano import dm_of_losses
from rnnforecast.model_selection._models import key_columns, named_models
from rnnforecast.model_selection._rows import Rows
from rnnforecast.model_selection._scores import (
    metric_names,
    naive_scales,
    quantile_columns,
    score_windows,
)

__all__ = ["compare"]

_SEASONAL_NAIVE = "seasonal naive"
_HIDDEN = "_reference"  # marks rows of a model that is not listed
_NAIVE_CLASS = "NaiveForecaster"


def compare(
    forecasters: Any,
    df: Any,
    y: Any = None,
    *,
    horizon: int | None = None,
    n_origins: int = 5,
    step: int | None = None,
    refit: bool = True,
    metrics: Any = ("mase", "smape"),
    baseline: str | None = None,
    seasonality: int | None = None,
    coverage: float | None = None,
    quantiles: Sequence[float] | None = None,
    series_id: Any = None,
    time: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Leaderboard of forecasters by rolling origin.

    Parameters
    ----------
    forecasters : estimator, list, dict of name to estimator, or DataFrame
        What to compare, as in `backtest`; or what `backtest` returned for the same data, which
        saves the time of doing it again.
    df, y, horizon, n_origins, step, refit, coverage, quantiles, series_id, time, n_jobs, verbose
        As in `backtest`. With its result as ``forecasters`` only the data and their keys matter,
        and ``coverage`` if the interval score is asked for.
    metrics : sequence of str or callable, default=("mase", "smape")
        Among "mae", "mse", "rmse", "mape", "smape", "mase", "rmsse", "coverage",
        "interval_width", "interval_score", "pinball", or functions (y_true, y_pred) that are lower
        for better. The first one ranks.
    baseline : str, default=None
        Name of the model that the others are tested against. None takes the best of the models from
        ``rnnforecast.baselines``, and a seasonal naive forecast if there is none.
    seasonality : int, default=None
        Steps of a season for MASE, RMSSE and the seasonal naive forecast. None takes the usual one
        of the calendar (24 for hours, 12 for months), or 1 if the data are shorter.

    Returns
    -------
    DataFrame
        One row for each model, the best first, with a column for each metric (the mean over targets
        and series, then over origins) and ``<metric>_std``, its standard deviation over origins;
        ``wins``, the share of windows (origin x series x target) in which the first metric is lower
        than that of the naive forecast; ``dm_statistic`` and ``dm_pvalue`` of the Diebold-Mariano
        test against the baseline, negative where the model is better than it; ``fit_seconds`` and
        ``predict_seconds``, means over origins. ``attrs`` names the ``baseline``, the ``naive``
        forecast, the ``seasonality`` and the number of origins.

    Raises
    ------
    DataError
        If an argument is out of its range, or a metric needs intervals or quantiles that were not
        asked for.
    RNNForecastError
        If a model fails; the message names the model and the origin.

    Notes
    -----
    The naive forecast of ``wins`` is the seasonal `NaiveForecaster` among the models, else their
    first `NaiveForecaster`, else one that is computed here and not listed. Its own ``wins`` are
    NaN.

    **The test.** The losses of the steps of one forecast rise with the step and share their shocks,
    so a differential strung together over steps is not covariance stationary, which Diebold &
    Mariano (1995) assume. The test is therefore of the average over the horizon, as in
    Quaedvlieg (2021), "Multi-horizon forecast comparison", J. Bus. Econ. Stat. 39(1), section 2
    (average superior predictive ability): one differential for each origin, of the first metric
    averaged over steps, series and targets, which also takes in that series move together.
    Forecasts of h stamps from origins that are s stamps apart overlap for ``ceil(h / s) - 1``
    origins, and the long-run variance has as many lags (none for the default step). p-values are
    those of Harvey, Leybourne & Newbold (1997) with as many degrees of freedom as origins less one:
    five origins can only show large differences. Both are NaN for the baseline itself and for too
    few origins.

    Examples
    --------
    >>> import pandas as pd
    >>> from rnnforecast import NaiveForecaster
    >>> df = pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]})
    >>> models = {
    ...     "last": NaiveForecaster(strategy="last"),
    ...     "drift": NaiveForecaster(strategy="drift"),
    ... }
    >>> compare(models, df, horizon=2, n_origins=2)[["mase", "wins"]]
           mase  wins
    model
    drift   0.0   1.0
    last    1.5   NaN
    """
    named = metric_names(metrics)
    check_int("compare", "seasonality", seasonality, none=True)
    models: dict[str, Any] = {}
    if isinstance(forecasters, pd.DataFrame):
        results = forecasters
        _check_results(results)
    else:
        models = named_models(forecasters)
        series_id, time = key_columns(models, series_id, time)
        if horizon is None:
            raise DataError("compare: horizon is needed: the number of time stamps to forecast")
        results = backtest(
            models,
            df,
            y,
            horizon=horizon,
            n_origins=n_origins,
            step=step,
            refit=refit,
            coverage=coverage,
            quantiles=quantiles,
            series_id=series_id,
            time=time,
            n_jobs=n_jobs,
            verbose=verbose,
        )
    _check_same_targets(results)
    data = read_data(df, y, series_id, time)
    plan = _plan_of(results, data.rows, horizon)
    season = _seasonality(seasonality, data.rows, plan.origins[0], models)
    results, naive, candidates = _with_reference(
        results, data, plan, season, models, baseline, coverage
    )
    truth = _truth(data, list(dict.fromkeys(results["target"])))
    scales = naive_scales(
        truth.to_numpy(dtype=np.float64), list(truth.columns), data.rows, plan.origins, season
    )
    windows = score_windows(results, named, scales, coverage)
    return _leaderboard(results, windows, naive, candidates, plan, season)


def _with_reference(
    results: pd.DataFrame,
    data: Data,
    plan: Plan,
    season: int,
    models: dict[str, Any],
    baseline: str | None,
    coverage: float | None,
) -> tuple[pd.DataFrame, str, list[str]]:
    """Results that hold a naive forecast, its name, and the baselines to choose from.

    A seasonal naive forecast is added where none is among the models, or no baseline is.
    """
    names = list(dict.fromkeys(results["model"]))
    if baseline is not None and baseline not in names:
        raise DataError(f"compare: baseline must be one of {names}. Got {baseline!r}")
    naive, candidates = _naive_of(models), [baseline] if baseline else _baselines_of(models)
    if naive is not None and candidates:
        return results, naive, candidates
    truth = _truth(data, list(dict.fromkeys(results["target"])))
    reference = _seasonal_naive(truth, plan, season, names, coverage)
    name = str(reference["model"].iloc[0])
    joined = pd.concat([results, reference.assign(**{_HIDDEN: True})], ignore_index=True)
    return joined, naive or name, candidates or [name]


def _check_results(results: pd.DataFrame) -> None:
    needed = ["model", "origin", "time", "step", "target", "y_true", "y_pred"]
    needed += ["fit_seconds", "predict_seconds"]
    missing = [name for name in needed if name not in results]
    if missing or len(results) == 0:
        raise DataError(
            f"compare: a DataFrame as forecasters must be what backtest returned; columns "
            f"{missing} are missing. Pass estimators, or that DataFrame"
        )


def _check_same_targets(results: pd.DataFrame) -> None:
    """Raise where errors of one model are of other quantities than those of the next."""
    pairs = results[["model", "target"]].drop_duplicates()
    targets = pairs.groupby("model", sort=False)["target"].agg(list)
    for name, own in targets.items():
        if set(own) != set(targets.iloc[0]):
            raise DataError(
                f"compare: models must forecast the same targets, but {targets.index[0]!r} "
                f"forecasts {targets.iloc[0]} and {name!r} {own}: give all of them the same target="
            )


def _plan_of(results: pd.DataFrame, rows: Rows, horizon: int | None) -> Plan:
    """Origins as positions, and what was forecast from them."""
    origins = rows.stamps.get_indexer(pd.Index(results["origin"].unique()))
    if (origins < 0).any():
        raise DataError(
            "compare: the backtest has origins that are not time stamps of df: pass the data that "
            "it was made from, and series_id= and time= if they are columns"
        )
    steps = int(results["step"].max()) if horizon is None else horizon
    quantiles = tuple(sorted(quantile_columns(results).values()))
    return Plan(sorted(int(origin) for origin in origins), steps, None, quantiles)


def _freq_of(models: dict[str, Any]) -> Any:
    found = (getattr(innermost(model), "freq", None) for model in models.values())
    return next((freq for freq in found if freq is not None), None)


def _seasonality(given: int | None, rows: Rows, first_origin: int, models: dict[str, Any]) -> int:
    """Steps of a season: those given, else the calendar's, else 1."""
    if given is not None:
        if given > first_origin:
            raise DataError(
                f"compare: seasonality {given} needs at least {given + 1} training time stamps, "
                f"the first origin has {first_origin + 1}: use a shorter one or fewer origins"
            )
        return given
    season = default_seasonality(infer_calendar(rows.stamps, _freq_of(models)))
    return season if season <= first_origin else 1


def _truth(data: Data, targets: list) -> pd.DataFrame:
    """Targets of all rows, row for row with the data, indexed by (series, time) or time."""
    if data.y is None:
        values = data.frame[targets].to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values, targets, _ = read_targets("compare", data.y, len(data.frame))
    stamps = data.rows.stamps.take(data.rows.time)
    if data.rows.series is not None:
        ids = data.rows.ids.to_flat_index().take(data.rows.series)
        stamps = pd.MultiIndex.from_arrays([ids, stamps], names=["series", "time"])
    return pd.DataFrame(values, index=stamps, columns=targets)


def _naive_of(models: dict[str, Any]) -> str | None:
    """Name of the naive forecast among the models: a seasonal one, else the first."""
    naive = [
        name for name, model in models.items() if type(innermost(model)).__name__ == _NAIVE_CLASS
    ]
    seasonal = [name for name in naive if innermost(models[name]).strategy == "seasonal"]
    return next(iter(seasonal or naive), None)


def _baselines_of(models: dict[str, Any]) -> list[str]:
    return [
        name
        for name, model in models.items()
        if type(innermost(model)).__module__.startswith("rnnforecast.baselines")
    ]


def _seasonal_naive(
    truth: pd.DataFrame, plan: Plan, season: int, names: list[str], coverage: float | None
) -> pd.DataFrame:
    """Backtest of a seasonal naive forecast at the same origins, under a name of its own."""
    from rnnforecast.baselines import NaiveForecaster

    name = _SEASONAL_NAIVE
    while name in names:
        name += "'"
    plan = Plan(plan.origins, plan.horizon, coverage, plan.quantiles)
    data = read_data(truth.sort_index(), None, None, None)
    return run({name: NaiveForecaster(strategy="seasonal", seasonality=season)}, data, plan)


def _leaderboard(
    results: pd.DataFrame,
    windows: pd.DataFrame,
    naive: str,
    candidates: list[str],
    plan: Plan,
    season: int,
) -> pd.DataFrame:
    """Means, spreads, wins, tests and seconds of every model, the best first."""
    first = windows.columns[0]
    by_origin = windows.groupby(level=["model", "origin"], sort=False).mean()
    mean = by_origin.groupby(level="model", sort=False).mean()
    spread = by_origin.groupby(level="model", sort=False).std(ddof=1)
    board = pd.DataFrame(index=mean.index)
    for name in windows.columns:
        board[name], board[f"{name}_std"] = mean[name], spread[name]
    board["wins"] = _wins(windows[first].unstack("model"), naive)
    scored = mean.loc[candidates, first].dropna()
    # nothing can be told apart where no baseline has a score, as on a constant series
    baseline = str(scored.idxmin()) if len(scored) else candidates[0]
    losses = by_origin[first].unstack("model").sort_index()
    board[["dm_statistic", "dm_pvalue"]] = [
        _test(losses[[model, baseline]], plan) for model in board.index
    ]
    board.loc[baseline, ["dm_statistic", "dm_pvalue"]] = np.nan
    seconds = results.groupby(["model", "origin"])[["fit_seconds", "predict_seconds"]].first()
    board = board.join(seconds.groupby(level="model").mean()).sort_values(first, kind="stable")
    if _HIDDEN in results:
        hidden = results.loc[results[_HIDDEN].notna(), "model"].unique()
        board = board.drop(index=hidden)
    board.attrs = {
        "baseline": baseline,
        "naive": naive,
        "seasonality": season,
        "n_origins": len(plan.origins),
    }
    return board


def _wins(scores: pd.DataFrame, naive: str) -> pd.Series:
    """Share of windows in which each model's score is lower than the naive one's."""
    both = scores.notna() & scores[[naive]].notna().to_numpy()
    lower = (scores.lt(scores[naive], axis=0) & both).sum() / both.sum().replace(0, np.nan)
    lower[naive] = np.nan
    return lower


def _test(losses: pd.DataFrame, plan: Plan) -> tuple[float, float]:
    """Diebold-Mariano over origins; NaN where they are too few."""
    values = losses.dropna().to_numpy()
    gaps = np.diff(plan.origins)
    # forecasts from origins less than a horizon apart share test stamps
    lags = int(np.ceil(plan.horizon / gaps.min())) if len(gaps) else 1
    if len(values) <= lags:
        return float("nan"), float("nan")
    result = dm_of_losses(values, lags)
    return result.statistic, result.pvalue
