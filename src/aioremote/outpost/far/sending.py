"""What one end says: channels opened, content queued, and the order in which it is to be written.

The sending half of `wire.Wire`, which adds what the other end says. No I/O, no clock.
"""

from .flow import Chatter
from .frames import (
    ACCEPT,
    DATA,
    END,
    EOF,
    GOAWAY,
    MAX_CREDIT,
    MAX_HEADER,
    MAX_SIGNAL,
    MSG,
    OPEN,
    REJECT,
    RESET,
    SIGNAL,
    WINDOW,
    Limits,
    WireError,
    frame,
    hello,
    opening,
    reason,
)
from .outgoing import Channel, Outgoing

__all__ = ["Sender"]

LAST_CHANNEL = 2**32 - 1


class Sender(object):
    """The sending half of one end of a link.

    Args:
        limits: what the other end is allowed.
        near: whether this is the near end, whose channels have odd numbers.

    Attributes:
        greeted: the other end's HELLO has come; channels may be opened.
        over: one of the ends has said GOAWAY, or a rule was broken; no channel is left.
        closed: nothing more is taken or sent, save what `take` still returns.
        round_trip: seconds of the last ping, None before the first answer.
        missing: what the other end has said that it does not serve.
    """

    def __init__(self, limits: "Limits", *, near: "bool") -> "None":
        self.limits = limits
        self.greeted = False
        self.over: "bool" = False
        self.closed: "bool" = False
        self.round_trip: "float | None" = None
        self._mine = 1 if near else 0  # a channel number modulo 2 where this end has opened it
        self._out = Outgoing(limits.max_in_flight)
        self._out.control.append(hello(limits))
        self._chatter = Chatter(limits.max_chatter)
        self._channels: "dict[int, Channel]" = {}
        self._next = 1 if near else 2
        self._theirs = 0  # channels of the other end that are open
        self.missing: "frozenset[str]" = frozenset()
        self._their_window = 0
        self._their_most = 0
        self._left = False  # this end has said GOAWAY
        self._they_left = False  # the other end has
        self._ended: "list[int]" = []

    # what this end says

    def open(self, kind: "str", header: "bytes" = b"", *, window: "int" = 0, end: "bool" = False) -> "int":
        """Open a channel and return its number; content may follow at once.

        Args:
            kind: which service is wanted; 1 to 64 printable ASCII characters.
            header: what the service is told, at most 64 KiB.
            window: bytes that the other end may send before more is granted; 0 for the usual.
            end: this end will send nothing else.

        Raises:
            WireError: before the greeting, after the end, or where the other end takes no more channels.
        """
        if not self.greeted or self.over:
            raise WireError("no channel can be opened: the link is %s" % ("over" if self.over else "not greeted yet"))
        if len(self._channels) - self._theirs >= self._their_most:
            raise WireError("no channel can be opened: the other end takes %d at once" % self._their_most)
        if self._next > LAST_CHANNEL:
            raise WireError("no channel can be opened: all numbers have been used")
        window = window or self.limits.window
        payload = opening(kind, header, window)
        channel = Channel(self._next, self._their_window, window, mine=True)
        self._channels[channel.number] = channel
        self._next += 2
        self._out.put(channel, OPEN, END if end else 0, payload)
        return channel.number

    def accept(self, number: "int", header: "bytes" = b"") -> "None":
        """Say that a channel of the other end is served; the first content says so as well."""
        channel = self._open_channel(number)
        if channel is None:
            return
        if channel.mine or channel.answered or len(header) > MAX_HEADER:
            raise WireError("channel %d cannot be accepted (again), or its header is too long" % number)
        self._out.put(channel, ACCEPT, 0, header)

    def reject(self, number: "int", code: "int", text: "str") -> "None":
        """Refuse a channel of the other end; nothing was done."""
        channel = self._open_channel(number)
        if channel is None:
            return
        if channel.mine or channel.answered:
            raise WireError("channel %d cannot be rejected any more" % number)
        self._give_up(channel, frame(REJECT, number, reason(code, text)))

    def send(self, number: "int", data: "bytes | memoryview", *, end: "bool" = False) -> "bool":
        """Queue bytes of a stream; returns whether more is welcome (else wait for `drained`).

        A channel that has ended meanwhile takes nothing, silently: its end is told by an event.
        """
        channel = self._open_channel(number)
        if channel is None:
            return True
        if not data:
            return self._out.put(channel, EOF, 0, b"") if end else not channel.full
        return self._out.put(channel, DATA, END if end else 0, data)

    def send_message(self, number: "int", data: "bytes | memoryview", *, end: "bool" = False) -> "bool":
        """Queue one message; otherwise as `send`. Longer than a frame, it goes in pieces."""
        channel = self._open_channel(number)
        if channel is None:
            return True
        return self._out.put(channel, MSG, END if end else 0, data)

    def eof(self, number: "int") -> "None":
        """Say that this end sends nothing more on a channel. May be said again."""
        channel = self._channels.get(number)
        if channel is not None and not channel.near_ended:
            self._out.put(channel, EOF, 0, b"")

    def reset(self, number: "int", code: "int" = 0, text: "str" = "") -> "None":
        """Give a channel up, both ways; no event of it comes any more."""
        channel = self._open_channel(number)
        if channel is None:
            return
        if channel.waits_to_open():  # the other end has never heard of it
            channel.drop_items()
            channel.far_ended = channel.near_ended = True
            self._forget_if_over(channel)
        else:
            self._give_up(channel, frame(RESET, number, reason(code, text)))

    def signal(self, number: "int", data: "bytes") -> "None":
        """Send a few bytes past everything that waits in the channel."""
        if len(data) > MAX_SIGNAL:
            raise WireError("a signal has at most %d bytes, not %d" % (MAX_SIGNAL, len(data)))
        channel = self._open_channel(number)
        if channel is not None:
            self._out.urge(channel, frame(SIGNAL, number, data))

    def grant(self, number: "int", count: "int") -> "None":
        """Say that content of a channel has been used; `frames.cost` of each piece adds up to `count`."""
        channel = self._open_channel(number)
        if channel is None or channel.far_ended:
            return
        channel.returned += count
        if channel.returned * 2 >= channel.window:
            granted, channel.returned = channel.returned, 0
            if channel.allowance + granted > MAX_CREDIT:
                raise WireError("channel %d: more granted than %d" % (number, MAX_CREDIT))
            channel.allowance += granted
            self._out.urge(channel, frame(WINDOW, number, granted.to_bytes(4, "big")))

    def widen(self, number: "int", window: "int") -> "None":
        """Let the other end send up to `window` bytes ahead, where that is more than it may now."""
        channel = self._channels.get(number)
        if channel is not None and window > channel.window:
            more = min(window, MAX_CREDIT) - channel.window
            channel.window += more
            channel.returned += more
            self.grant(number, 0)

    def ping(self, now: "float") -> "int":
        """Ask for a sign of life; returns the number that its PONG event will have."""
        return self._out.ping(now)

    def goaway(self, code: "int" = 0, text: "str" = "") -> "None":
        """End the link in order, or answer the other end's GOAWAY: every channel is over."""
        if not (self._left or self.closed):
            self._left = True
            self.closed = self._they_left
            self._end_all()
            self._out.control.append(frame(GOAWAY, 0, reason(code, text)))

    # what there is to write

    def take(self, now: "float", most: "int" = 131072) -> "list[bytes | memoryview]":
        """Return the buffers to be written next, in order, about `most` bytes; empty where nothing may go now."""
        out = self._out.take(now, most)
        self._chatter.moved(sum(map(len, out)))
        finished = self._out.finished
        while finished:
            self._forget_if_over(finished.pop())
        return out

    def waits(self) -> "bool":
        """Tell whether `take` would return something."""
        return self._out.waits()

    def drained(self) -> "list[int]":
        """Return the channels whose writers may go on, once each."""
        drained, self._out.drained = self._out.drained, []
        return drained

    def ended(self) -> "list[int]":
        """Return the channels that are over at both ends, once each; no event of them comes any more."""
        ended, self._ended = self._ended, []
        return ended

    def is_open(self, number: "int") -> "bool":
        """Tell whether this end has not given the channel up, nor both have ended it."""
        return self._open_channel(number) is not None

    def queued(self, number: "int") -> "int":
        """Return how many bytes of a channel wait to be sent."""
        channel = self._channels.get(number)
        return 0 if channel is None else channel.queued

    def room(self, number: "int") -> "int":
        """Return how much credit a channel has that nothing waits for."""
        channel = self._open_channel(number)
        return 0 if channel is None or channel.queued else channel.credit

    def _open_channel(self, number: "int") -> "Channel | None":
        """Return a channel that this end has not given up, None where it is over."""
        channel = self._channels.get(number)
        return None if channel is None or channel.discarding else channel

    def _give_up(self, channel: "Channel", item: "bytes") -> "None":
        """Drop what waits and send the frame that says so; what still comes is dropped as well."""
        channel.drop_items()
        channel.near_ended = True
        channel.discarding = True
        self._out.control.append(item)
        self._forget_if_over(channel)

    def _forget_if_over(self, channel: "Channel") -> "None":
        """Forget a channel when both ends have said their last."""
        ended = channel.far_ended and channel.near_ended and not channel.items
        if ended and self._channels.pop(channel.number, None) is not None:
            self._ended.append(channel.number)
            if not channel.mine:
                self._theirs -= 1

    def _end_all(self) -> "None":
        self.over = True
        self._channels.clear()
        self._theirs = 0
        self._out.clear()
