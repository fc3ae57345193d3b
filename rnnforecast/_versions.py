"""What is installed, what the machine can do, and which kernels are in use."""

from __future__ import annotations

import os
import platform
import sys
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
    system = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "executable": sys.executable,
        "system": platform.platform(),
        "package at": str(Path(__file__).parent),
    }
    packages = {name: _version(name) for name in _PACKAGES}
    sections = ({"rnnforecast": version}, system, packages, _hardware())
    blocks = ["\n".join(f"{name:<14} {value}" for name, value in rows.items()) for rows in sections]
    out.write("\n\n".join(blocks) + "\n")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _hardware() -> dict[str, str]:
    import joblib
    import torch
    from threadpoolctl import threadpool_info

    from rnnforecast.nn.library import status

    model, flags = _cpu()
    threads = f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}"
    one_dnn = "yes" if torch.backends.mkldnn.is_available() else "no"
    libraries = {f"{each['prefix']} {each['version'] or ''}".strip() for each in threadpool_info()}
    capability = torch.backends.cpu.get_cpu_capability()
    kernels = status()
    what = kernels.path if kernels.path == "torch" else f"native, {kernels.instruction_set}"
    return {
        "cpu": f"{model}, {joblib.cpu_count()} cores usable",
        "cpu features": " ".join(flag for flag in _CPU_FLAGS if flag in flags) or "unknown",
        "torch threads": f"{torch.get_num_threads()} ({threads})",
        "torch uses": f"{capability}, oneDNN {one_dnn}",
        "libraries": ", ".join(sorted(libraries)),
        "gpu": _gpu(),
        "kernels": f"{what} ({kernels.reason})",
    }


def _cpu() -> tuple[str, set[str]]:
    """Name of the processor, and its features where the system tells (Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.partition(":") for line in reversed(text.splitlines())]  # the first core counts
    fields = {key.strip().lower(): value.strip() for key, _, value in lines}
    model = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    return model, set((fields.get("flags") or fields.get("features") or "").split())


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
        return f"{names} (CUDA {torch.version.cuda})"
    return "Apple (MPS)" if torch.backends.mps.is_available() else "none that torch can use"
