"""M4 Hourly: 414 series, horizon 48, season 24, one forecast a series.

    python benchmarks/accuracy/m4_hourly.py DATA_FOLDER [--seeds 3] [--models lstm esrnn auto naive]

Hourly-train.csv fits, Hourly-test.csv scores. sMAPE is the mean of 200|e|/(|y|+|f|) over steps,
then series; MASE is scaled by the in-sample mean |y_t - y_{t-24}|; OWA = (sMAPE/18.383 +
MASE/2.395)/2 (Naive2's figures). Look-back and season come from the library's rules, epochs from
early stopping on the last rows of the training series (the hybrid's are its default, chosen on
them): the test rows choose nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import numpy as np

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
    """Print the table beside the published figures, and a JSON line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["lstm", "naive"])
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
            record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(json.dumps(record), flush=True)
            rows.setdefault(name, []).append((*figures, middle - start))
    print(f"{'':32}{'sMAPE':>8}{'MASE':>8}{'OWA':>8}{'fit s':>8}")
    for name, runs in rows.items():
        mean = [statistics.mean(column) for column in zip(*runs)]
        label = f"{name} (mean of {len(runs)})"
        print(f"{label:32}{mean[0]:8.3f}{mean[1]:8.3f}{mean[2]:8.3f}{mean[3]:8.1f}")
    for name, figures in PUBLISHED.items():
        print(f"{name + ' [published]':32}{figures[0]:8.3f}{figures[1]:8.3f}{figures[2]:8.3f}")


if __name__ == "__main__":
    main()
