"""What a call may use of the near end: a function to call back, or items to take one after another.

Only what is wrapped in one of these can be reached from the far end, only by the call that got it, and only while that
runs. A far proxy is the opposite: `proxies`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

__all__ = ["Callback", "Items", "Serving"]

_AT_ONCE = 64  # items in one answer


class Callback:
    """A near function that a call may call: ``await m.python.call(work, Callback(report))``.

    Give it as an argument of its own, not inside of a list. The far function calls it like any other and waits for its
    result; arguments go as results do, so only plain values.

    Args:
        function: plain or async. It runs in the near loop. What it raises is raised at the far end.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} is not callable: give a function")
        self.function: Callable[..., Any] = function

    def __reduce__(self) -> Any:
        raise TypeError("a Callback goes as an argument of its own, not inside of another")


class Items:
    """Near items that a call may iterate over: ``await m.python.call(load, Items(rows))``.

    The far function gets an iterator. Items are fetched when it wants them, at most 64 ahead.

    Args:
        items: any iterable or async iterable of what pickles.
    """

    __slots__ = ("items",)

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.items: Iterable[Any] | AsyncIterable[Any] = items

    def __reduce__(self) -> Any:
        raise TypeError("Items go as an argument of their own, not inside of another")


class Serving:
    """What one call has been given.

    Attributes:
        refused: how often the far end asked for something else.
    """

    def __init__(self) -> None:
        self.refused: int = 0
        self._functions: dict[int, Callable[..., Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._functions)

    def add(self, value: Callback | Items) -> tuple[str, int]:
        """Return what stands for it in a request."""
        number = len(self._functions) + 1
        if isinstance(value, Callback):
            self._functions[number] = value.function
            return "callback", number
        self._functions[number] = _Taking(value.items).some
        return "items", number

    async def answer(self, asked: object) -> tuple[bool, Any]:
        """Do what the far end asks; returns whether that went well, and the result or the exception."""
        number, arguments, keywords = _asked(asked)
        function = self._functions.get(number)
        if function is None:
            self.refused += 1
            return False, PermissionError("the near end has not given that")
        try:
            result = function(*arguments, **keywords)
            return True, await result if inspect.isawaitable(result) else result
        except Exception as error:  # noqa: BLE001  # it is the far function's now
            return False, error


def _asked(asked: Any) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
    """Take a question apart; what is none asks for nothing that there is."""
    try:
        number, arguments, keywords = asked
        if type(number) is int and all(type(name) is str for name in keywords):
            return number, tuple(arguments), dict(keywords)
    except (TypeError, ValueError):
        pass
    return 0, (), {}


class _Taking:
    """Takes items a few at a time."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._async: AsyncIterator[Any] | None = aiter(items) if isinstance(items, AsyncIterable) else None
        self._plain: Iterator[Any] | None = None if isinstance(items, AsyncIterable) else iter(items)

    async def some(self) -> tuple[list[Any], bool]:
        """Return the next items, and whether there may be more."""
        taken: list[Any] = []
        if self._async is not None:  # one by one: the next may take its time
            async for item in self._async:
                return [item], True
            return [], False
        for item in self._plain or ():
            taken.append(item)
            if len(taken) == _AT_ONCE:
                return taken, True
        return taken, False
