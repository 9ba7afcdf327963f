"""`Fleet`: the same work on many machines, with a window, and a report in the order given.

A host's trouble is an outcome, not an exception that ends the others. This module makes machines and visits them; how
many at once is `window`, what comes of it is `report`. Most of it is the contract of one class, in docstrings.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, cast
from urllib.parse import quote

from aioremote._core.deadline import Deadline, check_seconds
from aioremote._core.lifetime import Owner
from aioremote.addresses import connect, fitting_keywords, scheme_of
from aioremote.commands.orders import (
    DEFAULT_OUTPUT_BYTES,
    Argument,
    EnvValue,
    Order,
    environment,
    folder_bytes,
    make_order,
)
from aioremote.errors import ClosedError, CommandFailed, CommandTimeout, ConnectTimeout, RemoteError
from aioremote.fleet.hosts import HostSource, Target, with_patterns
from aioremote.fleet.report import Outcome, Report, ReportBuilder
from aioremote.fleet.sharing import HELD_BYTES, SharedSource
from aioremote.fleet.window import ItemStream, Window, files_for_hosts
from aioremote.machine import Machine
from aioremote.machines import SshKeywords, SshMachine
from aioremote.types import Line, Result

if TYPE_CHECKING:
    from typing import Unpack

    from aioremote.types import Terminal, TransferReport

__all__ = ["CommandKeywords", "Fleet", "FleetLines", "FleetStream", "RunKeywords", "TransferKeywords"]

T = TypeVar("T")
_LEAST_AHEAD_BYTES = 512 * 1024  # under way to one of many hosts
_CLOSERS = 50  # machines closed at once at the end
_WAITING_LINES = 10_000  # that wait for the consumer


class CommandKeywords(TypedDict, total=False):
    """What `Fleet.lines` and `Fleet.run` pass on, as `Machine.run` takes it."""

    timeout: float | None
    cwd: str | None
    env: Mapping[str, EnvValue] | None
    pty: bool | Terminal
    ok_codes: Iterable[int] | int | None
    errors: str


class RunKeywords(CommandKeywords, total=False):
    """What `Fleet.run` passes on, as `Machine.run` takes it."""

    input: str | bytes | None
    max_output_bytes: int | None


class TransferKeywords(TypedDict, total=False):
    """What `Fleet.upload` and `Fleet.download` pass on, as `Machine.upload` takes it."""

    overwrite: bool
    preserve: bool
    preserve_special: bool
    durable: bool
    verify: bool
    engine: str


class FleetStream(ItemStream[Outcome[T]]):
    """Outcomes as they come: ``outcome.host``, ``.result``, ``.error``. Leaving its block ends what still runs."""


class FleetLines(ItemStream[Line]):
    """Lines of all hosts as they come; ``line.host`` is the host as given. Leaving its block ends what still runs."""


class Fleet:
    """Many machines that do the same.

    Args:
        hosts: ranges ("web[01-40],db1"), patterns of the ssh config ("web*"), addresses as `connect` takes them, or an
            iterable of hosts and machines. An iterator is read only as far as the window has come.
        limit: hosts at once. Fewer where the process may not open so many descriptors.
        keep_open: how many connections stay for the next operation; None for as many as `limit`, True for all, False
            for none. Fewer where descriptors are short. Machines that were given stay as they are: whoever made them
            closes them.
        allow_exec: whether hosts may be addresses of scheme ``exec:``, which run programs on this machine.
        ssh: every keyword of `SshMachine`, for the hosts given by name. Addresses of other schemes get those of them
            that their machines take.

    Attributes:
        partial: the report of the last `run`, `shell` or `map` as far as it had come, where that was cancelled or ended
            by a host that cannot be used; else None.

    Raises:
        AddressError: a host that cannot be used, or a malformed range; nothing was started.
        ValueError: no hosts, or one twice.
        ValueError, TypeError: a keyword that `SshMachine` does not take.
    """

    def __init__(
        self,
        hosts: str | Iterable[str | Machine],
        *,
        limit: int = 100,
        keep_open: int | None = None,
        allow_exec: bool = False,
        **ssh: Unpack[SshKeywords],
    ) -> None:
        if not isinstance(cast(object, limit), int):
            raise TypeError(f"limit={limit!r}: give a number of hosts")
        if limit < 1:
            raise ValueError(f"limit={limit!r}: give at least 1")
        if not isinstance(cast(object, keep_open), int | None):
            raise TypeError(f"keep_open={keep_open!r}: give a number of connections, or None for `limit`")
        if keep_open is not None and keep_open < 0:
            raise ValueError(
                f"keep_open={keep_open!r}: give a number of connections, True for all, or None for `limit`"
            )
        SshMachine("localhost", **ssh)  # raises now what every host would
        if isinstance(hosts, str):
            hosts = with_patterns(hosts, ssh.get("config", "~/.ssh/config"))
        self._source: HostSource[Machine] = HostSource(hosts, allow_exec=allow_exec)
        self._limit = limit
        self._keep_open = limit if keep_open is None else sys.maxsize if keep_open is True else keep_open
        self._ssh = ssh
        self._machines: dict[str, Machine] = {}
        self._owner = Owner("fleet")
        self._closed = False
        self.partial: Report[object] | None = None

    def __repr__(self) -> str:
        return f"<Fleet of {self._source.total if self._source.total is not None else '?'} hosts, limit {self._limit}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every stream that still runs and close every connection that was kept. May be called twice."""
        self._closed = True
        machines, self._machines = list(self._machines.values()), {}
        try:
            await self._owner.aclose()
            await _close_all(machines)
        finally:
            for machine in machines:
                machine.abort()  # does nothing where it is closed

    # operations

    async def run(self, *argv: Argument, fail_fast: bool = False, **keywords: Unpack[RunKeywords]) -> Report[Result]:
        """Run a program on every host and report; never raises for a host's trouble.

        Args:
            argv: as in `Machine.run`.
            fail_fast: whether the first trouble ends the rest; those report as failed, or as skipped where nothing ran.
            keywords: ``input``, ``timeout``, ``cwd``, ``env``, ``pty``, ``ok_codes``, ``max_output_bytes``, ``errors``,
                as in `Machine.run`. ``timeout`` is a host's seconds from leaving the window: connecting and running.

        Returns:
            Report: by host, in the order given. ``raise_for_failures()`` turns troubles into an error.

        Raises:
            ValueError, TypeError: arguments that cannot be passed; nothing was started.
            AddressError: from an iterator of hosts, one that cannot be used. The others are ended; see `partial`.

        Cancellation: every far tree is ended before the call lets go, at the latest after 2 s; see `partial`.
        """
        return await self._report(partial(self._fan_out, _command(argv, keywords), fail_fast=fail_fast))

    async def shell(self, line: str, *, fail_fast: bool = False, **keywords: Unpack[RunKeywords]) -> Report[Result]:
        """Run a line of /bin/sh syntax on every host; otherwise as `run`."""
        return await self.run("/bin/sh", "-c", line, fail_fast=fail_fast, **keywords)

    def stream(self, *argv: Argument, fail_fast: bool = False, **keywords: Unpack[RunKeywords]) -> FleetStream[Result]:
        """Run a program on every host and iterate over the outcomes as they come; otherwise as `run`.

        Leaving an ``async with`` block of it, or closing the fleet, ends what still runs. A slow consumer holds the
        window back.
        """
        return self._stream(partial(self._fan_out, _command(argv, keywords), fail_fast=fail_fast))

    async def map(
        self,
        function: Callable[[Machine], Awaitable[T]],
        *,
        timeout: float | None = None,
        connect: bool = True,
        fail_fast: bool = False,
    ) -> Report[T]:
        """Await ``function(machine)`` for every host and report the values.

        Args:
            function: gets a connected machine. What it raises is its host's outcome.
            timeout: seconds a host, from leaving the window; past them ConnectTimeout or CommandTimeout is its outcome.
            connect: False hands the machine over as it is; it connects with its first use, within that one's timeout.
            fail_fast: as in `run`.
        """
        work = _mapped(function, timeout, connect=connect)
        return await self._report(partial(self._visit_all, work, fail_fast=fail_fast))

    def stream_map(
        self,
        function: Callable[[Machine], Awaitable[T]],
        *,
        timeout: float | None = None,
        connect: bool = True,
        fail_fast: bool = False,
    ) -> FleetStream[T]:
        """Await ``function(machine)`` for every host and iterate over the outcomes as they come; otherwise as `map`.

        ``outcome.result`` is the function's value. Leaving an ``async with`` block of it, or closing the fleet, ends
        what still runs. A slow consumer holds the window back.
        """
        return self._stream(partial(self._visit_all, _mapped(function, timeout, connect=connect), fail_fast=fail_fast))

    async def call(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,
        fail_fast: bool = False,
    ) -> Report[Any]:
        """Call a function in the Python of every host and report the results.

        Args:
            function: as in ``machine.python.call``; it travels as source.
            args: what pickles.
            timeout: seconds a host, as in `map`.
            fail_fast: as in `run`.

        Cancellation: the functions are interrupted, as in ``machine.python.call``.
        """
        return await self.map(
            lambda machine: machine.python.call(function, *args), timeout=timeout, connect=True, fail_fast=fail_fast
        )

    async def upload(
        self,
        src: str | os.PathLike[str],
        dst: str,
        *,
        timeout: float | None = None,
        fail_fast: bool = False,
        **keywords: Unpack[TransferKeywords],
    ) -> Report[TransferReport]:
        """Bring a near file or tree to every host; it is read once for all that are at work together.

        At most 16 MiB that were read wait for the slowest host. One that holds most others up for more than half of the
        time, after the first 10 s, goes on with a reading of its own, as do those beyond the `limit`, together.

        Args:
            src: near path.
            dst: far path, the same on every host, as in `Machine.upload`.
            timeout, fail_fast, keywords: as in `download`. A host's time includes its wait for the others to connect,
                5 s at most after the last one that did.

        Raises:
            ValueError, TypeError: arguments that cannot be passed; nothing was started.

        Cancellation: files are old or new; no temporary file is left.
        """
        _check_transfer(keywords, timeout)

        ahead = max(_LEAST_AHEAD_BYTES, HELD_BYTES // min(self._limit, self._source.total or self._limit))

        async def work(_: Target[Machine], machine: Machine) -> TransferReport:
            with source.seat() as seat:
                bring = partial(seat.bring, dst=dst, ahead_bytes=ahead, **keywords)
                return await _call(bring, machine, timeout, connect=True)

        async with SharedSource(src, self._owner, verify=keywords.get("verify", False)) as source:
            return await self._report(partial(self._visit_all, work, fail_fast=fail_fast))

    async def download(
        self,
        src: str,
        dst: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        fail_fast: bool = False,
        **keywords: Unpack[TransferKeywords],
    ) -> Report[TransferReport]:
        """Bring the same file or tree of every host to ``dst/HOST/NAME`` on this side.

        Args:
            src: far path, as in `Machine.download`.
            dst: near directory; made where missing. HOST is the host as given, percent-encoded where it is no name.
            timeout: seconds a host, as in `map`.
            fail_fast: as in `run`.
            keywords: ``overwrite``, ``preserve``, ``preserve_special``, ``durable``, ``verify``, ``engine``, as
                in `Machine.download`.

        Raises:
            ValueError, TypeError: arguments that cannot be passed; nothing was started.

        Cancellation: files are old or new; no temporary file is left.
        """
        _check_transfer(keywords, timeout)

        async def work(target: Target[Machine], machine: Machine) -> TransferReport:
            folder = os.path.join(dst, _folder_name(target.key))

            async def bring(machine: Machine) -> TransferReport:
                await asyncio.to_thread(os.makedirs, folder, exist_ok=True)
                return await machine.download(src, os.path.join(folder, ""), **keywords)

            return await _call(bring, machine, timeout, connect=True)

        return await self._report(partial(self._visit_all, work, fail_fast=fail_fast))

    def lines(
        self,
        *argv: Argument,
        check: bool = True,
        line_timeout: float | None = None,
        **keywords: Unpack[CommandKeywords],
    ) -> FleetLines:
        """Run a program on every host and iterate over the lines of all as they come.

        Args:
            argv: as in `Machine.lines`.
            check: whether a FleetError is raised after the last line where hosts failed.
            line_timeout: seconds between a host's lines.
            keywords: ``timeout``, ``cwd``, ``env``, ``pty``, ``ok_codes``, ``errors``, as in `Machine.lines`.
        """
        order = _check(argv, cast("RunKeywords", keywords), CommandKeywords.__optional_keys__)
        keywords["ok_codes"] = order.ok_codes  # what was given may be an iterator
        check_seconds(line_timeout, "line_timeout")

        async def follow(put: Callable[[Sequence[Line]], Awaitable[None]]) -> None:
            async def work(target: Target[Machine], machine: Machine) -> None:
                batches = machine.lines(*argv, line_timeout=line_timeout, **keywords).batches()
                try:
                    async for batch in batches:
                        named = machine.host == target.key
                        await put(batch if named else [line._replace(host=target.key) for line in batch])
                finally:
                    await batches.aclose()

            builder: ReportBuilder[None] = ReportBuilder()
            await self._visit_all(work, _adder(builder), fail_fast=False)
            if check:
                builder.build().raise_for_failures()

        return FleetLines(self._owner, follow, room=_WAITING_LINES)

    # how it is done

    def _stream(self, operate: Callable[[Callable[[Outcome[T]], Awaitable[None]]], Awaitable[None]]) -> FleetStream[T]:
        async def follow(put: Callable[[Sequence[Outcome[T]]], Awaitable[None]]) -> None:
            await operate(lambda outcome: put((outcome,)))

        return FleetStream(self._owner, follow)

    async def _report(self, operate: Callable[[Callable[[Outcome[T]], Awaitable[None]]], Awaitable[None]]) -> Report[T]:
        builder: ReportBuilder[T] = ReportBuilder()
        self.partial = None
        try:
            await operate(_adder(builder))
        except BaseException:
            self.partial = cast("Report[object]", builder.build())  # whoever reads a T reads an object
            raise
        return builder.build()

    async def _fan_out(
        self,
        work: Callable[[Machine], Awaitable[Result]],
        take: Callable[[Outcome[Result]], Awaitable[None]],
        *,
        fail_fast: bool,
    ) -> None:
        """Visit all hosts for commands; a failed one's outcome has its Result beside the error."""

        async def run(_: Target[Machine], machine: Machine) -> Result:
            return await work(machine)

        async def take_result(outcome: Outcome[Result]) -> None:
            error = outcome.error
            await take(replace(outcome, value=error.result) if isinstance(error, CommandFailed) else outcome)

        await self._visit_all(run, take_result, fail_fast=fail_fast)

    async def _visit_all(
        self,
        work: Callable[[Target[Machine], Machine], Awaitable[T]],
        take: Callable[[Outcome[T]], Awaitable[None]],
        *,
        fail_fast: bool,
    ) -> None:
        self._check_open()
        size, keep = self._plan()

        async def visit(window: Window[T], target: Target[Machine]) -> Outcome[T]:
            machine = await self._machine(target, keep)
            try:
                return await _attempt(window, work, target, machine)
            finally:
                if target.machine is None and self._machines.get(target.key) is not machine:
                    await _close(machine)

        await Window(iter(self._source), visit, take, fail_fast=fail_fast).run(size)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this fleet was closed")

    def _plan(self) -> tuple[int, int]:
        """Return how many hosts to visit at once and how many connections may stay, by the descriptors there are."""
        kept, free, total = len(self._machines), files_for_hosts(), self._source.total
        if total is not None and total <= kept + free:
            return min(self._limit, total), self._keep_open
        size = min(self._limit, free)
        return size, min(self._keep_open, kept + free - size)

    async def _machine(self, target: Target[Machine], keep: int) -> Machine:
        """Return the machine of a host: given, kept, or new."""
        if target.machine is not None:
            return target.machine
        kept = self._machines.get(target.key)
        if kept is not None and kept.state in ("lost", "closed"):
            del self._machines[target.key]
            await _close(kept)
        elif kept is not None:
            return kept
        self._check_open()
        machine = self._new_machine(target)
        if len(self._machines) < keep:
            self._machines[target.key] = machine
        return machine

    def _new_machine(self, target: Target[Machine]) -> Machine:
        if target.name is None:
            machine = connect(target.key, **fitting_keywords(scheme_of(target.key) or "ssh", self._ssh))
            machine.host = target.key
            return machine
        keywords = SshKeywords(**self._ssh)
        if target.name.user is not None:
            keywords["user"] = target.name.user
        if target.name.port is not None:
            keywords["port"] = target.name.port
        machine = SshMachine(target.name.host, **keywords)
        machine.host = target.key
        return machine


async def _attempt(
    window: Window[T],
    work: Callable[[Target[Machine], Machine], Awaitable[T]],
    target: Target[Machine],
    machine: Machine,
) -> Outcome[T]:
    """Do the work on one host; whatever goes wrong is its outcome."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with window.endable():
            value = await work(target, machine)
    except asyncio.CancelledError as error:
        outcome = window.ended(target, error, connected=machine.state == "connected")
    except Exception as error:  # noqa: BLE001  # as said
        if isinstance(error, RemoteError):
            error.host = target.key
        outcome = Outcome[T].of_error(target.key, target.index, error=error)
    else:
        outcome = Outcome[T].of_value(target.key, target.index, value=value)
    return replace(outcome, elapsed=loop.time() - began)


def _check_transfer(keywords: TransferKeywords, timeout: float | None) -> None:
    """Judge what cannot be passed, before anything is started."""
    if unknown := keywords.keys() - TransferKeywords.__optional_keys__:
        raise TypeError(f"unexpected keyword argument {', '.join(sorted(unknown))}")
    check_seconds(timeout)


def _folder_name(host: str) -> str:
    """Return a name for a host's directory that stays below its parent, another for each host."""
    name = quote(host, safe="@:[]", errors="surrogateescape")
    return name.replace(".", "%2E") if name in {".", ".."} else name


def _mapped(
    function: Callable[[Machine], Awaitable[T]], timeout: float | None, *, connect: bool
) -> Callable[[Target[Machine], Machine], Awaitable[T]]:
    check_seconds(timeout)

    async def work(_: Target[Machine], machine: Machine) -> T:
        return await _call(function, machine, timeout, connect=connect)

    return work


async def _call(
    function: Callable[[Machine], Awaitable[T]], machine: Machine, timeout: float | None, *, connect: bool
) -> T:
    """Connect and call a mapped function within `timeout`."""
    scope = Deadline(timeout).scope()
    connected = not connect
    try:
        async with scope:
            if connect:
                await machine.connect()
                connected = True
            return await function(machine)
    except TimeoutError as error:
        if not scope.expired() or isinstance(error, RemoteError):
            raise
        if not connected:
            raise ConnectTimeout(f"{machine.host}: no connection within {timeout:g} s", host=machine.host) from error
        text = f"{machine.host}: the function has not returned after {timeout:g} s"
        raise CommandTimeout(text, host=machine.host, timeout=timeout or 0.0) from error


async def _close(machine: Machine) -> None:
    """Close a machine as well as it goes: what came of its host is known by now."""
    try:
        await machine.aclose()
    except RemoteError:
        machine.abort()


async def _close_all(machines: Sequence[Machine]) -> None:
    rest = iter(machines)

    async def close_some() -> None:
        for machine in rest:
            await _close(machine)

    async with asyncio.TaskGroup() as group:
        for _ in machines[:_CLOSERS]:
            group.create_task(close_some(), name="fleet closer")


def _check(argv: tuple[Argument, ...], keywords: RunKeywords, known: frozenset[str]) -> Order:
    """Return the order that the arguments give, or raise for what no host can take, before any is bothered."""
    if unknown := keywords.keys() - known:
        raise TypeError(f"unexpected keyword argument {', '.join(sorted(unknown))}")
    cwd = keywords.get("cwd")
    return make_order(
        argv,
        cwd=None if cwd is None else folder_bytes(cwd),
        env=environment(keywords.get("env") or {}),
        input=keywords.get("input"),
        timeout=keywords.get("timeout"),
        pty=keywords.get("pty", False),
        ok_codes=keywords.get("ok_codes", (0,)),
        max_output_bytes=keywords.get("max_output_bytes", DEFAULT_OUTPUT_BYTES),
        errors=keywords.get("errors", "replace"),
    )


def _command(argv: tuple[Argument, ...], keywords: RunKeywords) -> Callable[[Machine], Awaitable[Result]]:
    order = _check(argv, keywords, RunKeywords.__optional_keys__)
    keywords["ok_codes"] = order.ok_codes  # what was given may be an iterator
    return lambda machine: machine.run(*argv, **keywords)


def _adder(builder: ReportBuilder[T]) -> Callable[[Outcome[T]], Awaitable[None]]:
    async def add(outcome: Outcome[T]) -> None:
        builder.add(outcome)

    return add
