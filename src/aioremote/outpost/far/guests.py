"""A channel that has joined a session of the daemon, one process for many clients: the outpost's side.

Only for outposts that a daemon has started; nothing else gets this module. What the session does is in `shared`.
"""

import json
import os
import socket
import struct

from .calls import Pinned
from .handlers import REFUSED
from .workers import Member, unwatched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .handlers import Handler
    from .pool import Pool
    from .serve import Outpost

__all__ = ["GUEST_ENDED", "GUEST_IN", "GUEST_REFUSED", "join"]

GUEST_IN = b"s"  # what the daemon says, each with a text: the session's pid,
GUEST_REFUSED = b"r"  # why not,
GUEST_ENDED = b"e"  # and, when it is over for this client, the wait status
MAX_TEXT = 4096


def join(outpost: "Outpost", number: "int", pool: "Pool", flags: "int", name: "str") -> "Handler":
    """Serve a channel by the session of this name."""
    return _Joined(outpost, number, pool, flags, name)


class _Joined(Pinned):
    """One channel and its place in a session."""

    def __init__(self, outpost: "Outpost", number: "int", pool: "Pool", flags: "int", name: "str") -> "None":
        self._name = name
        super().__init__(outpost, number, pool, flags)

    def take_worker(self) -> "Member":
        return _Guest(self._outpost, self, self._name, self._pool.packages)

    def on_started(self, member: "Member") -> "None":
        self.open()
        super().on_started(member)

    def on_refused(self, text: "str") -> "None":
        """The daemon does not let this client in."""
        if not self._over:
            self._over = True
            self._outpost.reject(self._number, REFUSED, text)


class _Guest(Member):
    """A place in a session: a worker that is not ended with it."""

    def __init__(self, outpost: "Outpost", owner: "_Joined", name: "str", packages: "list[str]") -> "None":
        super().__init__(outpost, owner)
        self._joined = owner
        self._place, place = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._place.setblocking(False)
        outpost.watch(self._place.fileno(), self._on_news)
        given = [place.detach(), *self.theirs[1:]]
        order = json.dumps({"name": name, "packages": packages}).encode()
        rights = struct.pack("%di" % len(given), *given)
        asking = socket.socket(fileno=outpost.sessions_fd)
        try:
            asking.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            asking.detach()
            for fd in given:
                os.close(fd)

    def _on_news(self, _: "int") -> "None":
        try:
            data = self._place.recv(MAX_TEXT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        kind, text = data[:1], data[1:].decode("utf-8", "replace")
        if kind == GUEST_IN:
            self.pid: "int" = int(text)
            self._joined.on_started(self)
            return
        self._outpost.watch(self._place.fileno(), unwatched, 0)
        if kind == GUEST_REFUSED:
            self._joined.on_refused(text)
        self.on_ended(int(text) if kind == GUEST_ENDED else 0)
        self._place.close()

    def interrupt(self) -> "None":
        if not self.interrupted and not self.ended:
            self.interrupted: "bool" = True
            self._outpost.holds.add(self)
            self.retire()

    def kill(self) -> "None":
        """Leave it to the daemon: others may use the session."""

    def retire(self) -> "None":
        """Leave the session."""
        try:
            self._place.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended
            pass
