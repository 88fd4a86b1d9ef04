"""The one way in which a command refuses its input."""

from __future__ import annotations

import click


class InputError(click.ClickException):
    """Bad input: one line on stderr, exit code 2, never a traceback."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
