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

_kept: dict[str, Any] = {}  # by hash of what was read
_users = 0
_lock = threading.Lock()


@contextmanager
def sharing() -> Iterator[None]:
    """Fits in this context, of any thread of this process, share the reading of equal rows.

    Afterwards nothing is kept.
    """
    global _users
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _kept.clear()


def of_rows(given: tuple, read: Callable[[], Any]) -> Any:
    """``read()``, or what it gave for equal ``given``, everything that it depends on."""
    if not _users:
        return read()
    key = joblib.hash(given)
    with _lock:  # one thread reads while others wait
        if key in _kept:
            return _kept[key]
        found = read()  # an error is raised to each who asks: nothing is kept then
        if _users:
            _kept[key] = found
        return found
