"""aiohttp through a machine: ``aiohttp.ClientSession(connector=MachineConnector(m))``. Needs the extra ``aiohttp``."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from aioremote.errors import RemoteError
from aioremote.integrations.asyncio import create_connection

if TYPE_CHECKING:
    from aioremote.machine import Machine

__all__ = ["MachineConnector"]


class MachineConnector(aiohttp.TCPConnector):
    """Connects from a machine: names are resolved there, and TLS is with the server itself.

    HTTPS through an HTTP proxy is not offered.

    Args:
        machine: stays yours to close.
        options: those of ``aiohttp.TCPConnector``, but for what concerns near sockets and names.
    """

    def __init__(self, machine: Machine, **options: Any) -> None:  # Any: a foreign constructor's
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            resolver=_Unresolved(), use_dns_cache=False, **options
        )
        self._machine = machine

    async def _wrap_create_connection(self, *args: Any, addr_infos: Any, req: Any, timeout: Any, **kwargs: Any) -> Any:
        """Open one connection, in the place of aiohttp's own way of doing so (private, and tested for that)."""
        host, port = addr_infos[0][4][:2]
        failed: Any = kwargs.get("client_error", aiohttp.ClientConnectorError)
        key = req.connection_key
        try:
            async with asyncio.timeout(timeout.sock_connect):
                return await create_connection(
                    self._machine,
                    args[0],
                    host,
                    port,
                    ssl=kwargs.get("ssl"),
                    server_hostname=kwargs.get("server_hostname"),
                )
        except ssl.SSLCertVerificationError as error:
            raise aiohttp.ClientConnectorCertificateError(key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(key, error) from error
        except (RemoteError, ValueError) as error:
            raise failed(key, OSError(None, str(error))) from error


class _Unresolved(AbstractResolver):
    """Leaves names as they are: the machine resolves them."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        return None
