"""What the training loop costs beyond the network's forward and backward pass.

    python benchmarks/loop_overhead.py [--rounds 7] [--steps 50]

A: epochs of the library's loop over windows of a panel (gathering, scaling, clipping, optimiser,
schedule, bookkeeping).
B: the same network's loss and backward on one batch already in memory, as many steps.
C: B with ``torch.optim.Adam(fused=True)``, the least that a loop by hand would do.
A B C A B C ..., medians; one thread.
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
from rnnforecast.data.reading import read_fit
from rnnforecast.training import Learner, Settings, train

# hidden size, layers, batch, look-back, segment
SHAPES = [(32, 2, 32, 168, 24), (32, 2, 32, 168, 1), (64, 2, 128, 96, 1)]


def prepare(
    hidden_size: int, n_layers: int, batch_size: int, lookback: int, segment: int = 1
) -> Learner:
    """What the library trains with on 20 series of 2,000 hours."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [range(20), pd.date_range("2020-01-01", periods=2000, freq="h")], names=["series", "time"]
    )
    df = pd.DataFrame({"y": rng.standard_normal(len(index))}, index=index)
    forecaster = DeepLSTMForecaster(
        horizon=24,
        lookback=lookback,
        segment=segment,
        hidden_size=hidden_size,
        n_layers=n_layers,
        batch_size=batch_size,
        random_state=0,
    )
    panel = read_fit("benchmark", df).panel
    vars(forecaster).update(forecaster._choose(panel))
    return forecaster._job(panel).learner


def library(learner: Learner, network, generator: torch.Generator, steps: int) -> float:
    """Seconds a step of the library's loop."""
    learner.source.max_steps = steps
    settings = Settings(1, 1e-3, "adam", 0.0, 1.0, "cosine")
    start = time.perf_counter()
    train(network, learner.source, learner.loss, settings, generator)
    return (time.perf_counter() - start) / steps


def network_alone(learner: Learner, network, steps: int, batch, fused: bool) -> float:
    """Seconds a step of forward and backward, with torch's fused optimiser or none."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) if fused else None
    start = time.perf_counter()
    for _ in range(steps):
        network.zero_grad(set_to_none=True)
        learner.loss(network, batch).backward()
        if optimizer is not None:
            optimizer.step()
    return (time.perf_counter() - start) / steps


def measure(shape: tuple[int, int, int, int, int], rounds: int, steps: int) -> dict:
    """Medians over rounds, in microseconds a step."""
    learner = prepare(*shape)
    generator = torch.Generator().manual_seed(0)
    network = learner._start(generator, None)
    batch = learner.source.take(np.arange(shape[2]))

    def once() -> tuple[float, float, float]:
        return (
            library(learner, network, generator, steps),
            network_alone(learner, network, steps, batch, False),
            network_alone(learner, network, steps, batch, True),
        )

    once()
    times = [once() for _ in range(rounds)]
    a, b, c = (1e6 * statistics.median(column) for column in zip(*times))
    return {
        "hidden_size": shape[0],
        "n_layers": shape[1],
        "batch_size": shape[2],
        "lookback": shape[3],
        "segment": shape[4],
        "library_us": round(a),
        "network_us": round(b),
        "network_and_adam_us": round(c),
        "beyond_network_us": round(1e6 * statistics.median(x - y for x, y, _ in times)),
        "over_a_loop_by_hand": round(statistics.median(x / z for x, _, z in times), 3),
    }


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [measure(shape, args.rounds, args.steps) for shape in SHAPES]
    finally:
        torch.set_num_threads(before)
    print(pd.DataFrame(rows).to_string(index=False))
    print(json.dumps({"benchmark": "loop_overhead", "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
