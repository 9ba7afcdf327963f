"""redis-py through a machine: ``Redis.from_pool(connection_pool(m, "cache"))``. Needs the extra ``redis``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.asyncio import Connection, ConnectionPool

from aioremote.integrations.asyncio import open_connection

if TYPE_CHECKING:
    import ssl

    from aioremote.machine import Machine

__all__ = ["MachineConnection", "connection_pool"]


class MachineConnection(Connection):
    """A connection to a Redis server from a machine.

    Args:
        machine: stays yours to close.
        ssl_context: for TLS with the server itself; None for none.
        options: those of ``redis.asyncio.Connection``.
    """

    def __init__(self, *, machine: Machine, ssl_context: ssl.SSLContext | None = None, **options: Any) -> None:
        self._machine = machine
        self._ssl_context = ssl_context
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]

    async def _connect(self) -> None:
        """Open the connection; subclasses are meant to."""
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await open_connection(
                self._machine, self.host, self.port, ssl=self._ssl_context
            )


def connection_pool(
    machine: Machine,
    host: str = "localhost",
    port: int = 6379,
    *,
    ssl_context: ssl.SSLContext | None = None,
    **options: Any,  # Any: a foreign constructor's
) -> ConnectionPool:
    """Return a pool for ``Redis.from_pool()``, which closes it with the client.

    Args:
        machine: stays yours to close.
        host, port: the server, as the machine sees it.
        ssl_context: for TLS with the server itself; None for none.
        options: further ones of a connection or of the pool: ``db``, ``password``, ``max_connections`` ….
    """
    return ConnectionPool(
        connection_class=MachineConnection, machine=machine, host=host, port=port, ssl_context=ssl_context, **options
    )
