"""The name by which ``Panel.build`` was known."""

from rnnforecast.data.panel import Panel

__all__ = ["build_panel"]

build_panel = Panel.build
