"""`aioremote serve`: a daemon until it is interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from aioremote.daemon import Daemon, serve
from aioremote.errors import ConfigError

if TYPE_CHECKING:
    from aioremote.cli.interrupt import Interrupt
    from aioremote.daemon import DaemonConfig

__all__ = ["run_daemon"]


async def run_daemon(config: DaemonConfig, interrupt: Interrupt) -> int:
    """Serve until interrupted; SIGHUP reloads."""
    loop = asyncio.get_running_loop()
    try:
        async with serve(config) as daemon:
            loop.add_signal_handler(signal.SIGHUP, _reload, daemon)
            where = config.listen if not daemon.port else f"{config.endpoint[0]}:{daemon.port}"
            sys.stderr.write(f"listening on {where}\n")
            sys.stderr.flush()
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if interrupt.status is None:
            raise
    return interrupt.status or 0


def _reload(daemon: Daemon) -> None:
    try:
        daemon.reload()
    except ConfigError as error:
        sys.stderr.write(f"not reloaded: {error}\n")
