"""Peak memory of a fit: the data plus one batch, whatever the look-back.

    python benchmarks/memory.py [--series 1000] [--steps 10000] [--lookback 720]

Each figure comes from a process of its own. The peak is the resident set's high-water mark while
the panel is made and fitted, less the resident set after the imports and a fit of ten rows (which
loads torch's kernels).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys


def child(n_series: int, n_steps: int, lookback: int, batch_size: int, hidden_size: int) -> None:
    """Fit one panel and print the figures as JSON."""
    import numpy as np
    import pandas as pd
    import psutil

    from rnnforecast import DeepLSTMForecaster

    settings = {"hidden_size": hidden_size, "batch_size": batch_size, "random_state": 0}
    warm = DeepLSTMForecaster(lookback=5, max_epochs=1, **settings)
    warm.fit(np.random.default_rng(0).normal(size=(12, 1)))
    process = psutil.Process()
    before = process.memory_info().rss
    index = pd.MultiIndex.from_product(
        [range(n_series), pd.date_range("2000-01-01", periods=n_steps, freq="h")],
        names=["series", "time"],
    )
    values = np.random.default_rng(0).standard_normal(n_series * n_steps, dtype=np.float32)
    df = pd.DataFrame({"y": values}, index=index, copy=False)
    frame = process.memory_info().rss - before
    DeepLSTMForecaster(horizon=24, lookback=lookback, max_epochs=1, **settings).fit(df)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    data = values.nbytes
    print(
        json.dumps(
            {
                "series": n_series,
                "steps": n_steps,
                "lookback": lookback,
                "batch_size": batch_size,
                "hidden_size": hidden_size,
                "data_mb": round(data / 1e6, 1),
                "frame_with_index_mb": round(frame / 1e6, 1),
                "peak_mb": round(peak / 1e6, 1),
                "peak_over_data": round(peak / data, 2),
                "fit_alone_over_data": round((peak - frame) / data, 2),
            }
        )
    )


def batch_alone(lookback: int, batch_size: int, hidden_size: int) -> float:
    """Megabytes that one step of two bare ``nn.LSTM`` layers takes, in this process."""
    import psutil
    import torch
    from torch import nn

    warm = nn.LSTM(1, 4, batch_first=True)
    warm(torch.randn(2, 3, 1))[0].sum().backward()
    before = psutil.Process().memory_info().rss
    lstm = nn.LSTM(3, hidden_size, 2, batch_first=True)
    for _ in range(2):
        lstm(torch.randn(batch_size, lookback, 3))[0][:, -1].sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before / 1e6


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--lookback", type=int, nargs="+", default=[96, 720])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--hidden-size", type=int, default=32)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--batch-alone", action="store_true")
    args = parser.parse_args()
    if args.batch_alone:
        alone = batch_alone(args.lookback[0], args.batch_size, args.hidden_size)
        print(json.dumps({"lstm_batch_alone_mb": round(alone, 1)}))
        return
    if args.child:
        child(args.series, args.steps, args.lookback[0], args.batch_size, args.hidden_size)
        return
    for lookback in args.lookback:
        options = {
            "--series": args.series,
            "--steps": args.steps,
            "--lookback": lookback,
            "--batch-size": args.batch_size,
            "--hidden-size": args.hidden_size,
        }
        flat = [str(part) for pair in options.items() for part in pair]
        for kind in ("--batch-alone", "--child"):
            out = subprocess.run(
                [sys.executable, __file__, kind, *flat], capture_output=True, text=True, check=True
            )
            print(out.stdout.strip())


if __name__ == "__main__":
    main()
