"""What a call does: functions, expressions, statements, paths through modules, generators and coroutines.

Not for how calls come and go (`worker`). A request is ``(what, target, arguments, keywords, flags, handles)``, and
where it runs, if not where the worker is.
"""

import builtins
import pickle
import sys
from importlib import import_module
from types import ModuleType

from .failures import describe
from .importer import Importer
from .place import Place
from .rebuild import rebuild, remember
from .sections import JSON
from .values import Unsendable, pack_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .worker import Worker

__all__ = ["KEEP", "SESSION", "STREAM", "NearFunction", "NearItems", "Runner", "flush", "loads"]

KEEP = 1  # the result stays here, and a number for it goes back
STREAM = 2  # the result is iterated over
SESSION = 4  # names that statements bind are still there in the next call

loads: "Callable[[Any], Any]" = pickle.loads


class Runner(object):
    """Runs requests in this process.

    Args:
        worker: what asks the near end.
        packages: may be imported from the near end.

    Attributes:
        importer: of what may be imported from there.
        last_object: the number of the object that was kept last.
    """

    def __init__(self, worker: "Worker", packages: "Iterable[str]") -> "None":
        self._worker = worker
        self._functions: "dict[bytes, Any]" = {}
        self._objects: "dict[int, Any]" = {}
        self.last_object: "int" = 0
        self._space: "dict[str, Any]" = {}
        self._sources = 0
        self._loop: "Any" = None
        self.importer: "Importer" = Importer(worker.module)
        self.importer.allow(packages, {})
        self.importer.install()
        self._ways: "dict[str, Callable[..., Any]]" = {
            "call": self._call,
            "eval": self._eval,
            "exec": self._exec,
            "path": self._path,
            "place": self._stay,
            "drop": self._drop,
        }
        self.forget()

    def forget(self) -> "None":
        """End a session: its names and objects are gone."""
        self._space = _new_space()
        self._objects.clear()

    def run(
        self,
        what: "str",
        target: "Any",
        arguments: "Any",
        keywords: "Any",
        flags: "int",
        handles: "dict[Any, tuple[str, int]] | None",
        place: "tuple[Any, ...] | None" = None,
    ) -> "Any":
        """Return the result of a request, a plain value where that can be."""
        if place is None:
            return self._run(what, target, arguments, keywords, flags, handles)
        with Place(*place):
            return self._run(what, target, arguments, keywords, flags, handles)

    def _run(
        self,
        what: "str",
        target: "Any",
        arguments: "Any",
        keywords: "Any",
        flags: "int",
        handles: "dict[Any, tuple[str, int]] | None",
    ) -> "Any":
        if handles:
            arguments = list(arguments)
            for place in handles:
                given: "Any" = arguments if isinstance(place, int) else keywords
                given[place] = self._real(*handles[place])
        if not flags & SESSION:
            self._space = _new_space()
        result = self._ways[what](target, arguments, keywords)
        if flags & STREAM:
            return self._stream(result)
        if hasattr(result, "__await__"):
            result = self._await(result)
        if flags & KEEP:
            self.last_object += 1
            self._objects[self.last_object] = result
            return self.last_object
        return result

    def describe(self, error: "BaseException") -> "list[tuple[bytes, bytes | bytearray | memoryview]]":
        """Return an exception as sections, whatever is in it."""
        told = describe(error)
        if isinstance(error, Unsendable):
            told["unsendable"] = True
        try:
            return pack_up(told)
        except Exception:  # noqa: BLE001  # too much of it
            return [(JSON, b'{"type": "builtins.Exception", "text": "an exception that cannot be described"}')]

    # the ways

    def _call(self, target: "Any", arguments: "Any", keywords: "Any") -> "Any":
        if not isinstance(target, bytes):
            function = self._built(target)
        elif target in self._functions:
            function = self._functions[target]
        else:
            function = self._functions[target] = self._built(loads(self._worker.function(target)))
        return function(*arguments, **keywords)

    def _built(self, shipment: "tuple[list[str], bytes]") -> "Any":
        packages, data = shipment
        self.importer.allow(packages, {})
        return rebuild(data)

    def _eval(self, source: "str", arguments: "Any", keywords: "Any") -> "Any":
        return eval(self._compiled(source, "eval"), self._space)  # noqa: S307  # the near end has a shell anyway

    def _exec(self, source: "str", arguments: "Any", keywords: "Any") -> "None":
        exec(self._compiled(source, "exec"), self._space)

    def _compiled(self, source: "str", mode: "str") -> "Any":
        self._sources = (self._sources + 1) % 100
        name = "<%s %d>" % (mode, self._sources)
        remember(name, source)
        return compile(source, name, mode, dont_inherit=True)

    def _path(self, target: "tuple[Any, tuple[str, ...], bool, str]", arguments: "Any", keywords: "Any") -> "Any":
        root, names, called, bind = target
        found = self._find(root, names)
        if bind:
            self._space[bind] = found
        return found(*arguments, **keywords) if called else found

    def _find(self, root: "int | str | None", names: "tuple[str, ...]") -> "Any":
        """Follow names from an object, an expression's value, or the module that the first of them is."""
        if isinstance(root, int):
            found = self._objects[root]
        elif root is not None:
            found = self._named(root)
        else:
            found, names = import_module(names[0]), names[1:]
        for name in names:
            try:
                found = getattr(found, name)
            except AttributeError:
                if not isinstance(found, ModuleType) or not hasattr(found, "__path__"):
                    raise
                found = import_module(found.__name__ + "." + name)
        return found

    def _named(self, name: "str") -> "Any":
        first = name.partition(".")[0]
        if first.isidentifier() and first not in self._space and not hasattr(builtins, first):
            return self._find(None, tuple(name.split(".")))
        return self._eval(name, (), {})

    def _drop(self, numbers: "list[int]", arguments: "Any", keywords: "Any") -> "None":
        for number in numbers:
            self._objects.pop(number, None)

    def _stay(self, place: "tuple[Any, ...]", arguments: "Any", keywords: "Any") -> "None":
        """Go to where a session begins; its process is not used again after it."""
        Place(*place).__enter__()

    # what the near end has

    def _real(self, kind: "str", number: "int") -> "Any":
        if kind == "object":
            return self._objects[number]
        return NearItems(self._worker, number) if kind == "items" else NearFunction(self._worker, number)

    # results that are not there yet

    def _await(self, awaitable: "Any") -> "Any":
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        loop = self._loop
        task = loop.create_task(_wait_for(awaitable))
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # a cancel: let its ``finally`` run
                task.cancel()
                _settle(loop, task)
            raise

    def _stream(self, result: "Any") -> "None":
        if hasattr(result, "__anext__") or hasattr(result, "__aiter__"):
            self._stream_async(result)
            return
        try:
            for item in result:
                if not self._worker.give(item):
                    break
        finally:
            if hasattr(result, "close"):
                result.close()

    def _stream_async(self, result: "Any") -> "None":
        items = result.__aiter__()
        try:
            while True:
                try:
                    item = self._await(_one(items))
                except _Ended:
                    break
                if not self._worker.give(item):
                    break
        finally:
            if hasattr(items, "aclose"):
                self._await(items.aclose())


