"""A unix socket that leads through a machine and that nobody else can reach, for clients that take a socket's path.

Most database clients do: asyncpg, psycopg and every other client of PostgreSQL, redis-py, PyMySQL, httpx, curl.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioremote.machine import Machine
    from aioremote.types import Reconnect

__all__ = ["postgres_folder", "private_socket"]


@asynccontextmanager
async def private_socket(
    machine: Machine,
    port: int | str,
    *,
    host: str = "localhost",
    name: str = "socket",
    reconnect: bool | Reconnect = False,
) -> AsyncGenerator[str]:
    """Open a tunnel that listens on a unix socket in a new directory of our user alone.

    Args:
        machine: where connections go on from.
        port: the far port; a str is the path of a far unix socket.
        host: the far host, as the machine sees it.
        name: of the socket in its directory.
        reconnect: as in `Machine.tunnel`.

    Yields:
        The socket's path. It is gone with the block.

    Raises:
        TunnelError, ConnectError, ConnectionLost: as `Machine.tunnel`; nothing is left behind.
    """
    folder = tempfile.mkdtemp(prefix="aioremote-")  # mode 0700
    try:
        path = os.path.join(folder, name)
        async with machine.tunnel(path, port, dhost=host, reconnect=reconnect):
            yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def postgres_folder(
    machine: Machine, port: int | str = 5432, *, host: str = "localhost", reconnect: bool | Reconnect = False
) -> AsyncGenerator[str]:
    """Open a `private_socket` where clients of PostgreSQL look for one: ``asyncpg.connect(host=folder, port=5432)``.

    They use no TLS over a unix socket. Up to the machine ssh encrypts; for a server that wants TLS as well take
    ``machine.tunnel(0, 5432)`` and its ``lport``.

    Args:
        machine, port, host, reconnect: as in `private_socket`.

    Yields:
        The directory, to be given as host with the port 5432, whatever the far port is.
    """
    async with private_socket(machine, port, host=host, name=".s.PGSQL.5432", reconnect=reconnect) as path:
        yield os.path.dirname(path)
