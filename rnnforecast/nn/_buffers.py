"""Memory of activations that is kept between training steps.

Fresh memory of that size comes from the system at every step, and filling it with pages costs as
much as the arithmetic done in it.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import Tensor

__all__ = ["empty"]

KEEP_BYTES = 256 * 2**20
SMALL_BYTES = 2**16  # what the allocator hands out again by itself

# by identity, the oldest first; without a lock, since memory may come back inside the garbage
# collector, in any thread: each operation on the dict is atomic
kept: dict[int, np.ndarray] = {}


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, in memory used before if it is large."""
    n_bytes = dtype.itemsize * math.prod(shape)
    if n_bytes < SMALL_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    fitting = [b for b in reversed(tuple(kept.values())) if n_bytes + 64 <= b.nbytes <= 2 * n_bytes]
    block = min(fitting, key=lambda b: b.nbytes, default=None)  # of equal ones the latest
    if block is None or kept.pop(id(block), None) is None:  # or another thread was first
        block = np.empty(-(-n_bytes // 4096) * 4096 + 64, dtype=np.uint8)
    view = block.view()
    # once the last tensor over it dies, which the end of the program is not
    weakref.finalize(view, _give_back, block).atexit = False
    memory = torch.from_numpy(view)
    skip = -memory.data_ptr() % 64
    return memory[skip : skip + n_bytes].view(dtype).view(shape).data  # not a view to autograd


def _give_back(block: np.ndarray) -> None:
    kept[id(block)] = block
    while sum(b.nbytes for b in tuple(kept.values())) > KEEP_BYTES:
        for oldest in tuple(kept)[:1]:
            kept.pop(oldest, None)
