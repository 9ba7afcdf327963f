"""`Interpreter`: a Python at the far end that is called like one here."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from aioremote._core.deadline import check_seconds
from aioremote._core.lifetime import bounded_cleanup
from aioremote.errors import BusyError, CallTimeout, ClosedError, RemoteException, UnsupportedError
from aioremote.outpost.far.calls import SESSION_BY_NAME
from aioremote.python.handles import Serving
from aioremote.python.lane import Lane, value_of
from aioremote.python.pin import Pin
from aioremote.python.proxies import Modules, RemoteObject, Root, path_of
from aioremote.python.requests import KEEP, SESSION, STREAM, Place, packed
from aioremote.python.sinks import Sink, sink_of

if TYPE_CHECKING:
    from aioremote.outpost.values import Buffer
    from aioremote.python.hub import Hub

__all__ = ["Interpreter", "Options", "PythonSession"]

_calling: ContextVar[tuple[object, ...]] = ContextVar("aioremote_sessions", default=())  # that wait for this task

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
SMALL_BYTES = 32768  # of a request that goes with others
CLOSE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Options:
    """How an interpreter is chosen, and how its calls are made."""

    executable: str | None = None
    ship: tuple[str, ...] = ()
    stdout: Sink | None = None
    stderr: Sink | None = None
    timeout: float | None = None


class _Python(ABC):
    """What an interpreter and a session have in common: everything but who runs it."""

    host: str
    _timeout: float | None

    def _place(self) -> Place | None:
        """Return where the calling task's calls run, if not where their process is."""
        return None

    @abstractmethod
    async def _lane(self) -> Lane: ...

    @abstractmethod
    async def _run(self, lane: Lane, pieces: list[Buffer], serving: Serving | None) -> Any: ...

    @abstractmethod
    def _flow(self, lane: Lane, pieces: list[Buffer], serving: Serving | None) -> AsyncGenerator[Any, None]: ...

    _flags = 0

    async def _request(
        self,
        what: str,
        target: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        flags: int = 0,
    ) -> Any:
        if self._timeout is None:
            return await self._request_now(what, target, args, kwargs, flags)
        scope = asyncio.timeout(self._timeout)
        try:
            async with scope:
                return await self._request_now(what, target, args, kwargs, flags)
        except TimeoutError as error:
            if not scope.expired() or isinstance(error, RemoteException):
                raise
            message = f"{self.host}: the call took more than {self._timeout:g} s"
            raise CallTimeout(message, host=self.host, timeout=self._timeout) from error

    async def _request_now(
        self, what: str, target: object, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, flags: int
    ) -> Any:
        lane = await self._lane()
        if what == "call":
            target = _target(lane, target)
        return await self._run(lane, *self._packed(lane, what, target, args, kwargs, flags))

    def _packed(
        self,
        lane: Lane,
        what: str,
        target: object,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        flags: int,
    ) -> tuple[list[Buffer], Serving | None]:
        flags |= self._flags
        return packed(
            what, target, args, kwargs, flags=flags, protocol=lane.protocol, session=self, place=self._place()
        )

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function at the far end and return its result.

        The function travels as source, with what it uses of its module; nothing has to be installed there. A coroutine
        function is awaited there.

        Args:
            function: a function, lambda, method, ``functools.partial`` or builtin.
            args, kwargs: what pickles, functions too; `Callback` and `Items` for what stays here. Classes are found
                there by name: ``ship=`` lets their packages go.

        Returns:
            None, bool, int, float, complex, str, bytes, bytearray, or tuple, list, set, frozenset and dict of such.

        Raises:
            RemoteException: it raised; also of the builtin class, and with the far traceback.
            RemoteValueError: its result is not of these types; says where in it.
            ShipError: the function or an argument cannot go, and which variable of it; nothing was sent.
            WorkerDied: its process ended.
            CallTimeout: with ``with_options(timeout=)``.
            BootstrapError, ConnectError: there is no far Python.
            ConnectionLost: ``outcome`` "unknown": it may have run.

        Cancellation: the function is interrupted, so that its ``finally`` runs, and after 0.5 s killed; its process
            and what it started is gone when the call lets go.
        """
        return await self._request("call", function, args, kwargs)

    async def eval(self, source: str, /) -> Any:
        """Return what an expression is worth at the far end; raises as `call`."""
        return await self._request("eval", _text(source, "eval"))

    async def exec(self, source: str, /) -> None:
        """Run statements at the far end; raises as `call`. What they bind is kept in a session only."""
        await self._request("exec", _text(source, "exec"))

    async def stream(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Iterate over what a far generator yields: ``async for x in m.python.stream(numbers, 10)``.

        Anything that can be iterated over, asynchronously too. The far end is at most 16 items ahead. Leaving the loop
        closes the far generator, so that its ``finally`` runs; to know when, use ``contextlib.aclosing``.

        Args, Raises: as for `call`.
        """
        lane = await self._lane()
        target = _target(lane, function)
        async with aclosing(self._flow(lane, *self._packed(lane, "call", target, args, kwargs, STREAM))) as items:
            async for item in items:
                yield item

    @property
    def modules(self) -> Modules:
        """Far modules: ``await m.python.modules.os.path.exists("/etc")`` imports and calls in one question."""
        return Modules(self)

    async def ask_path(
        self, root: Root, names: tuple[str, ...], args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None
    ) -> Any:
        """Follow names and return the value there, or, with arguments, the result of calling it. For proxies."""
        return await self._request("path", (root, names, args is not None, ""), args or (), kwargs)

    def drop(self, number: int) -> None:  # noqa: B027  # only a session has objects
        """Forget a far object."""

    async def version(self) -> tuple[int, int, int]:
        """Return the far Python's version, as (3, 11, 7)."""
        return (await self._lane()).version

    async def pid(self) -> int:
        """Return the process id of the worker that runs this call; that of a session stays the same."""
        return cast("int", await self.ask_path(None, ("os", "getpid"), (), None))


