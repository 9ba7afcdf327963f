"""What waits to be sent, and in which order it goes: control, then calls, then bulk.

Each channel keeps its own order. Among channels of a class turns are taken; bulk keeps a tenth of the link. Not for
what comes in (`wire`).
"""

from .flow import BulkCap
from .frames import (
    COUNTED,
    DATA,
    END,
    EOF,
    MORE,
    MSG,
    OPEN,
    OVERHEAD,
    PING,
    USUAL_LENGTH,
    WireError,
    frame,
    header_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
else:
    from _collections import deque  # collections takes 2 ms of a bootstrap

__all__ = ["HIGH_WATER", "Channel", "Outgoing"]

HIGH_WATER = 262144  # a channel with more than this waiting asks its writer to stop
LOW_WATER = 65536  # and to go on below this
QUANTUM = USUAL_LENGTH + OVERHEAD  # of a channel's turn
LEAST = 4096  # of a turn that is gone on with, rather than cut a piece so small
SHARE = 9  # bytes of calls for one of bulk, where both wait
CONTROL = -1  # an item that is a whole control frame


class Channel(object):
    """One channel as the wire knows it.

    Attributes:
        items: what waits to be sent, in order: (type, flags, payload, bulk).
        queued: payload bytes in it.
        credit: what this end may send; `allowance`: what the other end may.
        near_ended: this end has said, or queued, its last; `far_ended`: the other end has.
        discarding: this end has given the channel up and drops what still comes.
    """

    __slots__ = (
        "allowance",
        "answered",
        "credit",
        "discarding",
        "far_ended",
        "full",
        "in_message",
        "items",
        "mine",
        "near_ended",
        "number",
        "placed",
        "queued",
        "returned",
        "window",
    )

    def __init__(self, number: "int", credit: "int", window: "int", *, mine: "bool") -> "None":
        self.number: "int" = number
        self.mine: "bool" = mine
        self.credit: "int" = credit
        self.window: "int" = window
        self.allowance: "int" = window
        self.returned: "int" = 0  # of the allowance, not granted anew yet
        self.items: "deque[tuple[int, int, bytes | memoryview, bool]]" = deque()
        self.queued: "int" = 0
        self.full: "bool" = False
        self.placed: "bool" = False
        self.answered: "bool" = False
        self.near_ended: "bool" = False
        self.far_ended: "bool" = False
        self.discarding: "bool" = False
        self.in_message: "bool" = False

    def waits_to_open(self) -> "bool":
        """Tell whether the other end has not heard of it yet."""
        return bool(self.items) and self.items[0][0] == OPEN

    def drop_items(self) -> "None":
        """Forget what was not sent."""
        self.items.clear()
        self.queued = 0


class Outgoing(object):
    """The send queues of one end.

    Attributes:
        cap: on the bulk in flight.
        control: whole frames that go before all else.
        drained: channels whose writers may go on; whoever reads it clears it.
        finished: channels whose last frame has gone; likewise.
    """

    def __init__(self, most_in_flight: "int") -> "None":
        self.cap: "BulkCap" = BulkCap(most_in_flight)
        self.control: "deque[bytes]" = deque()
        self.drained: "list[int]" = []
        self.finished: "list[Channel]" = []
        self.asked: "int" = 0  # pings sent
        self._calls: "deque[Channel]" = deque()
        self._bulk: "deque[Channel]" = deque()
        self._arrears = 0  # what bulk has coming after much of calls

    def clear(self) -> "None":
        """Drop all that waits."""
        self.control.clear()
        self._calls.clear()
        self._bulk.clear()

    def waits(self) -> "bool":
        """Tell whether something may go now."""
        if self.control or self._calls:
            return True
        return bool(self._bulk) and (self._arrears >= QUANTUM or self.cap.room() > 0)

    def ping(self, now: "float") -> "int":
        """Queue a PING that goes before all else, and return its number."""
        self.control.append(self._ping(now))
        return self.asked

    def _ping(self, now: "float") -> "bytes":
        self.asked += 1
        self.cap.pinged(self.asked, now)
        return frame(PING, 0, self.asked.to_bytes(8, "big"))

    def urge(self, channel: "Channel", item: "bytes") -> "None":
        """Queue a control frame of a channel: before all else, but not before its OPEN."""
        if channel.waits_to_open():
            channel.items.insert(1, (CONTROL, 0, item, False))
        else:
            self.control.append(item)

    def put(self, channel: "Channel", kind: "int", flags: "int", payload: "bytes | memoryview") -> "bool":
        """Queue a frame's content; returns whether the channel's writer may go on."""
        if channel.near_ended:
            raise WireError("channel %d: nothing can be sent after its end" % channel.number)
        if not channel.mine:
            channel.answered = True
        if flags & END or kind == EOF:
            channel.near_ended = True
        bulk = kind == DATA or (kind == MSG and len(payload) > USUAL_LENGTH)
        channel.items.append((kind, flags, payload, bulk))
        channel.queued += len(payload)
        self.place(channel)
        if channel.queued > HIGH_WATER:
            channel.full = True
        return not channel.full

    def place(self, channel: "Channel") -> "None":
        """Let a channel take its turn, if it has something that it may send."""
        if channel.placed or not channel.items:
            return
        kind, _, payload, bulk = channel.items[0]
        if kind in COUNTED and channel.credit < (OVERHEAD + 1 if payload else OVERHEAD):
            return
        channel.placed = True
        (self._bulk if bulk else self._calls).append(channel)

    def take(self, now: "float", most: "int") -> "list[bytes | memoryview]":
        """Return what is to be written next, about `most` bytes of it; headers and payloads alternate."""
        out: "list[bytes | memoryview]" = list(self.control)
        self.control.clear()
        left = most
        while left > 0:
            in_arrears = bool(self._bulk) and self._arrears >= QUANTUM  # then whatever the cap says
            bulk_may = in_arrears or (bool(self._bulk) and self.cap.room() > 0)
            if self._calls and not in_arrears:
                sent = self._turn(self._calls, out)
                self._arrears = self._arrears + sent // SHARE if self._bulk else 0
            elif bulk_may:
                sent = self._turn(self._bulk, out)
                self._arrears = max(0, self._arrears - sent)
                self.cap.sent += sent
                if self.cap.wants_ping():
                    out.append(self._ping(now))
            else:
                break
            left -= sent
        return out

    def _turn(self, line: "deque[Channel]", out: "list[bytes | memoryview]") -> "int":
        """Send up to a quantum of the first channel in a line; returns the bytes."""
        channel = line.popleft()
        channel.placed = False
        bulk = line is self._bulk
        left = QUANTUM
        while left >= LEAST and channel.items and channel.items[0][3] == bulk:
            sent = self._send_first(channel, left, out)
            if not sent:
                break
            left -= sent
        if channel.items:
            self.place(channel)
        if channel.near_ended and not channel.items:
            self.finished.append(channel)
        if channel.full and channel.queued < LOW_WATER:
            channel.full = False
            self.drained.append(channel.number)
        return QUANTUM - left

    def _send_first(self, channel: "Channel", most: "int", out: "list[bytes | memoryview]") -> "int":
        """Send the first item, or as much of it as fits; returns the bytes, 0 where credit is wanting."""
        kind, flags, payload, bulk = channel.items[0]
        if kind == CONTROL:
            channel.items.popleft()
            out.append(payload)
            return len(payload)
        size = len(payload)
        if kind in COUNTED:
            if channel.credit < (OVERHEAD + 1 if size else OVERHEAD):
                return 0
            fits = min(most, channel.credit) - OVERHEAD
            if fits < size:
                view = payload if isinstance(payload, memoryview) else memoryview(payload)
                channel.items[0] = (kind, flags, view[fits:], bulk)
                payload, size, flags = view[:fits], fits, MORE if kind == MSG else 0
            else:
                channel.items.popleft()
            channel.credit -= size + OVERHEAD
        else:
            channel.items.popleft()
        channel.queued -= size
        out.append(header_of(kind, flags, channel.number, size))
        if size:
            out.append(payload)
        return size + OVERHEAD
