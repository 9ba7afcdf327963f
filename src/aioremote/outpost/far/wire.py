"""The protocol between the two ends of a link: bytes in, events out, and what to write next.

One class for both ends, without I/O, clock or threads: the caller passes bytes and times. While parsing nothing is
raised: the first broken rule gives one CLOSED event that names it, and the link is dead. What the caller itself does
wrongly is a WireError. docs/explanation/wire.md has the bytes and the state tables.
"""

from .frames import (
    ACCEPT,
    CLOSED,
    DATA,
    END,
    EOF,
    GOAWAY,
    HELLO,
    MAX_CREDIT,
    MAX_HEADER,
    MAX_SIGNAL,
    MORE,
    MSG,
    NAMES,
    OPEN,
    OVERHEAD,
    PING,
    PONG,
    REJECT,
    RESET,
    SIGNAL,
    WINDOW,
    Breach,
    Event,
    Limits,
    frame,
    parse_hello,
    parse_opening,
    parse_reason,
    parse_window,
    reason,
)
from .outgoing import Channel
from .parsing import Parser
from .sending import Sender

__all__ = ["BREACH_CODE", "Wire"]

BREACH_CODE = 1  # of the GOAWAY that ends a link after a broken rule


class Wire(Sender):
    """One end of a link; see `Sender` for what it says and for the arguments."""

    def __init__(self, limits: "Limits", *, near: "bool") -> "None":
        super().__init__(limits, near=near)
        self._last_theirs = 0
        self._parser = Parser(self._on_frame)
        self._now = 0.0
        self._events: "list[Event]" = []
        self._rules = {
            OPEN: self._on_open,
            ACCEPT: self._on_accept,
            REJECT: self._on_reject,
            MSG: self._on_content,
            DATA: self._on_content,
            WINDOW: self._on_window,
            EOF: self._on_eof,
            RESET: self._on_reset,
            SIGNAL: self._on_signal,
            PING: self._on_ping,
            PONG: self._on_pong,
        }

    def receive(self, data: "bytes", now: "float") -> "list[Event]":
        """Take bytes as they came, cut anywhere, and return what they say. Raises nothing."""
        if self.closed:
            return []
        self._now = now
        self._chatter.moved(len(data))
        try:
            self._parser.feed(data)
        except Breach as breach:
            self._break_off(str(breach))
        events, self._events = self._events, []
        return events

    def _say(self, kind: "int", channel: "int" = 0, data: "bytes" = b"", number: "int" = 0, text: "str" = "") -> "None":
        self._events.append(Event(kind, channel, data, number, text))

    def _break_off(self, why: "str") -> "None":
        self._end_all()
        self.closed: "bool" = True
        self._out.control.append(frame(GOAWAY, 0, reason(BREACH_CODE, why)))
        self._say(CLOSED, text=why)

    def _on_frame(self, kind: "int", flags: "int", number: "int", payload: "bytes") -> "None":
        if self.closed:
            return
        rule = self._rules.get(kind)
        if rule is not None and self.greeted:
            if not self.over:  # what was under way at a GOAWAY is dropped
                rule(number, kind, flags, payload)
        elif kind == HELLO:
            self._on_hello(payload)
        elif not self.greeted:
            raise Breach("%s before HELLO" % NAMES[kind])
        else:
            self._on_goaway(payload)

    # the link

    def _on_hello(self, payload: "bytes") -> "None":
        if self.greeted:
            raise Breach("HELLO a second time")
        self._their_window, self._their_most, missing = parse_hello(payload)
        self.missing: "frozenset[str]" = missing
        self.greeted = True
        self._say(HELLO)

    def _on_goaway(self, payload: "bytes") -> "None":
        code, text = parse_reason(payload, GOAWAY)
        if not self.over:
            self._end_all()
        self._they_left = True
        self.closed = self._left
        self._say(GOAWAY, 0, b"", code, text)

    def _on_ping(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        self._pay(kind)
        if len(payload) != 8:
            raise Breach("PING of %d bytes, needs 8" % len(payload))
        self._out.control.append(frame(PONG, 0, payload))

    def _on_pong(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        asked = int.from_bytes(payload, "big")
        took = self._out.cap.ponged(asked, self._now) if len(payload) == 8 else None
        if took is None:
            raise Breach("PONG without its PING")
        self.round_trip: "float | None" = took
        self._say(PONG, 0, b"", asked)

    def _pay(self, kind: "int") -> "None":
        if not self._chatter.spend(self._now):
            raise Breach("%s: more control frames than the rate limit allows" % NAMES[kind])
        if len(self._out.control) > self.limits.max_owed:
            raise Breach("%s: %d answers wait and are not read" % (NAMES[kind], len(self._out.control)))

    # channels

    def _on_open(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        if number % 2 == self._mine:
            raise Breach("OPEN of channel %d, whose numbers are this end's" % number)
        if number <= self._last_theirs:
            raise Breach("OPEN of channel %d after %d: numbers must rise" % (number, self._last_theirs))
        if self._theirs >= self.limits.max_channels:
            raise Breach("OPEN of channel %d with %d open, allowed at once" % (number, self._theirs))
        window, name, header = parse_opening(payload)
        self._last_theirs = number
        self._theirs += 1
        channel = Channel(number, window, self.limits.window, mine=False)
        self._channels[number] = channel
        self._say(OPEN, number, header, 0, name)
        if flags & END:
            self._end_theirs(channel)

    def _on_accept(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._speaking(number, kind)
        if not channel.mine or channel.answered:
            raise Breach("ACCEPT of channel %d, which waits for none" % number)
        if len(payload) > MAX_HEADER:
            raise Breach("ACCEPT of %d bytes, allowed are %d" % (len(payload), MAX_HEADER))
        channel.answered = True
        if not channel.discarding:
            self._say(ACCEPT, number, payload)

    def _on_reject(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._speaking(number, kind)
        if not channel.mine or channel.answered:
            raise Breach("REJECT of channel %d, which waits for no answer" % number)
        self._over(channel, kind, payload)

    def _on_content(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._speaking(number, kind, content=True)
        takes = len(payload) + OVERHEAD
        if takes > channel.allowance:
            raise Breach(
                "%s of %d bytes on channel %d beyond its credit of %d" % (NAMES[kind], takes, number, channel.allowance)
            )
        channel.allowance -= takes
        if not payload and (kind == DATA or flags & MORE):
            raise Breach("%s without bytes on channel %d" % (NAMES[kind], number))
        if (channel.in_message and kind != MSG) or (flags & MORE and flags & END):
            raise Breach("%s breaks off a message on channel %d" % (NAMES[kind], number))
        channel.in_message = bool(flags & MORE)
        if not channel.discarding:
            self._events.append(Event(kind, number, payload, flags & MORE))
        if flags & END:
            self._end_theirs(channel)

    def _on_window(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._known(number, kind)
        granted = parse_window(payload)
        if channel is None:
            return
        channel.credit += granted
        if channel.credit > MAX_CREDIT:
            raise Breach("WINDOW brings channel %d to %d, allowed are %d" % (number, channel.credit, MAX_CREDIT))
        self._out.place(channel)

    def _on_eof(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._speaking(number, kind, content=True)
        if payload or channel.in_message:
            raise Breach("EOF with content, or within a message, on channel %d" % number)
        self._end_theirs(channel)

    def _on_reset(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._known(number, kind)
        if channel is not None:
            self._over(channel, kind, payload)

    def _on_signal(self, number: "int", kind: "int", flags: "int", payload: "bytes") -> "None":
        channel = self._known(number, kind)
        if len(payload) > MAX_SIGNAL:
            raise Breach("SIGNAL of %d bytes, allowed are %d" % (len(payload), MAX_SIGNAL))
        if channel is not None and not channel.discarding:
            self._say(SIGNAL, number, payload)

    # states of channels

    def _known(self, number: "int", kind: "int") -> "Channel | None":
        """Return the channel of a control frame, None where it has ended; either end may not know that yet."""
        self._pay(kind)
        channel = self._channels.get(number)
        newest = self._next - 2 if number % 2 == self._mine else self._last_theirs
        if number > newest or (channel is not None and channel.waits_to_open()):
            raise Breach("%s on channel %d, which was never opened" % (NAMES[kind], number))
        return channel

    def _speaking(self, number: "int", kind: "int", *, content: "bool" = False) -> "Channel":
        """Return a channel that the other end has not ended; content is an answer as well."""
        channel = self._channels.get(number)
        if channel is None or channel.far_ended or (channel.items and channel.waits_to_open()):
            raise Breach("%s on channel %d, which is not open" % (NAMES[kind], number))
        if content and channel.mine:
            channel.answered = True
        return channel

    def _end_theirs(self, channel: "Channel") -> "None":
        channel.far_ended = True
        if not channel.discarding:
            self._events.append(Event(EOF, channel.number))
        self._forget_if_over(channel)

    def _over(self, channel: "Channel", kind: "int", payload: "bytes") -> "None":
        """End a channel that the other end has given up; this end gives it up as well."""
        code, text = parse_reason(payload, kind)
        silent = channel.discarding
        if not (channel.near_ended and not channel.items):
            channel.drop_items()
            self._out.control.append(frame(RESET, channel.number, reason(0, "")))
        channel.far_ended = channel.near_ended = True
        self._forget_if_over(channel)
        if not silent:
            self._say(kind, channel.number, b"", code, text)