class _Ended(Exception):
    """An asynchronous iterator has no more."""


async def _wait_for(awaitable: "Any") -> "Any":
    return await awaitable


async def _one(items: "Any") -> "Any":
    try:
        return await items.__anext__()
    except StopAsyncIteration:
        raise _Ended from None


def _settle(loop: "Any", task: "Any") -> "None":
    try:
        loop.run_until_complete(task)
    except BaseException:  # noqa: BLE001, S110  # the first one counts
        pass


def _new_space() -> "dict[str, Any]":
    return {"__name__": "__aioremote__", "__builtins__": builtins}


class NearFunction(object):
    """Calls a function of the near end and waits for what it returns."""

    def __init__(self, worker: "Worker", number: "int") -> "None":
        self._worker = worker
        self._number = number

    def __call__(self, *arguments: "Any", **keywords: "Any") -> "Any":
        went_well, value = self._worker.ask(self._number, arguments, keywords)
        if went_well:
            return value
        raise value


class NearItems(NearFunction):
    """Iterates over what the near end gives, a few items at a time."""

    def __iter__(self) -> "Any":
        while True:
            items, more = self()
            for item in items:
                yield item
            if not more:
                return


def flush() -> "None":
    """Pass on what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S110  # closed, or replaced by whatever
            pass
