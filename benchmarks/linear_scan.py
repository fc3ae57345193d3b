"""Ways to run a linear recurrence h_t = a_t h_{t-1} + b_t, forward and backward, one core.

    python benchmarks/linear_scan.py [--rounds 15]

A: step by step; B: chunks of about sqrt(time) steps side by side; C: the same loop written on
tensors, which autograd records step by step. A B C A B C ..., medians in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from rnnforecast.nn import linear_cells

SHAPES = [(b, t, h) for b in (1, 8, 32, 128) for t in (50, 200, 1000) for h in (32, 128)]


def once(way: str, a: torch.Tensor, b: torch.Tensor, first: torch.Tensor) -> float:
    """Milliseconds of a forward and backward pass."""
    linear_cells._SMALL, linear_cells._LONG = {"chunks": (10**9, 0)}.get(way, (0, 0))
    scan = linear_cells._by_steps if way == "autograd" else linear_cells.linear_scan
    start = time.perf_counter()
    torch.autograd.grad(scan(a, b, first).sum(), (a, b))
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = ("steps", "chunks", "autograd")
    print(f"| batch, time, size | {' | '.join(ways)} |\n|---|---|---|---|")
    for shape in SHAPES:
        batch, _, size = shape
        a, b = torch.rand(2, *shape).unbind(0)
        a.requires_grad_(), b.requires_grad_()
        first = torch.zeros(batch, size)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way in ways:
                found[way].append(once(way, a, b, first))
        row = " | ".join(f"{statistics.median(found[way]):.2f}" for way in ways)
        print(f"| {', '.join(map(str, shape))} | {row} |", flush=True)


if __name__ == "__main__":
    main()
