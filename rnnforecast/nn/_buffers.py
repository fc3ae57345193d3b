"""Memory of activations that is kept between training steps.

Fresh memory of that size comes from the system at every step, and filling it with pages costs as
much as the arithmetic done in it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["empty"]

KEEP_BYTES = 256 * 2**20
SMALL_BYTES = 2**16  # what the allocator hands out again by itself


class _Block:
    """A piece of memory; two are equal if they are the same one."""

    def __init__(self, n_bytes: int):
        self.array = np.empty(-(-n_bytes // 4096) * 4096 + 64, dtype=np.uint8)
        self.n_bytes = self.array.nbytes


kept: list[_Block] = []


class _Lease:
    """A block that goes back to ``kept`` when the last tensor over it dies.

    No lock: a lease may end inside the garbage collector, in any thread. Appending to a list and
    removing from it are atomic.
    """

    def __init__(self, block: _Block):
        self.block = block
        self.__array_interface__ = block.array.__array_interface__

    def __del__(self) -> None:
        kept.append(self.block)
        while sum(block.n_bytes for block in tuple(kept)) > KEEP_BYTES:
            try:
                kept.pop(0)
            except IndexError:  # another thread was first
                break


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, in memory used before if it is large."""
    n_bytes = dtype.itemsize * math.prod(shape)
    if n_bytes < SMALL_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    fitting = [b for b in reversed(kept) if n_bytes + 64 <= b.n_bytes <= 2 * n_bytes]
    block = min(fitting, key=lambda b: b.n_bytes, default=None)  # of equal ones the latest
    if block is not None:
        try:
            kept.remove(block)
        except ValueError:  # another thread was first
            block = None
    memory = torch.from_numpy(np.asarray(_Lease(block or _Block(n_bytes))))
    skip = -memory.data_ptr() % 64
    return memory[skip : skip + n_bytes].view(dtype).view(shape).data  # not a view to autograd
