"""What can be known to be wrong with a tunnel before it is opened."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioremote.errors import RemoteError, TunnelError, TunnelPortError, UnsupportedError
from aioremote.types import Capability, Endpoint, ProcessSpec

if TYPE_CHECKING:
    from aioremote.protocols import Transport

__all__ = ["check_target", "tunnel_end"]

_CHECK_SECONDS = 3.0  # a far side that has not answered by then is believed
_NOT_FOUND = 2  # getent's status for a name that is not known


def tunnel_end(port: int | str, host: str, which: str) -> Endpoint:
    """Return one end of a tunnel: a port, or a str as the path of a unix socket.

    Raises:
        TunnelPortError: a number that is no port, or an empty path.
        TypeError: neither int nor str.
    """
    if isinstance(port, str):
        if not port or "\0" in port:
            raise TunnelPortError(f"{which}={port!r}: give a port, or the path of a unix socket")
        return Endpoint("", 0, port)
    if isinstance(port, bool) or not isinstance(port, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{which} is {port!r}: give a port as int, or the path of a unix socket as str")
    if not 0 <= port < 65536:
        raise TunnelPortError(f"{which}={port}: a port is a number from 1 to 65535, or 0 for a free one")
    return Endpoint(host, port)


async def check_target(transport: Transport, host: str, target: Endpoint) -> None:
    """Find out what would make every connection to `target` fail. The target itself is left alone where possible.

    Raises:
        TunnelError: the server forbids such connections, or the far side does not know the target's name.
        UnsupportedError: the transport has no connections.
    """
    async with asyncio.TaskGroup() as group:
        allowed = group.create_task(_refusal(transport, target))
        known = group.create_task(_is_known(transport, target.host))
    if (error := allowed.result()) is not None:
        raise error
    if not known.result():
        raise TunnelError(f"{host}: the far side does not know the name {target.host!r}", host=host)


async def _refusal(transport: Transport, target: Endpoint) -> TunnelError | UnsupportedError | None:
    """Ask for a far port where nobody is disturbed; a server that permits only some targets is then asked for ours."""
    refusal: TunnelError | None = None
    for place in (Endpoint("127.0.0.1", 1), target):
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await anyio.aclose_forcefully(await transport.open_connection(place))
        except (ConnectionRefusedError, TimeoutError):
            pass
        except TunnelError as error:
            refusal = error
            continue
        except UnsupportedError as error:
            return error
        return None
    return refusal


async def _is_known(transport: Transport, name: str) -> bool:
    """Look a name up at the far end where that is possible; otherwise believe it."""
    if name == "localhost" or _is_address(name) or Capability.COMMANDS not in transport.capabilities:
        return True
    with suppress(TimeoutError, RemoteError, ValueError):
        async with asyncio.timeout(_CHECK_SECONDS):
            spec = ProcessSpec((b"getent", b"ahosts", name.encode()), stdin=False)
            process = await transport.start_process(spec)
            try:
                return (await process.wait()).returncode != _NOT_FOUND
            finally:
                await process.aclose()
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
