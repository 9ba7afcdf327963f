"""One password for many who want it at once: asked for once, tried by one, used by the others only where it was right.

A wrong password that fifty hosts try at once locks an account. Not for keeping passwords: they live as long as what
uses them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from aioremote.errors import AuthenticationError

if TYPE_CHECKING:
    from aioremote.protocols import PasswordProvider, PasswordRequest

__all__ = ["AskOnce", "Trial", "ask_once"]


class _Known:
    """What is known of one user's password. Has no repr: it holds the password."""

    def __init__(self) -> None:
        self.password: str | None = None
        self.wrong: set[str] = set()
        self.proven = False
        self.refusal: str = ""  # why nobody is given it any more
        self.turn: asyncio.Lock = asyncio.Lock()  # of the one who tries it


class Trial:
    """One use of a password, which ends with `accepted`, `refused`, or with nothing known."""

    def __init__(self, provider: PasswordProvider, known: _Known, request: PasswordRequest) -> None:
        self._provider = provider
        self._known = known
        self._request = request
        self._attempt = 0

    async def password(self) -> str:
        """Return what is to be sent; after a refusal what the provider says now.

        Raises:
            AuthenticationError: it was refused, and there is no other.
        """
        known, self._attempt = self._known, self._attempt + 1
        if known.refusal:
            raise AuthenticationError(f"{self._request.host}: {known.refusal}", host=self._request.host)
        if self._attempt == 1 and known.password is not None:
            return known.password
        if known.proven:  # elsewhere, and not for this host: nobody else is to suffer
            raise self._wrong()
        if known.password is not None:
            known.wrong.add(known.password)
            known.password = None
        given = await self._ask()
        if given in known.wrong:
            self.refused()
            raise self._wrong()
        known.password = given
        return given

    async def _ask(self) -> str:
        request = replace(self._request, attempt=self._attempt)
        try:
            given = await self._provider(request)
        except Exception as error:
            self._known.refusal = f"there is no password for {request.user}: asking for it failed"
            if isinstance(error, AuthenticationError):
                raise
            raise AuthenticationError(f"{request.host}: {self._known.refusal}", host=request.host) from error
        if not isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller's function
            raise TypeError(f"the password provider returned {type(given).__name__}: return a str")
        if "\n" in given or "\0" in given:
            raise ValueError("the password provider returned a text with a newline or NUL, which is no password")
        return given

    def accepted(self) -> None:
        """Say that it was right: everybody may use it at once."""
        self._known.proven = True

    def refused(self) -> None:
        """Say that it was wrong, or may have been: nobody else sends it, unless it was right elsewhere."""
        if not self._known.proven:
            request = self._request
            self._known.refusal = f"the password for {request.user} was refused on {request.host} and is not sent again"

    def _wrong(self) -> AuthenticationError:
        request = self._request
        return AuthenticationError(f"{request.host}: wrong password for {request.user}", host=request.host)


class AskOnce:
    """A password provider that asks another one once for each user, however many want to know at once."""

    def __init__(self, provider: PasswordProvider) -> None:
        self._provider = provider
        self._users: dict[str, _Known] = {}

    @asynccontextmanager
    async def trial(self, request: PasswordRequest) -> AsyncGenerator[Trial]:
        """Give the use of the password. Until it has proven right, one at a time has it; the others wait."""
        known = self._users.setdefault(request.user, _Known())
        trial = Trial(self._provider, known, request)
        async with known.turn:
            if not known.proven:
                yield trial
                return
        yield trial

    async def __call__(self, request: PasswordRequest) -> str:
        """Return the password, as any provider does, for who cannot say whether it was right."""
        known = self._users.setdefault(request.user, _Known())
        trial = Trial(self._provider, known, request)
        if request.attempt > 1:
            trial.refused()
        async with known.turn:
            return await trial.password()


def ask_once(provider: PasswordProvider) -> PasswordProvider:
    """Return a provider that asks `provider` once for each user, for a password that many machines share.

    With ``Machine.sudo`` the first machine tries what it said. The others wait, and use it only when it has proven
    right: a wrong password is sent to one host, and the others raise AuthenticationError without sending it. To ask
    again, make a new one.

    Args:
        provider: asked with the request of whoever came first. On a wrong password it is asked once more with
            ``request.attempt`` 2, and so on; the same answer again means that there is no other.
    """
    return AskOnce(provider)
