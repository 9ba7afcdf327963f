"""A listener of the far side: each connection that it accepts becomes a channel to the near end, which asked for it."""

import errno
import os
import socket
from functools import partial

from .frames import WireError
from .handlers import REFUSED, Handler
from .sockets import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .serve import Outpost

__all__ = ["Listening"]

BACKLOG = 1024
IN_ONE_TURN = 64
PORT_TRIES = 10  # for one port that is free on each of several addresses
FULL_SECONDS = 0.05  # until accepting is tried again, where descriptors or the near end's channels are used up
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Listening(Handler):
    """The sockets of one listener, one for each address."""

    def __init__(self, outpost: "Outpost", number: "int") -> "None":
        self._outpost = outpost
        self._number = number
        self._sockets: "list[socket.socket]" = []
        self._path = b""
        self._inode = (0, 0)
        self._over = False
        self._waits: "tuple[socket.socket, bytes] | None" = None  # accepted, but the near end takes no more now

    # coming about

    def bind(self, places: "list[tuple[int, Any]]", why: "str") -> "None":
        """Bind all addresses, then listen; or refuse, and nothing listens."""
        if self._over:
            return
        try:
            if not places:
                raise OSError(errno.EADDRNOTAVAIL, why)
            if places[0][0] == socket.AF_UNIX:
                self._bind_path(places[0][1])
            else:
                self._bind_ports(places)
            for made in self._sockets:
                made.listen(BACKLOG)
        except (OSError, OverflowError) as error:
            self._close()
            number = getattr(error, "errno", None) or errno.EINVAL
            text = "%s %s" % (errno.errorcode.get(number, "EIO"), getattr(error, "strerror", None) or error)
            self._over = True
            self._outpost.reject(self._number, REFUSED, text)
            return
        port = 0 if self._path else self._sockets[0].getsockname()[1]
        self._outpost.accept(self._number, b"%d" % port)
        self._watch()

    def _bind_path(self, path: "bytes") -> "None":
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sockets.append(made)
        made.setblocking(False)
        made.bind(path)
        self._path = path
        found = os.stat(path)
        self._inode = (found.st_dev, found.st_ino)
        os.chmod(path, 0o600)  # nobody can connect before listen()

    def _bind_ports(self, places: "list[tuple[int, Any]]") -> "None":
        """Bind one port on all addresses; of several, those that this computer has."""
        for tries_left in range(PORT_TRIES - 1, -1, -1):
            try:
                self._bind_all(places)
                return
            except OSError as error:
                self._close()
                if places[0][1][1] or error.errno != errno.EADDRINUSE or not tries_left:
                    raise

    def _bind_all(self, places: "list[tuple[int, Any]]") -> "None":
        port: "int" = places[0][1][1]
        absent: "OSError | None" = None
        for family, address in places:
            try:
                made = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                absent = error
                continue
            self._sockets.append(made)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                made.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                absent = error
                self._sockets.pop().close()
                continue
            port = made.getsockname()[1]
        if not self._sockets:
            raise absent or OSError(errno.EADDRNOTAVAIL, "no address")

    # connections

    def _watch(self) -> "None":
        for made in self._sockets:
            self._outpost.watch(made.fileno(), partial(self._accept, made))

    def _pause(self) -> "None":
        for made in self._sockets:
            self._outpost.watch(made.fileno(), _nothing, 0)
        self._outpost.later(FULL_SECONDS, self._resume)

    def _resume(self) -> "None":
        if self._over:
            return
        if self._waits is not None:
            waits, self._waits = self._waits, None
            if not self._hand_over(*waits):
                return
        self._watch()

    def _accept(self, made: "socket.socket", _: "int") -> "None":
        for _turn in range(IN_ONE_TURN):
            try:
                accepted, address = made.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in FULL:
                    self._pause()
                return
            peer = "" if self._path else "%d %s" % (address[1], address[0])
            if not self._hand_over(accepted, b"%d %s" % (self._number, peer.encode())):
                return

    def _hand_over(self, accepted: "socket.socket", header: "bytes") -> "bool":
        try:
            Connection(self._outpost).begin(accepted, header)
        except WireError:
            self._waits = accepted, header
            self._pause()
            return False
        return True

    # the end

    def on_eof(self) -> "None":
        self._end()
        self._outpost.eof(self._number)

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        self._end()

    def on_lost(self, text: "str") -> "None":
        self._end()

    def _end(self) -> "None":
        self._over = True
        self._close()
        if self._waits is not None:
            self._waits[0].close()
            self._waits = None

    def _close(self) -> "None":
        sockets, self._sockets = self._sockets, []
        for made in sockets:
            self._outpost.watch(made.fileno(), _nothing, 0)
            made.close()
        path, self._path = self._path, b""
        try:
            if path:
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == self._inode:  # nobody else's meanwhile
                    os.unlink(path)
        except OSError:
            pass


def _nothing(_: "int") -> "None":
    """Nothing is watched."""
