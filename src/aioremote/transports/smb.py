"""The road to a daemon behind a Windows named pipe, through SMB. Not for the server's side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioremote.transports.bare import BareTransport
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.smb_pipe import Login, open_pipe
from aioremote.transports.tcp import DaemonEnd, reach
from aioremote.types import Address

if TYPE_CHECKING:
    from aioremote._core.deadline import Deadline

__all__ = ["SmbTransport"]


class SmbTransport(LinkedTransport):
    """A host whose daemon stands behind a named pipe.

    Args:
        host, port: of the SMB server.
        username, password, domain: of the login; never shown.
        pipe: its name.
        connect_timeout: seconds for everything until the daemon has greeted.
    """

    keeps_sessions = True

    def __init__(
        self,
        host: str,
        port: int = 445,
        *,
        username: str,
        password: str,
        domain: str = "",
        pipe: str = "aioremote",
        connect_timeout: float = 15.0,
    ) -> None:
        user = f"{domain};{username}" if domain else username
        where = Address("smb", host=host, user=user, port=port, path=f"/{pipe}")
        super().__init__(BareTransport(where), bring_up=self._reach, launch_timeout=connect_timeout)
        self._pipe = pipe
        self._login = Login(username, password, domain)

    async def _reach(self, deadline: Deadline) -> DaemonEnd:
        return await reach(self.address, self._open, deadline)

    async def _open(self, end: DaemonEnd) -> None:
        await open_pipe(self.host, self.address.port or 445, self._pipe, self._login, end)
