"""One connection to a master's control socket: messages out with their descriptors, replies in."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Collection, Sequence

from aioremote.transports.openssh.mux import HELLO, Kind, MuxError, Reader, Reply
from aioremote.transports.openssh.watch import Watch

__all__ = ["BACKLOG_PAUSE_SECONDS", "Control", "dial"]

_READ_BYTES = 4096  # replies are of some bytes
_DESCRIPTOR = struct.Struct("i")
BACKLOG_PAUSE_SECONDS = 0.005  # a unix socket whose queue is full tells nobody when it has room


def dial(path: str) -> socket.socket | None:
    """Connect to a master at once; None where its queue has no room.

    Raises:
        OSError: nobody listens at `path`, or it cannot be reached.
    """
    near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    near.setblocking(False)
    try:
        near.connect(path)
    except BlockingIOError:
        near.close()
        return None
    except BaseException:
        near.close()
        raise
    return near


class Control:
    """A connection, open from `connect` on.

    Args:
        replied: gets each reply but the greeting.
        ended: called once when the master has closed it; not after `close`.
        watch: tells of replies; None has the loop do it.

    Attributes:
        fault: what the other end said that no master says, else None.
    """

    __slots__ = (
        "_blocked", "_ended", "_is_watched", "_lent", "_reader", "_replied", "_socket", "_waiting", "_watch", "fault",
    )  # fmt: skip

    def __init__(self, replied: Callable[[Reply], None], ended: Callable[[], None], watch: Watch | None = None) -> None:
        self.fault: MuxError | None = None
        self._watch = watch or Watch()
        self._replied: Callable[[Reply], None] | None = replied
        self._ended: Callable[[], None] | None = ended
        self._reader = Reader()
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[bytes | memoryview, int | None]] = deque()
        self._lent: Collection[int] = ()
        self._blocked = False
        self._is_watched = False

    async def connect(self, path: str) -> None:
        """Connect.

        Raises:
            OSError: nobody listens at `path`, or it cannot be reached.
        """
        while (near := dial(path)) is None:  # noqa: ASYNC110  # there is nothing to wait for
            await asyncio.sleep(BACKLOG_PAUSE_SECONDS)
        self.adopt(near)

    def adopt(self, near: socket.socket) -> None:
        """Take a connection that `dial` has made."""
        self._socket = near

    @property
    def is_open(self) -> bool:
        """Whether the master has not closed it, as far as is known here."""
        return self._socket is not None

    def is_alive(self) -> bool:
        """Look whether the master has closed it, also where the loop has not come to see it yet."""
        if self._socket is None:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False

    def greet(self, message: bytes, descriptors: Sequence[int] = (), *, lent: Collection[int] = ()) -> None:
        """Send the greeting and the first message, as `send` does; from then on replies are told."""
        self.send(HELLO + message, descriptors, lent=lent)
        self._read()  # the master's greeting, where that has come already
        if self._socket is not None:
            self._watch.add(self._socket.fileno(), self._read)
            self._is_watched = True

    def send(self, message: bytes, descriptors: Sequence[int] = (), *, lent: Collection[int] = ()) -> None:
        """Send a message, and after it descriptors.

        The master gets copies: ours are closed here once they are sent, save those that are `lent`.
        """
        self._lent = lent
        self._waiting.append((message, None))
        for fd in descriptors:
            self._waiting.append((b"\0", fd))
        if self._send_some() and self._waiting and self._socket is not None:
            self._blocked = True
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._send_rest)

    def _send_rest(self) -> None:
        if self._send_some() and not self._waiting:
            self._unblock()

    def _unblock(self) -> None:
        if self._blocked and self._socket is not None:
            self._blocked = False
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _send_some(self) -> bool:
        """Send what the socket takes; returns whether it is still open."""
        waiting, near = self._waiting, self._socket
        while waiting:
            data, fd = waiting[0]
            try:
                if near is None:
                    raise BrokenPipeError  # what a closed socket would say
                if fd is None:
                    sent = near.send(data)
                else:
                    sent = near.sendmsg((data,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(fd)),))
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as error:  # the reading side hears of the end
                if error.errno == errno.ETOOMANYREFS:  # more descriptors under way than this user may open files
                    return True
                self._drop_waiting()
                return False
            waiting.popleft()
            if fd is not None:
                self._let_go(fd)
            elif sent < len(data):
                waiting.appendleft((memoryview(data)[sent:], None))
        return True

    def _let_go(self, fd: int) -> None:
        if fd not in self._lent:
            os.close(fd)

    def _drop_waiting(self) -> None:
        for _, fd in self._waiting:
            if fd is not None:
                self._let_go(fd)
        self._waiting.clear()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data == HELLO:  # a greeting on its own is that of a good master
            return
        if not data or not self._tell(data):
            ended = self._ended
            self.close()
            if ended is not None:
                ended()

    def _tell(self, data: bytes) -> bool:
        """Pass the replies on; returns whether they were some."""
        try:
            for reply in self._reader.feed(data):
                if self._replied is not None and reply.kind is not Kind.HELLO:
                    self._replied(reply)
        except MuxError as error:
            self.fault = error
            return False
        return True

    def close(self) -> None:
        """Close it. Of a session, the far program sees the end of its input and no more."""
        self._unblock()
        near, self._socket = self._socket, None
        self._replied = self._ended = None
        self._drop_waiting()
        if near is not None:
            if self._is_watched:
                self._watch.remove(near.fileno())
            near.close()
