"""The build of the kernels and the loader: what is made, refused, and said about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path

import pytest

from rnnforecast.nn import library as _library

pytestmark = pytest.mark.machine

ROOT = Path(__file__).resolve().parent.parent
COMPILER = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

# Stand-ins with the symbols that the loader asks for: the real sources take half a minute.
DISPATCH = """
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT long long rnnf_abi() { return %d; }
EXPORT const char* rnnf_isa() { return "stub"; }
"""


@pytest.fixture(scope="module")
def hook():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree with stand-ins for the kernels; its native folder."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("RNNFORECAST_NO_NATIVE", raising=False)
    native = tmp_path / "rnnforecast" / "nn" / "native"
    native.mkdir(parents=True)
    (native / "dispatch.cpp").write_text(DISPATCH % _library.ABI)
    shutil.copy(ROOT / "rnnforecast/nn/native/build_id.cpp", native)
    return native


def build(hook, native):
    return hook.build(native.parents[2])


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# the build


def test_the_build_and_the_loader_agree_on_the_sources(hook, tree):
    real = ROOT / hook.NATIVE
    assert hook.source_hash(real) == _library._source_hash(real)
    before = hook.source_hash(tree)
    (tree / "more.h").write_text("// one line")
    assert hook.source_hash(tree) != before


@needs_compiler
def test_a_built_library_is_loaded_and_not_built_again(hook, tree):
    assert build(hook, tree) is None
    library, status = _library._load(tree)
    assert library is not None
    assert status == ("native", "stub", f"loaded {tree / hook.LIBRARY}")
    stamp = (tree / hook.LIBRARY).stat().st_mtime_ns
    assert build(hook, tree) is None
    assert (tree / hook.LIBRARY).stat().st_mtime_ns == stamp
    assert sorted(p.name for p in tree.iterdir() if p.name.startswith("_")) == [
        "_build.txt",
        hook.LIBRARY,
    ]


@needs_compiler
def test_changed_sources_are_refused_until_built_again(hook, tree):
    build(hook, tree)
    with (tree / "dispatch.cpp").open("a") as file:
        file.write("// changed\n")
    library, status = _library._load(tree)
    assert library is None and "other sources" in status.reason
    assert build(hook, tree) is None
    # the same path again would give the library that is mapped already
    (moved,) = [Path(shutil.copytree(tree, tree.with_name("moved")))]
    assert _library._load(moved)[1].path == "native"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no C++ compiler was found (tried CXX=no-such-compiler)"),
        ("echo broken: fatal error >&2; exit 3", "failed with status 3: broken: fatal error"),
        ("exit 1", "failed with status 1: no message"),
    ],
)
def test_the_install_goes_on_without_a_working_compiler(hook, tree, monkeypatch, compiler, reason):
    if " " in compiler:
        compiler = script(tree.parents[2] / "cxx", compiler)
    monkeypatch.setenv("CXX", compiler)
    (tree / hook.LIBRARY).write_bytes(b"of an earlier build")
    assert reason in build(hook, tree)
    assert not (tree / hook.LIBRARY).exists()
    library, status = _library._load(tree)
    assert library is None and status.path == "torch" and status.instruction_set is None
    assert reason in status.reason


def test_no_compiler_at_all(hook, tree, monkeypatch):
    monkeypatch.setenv("PATH", str(tree))
    assert build(hook, tree) == "no C++ compiler was found (tried c++, g++, clang++)"


def test_a_compiler_that_hangs_is_given_up(hook, tree, monkeypatch):
    monkeypatch.setattr(hook, "SECONDS", 0.2)
    monkeypatch.setenv("CXX", script(tree.parents[2] / "cxx", "exec sleep 60"))
    assert "timed out" in build(hook, tree)


@needs_compiler
@pytest.mark.parametrize("text", ["int broken( {", "int used(); int use() { return used(); }"])
def test_sources_that_do_not_compile_or_link(hook, tree, text):
    (tree / "more.cpp").write_text(text)
    if sys.platform == "win32" and "used" in text:
        pytest.skip("other words there")
    reason = build(hook, tree)
    assert "failed with status" in reason and "\n" not in reason


def test_the_build_can_be_switched_off(hook, tree, monkeypatch):
    monkeypatch.setenv("RNNFORECAST_NO_NATIVE", "1")
    reason = build(hook, tree)
    assert "RNNFORECAST_NO_NATIVE was set when the package was installed" in reason
    monkeypatch.delenv("RNNFORECAST_NO_NATIVE")
    assert reason in _library._load(tree)[1].reason


# the loader


def test_without_library_or_record_there_is_still_a_reason(tree):
    assert "the package was not built on this machine" in _library._load(tree)[1].reason
    (tree / "_build.txt").write_text("library: _kernels.so\n")
    assert "it was built once and is gone" in _library._load(tree)[1].reason


@needs_compiler
def test_loading_can_be_switched_off(hook, tree, monkeypatch):
    build(hook, tree)
    monkeypatch.setenv("RNNFORECAST_NO_NATIVE", "1")
    assert "switched off by RNNFORECAST_NO_NATIVE" in _library._load(tree)[1].reason
    monkeypatch.setenv("RNNFORECAST_NO_NATIVE", "0")
    assert _library._load(tree)[0] is not None


@needs_compiler
def test_a_library_with_another_interface_is_refused(hook, tree):
    (tree / "dispatch.cpp").write_text(DISPATCH % (_library.ABI + 1))
    build(hook, tree)
    library, status = _library._load(tree)
    assert library is None
    assert f"has interface {_library.ABI + 1}, expected {_library.ABI}" in status.reason


@needs_compiler
def test_a_library_without_our_symbols_is_refused(hook, tree):
    (tree / "dispatch.cpp").write_text("int nothing;\n")
    build(hook, tree)
    library, status = _library._load(tree)
    assert library is None and "rnnf_abi" in status.reason


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
@pytest.mark.parametrize("share", [0.0, 0.002, 0.3, 0.9, 0.999])
def test_a_library_that_is_cut_short_is_refused(hook, tree, share):
    build(hook, tree)
    path = tree / hook.LIBRARY
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    library, status = _library._load(tree)
    assert library is None and status.path == "torch" and status.reason


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF", b"\x7fELF\x01" + bytes(80), b"MZ"])
def test_a_file_that_is_no_library_is_refused(tree, content):
    (tree / f"_kernels{_library.SUFFIX}").write_bytes(content)
    library, status = _library._load(tree)
    assert library is None and status.path == "torch" and "\n" not in status.reason


def test_many_threads_load_once(monkeypatch):
    calls = []
    barrier = threading.Barrier(8)

    def load(folder):
        calls.append(folder)
        return None, _library.Status("torch", None, "told")

    monkeypatch.setattr(_library, "_loaded", None)
    monkeypatch.setattr(_library, "_load", load)

    def use():
        barrier.wait()
        assert _library.library() is None and _library.status().reason == "told"

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


# what travels


def make(copy, target, **environment):
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(copy / "dist")]
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    (built,) = (copy / "dist").iterdir()
    return built, done.stdout + done.stderr


@pytest.fixture
def project(tree, hook):
    """A whole project with stand-ins for the kernels, and the metadata of the real one."""
    root = tree.parents[2]
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, root)
    (root / "rnnforecast" / "__init__.py").write_text("")
    (root / "datasets").mkdir()
    (root / "datasets" / "manifest.json").write_text("{}")
    shutil.copy(ROOT / ".gitignore", root)  # what git ignores must travel all the same
    return root


@needs_compiler
def test_a_wheel_with_the_library_is_for_this_platform_and_any_python(project, hook):
    wheel, _ = make(project, "wheel")
    platform_tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform_tag}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if "/native/" in n}
        wheel_file = next(n for n in archive.namelist() if n.endswith("/WHEEL"))
        assert b"Root-Is-Purelib: false" in archive.read(wheel_file)
        archive.extractall(project / "installed")
    folder = hook.NATIVE.as_posix()
    assert names == {f"{folder}/{hook.LIBRARY}", f"{folder}/_build.txt"}
    # no sources beside it: nothing to compare, and it loads
    assert _library._load(project / "installed" / hook.NATIVE)[1].path == "native"


@pytest.mark.parametrize("environment", [{"RNNFORECAST_NO_NATIVE": "1"}, {"CXX": "no-such-one"}])
def test_a_wheel_without_the_library_is_pure_and_says_why(project, hook, environment):
    (project / hook.NATIVE / hook.LIBRARY).write_bytes(b"of an earlier build")
    wheel, said = make(project, "wheel", **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "native kernels were not built" in said
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if "/native/" in n}
        folder = hook.NATIVE.as_posix()
        assert names == {f"{folder}/_build.txt"}
        assert archive.read(f"{folder}/_build.txt").startswith(b"reason: ")


def test_a_source_distribution_holds_the_sources_and_no_library(project, hook):
    import tarfile

    (project / ".gitignore").unlink()
    for name in (hook.LIBRARY, "_build.txt"):
        (project / hook.NATIVE / name).write_bytes(b"made here")
    built, _ = make(project, "sdist")
    with tarfile.open(built) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    folder = hook.NATIVE.as_posix()
    assert {"hatch_build.py", f"{folder}/dispatch.cpp", f"{folder}/build_id.cpp"} <= names
    assert not {f"{folder}/{hook.LIBRARY}", f"{folder}/_build.txt"} & names
