"""Whether neighbours help: the weather at three airports, forecast alone and on a graph.

    python benchmarks/graph.py [--target temp] [--horizon 1 6 24] [--seeds 3] [--epochs 10]

The hourly ``temp`` of EWR, JFK and LGA in 2013. The last tenth of the year is forecast from origins
6 hours apart (``rolling_forecast``: weights stay, history moves on). Mean absolute errors in the
unit of the target, mean and deviation over seeds; below, the seasonal naive forecast (a day).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from rnnforecast import DeepGRUForecaster, GraphGRUForecaster, NaiveForecaster
from rnnforecast.datasets import load_nyc_weather


def models(horizon: int, epochs: int, seed: int) -> dict:
    """The same sizes for all; only the graph differs."""
    options = {"horizon": horizon, "lookback": 72, "n_layers": 1, "max_epochs": epochs}
    options["random_state"] = seed
    if horizon < 24:  # of the last hours, each counts
        options |= {"segment": 1, "lookback": 24}
    return {
        "DeepGRUForecaster": DeepGRUForecaster(**options),
        "graph without edges": GraphGRUForecaster(adjacency=np.eye(3), **options),
        "graph, all joined": GraphGRUForecaster(adjacency=np.ones((3, 3)) - np.eye(3), **options),
        "graph, learned": GraphGRUForecaster(**options),
    }


def error(forecaster, train: pd.DataFrame, test: pd.DataFrame) -> tuple[float, float]:
    """Mean absolute error over all origins and steps, and seconds of the fit."""
    start = time.perf_counter()
    forecaster.fit(train)
    seconds = time.perf_counter() - start
    ahead = forecaster.rolling_forecast(test, stride=6).droplevel("origin")
    truth = test.reindex(ahead.index)
    return float((ahead - truth).abs().mean().iloc[0]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="temp")
    parser.add_argument("--horizon", type=int, nargs="+", default=[1, 6, 24])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    df = load_nyc_weather()[[args.target]]
    hours = df.index.get_level_values("time")
    cut = hours.unique().sort_values()[int(0.9 * hours.nunique())]
    train, test = df[hours < cut], df[hours >= cut]
    for horizon in args.horizon:
        print(f"\n{args.target}, horizon {horizon}: MAE (deviation over {args.seeds} seeds), fit")
        found: dict[str, list] = {}
        for seed in range(args.seeds):
            for name, forecaster in models(horizon, args.epochs, seed).items():
                found.setdefault(name, []).append(error(forecaster, train, test))
        for name, runs in found.items():
            errors, seconds = map(np.array, zip(*runs, strict=True))
            print(f"{name:22} {errors.mean():.4f} ({errors.std():.4f})  {seconds.mean():5.0f} s")
        naive = error(NaiveForecaster(horizon=horizon, seasonality=24), train, test)[0]
        print(f"{'a day ago':22} {naive:.4f}", flush=True)


if __name__ == "__main__":
    main()
