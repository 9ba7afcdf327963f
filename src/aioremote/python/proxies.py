"""Far objects by their paths: ``await s.modules.os.path.exists("/etc")`` is one question.

A proxy is nothing but a path that can be awaited or called; it never stands in for a list or a dict. Not for near
objects at the far end (`handles`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Protocol

__all__ = ["Caller", "Held", "Modules", "RemoteObject", "number_of", "path_of"]

Root = int | str | None


class Caller(Protocol):
    """What asks the far end: an interpreter or a session."""

    async def ask_path(
        self, root: Root, names: tuple[str, ...], args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None
    ) -> Any:
        """Follow the names and return the value, or, with arguments, the result of calling it."""
        ...

    def drop(self, number: int) -> None:
        """Forget a far object, some time."""
        ...


class RemoteObject:
    """A far object, or what is reached from it by attributes.

    Attributes of it are further proxies, without a question. Awaiting one gives its value, calling one and awaiting
    that the result; both are one question. Names that begin and end with two underscores are not passed on.
    """

    __slots__ = ("_aioremote_caller", "_aioremote_holder", "_aioremote_names", "_aioremote_root")

    def __init__(self, caller: Caller, root: Root, names: tuple[str, ...] = (), holder: object = None) -> None:
        self._aioremote_caller = caller
        self._aioremote_root: Root = root
        self._aioremote_names = names
        self._aioremote_holder: object = holder or (Held(caller, root) if isinstance(root, int) else None)

    def __getattr__(self, name: str) -> RemoteObject:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        names = (*self._aioremote_names, name)
        return RemoteObject(self._aioremote_caller, self._aioremote_root, names, self._aioremote_holder)

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Return what awaits the result of calling it; the arguments are as for `Interpreter.call`."""
        return self._aioremote_caller.ask_path(self._aioremote_root, self._aioremote_names, args, kwargs)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._aioremote_caller.ask_path(self._aioremote_root, self._aioremote_names, None, None).__await__()

    def __repr__(self) -> str:
        root = self._aioremote_root
        start = f"object {root}" if isinstance(root, int) else root or ""
        return f"<far {'.'.join([*([start] if start else []), *self._aioremote_names])}>"


class Held:
    """Keeps a far object until nobody here refers to it."""

    __slots__ = ("_caller", "_number")

    def __init__(self, caller: Caller, number: int) -> None:
        self._caller = caller
        self._number = number

    def __del__(self) -> None:
        self._caller.drop(self._number)


class Modules(RemoteObject):
    """Far modules by name: ``modules.os.path.exists``. A name that is no attribute is imported."""

    __slots__ = ()

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller, None)


def number_of(value: RemoteObject, caller: object) -> int | None:
    """Return the number of a far object that one caller has."""
    plain = value._aioremote_caller is caller and not value._aioremote_names  # pyright: ignore[reportPrivateUsage]
    root = value._aioremote_root  # pyright: ignore[reportPrivateUsage]
    return root if plain and isinstance(root, int) else None


def path_of(value: RemoteObject) -> tuple[Root, tuple[str, ...]]:
    """Return where a proxy leads."""
    return value._aioremote_root, value._aioremote_names  # pyright: ignore[reportPrivateUsage]
