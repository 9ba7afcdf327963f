"""The services "connect" and "listen": sockets of the far side, each at the end of a channel.

A channel carries the bytes of its socket, and the words of `places`: half-closes, closes and resets, each after the
bytes before it. The far end's EOF says that the socket is closed in order. A connection that a listener accepts is a
channel of this end's. Nothing here blocks.
"""

import errno
import os
import socket
import struct

from .frames import cost
from .handlers import Handler
from .lookup import Lookups
from .places import ABORT, ACCEPTED, BROKEN, CLOSE, ENDED, REFUSES, unpack_place
from .polling import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .serve import Outpost

__all__ = ["Connection", "Sockets"]

READ_BYTES = 262144
LINGER_NOT = struct.pack("ii", 1, 0)  # a close is a reset
UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)
FULL_SECONDS = 0.05  # between tries where a unix socket's queue is full, of which the kernel tells no one
FULL_TRIES = 200


def _name(number: "int | None") -> "str":
    return errno.errorcode.get(number or 0, "EIO")


class Sockets(object):
    """What the services of one outpost share."""

    def __init__(self, outpost: "Outpost") -> "None":
        self.lookups: "Lookups" = Lookups(outpost)

    def connect(self, outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
        """Serve a channel: one connection."""
        connection = Connection(outpost, number)
        host, port, path = unpack_place(header)
        if path:
            connection.try_all([(int(socket.AF_UNIX), path)], "")
        else:
            self.lookups.find(host, port, connection.try_all)
        return connection

    def listen(self, outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
        """Serve a channel: one listener."""
        from .listening import Listening

        listening = Listening(outpost, number)
        host, port, path = unpack_place(header)
        if path:
            listening.bind([(int(socket.AF_UNIX), path)], "")
        else:
            self.lookups.find(host, port, listening.bind)
        return listening


class Connection(Handler):
    """One socket and its channel.

    Args:
        outpost: whose loop serves it.
        number: the channel, which the near end has opened; 0 for one that `begin` opens.
    """

    def __init__(self, outpost: "Outpost", number: "int" = 0) -> "None":
        self._outpost = outpost
        self._number = number
        self._socket: "socket.socket | None" = None
        self._places: "list[tuple[int, object]]" = []  # not tried yet
        self._tries = 0
        self._events = 0  # that are watched
        self._pieces: "list[bytes]" = []  # to be written
        self._first = memoryview(b"")  # what is left of the first
        self._held = False  # the near end is slow
        self._near_ended = False
        self._shut = False  # all is written, and the peer told so
        self._peer_ended = False
        self._deaf = False  # the peer takes nothing more
        self._closing = False  # the near end wants nothing more
        self._over = False

    # coming about

    def try_all(self, places: "list[tuple[int, Any]]", why: "str") -> "None":
        """Connect to one address after the other."""
        if self._over:
            return
        self._places = list(places)
        if not places:
            self._refuse("EADDRNOTAVAIL", why)
        else:
            self._try_next(errno.EADDRNOTAVAIL)

    def _try_next(self, number: "int") -> "None":
        while self._places and not self._over:
            family, address = self._places[0]
            number = self._begin_to(family, address)
            if number == errno.EAGAIN and family == socket.AF_UNIX and self._tries < FULL_TRIES:
                self._drop(reset=False)
                self._tries += 1
                self._outpost.later(FULL_SECONDS, lambda: self._try_next(errno.EAGAIN))
                return
            self._places.pop(0)
            if number in UNDER_WAY and self._socket is not None:
                self._outpost.watch(self._socket.fileno(), self._connected, WRITE)
                self._events = WRITE
                return
            if not number and self._socket is not None:
                self._outpost.accept(self._number)
                self._start(self._socket)
                return
            self._drop(reset=False)
        if not self._over:
            self._refuse(_name(number), os.strerror(number))

    def _begin_to(self, family: "int", address: "object") -> "int":
        try:
            self._socket = made = socket.socket(family, socket.SOCK_STREAM)
            made.setblocking(False)
            return made.connect_ex(address)  # type: ignore[arg-type]  # a tuple or a path
        except (OSError, OverflowError) as error:
            return getattr(error, "errno", None) or errno.EINVAL

    def _connected(self, _: "int") -> "None":
        assert self._socket is not None
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._drop(reset=False)
            self._try_next(number)
        else:
            self._outpost.accept(self._number)
            self._start(self._socket)

    def _refuse(self, name: "str", why: "str") -> "None":
        self._end()
        text = "%s %s" % (name, why)
        self._outpost.send_message(self._number, REFUSES + text.encode("utf-8", "replace"), end=True)

    def begin(self, made: "socket.socket", header: "bytes") -> "None":
        """Take an accepted socket, and tell the near end; WireError where it takes no more channels."""
        self._number = self._outpost.open(ACCEPTED, header, self)
        self._start(made)

    def _start(self, made: "socket.socket") -> "None":
        self._socket = made
        made.setblocking(False)
        if made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._flush()
        self._watch()

    def _watch(self) -> "None":
        """Wait for what there is to wait for."""
        if self._socket is None:
            return
        reads = not (self._held or self._peer_ended or self._closing)
        events = (READ if reads else 0) | (WRITE if self._pieces else 0)
        if events != self._events:
            self._events = events
            self._outpost.watch(self._socket.fileno(), self._on_ready, events)

    def _on_ready(self, events: "int") -> "None":
        if events & WRITE:
            self._flush()
        if events & READ and self._socket is not None:
            self._read(self._socket)
        self._watch()

    # from the socket

    def _read(self, source: "socket.socket") -> "None":
        try:
            data = source.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(error)
            return
        if data:
            self._held = not self._outpost.send(self._number, data)
        elif self._deaf:
            self._break(OSError(errno.ECONNRESET, ""))
        else:
            self._peer_ended = True
            self._outpost.send_message(self._number, ENDED)
            self._finish_if_done()

    def on_writable(self) -> "None":
        self._held = False
        self._watch()

    # to the socket

    def on_data(self, data: "bytes") -> "None":
        if self._deaf or self._over:
            self._outpost.grant(self._number, cost(data))
            return
        self._pieces.append(data)
        if len(self._pieces) == 1:
            self._first = memoryview(data)
            if self._socket is not None:
                self._flush()
                self._watch()

    def _flush(self) -> "None":
        used = 0
        try:
            while self._pieces and self._socket is not None:
                self._first = self._first[self._socket.send(self._first) :]
                if not self._first:
                    used += cost(self._pieces.pop(0))
                    self._first = memoryview(self._pieces[0] if self._pieces else b"")
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            used += sum(map(cost, self._pieces))
            self._pieces = []
            self._deaf = True  # what it has said before is still to be read
            if self._peer_ended or self._closing:
                self._break(error)
        if used:
            self._outpost.grant(self._number, used)
        if self._near_ended and not self._pieces:
            self._shut_down()

    def on_message(self, data: "bytes", more: "bool") -> "None":
        self._outpost.grant(self._number, cost(data))
        if self._over:
            return
        if data == ABORT:
            self._drop(reset=True)
            self._end()
            self._outpost.eof(self._number)
        elif data in (ENDED, CLOSE):
            self._closing = self._closing or data == CLOSE
            self._near_ended = True
            self._watch()
            if not self._pieces:
                self._shut_down()
                self._finish_if_done()

    def _shut_down(self) -> "None":
        if self._socket is None or self._shut:
            return
        self._shut = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone, which reading tells
            pass
        self._finish_if_done()

    # the end

    def _finish_if_done(self) -> "None":
        if self._shut and (self._peer_ended or self._closing) and not self._over:
            self._drop(reset=False)
            self._end()
            self._outpost.eof(self._number)

    def _break(self, error: "OSError") -> "None":
        """Tell that the connection was reset, after all that came before."""
        if not self._over:
            self._drop(reset=True)
            self._end()
            self._outpost.send_message(self._number, BROKEN + _name(error.errno).encode(), end=True)

    def _end(self) -> "None":
        self._over = True
        self._pieces = []
        self._outpost.holds.discard(self)

    def _drop(self, *, reset: "bool") -> "None":
        """Close the socket; with a reset, so that its peer does not take what it got for the whole."""
        dropped, self._socket = self._socket, None
        if dropped is None:
            return
        if self._events:
            self._events = 0
            self._outpost.watch(dropped.fileno(), self._on_ready, 0)
        if reset and dropped.family != socket.AF_UNIX:
            try:
                dropped.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            except OSError:
                pass
        dropped.close()

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        self._drop(reset=True)
        self._end()

    def on_lost(self, text: "str") -> "None":
        if self._near_ended and self._pieces and self._socket is not None:
            self._closing = True
            self._outpost.holds.add(self)  # all of it has come: it is written out, if that takes no longer than 2 s
            self._watch()
        else:
            self._drop(reset=not self._shut)
            self._end()
