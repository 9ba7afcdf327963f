"""Inside what a command enters: a container, another root, another environment. Around any transport.

Every program is started as ``prefix + [/bin/sh, -c, ...]``. That shell announces its process id behind a nonce, as it
is seen inside, and becomes the program; a guard that was started in the same way ends programs from inside, since
ending ``docker exec`` does not end what it started. Nothing but /bin/sh is needed there. Not for choosing an outpost
(`command`).
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from aioremote._core.quoting import shell_line
from aioremote.errors import ConnectError, UnsupportedError
from aioremote.transports.sudo.door import Door
from aioremote.transports.sudo.entry import ANSWER_SECONDS, Entry, Told, announced_argv
from aioremote.transports.sudo.transport import SILENCE_SECONDS, EnteredTransport
from aioremote.types import Address, Capability, Endpoint, ProcessSpec

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.errors import RemoteError
    from aioremote.protocols import FarProcess, Transport

__all__ = ["Joins", "WithinTransport", "check_prefix", "shown_prefix"]

Joins = Literal["exec", "shell"]

_CAPABILITIES = frozenset({Capability.COMMANDS, Capability.TERMINAL, Capability.SIGNALS, Capability.TREE_KILL})
# Words whose values may be secrets.
_VARIABLE = re.compile(
    r"^((?:--env=|-e)?[A-Za-z_][A-Za-z0-9_]*=|--[a-z-]*(?:password|token|secret)[a-z-]*=).+", re.DOTALL
)

# Without /proc and ps inside, the program counts as the leader of its group: commands that enter somewhere start it so.
_WHERE = (
    b"aioremote_where=; { read -r aioremote_where </proc/$$/stat; } 2>/dev/null; "
    b'aioremote_where="${aioremote_where##*) }"; aioremote_where="${aioremote_where#* * }"; '
    b'case $aioremote_where in [0-9]*) ;; *) aioremote_where="$(ps -o pgid= -p $$ 2>/dev/null) 0";; esac; '
    b'case $aioremote_where in *[0-9]*" 0"|[0-9]*) ;; *) aioremote_where="$$ 0";; esac; '
)
# Not every command that enters passes a terminal on.
_ON_TERMINAL = b"[ -t 0 ] || { echo %se; echo %s ENOTTY; exit 0; }; "


def check_prefix(prefix: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a prefix.

    Raises:
        ValueError: no words, or what cannot be passed.
        TypeError: a str, which is no list of words.
    """
    if isinstance(prefix, str | bytes) or not all(isinstance(cast(object, word), str) for word in prefix):
        raise TypeError(f'prefix={prefix!r}: give a list of words, such as ["docker", "exec", "-i", "web"]')
    words = tuple(prefix)
    shell_line(words)
    return words


def shown_prefix(prefix: Sequence[str]) -> str:
    """Return a prefix as a shell would want it typed, without the values of variables in it."""
    return shlex.join(_VARIABLE.sub(r"\1...", word) for word in prefix)


class WithinTransport(EnteredTransport):
    """What a command enters on the host behind another transport, which stays its owner's to close.

    Args:
        inner: where the command runs.
        prefix: the command's words, ``("docker", "exec", "-i", "web")``. It has to pass standard input on.
        joins: "exec" appends the far argv, "shell" one line of shell syntax, for a command that feeds a shell.
        address: its own.
        silence: seconds without a heartbeat after which the guard takes the link for lost.
    """

    def __init__(
        self,
        inner: Transport,
        prefix: Sequence[str],
        *,
        joins: Joins = "exec",
        address: Address,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._prefix = check_prefix(prefix)
        if joins not in ("exec", "shell"):
            raise ValueError(f'joins={joins!r}: give "exec" or "shell"')
        self._joins: Joins = joins
        capabilities = (_CAPABILITIES & inner.capabilities) | {Capability.FILES}
        whose = f"within {shown_prefix(prefix)}"
        super().__init__(inner, address=address, capabilities=capabilities, whose=whose, silence=silence)
        self.host: str = shown_prefix(prefix) if inner.address.scheme == "local" else self.host

    def _make_door(self) -> Door:
        return _PrefixDoor(self, self._inner, self._prefix, self._joins)

    async def open_connection(self, target: Endpoint) -> ByteStream:
        raise self._unsupported("connections")

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        raise self._unsupported("listeners")

    def _unsupported(self, what: str) -> UnsupportedError:
        text = f"{self.host}: there are no {what} {self._whose}"
        return UnsupportedError(text, host=self.host)


class _PrefixEntry(Entry):
    """One run of the prefix until the program speaks."""

    def _late(self, said: str) -> RemoteError:
        text = f"{self._host}: the program has not begun after {ANSWER_SECONDS:g} s{said}"
        return ConnectError(text, host=self._host)


class _PrefixDoor(Door):
    """What a program passes on its way in: the prefix."""

    def __init__(self, owner: WithinTransport, inner: Transport, prefix: tuple[str, ...], joins: Joins) -> None:
        super().__init__(inner, "", password=None, owner=owner.owner, end=owner.end_too_late)
        self._within = owner
        self._prefix = prefix
        self._joins = joins
        self._nonce = secrets.token_hex(8)
        self.asks = False

    async def enter(self, spec: ProcessSpec) -> tuple[Entry, Told]:
        """Start a program inside.

        Raises:
            ConnectError: the prefix ended before the program began.
            UnsupportedError: there is no terminal inside.
            FileError: the directory cannot be entered; nothing ran.
            ConnectionLost: the link ended.
        """
        self._host = self._within.host
        return await self._try(spec, ask=False)

    def _outer(self, spec: ProcessSpec, *, ask: bool) -> ProcessSpec:
        mark = self._nonce.encode()
        first = b"" if spec.terminal is None else _ON_TERMINAL % (mark, mark)
        program = announced_argv(spec, self._nonce, where=_WHERE, first=first)
        if self._joins == "shell":
            program = (shell_line(program),)
        argv = (*map(os.fsencode, self._prefix), *program)
        return replace(spec, argv=argv, cwd=None, env={}, stdin=spec.stdin or bool(spec.env))

    def _entry(self, process: FarProcess, spec: ProcessSpec) -> Entry:
        return _PrefixEntry(process, spec, self._nonce, self._within.host)

    async def _pass(self, entry: Entry) -> Told:
        told = await entry.proceed()
        if isinstance(told, Told):
            if told.refusal == "ENOTTY":
                text = f"{self._host}: {self._named}passes no terminal on; leave out pty="
                raise UnsupportedError(text, host=self._host)
            return told
        status = await entry.process.wait()
        if status.returncode == 127 and not entry.said:
            raise self._no_sudo()
        how = f"by SIG{status.signal}" if status.signal else f"with status {status.returncode}"
        said = f": {entry.said}" if entry.said else ""
        text = f"{self._host}: {self._named}ended {how} before the program began{said}"
        raise ConnectError(text, host=self._host)

    @property
    def _named(self) -> str:
        """The prefix, where the host's name does not say it already."""
        shown = shown_prefix(self._prefix)
        return "" if shown == self._host else f"{shown} "

    def _no_sudo(self) -> RemoteError:
        return ConnectError(f"{self._host}: there is no program {self._prefix[0]!r}", host=self._host)
