"""What several fits on the same rows need not do again: reading them, windows, units.

Nothing is remembered outside of :func:`sharing`, which a search over parameters opens while it
fits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib

from rnnforecast.data.panel import Panel

__all__ = ["derived", "of_rows", "sharing"]


class _Slot:
    """One result, made by the first thread that asks, while others wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Any = None
        self.made = False


class _Memory:
    """Results by key; a panel among them is known by its identity, as it is kept alive here."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slots: dict[Hashable, _Slot] = {}
        self.panels: dict[int, Panel] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self.lock:
            slot = self.slots.setdefault(key, _Slot())
        with slot.lock:
            if not slot.made:  # an error is raised to each who asks: nothing is kept then
                slot.value, slot.made = make(), True
        return slot.value


_memory: _Memory | None = None
_users = 0
_lock = threading.Lock()


@contextmanager
def sharing() -> Iterator[None]:
    """Fits in this context, of any thread of this process, share what they derive from equal rows.

    Afterwards nothing is kept.
    """
    global _memory, _users
    with _lock:
        _users += 1
        _memory = _memory or _Memory()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _memory = None


def of_rows(given: tuple, read: Callable[[], Any]) -> Any:
    """``read()``, or what it gave for equal ``given``; it returns something with a ``panel``.

    Parameters
    ----------
    given : tuple
        Everything that ``read`` depends on; compared by content.
    read : callable
    """
    memory = _memory
    if memory is None:
        return read()
    result = memory.get(("rows", joblib.hash(given)), read)
    memory.panels[id(result.panel)] = result.panel
    return result


def derived(panel: Panel, key: tuple, make: Callable[[], Any]) -> Any:
    """``make()``, or what it gave for this very panel and an equal key.

    Parameters
    ----------
    panel : Panel
    key : tuple
        Everything else that ``make`` depends on; identities only of what is itself shared.
    make : callable
    """
    memory = _memory
    if memory is None or memory.panels.get(id(panel)) is not panel:
        return make()
    return memory.get((id(panel), *key), make)
