"""What the accuracy benchmarks share: where a run came from, and a place at the end of a page."""

from __future__ import annotations

import resource
import subprocess
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "RESULTS.md"


def peak_mb() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def commit() -> str:
    """The commit that ran, marked where the tree was changed."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--abbrev=10"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def append(title: str, table: list[str], seeds: int) -> None:
    """Add a section to RESULTS.md; ``table`` holds its Markdown lines."""
    head = (
        f"\n## {title}: {date.today()}, commit {commit()}, {seeds} seeds, peak {peak_mb()} MB\n\n"
    )
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(head + "\n".join(table) + "\n")
