"""Services without a purpose of their own, to measure and to test a link with."""

from .frames import cost
from .handlers import Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .serve import Outpost

__all__ = ["Discard", "Echo", "Source"]

BLOCK = bytes(range(256)) * 1024  # 256 KiB


class Echo(Handler):
    """Sends back what comes: bytes as bytes, messages as messages, signals as signals, the end as the end."""

    def __init__(self, outpost: "Outpost", number: "int", header: "bytes") -> "None":
        self._outpost = outpost
        self._number = number
        self._pieces: "list[bytes]" = []
        self._owed = 0  # to be granted when what was sent back has gone
        outpost.accept(number, header)

    def on_data(self, data: "bytes") -> "None":
        self._return(self._outpost.send(self._number, data), cost(data))

    def on_message(self, data: "bytes", more: "bool") -> "None":
        self._pieces.append(data)
        if more:
            self._outpost.grant(self._number, cost(data))
            return
        pieces, self._pieces = self._pieces, []
        whole = b"".join(pieces) if len(pieces) > 1 else data
        self._return(self._outpost.send_message(self._number, whole), cost(data))

    def _return(self, welcome: "bool", count: "int") -> "None":
        self._owed += count
        if welcome:
            self.on_writable()

    def on_writable(self) -> "None":
        self._outpost.grant(self._number, self._owed)
        self._owed = 0

    def on_signal(self, data: "bytes") -> "None":
        self._outpost.signal(self._number, data)

    def on_eof(self) -> "None":
        self._outpost.eof(self._number)


class Discard(Handler):
    """Takes bytes, and answers their end with their count and sha256 as a message. Header "stall": takes nothing.

    A stalled one goes on at a signal.
    """

    def __init__(self, outpost: "Outpost", number: "int", header: "bytes") -> "None":
        import hashlib  # loads OpenSSL: 4 MiB, and 3 ms that an outpost without probes does not wait for

        self._outpost = outpost
        self._number = number
        self._stalled = header == b"stall"
        self._held = 0
        self._count = 0
        self._sum = hashlib.sha256()
        outpost.accept(number)

    def on_data(self, data: "bytes") -> "None":
        self._count += len(data)
        self._sum.update(data)
        self._held += cost(data)
        if not self._stalled:
            self._use()

    def _use(self) -> "None":
        self._outpost.grant(self._number, self._held)
        self._held = 0

    def on_signal(self, data: "bytes") -> "None":
        self._stalled = False
        self._use()

    def on_eof(self) -> "None":
        answer = "%d %s" % (self._count, self._sum.hexdigest())
        self._outpost.send_message(self._number, answer.encode(), end=True)


class Source(Handler):
    """Sends as many bytes as the header says (0 to 255 again and again), as fast as they are taken."""

    def __init__(self, outpost: "Outpost", number: "int", header: "bytes") -> "None":
        self._outpost = outpost
        self._number = number
        self._left = int(header)
        outpost.accept(number)
        self.on_writable()

    def on_writable(self) -> "None":
        welcome = True
        while welcome and self._left:
            block = BLOCK if self._left >= len(BLOCK) else BLOCK[: self._left]
            self._left -= len(block)
            welcome = self._outpost.send(self._number, block, end=not self._left)
