"""How the cost of a fit grows with series, length, look-back and hidden size.

    python benchmarks/scaling.py [--factors 1 2 4 8] [--rounds 3] [--cell lstm]

From a common setting one size at a time is multiplied. Settings take turns, medians, one thread.
"prepare s" is the time before the first step (reading the frame, look-back and season by rule,
scales, the network), "step ms" that of one step, "rest s" that after the last (calibration of the
intervals), "forecast ms" that of ``forecast()``, per series in the last column. The exponent is the
slope of step time over size, both in logarithms: 0 is no growth, 1 proportional.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import numpy as np
import pandas as pd
import torch

from rnnforecast import DeepRNNForecaster
from rnnforecast.forecasters import windows
from rnnforecast.training import learner

BASE = {"series": 50, "length": 500, "lookback": 48, "hidden_size": 32}


def frame(n_series: int, length: int) -> pd.DataFrame:
    """Hourly noise around a daily season."""
    index = pd.MultiIndex.from_product(
        [range(n_series), pd.date_range("2020-01-01", periods=length, freq="h")],
        names=["series", "time"],
    )
    rng = np.random.default_rng(0)
    season = np.tile(np.sin(np.arange(length) * np.pi / 12), n_series)
    return pd.DataFrame({"y": season + rng.standard_normal(len(index))}, index=index)


def fit(sizes: dict[str, int], args) -> dict[str, float]:
    """Seconds of the parts of one fit."""
    df = frame(sizes["series"], sizes["length"])
    begun = []
    train = learner.train

    def watched(*given, **more):
        begun.append(time.perf_counter())
        try:
            return train(*given, **more)
        finally:
            begun.append(time.perf_counter())

    forecaster = DeepRNNForecaster(
        horizon=24,
        cell=args.cell,
        lookback=sizes["lookback"],
        hidden_size=sizes["hidden_size"],
        batch_size=args.batch_size,
        max_epochs=1,
        random_state=0,
        **json.loads(args.options),
    )
    learner.train = watched
    try:
        start = time.perf_counter()
        forecaster.fit(df)
        end = time.perf_counter()
    finally:
        learner.train = train
    forecaster.forecast()  # warm
    again = time.perf_counter()
    forecaster.forecast()
    forecast = time.perf_counter() - again
    return {
        "prepare_s": begun[0] - start,
        "step_ms": 1e3 * (begun[1] - begun[0]) / windows._MAX_STEPS,
        "rest_s": end - begun[1],
        "forecast_ms": 1e3 * forecast,
        "forecast_ms_a_series": 1e3 * forecast / sizes["series"],
    }


def slope(sizes: list[int], values: list[float]) -> float:
    """Least-squares slope of log value over log size."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--options", default="{}", help="more arguments of the forecaster, as JSON")
    args = parser.parse_args()
    threads, most = torch.get_num_threads(), windows._MAX_STEPS
    torch.set_num_threads(1)
    windows._MAX_STEPS = args.steps
    points = [(name, BASE | {name: BASE[name] * k}) for name in BASE for k in args.factors]
    runs: list[list[dict]] = [[] for _ in points]
    for turn in range(args.rounds + 1):
        for made, (_, sizes) in zip(runs, points):
            answer = fit(sizes, args)
            if turn:  # the first round loads kernels and touches memory
                made.append(answer)
    torch.set_num_threads(threads)
    windows._MAX_STEPS = most
    rows = []
    for made, (name, sizes) in zip(runs, points):
        row = {"size": name, "value": sizes[name]}
        rows.append(row | {k: statistics.median(m[k] for m in made) for k in made[0]})
    print(f"from {BASE}: {args.cell}, 2 layers, batch {args.batch_size}, 1 thread")
    print(pd.DataFrame(rows).round(4).to_string(index=False))
    exponents = {}
    for name in BASE:
        part = [row for row in rows if row["size"] == name]
        sizes = [row["value"] for row in part]
        for key in ("prepare_s", "step_ms"):
            exponent = slope(sizes, [row[key] for row in part]) if len(part) > 1 else math.nan
            exponents[f"{name}: {key}"] = round(exponent, 2)
    print("exponents: " + ", ".join(f"{k} {v}" for k, v in exponents.items()))
    print(json.dumps({"base": BASE, "rows": rows, "exponents": exponents}))


if __name__ == "__main__":
    main()
