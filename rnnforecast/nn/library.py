"""The compiled kernels: found, checked and loaded on first use, or a reason why not."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import struct
import threading
from pathlib import Path
from typing import NamedTuple

__all__ = ["Status", "library", "status"]

ABI = 1  # of the argument blocks in native/common.h
FOLDER = Path(__file__).with_name("native")
SUFFIX = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")


class Status(NamedTuple):
    """Which kernels are in use, and why."""

    path: str  # "native" (the compiled kernels) or "torch" (torch's own layers)
    instruction_set: str | None  # of the compiled kernels: "avx512", "avx2" or "generic"
    reason: str  # one line: where the library is, or why there is none


class _Unusable(Exception):
    pass


_lock = threading.Lock()
_loaded: tuple[ctypes.CDLL | None, Status] | None = None


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None: loaded on the first call, from any thread, then remembered."""
    return (_loaded or _load_once())[0]


def status() -> Status:
    """Which kernels are in use, and why; loads them if nobody has."""
    return (_loaded or _load_once())[1]


def _load_once() -> tuple[ctypes.CDLL | None, Status]:
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load(FOLDER)
        return _loaded


def _load(folder: Path) -> tuple[ctypes.CDLL | None, Status]:
    """Load the library in ``folder``; whatever is wrong with it becomes the reason."""
    path = folder / f"_kernels{SUFFIX}"
    try:
        loaded = _checked(path)
        name = loaded.rnnf_isa().decode()
    except (_Unusable, OSError, AttributeError) as error:
        return None, Status("torch", None, " ".join(str(error).split()))
    return loaded, Status("native", name, f"loaded {path}")


def _checked(path: Path) -> ctypes.CDLL:
    if os.environ.get("RNNFORECAST_NO_NATIVE", "0") not in {"", "0"}:
        raise _Unusable("switched off by RNNFORECAST_NO_NATIVE in the environment")
    if not path.exists():
        raise _Unusable(f"no compiled library: {_why_not_built(path.parent)}")
    if _is_cut_short(path):
        raise _Unusable(f"{path} is incomplete: install rnnforecast again")
    loaded = ctypes.CDLL(str(path))
    loaded.rnnf_abi.restype, loaded.rnnf_abi.argtypes = ctypes.c_int64, []
    for function in (loaded.rnnf_isa, loaded.rnnf_sources):
        function.restype, function.argtypes = ctypes.c_char_p, []
    if loaded.rnnf_abi() != ABI:
        raise _Unusable(
            f"{path} has interface {loaded.rnnf_abi()}, expected {ABI}: install rnnforecast again"
        )
    sources = _source_hash(path.parent)
    if sources is not None and loaded.rnnf_sources().decode() != sources:
        raise _Unusable(f"{path} was built from other sources: install rnnforecast again")
    return loaded


def _why_not_built(folder: Path) -> str:
    """What the build wrote down; see hatch_build.py."""
    try:
        lines = (folder / "_build.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return "the package was not built on this machine"
    reasons = [line.removeprefix("reason: ") for line in lines if line.startswith("reason: ")]
    return reasons[0] if reasons else "it was built once and is gone: install rnnforecast again"


def _source_hash(folder: Path) -> str | None:
    """One hash of all sources beside the library, as hatch_build.py has it; None without any."""
    paths = sorted([*folder.glob("*.cpp"), *folder.glob("*.h")], key=lambda path: path.name)
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16] if paths else None


def _is_cut_short(path: Path) -> bool:
    """Whether an ELF file ends before its section table: the system's loader may crash on it."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64:
        return header.startswith(b"\x7fELF")
    if not header.startswith(b"\x7fELF\x02"):  # another format: left to the system's loader
        return False
    order = "<" if header[5] == 1 else ">"
    (start,) = struct.unpack_from(f"{order}Q", header, 0x28)  # e_shoff
    size, count = struct.unpack_from(f"{order}HH", header, 0x3A)  # e_shentsize, e_shnum
    return path.stat().st_size < start + size * count
