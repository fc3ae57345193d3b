"""Long horizons: ETTh1, ETTh2 and ETTm1 at 96/192/336/720 steps, Weather at 96 and 192.

    python benchmarks/accuracy/long_horizon.py DATA_FOLDER [--tasks ETTh1-96 weather-96]
        [--models segment gru naive] [--seeds 3] [--members 1] [--append]

Columns in file order, the date apart. ETTh: rows 0-8639 train, 8640-11519 validate, 11520-14399
test, the rest unused; ETTm1: the same times four. Weather: the first int(0.7 n) rows train, the
last int(0.2 n) test, those between validate. Each column is standardised by the mean and population
standard deviation of its training rows; MSE and MAE are means over all windows of the test rows
(stride 1, none dropped) x steps x columns in that unit. A window looks back before the test rows,
so that the number of windows does not depend on the look-back.

The test rows choose nothing. `fit` gets the training and validation rows, with the
`validation_fraction` that parts them where the protocol does: its weights see training rows alone,
and it keeps those of the epoch with the smallest loss on the validation rows. The settings in
SETTINGS were chosen by the validation loss too (benchmarks/RESULTS.md has the tries).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _report import append, peak_mb

from rnnforecast import DeepGRUForecaster, SegmentRNNForecaster

HORIZONS = {"ETTh1": (96, 192, 336, 720), "ETTm1": (96, 192, 336, 720), "weather": (96, 192)}
SEASONS = {"ETTh1": 24, "ETTh2": 24, "ETTm1": 96, "weather": 144}
REPEATED = {**SEASONS, "weather": 1}  # rows that the naive forecast repeats

# MSE, MAE where it was published. SegRNN: Lin et al., IoT-J 2026, Table II (look-back 720);
# SparseTSF: Lin et al. 2024, Table 2; the plain GRU is of the first of these.
PUBLISHED: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "ETTh1-96": {"SegRNN": (0.351, 0.392), "SparseTSF": (0.362, None), "GRU": (1.135, None)},
    "ETTh1-192": {"SegRNN": (0.392, 0.414), "SparseTSF": (0.404, None)},
    "ETTh1-336": {"SegRNN": (0.423, 0.433), "SparseTSF": (0.435, None)},
    "ETTh1-720": {"SegRNN": (0.466, 0.472), "SparseTSF": (0.426, None)},
    "ETTh2-96": {"SegRNN": (0.276, None), "SparseTSF": (0.294, None)},
    "ETTh2-192": {"SegRNN": (0.341, None), "SparseTSF": (0.340, None)},
    "ETTh2-336": {"SegRNN": (0.364, None), "SparseTSF": (0.360, None)},
    "ETTh2-720": {"SegRNN": (0.403, None), "SparseTSF": (0.383, None)},
    "ETTm1-96": {"SegRNN": (0.293, 0.354), "GRU": (0.953, None)},
    "ETTm1-192": {"SegRNN": (0.328, 0.378)},
    "ETTm1-336": {"SegRNN": (0.357, 0.399)},
    "ETTm1-720": {"SegRNN": (0.410, 0.430)},
    "weather-96": {"SegRNN": (0.143, 0.198), "SegRNN, L1": (None, 0.181), "GRU": (0.264, None)},
    "weather-192": {"SegRNN": (0.189, 0.247), "SegRNN, L1": (None, 0.227)},
}

# What differs from the defaults, chosen on the validation rows. An epoch is 100 batches here, and
# the learning rate falls to zero over max_epochs: ETTh1 has its best epoch among the first ten (the
# default, 30, gives the same loss and takes twice as long), Weather near its 25th.
SETTINGS: dict[str, dict[str, Any]] = {
    "ETTh1": {"max_epochs": 10},
    "ETTh2": {"max_epochs": 10},
    "ETTm1": {"max_epochs": 30},
    "weather": {"max_epochs": 25},
}


def read(folder: str, name: str) -> tuple[pd.DataFrame, int, int]:
    """The standardised rows in use, and where validation and test begin."""
    table = pd.read_csv(Path(folder) / f"{name}.csv")
    values = table.drop(columns="date").to_numpy(dtype=np.float64)
    if name.startswith("ETT"):
        month = 30 * 24 * (4 if name.startswith("ETTm") else 1)
        train, test, end = 12 * month, 16 * month, 20 * month
        index = pd.DatetimeIndex(table["date"][:end])
    else:
        end = len(values)
        train, test = int(0.7 * end), end - int(0.2 * end)
        index = pd.RangeIndex(end)  # a stamp comes twice: rows are counted, as published
    values = values[:end]
    scaled = (values - values[:train].mean(0)) / values[:train].std(0)
    columns = [str(c) for c in table.columns if c != "date"]
    return pd.DataFrame(scaled, index=index, columns=columns), train, test


def held_out(train: int, test: int) -> float:
    """The validation_fraction that gives the rows from ``train`` to ``test`` to validation."""
    return (test - train - 0.5) / test  # fit rounds up


def models(data: str, horizon: int, fraction: float, seed: int, members: int) -> dict:
    """What can be asked for by name."""
    shared = {
        "horizon": horizon,
        "seasonality": SEASONS[data],
        "validation_fraction": fraction,
        "n_members": members,
        "aggregate": "mean",
        "random_state": seed,
    }
    return {
        "segment": SegmentRNNForecaster(**shared, **SETTINGS[data]),
        "gru": DeepGRUForecaster(**shared),
    }


def truths(values: np.ndarray, start: int, horizon: int) -> np.ndarray:
    """Every window of the rows from ``start``: (n_windows, horizon, n_columns)."""
    windows = np.lib.stride_tricks.sliding_window_view(values[start:], horizon, axis=0)
    return windows.transpose(0, 2, 1)


def errors(forecast: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """MSE and MAE."""
    error = forecast - truth
    return float(np.square(error).mean()), float(np.abs(error).mean())


def repeat_season(values: np.ndarray, start: int, horizon: int, season: int) -> np.ndarray:
    """Seasonal naive forecasts of the windows of ``truths``."""
    n = len(values) - start - horizon + 1
    origins = np.arange(start, start + n)[:, None]
    return values[origins - season + np.arange(horizon) % season]


def run(folder: str, task: str, name: str, seed: int, members: int = 1) -> dict:
    """One model on one task."""
    data, horizon = task.split("-")[0], int(task.split("-")[1])
    rows, train, test = read(folder, data)
    truth = truths(rows.to_numpy(), test, horizon)
    start = time.perf_counter()
    record: dict[str, Any] = {"task": task, "model": name, "seed": seed, "windows": len(truth)}
    if name == "naive":
        forecast = repeat_season(rows.to_numpy(), test, horizon, REPEATED[data])
    else:
        model = models(data, horizon, held_out(train, test), seed, members)[name]
        model.fit(rows[:test])
        record["fit_s"] = round(time.perf_counter() - start, 1)
        record["validation"] = round(min(model.history_.val_loss), 4)
        record["epochs"] = f"{model.history_.best_epoch} of {model.n_epochs_}"
        forecast = model.rolling_forecast(rows[test:]).to_numpy().reshape(truth.shape)
    record["mse"], record["mae"] = (round(e, 4) for e in errors(forecast, truth))
    record["seconds"] = round(time.perf_counter() - start, 1)
    record["peak_mb"] = peak_mb()
    return record


def table_of(task: str, runs: list[dict]) -> list[str]:
    """Markdown lines: ours, the mean over seeds, and the published figures."""
    lines = []
    for name in dict.fromkeys(r["model"] for r in runs):
        own = [r for r in runs if r["model"] == name]
        mse, mae, seconds = (
            statistics.mean(r[key] for r in own) for key in ("mse", "mae", "seconds")
        )
        each = ", ".join(f"{r['mse']:.3f}" for r in own) if len(own) > 1 else ""
        lines.append(f"| {task} | {name} | {mse:.3f} | {mae:.3f} | {each} | {seconds:.0f} |")
    for name, figures in PUBLISHED[task].items():
        mse_, mae_ = ("" if f is None else f"{f:.3f}" for f in figures)
        lines.append(f"| {task} | {name} [published] | {mse_} | {mae_} | | |")
    return lines


def main() -> None:
    """Print a JSON line a run and the table; with --append the table goes into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    everything = [f"{name}-{h}" for name, steps in HORIZONS.items() for h in steps]
    parser.add_argument("--tasks", nargs="+", default=everything, choices=PUBLISHED)
    parser.add_argument(
        "--models", nargs="+", default=["segment", "naive"], choices=["segment", "gru", "naive"]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--members", type=int, default=1, help="networks averaged in each run")
    parser.add_argument("--append", action="store_true")
    args = parser.parse_args()
    lines = ["| task | model | MSE | MAE | MSE of each seed | s |", "|---|---|---|---|---|---|"]
    for task in args.tasks:
        runs = []
        for name in args.models:
            for seed in range(1 if name == "naive" else args.seeds):
                runs.append(run(args.folder, task, name, seed, args.members))
                print(json.dumps(runs[-1]), flush=True)
        lines += table_of(task, runs)
    print("\n".join(lines))
    if args.append:
        append(f"Long horizons, {args.members} networks a run", lines, args.seeds)


if __name__ == "__main__":
    main()
