"""How many threads torch may use, for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["allowed_threads", "at_most_threads", "useful_threads"]

# Torch's setting is partly the process's (MKL, threads yet to come) and partly each thread's own
# (OpenMP), so that threads that limit it at the same time must agree on what it was before: what
# the first of them found. Every thread that leaves restores that, or the limit it had itself set
# outside.
_lock = threading.Lock()
_inside = 0
_before = 1
_everywhere: list[int] = []  # limits that hold for every thread while they are open
_own = threading.local()


@contextmanager
def at_most_threads(n: int, everywhere: bool = False) -> Iterator[None]:
    """Let torch use at most ``n`` threads for one operation, and restore the setting after.

    The setting is process-wide: another thread's work in torch is limited too for as long. With
    ``everywhere`` the limit holds for the other threads' limits too, while it is open.
    """
    global _inside, _before
    outer = getattr(_own, "limits", ())
    with _lock:
        # asked in every thread: torch gives a new one the process' number at its first question,
        # which must not come after the limit is set
        found = torch.get_num_threads()
        if not _inside:
            _before = found
        _inside += 1
        limit = min([max(n, 1), _before, *_everywhere, *outer])
        if everywhere:
            _everywhere.append(limit)
        _own.limits = (*outer, limit)
        torch.set_num_threads(limit)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if everywhere:
                _everywhere.remove(limit)
            _own.limits = outer
            torch.set_num_threads(min([_before, *_everywhere, *outer]))


def allowed_threads() -> int:
    """Threads that this thread may use, whatever another one has set for itself meanwhile."""
    with _lock:
        found = torch.get_num_threads()
        return min([_before if _inside else found, *_everywhere, *getattr(_own, "limits", ())])


# multiply-adds of one step of one layer over a batch, some 20 microseconds on one core: torch wakes
# its threads for every step of the look-back, and less than that is not worth waking them for
_ENOUGH_WORK = 1_000_000


def useful_threads(batch_size: int, hidden_size: int) -> int:
    """Threads worth using for a recurrent layer: 1, which leaves cores to other members and sums in
    one order on every machine, or as many as there are.
    """
    work = batch_size * 4 * hidden_size * 2 * hidden_size
    return 1 if work < _ENOUGH_WORK else allowed_threads()
