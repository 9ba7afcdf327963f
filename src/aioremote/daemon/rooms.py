"""Sessions by name: a process each, which clients with the same key share. Not for what it does (`outpost.far.shared`).

An outpost asks over its door, a socket whose other end is here, and hands over what the session speaks to it by.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote.outpost.far.guests import GUEST_ENDED, GUEST_IN, GUEST_REFUSED
from aioremote.outpost.far.shared import ACTIVE, RELEASED

__all__ = ["Door", "Rooms"]

MAX_ORDER = 65536
DESCRIPTORS = 4
GRACE_SECONDS = 0.5  # for a call whose client has gone, before its session is killed
END_SECONDS = 2.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

Start = Callable[[socket.socket, int], Awaitable[asyncio.subprocess.Process]]
"""Starts the process of a session, given its end of the socket and the file that tells whose call runs."""


class Rooms:
    """All sessions of a daemon.

    Args:
        start: starts a process.
        most: sessions of one scope at once.
        idle_seconds: after which a session that nobody has joined ends.
    """

    def __init__(self, start: Start, most: int, idle_seconds: float) -> None:
        self._start = start
        self._most = most
        self._idle_seconds = idle_seconds
        self._rooms: dict[tuple[str, str], _Room] = {}
        self._owner = Owner("sessions by name")

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, scope: str, order: bytes, descriptors: list[int]) -> None:
        """Let an outpost's channel in, or tell it why not."""
        asked = json.loads(order)
        name = str(asked["name"])
        place = socket.socket(fileno=descriptors[0])
        try:
            room = self._rooms.get((scope, name)) or self._made(scope, name)
            room.enter(place, asked["packages"], descriptors)
        except (BlockingIOError, ValueError) as error:
            with suppress(OSError):
                place.send(GUEST_REFUSED + str(error).encode())
            place.close()
        finally:
            for fd in descriptors[1:]:
                os.close(fd)

    def _made(self, scope: str, name: str) -> _Room:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a session: 1 to 64 letters, digits, and . _ -")
        if sum(one == scope for one, _ in self._rooms) >= self._most:
            raise ValueError(f"{self._most} sessions by name are open, the most allowed: close one, or use its name")
        room = self._rooms[scope, name] = _Room(self._idle_seconds, lambda: self._forget(scope, name, room))
        self._owner.spawn(room.live(self._start), f"session {name}")
        return room

    def _forget(self, scope: str, name: str, room: _Room) -> None:
        if self._rooms.get((scope, name)) is room:
            del self._rooms[scope, name]

    async def aclose(self) -> None:
        """End all sessions."""
        await self._owner.aclose()


class _Room:
    """One session and its guests."""

    def __init__(self, idle_seconds: float, on_end: Callable[[], None]) -> None:
        self._idle_seconds = idle_seconds
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._near.setblocking(False)
        self._active = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed in `live`
        self._active.write(ACTIVE.pack(0))
        self._last = 0
        self._guests: dict[int, socket.socket] = {}
        self._early: list[int] = []  # guests that wait for the process
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def live(self, start: Start) -> None:
        """Start the process, wait for its end, and tell all guests of it."""
        status = 0
        try:
            process = self._process = await start(self._far, self._active.fileno())
            self._far.close()
            self._loop.add_reader(self._near, self._on_news)
            for number in self._early:
                self._welcome(number)
            returncode = await process.wait()
            status = -returncode if returncode < 0 else returncode << 8
        finally:
            self._on_end()
            self.kill()
            self._loop.remove_reader(self._near)
            if self._idle is not None:
                self._idle.cancel()
            for number in list(self._guests):
                self._release(number, status)
            for held in (self._near, self._far, self._active):
                held.close()
            if self._process is not None:
                await bounded_cleanup(self._process.wait(), END_SECONDS)

    def enter(self, place: socket.socket, packages: list[str], descriptors: list[int]) -> None:
        """Hand a guest to the process, which reads that when it has no call to run."""
        number = self._last + 1
        order = json.dumps({"number": number, "packages": packages}).encode()
        try:
            socket.send_fds(self._near, [order], descriptors)
        except BlockingIOError as error:
            raise BlockingIOError("too many wait for a place in it: try later") from error
        except OSError as error:
            raise ValueError("it has just ended: try again") from error
        if self._idle is not None:
            self._idle.cancel()
        self._last, self._guests[number] = number, place
        self._loop.add_reader(place, self._on_left, number)
        if self._process is None:
            self._early.append(number)
        else:
            self._welcome(number)

    def _welcome(self, number: int) -> None:
        assert self._process is not None
        if number in self._guests:
            with suppress(OSError):
                self._guests[number].send(GUEST_IN + b"%d" % self._process.pid)

    def _on_news(self) -> None:
        try:
            data = self._near.recv(MAX_ORDER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if len(data) == RELEASED.size:
            self._release(RELEASED.unpack(data)[0], 0)
        elif not data:
            self._loop.remove_reader(self._near)

    def _on_left(self, number: int) -> None:
        """A guest is gone: it is out at once, unless its call has to be interrupted first."""
        self._loop.remove_reader(self._guests[number])
        if self._runs(number):
            self._loop.call_later(GRACE_SECONDS, self._kill_for, number)
        else:
            self._release(number, 0)

    def _runs(self, number: int) -> bool:
        return ACTIVE.pack(number) == os.pread(self._active.fileno(), ACTIVE.size, 0)

    def _kill_for(self, number: int) -> None:
        if number in self._guests:
            self.kill()

    def _release(self, number: int, status: int) -> None:
        place = self._guests.pop(number, None)
        if place is None:
            return
        self._loop.remove_reader(place)
        with suppress(OSError):
            place.send(GUEST_ENDED + b"%d" % status)
        place.close()
        if not self._guests:
            self._idle = self._loop.call_later(self._idle_seconds, self._expire)

    def _expire(self) -> None:
        self._on_end()
        self.kill()

    def kill(self) -> None:
        """End the process with all that it has started."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Door:
    """What one outpost asks by; `far` is its end."""

    def __init__(self, rooms: Rooms, scope: str) -> None:
        self._rooms = rooms
        self._scope = scope
        self.far: socket.socket
        self._near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._near.setblocking(False)
        self.far.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._near, self._on_asked)

    def _on_asked(self) -> None:
        try:
            order, descriptors, _, _ = socket.recv_fds(self._near, MAX_ORDER, DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            order, descriptors = b"", []
        if len(descriptors) == DESCRIPTORS:
            self._rooms.enter(self._scope, order, descriptors)
        elif not order:
            self._loop.remove_reader(self._near)

    def close(self) -> None:
        """Close both ends."""
        self._loop.remove_reader(self._near)
        self._near.close()
        self.far.close()
