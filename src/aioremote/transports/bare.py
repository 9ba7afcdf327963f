"""Under a linked transport whose outpost is reached without any other transport: does nothing, and says so.

Not for reaching anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from aioremote.errors import UnsupportedError
from aioremote.protocols import FarProcess, FileSystem, Transport

if TYPE_CHECKING:
    import os

    from anyio.abc import ByteStream, Listener

    from aioremote.types import Address, Capability, Endpoint, ProcessSpec

__all__ = ["BareTransport"]


class BareTransport(Transport):
    """An address, and no ability of its own: everything but connecting and closing raises UnsupportedError."""

    def __init__(self, address: Address) -> None:
        self.address: Address = address
        self.capabilities: frozenset[Capability] = frozenset()

    async def connect(self) -> None:
        """Do nothing: who stands above connects."""

    async def aclose(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        self._refuse("no programs but the outpost's")

    async def open_connection(self, target: Endpoint) -> ByteStream:
        self._refuse("no connections from the far side")

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        self._refuse("no listening on the far side")

    async def open_files(self, engine: str = "auto") -> FileSystem:
        self._refuse("no files")

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        self._refuse("no copying of files")

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        self._refuse("no copying of files")

    async def ping(self) -> float:
        self._refuse("no ping of its own")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(f"{self.address}: {what} on this road", host=self.address.host)
