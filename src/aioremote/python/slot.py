"""Where a machine keeps its far Python: nothing until it is used, then a hub. Imports nothing of weight before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioremote.protocols import Transport
    from aioremote.python.hub import Hub
    from aioremote.python.interpreter import Interpreter
    from aioremote.python.requests import Place

__all__ = ["PythonSlot"]


class PythonSlot:
    """The far Python of one machine, shared with its views.

    Args:
        transport: what an outpost is launched over.
        host: the machine's name.
    """

    def __init__(self, transport: Transport, host: str) -> None:
        self._transport = transport
        self._host = host
        self._hub: Hub | None = None

    def interpreter(self, place: Callable[[], Place | None]) -> Interpreter:
        """Return an interpreter whose calls run where `place` says; asks nothing."""
        from aioremote.python.hub import Hub, launching  # with ast and pickle, for which commands do not wait
        from aioremote.python.interpreter import Interpreter
        from aioremote.transports.linked import LinkedTransport

        if self._hub is None:
            keeps = isinstance(self._transport, LinkedTransport) and self._transport.keeps_sessions
            self._hub = Hub(launching(self._transport, self._host), self._host, keeps_sessions=keeps)
        return Interpreter(self._hub, place)

    async def aclose(self) -> None:
        """End all that runs there. May be called twice."""
        if self._hub is not None:
            await self._hub.aclose()

    def abort(self) -> None:
        """Drop it at once."""
        if self._hub is not None:
            self._hub.abort()
