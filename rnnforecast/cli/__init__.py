"""The command ``rnnforecast``: forecast a file, or compare models on it by rolling origin.

Built on click rather than typer: typer is click with annotations and brings four more packages.
Everything heavy is imported when a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from rnnforecast.cli._app import main

__all__ = ["main"]
