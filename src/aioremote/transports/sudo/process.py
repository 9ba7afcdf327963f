"""A program that runs as another user: the far process underneath is sudo, and signals go by the guard of that user."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aioremote.errors import ClosedError, RemoteError
from aioremote.protocols import FarProcess, OutputStream
from aioremote.types import ExitStatus

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

    from aioremote.transports.sudo.entry import Entry, Told
    from aioremote.transports.sudo.transport import EnteredTransport

__all__ = ["SudoProcess"]

GUARD_AFTER_SECONDS = 1.0  # a command that has run so long is told to the guard, which is opened for that
GUARD_OPEN_AFTER_SECONDS = 0.1  # the same where it is open
DRAIN_SECONDS = 0.5  # for sudo to end after its program


class SudoProcess(FarProcess):
    """What sudo let through."""

    def __init__(self, owner: EnteredTransport, entry: Entry, told: Told, *, stdin: bool, guarded: bool) -> None:
        self.stdin: ByteSendStream | None = entry.process.stdin if stdin else None
        self.stdout: OutputStream = entry.stdout
        self.stderr: OutputStream | None = entry.stderr
        self.pid: int | None = told.pid
        self._owner = owner
        self._sudo = entry.process
        self._told = told
        self._ending: asyncio.Task[None] | None = None
        self._guarded = False
        after = GUARD_OPEN_AFTER_SECONDS if owner.guard.state == "open" else GUARD_AFTER_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        if guarded:
            self._timer = asyncio.get_running_loop().call_later(after, self._register)

    @property
    def status(self) -> ExitStatus | None:  # type: ignore[override]  # read only here
        """How it ended, None while it runs or when the link was lost."""
        return self._sudo.status

    @property
    def output_held(self) -> bool:  # type: ignore[override]
        """Whether it has ended while another process still held its output open."""
        return self._sudo.output_held

    @property
    def escaped(self) -> tuple[int, ...]:  # type: ignore[override]
        """What had left the session of the tree that was ended."""
        return self._sudo.escaped

    @property
    def noise(self) -> bytes:  # type: ignore[override]
        """What login files printed before sudo began."""
        return self._sudo.noise

    def _groups(self) -> list[int]:
        """Return the process group to end, and that of its session where sudo gave it one of its own."""
        told = self._told
        others = told.session not in (0, told.group)
        return [told.group, told.session] if others else [told.group]

    def register_now(self) -> None:
        """Tell the guard, which has just opened, of this command."""
        if self._timer is not None:
            self._timer.cancel()
            self._register()

    def _register(self) -> None:
        self._timer = None
        if self.status is None and self._ending is None:
            self._guarded = True
            for group in self._groups():
                self._owner.guard.add(group)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._guarded:
            self._guarded = False
            for group in self._groups():
                self._owner.guard.remove(group)

    async def started(self) -> None:
        return

    async def wait(self) -> ExitStatus:
        try:
            status = await self._sudo.wait()
        except RemoteError:
            self.end()  # what led to it is lost; by another way it may be reached
            raise
        self._forget()
        self._owner.forget(self)
        if self._ending is not None and self._owner.closed:
            host = self._owner.host
            raise ClosedError(f"{host}: the machine was closed while the command ran", host=host)
        return status

    def send_signal(self, name: str) -> None:
        if self.status is not None:
            return
        told, name = self._told, name.removeprefix("SIG")
        if told.group == told.pid:
            self._owner.guard.signal(told.group, name)
        else:  # the group's leader is sudo, which would pass it on once more
            self._owner.guard.signal_others(told.group, name, told.pid)

    def end(self) -> None:
        if self._ending is None and self.status is None:
            self._ending = self._owner.spawn(self._end_tree(), f"end of {self.pid}")

    async def _end_tree(self) -> None:
        self._forget()
        group, *session = self._groups()
        await self._owner.guard.end(group)
        with suppress(TimeoutError, RemoteError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._sudo.wait()
        for number in session:  # after sudo, which is in it
            await self._owner.guard.end(number)
        self._sudo.end()
        self._owner.forget(self)

    def resize(self, columns: int, rows: int) -> None:
        self._sudo.resize(columns, rows)

    async def aclose(self) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                await stream.aclose()
        self.end()
        try:
            if self._ending is not None:
                await asyncio.wait({self._ending})
        finally:
            self._forget()
            await self._sudo.aclose()
            self._owner.forget(self)
