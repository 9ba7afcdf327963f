"""Our standard output and error: what is escaped, what goes through as it is, and how much may wait.

Bytes are escaped where the stream is a terminal, unless ``--raw`` was given; into files and pipes they go unchanged.
"""

from __future__ import annotations

import contextlib
import locale
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aioremote.cli.outlet import Outlet
from aioremote.escape import Escaper, escaped, one_line

if TYPE_CHECKING:
    from aioremote.cli.interrupt import Interrupt
    from aioremote.cli.outcomes import Counts
    from aioremote.cli.streaming import Source

__all__ = ["Screen", "harmless", "is_terminal"]

_BROKEN_PIPE_STATUS = 141  # what a shell reports of a program that SIGPIPE ended
_WRITE_FAILED_STATUS = 1
_DESCRIPTORS: dict[Source, int] = {"stdout": 1, "stderr": 2}
_LAST_SECONDS = 0.5  # for what waits after an interruption


class Screen:
    """Both streams, as ``async with`` block: leaving it waits until everything is written.

    Args:
        interrupt: stopped where standard output cannot be written to any more.
        raw: whether a terminal gets far bytes as they are.
    """

    def __init__(self, interrupt: Interrupt, *, raw: bool = False) -> None:
        self._interrupt = interrupt
        self._outlets: dict[Source, Outlet] = {
            "stdout": Outlet(1, self._failed),
            "stderr": Outlet(2, lambda error: None),
        }
        self._escapes = {source: not raw and is_terminal(number) for source, number in _DESCRIPTORS.items()}
        self._encoding = locale.getpreferredencoding(do_setlocale=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.settle()
        seconds = None if self._interrupt.status is None else _LAST_SECONDS
        for outlet in self._outlets.values():
            await outlet.drain(seconds)

    def _failed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            self._interrupt.stop(_BROKEN_PIPE_STATUS)
        else:
            self._interrupt.stop(_WRITE_FAILED_STATUS, f"cannot write the output: {error.strerror}")

    # what is written

    def escapes(self, source: Source) -> bool:
        """Whether far bytes are escaped on this stream."""
        return self._escapes[source]

    def write(self, source: Source, data: bytes) -> None:
        """Write bytes as they are."""
        self._outlets[source].put(data)

    def text(self, source: Source, text: str) -> None:
        """Write text; characters that the locale does not have are written out."""
        self.write(source, text.encode(self._encoding, "backslashreplace"))

    def lines(self, host: str, source: Source, lines: Sequence[bytes]) -> None:
        """Write whole lines of one host, each behind its name."""
        if self.escapes(source):
            prefix = escaped(host)
            self.text(source, "".join(f"{prefix}: {harmless(line)}\n" for line in lines))
        else:
            head = host.encode("utf-8", "surrogateescape") + b": "
            self.write(source, b"".join(head + line + b"\n" for line in lines))

    def note(self, text: str) -> None:
        """Write a line of our own on standard error."""
        self.text("stderr", f"aioremote: {one_line(text)}\n")

    # what waits

    @property
    def full(self) -> bool:
        """Whether the hosts should be held back."""
        return any(outlet.full for outlet in self._outlets.values())

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once when the fullest stream has room again."""
        full = [outlet for outlet in self._outlets.values() if outlet.full]
        (full or [self._outlets["stdout"]])[0].when_room(callback)

    # for what is more than lines

    def show(self, counts: Counts) -> None:
        """Take note of how far it has come; shown where there is a live display."""

    def settle(self) -> None:
        """End the live display, where there is one; what is written afterwards stands below everything else."""


def is_terminal(descriptor: int) -> bool:
    """Whether a descriptor is one; a closed one is none."""
    with contextlib.suppress(OSError):
        return os.isatty(descriptor)
    return False


def harmless(line: bytes) -> str:
    """Return one line as text that moves nothing on a terminal."""
    escaper = Escaper()
    return escaper.feed(line) + escaper.finish()
