"""Which handler stands at the near end of which channel, and how it is called. Plain calls, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from aioremote.outpost.far.frames import OPEN
from aioremote.outpost.far.handlers import FAILED, UNKNOWN, Handler, deliver

if TYPE_CHECKING:
    from aioremote.outpost.far.frames import Event
    from aioremote.outpost.far.wire import Wire

__all__ = ["Routes"]

T = TypeVar("T")


class Routes:
    """The handlers of one link.

    Args:
        wire: the link's wire, to refuse and to give up channels.
        services: what the far end may open, by kind: called with number and header, None where it has rejected it.
        report: is told what a handler raised.
    """

    def __init__(
        self,
        wire: Wire,
        services: Mapping[str, Callable[[int, bytes], Handler | None]],
        report: Callable[[Exception], None],
    ) -> None:
        self._wire = wire
        self._services = dict(services)
        self._report = report
        self._handlers: dict[int, Handler] = {}

    def add(self, number: int, handler: Handler) -> None:
        """Put a handler at the end of a channel."""
        self._handlers[number] = handler

    def serve(self, kind: str, service: Callable[[int, bytes], Handler | None]) -> None:
        """Let the far end open channels of a kind from now on."""
        self._services[kind] = service

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop the handlers of channels that are over."""
        for number in numbers:
            self._handlers.pop(number, None)

    def deliver(self, event: Event) -> None:
        """Call the handler of an event's channel; a new channel gets one first."""
        handler = self._handlers.get(event.channel)
        if handler is None:
            if event.kind == OPEN:
                self._serve(event)
            return
        try:
            deliver(handler, event)
        except Exception as error:  # noqa: BLE001
            self._break(event.channel, error)

    def writable(self, numbers: Iterable[int]) -> None:
        """Tell handlers that there is room again."""
        for number in numbers:
            if (handler := self._handlers.get(number)) is not None:
                self._guarded(number, handler.on_writable)

    def lose_all(self, text: str) -> None:
        """Tell every handler that the link is over."""
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            self._guarded(0, lambda handler=handler: handler.on_lost(text))  # type: ignore[misc]

    def _serve(self, event: Event) -> None:
        number, service = event.channel, self._services.get(event.text)
        if service is None:
            self._wire.reject(number, UNKNOWN, f"nothing here is called {event.text!r}")
        elif (handler := self._guarded(number, lambda: service(number, event.data))) is not None:
            self._handlers[number] = handler

    def _guarded(self, number: int, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # noqa: BLE001
            self._break(number, error)
            return None

    def _break(self, number: int, error: Exception) -> None:
        """End the channel whose handler has raised, and report it; nobody else suffers."""
        self._report(error)
        self._wire.reset(number, FAILED, "the handler at the near end broke")
        if (handler := self._handlers.pop(number, None)) is not None:
            handler.on_lost(f"{type(error).__name__}: {error}")
