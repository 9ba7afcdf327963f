"""What calls name instead of carrying it: functions by digest, packages by name.

Not for how a function becomes source (`outpost.source`).
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterable
from hashlib import sha256
from types import FunctionType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aioremote.errors import ShipError
from aioremote.outpost.library import Library
from aioremote.outpost.source import Shipment, ship

if TYPE_CHECKING:
    from aioremote.outpost.library import Module

__all__ = ["Freight", "Shelf"]

MAX_DEFINED = 1024
DIGEST_BYTES = 16


class Shelf:
    """The packages that a far end may import from here.

    Args:
        packages: those that the caller has named.

    Raises:
        ShipError: one of them is not there, or has no source.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self._libraries = [Library(packages)]
        self._tried = set(self._libraries[0].packages)

    @property
    def packages(self) -> list[str]:
        """Their top-level names."""
        return sorted({name for library in self._libraries for name in library.packages})

    def add(self, packages: Iterable[str]) -> bool:
        """Let the packages of shipped functions go too, where there is a source; returns whether that adds one."""
        new = [name for name in packages if name not in self._tried]
        self._tried.update(new)
        for name in new:
            try:
                self._libraries.append(Library([name]))
            except ShipError:  # the function itself goes without its package
                continue
        return bool(new)

    async def find(self, name: str) -> Module | None:
        """Return what may go of a module that the far end has asked for."""
        return await asyncio.to_thread(self._find, name)

    def _find(self, name: str) -> Module | None:
        for library in self._libraries:
            if (module := library.find(name)) is not None:
                return module
        return None


class Freight:
    """The functions that one far end has got, by digest.

    What is called once goes with its call, so that functions made in a loop do not pile up there.

    Args:
        version: of the far Python.
        shelf: takes the packages of functions.
        define: sends a digest with what belongs to it.
    """

    def __init__(self, version: tuple[int, ...], shelf: Shelf, define: Callable[[bytes, bytes], None]) -> None:
        self._version = version
        self._shelf = shelf
        self._define = define
        self._shipments: WeakKeyDictionary[FunctionType, tuple[Shipment, bytes]] = WeakKeyDictionary()
        self._defined: set[bytes] = set()

    def target(self, function: object) -> bytes | tuple[list[str], bytes]:
        """Return what stands for a callable in a request: its digest, or all that it needs.

        Raises:
            ShipError: it cannot go; nothing was sent.
        """
        known = self._shipments.get(function) if isinstance(function, FunctionType) else None
        if known is None or not known[0].still_holds():
            return self._first(function)
        shipment, digest = known
        if digest not in self._defined:
            if len(self._defined) >= MAX_DEFINED:
                return self._whole(shipment)
            self._define(digest, pickle.dumps(self._whole(shipment), protocol=4))
            self._defined.add(digest)
        return digest

    def _first(self, function: object) -> tuple[list[str], bytes]:
        shipment = ship(function, version=self._version)
        if isinstance(function, FunctionType) and shipment.fixed is not None:
            self._shipments[function] = shipment, sha256(shipment.data).digest()[:DIGEST_BYTES]
        return self._whole(shipment)

    def _whole(self, shipment: Shipment) -> tuple[list[str], bytes]:
        self._shelf.add(shipment.packages)
        packages = sorted(shipment.packages & set(self._shelf.packages))
        return packages, shipment.data
