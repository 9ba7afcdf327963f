"""Commands of the embedded server: subprocesses driven by callbacks of the loop, bytes as they come, bounded memory.

No task belongs to a command: its pipes and its process descriptor call back.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from aioremote.testing._pty import CONTROLLING_TERMINAL, Terminal

__all__ = ["Command", "Exit", "Sink", "Source"]

READ_BYTES = 64 * 1024


class Exit(NamedTuple):
    """How a process ended: an exit code, or the number of the signal that killed it."""

    code: int | None
    signal: int | None
    core_dumped: bool


class Source:
    """The near end of an output: each piece of bytes is handed on as it is read; closed at its end.

    Args:
        descriptor: Read from, and closed.
        feed: Takes bytes.
        ended: Called once, after the last bytes.
    """

    def __init__(self, descriptor: int, feed: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = descriptor
        self._feed = feed
        self._ended = ended

    def resume(self) -> None:
        """Read on, or begin to."""
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._read)

    def pause(self) -> None:
        """Read no more until `resume`: the pipe fills, and its writer waits."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Stop for good; writers to it are told (SIGPIPE, or a hangup on a terminal)."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> None:
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody holds any more answers EIO
            data = b""
        if data:
            self._feed(data)
        else:
            self.close()
            self._ended()


class Sink:
    """The near end of an input: takes bytes, and asks for no more while some are waiting.

    Args:
        descriptor: Written to, and closed.
        room: Called when everything that waited has been written.
    """

    def __init__(self, descriptor: int, room: Callable[[], None]) -> None:
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = descriptor
        self._waiting = bytearray()
        self._room = room
        self._finishing = False

    def write(self, data: bytes) -> bool:
        """Take `data`; False asks the caller to wait for `room`. After the reader has gone, data is dropped."""
        if self._descriptor is None:
            return True
        idle = not self._waiting
        self._waiting += data
        if idle and self._flush(self._descriptor):
            self._loop.add_writer(self._descriptor, self._writable, self._descriptor)
        return not self._waiting

    def finish(self) -> None:
        """Close it as soon as everything is written."""
        self._finishing = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close it now; what waits is lost."""
        self._waiting.clear()
        if self._descriptor is not None:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _writable(self, descriptor: int) -> None:
        if self._flush(descriptor):
            return
        if self._finishing:
            self.close()
        elif self._descriptor is not None:
            self._loop.remove_writer(descriptor)
        self._room()

    def _flush(self, descriptor: int) -> bool:
        """Write what can be written; say whether more waits."""
        try:
            del self._waiting[: os.write(descriptor, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self.close()
        return bool(self._waiting)


class Command:
    """A subprocess, leader of a session of its own.

    Args:
        argv: Program and arguments.
        environment: All of it.
        directory: Where it starts.
        terminal: Its controlling terminal; None gives it three pipes.
        ended: Called in the loop, once, with how it ended, after it was reaped.

    Attributes:
        pid: Its number, also that of its process group and session.
        descriptors: Near ends, the caller's to close: input, then stdout and stderr, or the one output of a terminal.

    Raises:
        OSError: `directory` or the program cannot be used.
        ValueError: a NUL in `argv` or `environment`.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        environment: Mapping[str, str],
        directory: str,
        terminal: Terminal | None,
        ended: Callable[[Command, Exit], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        far, self.descriptors = _open_terminal(terminal) if terminal is not None else _open_pipes()
        if terminal is not None:
            argv = (*CONTROLLING_TERMINAL, terminal.name, *argv)
        try:
            self._process, self._watched = _start(argv, far, directory, environment)
        except BaseException:
            for descriptor in self.descriptors:
                os.close(descriptor)
            raise
        finally:
            for descriptor in set(far):
                os.close(descriptor)
        self.pid = self._process.pid
        self._loop.add_reader(self._watched, self._reap)

    def send_signal(self, number: int) -> None:
        """Signal its process group, if its leader still runs."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    def reap(self) -> None:
        """Wait for its end, which must be near (it was killed). Blocks."""
        if self._process.returncode is None:
            self._process.wait()
            self._loop.remove_reader(self._watched)
            os.close(self._watched)

    def _reap(self) -> None:
        seen = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if seen is None:
            return
        self.reap()
        if seen.si_code == os.CLD_EXITED:
            self._ended(self, Exit(seen.si_status, None, core_dumped=False))
        else:
            self._ended(self, Exit(None, seen.si_status, core_dumped=seen.si_code == os.CLD_DUMPED))


def _start(
    argv: Sequence[str | bytes], standard: tuple[int, int, int], directory: str, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Return the process and a descriptor of it."""
    stdin, stdout, stderr = standard
    process = subprocess.Popen(
        argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=directory, env=environment, start_new_session=True
    )
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:  # no descriptor is free
        process.kill()
        process.wait()
        raise


def _open_pipes() -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Return the far ends (stdin, stdout, stderr) and the near ones in the same order."""
    pipes: list[tuple[int, int]] = []
    try:
        pipes.extend(os.pipe() for _ in range(3))
    except OSError:
        for pipe in pipes:
            for descriptor in pipe:
                os.close(descriptor)
        raise
    stdin, stdout, stderr = pipes
    return (stdin[0], stdout[1], stderr[1]), (stdin[1], stdout[0], stderr[0])


def _open_terminal(terminal: Terminal) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    far = terminal.take_far_end()
    return (far, far, far), (terminal.copy_near_end(), terminal.copy_near_end())
