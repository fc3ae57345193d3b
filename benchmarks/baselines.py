"""What the baselines cost, in seconds of processor time, and how well they forecast.

    python benchmarks/baselines.py [--naive-series 100000] [--skip-weather]

Hourly weather at three airports (the demo's data: 8,730 rows, season 24, missing hours): one fit,
then 28 daily origins in one pass, with intervals. Short monthly series (120 rows, season 12): a fit
and a forecast. Naive forecasts of a large panel. statsforecast's AutoETS, where it is installed, on
the same rows with the gaps filled in, as it takes none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from rnnforecast import (
    ARIMAForecaster,
    ETSForecaster,
    NaiveForecaster,
    ThetaForecaster,
)
from rnnforecast.datasets import load_nyc_weather

HORIZON, ORIGINS = 24, 28


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call, and what it gives."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def weather() -> None:
    """Fit, rolling forecasts and mean absolute error on the demo's data."""
    frame = load_nyc_weather()[["temp"]]
    hours = frame.index.get_level_values("time")
    last = hours.max() - pd.Timedelta(hours=HORIZON * ORIGINS)
    old, new = frame[hours <= last], frame[hours > last]
    models = {
        "ETS": ETSForecaster(horizon=HORIZON),
        "ARIMA(2,0,1)": ARIMAForecaster(order=(2, 0, 1), horizon=HORIZON),
        "seasonal naive": NaiveForecaster(strategy="seasonal", horizon=HORIZON),
    }
    print(f"{'weather':24}{'fit':>8}{'28 origins':>12}{'MAE':>8}")
    for name, model in models.items():
        fit, forecaster = timed(lambda model=model: model.fit(old))
        rolling, table = timed(
            lambda fc=forecaster: fc.rolling_forecast(
                new, stride=HORIZON, quantiles=[0.05, 0.5, 0.95]
            )
        )
        truth = new["temp"].reindex(table.index.droplevel("origin")).to_numpy()
        error = np.nanmean(np.abs(table[("temp", 0.5)].to_numpy() - truth))
        print(f"{name:24}{fit:8.2f}{rolling:12.2f}{error:8.2f}")
    statsforecast_ets(old, new)


def statsforecast_ets(old: pd.DataFrame, new: pd.DataFrame) -> None:
    """The same by statsforecast's AutoETS and its ``forward``."""
    try:
        from statsforecast.models import AutoETS
    except ImportError:
        return
    fit, rolling, errors = 0.0, 0.0, []
    for station in old.index.unique(0):
        y, later = (part.loc[station]["temp"].asfreq("h") for part in (old, new))
        whole = pd.concat([y, later]).interpolate().to_numpy()
        before = whole[: len(y)]
        seconds, model = timed(lambda rows=before: AutoETS(season_length=24).fit(rows))
        fit += seconds
        for origin in range(len(y), len(whole) - HORIZON + 1, HORIZON):
            seconds, found = timed(
                lambda m=model, o=origin, w=whole: m.forward(w[:o], HORIZON, level=[90])
            )
            rolling += seconds
            truth = later.to_numpy()[origin - len(y) :][:HORIZON]
            errors.append(np.abs(found["mean"] - truth))
    print(f"{'statsforecast AutoETS':24}{fit:8.2f}{rolling:12.2f}{np.nanmean(errors):8.2f}")


def monthly(n: int = 20) -> None:
    """A fit and a forecast of short series."""
    rng = np.random.default_rng(0)
    months = pd.date_range("2010-01-01", periods=120, freq="MS")
    season = 10 * np.sin(np.arange(120) * np.pi / 6)
    parts = {i: pd.DataFrame({"y": 100 + season + rng.normal(size=120).cumsum()}) for i in range(n)}
    panel = pd.concat({i: part.set_index(months) for i, part in parts.items()}, names=["id", "m"])
    models = {
        "ETS": ETSForecaster(horizon=12),
        "Theta": ThetaForecaster(horizon=12),
        "ARIMA(2,1,1)": ARIMAForecaster(order=(2, 1, 1), horizon=12),
        "airline ARIMA": ARIMAForecaster(order=(0, 1, 1), seasonal_order=(0, 1, 1), horizon=12),
    }
    print(f"\n{'monthly, a series':24}{'fit':>8}{'forecast':>12}")
    for name, model in models.items():
        fit, forecaster = timed(lambda model=model: model.fit(panel))
        ahead, _ = timed(lambda fc=forecaster: fc.forecast(quantiles=[0.1, 0.5, 0.9]))
        print(f"{name:24}{fit / n:8.3f}{ahead / n:12.4f}")


def naive(n: int) -> None:
    """All series of a panel at once."""
    months = pd.date_range("2010-01-01", periods=120, freq="MS")
    index = pd.MultiIndex.from_product([range(n), months], names=["id", "month"])
    values = np.random.default_rng(0).normal(size=(n, 120)).cumsum(axis=1)
    panel = pd.DataFrame({"y": values.ravel()}, index=index)
    print(f"\n{f'naive, {n:,} series':24}{'fit':>8}{'forecast':>12}")
    for strategy in ("last", "seasonal", "drift"):
        model = NaiveForecaster(strategy=strategy, horizon=12)
        fit, forecaster = timed(lambda model=model: model.fit(panel))
        ahead, _ = timed(lambda fc=forecaster: fc.forecast(quantiles=[0.1, 0.5, 0.9]))
        print(f"{strategy:24}{fit:8.2f}{ahead:12.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--naive-series", type=int, default=100_000)
    parser.add_argument("--skip-weather", action="store_true")
    arguments = parser.parse_args()
    if not arguments.skip_weather:
        weather()
    monthly()
    naive(arguments.naive_series)


if __name__ == "__main__":
    main()
