"""The leaderboard: who forecasts best, by how much, and whether it is luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast._validation import check_int
from rnnforecast.baselines import NaiveForecaster
from rnnforecast.data.frames import read_table
from rnnforecast.data.panel import Panel
from rnnforecast.data.seasonality import choose_seasonality
from rnnforecast.exceptions import DataError
from rnnforecast.metrics.wrappers import innermost
from rnnforecast.model_selection._backtest import backtest, read_data
from rnnforecast.model_selection._diebold_mariano import dm_of_losses
from rnnforecast.model_selection._models import key_columns, named_models
from rnnforecast.model_selection._scores import (
    metric_names,
    origin_scales,
    quantile_columns,
    score_windows,
)

__all__ = ["compare"]


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
        Steps of a season for MASE, RMSSE and the seasonal naive forecast. None takes that of the
        rows up to the first origin by the rule that every forecaster follows
        (`rnnforecast.data.seasonality.choose_seasonality`).

    Returns
    -------
    DataFrame
        One row for each model, the best first, with a column for each metric (the mean over targets
        and series, then over origins) and ``<metric>_std``, its standard deviation over origins;
        ``wins``, the share of windows (origin x series x target) in which the first metric is lower
        than that of the naive forecast; ``dm_statistic`` and ``dm_pvalue`` of the Diebold-Mariano
        test against the baseline, negative where the model is better than it; ``fit_seconds`` and
        ``predict_seconds``, means over origins. ``attrs`` names the ``baseline``, the ``naive``
        forecast, the ``seasonality`` and the number of origins, and for a panel how many series
        were scored from each of them (``n_series``).

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

    **The test** is of the average over the horizon (Quaedvlieg 2021, "Multi-horizon forecast
    comparison", J. Bus. Econ. Stat. 39(1), section 2): one loss differential for each origin, of
    the first metric averaged over steps, series and targets, as the losses of the steps share their
    shocks. Forecasts of h stamps from origins that are s stamps apart overlap for
    ``ceil(h / s) - 1`` origins, and the long-run variance has as many lags. p-values are those of
    `diebold_mariano`: five origins can only show large differences. Both are NaN for the baseline
    itself and for too few origins.

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
    elif horizon is None:
        raise DataError("compare: horizon is needed: the number of time stamps to forecast")
    else:
        models = named_models(forecasters)
        series_id, time = key_columns(models, series_id, time)
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
    targets = _check_results(results)
    names = list(dict.fromkeys(results["model"]))
    if baseline is not None and baseline not in names:
        raise DataError(f"compare: baseline must be one of {names}. Got {baseline!r}")
    truth = _truth(df, y, targets, series_id, time)
    stamps = truth.index.unique(-1).sort_values()
    origins = np.sort(stamps.get_indexer(pd.Index(results["origin"].unique())))
    if origins[0] < 0:
        raise DataError(
            "compare: the backtest has origins that are not time stamps of df: pass the data that "
            "it was made from, and series_id= and time= if they are columns"
        )
    inner = {name: innermost(model) for name, model in models.items()}
    freq = next(filter(None, (getattr(model, "freq", None) for model in inner.values())), None)
    calendar, time = _panel(truth, freq=freq).calendar, truth.index.get_level_values(-1)
    known = {at: _panel(truth[time <= at], calendar=calendar) for at in stamps[origins]}
    if seasonality is not None and seasonality > origins[0]:
        raise DataError(
            f"compare: seasonality {seasonality} needs at least {seasonality + 1} training time "
            f"stamps, the first origin has {origins[0] + 1}: use a shorter one or fewer origins"
        )
    season = seasonality or choose_seasonality(known[stamps[origins[0]]])

    step = int(np.diff(origins).min(initial=len(stamps)))
    horizon = int(results["step"].max()) if horizon is None else horizon
    naives = [name for name, model in inner.items() if isinstance(model, NaiveForecaster)]
    naives.sort(key=lambda name: inner[name].strategy != "seasonal")
    ours = [k for k, m in inner.items() if type(m).__module__.startswith("rnnforecast.baselines")]
    candidates, hidden = [baseline] if baseline else ours, ""
    if not naives or not candidates:
        hidden = "seasonal naive"
        while hidden in names:
            hidden += "'"
        reference = backtest(
            {hidden: NaiveForecaster(strategy="seasonal", seasonality=season)},
            truth,
            horizon=horizon,
            n_origins=len(origins),
            step=step,
            coverage=coverage,
            quantiles=[*quantile_columns(results).values()] or None,
        )
        results = pd.concat([results, reference], ignore_index=True)
    windows = score_windows(results, named, origin_scales(known, targets, season), coverage)
    # forecasts from origins less than a horizon apart share test stamps
    lags, naive = -(-horizon // step), [*naives, hidden][0]
    board, baseline = _leaderboard(windows, naive, candidates or [hidden], lags)
    seconds = results.groupby(["model", "origin"])[["fit_seconds", "predict_seconds"]].first()
    board = board.join(seconds.groupby(level="model").mean())
    board = board[board.index != hidden].sort_values(windows.columns[0], kind="stable")
    board.attrs = {"baseline": baseline, "naive": naive, "seasonality": season}
    board.attrs["n_origins"] = len(origins)
    if "n_series" in results:
        board.attrs["n_series"] = results.groupby("origin")["n_series"].max().tolist()
    return board


def _check_results(results: pd.DataFrame) -> list:
    """The targets of a backtest, which must be the same for every model."""
    needed = "model origin time step target y_true y_pred fit_seconds predict_seconds".split()
    missing = [name for name in needed if name not in results]
    if missing or len(results) == 0:
        raise DataError(
            f"compare: a DataFrame as forecasters must be what backtest returned; columns "
            f"{missing} are missing. Pass estimators, or that DataFrame"
        )
    groups = results.groupby("model", sort=False)["target"]
    (first, targets), *rest = [(name, list(own.unique())) for name, own in groups]
    for name, own in rest:
        if set(own) != set(targets):
            raise DataError(
                f"compare: models must forecast the same targets, but {first!r} forecasts "
                f"{targets} and {name!r} {own}: give all of them the same target="
            )
    return targets


def _truth(df: Any, y: Any, targets: list, series_id: Any, time: Any) -> pd.DataFrame:
    """Targets of all rows, series by series in order of time, indexed by (series, time) or time."""
    data = read_data(df, y, series_id, time)
    order = np.lexsort((data.time, data.series))
    stamps = data.stamps.take(data.time[order])
    if data.keys.series is not None:
        ids = data.keys.ids.to_flat_index().take(data.series[order])
        stamps = pd.MultiIndex.from_arrays([ids, stamps], names=["series", "time"])
    return pd.DataFrame(data.values(targets, order), index=stamps, columns=targets)


def _panel(truth: pd.DataFrame, **options: Any) -> Panel:
    """Targets of rows in order of time as a panel."""
    keys, none = read_table("compare", truth).keys, np.empty((len(truth), 0))
    return Panel.build("compare", keys, truth.to_numpy(), none, none, none, **options)


def _leaderboard(
    windows: pd.DataFrame, naive: str, candidates: list[str], lags: int
) -> tuple[pd.DataFrame, str]:
    """Means, spreads, wins and tests of every model; the baseline that was tested against."""
    first = windows.columns[0]
    by_origin = windows.groupby(level=["model", "origin"], sort=False).mean()
    groups = by_origin.groupby(level="model", sort=False)
    mean, spread = groups.mean(), groups.std(ddof=1).add_suffix("_std")
    order = [each for name in windows for each in (name, f"{name}_std")]
    board = mean.join(spread)[order]
    scores = windows[first].unstack("model")
    both = scores.notna() & scores[[naive]].notna().to_numpy()
    board["wins"] = (scores.lt(scores[naive], axis=0) & both).sum() / both.sum().replace(0, np.nan)
    board.loc[naive, "wins"] = np.nan
    scored = mean.loc[candidates, first].dropna()
    # nothing can be compared where no baseline has a score, as on a constant series
    baseline = str(scored.idxmin()) if len(scored) else candidates[0]
    losses = by_origin[first].unstack("model").sort_index()
    tests = []
    for model in board.index:
        pair = losses[[model, baseline]].dropna().to_numpy()
        tested = model != baseline and len(pair) > lags
        tests.append(dm_of_losses(pair, lags) if tested else (np.nan, np.nan))
    board["dm_statistic"], board["dm_pvalue"] = np.array(tests).T
    return board, baseline
