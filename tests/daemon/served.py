"""A daemon in this loop, and a machine on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aioremote import DaemonMachine
from aioremote.daemon import Daemon, DaemonConfig, make_key, serve


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[tuple[Daemon, str]]:
    """Serve whoever has the key in the file "client", unless `settings` say who else; gives the server's pin too."""
    pin = make_key(folder / "server")
    make_key(folder / "client")
    who = {} if "tokens" in settings else {"authorized": folder / "client.crt"}
    config = DaemonConfig(listen="127.0.0.1:0", key=folder / "server", **who, **settings)  # type: ignore[arg-type]
    async with serve(config) as daemon:
        yield daemon, pin


def to(daemon: Daemon, pin: str, keyfile: Path) -> DaemonMachine:
    return DaemonMachine("127.0.0.1", daemon.port, keyfile=keyfile, server_fingerprint=pin)
