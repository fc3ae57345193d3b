"""Seconds to fit and windows per second against the peers, at equal settings, on M4 Hourly.

    python benchmarks/peers/make_envs.py ENVS
    python benchmarks/fit_speed.py --data DATA_FOLDER --envs ENVS [--threads 1 2]

Same cell, width, depth, look-back, batch and number of steps; window-wise; loss MAE (DeepAR: its
likelihood); no validation and no early stopping. Libraries take turns, A B A B ..., each in a
process that has imported everything and fitted once; medians. "fit s" goes from a long frame in
memory to a fitted model; "prepare s" is its part before the first step, "train s" that of the
steps, and what is left comes after them (here: calibration of the intervals). On a machine that
others use too, the ratio of CPU seconds is the one to read.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from _tasks import Problem, Worker, arguments, scratch, table

RATIOS = {"fit": "fit_s", "fit_cpu": "fit_cpu_s", "train": "train_s"}
LIBRARIES = ("rnnforecast", "neuralforecast", "darts", "gluonts")


def settings_of(args, library: str, cell: str) -> dict:
    """What the library is asked for."""
    settings = {
        "cell": cell,
        "hidden_size": args.hidden_size,
        "n_layers": args.n_layers,
        "lookback": args.lookback,
        "batch_size": args.batch_size,
        "steps": args.steps,
        "lr": 1e-3,
    }
    if library == "rnnforecast":
        settings |= {"seasonality": 1, "segment": 1, "training": "windows"} | json.loads(args.ours)
    return settings


def compare(args, problem: Problem, cell: str, threads: int) -> list[dict]:
    """One row a library."""
    names = [n for n in args.libraries if n != "gluonts" or cell == "lstm"]
    workers = {n: Worker(n, args.envs, threads, args.log) for n in names}
    runs: dict[str, list[dict]] = {n: [] for n in names}
    for turn in range(args.rounds + 1):
        for name, worker in workers.items():
            settings = settings_of(args, name, cell)
            if turn == 0:  # warm: what a first fit loads is not the fit
                settings["steps"] = min(10, args.steps)
            answer = worker.run(problem, settings)
            if turn:
                runs[name].append(answer)
    rows = []
    for name, answers in runs.items():
        row = {"library": name, "cell": cell, "threads": threads, "steps": answers[0]["steps"]}
        keys = ("fit_s", "prepare_s", "train_s", "fit_cpu_s")
        row |= {k: round(statistics.median(a[k] for a in answers), 3) for k in keys}
        rate = [a["steps"] * args.batch_size / a["train_s"] for a in answers]
        row["windows_per_s"] = round(statistics.median(rate))
        if name != names[0]:
            for label, key in RATIOS.items():
                ratios = [a[key] / b[key] for a, b in zip(answers, runs[names[0]])]
                row[f"{label}_ratio"] = round(statistics.median(ratios), 2)
        rows.append(row | {"versions": workers[name].versions})
    for worker in workers.values():
        worker.close()
    return rows


def main() -> None:
    """Print a table and a JSON line."""
    parser = arguments(__doc__)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--n-layers", type=int, default=2)
    parser.add_argument("--lookback", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ours", default="{}", help="more arguments of ours, as JSON")
    args = parser.parse_args()
    with scratch() as folder:
        problem = Problem("m4", "test", Path(folder), args.data, args.series)
        rows = []
        for threads in args.threads:
            for cell in args.cells:
                rows += compare(args, problem, cell, threads)
    versions = {row["library"]: row.pop("versions") for row in rows}
    setting = (
        f"hidden {args.hidden_size}, {args.n_layers} layers, look-back {args.lookback}, "
        f"batch {args.batch_size}, {args.steps} steps"
    )
    print(f"{setting}; ratios: theirs / ours, medians of {args.rounds}")
    print(table(rows))
    print(json.dumps({"setting": setting, "rows": rows, "versions": versions}))


if __name__ == "__main__":
    main()
