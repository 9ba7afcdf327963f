"""Past sudo: which way it lets the login through, what it is answered, and what becomes of those who stay outside."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from aioremote._core.lifetime import settle
from aioremote.errors import AuthenticationError, CommandNotFound, RemoteError, UnsupportedError, file_error
from aioremote.protocols import PasswordRequest
from aioremote.transports.passwords import AskOnce
from aioremote.transports.sudo.entry import Entry, Told, sudo_spec

if TYPE_CHECKING:
    from aioremote._core.lifetime import Owner
    from aioremote.protocols import FarProcess, PasswordProvider, Transport
    from aioremote.types import ProcessSpec

__all__ = ["ORDER_SECONDS", "Door", "Refused"]

CANCEL_SECONDS = 2.0
ORDER_SECONDS = 1.0  # for an order on its way when its caller is cancelled


class Refused(Exception):
    """sudo has ended without letting us through; holds what it said."""


class Door:
    """What one login has to pass to become one user.

    Args:
        inner: how the host is reached.
        user: the target user.
        password: None where sudo asks for none.
        owner: of what goes on when a caller is cancelled.
        end: ends a program that was let through too late.

    Attributes:
        asks: whether sudo may ask for a password; None until something has been let through.
    """

    def __init__(
        self,
        inner: Transport,
        user: str,
        *,
        password: str | PasswordProvider | None,
        owner: Owner,
        end: Callable[[Entry, Told], Awaitable[None]],
    ) -> None:
        self.asks: bool | None = None
        self._inner = inner
        self._user = user
        self._login = inner.address.user or "the login"
        self._host = inner.address.host or "localhost"
        self._passwords = _source(password)
        self._wrong_password = False
        self._nonce = secrets.token_hex(8)
        self._owner = owner
        self._end = end

    async def enter(self, spec: ProcessSpec) -> tuple[Entry, Told]:
        """Start a program through sudo, asking for a password only where that has to be.

        Raises:
            AuthenticationError: sudo does not let the login through.
            UnsupportedError: there is no sudo.
            FileError: the directory cannot be entered; nothing ran.
            ConnectionLost: the link ended.
        """
        if not self.asks:
            try:
                found = await self._try(spec, ask=False)
            except Refused as refused:
                if self._passwords is None:
                    raise self._not_let_through(str(refused), "give password=") from None
            else:
                self.asks = False
                return found
        try:
            found = await self._try(spec, ask=True)
        except Refused as refused:
            raise self._not_let_through(str(refused)) from None
        self.asks = True
        return found

    async def _try(self, spec: ProcessSpec, *, ask: bool) -> tuple[Entry, Told]:
        if self._wrong_password:
            raise self._not_let_through("the password was wrong the last time, and is not sent again")
        entry = await self._order(spec, ask=ask)
        try:
            told = await self._pass(entry)
            if told.refusal:
                where = os.fsdecode(spec.cwd or b"")
                raise file_error(getattr(errno, told.refusal, errno.ENOENT), where, host=self._host)
            await entry.close_unused_input()
        except BaseException:
            await settle(self._owner.spawn(self._discard(entry), "end of what was not let through"), CANCEL_SECONDS)
            raise
        return entry, told

    def _outer(self, spec: ProcessSpec, *, ask: bool) -> ProcessSpec:
        """Return what is started underneath."""
        return sudo_spec(spec, self._user, self._nonce, ask=ask)

    def _entry(self, process: FarProcess, spec: ProcessSpec) -> Entry:
        """Return the reader of what the far side says before the program does."""
        return Entry(process, spec, self._nonce, self._host)

    async def _order(self, spec: ProcessSpec, *, ask: bool) -> Entry:
        """Start sudo. A cancel does not reach below: there nobody could end what runs as another user already."""
        ordered = self._inner.start_process(self._outer(spec, ask=ask))
        starting = self._owner.spawn(ordered, "start of sudo")
        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError:
            undoing = self._owner.spawn(self._undo(starting, spec), "end of what was being started")
            await settle(undoing, CANCEL_SECONDS)
            raise
        self._owner.failures.clear()  # told below
        try:
            return self._entry(starting.result(), spec)
        except CommandNotFound as error:
            raise self._no_sudo() from error

    async def _undo(self, starting: asyncio.Task[FarProcess], spec: ProcessSpec) -> None:
        await asyncio.wait({starting}, timeout=ORDER_SECONDS)
        starting.cancel()  # it waits for a session
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await self._discard(self._entry(starting.result(), spec))

    async def _pass(self, entry: Entry) -> Told:
        """Answer what sudo asks until the program has announced itself."""
        told = await entry.proceed()
        if isinstance(told, str):
            told = await self._answer(entry, told)
        if told is None:
            status = await entry.process.wait()
            if status.returncode == 127 and not entry.prompts:
                raise self._no_sudo()
            raise Refused(entry.said)
        return told

    async def _answer(self, entry: Entry, asked: str) -> Told | None:
        assert self._passwords is not None
        prompt = f"[sudo] password for {asked}: "
        request = PasswordRequest(host=self._host, user=asked, prompt=prompt, attempt=1)
        told: Told | str | None = asked
        async with self._passwords.trial(request) as trial:
            while isinstance(told, str):
                if entry.prompts > 1:
                    self._wrong_password = True
                password = await trial.password()
                await entry.send(password.encode())
                told = await entry.proceed()
            self._wrong_password = False
            if told is None:  # refused for another reason, or a wrong password where only one may be tried
                trial.refused()
            else:
                trial.accepted()
        return told

    async def _discard(self, entry: Entry) -> None:
        """End what was started and let through by nobody, or too late."""
        process = entry.process
        if process.stdin is not None:
            await process.stdin.aclose()  # sudo stops asking
        with suppress(RemoteError):
            told = entry.told or await entry.proceed()
            if isinstance(told, Told) and told.pid:
                await self._end(entry, told)
        await process.aclose()

    def _no_sudo(self) -> RemoteError:
        return UnsupportedError(f"{self._host}: there is no sudo", host=self._host)

    def _not_let_through(self, why: str, hint: str = "") -> AuthenticationError:
        text = f"{self._host}: sudo does not let {self._login} become {self._user}"
        text = ": ".join(part for part in (text, why) if part) + (f" ({hint})" if hint else "")
        return AuthenticationError(text, host=self._host)


def _source(password: str | PasswordProvider | None) -> AskOnce | None:
    """Return what is asked for a password: that which machines share, or one of this machine alone."""
    if password is None or isinstance(password, AskOnce):
        return password
    if not isinstance(password, str):
        return AskOnce(password)

    async def the_same(_: PasswordRequest) -> str:
        return password

    return AskOnce(the_same)
