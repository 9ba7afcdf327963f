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

__all__ = ["BACKLOG_PAUSE_SECONDS", "Control"]

_READ_BYTES = 4096  # replies are of some bytes
_DESCRIPTOR = struct.Struct("i")
BACKLOG_PAUSE_SECONDS = 0.005  # a unix socket whose queue is full tells nobody when it has room


class Control:
    """A connection, open from `connect` on.

    Args:
        replied: gets each reply but the greeting.
        ended: called once when the master has closed it; not after `close`.
        watch: tells of replies; None has the loop do it.

    Attributes:
        fault: what the other end said that no master says, else None.
    """

    __slots__ = ("_blocked", "_ended", "_lent", "_reader", "_replied", "_socket", "_waiting", "_watch", "fault")

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

    async def connect(self, path: str) -> None:
        """Connect.

        Raises:
            OSError: nobody listens at `path`, or it cannot be reached.
        """
        while not self.connect_now(path):  # noqa: ASYNC110  # there is nothing to wait for
            await asyncio.sleep(BACKLOG_PAUSE_SECONDS)

    def connect_now(self, path: str) -> bool:
        """Connect at once; returns whether the master's queue had room."""
        near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        near.setblocking(False)
        try:
            near.connect(path)
        except BlockingIOError:
            near.close()
            return False
        except BaseException:
            near.close()
            raise
        self._socket = near
        self._watch.add(near.fileno(), self._read)
        return True

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
        """Send the greeting and the first message, as `send` does."""
        self.send(HELLO + message, descriptors, lent=lent)

    def send(self, message: bytes, descriptors: Sequence[int] = (), *, lent: Collection[int] = ()) -> None:
        """Send a message, and after it descriptors.

        The master gets copies: ours are closed here once they are sent, save those that are `lent`.
        """
        self._lent = lent
        self._waiting.append((message, None))
        self._waiting.extend([(b"\0", fd) for fd in descriptors])
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
        while self._waiting:
            data, fd = self._waiting[0]
            if self._socket is None:
                self._drop_waiting()
                return False
            try:
                sent = self._socket.send(data) if fd is None else _pass(self._socket, data, fd)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:  # the reading side hears of the end
                self._drop_waiting()
                return False
            self._waiting.popleft()
            if fd is not None:
                self._let_go(fd)
            elif sent < len(data):
                self._waiting.appendleft((memoryview(data)[sent:], None))
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
        if data:
            try:
                for reply in self._reader.feed(data):
                    if reply.kind is not Kind.HELLO and self._replied is not None:
                        self._replied(reply)
            except MuxError as error:
                self.fault, data = error, b""
        if not data:
            ended = self._ended
            self.close()
            if ended is not None:
                ended()

    def close(self) -> None:
        """Close it. Of a session, the far program sees the end of its input and no more."""
        self._unblock()
        near, self._socket = self._socket, None
        self._replied = self._ended = None
        self._drop_waiting()
        if near is not None:
            self._watch.remove(near.fileno())
            near.close()


def _pass(near: socket.socket, data: bytes | memoryview, fd: int) -> int:
    try:
        return near.sendmsg((data,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(fd)),))
    except OSError as error:
        if error.errno == errno.ETOOMANYREFS:  # more descriptors under way than this user may open files
            raise BlockingIOError from error
        raise
