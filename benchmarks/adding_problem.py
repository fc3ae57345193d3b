"""The adding problem (Hochreiter & Schmidhuber 1997, experiment 4): can a cell carry two numbers?

    python benchmarks/adding_problem.py [--length 200] [--cells lstm gru mingru lru ...]

A sequence has a random number and a mark at each step; the two numbers that are marked, one in each
half, are to be added. Always answering 1 has a mean squared error of 0.167. Each cell trains in a
``SequenceRegressor`` on 10,000 sequences and answers 2,000 others; processor seconds of the fit, on
one thread.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from rnnforecast import SequenceRegressor
from rnnforecast.nn import CELLS


def sequences(n: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (n, length, 2) and their sums."""
    numbers, marks = rng.uniform(size=(n, length)), np.zeros((n, length))
    rows = np.arange(n)
    marks[rows, rng.integers(0, length // 2, n)] = 1
    marks[rows, rng.integers(length // 2, length, n)] = 1
    return np.stack([numbers, marks], -1), (numbers * marks).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X, y = sequences(10_000, args.length, rng)
    new, truth = sequences(2_000, args.length, rng)
    print(
        f"| cell | mean squared error ({np.var(truth):.3f} by the mean) | seconds |\n|---|---|---|"
    )
    for cell in args.cells:
        start = time.process_time()
        model = SequenceRegressor(
            cell=cell, n_layers=args.layers, batch_size=64, max_epochs=args.epochs, random_state=0
        ).fit(X, y)
        seconds = time.process_time() - start
        error = float(np.mean((model.predict(new) - truth) ** 2))
        print(f"| {cell} | {error:.5f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
