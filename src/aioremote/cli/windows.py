"""The command line on Windows, where only `serve` runs: all other commands need what POSIX has."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from aioremote.cli.serve_command import serve_command
from aioremote.errors import RemoteError
from aioremote.escape import one_line

__all__ = ["invoke"]

_USAGE_STATUS = 2
_INTERRUPT_STATUS = 130


@click.group()
def cli() -> None:
    """Let authorised clients use this machine through a named pipe."""


cli.add_command(serve_command)


def invoke(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; troubles become one line on standard error."""
    try:
        status: object = cli.main(None if args is None else list(args), prog_name="aioremote", standalone_mode=False)
    except click.Abort:
        return _INTERRUPT_STATUS
    except click.ClickException as error:
        return _refuse(error.format_message())
    except (RemoteError, ValueError) as error:
        return _refuse(str(error))
    return status if isinstance(status, int) else 0


def _refuse(text: str) -> int:
    sys.stderr.write(f"aioremote: {one_line(text)}\n")
    return _USAGE_STATUS
