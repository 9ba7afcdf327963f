"""What stands at an end of a channel: plain calls when something comes, the same for both ends of a link."""

from .frames import ACCEPT, DATA, EOF, MSG, REJECT, RESET, SIGNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .frames import Event

__all__ = ["CANCELLED", "FAILED", "REFUSED", "UNKNOWN", "Handler", "deliver"]

CANCELLED = 0  # codes of REJECT and RESET: given up, not wanted any more
REFUSED = 1  # not served; nothing was done
UNKNOWN = 2  # no such service
FAILED = 3  # the service broke; how much was done is not known


class Handler(object):
    """Serves, or uses, one channel. No method may block, and none is called after `on_reset` or `on_lost`.

    Content that was used up has to be granted anew (`grant` with `frames.cost` of each piece), or the sender stops.
    """

    __slots__ = ()

    def on_accept(self, header: "bytes") -> "None":
        """The other end serves the channel; it may say so by content alone."""

    def on_data(self, data: "bytes") -> "None":
        """Bytes of the stream."""

    def on_message(self, data: "bytes", more: "bool") -> "None":  # called for each piece
        """A message, or a piece of one where `more` follows."""

    def on_signal(self, data: "bytes") -> "None":
        """A few bytes that overtook all others."""

    def on_eof(self) -> "None":
        """The other end sends nothing more."""

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        """The other end has given the channel up; `refused` where it never began."""

    def on_writable(self) -> "None":
        """After a send that returned False: there is room again."""

    def on_lost(self, text: "str") -> "None":
        """The link is over, and with it the channel."""


def deliver(handler: "Handler", event: "Event") -> "None":
    """Call what belongs to an event of a channel."""
    kind = event.kind
    if kind == DATA:
        handler.on_data(event.data)
    elif kind == MSG:
        handler.on_message(event.data, bool(event.number))
    elif kind == EOF:
        handler.on_eof()
    elif kind == ACCEPT:
        handler.on_accept(event.data)
    elif kind == SIGNAL:
        handler.on_signal(event.data)
    elif kind in (RESET, REJECT):
        handler.on_reset(event.number, event.text, kind == REJECT)
