"""The outpost on Windows: its link is a socket, and of its services there are those that Windows can serve so far.

A daemon starts it, and hands the socket over as the first line of its input.
"""

import os
import sys

from .serve import READ_BYTES, SERVICES, Outpost
from .windows_handover import take_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

__all__ = ["WindowsOutpost", "main"]


class WindowsOutpost(Outpost):
    """The far end of a link, as `Outpost`.

    Attributes:
        post: has the loop call a function; for other threads.
    """

    missing: "tuple[str, ...]" = ("files", "connect", "listen", "session", "signal", "terminal", "posix")

    def __init__(self, link: "socket.socket", options: "dict[str, float]") -> "None":
        self._link = link
        self._other = link.dup()  # reading and writing are watched apart
        super().__init__(link.fileno(), self._other.fileno(), 2, options)
        poller: "Any" = self._poller  # that of `windows_polling`
        self.post: "Callable[[Callable[[], None]], None]" = poller.post

    def _receive(self) -> "bytes":
        return self._link.recv(READ_BYTES)

    def _write_some(self, buffers: "list[bytes | memoryview]") -> "int":
        return self._other.send(buffers[0] if len(buffers) == 1 else b"".join(buffers))


def main() -> "None":
    """Serve the link until it ends."""
    order, (link,) = take_order()
    answer = "%s %d.%d.%d %d %s\n"
    told = (order["greeting"], *sys.version_info[:3], os.getpid(), os.fsencode(sys.executable).hex())
    link.sendall((answer % told).encode())
    link.setblocking(False)
    for kind in WindowsOutpost.missing:
        SERVICES.pop(kind, None)  # who asks in spite of it is told that there is none
    WindowsOutpost(link, order["options"]).run()
