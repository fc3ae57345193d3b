"""What is installed, what the machine can do, and which kernels are in use."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TextIO

__all__ = ["show_versions"]

# The core, then what the extras bring.
_PACKAGES = (
    "torch", "numpy", "scipy", "pandas", "scikit-learn", "statsmodels", "narwhals", "safetensors",
    "joblib", "click", "tqdm", "matplotlib", "statsforecast", "polars", "pyarrow",
)  # fmt: skip
# Those that matter here, by the names of Linux (/proc/cpuinfo) and macOS (asimd is NEON).
_CPU_FLAGS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16",
)  # fmt: skip


def show_versions(*, file: TextIO | None = None) -> None:
    """Write versions, hardware and the kernels in use: what a report of a problem should hold.

    Parameters
    ----------
    file : text stream, optional
        Where to write; ``sys.stdout`` if None.

    Notes
    -----
    The line ``kernels`` says whether recurrent layers run on the compiled kernels of this package
    (``native``, with the instruction set chosen for this machine) or on torch's own layers
    (``torch``), and why.

    Examples
    --------
    >>> import rnnforecast
    >>> rnnforecast.show_versions()
    rnnforecast ...
    <BLANKLINE>
    python ...
    kernels ...
    """
    out = sys.stdout if file is None else file
    version = sys.modules["rnnforecast"].__version__  # the package that this module came with
    sections = (_system(), _packages(), _hardware())
    blocks = ["\n".join(f"{name:<14} {value}" for name, value in rows) for rows in sections]
    out.write("\n\n".join([f"{'rnnforecast':<14} {version}", *blocks]) + "\n")


def _system() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "executable", sys.executable
    yield "system", platform.platform()
    yield "package at", str(Path(__file__).parent)


def _packages() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def _hardware() -> Iterator[tuple[str, str]]:
    import torch

    from rnnforecast.nn._library import status

    model, flags = _cpu()
    yield "cpu", f"{model}, {_n_cores()} cores usable"
    yield "cpu features", " ".join(flag for flag in _CPU_FLAGS if flag in flags) or "unknown"
    yield "bf16 on cpu", _bf16(flags)
    yield "torch threads", f"{torch.get_num_threads()} ({_environment('OMP_NUM_THREADS')})"
    yield "torch uses", f"{torch.backends.cpu.get_cpu_capability()}, BLAS {_torch_blas()}"
    yield "numpy BLAS", _numpy_blas()
    yield "gpu", _gpu()
    kernels = status()
    what = kernels.path if kernels.path == "torch" else f"native, {kernels.instruction_set}"
    yield "kernels", f"{what} ({kernels.reason})"


def _environment(name: str) -> str:
    value = os.environ.get(name)
    return f"{name} not set" if value is None else f"{name}={value}"


def _n_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpu() -> tuple[str, set[str]]:
    """Name of the processor, and its features where the system tells (Linux)."""
    fields: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    model = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    return model, set((fields.get("flags") or fields.get("features") or "").split())


def _bf16(flags: set[str]) -> str:
    """Whether the processor multiplies bfloat16 numbers itself."""
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        return f"yes ({', '.join(native)})"
    return "no" if flags else "unknown"


def _torch_blas() -> str:
    import torch

    if torch.backends.mkl.is_available():
        name = "MKL"
    else:
        words = torch.__config__.show().replace(",", " ").split()
        named = [word.removeprefix("BLAS_INFO=") for word in words if word.startswith("BLAS_INFO=")]
        name = named[0] if named else "unknown"
    return f"{name}, oneDNN {'yes' if torch.backends.mkldnn.is_available() else 'no'}"


def _numpy_blas() -> str:
    import numpy as np

    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return " ".join(str(blas[key]) for key in ("name", "version") if blas.get(key)) or "unknown"


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
        return f"{names} (CUDA {torch.version.cuda})"
    if torch.backends.mps.is_available():
        return "Apple (MPS)"
    return "none that torch can use"