class Interpreter(_Python):
    """A Python on a machine, from ``m.python``. It starts with the first call; each call gets a process for itself.

    Calls without options share warm processes, one call at a time in each, at most 64. What a call leaves changed in
    its process (modules, globals) the next may see or not: keep state in a `session`. Calls run in the directory and
    environment of the calling task's scopes (``m.cwd``, ``m.env``); a session begins there.

    Concurrency: any number of tasks.
    """

    def __init__(self, hub: Hub, place: Callable[[], Place | None], options: Options | None = None) -> None:
        self.host: str = hub.host
        self._hub = hub
        self._find_place = place
        self._options = options or Options()
        self._timeout: float | None = self._options.timeout
        self._silent = self._options.stdout is None and self._options.stderr is None

    def __call__(self, *, executable: str | None = None, ship: Iterable[str] = ()) -> Interpreter:
        """Return another interpreter of the same machine.

        Args:
            executable: a path, or a name on the far PATH; None looks for Python 3.6 or later.
            ship: packages or modules that far code may import from here, as source. Nothing else is ever given.
        """
        if isinstance(ship, str):
            raise TypeError(f"ship={ship!r}: give a list of names")
        old = self._options
        names = tuple(sorted({*old.ship, *ship}))
        return Interpreter(
            self._hub, self._find_place, replace(old, executable=executable or old.executable, ship=names)
        )

    def with_options(
        self, *, stdout: Sink | None = None, stderr: Sink | None = None, timeout: float | None = None
    ) -> Interpreter:
        """Return this interpreter with options for its calls; what is not given stays as it was.

        Args:
            stdout, stderr: get what a call and its children print: a function of bytes, or a file, text or binary.
            timeout: seconds for a call, starting the interpreter included.
        """
        check_seconds(timeout)
        old = self._options
        for sink in (stdout, stderr):
            sink_of(sink)
        new = replace(
            old,
            stdout=old.stdout if stdout is None else stdout,
            stderr=old.stderr if stderr is None else stderr,
            timeout=old.timeout if timeout is None else timeout,
        )
        return Interpreter(self._hub, self._find_place, new)

    def __repr__(self) -> str:
        return f"<Interpreter {self._options.executable or 'python3'} on {self.host}>"

    def _place(self) -> Place | None:
        return self._find_place()

    async def _lane(self) -> Lane:
        wanted = self._options.executable, self._options.ship
        return self._hub.ready(*wanted) or await self._hub.lane(*wanted)

    async def _run(self, lane: Lane, pieces: list[Buffer], serving: Serving | None) -> Any:
        if self._silent and serving is None and _size(pieces) <= SMALL_BYTES:
            return await value_of(await lane.call(pieces), self.host)
        return await self._pin(lane).call(pieces, serving or Serving())

    def _flow(self, lane: Lane, pieces: list[Buffer], serving: Serving | None) -> AsyncGenerator[Any, None]:
        return self._pin(lane).stream(pieces, serving or Serving())

    def _pin(self, lane: Lane, *, session: bool = False, name: str = "") -> Pin:
        out, err = sink_of(self._options.stdout), sink_of(self._options.stderr)
        return Pin(lane, session=session, name=name, stdout=out, stderr=err)

    def session(self, name: str = "") -> PythonSession:
        """Return a worker that keeps its state: ``async with m.python.session() as s: await s.exec("x = 1")``.

        Args:
            name: of a session that a daemon keeps, 1 to 64 letters, digits, and ``. _ -``: made when it is first asked
                for, joined by all clients with the same key, and there after they have left, until nobody has used it
                for a while. "" for one of this client alone.

        Raises:
            ValueError: no such name can be.
            UnsupportedError: a name where there is no daemon.
        """
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"session({name!r}): give 1 to 64 letters, digits, and . _ -")
        if name and (self._options.executable is not None or not self._hub.keeps_sessions):
            text = f"{self.host}: session({name!r}): only a daemon, with its own Python, keeps sessions by name"
            raise UnsupportedError(text, host=self.host)
        return PythonSession(self, name)

    async def open_pin(self, name: str = "") -> Pin:
        """Return a worker for a session; BusyError or UnsupportedError where a daemon does not give one."""
        lane = await self._lane()
        if name and SESSION_BY_NAME in lane.link.missing:
            text = f"{self.host}: session({name!r}): the daemon there keeps no sessions by name"
            raise UnsupportedError(text, host=self.host)
        pin = self._pin(lane, session=True, name=name)
        if name:
            try:
                await pin.served()
            except BaseException:
                await bounded_cleanup(pin.aclose(), CLOSE_SECONDS)
                raise
        return pin

    async def import_(self, name: str, /) -> RemoteObject:
        """Import a far module and return a proxy for it; raises as `call`."""
        names = tuple(name.split("."))
        await self._request("path", (None, (*names, "__name__"), False, ""))
        return RemoteObject(self, None, names)

    async def ref(self, name: str, /) -> RemoteObject:
        """Return a proxy for what a dotted name of a module leads to. For other objects there is `session`."""
        if not all(part.isidentifier() for part in name.split(".")):
            raise UnsupportedError(f"ref({name!r}): without a session there are only names: use m.python.session()")
        await self._request("path", (None, (*name.split("."), "__class__", "__name__"), False, ""))
        return RemoteObject(self, None, tuple(name.split(".")))


