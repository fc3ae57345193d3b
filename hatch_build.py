"""Build hook: compile the recurrent kernels into one shared library, if there is a compiler.

An installation never fails for want of it: without a compiler, or after an error of the compiler,
the package is pure Python and runs on torch's own layers. What happened is written down in
``rnnforecast/nn/native/_build.txt``, where ``rnnforecast.show_versions()`` finds it.

``RNNFORECAST_NO_NATIVE=1`` skips the compiler, and ``CXX`` names another than the first of ``c++``,
``g++`` and ``clang++`` that is found. ``python hatch_build.py`` compiles in place, for those who
work on the kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags  # a dependency of hatchling

NATIVE = Path("rnnforecast", "nn", "native")
RECORD = "_build.txt"
SUFFIX = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
LIBRARY = f"_kernels{SUFFIX}"

# No -march=native: one build serves every machine, which chooses among the instruction sets when it
# loads the library. No -ffast-math: NaN and infinities pass through the cells as in torch.
FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti",
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-pthread",
]  # fmt: skip
X86_SETS = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "generic": [],
}
SECONDS = 600  # for one compiler call


class NotBuilt(Exception):
    """There is no library, and this is why."""


def source_hash(folder: Path) -> str:
    """One hash of all sources; rnnforecast/nn/_library.py computes the same."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.cpp"), *folder.glob("*.h")], key=lambda path: path.name):
        total.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def is_x86() -> bool:
    """Whether the code is for a 64-bit x86 processor."""
    return platform.machine().lower() in {"x86_64", "amd64"} and sys.maxsize > 2**32


def steps(folder: Path) -> list[tuple[str, str, list[str]]]:
    """(source, object, flags) of every call of the compiler."""
    sets = X86_SETS if is_x86() else {"generic": []}
    found = []
    for path in sorted(folder.glob("*.cpp")):
        if path.name == "kernels.cpp":
            found += [
                (path.name, f"kernels_{name}.o", [*flags, f"-DRNNF_ISA={name}"])
                for name, flags in sets.items()
            ]
            continue
        flags = ["-DRNNF_X86=1"] if path.name == "dispatch.cpp" and is_x86() else []
        if path.name == "build_id.cpp":
            flags = [f'-DRNNF_SOURCES="{source_hash(folder)}"']
        found.append((path.name, f"{path.stem}.o", flags))
    return found


def call(command: list[str], folder: Path) -> str:
    """Run a command in ``folder`` and return what it says.

    Raises
    ------
    NotBuilt
        If it cannot be run, fails, or takes too long.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]} could not be run: {error}") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
        raise NotBuilt(f"{command[0]} failed with status {done.returncode}: {telling[0]}")
    return done.stdout


def compiler() -> list[str]:
    """The command of the C++ compiler.

    Raises
    ------
    NotBuilt
        If none is found.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    tried = f"CXX={named[0]}" if named else "c++, g++, clang++"
    raise NotBuilt(f"no C++ compiler was found (tried {tried})")


def compile_library(folder: Path, command: list[str], target: Path) -> None:
    """Compile the sources in ``folder`` and link them into ``target``."""
    with tempfile.TemporaryDirectory(prefix="rnnforecast-") as temporary:
        objects = Path(temporary)

        def one(step: tuple[str, str, list[str]]) -> None:
            source, result, flags = step
            call([*command, *FLAGS, *flags, "-c", source, "-o", str(objects / result)], folder)

        todo = steps(folder)
        with ThreadPoolExecutor(min(len(todo), os.cpu_count() or 1)) as pool:
            list(pool.map(one, todo))
        made = [str(objects / result) for _, result, _ in todo]
        needed = ["-Wl,--as-needed,--no-undefined"] if platform.system() == "Linux" else []
        partial = objects / LIBRARY
        call([*command, "-shared", "-pthread", *made, *needed, "-o", str(partial)], folder)
        # beside the target first: a process that has the old library mapped must keep its file
        beside = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            shutil.copyfile(partial, beside)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)


def build(root: Path) -> str | None:
    """Make the library and the record below ``root``, unless they are up to date.

    Returns
    -------
    reason : str or None
        Why there is no library; None if there is one.
    """
    folder = root / NATIVE
    target, record = folder / LIBRARY, folder / RECORD
    facts = {"library": LIBRARY, "sources": source_hash(folder)}
    try:
        if os.environ.get("RNNFORECAST_NO_NATIVE", "0") not in {"", "0"}:
            raise NotBuilt("RNNFORECAST_NO_NATIVE was set when the package was installed")
        if not (folder / "dispatch.cpp").exists():
            raise NotBuilt("the sources of the kernels are not there")
        command = compiler()
        version = (call([*command, "--version"], folder).splitlines() or ["unknown"])[0]
        facts["compiler"] = f"{shlex.join(command)}: {version}"
        facts["machine"] = sysconfig.get_platform()
        facts["flags"] = hashlib.sha256(repr((FLAGS, steps(folder))).encode()).hexdigest()[:16]
        if target.exists() and record.exists():
            facts["bytes"] = str(target.stat().st_size)
            if record.read_text(encoding="utf-8") == lay(facts):
                return None
        compile_library(folder, command, target)
        facts["bytes"] = str(target.stat().st_size)
        record.write_text(lay(facts), encoding="utf-8")
    except Exception as error:  # whatever it is: the package works without the library
        reason = " ".join(str(error).split()) or type(error).__name__
        with contextlib.suppress(OSError, ValueError):
            target.unlink(missing_ok=True)  # one from other sources must not stay
            record.write_text(lay({"reason": reason}), encoding="utf-8")
        return reason
    return None


def lay(facts: dict[str, str]) -> str:
    """The text of the record."""
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


class KernelHook(BuildHookInterface):
    """Compile before a wheel is made, ordinary or editable."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library and the record, and name the platform if there is a library."""
        reason = build(Path(self.root))
        build_data["artifacts"].append(f"/{(NATIVE / RECORD).as_posix()}")
        if reason is not None:
            self.app.display_warning(f"rnnforecast's native kernels were not built: {reason}")
            return
        build_data["artifacts"].append(f"/{(NATIVE / LIBRARY).as_posix()}")
        build_data["pure_python"] = False
        # the library is plain C: it depends on the platform, on no version of Python
        # as pip spells it: on macOS sysconfig's name may be one that no pip accepts
        tags = (tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
        platform_tag = next(tags)
        build_data["tag"] = f"py3-none-{platform_tag}"


if __name__ == "__main__":
    failure = build(Path(__file__).resolve().parent)
    sys.exit(f"not built: {failure}" if failure else 0)
