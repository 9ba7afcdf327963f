r"""Getting one program through sudo: what sudo says is told from what the program says, in any language.

The program is started by a small /bin/sh script, as the target user. Before it becomes the program it prints a mark on
standard error and announces its process id on standard output, both behind a nonce. Whatever comes before is sudo's and
kept from the program's output; an end without them means that sudo did not let us through. sudo is given a prompt with
the nonce in it, and a password is written only after that prompt was seen, so never into a program's input.

The environment travels on standard input, in one line before the program's own input: in the argv of sudo, which stays
as long as the program does, ``ps`` and sudo's log would show it to everybody.

Source: sudo(8), options -n, -S, -p (``%p`` is the user whose password is asked for).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteReceiveStream

from aioremote._core.quoting import env_words, octal_words, program_argv
from aioremote.errors import AuthenticationError, RemoteError
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from aioremote.protocols import FarProcess, OutputStream

__all__ = ["ANSWER_SECONDS", "Entry", "Headed", "Told", "announced_argv", "sudo_spec"]

MAX_SAID_BYTES = 64 * 1024
ANSWER_SECONDS = 30.0  # for sudo to ask, refuse or let through; a wrong password alone costs some 2 s

# Group and session are sudo's own, or the program's where sudo gives it a terminal of its own. Without /proc, ps knows.
_WHERE = (
    b"aioremote_where=; { read -r aioremote_where </proc/$$/stat; } 2>/dev/null; "
    b'aioremote_where="${aioremote_where##*) }"; aioremote_where="${aioremote_where#* * }"; '
    b'case $aioremote_where in [0-9]*) ;; *) aioremote_where="$(ps -o pgid= -p $$) 0";; esac; '
)
_MARK_ON_STDERR = b"echo %se >&2; "
_MARK_ON_STDOUT = b"echo %se; "
_READ_ENV = (
    b'IFS= read -r aioremote_env || exit 125; aioremote_lc="${LC_ALL-}"; LC_ALL=C; '
    b'eval "set -- $(printf %b "$aioremote_env") \\"\\$@\\""; { LC_ALL="$aioremote_lc"; } 2>/dev/null; '
)
# A terminal would echo the line, and cuts lines at 4,095 bytes.
_QUIET = b"aioremote_tty=$(stty -g); stty -echo -icanon min 1 time 0; "
_LOUD = b'stty "$aioremote_tty"; '


def sudo_spec(spec: ProcessSpec, user: str, nonce: str, *, ask: bool) -> ProcessSpec:
    """Return what the transport underneath is asked to start.

    Args:
        spec: what is to run as `user`.
        user: the target user.
        nonce: letters and digits that nothing else prints.
        ask: whether sudo may ask for a password on standard input.

    Raises:
        ValueError: something cannot be passed; nothing was sent.
    """
    program = announced_argv(spec, nonce, where=_WHERE)
    options = (b"-S", b"-p", b"%sp<%%p>" % nonce.encode()) if ask else (b"-n",)
    argv = (b"sudo", *options, b"-u", user.encode(), b"--", *program)
    stdin = spec.stdin or ask or bool(spec.env)
    return ProcessSpec(argv, terminal=spec.terminal, stdin=stdin, guarded=spec.guarded)


def announced_argv(spec: ProcessSpec, nonce: str, *, where: bytes, first: bytes = b"") -> tuple[bytes, ...]:
    """Return the /bin/sh that marks standard error, takes the environment, announces itself and becomes the program.

    Args:
        spec: what is to run.
        nonce: as for `sudo_spec`.
        where: shell text that puts the group and the session, as "12 12", into ``aioremote_where``.
        first: shell text that runs before all else.

    Raises:
        ValueError: something cannot be passed; nothing was sent.
    """
    mark, read = nonce.encode(), b""
    if spec.env:
        read = _READ_ENV if spec.terminal is None else _QUIET + _MARK_ON_STDOUT % mark + _READ_ENV + _LOUD
    prelude = first + (b"" if spec.terminal else _MARK_ON_STDERR % mark) + read + where
    return program_argv(spec.argv, nonce=nonce, cwd=spec.cwd, prelude=prelude, tells=b'"$aioremote_where"')


class Headed(ByteReceiveStream):
    """An output stream whose head is read here; what follows belongs to whoever has it afterwards."""

    def __init__(self, inner: OutputStream) -> None:
        self._inner = inner
        self._held = bytearray()
        self._said = bytearray()

    async def find(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Return the next place where `pattern` is found, None where the stream ends without; what is before is `said`.

        Raises:
            ConnectionLost: the link ended first.

        Cancellation: nothing is lost; it may be called again.
        """
        while (found := pattern.search(bytes(self._held))) is None:
            try:
                self._held += await self._inner.receive()
            except anyio.EndOfStream:
                self._say(len(self._held))
                return None
            if len(self._held) > 2 * MAX_SAID_BYTES:
                self._say(MAX_SAID_BYTES)
        self._say(found.start())
        self._take(found.end() - found.start())
        return found

    @property
    def head(self) -> bytes:
        """What was read and belongs to nobody."""
        return bytes(self._said + self._held)

    def _say(self, count: int) -> None:
        self._said += self._take(count)
        del self._said[:-MAX_SAID_BYTES]

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return self._take(max_bytes) if self._held else await self._inner.receive(max_bytes)

    def divert(self, sink: Callable[[bytes], None], on_end: Callable[[], None] | None = None) -> None:
        if self._held:
            sink(self._take(len(self._held)))
        self._inner.divert(sink, on_end)

    def raise_limit(self, max_bytes: int) -> None:
        self._inner.raise_limit(max_bytes)

    def set_hold(self, held: bool) -> None:  # noqa: FBT001  # its only argument
        self._inner.set_hold(held)

    async def aclose(self) -> None:
        self._held.clear()
        await self._inner.aclose()


