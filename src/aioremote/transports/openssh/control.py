"""One connection to a master's control socket: messages out with their descriptors, replies in."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from aioremote.transports.openssh.mux import HELLO, Kind, MuxError, Reader, Reply

__all__ = ["BACKLOG_PAUSE_SECONDS", "Control"]

_READ_BYTES = 64 * 1024
BACKLOG_PAUSE_SECONDS = 0.005  # a unix socket whose queue is full tells nobody when it has room


class Control:
    """A connection, open from `connect` on.

    Args:
        replied: gets each reply but the greeting.
        ended: called once when the master has closed it; not after `close`.

    Attributes:
        fault: what the other end said that no master says, else None.
    """

    __slots__ = ("_ended", "_loop", "_reader", "_replied", "_socket", "_waiting", "fault")

    def __init__(self, replied: Callable[[Reply], None], ended: Callable[[], None]) -> None:
        self.fault: MuxError | None = None
        self._loop = asyncio.get_running_loop()
        self._replied: Callable[[Reply], None] | None = replied
        self._ended: Callable[[], None] | None = ended
        self._reader = Reader()
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[bytes | memoryview, int | None]] = deque()

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
        self._loop.add_reader(near, self._read)
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

    def greet(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send the greeting and the first message; the descriptors are copied, and closed here once they are sent."""
        self.send(HELLO + message, descriptors)

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and after it descriptors, which are closed here once they are sent."""
        self._waiting.append((message, None))
        self._waiting.extend((b"\0", fd) for fd in descriptors)
        if self._send_some() and self._waiting and self._socket is not None:
            self._loop.add_writer(self._socket, self._send_rest)

    def _send_rest(self) -> None:
        if self._send_some() and not self._waiting and self._socket is not None:
            self._loop.remove_writer(self._socket)

    def _send_some(self) -> bool:
        """Send what the socket takes; returns whether it is still open."""
        while self._waiting:
            data, fd = self._waiting[0]
            if self._socket is None:
                self._drop_waiting()
                return False
            try:
                sent = self._put(self._socket, data, fd)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:  # the reading side hears of the end
                self._drop_waiting()
                return False
            self._waiting.popleft()
            if fd is not None:
                os.close(fd)
            elif sent < len(data):
                self._waiting.appendleft((memoryview(data)[sent:], None))
        return True

    @staticmethod
    def _put(near: socket.socket, data: bytes | memoryview, fd: int | None) -> int:
        if fd is None:
            return near.send(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            return near.sendmsg([data], rights)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:  # more descriptors under way than this user may open files
                raise BlockingIOError from error
            raise

    def _drop_waiting(self) -> None:
        for _, fd in self._waiting:
            if fd is not None:
                os.close(fd)
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
        near, self._socket = self._socket, None
        self._replied = self._ended = None
        self._drop_waiting()
        if near is not None:
            self._loop.remove_reader(near)
            self._loop.remove_writer(near)
            near.close()
