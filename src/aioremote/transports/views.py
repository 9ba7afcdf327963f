"""Transports around a transport: what has to be closed before the one that they go through."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioremote.protocols import Transport

__all__ = ["add_view", "close_views"]

_views: weakref.WeakKeyDictionary[Transport, weakref.WeakSet[Transport]] = weakref.WeakKeyDictionary()


def add_view(inner: Transport, view: Transport) -> None:
    """Have `view` closed by `close_views` of the transport that it goes through."""
    _views.setdefault(inner, weakref.WeakSet()).add(view)


async def close_views(transport: Transport) -> None:
    """Close every view of `transport`, which is about to be closed: afterwards nothing could end what runs there."""
    async with asyncio.TaskGroup() as group:
        for view in list(_views.get(transport, ())):
            group.create_task(view.aclose())
