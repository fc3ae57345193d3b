"""M4 Hourly: 414 series, horizon 48, season 24, one forecast a series.

    python benchmarks/accuracy/m4_hourly.py DATA_FOLDER [--seeds 3] [--models lstm esrnn auto naive]
        [--append]

Hourly-train.csv fits, Hourly-test.csv scores. sMAPE is the mean of 200|e|/(|y|+|f|) over steps,
then series; MASE is scaled by the in-sample mean |y_t - y_{t-24}|; OWA = (sMAPE/18.383 +
MASE/2.395)/2 (Naive2's figures). Look-back and season come from the library's rules, epochs from
early stopping on the last rows of the training series (the hybrid's are its default, chosen on
them): the test rows choose nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from _report import append, peak_mb

from rnnforecast import (
    AutoForecaster,
    DeepGRUForecaster,
    DeepLSTMForecaster,
    ESRNNForecaster,
    NaiveForecaster,
)
from rnnforecast.datasets import load_m4

PUBLISHED = {
    "best single submission (238)": (8.913, 0.801, 0.410),
    "ES-RNN, the winner (118)": (9.328, 0.893, 0.440),
    "seasonal naive": (13.912, 1.193, 0.627),
    "the competition's RNN": (14.698, 3.048, 1.036),
}


def models(seed: int) -> dict:
    """What can be asked for by name."""
    return {
        "lstm": DeepLSTMForecaster(horizon=48, random_state=seed),
        "gru": DeepGRUForecaster(horizon=48, random_state=seed),
        "esrnn": ESRNNForecaster(horizon=48, random_state=seed),
        "auto": AutoForecaster(horizon=48, metric="owa", random_state=seed),
        "naive": NaiveForecaster(horizon=48, strategy="seasonal", seasonality=24),
    }


def score(forecast, train, test) -> tuple[float, float, float]:
    """sMAPE, MASE and OWA of forecasts indexed by (series, time)."""
    smape, mase = [], []
    for name, truth in test["y"].groupby(level=0):
        y, f = truth.to_numpy(), forecast["y"].loc[name].to_numpy()
        history = train["y"].loc[name].to_numpy()
        error = np.abs(y - f)
        smape.append(np.mean(200 * error / (np.abs(y) + np.abs(f))))
        mase.append(error.mean() / np.abs(history[24:] - history[:-24]).mean())
    s, m = float(np.mean(smape)), float(np.mean(mase))
    return s, m, (s / 18.383 + m / 2.395) / 2


def main() -> None:
    """Print a JSON line a run and the table; with --append the table goes into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["lstm", "naive"])
    parser.add_argument("--append", action="store_true")
    args = parser.parse_args()
    train, test = load_m4("Hourly", data_home=args.folder, download=False)
    rows: dict[str, list] = {}
    for seed in range(args.seeds):
        for name in args.models:
            if name == "naive" and seed > 0:
                continue
            start = time.perf_counter()
            fitted = models(seed)[name].fit(train)
            middle = time.perf_counter()
            figures = score(fitted.forecast(), train, test)
            record = dict(zip(("smape", "mase", "owa"), (round(v, 4) for v in figures)))
            record |= {"model": name, "seed": seed, "fit_s": round(middle - start, 1)}
            record["peak_mb"] = peak_mb()
            print(json.dumps(record), flush=True)
            rows.setdefault(name, []).append((*figures, middle - start))
    lines = [
        "| model | sMAPE | MASE | OWA | OWA of each seed | fit s |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        mean = [statistics.mean(column) for column in zip(*runs)]
        each = ", ".join(f"{run[2]:.3f}" for run in runs)
        figures = " | ".join(f"{value:.3f}" for value in mean[:3])
        lines.append(f"| {name} | {figures} | {each} | {mean[3]:.1f} |")
    for name, published in PUBLISHED.items():
        figures = " | ".join(f"{value:.3f}" for value in published)
        lines.append(f"| {name} [published] | {figures} | | |")
    print("\n".join(lines))
    if args.append:
        append("M4 Hourly", lines, args.seeds)


if __name__ == "__main__":
    main()
