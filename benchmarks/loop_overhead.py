"""What the training loop costs beyond forward, backward and optimiser.

    python benchmarks/loop_overhead.py [--rounds 7]

A: epochs of the library's loop over windows of a panel (gathering, scaling, clipping, schedule,
bookkeeping).
B: the same network, loss and fused optimiser on one batch already in memory, as many steps.
A B A B ..., median of the ratios; one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import pandas as pd
import torch

from rnnforecast import DeepLSTMForecaster
from rnnforecast.data.building import build_panel
from rnnforecast.data.frames import read_table
from rnnforecast.forecasters import _training
from rnnforecast.forecasters._plan import make_plan
from rnnforecast.training import Settings, train


def prepare(hidden_size: int, n_layers: int, batch_size: int, lookback: int):
    """A run of the library's on 20 series of 2,000 hours."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [range(20), pd.date_range("2020-01-01", periods=2000, freq="h")], names=["series", "time"]
    )
    df = pd.DataFrame({"y": rng.standard_normal(len(index))}, index=index)
    forecaster = DeepLSTMForecaster(
        horizon=24,
        lookback=lookback,
        hidden_size=hidden_size,
        n_layers=n_layers,
        batch_size=batch_size,
        random_state=0,
    )
    table = read_table("benchmark", df)
    empty = np.empty((len(df), 0))
    panel = build_panel("benchmark", table.keys, df.to_numpy(), empty, empty, empty)
    plan = make_plan("benchmark", panel, 24, lookback, None, 0.1)
    return _training.prepare(forecaster, panel, plan)


def library(run, steps: int) -> float:
    """Seconds a step of the library's loop."""
    run.source.max_steps = steps
    settings = Settings(1, 1e-3, "adam", 0.0, 1.0, "cosine")
    start = time.perf_counter()
    train(run.network, run.source, run.loss, settings, run.generator)
    return (time.perf_counter() - start) / steps


def bare(run, steps: int, batch) -> float:
    """Seconds a step of forward, backward and optimiser alone."""
    run.network.train()
    optimizer = torch.optim.Adam(run.network.parameters(), lr=1e-3, fused=True)
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        run.loss(run.network, batch).backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = prepare(64, 2, 128, 96)
    batch = run.source.take(np.arange(128))
    library(run, 3), bare(run, 3, batch)
    pairs = [(library(run, args.steps), bare(run, args.steps, batch)) for _ in range(args.rounds)]
    torch.set_num_threads(before)
    overheads = [1 - b / a for a, b in pairs]
    result = {
        "setting": "hidden 64, 2 layers, batch 128, look-back 96, 1 thread",
        "library_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "bare_ms": 1e3 * statistics.median(b for _, b in pairs),
        "overhead_median": statistics.median(overheads),
        "overhead_min": min(overheads),
        "overhead_max": max(overheads),
    }
    print(f"library {result['library_ms']:.1f} ms a step, bare {result['bare_ms']:.1f} ms")
    print(f"overhead {result['overhead_median']:.1%} (median of {args.rounds})")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
