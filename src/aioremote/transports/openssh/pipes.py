"""The near ends of the pipes whose far ends a master holds, read and written by the loop's plain callbacks.

asyncio's own pipe transports cost a command three objects, six turns of the loop and a third more CPU.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from aioremote.transports.openssh.watch import Watch

__all__ = ["PipePool", "PipeReader", "PipeWriter", "wide_pipe"]

_CHUNK_BYTES = 64 * 1024
_HIGH_WATER_BYTES = 64 * 1024
_MOST_IDLE = 20  # two for each of the sessions that sshd allows by default
_WIDE_BYTES = 1024 * 1024  # Source: the default of /proc/sys/fs/pipe-max-size


def wide_pipe(end: int) -> None:
    """Let more bytes wait in a pipe, where the system allows it."""
    with suppress(AttributeError, OSError):  # no Linux, or more than this user may have
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _WIDE_BYTES)


class PipeReader:
    """Passes on what comes out of a pipe.

    Args:
        fd: its reading end, this object's from now on.
        received: gets the bytes.
        ended: called once after the last.
        far: the writing end, where that stays here too: then the end comes when nobody else has it after `let_end`.
        watch: tells of bytes; None has the loop do it.

    Attributes:
        read_bytes: that the loop has read so far.
    """

    __slots__ = ("_ended", "_far", "_fd", "_held", "_received", "_watch", "_wide", "read_bytes")

    def __init__(
        self,
        fd: int,
        received: Callable[[bytes], None],
        ended: Callable[[], None],
        *,
        far: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        os.set_blocking(fd, False)
        self.read_bytes: int = 0
        self._far = far
        self._fd: int | None = fd
        self._received: Callable[[bytes], None] | None = received
        self._ended: Callable[[], None] | None = ended
        self._held = False
        self._wide = False
        self._watch = watch or Watch()
        self._watch.add(fd, self._read)

    @property
    def is_open(self) -> bool:
        """Whether the end has not come yet."""
        return self._fd is not None

    @property
    def far(self) -> int:
        """The writing end.

        Raises:
            ValueError: it is not here, or no longer.
        """
        if self._far is None:
            raise ValueError("this pipe has no writing end here")
        return self._far

    def lend(self, received: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """Pass on to somebody else what comes from now on."""
        self._received, self._ended = received, ended

    def drain(self) -> bool:
        """Read what is there, now that nobody else writes any more.

        Returns:
            Whether all has come, so that it can be lent again; else the end comes in time.
        """
        while self._fd is not None and self._received is not None and not (self._held or self._wide):
            try:
                data = os.read(self._fd, _CHUNK_BYTES)
            except BlockingIOError:
                return True
            self._received(data)
        self.let_end()
        return False

    def let_end(self) -> None:
        """Let the end come once everybody else has closed the writing end."""
        far, self._far = self._far, None
        if far is not None:
            os.close(far)

    def _read(self) -> None:
        if self._fd is None or self._received is None:
            return
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            ended = self._ended
            self.close()
            if ended is not None:
                ended()
            return
        if len(data) == _CHUNK_BYTES and not self._wide:
            self._wide = True
            wide_pipe(self._fd)
        self.read_bytes += len(data)
        self._received(data)

    def hold(self, *, held: bool) -> None:
        """Stop reading, or go on."""
        if self._fd is None or held == self._held:
            return
        self._held = held
        if held:
            self._watch.remove(self._fd)
        else:
            self._watch.add(self._fd, self._read)

    def close(self) -> None:
        """Close it; nothing is told any more."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            if not self._held:
                self._watch.remove(fd)
            os.close(fd)
        self.let_end()
        self._received = self._ended = None


class PipePool:
    """Descriptors that are lent to a master, to one command after another: opening new ones takes a third of its CPU.

    Attributes:
        null: an empty input, and an output that nobody wants.
    """

    __slots__ = ("_idle", "_is_closed", "_watch", "null")

    def __init__(self, watch: Watch) -> None:
        self.null: int = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._watch = watch
        self._idle: list[PipeReader] = []
        self._is_closed = False

    def take(self, received: Callable[[bytes], None], ended: Callable[[], None]) -> PipeReader:
        """Return a pipe with both of its ends."""
        if self._idle:
            pipe = self._idle.pop()
            pipe.lend(received, ended)
            return pipe
        near, far = os.pipe()
        return PipeReader(near, received, ended, far=far, watch=self._watch)

    def give(self, pipe: PipeReader) -> None:
        """Take one back that is empty, and that nobody else writes to."""
        if self._is_closed or len(self._idle) >= _MOST_IDLE:
            pipe.close()
        else:
            pipe.lend(_drop, _nothing)
            self._idle.append(pipe)

    def close(self) -> None:
        """Keep none."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self.null)
        while self._idle:
            self._idle.pop().close()


def _drop(_: bytes) -> None:
    return None


def _nothing() -> None:
    return None


class PipeWriter:
    """Feeds a pipe.

    Args:
        fd: its writing end, this object's from now on.
        full: told True when more waits than should, False when there is room again, or the pipe is gone.
        owns: whether closing this closes `fd`.
    """

    __slots__ = ("_closing", "_fd", "_full", "_loop", "_owns", "_tell", "_waiting")

    def __init__(self, fd: int, full: Callable[[bool], None], *, owns: bool = True) -> None:
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._fd: int | None = fd
        self._tell: Callable[[bool], None] | None = full
        self._owns = owns
        self._waiting = bytearray()
        self._full = False
        self._closing = False

    @property
    def is_open(self) -> bool:
        """Whether bytes are still taken."""
        return self._fd is not None and not self._closing

    @property
    def is_waiting(self) -> bool:
        """Whether bytes are still on their way into the pipe."""
        return bool(self._waiting)

    def write(self, data: bytes) -> None:
        """Write bytes, or let them wait."""
        if not self.is_open or not data:
            return
        if self._waiting:
            self._waiting += data
        else:
            sent = self._put(data)
            if sent == len(data) or self._fd is None:
                return
            self._waiting += memoryview(data)[sent:]
            wide_pipe(self._fd)
            self._loop.add_writer(self._fd, self._write_more)
        self._judge()

    def _put(self, data: bytes | bytearray) -> int:
        assert self._fd is not None
        try:
            return os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # nobody reads any more
            self.close()
            return 0

    def _write_more(self) -> None:
        sent = self._put(self._waiting)
        del self._waiting[:sent]
        if self._fd is None:
            return
        if not self._waiting:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self.close()
                return
        self._judge()

    def _judge(self) -> None:
        full = len(self._waiting) > (_HIGH_WATER_BYTES // 2 if self._full else _HIGH_WATER_BYTES)
        if full != self._full:
            self._full = full
            if self._tell is not None:
                self._tell(full)

    def finish(self) -> None:
        """Close it once all is written."""
        if self._waiting:
            self._closing = True
        else:
            self.close()

    def close(self) -> None:
        """Close it now; what waits is dropped."""
        fd, self._fd = self._fd, None
        if fd is not None:
            if self._waiting:
                self._loop.remove_writer(fd)
            if self._owns:
                os.close(fd)
            self._waiting.clear()
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(False)
