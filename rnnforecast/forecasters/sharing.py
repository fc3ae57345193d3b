"""What several fits on equal rows need not do again: reading them.

Nothing is remembered outside of :func:`sharing`, which a search over parameters opens while it
fits. What is derived from a panel is kept on the panel itself (``Panel.cached``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib

__all__ = ["of_rows", "sharing"]


class _Slot:
    """One result, made by the first thread that asks, while others wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Any = None
        self.made = False


_slots: dict[str, _Slot] | None = None
_users = 0
_lock = threading.Lock()


@contextmanager
def sharing() -> Iterator[None]:
    """Fits in this context, of any thread of this process, share the reading of equal rows.

    Afterwards nothing is kept.
    """
    global _slots, _users
    with _lock:
        _users += 1
        _slots = {} if _slots is None else _slots
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _slots = None


def of_rows(given: tuple, read: Callable[[], Any]) -> Any:
    """``read()``, or what it gave for equal ``given``.

    Parameters
    ----------
    given : tuple
        Everything that ``read`` depends on; compared by content.
    read : callable
    """
    slots = _slots
    if slots is None:
        return read()
    key = joblib.hash(given)
    with _lock:
        slot = slots.setdefault(key, _Slot())
    with slot.lock:
        if not slot.made:  # an error is raised to each who asks: nothing is kept then
            slot.value, slot.made = read(), True
    return slot.value
