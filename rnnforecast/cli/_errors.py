"""What a user did wrong: one line on stderr, exit status 2."""

from __future__ import annotations

import click

__all__ = ["BadInput"]


class BadInput(click.ClickException):
    """Input or an option that cannot be used."""

    exit_code = 2
