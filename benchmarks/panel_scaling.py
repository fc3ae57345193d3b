"""How reading, fitting and forecasting grow with the number of series, on a frame in memory.

    python benchmarks/panel_scaling.py [--series 1000 10000 100000 1000000] [--rows 120] [--append]

Monthly series with a season of 12, indexed by (series, month), float32; one process a size and one
thread. Stages: read the frame into a panel, measure its scale, fit 5 epochs
(``DeepLSTMForecaster(horizon=12)``), forecast 12 months of every series, and update by one month of
every series. Processor seconds, the size of the frame, and the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"


def child(n_series: int, n_rows: int) -> dict:
    """Seconds of each stage."""
    import numpy as np
    import pandas as pd

    from rnnforecast import DeepLSTMForecaster
    from rnnforecast.data.reading import read_fit
    from rnnforecast.data.scale import Scale

    rng = np.random.default_rng(0)
    months = pd.date_range("2010-01-01", periods=n_rows + 1, freq="MS")
    season = np.sin(np.arange(n_rows + 1) * np.pi / 6).astype(np.float32)
    values = rng.normal(size=(n_series, n_rows + 1)).astype(np.float32)
    values += season + 10

    def frame(part: np.ndarray, stamps: pd.DatetimeIndex) -> pd.DataFrame:
        index = pd.MultiIndex.from_product([range(n_series), stamps], names=["series", "month"])
        return pd.DataFrame({"y": part.ravel()}, index=index)

    past = frame(values[:, :n_rows], months[:n_rows])
    new = frame(values[:, n_rows:], months[n_rows:])
    del values
    n_bytes = int(past.memory_usage(deep=True).sum())
    DeepLSTMForecaster(horizon=2, max_epochs=1).fit(np.arange(60.0)[:, None])  # imports
    found: dict = {"series": n_series, "frame_mb": round(n_bytes / 2**20)}

    def timed(stage: str, work):
        start = time.process_time()
        result = work()
        found[stage] = round(time.process_time() - start, 2)
        return result

    reading = timed("read", lambda: read_fit("benchmark", past))
    timed("scale", lambda: Scale.of(reading.panel))
    reading = None  # the fit reads for itself
    fc = DeepLSTMForecaster(horizon=12, max_epochs=5, random_state=0)
    timed("fit", lambda: fc.fit(past))
    timed("forecast", fc.forecast)
    timed("update", lambda: fc.update(new))
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def main() -> None:
    """Print a JSON line a size and the table; with --append the table goes into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--append", action="store_true")
    parser.add_argument("--child", type=int)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.rows)))
        return
    lines = [
        "| series | read s | scale s | fit s | forecast s | update s | frame MB | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n in args.series:
        command = [sys.executable, __file__, "--child", str(n), "--rows", str(args.rows)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = json.loads(shown.splitlines()[-1])
        print(json.dumps(row), flush=True)
        stages = " | ".join(
            f"{row[name]}"
            for name in ("read", "scale", "fit", "forecast", "update", "frame_mb", "peak_mb")
        )
        lines.append(f"| {n:,} | {stages} |")
    print("\n".join(lines))
    if args.append:
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "accuracy"))
        from _report import append

        append(f"Panels of many series x {args.rows} months", lines, 1)


if __name__ == "__main__":
    main()
