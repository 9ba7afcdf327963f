"""How calls end other than by a small answer: a result that gets a channel of its own, or a worker's death."""

import signal

from .handlers import CANCELLED, FAILED, Handler
from .outputs import ERR, OUT
from .owner import Owner
from .sections import join
from .values import pack_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Pool
    from .workers import Member

__all__ = ["Large", "death"]


def death(member: "Member", status: "int") -> "list[bytes]":
    """Return the sections' pieces that tell how a worker has ended."""
    code = -(status & 127) or status >> 8  # Windows has no os.WIFEXITED
    name = ""
    if code < 0:
        name = next((item.name[3:] for item in signal.Signals if item == -code), str(-code))
    told = {"code": code, "signal": name, "pid": member.pid}
    told["stdout"] = member.tails[OUT].decode("utf-8", "replace")
    told["stderr"] = member.tails[ERR].decode("utf-8", "replace")
    return [bytes(piece) for piece in join(pack_up(told))]


class Large(Handler, Owner):
    """A result that is too long to go among others: it gets a channel of its own, opened from here."""

    def __init__(self, pool: "Pool", member: "Member", number: "int", head: "bytes") -> "None":
        self._pool = pool
        self._member = member
        self._call = number
        self._outpost = pool.outpost
        member.hold(True)
        self._channel = self._outpost.open("result", pool.number.to_bytes(4, "big"), self)
        self._outpost.send(self._channel, head)

    def on_accept(self, header: "bytes") -> "None":
        self._member.hold(False)

    def on_writable(self) -> "None":
        self._member.hold(False)

    def on_piece(self, member: "Member", data: "bytes", last: "bool") -> "None":
        if not self._outpost.send(self._channel, data, end=last):
            member.hold(True)
        if last:
            member.hold(False)
            self._finish()

    def _finish(self) -> "None":
        member = self._member
        member.owner = self._pool
        self._pool.done(member, self._call)

    def on_output(self, member: "Member", which: "int", data: "bytes") -> "None":
        member.keep(which, data)

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        """The near end does not want it: the rest of it would have to be read."""
        self._member.interrupt()
        self._member.hold(False)

    def on_lost(self, text: "str") -> "None":
        self._member.interrupt()

    def on_ended(self, member: "Member", status: "int", returned: "list[bytes]") -> "None":
        self._outpost.reset(self._channel, CANCELLED if member.interrupted else FAILED, "the worker has ended")
        member.owner = self._pool
        self._pool.on_ended(member, status, returned)
