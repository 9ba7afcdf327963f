"""`aioremote serve`: a daemon until it is interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from aioremote.daemon import Daemon, serve
from aioremote.errors import ConfigError

if TYPE_CHECKING:
    from aioremote.cli.interrupt import Interrupt
    from aioremote.daemon import DaemonConfig

__all__ = ["run_daemon"]


async def run_daemon(config: DaemonConfig, drain: float, interrupt: Interrupt) -> int:
    """Serve until interrupted; SIGHUP reloads, SIGTERM lets sessions end for `drain` seconds, a second one does not."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()

    def end() -> None:
        if ending.is_set():
            interrupt.on_signal(signal.SIGTERM)
        ending.set()

    try:
        async with serve(config) as daemon:
            if os.name == "posix":
                loop.add_signal_handler(signal.SIGHUP, _reload, daemon)
                loop.add_signal_handler(signal.SIGTERM, end)
            where = config.listen if not daemon.port else f"{config.endpoint[0]}:{daemon.port}"
            _say(f"listening on {where}")
            await ending.wait()
            _say(f"ending: {daemon.sessions} sessions, which have {drain:g} s")
            await daemon.drain(drain)
    except asyncio.CancelledError:
        if interrupt.status is None:
            raise
    return interrupt.status or 0


def _reload(daemon: Daemon) -> None:
    try:
        daemon.reload()
    except ConfigError as error:
        _say(f"not reloaded: {error}")
    else:
        _say("reloaded")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
