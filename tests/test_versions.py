"""What ``show_versions`` tells, against where each line comes from."""

from __future__ import annotations

import io
import platform
from importlib import metadata

import pytest
import torch

import rnnforecast
from rnnforecast import _versions
from rnnforecast.cli import main
from rnnforecast.nn import library as _library

pytestmark = pytest.mark.machine


def told(**options):
    out = io.StringIO()
    rnnforecast.show_versions(file=out, **options)
    lines = [line for line in out.getvalue().splitlines() if line]
    return {line[:14].strip(): line[15:] for line in lines}


def test_versions_are_those_installed():
    lines = told()
    assert lines["rnnforecast"] == rnnforecast.__version__
    assert lines["python"].startswith(platform.python_version())
    for name in ("torch", "numpy", "scikit-learn", "statsmodels"):
        assert lines[name] == metadata.version(name)
    assert lines["torch threads"].startswith(f"{torch.get_num_threads()} ")


def test_a_package_that_is_missing_is_no_error(monkeypatch):
    monkeypatch.setattr(_versions, "_PACKAGES", ("torch", "no-such-one"))
    assert told()["no-such-one"] == "not installed"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (("native", "avx2", "loaded here"), "native, avx2 (loaded here)"),
        (("torch", None, "no C++ compiler was found"), "torch (no C++ compiler was found)"),
    ],
)
def test_the_kernels_in_use_and_why(monkeypatch, status, expected):
    monkeypatch.setattr(_library, "status", lambda: _library.Status(*status))
    assert told()["kernels"] == expected


def test_the_kernels_of_this_process():
    kernels = _library.status()
    line = told()["kernels"]
    assert line.startswith(kernels.path) and kernels.reason in line


def test_a_system_without_cpuinfo(monkeypatch):
    def refuse(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr(_versions.Path, "read_text", refuse)
    model, flags = _versions._cpu()
    assert model and flags == set()


def test_the_command_tells_the_same(capsys):
    rnnforecast.show_versions()
    expected = capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["versions"])
    assert not end.value.code
    assert capsys.readouterr().out == expected
