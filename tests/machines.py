"""The tests that depend on the machine, run on one machine after another.

``make test-machines`` runs them all, ``make test-machines-quick`` a few on the networks alone.
Another processor is imitated by the settings of the libraries, which then use no instructions that
it does not have. Every run must say, in the header that ``conftest.py`` prints, that it was the
machine it claims to be. What this machine cannot be is skipped, with the reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PANDAS_3 = "pandas==3.1.1"  # constraints.txt holds pandas 2
NOT_HERE = 77  # as in conftest.py
X86 = platform.machine().lower() in {"x86_64", "amd64"}
MARKED = ("tests", "-m", "machine")
LIBRARY = ("tests", "rnnforecast", "-m", "not notebook")  # nearly everything: pandas is everywhere

Variables = dict[str, str]


@dataclass(frozen=True)
class Machine:
    """One machine: how it differs from this one, and the words by which its header tells."""

    name: str
    header: str
    variables: Variables = field(default_factory=dict)
    kernels: str | None = None  # --kernels of conftest.py
    tests: tuple[str, ...] = MARKED
    quick: bool = False
    here: bool = True
    # in an empty folder, makes the Python to run and what its environment has otherwise
    install: Callable[[Path], tuple[Path, Variables]] | None = None


def machines() -> list[Machine]:
    """All of them."""
    no_avx = {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    }  # fmt: skip
    avx2 = {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    }  # fmt: skip
    return [
        Machine("x86 without AVX", "torch DEFAULT", no_avx, "generic,torch", quick=True, here=X86),
        Machine("x86 with AVX2", "torch AVX2", avx2, "avx2,torch", quick=True, here=X86),
        *(Machine(f"kernels {name}", f"kernels {name}", kernels=name)
          for name in ("avx512", "avx2", "generic")),
        Machine("no kernels", "switched off", {"RNNFORECAST_NO_NATIVE": "1"}, "torch", quick=True),
        Machine("no compiler", "no C++ compiler was found", kernels="torch", install=no_compiler),
        Machine("1 thread", "threads 1,", {"OMP_NUM_THREADS": "1"}),
        # passive: where cores are shared, threads that wait busily wait for one another
        Machine("2 threads", "threads 2,", {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}),
        Machine("pandas 3", "pandas 3.", tests=LIBRARY, install=pandas_3),
    ]  # fmt: skip


# -- environments ----------------------------------------------------------------------------------


def call(*command: str | Path, **variables: str) -> None:
    """Run a command in silence.

    Raises
    ------
    RuntimeError
        If it fails, with what it wrote.
    """
    environment = os.environ | variables
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def new_environment(folder: Path) -> Path:
    """A new environment that finds the packages of this one behind its own; its Python.

    torch is not installed again, and an editable rnnforecast is not found this way.
    """
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    (packages,) = folder.glob("[Ll]ib/**/site-packages")
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def pip_install(python: Path, *what: str | Path, **variables: str) -> None:
    """Install into ``python``'s own environment; the packages behind it stay untouched."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-installed")
    call(python, "-m", "pip", "install", *options, *what, **variables)


def no_compiler(folder: Path) -> tuple[Path, Variables]:
    """The project installed from its sources where PATH has everything but compilers."""
    sources, tools = folder / "sources", folder / "tools"
    # the library that was made here, not the module nn/_kernels.py
    made = shutil.ignore_patterns("__pycache__", "_kernels.[!p]*", "_build.txt")
    for name in ("rnnforecast", "datasets"):
        shutil.copytree(ROOT / name, sources / name, ignore=made)
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, sources)
    tools.mkdir()
    compiler = re.compile(r"(.*-)?(cc|c\+\+|gcc|g\+\+|clang|clang\+\+)(-[\d.]+)?")
    for tool in (tool for path in os.get_exec_path() for tool in Path(path).glob("*")):
        if not compiler.fullmatch(tool.name) and not (tools / tool.name).is_symlink():
            (tools / tool.name).symlink_to(tool)
    python = new_environment(folder / "venv")
    # the package that is installed, not the one in the working directory
    variables = {"PATH": str(tools), "CXX": "", "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    pip_install(python, "--no-build-isolation", "--no-index", sources, **variables)
    return python, variables


def pandas_3(folder: Path) -> tuple[Path, Variables]:
    """The working tree with pandas 3."""
    python = new_environment(folder / "venv")
    pip_install(python, PANDAS_3)
    return python, {}


# -- runs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """How a run ended: ``"passed"``, ``"skipped"`` or ``"FAILED"``, one line, and all it wrote."""

    status: str
    line: str
    output: str = ""


def run(machine: Machine, quick: bool) -> Result:
    """Run the tests on one machine."""
    if not machine.here:
        return Result("skipped", f"not on {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        python, variables = Path(sys.executable), machine.variables
        try:
            if machine.install:
                python, variables = machine.install(Path(folder))
        except (OSError, RuntimeError) as error:
            return Result("FAILED", "could not be installed", str(error))
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", *machine.tests]
        if quick:
            command[-len(machine.tests) :] = ["tests/nn"]
        if machine.kernels:
            command += ["--kernels", machine.kernels]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"} | variables
        done = subprocess.run(
            command, cwd=ROOT, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return judge(machine, done.returncode, done.stdout, folder if machine.install else "")


def judge(machine: Machine, status: int, output: str, folder: str) -> Result:
    """What a run of pytest says, and whether it ran on the machine that it should."""
    lines = [line.strip(" =!") for line in output.splitlines() if line.strip(" =!")] or ["silent"]
    if status == NOT_HERE:
        return Result("skipped", lines[-1].removeprefix("Exit: "))
    if status:
        line = lines[-1] if status > 0 else f"ended by signal {-status}"
        return Result("FAILED", line, output)
    header = next((line for line in lines if line.startswith("machine: ")), "no header")
    where = folder if machine.install is no_compiler else str(ROOT)
    for words in (machine.header, f"rnnforecast in {where}"):
        if words not in header:
            return Result("FAILED", f"expected {words!r} in {header!r}", output)
    return Result("passed", lines[-1])


def chosen(names: list[str], quick: bool) -> Iterator[Machine]:
    """Those named, or all; with ``quick`` those that take little time."""
    for machine in machines():
        if (machine.name in names or not names) and (machine.quick or not quick):
            yield machine


def main() -> int:
    """Run, print a line per machine and a summary; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [machine.name for machine in machines()]
    parser.add_argument("machine", nargs="*", help=f"all, or some of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a few machines, tests/nn alone")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (default 1)")
    arguments = parser.parse_args()
    if unknown := set(arguments.machine) - set(names):
        parser.error(f"no machine {sorted(unknown)[0]!r}; there are: {', '.join(names)}")
    start, results = time.monotonic(), []
    todo = list(chosen(arguments.machine, arguments.quick))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for machine, result in zip(todo, pool.map(partial(run, quick=arguments.quick), todo)):
            print(result.output, end="", flush=True)
            print(f"{result.status:<8} {machine.name:<16} {result.line}", flush=True)
            results.append(result.status)
    counts = [f"{results.count(status)} {status}" for status in ("passed", "skipped", "FAILED")]
    print(f"machines: {', '.join(counts)} in {time.monotonic() - start:.0f} s")
    return int("FAILED" in results)


if __name__ == "__main__":
    sys.exit(main())
