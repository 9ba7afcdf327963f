"""Requests as they are sent: what to do, with which arguments, and what of these is not the value itself."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aioremote.errors import ShipError
from aioremote.outpost.far.packets import LARGE
from aioremote.outpost.far.sections import PICKLE, join
from aioremote.outpost.values import pack_down
from aioremote.python.handles import Callback, Items, Serving
from aioremote.python.proxies import RemoteObject, number_of

if TYPE_CHECKING:
    from aioremote.outpost.values import Buffer

__all__ = ["KEEP", "SESSION", "STREAM", "Place", "packed"]

Place = tuple[bytes | None, dict[str, bytes | None], tuple[tuple[int | None, bytes], ...]]
"""A directory, variables (None unsets one), and changes of PATH as a command's."""

_ONE = struct.Struct(">IcQ")  # the head of one section, as `far.sections.join` makes it
KEEP, STREAM, SESSION = 1, 2, 4  # as in far.running

_HANDLES = (Callback, Items, RemoteObject)
_BYTES = (bytes, bytearray)


def packed(
    what: str,
    target: object,
    arguments: tuple[Any, ...] = (),
    keywords: Mapping[str, Any] | None = None,
    *,
    flags: int = 0,
    protocol: int,
    session: object = None,
    place: Place | None = None,
) -> tuple[list[Buffer], Serving | None]:
    """Return a request's bytes, and what it may use of the near end.

    Args:
        what: "call", "eval", "exec", "path" or "drop".
        target: what of it.
        arguments, keywords: of the call.
        flags: KEEP, STREAM, SESSION.
        protocol: of pickle.
        session: whose objects may be arguments.
        place: where it runs; None for where its process is.

    Raises:
        ShipError: an argument cannot travel; nothing was sent.
    """
    keywords = keywords or {}
    handles: dict[int | str, tuple[str, int]] | None = None
    serving: Serving | None = None
    if _any(_HANDLES, arguments) or (keywords and _any(_HANDLES, keywords.values())):
        handles, serving = {}, Serving()
        arguments = tuple([_stand_in(place, value, handles, serving, session) for place, value in enumerate(arguments)])
        keywords = {name: _stand_in(name, value, handles, serving, session) for name, value in keywords.items()}
    request = (what, target, arguments, keywords, flags, handles)
    return _pieces(request if place is None else (*request, place), protocol), serving


def _pieces(request: tuple[Any, ...], protocol: int) -> list[Buffer]:
    """Pickle a request; most are small, and then in one go."""
    if not _any(_BYTES, request[2]) or not _holds_much(request[2]):
        try:
            data = pickle.dumps(request, protocol)
        except Exception as error:  # whatever a __reduce__ raises
            raise ShipError(f"the arguments cannot travel: {error}") from error
        if len(data) < LARGE:
            return [_ONE.pack(1, PICKLE, len(data)), data]
    return join(pack_down(request, protocol))


def _any(kinds: tuple[type, ...], values: Iterable[object]) -> bool:
    for value in values:  # noqa: SIM110  # a generator takes as long as the rest of a small request
        if isinstance(value, kinds):
            return True
    return False


def _holds_much(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, bytes | bytearray) and len(value) >= LARGE for value in values)


def _stand_in(
    place: int | str, value: Any, handles: dict[int | str, tuple[str, int]], serving: Serving, session: object
) -> Any:
    if isinstance(value, Callback | Items):
        handles[place] = serving.add(value)
    elif isinstance(value, RemoteObject):
        number = number_of(value, session)
        if number is None:
            raise ShipError(f"argument {place!r} stands for something that is not in this session")
        handles[place] = "object", number
    else:
        return value
    return None
