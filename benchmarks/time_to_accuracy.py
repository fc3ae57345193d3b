"""Seconds of a CPU core until a forecast is good enough, against the peers.

    python benchmarks/peers/make_envs.py ENVS
    python benchmarks/time_to_accuracy.py alike --data DATA_FOLDER --envs ENVS
    python benchmarks/time_to_accuracy.py shipped --data DATA_FOLDER --envs ENVS

alike: like for like. Both sides are window-wise networks of the same cell, width, depth and
look-back that see nothing but the window, normalised by its own mean and spread, train on MAE at a
constant learning rate, and have a linear head: the library's linear map and its anchors are taken
out, and no steps are folded. ``--training dense`` lets ours share the encoding. Learning rate and
batch come from the same small grid, on validation rows (the last horizon of the rows given for
training). The target is the peer's best validation error within the limit. Since a best is often
reached late and by little, the time to come within 1 % of it is told too.

shipped: defaults against defaults, data preparation counted. The bars are the seasonal naive
forecast and a second one further on (BARS). A peer is scored on its way, so that its time is that
of a user who knew when to stop. Our learning rate falls over the epochs asked for, so that we are
scored by fits of 1, 2, 4, ... epochs, each from scratch and with its whole time.

Data sets: M4 Hourly, hourly temperature at three airports, logarithm of the daily volume of the
S&P 500 (no season). Test rows choose nothing; ``--rows test`` reports on them.
"""

from __future__ import annotations

import json
import statistics
from itertools import product
from pathlib import Path

from _tasks import DATASETS, Problem, Worker, arguments, scratch, table

LOOKBACKS = {"m4": 96, "weather": 96, "sp500": 40}
BARS = {"m4": lambda naive: 0.90, "weather": lambda n: 0.75 * n, "sp500": lambda n: 0.85 * n}
EPOCHS = (1, 2, 4, 8, 16, 30)
SNAPSHOTS = [round(10 * 1.3**k) for k in range(29)]  # 10 to 15,504 steps


def first_time(curve: list[dict], target: float, clock: str) -> float:
    """Seconds until a curve reaches ``target``; NaN if it does not."""
    return next((mark[clock] for mark in curve if mark["mase"] <= target), float("nan"))


def best(curve: list[dict]) -> float:
    return min(mark["mase"] for mark in curve)


def say(**record) -> None:
    print(json.dumps(record), flush=True)


# -- like for like --------------------------------------------------------------------------------


def alike_run(worker: Worker, problem: Problem, args, point: dict, seed: int, limit: float):
    """The validation curve of one training."""
    settings = {
        "cell": args.cell,
        "hidden_size": args.hidden_size,
        "n_layers": 2,
        "lookback": LOOKBACKS[problem.name],
        "steps": SNAPSHOTS[-1],
    } | point
    if worker.library == "rnnforecast":
        settings |= {"lr_schedule": "constant", "gradient_clip": None, "seasonality": 1}
        settings |= {"segment": 1, "training": args.training}
        settings |= json.loads(args.ours)
    answer = worker.run(
        problem, settings, seed=seed, snapshots=SNAPSHOTS, limit_s=limit, plain=True
    )
    say(library=worker.library, seed=seed, **point, curve=brief(answer["curve"]))
    return answer["curve"]


def brief(curve: list[dict]) -> list[list[float]]:
    """Steps, seconds of training and error of a curve."""
    return [[m["step"], round(m["train_cpu_s"], 2), m["mase"]] for m in curve]


def grid(args) -> list[dict]:
    """The points that both sides may choose from."""
    return [{"lr": lr, "batch_size": n} for lr, n in product(args.lrs, args.batch_sizes)]


def choose_theirs(worker: Worker, problem: Problem, args) -> dict:
    """Learning rate and batch with the peer's best error on seed 0."""
    points = grid(args)
    curves = [alike_run(worker, problem, args, p, 0, args.limit) for p in points]
    return min(zip(points, curves), key=lambda pair: best(pair[1]))[0]


def choose_ours(worker: Worker, problem: Problem, args, target: float) -> dict:
    """Learning rate and batch that reach the peer's best error soonest on seed 0."""
    points, times = grid(args), []
    for point in points:
        curve = alike_run(worker, problem, args, point, 0, args.limit / 4)
        seconds = first_time(curve, target, "train_cpu_s")
        # not reached: after all that reach it, in the order of their errors
        times.append(seconds if seconds == seconds else 1e6 * best(curve))
    return points[times.index(min(times))]


def alike(args, problem: Problem, peer: str) -> list[dict]:
    """One row a seed."""
    ours = Worker("rnnforecast", args.envs, 1, args.log)
    theirs = Worker(peer, args.envs, 1, args.log)
    their_point = json.loads(args.theirs_at) or choose_theirs(theirs, problem, args)
    say(theirs_at=their_point)
    rows: list[dict] = []
    our_point = json.loads(args.ours_at)
    for seed in args.seeds:
        their_curve = alike_run(theirs, problem, args, their_point, seed, args.limit)
        our_point = our_point or choose_ours(ours, problem, args, best(their_curve))
        our_curve = alike_run(ours, problem, args, our_point, seed, args.limit / 2)
        row = {"data": problem.name, "cell": args.cell, "peer": peer, "seed": seed}
        row |= {"theirs_at": str(their_point), "ours_at": str(our_point)}
        row |= {"best": best(their_curve), "our_best": best(our_curve)}
        for name, target in (("", row["best"]), ("_1%", 1.01 * row["best"])):
            a = first_time(their_curve, target, "train_cpu_s")
            b = first_time(our_curve, target, "train_cpu_s")
            row |= {f"their_s{name}": round(a, 2), f"our_s{name}": round(b, 2)}
            row[f"ratio{name}"] = round(a / b, 2)
        rows.append(row)
    ours.close()
    theirs.close()
    return rows


