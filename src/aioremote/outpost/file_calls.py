"""Single file operations over one channel of a link: an order out, an answer back, any number under way at once."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from aioremote.errors import ChecksumMismatch, ConnectionLost, FileChanged, RemoteError, file_error
from aioremote.outpost.far.file_frames import CHANGED, DONE, ERROR, MISMATCH, Records, record
from aioremote.outpost.far.frames import cost
from aioremote.outpost.far.handlers import CANCELLED, Handler

if TYPE_CHECKING:
    from aioremote.errors import FileError
    from aioremote.outpost.link import Link

__all__ = ["FileCalls", "file_order", "named_error", "nonsense", "told_error"]

_PICKLE = 4  # Source: what Python 3.6 reads
_ERRNOS = {name: number for number, name in errno.errorcode.items()}


def file_order(name: str, path: bytes = b"", **options: object) -> bytes:
    """Return the header of a "files" channel."""
    return pickle.dumps((name, path, options), _PICKLE)


def told_error(body: bytes, host: str) -> RemoteError:
    """Return the error that a record tells."""
    kind, rest = body[:1], body[1:]
    if kind == ERROR and rest.count(b"\0") == 2:
        name, path, text = (part.decode("utf-8", "surrogateescape") for part in rest.split(b"\0"))
        return file_error(_ERRNOS.get(name, errno.EIO), path, host=host, text=text)
    if kind == MISMATCH:
        shown = rest.decode("utf-8", "surrogateescape")
        text = f"{host}: what has arrived of {shown!r} is not what was sent; the file is as it was"
        return ChecksumMismatch(text, host=host, path=shown)
    if kind == CHANGED:
        shown = rest.decode("utf-8", "surrogateescape")
        return FileChanged(f"{host}: {shown} changed while it was read; send it again", host=host, path=shown)
    return RemoteError(f"{host}: the far end's files: {rest[:4096].decode('utf-8', 'replace')}", host=host)


def named_error(name: bytes, root: bytes, path: bytes, host: str) -> FileError:
    """Return the error for a path of a tree, by errno's name."""
    number = _ERRNOS.get(name.decode("ascii", "replace"), errno.EIO)
    return file_error(number, os.fsdecode(os.path.join(root, path)), host=host)


def nonsense(host: str) -> RemoteError:
    """Return the error for bytes that no outpost sends."""
    return RemoteError(f"{host}: the far end sent what is no record of files", host=host)


class FileCalls(Handler):
    """The channel; opened with its creation.

    Args:
        link: the link to the outpost.

    Attributes:
        link: as given.
        end: why nothing can be asked any more; None while it can.

    Raises:
        ConnectionLost, ClosedError, BusyError: as from `Link.open`.
    """

    def __init__(self, link: Link) -> None:
        self.link: Link = link
        self.end: str | None = None
        self._records = Records()
        self._waiting: deque[tuple[asyncio.Future[bytes], Callable[[bytes], None] | None]] = deque()
        self._number = link.open("files", self, file_order("calls"))

    async def call(self, name: str, *args: object, undo: Callable[[bytes], None] | None = None) -> bytes:
        """Ask for one operation and return its answer.

        Args:
            name: the operation, a method of `far.file_calls.FileCalls`.
            args: what it takes, the path first.
            undo: gets an answer that nobody waits for any more.

        Raises:
            FileError: what the far system said.
            ConnectionLost: the link, or the far helper, ended first.

        Cancellation: it may have been done.
        """
        if self.end is not None:
            raise self._lost()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, undo))
        self.link.send_message(self._number, record(pickle.dumps((name, args), _PICKLE)))
        body = await future
        if body[:1] != DONE:
            raise told_error(body, self.link.host)
        return body[1:]

    def post(self, name: str, *args: object) -> None:
        """Ask for an operation whose answer nobody needs."""
        if self.end is None:
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            future.cancel()
            self._waiting.append((future, None))
            self.link.send_message(self._number, record(pickle.dumps((name, args), _PICKLE)))

    def _lost(self) -> RemoteError:
        if self.link.state != "up":
            return self.link.error()
        host = self.link.host
        return ConnectionLost(f"{host}: the far end's files: {self.end}", host=host, outcome="unknown")

    def _finish(self, why: str) -> None:
        if self.end is None:
            self.end = why
            waiting, self._waiting = self._waiting, deque()
            for future, _ in waiting:
                if not future.done():
                    future.set_exception(self._lost())

    # what the link calls

    def on_data(self, data: bytes) -> None:
        self.link.grant(self._number, cost(data))
        try:
            bodies = self._records.feed(data)
        except ValueError:
            self.link.reset(self._number, CANCELLED, "no record")
            self._finish("it sent what is no record")
            return
        for body in bodies:
            if not self._waiting:
                return
            future, undo = self._waiting.popleft()
            if not future.done():
                future.set_result(body)
            elif undo is not None and body[:1] == DONE:
                undo(body[1:])

    def on_message(self, data: bytes, more: bool) -> None:
        self.on_data(data)

    def on_eof(self) -> None:
        self.link.reset(self._number)
        self._finish("its helper process has ended")

    def on_reset(self, code: int, text: str, refused: bool) -> None:
        self._finish(text)

    def on_lost(self, text: str) -> None:
        self._finish(text)
