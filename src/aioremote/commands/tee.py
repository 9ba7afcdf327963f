"""Shows a command's output on the near standard output and error while it is captured as well."""

from __future__ import annotations

import asyncio
import codecs
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from aioremote._core.lifetime import Owner
from aioremote.commands.nearfiles import NearWriter

if TYPE_CHECKING:
    from aioremote.commands.orders import Order
    from aioremote.protocols import OutputStream

__all__ = ["Shown"]


class _Screen:
    """A near text stream that takes bytes; where it was closed, it takes them and shows nothing."""

    def __init__(self, target: TextIO, order: Order) -> None:
        self._target = target
        self._decoder = codecs.getincrementaldecoder(order.encoding)(order.errors)

    def writelines(self, lines: Iterable[bytes], /) -> None:
        with suppress(OSError, ValueError):
            self._target.write(self._decoder.decode(b"".join(lines)))
            self._target.flush()

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._target.write(self._decoder.decode(b"", True))
            self._target.flush()


class Shown:
    """An async context in which output is shown; leaving it waits until all is.

    Args:
        order: how text is made of output.
    """

    def __init__(self, order: Order) -> None:
        self._screens = (_Screen(sys.stdout, order), _Screen(sys.stderr, order))
        self._writers: list[NearWriter] = []
        self._owner = Owner("tee")
        self._tasks: list[asyncio.Task[None]] = []

    def sink(self, index: int, stream: OutputStream, sink: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Return a sink for the stream that shows what it passes on to `sink`."""
        writer = NearWriter(self._screens[index], "the terminal")
        writer.hold = stream.set_hold
        self._writers.append(writer)
        self._tasks.append(self._owner.spawn(writer.write(), f"output {index + 1}"))

        def take(data: bytes) -> None:
            sink(data)
            writer.put(data)

        return take

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        try:
            for writer in self._writers:
                writer.end()
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self._owner.aclose()