# -- as shipped -----------------------------------------------------------------------------------


def shipped_ours(args, problem: Problem, bars: list[float], cell: str) -> list[dict]:
    """One row a seed: fits of more and more epochs."""
    worker = Worker("rnnforecast", args.envs, 1, args.log)
    worker.run(problem, {"cell": cell, "max_epochs": 1})  # warm
    rows = []
    for seed in args.seeds:
        curve = []
        for epochs in EPOCHS:
            settings = {"cell": cell, "max_epochs": epochs} | json.loads(args.ours)
            answer = worker.run(problem, settings, seed=seed)
            mark = {"step": epochs, "train_cpu_s": answer["fit_cpu_s"], "mase": answer["mase"]}
            curve.append(mark | {"cpu_s": answer["fit_cpu_s"]})
            if answer["mase"] <= min(bars) and not args.all_epochs:
                break
        say(library="rnnforecast", cell=cell, seed=seed, epochs=brief(curve))
        rows.append(shipped_row("rnnforecast " + cell, problem, seed, curve, bars))
    worker.close()
    return rows


def shipped_peer(args, problem: Problem, bars: list[float], peer: str, cell: str) -> list[dict]:
    """One row a seed: one training, scored on its way."""
    worker = Worker(peer, args.envs, 1, args.log)
    rows = []
    for seed in args.seeds:
        answer = worker.run(
            problem, {"cell": cell}, seed=seed, snapshots=SNAPSHOTS, limit_s=args.limit
        )
        say(library=peer, cell=cell, seed=seed, curve=brief(answer["curve"]))
        rows.append(shipped_row(f"{peer} {cell}", problem, seed, answer["curve"], bars))
    worker.close()
    return rows


def shipped_row(name: str, problem: Problem, seed: int, curve: list[dict], bars: list[float]):
    row = {"data": problem.name, "rows": problem.rows, "library": name, "seed": seed}
    for bar in bars:
        row[f"s to {bar:.3g}"] = round(first_time(curve, bar, "cpu_s"), 2)
    last = curve[-1]
    return row | {
        "best": best(curve),
        "last": last["mase"],
        "last_s": round(last["cpu_s"], 1),
    }


def medians(rows: list[dict]) -> list[dict]:
    """Rows of one library as one, by medians; a bar missed by most seeds stays NaN."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["library"], []).append(row)
    out = []
    for group in groups.values():
        merged = dict(group[0], seed=f"median of {len(group)}")
        for key in list(merged)[4:]:
            values = sorted(r[key] if r[key] == r[key] else float("inf") for r in group)
            middle = statistics.median(values)
            merged[key] = round(middle, 4) if middle != float("inf") else float("nan")
        out.append(merged)
    return out


def main() -> None:
    """Print tables, and a JSON line a run."""
    parser = arguments(__doc__)
    parser.add_argument("kind", choices=("alike", "shipped"))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=["m4"])
    parser.add_argument("--rows", nargs="+", default=["validation"])
    parser.add_argument("--peers", nargs="*", default=["neuralforecast"])
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--limit", type=float, default=120, help="CPU seconds of a peer's training")
    parser.add_argument("--hidden-size", type=int, default=64, help="alike: width of both")
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-3, 3e-3], help="alike: grid")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128], help="alike: grid")
    parser.add_argument("--training", default="windows", help="alike: ours, windows or dense")
    parser.add_argument("--theirs-at", default="{}", help="alike: their point of the grid, as JSON")
    parser.add_argument("--ours-at", default="{}", help="alike: our point of the grid, as JSON")
    parser.add_argument("--all-epochs", action="store_true", help="shipped: go on behind the bars")
    parser.add_argument("--no-ours", action="store_true", help="shipped: the peers alone")
    parser.add_argument("--ours", default="{}", help="more arguments of ours, as JSON")
    args = parser.parse_args()
    rows = []
    with scratch() as folder:
        for name, kind in product(args.datasets, args.rows):
            problem = Problem(name, kind, Path(folder), args.data, args.series)
            naive = problem.naive()
            say(data=name, rows=kind, forecasts=len(problem.eval_end), naive=round(naive, 4))
            if args.kind == "alike":
                for peer in args.peers:
                    rows += alike(args, problem, peer)
                continue
            bars = [naive, BARS[name](naive)]
            made = [] if args.no_ours else shipped_ours(args, problem, bars, args.cell)
            for peer in args.peers:
                made += shipped_peer(args, problem, bars, peer, args.cell)
            print(table(medians(made)), flush=True)
            rows += made
    if args.kind == "alike" and rows:
        print(table(rows))
        ratios = {k: round(statistics.median(r[k] for r in rows), 2) for k in ("ratio", "ratio_1%")}
        print(f"median ratios: {ratios}")
    say(rows=rows)


if __name__ == "__main__":
    main()
