"""Recurrent layers: the compiled kernels against torch's own, and against the core's peak.

    python benchmarks/kernels.py [--quick] [--threads 1] [--cells rnn lstm gru] [--cpu-time]

For each shape, layers with the same weights take turns, A B A B ..., and medians are compared. Two
layers of a network are timed: the first (few inputs, which want no gradient) and one above it (as
many inputs as units, which want one).

Arithmetic counted, with G gates (1, 4, 3): a step of one row takes 2 G H (H + I) operations; a
backward pass twice that, less 2 G H I where the inputs want no gradient. What the gates themselves
take (the exponentials) is not counted, so that 100% cannot be reached.

"of FMA" is the share of what one core reaches in a loop of independent multiply-adds, times the
threads, and "of GEMM" the share of a large float32 torch.mm; both measured in turn with the rest.
Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time

import torch
from torch import nn

from rnnforecast.nn import CELLS
from rnnforecast.nn.library import library, status

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
FIRST = 8  # inputs of a first layer: a target and some calendar features
# batch, time, hidden
SHAPES = [
    (1, 96, 64), (8, 96, 64), (32, 96, 16), (32, 96, 32), (32, 96, 64), (32, 96, 128),
    (128, 24, 64), (128, 96, 32), (128, 96, 64), (128, 96, 128), (128, 96, 256),
    (128, 336, 64), (512, 96, 64), (512, 96, 128), (1, 1, 64), (400, 1, 64),
]  # fmt: skip
QUICK = [(32, 96, 32), (128, 96, 64), (128, 96, 128)]


def fma_peak(seconds: float = 0.002, clock=time.perf_counter) -> float:
    """GFLOP/s of one core in float32."""
    compiled = library()
    if compiled is None:
        return float("nan")
    compiled.rnnf_fma_peak.restype = ctypes.c_double
    compiled.rnnf_fma_peak.argtypes = [ctypes.c_double, ctypes.c_int64]
    start, wall = clock(), time.perf_counter()
    rate = compiled.rnnf_fma_peak(seconds, 0)  # by the wall clock
    return rate * (time.perf_counter() - wall) / (clock() - start)


class Gemm:
    """A large float32 torch.mm, on the threads that torch has."""

    def __init__(self, size: int = 512):
        self.a, self.b = torch.randn(size, size), torch.randn(size, size)
        self.out = torch.empty(size, size)
        self.work = 2 * size**3

    def __call__(self) -> None:
        torch.mm(self.a, self.b, out=self.out)


def step(read, layer, x, gradient, train: bool):
    """One training step of the layer, or one call in inference; ``read(x)`` runs it."""

    def run_training():
        outputs, _ = read(x)
        outputs.backward(gradient)
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None

    def run_inference():
        with torch.inference_mode():
            read(x)

    return run_training if train else run_inference


def take_turns(functions, seconds: float, clock, rounds: int = 5) -> list[float]:
    """Median seconds of each function."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
        function()
    end = time.perf_counter() + seconds
    while len(times[0]) < rounds or (time.perf_counter() < end and len(times[0]) < 2000):
        for function, found in zip(functions, times):
            start = clock()
            function()
            found.append(clock() - start)
    return [statistics.median(found) for found in times]


def measure(cell: str, shape: tuple[int, int, int], first: bool, train: bool, args) -> dict:
    """One row of the table."""
    batch, n_steps, hidden = shape
    inputs = FIRST if first else hidden
    torch.manual_seed(0)
    ours = CELLS[cell](inputs, hidden)
    theirs = TORCH[cell](inputs, hidden, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": w for name, w in ours.state_dict().items()})
    x = torch.randn(batch, n_steps, inputs, requires_grad=train and not first)
    gradient = torch.randn(batch, n_steps, hidden)
    fma: list[float] = []
    gemm = Gemm()
    functions = [
        step(read, layer, x, gradient, train) for read, layer in ((ours.scan, ours), (theirs,) * 2)
    ]
    clock = time.process_time if args.cpu_time else time.perf_counter
    functions += [gemm, lambda: fma.append(fma_peak(clock=clock))]
    native, torchs, gemm_s, _ = take_turns(functions, args.seconds, clock)
    forward = 2 * batch * n_steps * GATES[cell] * hidden * (hidden + inputs)
    work = forward
    if train:
        work = 3 * forward - (2 * batch * n_steps * GATES[cell] * hidden * inputs if first else 0)
    rate = work / native / 1e9
    return {
        "cell": cell,
        "layer": "first" if first else "upper",
        "mode": "train" if train else "infer",
        "batch": batch,
        "time": n_steps,
        "hidden": hidden,
        "ms": native * 1e3,
        "torch_ms": torchs * 1e3,
        "times_faster": torchs / native,
        "of_fma": rate / (statistics.median(fma) * args.threads),
        "of_gemm": rate / (gemm.work / gemm_s / 1e9),
    }


HEADER = "cell layer mode   batch  time hidden        ms   torch ms  torch/ours  of FMA  of GEMM"


def line(row: dict) -> str:
    """A row as text."""
    return (
        f"{row['cell']:<4} {row['layer']:<5} {row['mode']:<5} {row['batch']:>6} {row['time']:>5} "
        f"{row['hidden']:>6} {row['ms']:>9.3f} {row['torch_ms']:>10.3f} "
        f"{row['times_faster']:>10.2f} {row['of_fma']:>7.1%} {row['of_gemm']:>8.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three shapes, training only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--seconds", type=float, default=0.4, help="for each row")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds, on a busy machine; one thread only"
    )
    args = parser.parse_args()
    if args.cpu_time and args.threads > 1:
        parser.error("--cpu-time counts the seconds of all threads together: use --threads 1")
    torch.set_num_threads(args.threads)
    kernels = status()
    print(f"kernels: {kernels.path} {kernels.instruction_set or ''} ({kernels.reason})")
    print(
        f"torch {torch.__version__}, {args.threads} thread(s), one core's FMA peak "
        f"{fma_peak(0.2):.0f} GFLOP/s, float32\n\n{HEADER}"
    )
    rows = []
    for train in (True,) if args.quick else (True, False):
        for first in (True, False):
            for shape in QUICK if args.quick else SHAPES:
                for cell in args.cells:
                    rows.append(measure(cell, shape, first, train, args))
                    print(line(rows[-1]), flush=True)
    slowest = min(row["times_faster"] for row in rows)
    print(f"\nslowest against torch: {slowest:.2f} times")
    rounded = [
        {k: (round(v, 4) if v == v else None) if isinstance(v, float) else v for k, v in r.items()}
        for r in rows
    ]
    print(json.dumps({"benchmark": "kernels", "threads": args.threads, "cpu_time": args.cpu_time,
                      "path": kernels.path, "instruction_set": kernels.instruction_set,
                      "torch": torch.__version__, "rows": rounded}))  # fmt: skip


if __name__ == "__main__":
    main()
