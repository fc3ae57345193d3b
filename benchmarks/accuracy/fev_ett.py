"""Probabilistic: the task ETT_1H of fev-bench (ETTh1 and ETTh2, 20 windows of 168 hours).

    python benchmarks/accuracy/fev_ett.py DATA_FOLDER [--seeds 3] [--append]

The last 20 x 168 rows of both files are forecast in 20 windows, one after the other; a window's
forecast knows all rows before it. Weights are trained once, on the rows before the first window, of
which the last tenth stops the training early: the test rows choose nothing. For each window, file
and column the scale is the mean |y_t - y_{t-24}| over the rows before the window. Scaled quantile
loss: mean over steps and levels 0.1-0.9 of 2 |(y - q)(1[y <= q] - level)| over the scale; MASE:
mean |y - median| over the scale; both averaged over columns and windows (Shchur et al. 2025).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _report import append, peak_mb

from rnnforecast import NaiveForecaster, SegmentRNNForecaster

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
HORIZON, WINDOWS, SEASON = 168, 20, 24
PUBLISHED = {
    "seasonal naive": (1.207, 1.323),
    "DeepAR": (0.992, 1.231),
    "PatchTST": (0.952, 1.199),
    "Chronos-2": (0.883, 1.126),
    "TiRex": (0.874, 1.118),
}


def read(folder: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both files as a panel: rows before the first window, and the rest."""
    parts = {}
    for name in ("ETTh1", "ETTh2"):
        table = pd.read_csv(Path(folder) / f"{name}.csv", parse_dates=["date"])
        parts[name] = table.set_index("date")
    panel = pd.concat(parts, names=["id", "date"])
    test = panel.groupby(level="id").tail(WINDOWS * HORIZON)
    return panel.drop(test.index), test


def score(forecast: np.ndarray, panel: np.ndarray) -> tuple[float, float]:
    """Scaled quantile loss and MASE.

    Parameters
    ----------
    forecast : ndarray, shape (n_windows, horizon, n_columns, n_levels)
    panel : ndarray, shape (n_rows, n_columns)
        All rows of one file; the windows are its last ones.
    """
    levels = np.array(LEVELS)
    losses, ratios = [], []
    for k, quantiles in enumerate(forecast):
        start = len(panel) - (WINDOWS - k) * HORIZON
        truth, before = panel[start : start + HORIZON], panel[:start]
        scale = np.abs(before[SEASON:] - before[:-SEASON]).mean(0)
        error = truth[..., None] - quantiles
        pinball = 2 * np.abs(error * ((error <= 0) - levels))
        losses.append((pinball.mean((0, 2)) / scale).mean())
        ratios.append((np.abs(error[..., 4]).mean(0) / scale).mean())
    return float(np.mean(losses)), float(np.mean(ratios))


def run(name: str, seed: int, train: pd.DataFrame, test: pd.DataFrame) -> dict:
    """One model: both figures, mean over the two files."""
    start = time.perf_counter()
    record: dict = {"model": name, "seed": seed}
    blocks: dict[str, list] = {"ETTh1": [], "ETTh2": []}
    if name == "naive":
        model = NaiveForecaster(horizon=HORIZON, strategy="seasonal", seasonality=SEASON).fit(train)
        for k in range(WINDOWS):
            ahead = model.forecast(quantiles=LEVELS)
            for file, found in blocks.items():
                found.append(ahead.loc[file].to_numpy())
            model.update(test.groupby(level="id").nth(range(k * HORIZON, (k + 1) * HORIZON)))
    else:
        model = SegmentRNNForecaster(
            horizon=HORIZON,
            quantiles=LEVELS,
            max_epochs=10,  # of 100 batches: as chosen for ETTh1 on its validation rows
            random_state=seed,
        )
        model.fit(train)
        record["fit_s"] = round(time.perf_counter() - start, 1)
        record["validation"] = round(min(model.history_.val_loss), 4)
        ahead = model.rolling_forecast(test, stride=HORIZON, quantiles=LEVELS)
        for file, found in blocks.items():
            found.append(ahead.loc[file].to_numpy())
    both = []
    for file, found in blocks.items():
        rows = np.concatenate([train.loc[file].to_numpy(), test.loc[file].to_numpy()])
        shape = (WINDOWS, HORIZON, rows.shape[1], len(LEVELS))
        both.append(score(np.concatenate(found).reshape(shape), rows))
    record["sql"], record["mase"] = (round(statistics.mean(f), 4) for f in zip(*both))
    record["seconds"] = round(time.perf_counter() - start, 1)
    record["peak_mb"] = peak_mb()
    return record


def main() -> None:
    """Print a JSON line a run and the table; with --append the table goes into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--models", nargs="+", default=["segment", "naive"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--append", action="store_true")
    args = parser.parse_args()
    train, test = read(args.folder)
    lines = ["| model | scaled quantile loss | MASE | s |", "|---|---|---|---|"]
    for name in args.models:
        runs = []
        for seed in range(1 if name == "naive" else args.seeds):
            runs.append(run(name, seed, train, test))
            print(json.dumps(runs[-1]), flush=True)
        sql, mase, seconds = (
            statistics.mean(r[key] for r in runs) for key in ("sql", "mase", "seconds")
        )
        lines.append(f"| {name} | {sql:.3f} | {mase:.3f} | {seconds:.0f} |")
    for name, figures in PUBLISHED.items():
        lines.append(f"| {name} [published] | {figures[0]:.3f} | {figures[1]:.3f} | |")
    print("\n".join(lines))
    if args.append:
        append("fev-bench ETT_1H", lines, args.seeds)


if __name__ == "__main__":
    main()