class PythonSession(_Python):
    """One far process with its state: names, modules, objects, working directory, event loop.

    Calls run one after another, in the order in which they are made. When one is cancelled or times out, or the
    process dies, the session is over. Leaving the block ends the process.

    One with a name is the daemon's: its calls are those of all who have joined, one after another, results delivered,
    and leaving the block leaves it as it is. It begins in the daemon's directory, not in that of a scope. A call that
    is cancelled is interrupted, and ends this client's part only; where it does not end within 0.5 s, the process is
    killed, and all others get WorkerDied.
    """

    _flags = SESSION

    def __init__(self, interpreter: Interpreter, name: str = "") -> None:
        self.host: str = interpreter.host
        self.name: str = name
        self._interpreter = interpreter
        self._timeout: float | None = interpreter._timeout  # pyright: ignore[reportPrivateUsage]
        self._pin: Pin | None = None
        self._its_lane: Lane | None = None
        self._turn = asyncio.Lock()
        self._busy: asyncio.Task[Any] | None = None
        self._dropped: list[int] = []

    async def __aenter__(self) -> Self:
        self._its_lane = await self._interpreter._lane()  # pyright: ignore[reportPrivateUsage]
        self._pin = await self._interpreter.open_pin(self.name)
        place = None if self.name else self._interpreter._place()  # pyright: ignore[reportPrivateUsage]
        if place is not None:
            try:
                await self._request("place", place)
            except BaseException:
                await self.aclose()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the far process and wait until it is gone, or leave one with a name. May be called twice."""
        if self._pin is not None:
            await bounded_cleanup(self._pin.aclose(), CLOSE_SECONDS)

    async def _lane(self) -> Lane:
        if self._its_lane is None:
            raise ClosedError(f"{self.host}: the session is not open: use it with 'async with'", host=self.host)
        return self._its_lane

    def _usable(self) -> Pin:
        pin = self._pin
        if pin is None or pin.over is not None:
            why = "not open" if pin is None else f"over: {pin.over}"
            raise ClosedError(f"{self.host}: the session is {why}", host=self.host)
        return pin

    def _context(self) -> Context:
        """Return the context for callbacks of a call of this session; they may not call into it."""
        outer = _calling.get()
        if self in outer:
            raise BusyError(f"{self.host}: a callback cannot call into the session that waits for it", host=self.host)
        context = copy_context()
        context.run(_calling.set, (*outer, self))
        return context

    async def _run(self, lane: Lane, pieces: list[Buffer], serving: Serving | None) -> Any:
        context = self._context()
        async with self._turn:
            return await self._usable().call(pieces, serving or Serving(), context)

    async def _flow(self, lane: Lane, pieces: list[Buffer], serving: Serving | None) -> AsyncGenerator[Any, None]:
        context = self._context()
        async with self._turn, aclosing(self._usable().stream(pieces, serving or Serving(), context)) as items:
            async for item in items:
                yield item

    async def ask_path(
        self, root: Root, names: tuple[str, ...], args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None
    ) -> Any:
        """Follow names and return the value there, or, with arguments, the result of calling it. For proxies."""
        await self._drop_dropped()
        return await super().ask_path(root, names, args, kwargs)

    async def import_(self, name: str, /) -> RemoteObject:
        """Import a far module, bind its name in the session and return a proxy for it; raises as `call`."""
        names = tuple(name.split("."))
        number = await self._request("path", (None, names, False, names[-1]), flags=KEEP)
        return RemoteObject(self, number)

    async def ref(self, what: str | RemoteObject, /) -> RemoteObject:
        """Return a proxy for a far object, which is kept there as long as the proxy lives.

        Args:
            what: an expression, the name of a module, or a proxy's path.
        """
        root, names = path_of(what) if isinstance(what, RemoteObject) else (what, ())
        await self._drop_dropped()
        return RemoteObject(self, await self._request("path", (root, names, False, ""), flags=KEEP))

    def drop(self, number: int) -> None:
        """Forget a far object with the next question."""
        self._dropped.append(number)

    async def _drop_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            await self._request("drop", dropped)


def _size(pieces: list[Buffer]) -> int:
    return sum(map(len, pieces))


def _text(source: object, what: str) -> str:
    if not isinstance(source, str):
        raise TypeError(f"{what}({source!r}): give the source as str")
    return source


def _target(lane: Lane, function: object) -> object:
    if not callable(function):
        raise TypeError(f"{function!r} is not callable: give a function")
    return lane.freight.target(function)