@dataclass(frozen=True, slots=True)
class Told:
    """What the program's own shell has announced.

    Attributes:
        pid: the program's process id; 0 where its directory could not be entered.
        group: its process group; another than `pid` where it shares sudo's.
        session: its session, 0 where that is not known.
        refusal: "ENOENT", "ENOTDIR" or "EACCES" for the directory, "ENOTTY" where there should be a terminal.
    """

    pid: int
    group: int
    session: int
    refusal: str = ""


class Entry:
    """One run of sudo until the program speaks.

    Attributes:
        stdout: where the program's own output will come.
        stderr: the same; None on a terminal.
        prompts: how often sudo has asked for a password.
        told: the announcement once it has come.
    """

    def __init__(self, process: FarProcess, spec: ProcessSpec, nonce: str, host: str) -> None:
        self.process = process
        self.stdout: Headed = Headed(process.stdout)
        self.stderr: Headed | None = None if process.stderr is None else Headed(process.stderr)
        self.prompts: int = 0
        self.told: Told | None = None
        self._spec = spec
        self._host = host
        self._marked = self.stderr is None and not spec.env
        mark = nonce.encode()
        self._asked = re.compile(mark + rb"(?:(e)\r*\n|p<([^<>\r\n]*)>)")
        self._announced = re.compile(
            mark
            + rb"(?:p<([^<>\r\n]*)>| ([0-9]+) +([0-9]+) +([0-9]+)[^\r\n]*\r*\n| (ENOENT|ENOTDIR|EACCES|ENOTTY)\r*\n)"
        )

    @property
    def said(self) -> str:
        """What sudo itself has said so far, as one line."""
        said = (self.stderr or self.stdout).head
        text = " ".join(said.decode("utf-8", "replace").split())[-500:]
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    async def proceed(self) -> Told | str | None:
        """Wait for what comes next.

        Returns:
            The announcement; or the user whose password sudo asks for; or None where sudo has ended without either.

        Raises:
            AuthenticationError: sudo says nothing that is understood.
            ConnectionLost: the link ended.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._next()
        except TimeoutError as error:
            raise self._late(f": {self.said}" if self.said else "") from error

    def _late(self, said: str) -> RemoteError:
        text = f"{self._host}: sudo neither asked for a password nor ran the program in {ANSWER_SECONDS:g} s{said}"
        return AuthenticationError(text, host=self._host)

    async def _next(self) -> Told | str | None:
        if not self._marked:
            found = await (self.stderr or self.stdout).find(self._asked)
            if found is None:
                return None
            if found[1] is None:
                return self._prompt(found[2])
            self._marked = True
            await self._send_env()
        found = await self.stdout.find(self._announced)
        if found is None:
            return None
        if found[1] is not None:
            return self._prompt(found[1])
        numbers = (0, 0, 0) if found[5] else (int(found[2]), int(found[3]), int(found[4]))
        self.told = Told(*numbers, (found[5] or b"").decode())
        return self.told

    def _prompt(self, user: bytes) -> str:
        self.prompts += 1
        return user.decode("utf-8", "replace")

    async def _send_env(self) -> None:
        if self._spec.env:
            await self.send(octal_words(env_words(self._spec.env)))

    async def send(self, line: bytes) -> None:
        """Write one line for sudo or the script; an end meanwhile is seen by `proceed`."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send(line + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def close_unused_input(self) -> None:
        """End the program's input where it is to have none, and it was open for sudo or the environment."""
        if not self._spec.stdin and self.process.stdin is not None:
            await self.process.stdin.aclose()
