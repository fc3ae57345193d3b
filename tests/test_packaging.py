"""What is installed, from where, and what travels in the wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rnnforecast

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command, **options):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True, **options
    )


def requirements(lines):
    from packaging.requirements import Requirement

    return [Requirement(line) for line in lines]


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = requirements(line for line in lines if line and not line.startswith("#"))
    return {one.name.lower().replace("_", "-"): one for one in pinned}


def test_every_direct_dependency_is_pinned_within_its_bounds():
    pins = constraints()
    extras = PROJECT["optional-dependencies"]
    wanted = requirements(
        [*PROJECT["dependencies"], *(line for e in extras.values() for line in e)]
    )
    for one in wanted:
        if one.name == "rnnforecast":
            continue
        (pin,) = pins[one.name].specifier
        assert pin.operator == "=="
        assert one.specifier.contains(pin.version), f"{one} against {pin}"
        assert {s.operator for s in one.specifier} == {">="}, f"{one} needs a lower bound only"
    assert str(pins["torch"]) == "torch==2.13.0"


def test_the_core_stays_small():
    core = {one.name for one in requirements(PROJECT["dependencies"])}
    heavy = {
        "lightning",
        "pytorch-lightning",
        "ray",
        "optuna",
        "numba",
        "matplotlib",
        "statsforecast",
    }
    assert not core & heavy


def test_the_test_extra_brings_every_other_extra():
    extras = PROJECT["optional-dependencies"]
    (own,) = [one for one in requirements(extras["test"]) if one.name == "rnnforecast"]
    assert own.extras == set(extras) - {"test"}


def test_version_is_the_same_everywhere():
    assert rnnforecast.__version__ == PROJECT["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy of the tracked kind of files, so that the tree stays clean."""
    pytest.importorskip("hatchling")
    copy = tmp_path_factory.mktemp("source")
    for name in ("rnnforecast", "datasets"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").iterdir()
    return built


def test_the_wheel_holds_the_data_and_no_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        held = {n.rsplit("/", 1)[1] for n in names if n.startswith("rnnforecast/_datasets/")}
        manifest = json.loads(archive.read("rnnforecast/_datasets/manifest.json"))
        files = {entry["file"] for entry in manifest.values()}
        assert held == {"manifest.json", "downloads.json", *files}
        for name in held:
            content = archive.read(f"rnnforecast/_datasets/{name}")
            assert content == (ROOT / "datasets" / name).read_bytes()
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rnnforecast").rglob("*.py")}
    assert sources <= names
    assert {n.split("/")[0] for n in names} == {"rnnforecast", f"{wheel.name[:17]}.dist-info"}


def test_data_are_read_from_an_installed_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import rnnforecast.datasets as d; print(d.__file__); print(d._bundled('manifest.json'));"
        "print(len(d.load_sp500()), len(d.load_nyc_weather()), len(d.load_seattle_weather()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    lines = run(sys.executable, "-c", code, cwd=tmp_path, env=environment).stdout.splitlines()
    assert all(line.startswith(str(tmp_path)) for line in lines[:2])
    assert lines[2] == "5031 26115 1461"


def test_the_command_is_declared():
    assert PROJECT["scripts"] == {"rnnforecast": "rnnforecast.cli:main"}
    from rnnforecast.cli import main

    assert callable(main)


# make, with a stand-in for Python that writes down what it is asked

STAND_IN = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    log = tmp_path / "log"

    def make(target):
        log.write_text("")
        environment = {**os.environ, "LOG": str(log), "MAKEFLAGS": ""}
        run("make", target, "BASE_PYTHON=./python", cwd=tmp_path, env=environment)
        return log.read_text().splitlines()

    return make


def installs(calls):
    return [call for call in calls if "pip install" in call]


def test_make_demo_installs_once_and_again_when_the_requirements_change(make, tmp_path):
    first = make("demo")
    assert "-m venv .venv" in first and first[-1] == "examples/demo.py"
    (install,) = installs(first)
    assert install.endswith("-c constraints.txt -e .[plot]")
    assert make("demo") == ["examples/demo.py"]
    os.utime(tmp_path / "constraints.txt", (2e9, 2e9))
    assert installs(make("demo")) == [install]


def test_make_test_uses_the_same_environment_and_ends_with_pytest(make):
    make("demo")
    calls = make("test")
    (install,) = installs(calls)
    assert install.endswith("-c constraints.txt -e .[test]")
    assert not any("venv" in call for call in calls)
    order = [re.search(r"-m (\w+ ?\w*)", call).group(1) for call in calls if call.startswith("-m")]
    assert order[1:4] == ["ruff check", "ruff format", "mypy"] and order[-1].startswith("pytest")
    assert installs(make("demo")) == []  # the test extras include those of the demo


def test_make_test_machines_runs_the_script_in_the_same_environment(make):
    make("test")
    assert make("test-machines") == ["tests/machines.py --jobs 2"]
    assert make("test-machines-quick") == ["tests/machines.py --quick --jobs 2"]


@pytest.mark.parametrize("failing", ["", "test", "test-machines-quick"])
def test_ci_runs_make_test_on_this_machine_and_others(failing, tmp_path):
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    shutil.copy(ROOT / ".ci" / "run", script)
    make = f'echo "$2" >> "$LOG"; test "$2" != "{failing}"'
    (tmp_path / "make").write_text(f"#!/bin/sh\n{make}\n")
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LOG": str(tmp_path / "log")}
    done = subprocess.run([script], env=environment, capture_output=True, text=True)
    assert done.returncode == bool(failing), done.stderr
    assert sorted((tmp_path / "log").read_text().split()) == ["test", "test-machines-quick"]
