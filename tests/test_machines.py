"""``make test-machines``: a run counts only on the machine that it claims to be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HEADER = "machine: torch AVX2, kernels avx2, threads 1, pandas 3.1.1, rnnforecast in {}/rnnforecast"
HERE_HEADER = HEADER.format(HERE.parent)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("machines_script", HERE / "machines.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def named(script, name):
    (found,) = [machine for machine in script.machines() if machine.name == name]
    return found


def judged(script, name, status, last, header=HERE_HEADER, folder=""):
    output = f"== test session starts ==\n{header}\n\n{last}\n"
    return script.judge(named(script, name), status, output, folder)


def test_every_machine_has_a_name_of_its_own(script):
    names = [machine.name for machine in script.machines()]
    assert len(set(names)) == len(names)
    assert {"no compiler", "no kernels", "pandas 3", "1 thread", "2 threads"} < set(names)
    assert [machine.name for machine in script.chosen(["pandas 3"], quick=False)] == ["pandas 3"]
    assert 0 < len(list(script.chosen([], quick=True))) < len(names)


@pytest.mark.parametrize("name", ["kernels avx2", "1 thread", "pandas 3"])
def test_a_run_on_the_right_machine_passes(script, name):
    result = judged(script, name, 0, "== 3 passed in 1.00s ==")
    assert (result.status, result.line, result.output) == ("passed", "3 passed in 1.00s", "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kernels generic", "expected 'kernels generic' in 'machine: torch AVX2"),
        ("2 threads", "expected 'threads 2,' in"),
        ("no compiler", "expected 'no C++ compiler was found' in"),
    ],
)
def test_a_run_on_another_machine_fails(script, name, words):
    result = judged(script, name, 0, "3 passed in 1.00s")
    assert result.status == "FAILED" and words in result.line and result.output


def test_an_install_must_be_what_is_tested(script):
    header = HEADER.format("/elsewhere").replace("avx2,", "torch (no C++ compiler was found),")
    passed = judged(script, "no compiler", 0, "3 passed", header, folder="/elsewhere")
    assert passed.status == "passed"
    tree = header.replace("/elsewhere", str(HERE.parent))
    result = judged(script, "no compiler", 0, "3 passed", tree, folder="/elsewhere")
    assert result.status == "FAILED" and "expected 'rnnforecast in /elsewhere'" in result.line


@pytest.mark.parametrize("status", [1, 2, 4, 5, -11])
def test_whatever_else_happens_fails(script, status):
    result = judged(script, "pandas 3", status, "== 1 failed, 2 passed in 1.00s ==")
    line = "1 failed, 2 passed in 1.00s" if status > 0 else "ended by signal 11"
    assert (result.status, result.line) == ("FAILED", line)
    assert "test session starts" in result.output


def test_what_is_not_here_is_skipped_with_the_reason(script):
    result = judged(script, "kernels avx2", script.NOT_HERE, "Exit: no kernels avx2 here: torch")
    assert (result.status, result.line) == ("skipped", "no kernels avx2 here: torch")
    elsewhere = script.Machine("x86 with AVX2", "torch AVX2", here=False)
    assert script.run(elsewhere, quick=False).status == "skipped"
