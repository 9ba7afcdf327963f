"""Passwords for ssh(1), by SSH_ASKPASS: never in an argument, an environment or a file.

A script in the master's private directory passes ssh's question through one named pipe and the answer back through
another. Only the master itself is answered with the password: an ssh that it starts for a jump host is not.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from aioremote.protocols import PasswordRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioremote._core.lifetime import Owner
    from aioremote.transports.openssh.settings import OpenSshSettings

__all__ = ["Asking"]

# `read` and `printf` are part of the shell: what passes through them is in no process list.
_SCRIPT = r"""#!/bin/sh
case $0 in */*) dir=${0%/*} ;; *) exit 1 ;; esac
question=$(printf '%s' "$1" | tr '\n\r' '  ')
printf '%s %s\n' "$PPID" "$question" >"$dir/question" || exit 1
IFS= read -r answer <"$dir/answer" || exit 1
case $answer in =*) printf '%s\n' "${answer#=}" ;; *) exit 1 ;; esac
"""
_READ_BYTES = 4096


class Asking:
    """Answers what one master asks.

    Args:
        directory: the master's own, which only this user can enter.
        settings: with the password and passphrase.
        host: the machine's name, for a provider.
        user: the login, for a provider.
        owner: runs the provider.
        is_master: whether a process id is the master's.

    Attributes:
        failure: what the provider raised.
    """

    def __init__(
        self,
        directory: str,
        settings: OpenSshSettings,
        *,
        host: str,
        user: str,
        owner: Owner,
        is_master: Callable[[int], bool],
    ) -> None:
        self.failure: Exception | None = None
        self._settings = settings
        self._host = host
        self._user = user
        self._owner = owner
        self._is_master = is_master
        self._attempts = 0
        self._loop = asyncio.get_running_loop()
        self._program = f"{directory}/askpass"
        _write_program(self._program, _SCRIPT)
        self._ends: list[int] = []
        for name in ("question", "answer"):
            os.mkfifo(f"{directory}/{name}", 0o600)
            self._ends.append(os.open(f"{directory}/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        self._loop.add_reader(self._ends[0], self._read)
        self._held = b""

    def environment(self) -> dict[str, str]:
        """Return what makes ssh ask here."""
        return {"SSH_ASKPASS": self._program, "SSH_ASKPASS_REQUIRE": "force"}

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._held += os.read(self._ends[0], _READ_BYTES)
        *lines, self._held = self._held.split(b"\n")
        for line in lines:
            pid, _, question = line.partition(b" ")
            if pid.isdigit():
                self._owner.spawn(self._answer(int(pid), question.decode("utf-8", "replace")), "answer for ssh")

    async def _answer(self, pid: int, question: str) -> None:
        answer: str | None = None
        try:
            answer = await self._find(pid, question)
            if answer is not None and ("\n" in answer or "\0" in answer):
                raise ValueError("a text with a newline or NUL is no password")
        except Exception as error:  # noqa: BLE001  # a caller's function; told by whoever waits for the connect
            self.failure, answer = error, None
        if self._ends:
            os.write(self._ends[1], b"!\n" if answer is None else b"=" + answer.encode() + b"\n")

    async def _find(self, pid: int, question: str) -> str | None:
        settings = self._settings
        if "passphrase" in question.lower():
            return settings.passphrase
        if not self._is_master(pid) or settings.password is None:
            return None
        if isinstance(settings.password, str):
            return settings.password if "password" in question.lower() else None
        self._attempts += 1
        return await settings.password(
            PasswordRequest(host=self._host, user=self._user, prompt=question.strip(), attempt=self._attempts)
        )

    def close(self) -> None:
        """Answer no more."""
        ends, self._ends = self._ends, []
        if ends:
            self._loop.remove_reader(ends[0])
            for end in ends:
                os.close(end)


def _write_program(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w") as file:
        file.write(text)
