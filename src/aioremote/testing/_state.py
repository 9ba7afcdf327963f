"""What an embedded server was told and what it has running. Knows nothing of ssh."""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import hmac
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aioremote.testing._commands import Command
from aioremote.testing._processes import descendants, end_processes, in_sessions, list_processes, marked

if TYPE_CHECKING:
    from aioremote.testing._sessions import Connection

__all__ = ["EmbeddedHost", "Faults", "ServerState", "Settings", "default_users"]

GRACE_SECONDS = 0.5
MARK = "AIOREMOTE_EMBEDDED"
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
MAX_RECORDED = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong on a host, from its next connection (or its next byte) on.

    Attributes:
        drop_after_bytes: A connection is dropped without a word when its commands have sent so many bytes (stdout and
            stderr together); at most so many arrive. None: never.
        silent: Connections are accepted and nothing is said, not even the ssh version.
        refuse_auth: No key and no password is right.
    """

    drop_after_bytes: int | None = None
    silent: bool = False
    refuse_auth: bool = False


@dataclasses.dataclass(slots=True)
class EmbeddedHost:
    """One of the hosts that a server plays.

    Attributes:
        name: Its HOSTNAME, and its name in the server's ``ssh_config``.
        host: The address it listens on.
        port: Its port.
        faults: What goes wrong on it; may be changed at any time.
        environment: Variables of its commands, beside the server's; may be changed at any time.
    """

    name: str
    host: str
    port: int
    faults: Faults
    environment: dict[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of an embedded server that its connections act by; EmbeddedServer documents them."""

    users: Mapping[str, str | None]
    shell: str
    home: Path
    environment: Mapping[str, str]
    accept_environment: Sequence[str]
    max_sessions: int
    allow_forwarding: bool
    allow_signals: bool
    kill_on_disconnect: bool
    banner: str | None


class ServerState:
    """What runs on an embedded server, and what was asked of it."""

    def __init__(self, settings: Settings, mark: str) -> None:
        self.settings = settings
        self.authorized: set[str] = set()
        self.hosts: dict[tuple[str, int], EmbeddedHost] = {}
        self.connections: set[Connection] = set()
        self.running: dict[int, Command] = {}
        self.accepted = 0
        self.requests: deque[str] = deque(maxlen=MAX_RECORDED)
        self._mark = f"{MARK}={mark}"
        self.ever_started = False

    def password_is_right(self, user: str, password: str) -> bool:
        """Compare in constant time; a user without a password has none that is right."""
        expected = self.settings.users.get(user)
        return expected is not None and hmac.compare_digest(expected.encode(), password.encode())

    def command_environment(self, host: EmbeddedHost, user: str, asked: Mapping[str, str]) -> dict[str, str]:
        """Return the whole environment of a command, as sshd builds it from nothing; `asked` passes as it stands."""
        mark, _, value = self._mark.partition("=")
        return {
            "USER": user,
            "LOGNAME": user,
            "HOME": str(self.settings.home),
            "PATH": os.environ.get("PATH", DEFAULT_PATH),
            "SHELL": self.settings.shell,
            "HOSTNAME": host.name,
            **asked,
            **self.settings.environment,
            **host.environment,
            mark: value,
        }

    def started(self, command: Command) -> None:
        """Note a command that runs."""
        self.ever_started = True
        self.running[command.pid] = command

    def end_soon(self, command: Command) -> None:
        """End a command's process group: TERM now, KILL half a second later."""
        command.send_signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(GRACE_SECONDS, command.send_signal, signal.SIGKILL)

    def end_processes(self) -> None:
        """End every process that a command started: TERM, half a second, KILL. Blocks."""
        end_processes(self._find_processes, grace_seconds=GRACE_SECONDS)

    def reap(self) -> None:
        """Collect what `end_processes` ended. Blocks for as long as a killed process takes to go."""
        for command in self.running.values():
            command.reap()
        self.running.clear()

    def _find_processes(self) -> set[int]:
        leaders, alive = set(self.running), list_processes()
        return leaders | in_sessions(leaders, alive) | descendants(leaders, alive) | marked(self._mark, alive)


def default_users() -> dict[str, str | None]:
    """Return the user who runs the tests, without a password."""
    return {getpass.getuser(): None}
