"""`Machine`: commands, facts and paths over any transport.

This class knows no transport; constructors for each kind are in `aioremote.machines`. It is long by its docstrings,
which are the contract; what its methods do stands in `commands`, `files`, `tunnels` and `inspection`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aioremote._core.backoff import reconnect_policy
from aioremote.commands.command import Bindable, Command
from aioremote.commands.job_start import start_job
from aioremote.commands.jobs import Job
from aioremote.commands.lines import LineStream
from aioremote.commands.lookup import find_first
from aioremote.commands.orders import DEFAULT_OUTPUT_BYTES, Argument, EnvValue, Order, make_order
from aioremote.commands.process import Starting
from aioremote.commands.running import run_order
from aioremote.commands.scopes import CwdScopes, EnvScopes, Scope, current_scope, in_folder, joined, with_variables
from aioremote.commands.session_text import boot_argv, new_mark
from aioremote.commands.sessions import Session
from aioremote.errors import CommandNotFound, TunnelPortError
from aioremote.files.machine_files import MachineFiles
from aioremote.inspection import PROCESSES_SCRIPT, ask_facts, found_processes
from aioremote.python.slot import PythonSlot
from aioremote.transports.views import close_views
from aioremote.tunnels.checks import tunnel_end
from aioremote.tunnels.tunnel import Tunnel
from aioremote.types import Address, Capability, Endpoint, Facts, ProcessInfo, Reconnect, Result, Terminal
from aioremote.views import MachineViews

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.files.path import RemotePath
    from aioremote.protocols import Transport
    from aioremote.python.interpreter import Interpreter

__all__ = ["Machine"]

_scope_keys = itertools.count()


class Machine(MachineFiles, MachineViews):
    """A host on which commands run. Cheap until it connects: with ``async with``, `connect`, or the first call.

    Many tasks may use one machine at once; those that need the connection together share one connect. A machine belongs
    to the event loop that connected it. After `aclose` every call raises ClosedError; after the link was lost,
    ConnectionLost.

    Attributes:
        transport: the transport underneath.
        host: the name as it was given.
        base: the directory and environment that hold outside of any scope.
    """

    def __init__(self, transport: Transport, *, host: str, encoding: str = "utf-8", base: Scope | None = None) -> None:
        self.transport = transport
        self.host = host
        self.encoding = encoding
        self.base: Scope = Scope() if base is None else replace(base, outer=None)
        self.scope_key: int = next(_scope_keys)
        self._facts: Facts | None = None
        self._asking: asyncio.Lock | None = None
        self._python = PythonSlot(transport, host)
        self._interpreter: Interpreter | None = None

    @property
    def python(self) -> Interpreter:
        """The far Python: ``await m.python.call(function, 1)``. It starts with the first call, in the task's scopes."""
        if self._interpreter is None:
            self._interpreter = self._python.interpreter(lambda: current_scope(self).place())
        return self._interpreter

    @property
    def cwd(self) -> CwdScopes:
        """``with m.cwd("/srv"):`` for the calling task."""
        return CwdScopes(self)

    @property
    def env(self) -> EnvScopes:
        """``with m.env(LANG="C"):`` for the calling task."""
        return EnvScopes(self)

    # the connection

    @property
    def address(self) -> Address:
        """Where it is, without secrets."""
        return self.transport.address

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What its transport can do."""
        return self.transport.capabilities

    @property
    def state(self) -> str:
        """One of "new", "connecting", "connected", "lost", "reconnecting" and "closed"."""
        return getattr(self.transport, "state", "connected")

    def __str__(self) -> str:
        return str(self.address)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {self.state}>"

    async def connect(self) -> Self:
        """Connect now, or return at once where that is done.

        Raises:
            ConnectError: AddressError, ConfigError, HostKeyError, AuthenticationError, ConnectTimeout or the plain one.
        """
        await self.transport.connect()
        return self

    async def aclose(self) -> None:
        """End every far process that runs, and release everything. May be called twice."""
        try:
            await self._python.aclose()
        finally:
            await close_views(self.transport)
            await self.transport.aclose()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._python.abort()
        self.transport.abort()

    async def __aenter__(self) -> Self:
        try:
            return await self.connect()
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def ping(self) -> float:
        """Return the seconds that one round trip takes."""
        return await self.transport.ping()

    # machines over the same connection

    def with_cwd(self, path: str | RemotePath) -> Machine:
        """Return this machine with another directory; a relative one is below that of the calling task.

        The two share the connection, which stays this one's: closing the other does nothing. The other begins with the
        directory and environment that hold for the calling task now; later scopes of either do not reach the other.
        """
        return _View(self, in_folder(current_scope(self), path, self.transport.paths))

    def with_env(self, values: Mapping[str, EnvValue] | None = None, /, **more: EnvValue) -> Machine:
        """Return this machine with further variables, None to unset one; otherwise as `with_cwd`."""
        return _View(self, with_variables(current_scope(self), {**(values or {}), **more}))

    # commands

    __iter__ = None  # subscription would make it iterable, without an end
    __contains__ = None

    def __getitem__(self, program: Bindable) -> Command:
        """Return a program on this machine as a value: ``m["ls"]["-l"]``. Asks nothing; `which` looks it up.

        Args:
            program: its name or path, also with arguments, as `Command` binds them.

        Raises:
            ValueError, TypeError: no program, or what cannot be an argument.
        """
        return Command.of(self, program)

    def order(
        self,
        argv: tuple[Argument, ...],
        *,
        cwd: str | bytes | RemotePath | None,
        env: Mapping[str, EnvValue] | None,
        pty: bool | Terminal = False,
        errors: str = "replace",
        timeout: float | None = None,
        check: bool = True,
        ok_codes: Iterable[int] | int | None = (0,),
        max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
        input: str | bytes | None = None,  # noqa: A002
        stdin: bool = False,
    ) -> Order:
        """Return the checked order for a command, with the calling task's directory and environment. Sends nothing."""
        scope = current_scope(self)
        if cwd is not None:
            scope = in_folder(scope, cwd, self.transport.paths)
        if env:
            scope = with_variables(scope, env)
        return make_order(
            argv,
            cwd=scope.cwd,
            env=scope.env,
            path=scope.path,
            input=input,
            stdin=stdin,
            check=check,
            timeout=timeout,
            pty=pty,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            encoding=self.encoding,
            errors=errors,
        )

    async def run(
        self,
        *argv: Argument,
        input: str | bytes | None = None,  # noqa: A002  # subprocess's name for it
        check: bool = True,
        timeout: float | None = None,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        pty: bool | Terminal = False,
        ok_codes: Iterable[int] | int | None = (0,),
        max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
        errors: str = "replace",
    ) -> Result:
        """Run a program to its end and return its result. No shell sees the arguments; they arrive byte for byte.

        Unlike ``subprocess.run``, a status that is not in `ok_codes` raises, and standard input is empty unless given.

        Args:
            argv: the program and its arguments: str (sent as UTF-8), bytes, paths or numbers.
            input: what it reads on standard input; None for nothing.
            check: False returns the result whatever the status.
            timeout: seconds for everything: connecting, waiting for a free session, running. None for no limit.
            cwd: where it starts; a relative one is below the task's ``m.cwd`` scope, or the login's directory.
            env: variables to set beside those of the task's ``m.env`` scope; None as a value unsets one.
            pty: True or a Terminal runs it on one; its stderr is then part of stdout.
            ok_codes: the statuses that count as success: one, several, or None for all.
            max_output_bytes: limit for stdout and stderr together; 64 MiB unless given, None for no limit.
            errors: how bytes that are no text show in ``.stdout`` and ``.stderr`` (the ``_bytes`` ones are exact).

        Returns:
            Result: returncode (negative for a signal), stdout and stderr as text and as bytes, elapsed seconds.

        Raises:
            CommandFailed: another status; CommandKilled for a signal.
            CommandNotFound: there is no such program.
            CommandTimeout: the time ran out; the far tree is ended. ConnectTimeout: it did before the start.
            OutputLimitExceeded: too much output; the far tree is ended.
            FileError: `cwd` cannot be entered; nothing ran.
            ConnectError, ConnectionLost, ClosedError: there is no connection, or no longer.
            ValueError, TypeError: an argument that cannot be passed; nothing was sent.

        Cancellation: the far process tree is ended before the call lets go, at the latest after 2 s; a note on the
            exception says so where the far end has not confirmed it.
        """
        order = self.order(
            argv,
            cwd=cwd,
            env=env,
            input=input,
            check=check,
            timeout=timeout,
            pty=pty,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            errors=errors,
        )
        return await run_order(order, self.transport, self.host)

    async def shell(
        self,
        line: str,
        *,
        input: str | bytes | None = None,  # noqa: A002
        check: bool = True,
        timeout: float | None = None,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        pty: bool | Terminal = False,
        ok_codes: Iterable[int] | int | None = (0,),
        max_output_bytes: int | None = DEFAULT_OUTPUT_BYTES,
        errors: str = "replace",
    ) -> Result:
        """Run a line of /bin/sh syntax, whatever the login shell is. The one place where a string meets a shell.

        Args:
            line: the text of ``sh -c``. Put no unchecked text into it; pass such as arguments of `run`.
            input, check, timeout, cwd, env, pty, ok_codes, max_output_bytes, errors: as in `run`.

        Returns:
            Result: as from `run`; ``args`` is ``("/bin/sh", "-c", line)``.

        Raises:
            RemoteError: as from `run`.
        """
        return await self.run(
            "/bin/sh",
            "-c",
            line,
            input=input,
            check=check,
            timeout=timeout,
            cwd=cwd,
            env=env,
            pty=pty,
            ok_codes=ok_codes,
            max_output_bytes=max_output_bytes,
            errors=errors,
        )

    def start(
        self,
        *argv: Argument,
        timeout: float | None = None,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        pty: bool | Terminal = False,
        errors: str = "replace",
    ) -> Starting:
        """Start a program and keep it running: ``async with m.start("cat") as p: ...``.

        Args:
            argv, cwd, env, pty, errors: as in `run`.
            timeout: seconds for connecting and starting, not for the program's run.

        Returns:
            Starting: an async context manager (and awaitable) of a `Process`. Leaving it ends the far process tree.

        Raises from entering the block:
            CommandNotFound: there is no such program. Over ssh this is known only when it ends: from ``wait()`` then.
            RemoteError: else as from `run`, but for what the program's end tells.
        """
        order = self.order(argv, cwd=cwd, env=env, pty=pty, errors=errors, timeout=timeout, stdin=True)
        return Starting(self.transport, order, self.host)

    def start_shell(
        self,
        line: str,
        *,
        timeout: float | None = None,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        pty: bool | Terminal = False,
        errors: str = "replace",
    ) -> Starting:
        """Start a line of /bin/sh syntax; otherwise as `start`."""
        return self.start("/bin/sh", "-c", line, timeout=timeout, cwd=cwd, env=env, pty=pty, errors=errors)

    def lines(
        self,
        *argv: Argument,
        check: bool = True,
        timeout: float | None = None,
        line_timeout: float | None = None,
        keep_last: int = 100,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        pty: bool | Terminal = False,
        ok_codes: Iterable[int] | int | None = (0,),
        errors: str = "replace",
    ) -> LineStream:
        """Iterate over a program's output while it runs, both streams, each line when it arrives.

        Args:
            argv, check, cwd, env, pty, ok_codes, errors: as in `run`.
            timeout: seconds for the whole.
            line_timeout: seconds between lines.
            keep_last: how many of the last lines an error's result holds.

        Returns:
            LineStream: ``async with`` it where the loop may be left early, else plain ``async for``.
        """
        order = self.order(
            argv, cwd=cwd, env=env, check=check, timeout=timeout, pty=pty, ok_codes=ok_codes, errors=errors
        )
        return LineStream(self.transport, order, self.host, line_timeout=line_timeout, keep_last=keep_last)

    async def detach(
        self,
        *argv: Argument,
        stdout: str | RemotePath | None = None,
        stderr: str | RemotePath | None = None,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        timeout: float | None = None,
        records: str | RemotePath | None = None,
    ) -> Job:
        """Start a program that goes on without us, and return a handle that any later process can have again by its id.

        It outlives the connection, the machine object, a logout and our own end. Its standard input is empty, and
        how it ended is kept at the far end until `Job.forget`.

        Args:
            argv, cwd, env: as in `run`.
            stdout, stderr: far files to write to, from empty; relative ones are below the directory it starts in. The
                same one twice takes both in the order of writing. None keeps the output in the job's record.
            timeout: seconds for connecting and starting, not for the program's run.
            records: an absolute far directory of the login's own for its jobs; None for aioremote/jobs below
                $XDG_STATE_HOME or ~/.local/state. The same is to be given to `job`.

        Returns:
            Job: its program has begun.

        Raises:
            CommandNotFound: there is no such program; nothing is left behind.
            FileError: `cwd` cannot be entered, an output or the record cannot be written to; nothing ran.
            UnsupportedError: the host has no means to keep a program apart from its session.
            CommandTimeout, ConnectTimeout: not started in time.
            ConnectionLost: the link ended first; a note on it tells the id, as the job may have begun.
            ValueError, TypeError: an argument that cannot be passed; nothing was sent.

        Cancellation: what had begun is ended and removed, at the latest after 4 s; a note on the exception says so
            where the far end has not confirmed it.
        """
        order = self.order(argv, cwd=cwd, env=env, timeout=timeout, check=False)
        return await start_job(self.transport, self.host, order, stdout=stdout, stderr=stderr, records=records)

    def job(self, id: str, *, records: str | RemotePath | None = None) -> Job:  # noqa: A002  # its name in Job
        """Return the handle of a job that was started earlier, by whatever process. Asks nothing.

        Raises:
            ValueError: what no job id looks like.
        """
        return Job(self.transport, self.host, id, records=records)

    def session(
        self,
        shell: str = "/bin/sh",
        *,
        timeout: float | None = None,
        cwd: str | RemotePath | None = None,
        env: Mapping[str, EnvValue] | None = None,
        pty: bool | Terminal = False,
    ) -> Session:
        """Return a persistent shell: ``async with m.session() as sh: await sh.run("cd /tmp; x=1")``.

        Args:
            shell: a POSIX shell's name or path: sh, bash, dash, ash, busybox, ksh, mksh, zsh. It reads no rc file.
            timeout: seconds for connecting and starting; `Session.run` has one of its own.
            cwd, env, pty: as in `run`, for where the shell begins. Later scopes of the task do not reach it.

        Raises:
            UnsupportedError: a shell of another kind, such as fish or csh; nothing was sent.
        """
        mark = new_mark()
        order = self.order(boot_argv(shell, mark), cwd=cwd, env=env, pty=pty, timeout=timeout, stdin=True)
        return Session(self.transport, replace(order, args=(shell,)), self.host, shell=shell, mark=mark)

    def _around(self, transport: Transport, *, scoped: bool) -> Machine:
        base = current_scope(self) if scoped else None
        return Machine(transport, host=self.host, encoding=self.encoding, base=base)

    # what it is

    async def facts(self) -> Facts:
        """Return what the machine is: system, user, shell and so on. One round trip, once."""
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            if self._facts is None:
                self._facts = await ask_facts(self.transport, self.host)
        return self._facts

    async def which(self, *names: str) -> RemotePath:
        """Return the path of the first of these programs that the calling task's commands would find.

        One round trip; none where the same names were found with the same PATH before, until a command finds its
        program missing.

        Raises:
            CommandNotFound: none of them; ``.programs`` and ``.path`` say what was looked for and where.
        """
        if not names:
            raise ValueError("which() needs the name of a program")
        return self.path(await find_first(self.transport, self.order(names, cwd=None, env=None), self.host))

    async def has(self, name: str) -> bool:
        """Return whether a program of this name would be found."""
        try:
            await self.which(name)
        except CommandNotFound:
            return False
        return True

    async def processes(self) -> list[ProcessInfo]:
        """Return all far processes that the login may see, in the order of ``ps``.

        Raises:
            UnsupportedError: there is no ps, or none whose answer is understood.
        """
        result = await self.run("/bin/sh", "-c", PROCESSES_SCRIPT, cwd="/", check=False)
        return found_processes(result, self.host)

    async def pgrep(self, pattern: str) -> list[ProcessInfo]:
        """Return the far processes whose command line matches a (near) regular expression anywhere."""
        matcher = re.compile(pattern)
        return [process for process in await self.processes() if matcher.search(process.args)]

    # paths and streams

    def absolute(self, path: bytes) -> bytes:
        """Return a far path below the calling task's directory, unless it is absolute or no scope is open."""
        return joined(current_scope(self).cwd, path, self.transport.paths)

    async def open_connection(self, host: str | None = None, port: int | None = None, *, path: str = "") -> ByteStream:
        """Connect from this machine to a TCP port, or to a unix socket at `path`; returns an anyio ByteStream.

        Raises:
            TunnelError: it does not come about; TunnelRefused where nothing listens there.
        """
        if bool(path) == (host is not None):
            raise ValueError("give either host and port, or path=")
        return await self.transport.open_connection(Endpoint(host or "localhost", port or 0, path))

    async def open_listener(self, port: int = 0, *, host: str = "localhost", path: str = "") -> Listener[ByteStream]:
        """Listen on this machine, on loopback unless told otherwise; returns an anyio Listener. Port 0 picks one."""
        return await self.transport.open_listener(Endpoint(host, port, path))

    def tunnel(
        self,
        lport: int | str,
        dport: int | str,
        *,
        lhost: str = "localhost",
        dhost: str = "localhost",
        reverse: bool = False,
        reconnect: bool | Reconnect = False,
    ) -> Tunnel:
        """Carry connections between a near and a far port: ``async with m.tunnel(6666, 8888) as t: ...``.

        Args:
            lport, dport: near and far port; 0 picks a free one to listen on (``t.lport``). A str is a socket's path.
            lhost, dhost: the near and the far host. It listens on loopback unless told otherwise.
            reverse: listen at the far end, for connections that go on to the near one.
            reconnect: True, or a Reconnect policy, brings connection and listener back after a loss. Otherwise a lost
                link closes the tunnel, and ``t.wait_closed()`` raises ConnectionLost.

        Raises:
            TunnelError: when it is opened and the port is taken, the name is not known there, or the server forbids it.
        """
        near, far = tunnel_end(lport, lhost, "lport"), tunnel_end(dport, dhost, "dport")
        if not (dport if not reverse else lport):
            raise TunnelPortError("port 0 picks a free one only where the tunnel listens, not where it leads to")
        policy = reconnect_policy(reconnect)
        return Tunnel(self.transport, self.host, near=near, far=far, reverse=reverse, reconnect=policy)

    def socks_proxy(self, port: int = 0, *, host: str = "localhost", reconnect: bool | Reconnect = False) -> Tunnel:
        """Offer a SOCKS5 (and 4a) proxy at a near port; names are resolved at the far end.

        Args:
            port: the near one; 0 picks a free one (``t.lport``).
            host, reconnect: where it listens, for anyone who reaches it; as in `tunnel`.
        """
        policy, near = reconnect_policy(reconnect), tunnel_end(port, host, "port")
        return Tunnel(self.transport, self.host, near=near, far=None, reconnect=policy)


class _View(Machine):
    """A machine with a directory and environment of its own, over a connection that stays its owner's."""

    def __init__(self, owner: Machine, base: Scope) -> None:
        super().__init__(owner.transport, host=owner.host, encoding=owner.encoding, base=base)
        self._owner = owner
        self._python = owner._python

    async def facts(self) -> Facts:
        return await self._owner.facts()

    async def aclose(self) -> None:
        return None

    def abort(self) -> None:
        return None
