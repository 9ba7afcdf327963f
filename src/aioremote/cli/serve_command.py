"""The command `serve`, which stands apart because it is all of the command line that Windows has (`windows`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from aioremote.cli.interrupt import run_interruptible

__all__ = ["serve_command"]


@click.command("serve")
@click.option(
    "--listen", default="127.0.0.1:10101", metavar="ADDR", help="ADDRESS:PORT, the path of a socket, or a Windows pipe."
)
@click.option("--key", metavar="FILE", help="The daemon's key, made by keygen.")
@click.option("--authorized", metavar="FILE", help="The clients' certificates, one after the other.")
@click.option("--tokens", metavar="FILE", help="Tokens of clients without certificates, one a line, mode 0600.")
@click.option("--drain", metavar="SECONDS", type=float, default=30.0, help="For sessions to end after SIGTERM.")
@click.option("--allow-remote", is_flag=True, help="Permit an address that is not loopback, or SMB.")
def serve_command(**params: Any) -> int:
    """Let authorised clients use this machine until Ctrl-C; SIGHUP reads the files again, SIGTERM lets sessions end."""
    from aioremote.cli.serving import run_daemon
    from aioremote.daemon import DaemonConfig

    drain = params.pop("drain")
    return run_interruptible(partial(run_daemon, DaemonConfig(**params), drain))
