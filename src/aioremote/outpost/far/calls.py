"""The service "call": a worker for one channel alone, for calls with output, much data, generators or callbacks.

Its bytes are packets, which go between the near end and the worker as they are; what the worker prints comes among
them. For small calls there is `pool`.
"""

import struct

from .frames import cost
from .handlers import REFUSED, Handler
from .owner import Owner
from .packets import DIED, ERROR, GONE, OUTPUT, RESULT, UNPIN, packet
from .pool import pool_of
from .results import death

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Pool
    from .serve import Outpost
    from .workers import Member

__all__ = ["HEADER", "SESSION", "SESSION_BY_NAME", "Pinned", "pinned"]

HEADER = struct.Struct(">IB")  # the channel of the pool, and which of these; a session's name may follow:
STDOUT, STDERR = 1, 2  # what is printed is wanted
WINDOW = 4194304  # bytes of arguments that may wait here
SESSION_BY_NAME = "session"  # stands among the kinds that are missing where a daemon keeps none
SESSION = 4  # several calls; the worker ends with the channel


def pinned(outpost: "Outpost", number: "int", header: "bytes") -> "Handler":
    """Serve a channel of this kind."""
    channel, flags = HEADER.unpack_from(header)
    pool = pool_of(outpost, channel)
    if pool is None:
        outpost.reject(number, REFUSED, "there is no channel %d of calls" % channel)
        return Handler()
    name = header[HEADER.size :].decode()
    if name and outpost.sessions_fd < 0:
        outpost.reject(number, REFUSED, "only a daemon keeps sessions by name")
        return Handler()
    if name:
        from .guests import join  # which only outposts of a daemon have

        return join(outpost, number, pool, flags, name)
    return Pinned(outpost, number, pool, flags)


class Pinned(Handler, Owner):
    """One channel and its worker."""

    def __init__(self, outpost: "Outpost", number: "int", pool: "Pool", flags: "int") -> "None":
        self._outpost = outpost
        self._number = number
        self._pool = pool
        self._flags = flags
        self._owed = 0
        self._early: "list[bytes]" = []
        self._ready = self._done = self._ended = self._over = False
        self._body = b""  # the kind of a long packet that is under way
        self._late: "list[tuple[int, bytes]]" = []  # output meanwhile
        self._member = self.take_worker()

    def take_worker(self) -> "Member":
        """Return the worker; it may not have started yet."""
        self.open()
        member = self._member = self._pool.lease(self)
        if member.pid:
            self.on_started(member)
        return member

    def open(self) -> "None":
        """Say that the channel is served."""
        self._outpost.accept(self._number)
        self._outpost.widen(self._number, WINDOW)

    def on_started(self, member: "Member") -> "None":
        self._ready = True
        member.pin(output=bool(self._flags & (STDOUT | STDERR)))
        early, self._early = self._early, []
        for data in early:
            self._write(data)

    # from the near end

    def on_data(self, data: "bytes") -> "None":
        self._owed += cost(data)
        if self._ready:
            self._write(data)
        else:
            self._early.append(data)

    def on_message(self, data: "bytes", more: "bool") -> "None":
        self.on_data(data)

    def _write(self, data: "bytes") -> "None":
        if self._member.write(data):
            self.on_drained(self._member)

    def on_drained(self, member: "Member") -> "None":
        self._outpost.grant(self._number, self._owed)
        self._owed = 0

    def on_signal(self, data: "bytes") -> "None":
        """A cancel: `GONE` will say that the worker has ended."""
        self._member.hold(False)
        self._member.interrupt()

    def on_eof(self) -> "None":
        self._ended = True
        self._finish_if_done()

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        self.on_lost(text)

    def on_lost(self, text: "str") -> "None":
        self._over = True
        self._member.hold(False)
        self._member.interrupt()

    def on_writable(self) -> "None":
        self._member.hold(False)

    # from the worker

    def _say(self, data: "bytes") -> "None":
        if not self._over and not self._outpost.send_message(self._number, data):
            self._member.hold(True)

    def on_packet(self, member: "Member", kind: "bytes", number: "int", packet: "bytes") -> "None":
        if kind in (RESULT, ERROR):
            member.drain()
        self._say(packet)
        if kind in (RESULT, ERROR):
            self._done = True
            self._finish_if_done()

    def on_large(self, member: "Member", kind: "bytes", number: "int", head: "bytes") -> "None":
        if kind in (RESULT, ERROR):
            member.drain()
        self._say(head)
        self._body = kind

    def on_piece(self, member: "Member", data: "bytes", last: "bool") -> "None":
        if not self._over and not self._outpost.send(self._number, data):
            member.hold(True)
        if last:
            self._done = self._done or self._body in (RESULT, ERROR)
            self._body = b""
            late, self._late = self._late, []
            for which, text in late:
                self.on_output(member, which, text)
            self._finish_if_done()

    def on_question(self, member: "Member", kind: "bytes", body: "bytes") -> "None":
        self._pool.on_question(member, kind, body)

    def on_output(self, member: "Member", which: "int", data: "bytes") -> "None":
        if self._body:
            self._late.append((which, data))
        elif self._flags & which and not self._over:
            for start in range(0, len(data), 32768):
                self._say(packet(OUTPUT, which, data[start : start + 32768]))
        else:
            member.keep(which, data)

    # the end

    def _finish_if_done(self) -> "None":
        if not self._ended or self._over or self._member.interrupted:
            return
        if self._flags & SESSION:
            self._member.write(packet(UNPIN, 0))
            self._member.retire()
        elif self._done:
            self._over = True
            self._outpost.eof(self._number)
            self._member.hold(False)
            self._member.write(packet(UNPIN, 0))
            self._pool.give_back(self._member)

    def on_ended(self, member: "Member", status: "int", returned: "list[bytes]") -> "None":
        if self._over:
            return
        if member.interrupted:
            self._say(packet(GONE, 0))
        elif not (self._flags & SESSION and self._ended):
            self._say(packet(DIED, 0, *death(member, status)))
        self._over = True
        self._outpost.eof(self._number)
