"""One virtual environment per peer library, so that their requirements cannot meet.

    python benchmarks/peers/make_envs.py [FOLDER] [--peers neuralforecast darts gluonts]

FOLDER is where the environments go: ``rnnforecast-peers`` in the user's cache unless named here or
in the environment variable ``RNNFORECAST_PEERS``. torch is installed first, at the version that the
figures in RESULTS.md were made with; where pip knows of a build for the CPU alone (a local wheel,
or an index named with ``--torch-index``), that one is taken. What stands already is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
PEERS = {
    "neuralforecast": ["neuralforecast==3.3.*"],
    "darts": ["darts==0.41.*", "pytorch-lightning>=2.4"],
    "gluonts": ["gluonts==0.17.*", "lightning>=2.2,<2.7", "scipy"],  # its torch extra, by hand
}


def default_folder() -> Path:
    """Where the environments are looked for."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RNNFORECAST_PEERS") or Path(cache) / "rnnforecast-peers")


def python_of(folder: Path, peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return folder / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make(folder: Path, peer: str, torch_index: str | None) -> None:
    """Make one environment; raises CalledProcessError if pip cannot."""
    python = python_of(folder, peer)
    venv.create(folder / peer, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    index = ["--extra-index-url", torch_index] if torch_index else []
    subprocess.run([*pip, *index, TORCH], check=True)
    subprocess.run([*pip, *index, TORCH, *PEERS[peer]], check=True)


def versions(python: Path) -> dict[str, str]:
    """What an environment holds of the packages that matter for the figures."""
    names = [*PEERS, "torch", "lightning", "pytorch-lightning", "numpy", "pandas"]
    code = (
        "import importlib.metadata as m, json, sys\n"
        f"have = {{d.metadata['Name'].lower(): d.version for d in m.distributions()}}\n"
        f"print(json.dumps({{n: have[n] for n in {names!r} if n in have}}))"
    )
    out = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def main() -> None:
    """Make what is missing, and print the versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--torch-index", help="an index that carries torch for the CPU alone")
    args = parser.parse_args()
    for peer in args.peers:
        start = time.perf_counter()
        done = args.folder / peer / ".complete"
        if not done.exists():
            make(args.folder, peer, args.torch_index)
            done.touch()
        record = {"peer": peer, "seconds": round(time.perf_counter() - start)}
        print(json.dumps(record | versions(python_of(args.folder, peer))), flush=True)


if __name__ == "__main__":
    sys.exit(main())
