"""What an observation costs a forecast stream, and what encoding the look-back anew would.

    python benchmarks/streaming.py [--rounds 9] [--lookback 96]

A: ``stream.update(values)``, the whole call, for one series and for 400 at once.
B: the same network's pass over the look-back that ends with the observation, step by step, in
inference mode: what a forecaster without a stream would have to do at least.
A B A B ..., medians; one thread. Two layers, hidden size 64; untrained weights cost the same as
trained ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch

from rnnforecast import DeepRNNForecaster
from rnnforecast.nn import step
from rnnforecast.nn.library import library, status


def fitted(cell: str, n_series: int, lookback: int) -> DeepRNNForecaster:
    """A forecaster of ``n_series`` hourly series, trained as little as can be."""
    hours = pd.date_range("2024-01-01", periods=lookback + 40, freq="h")
    index = pd.MultiIndex.from_product([range(n_series), hours], names=["series", "time"])
    values = np.random.default_rng(0).standard_normal(len(index))
    return DeepRNNForecaster(
        horizon=24,
        lookback=lookback,
        cell=cell,
        hidden_size=64,
        n_layers=2,
        segment=1,
        seasonality=24,
        max_epochs=1,
        random_state=0,
    ).fit(pd.DataFrame({"y": values}, index=index))


def alternate(calls: dict[str, Callable], rounds: int, seconds: float) -> dict[str, float]:
    """Median seconds a call of each, taken in turn; about ``seconds`` a round."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(int(seconds / (time.perf_counter() - start)), 1)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(taken) for name, taken in times.items()}


def calls_for(fc: DeepRNNForecaster, n_series: int) -> dict[str, Callable]:
    """The ways to take one observation of every series."""
    values = 0.3 if n_series == 1 else np.random.default_rng(1).standard_normal(n_series)
    calls: dict[str, Callable] = {
        dtype: partial(fc.stream(dtype).update, values) for dtype in ("float64", "float32")
    }
    kept, step.library = step.library, lambda: None
    try:
        calls["float64, no kernels"] = partial(fc.stream().update, values)
    finally:
        step.library = kept
    network = fc.network_
    inputs = fc._inputs(network, fc.panel_, np.arange(n_series), fc.panel_.lengths)
    window = network.normalise(inputs.targets)

    @torch.inference_mode()
    def encode() -> None:
        network.encode(window.values, window.observed, inputs.past)

    calls["look-back"] = encode
    return calls


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lookback", type=int, default=96)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru", "rnn"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for cell in args.cells:
        for n_series in (1, 400):
            fc = fitted(cell, n_series, args.lookback)
            taken = alternate(calls_for(fc, n_series), args.rounds, 0.02)
            whole = taken.pop("look-back")
            for way, seconds in taken.items():
                rows.append(
                    {
                        "cell": cell,
                        "series": n_series,
                        "way": way,
                        "us_per_observation": round(1e6 * seconds / n_series, 2),
                        "us_look_back": round(1e6 * whole / n_series, 1),
                        "ratio": round(whole / seconds, 1),
                    }
                )
    print(pd.DataFrame(rows).to_string(index=False))
    compiled = "native" if library() is not None else "none"
    print(
        json.dumps(
            {
                "benchmark": "streaming",
                "kernels": compiled,
                "instruction_set": status().instruction_set,
                "lookback": args.lookback,
                "results": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
