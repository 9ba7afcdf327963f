"""A real OpenSSH server for tests: own keys, own configuration, own port, gone at the end.

    async with Sshd() as server:
        host_keys = HostKeys.strict(server.known_hosts)
        async with SshMachine(server.host, port=server.port, keyfile=server.keyfile, host_keys=host_keys) as machine:
            ...

It runs as the user who runs the tests; logins as other users need root, and `create_user` makes such users. Linux, with
openssh-server installed; nothing of the machine's own sshd or of ``~/.ssh`` is read or changed. It goes away with the
test process, even if that is killed. Not for anything but tests: it listens on loopback, but accepts root.

Source: sshd(8), sshd_config(5).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from aioremote.testing._guard import Guard
from aioremote.testing._log import ServerLog
from aioremote.testing._ports import bind_all
from aioremote.testing._processes import descendants, end_processes, list_processes, marked
from aioremote.testing._sshd_files import ServerFiles, default_limits, sshd_program
from aioremote.testing._threads import Service, run_in_thread
from aioremote.testing._users import SEARCH_PATH, MissingToolError, TestUser, create_user, set_password

__all__ = ["MissingToolError", "Sshd", "SshdError", "TestUser", "create_user", "set_password"]

PRIVILEGE_DIRECTORY = Path("/run/sshd")  # OpenSSH as Debian builds it; root's sshd refuses to start without it
PORT_ATTEMPTS = 10
START_SECONDS = 10.0
GRACE_SECONDS = 2.0
MARK = "AIOREMOTE_TEST_SSHD"
TAKEN = "Address already in use"


class SshdError(RuntimeError):
    """sshd did not start; the message holds what it said."""


class Sshd(Service):
    """A real sshd, as ``async with`` or ``with`` block; no loop is tied to it, so a fixture of any scope may hold it.

    Args:
        listen: Loopback addresses (``127.0.0.x``), all on one free port. Empty: no port, only `inetd_socket` and
            `proxy_command`.
        extra_config: Lines of sshd_config(5); they win over this class's own. ``Match`` blocks are put last.
        max_sessions: Sessions per connection; None leaves OpenSSH's default (10).
        max_startups: Unauthenticated connections, as in ``"10:30:100"``; None leaves that default.
        password_authentication: Whether logins by password are offered; see `set_password`.
        host_key_types: Of ``ed25519``, ``ecdsa``, ``rsa``; the first gives `host_key_fingerprint`.
        environment: Variables of every session, values without quotes and newlines. ``SHLVL=5`` is always set: it keeps
            root's bash from sourcing ``~/.bashrc`` for every command.

    Raises:
        MissingToolError: at the start: sshd or ssh-keygen is missing, or ``/run/sshd`` cannot be made.
        SshdError: at the start: sshd refused its configuration, or no port was free.
    """

    def __init__(
        self,
        *,
        listen: Sequence[str] = ("127.0.0.1",),
        extra_config: str = "",
        max_sessions: int | None = None,
        max_startups: str | int | None = None,
        password_authentication: bool = False,
        host_key_types: Sequence[str] = ("ed25519",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not host_key_types:
            raise ValueError("host_key_types is empty: a server needs a host key")
        self.addresses: tuple[str, ...] = tuple(listen)
        self._extra_config = extra_config
        self._limits: dict[str, str | int | None] = {"MaxSessions": max_sessions, "MaxStartups": max_startups}
        self._password = password_authentication
        self._key_types = tuple(host_key_types)
        self._environment = {"SHLVL": "5"} | dict(environment or {})
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        self._log = ServerLog()
        self._files: ServerFiles | None = None
        self._guard: Guard | None = None
        self._listener: subprocess.Popen[bytes] | None = None
        self._served: list[subprocess.Popen[bytes]] = []
        self._port: int | None = None

    # --- what a client needs ------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The first address it listens on."""
        return self.addresses[0]

    @property
    def port(self) -> int:
        """The port of every address; RuntimeError while it does not listen."""
        if self._port is None:
            raise RuntimeError("this sshd does not listen: it is not started, or was given no addresses")
        return self._port

    @property
    def directory(self) -> Path:
        """The server's own directory, everything of it below; RuntimeError while it does not run."""
        return self._running_files.directory

    @property
    def keyfile(self) -> Path:
        """A private key (ed25519, no passphrase) for every user's account; the public one is beside it (``.pub``)."""
        return self._running_files.keyfile

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file: the host keys under each address and ``localhost``, with this port and with 22."""
        return self._running_files.known_hosts

    @property
    def ssh_config(self) -> Path:
        """A configuration for the system's ``ssh -F``: port, key and known hosts, for any host name."""
        return self._running_files.ssh_config

    @property
    def host_key_fingerprint(self) -> str:
        """The first host key's fingerprint, ``SHA256:…``."""
        return self._running_files.fingerprint(self._key_types[0])

    @property
    def host_keys(self) -> dict[str, str]:
        """Every public host key by its type, as known_hosts writes it: ``{"ed25519": "ssh-ed25519 AAAA…"}``."""
        return {kind: self._running_files.public_key(kind) for kind in self._key_types}

    @property
    def proxy_command(self) -> str:
        """A command line that serves one connection on its stdin and stdout, for ssh's ``ProxyCommand``."""
        files = self._running_files
        return f"{sshd_program()} -i -E {files.proxy_log} -f {files.config}"

    def authorize(self, public_key: str) -> None:
        """Let another key open every user's account: one line as in ``id_ed25519.pub``, options in front allowed."""
        self._running_files.authorize(public_key)

    def inetd_socket(self) -> socket.socket:
        """Return a connected socket with an sshd of its own at the other end: no port, no listener.

        For ``asyncssh.connect(sock=…)`` and the like. The caller closes the socket; that sshd then ends by itself.
        """
        near, far = socket.socketpair()
        with far:
            self._served = [process for process in self._served if process.poll() is None]
            self._served.append(self._spawn("-i", far))
        return near

    # --- what a test looks at -----------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What sshd has written so far (LogLevel VERBOSE), the last 20,000 lines."""
        return self._log.text

    async def wait_for_log(self, text: str, *, timeout: float = 5.0) -> None:
        """Wait until a log line holds `text`; lines of the past count.

        Raises:
            TimeoutError: it did not come within `timeout` seconds.
        """
        log = self._log

        def said(lines: list[str]) -> bool:
            return any(text in line for line in lines)

        if not await run_in_thread(lambda: log.wait_for(said, timeout=timeout)):
            raise TimeoutError(f"sshd did not log {text!r} in {timeout:g} s; its log:\n{log.text}")

    @property
    def pid(self) -> int:
        """The listening process; RuntimeError while there is none."""
        if self._listener is None:
            raise RuntimeError("this sshd does not listen: it is not started, or was given no addresses")
        return self._listener.pid

    def session_pids(self) -> set[int]:
        """Return what lives because of this server: its processes for connections, and what commands run or left."""
        own, alive = self._own_pids(), list_processes()
        return (descendants(own, alive) | marked(self._mark, alive)) - own

    # --- start and stop -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it listens. Blocks for some 50 ms; after a failure `stop` is still due."""
        _make_privilege_directory(sshd_program())
        self._files = ServerFiles(self._key_types)
        self._guard = Guard(self._files.directory, self._mark, SEARCH_PATH)
        self._files.make_keys()
        if not self.addresses:
            self._configure(self._files, None)
            return
        for _ in range(PORT_ATTEMPTS):
            with contextlib.ExitStack() as reservation:
                held = [reservation.enter_context(bound) for bound in bind_all(self.addresses)]
                port = held[0].getsockname()[1]
                self._configure(self._files, port)
                if self._listen(port):
                    self._port = port
                    return
        raise SshdError(f"no port was free on {self.addresses} in {PORT_ATTEMPTS} attempts; sshd said:\n{self.log}")

    def stop(self) -> None:
        """End the server, its connections and every command (TERM, KILL after 2 s), and remove its files. Blocks."""
        try:
            end_processes(lambda: self.session_pids() | self._own_pids(), grace_seconds=GRACE_SECONDS)
            self._log.join(GRACE_SECONDS)
        finally:
            self._own_pids()  # reaps them
            self._listener, self._served, self._port = None, [], None
            files, self._files = self._files, None
            guard, self._guard = self._guard, None
            if files is not None:
                files.remove()
            if guard is not None:
                guard.release()

    @property
    def _running_files(self) -> ServerFiles:
        if self._files is None:
            raise RuntimeError("this sshd does not run")
        return self._files

    def _own_pids(self) -> set[int]:
        processes = self._served if self._listener is None else [self._listener, *self._served]
        return {process.pid for process in processes if process.poll() is None}

    def _configure(self, files: ServerFiles, port: int | None) -> None:
        mark, _, value = self._mark.partition("=")
        files.write(
            hosts=self.addresses,
            port=port,
            extra=self._extra_config,
            limits=default_limits() | self._limits,
            password=self._password,
            environment=self._environment | {mark: value},
        )

    def _listen(self, port: int) -> bool:
        """Start the listener; False when somebody took the port meanwhile."""
        self._log = ServerLog()
        self._listener = self._spawn("-D", None)

        def decided(lines: list[str]) -> bool:
            listening = sum(f" port {port}." in line for line in lines if line.startswith("Server listening on "))
            return listening == len(self.addresses) or any(TAKEN in line for line in lines)

        if self._log.wait_for(decided, timeout=START_SECONDS) and TAKEN not in self.log:
            return True
        taken = TAKEN in self.log
        end_processes(self._own_pids, grace_seconds=GRACE_SECONDS)
        if not taken:
            raise SshdError(f"sshd did not start; it said:\n{self.log}")
        return False

    def _spawn(self, mode: str, channel: socket.socket | None) -> subprocess.Popen[bytes]:
        stream = subprocess.DEVNULL if channel is None else channel.fileno()
        reader, writer = os.pipe()
        name, _, value = self._mark.partition("=")
        try:
            process = subprocess.Popen(
                [sshd_program(), mode, "-e", "-f", str(self._running_files.config)],
                stdin=stream,
                stdout=stream,
                stderr=writer,
                env={"PATH": SEARCH_PATH, name: value},
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._log.follow(reader)
        return process


def _make_privilege_directory(program: str) -> None:
    if os.geteuid() != 0 or PRIVILEGE_DIRECTORY.is_dir():
        return  # only root's sshd wants it
    try:
        PRIVILEGE_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise MissingToolError(f"{program} needs {PRIVILEGE_DIRECTORY}, which cannot be made: {error}") from error
