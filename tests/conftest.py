"""What the tests ask of the machine, and the machine that they ran on.

A test tries what it needs and skips with the reason; it never goes by a name. ``machines.py`` runs
the tests marked ``machine`` on one machine after another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import rnnforecast
from rnnforecast.nn import library as _library

MACHINE = ("nn", "training")  # folders with the mark on every test; elsewhere modules have it
NOT_HERE = 77  # exit status: this machine cannot run as it was asked to

torch.set_warn_always(True)  # else only the first test that brings a warning about would fail


@pytest.fixture
def needs_bf16() -> Callable[[str], None]:
    """Skip unless torch's own ``"rnn"``, ``"lstm"`` or ``"gru"`` runs in bfloat16 here.

    On a processor with AVX2 and without AVX-512, oneDNN refuses the LSTM.
    """

    def ask(cell: str) -> None:
        layer = getattr(nn, cell.upper())(3, 4)
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                layer(torch.zeros(5, 2, 3))[0].sum().backward()
        except RuntimeError as error:
            reason = str(error).split(". ")[0]
            pytest.skip(f"torch has no bfloat16 {cell} on this processor: {reason}")

    return ask


def pytest_addoption(parser):
    parser.addoption(
        "--kernels",
        help="run on the first of these that the machine has: an instruction set of the compiled "
        "kernels (avx512, avx2, generic), or torch, where they are not there. Example: avx2,torch",
    )


def pytest_configure(config):
    wanted = config.getoption("--kernels")
    if wanted and not any(map(choose, wanted.split(","))):
        pytest.exit(f"no kernels {wanted} here: {kernels()}", returncode=NOT_HERE)


def choose(name: str) -> bool:
    """Whether these kernels are there, and from now on in use."""
    library = _library.library()
    if library is None or name == "torch":
        return library is None and name == "torch"
    return library.rnnf_set_isa(name.encode()) == 0


def kernels() -> str:
    library = _library.library()
    return f"torch ({_library.status().reason})" if library is None else library.rnnf_isa().decode()


def pytest_report_header():
    return (
        f"machine: torch {torch.backends.cpu.get_cpu_capability()}, kernels {kernels()}, "
        f"threads {torch.get_num_threads()}, pandas {pd.__version__}, "
        f"rnnforecast in {Path(rnnforecast.__file__).parent}"
    )


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    folders = {here / name for name in MACHINE}
    for item in items:
        if folders & set(item.path.parents):
            item.add_marker("machine")
