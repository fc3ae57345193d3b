"""How long a forecast takes from a fitted estimator: one series, and 10,000 of them.

    python benchmarks/latency.py [--rounds 15] [--series 10000]

One series: ``forecast()`` and ``predict()``, the whole call with its DataFrame, and the network
alone (encoder and decoder), for look-backs folded into segments of a season (the default) and read
step by step. Many series: microseconds a series of ``forecast()``, and of the encoder's recurrent
layers alone on the same windows, which is what the kernel allows. A B A B ..., medians; one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from rnnforecast import DeepLSTMForecaster
from rnnforecast.forecasters import neural
from rnnforecast.nn.library import status
from rnnforecast.nn.window import fold


def fitted(n_series: int, n_rows: int, **options) -> DeepLSTMForecaster:
    """A forecaster of hourly series, trained as little as can be."""
    hours = pd.date_range("2020-01-01", periods=n_rows, freq="h")
    day = np.sin(np.arange(n_rows) * 2 * np.pi / 24)
    noise = np.random.default_rng(0).standard_normal((n_series, n_rows))
    if n_series == 1:
        df = pd.DataFrame({"y": day + 0.2 * noise[0]}, index=hours)
    else:
        index = pd.MultiIndex.from_product([range(n_series), hours], names=["series", "time"])
        df = pd.DataFrame({"y": (day + 0.2 * noise).ravel()}, index=index)
    return DeepLSTMForecaster(horizon=24, max_epochs=1, random_state=0, **options).fit(df)


def alternate(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each call, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def recurrent_layers(fc: DeepLSTMForecaster) -> Callable:
    """The encoder alone over the last look-back of every series, in chunks as a forecast's."""
    network, n = fc.network_, fc.panel_.n_series
    size = min(max(neural._CHUNK_NUMBERS // fc._numbers_a_forecast(network), 16), 512)
    chunks = []
    for start in range(0, n, size):
        series = np.arange(start, min(start + size, n))
        inputs = fc._inputs(network, fc.panel_, series, fc.panel_.lengths[series])
        window = network.normalise(inputs.targets)
        features = network.features(window.values, window.observed, inputs.past)
        chunks.append(fold(features, fc.segment_))

    @torch.inference_mode()
    def run() -> None:
        for chunk in chunks:
            network.encoder(chunk)

    return run


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--series", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    one, many = [], []
    for hidden in (32, 64):
        for segment in (None, 1):
            fc = fitted(1, 3000, hidden_size=hidden, segment=segment)
            known = np.empty((1, 24, 0))
            calls = {
                "forecast": fc.forecast,
                "predict": fc.predict,
                "network": lambda fc=fc, known=known: fc._average(
                    fc.panel_, np.array([0]), fc.panel_.lengths, 24, known
                ),
                "recurrent_layers": recurrent_layers(fc),
            }
            taken = alternate(calls, 4 * args.rounds)
            shown = {f"{name}_ms": round(1e3 * seconds, 3) for name, seconds in taken.items()}
            one.append({"hidden": hidden, "segment": fc.segment_, **shown})
    for segment in (None, 1):
        fc = fitted(args.series, 250, hidden_size=32, segment=segment, lookback=168)
        calls = {"forecast": fc.forecast, "recurrent_layers": recurrent_layers(fc)}
        taken = alternate(calls, max(args.rounds // 3, 3))
        each = {f"{name}_us": 1e6 * seconds / args.series for name, seconds in taken.items()}
        many.append(
            {
                "hidden": 32,
                "segment": fc.segment_,
                "series": args.series,
                **{name: round(value, 2) for name, value in each.items()},
                "ratio": round(each["forecast_us"] / each["recurrent_layers_us"], 2),
            }
        )
    print("one series, milliseconds a call")
    print(pd.DataFrame(one).to_string(index=False))
    print("\nmany series, microseconds a series")
    print(pd.DataFrame(many).to_string(index=False))
    print(
        json.dumps(
            {
                "benchmark": "latency",
                "kernels": status().path,
                "instruction_set": status().instruction_set,
                "one": one,
                "many": many,
            }
        )
    )


if __name__ == "__main__":
    main()
