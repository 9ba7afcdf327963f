"""Which call goes to which worker: the service "calls", one channel for all small calls of a near interpreter.

Calls of a few microseconds go to one worker in a row, since a switch between processes costs more than they do. Who
waits behind a call that takes longer is taken back and given to another worker. Not for calls with output, generators
or callbacks (`calls`).
"""

import json
import time
from collections import deque

from .crew import Crew
from .frames import cost
from .handlers import Handler
from .owner import Owner
from .pace import LONG_SECONDS, Pace
from .packets import CALL, CANCEL, DEFINE, DIED, GONE, HEAD, MODULE, Packets, packet
from .results import Large, death
from .stock import Stock
from .workers import Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .serve import Outpost

__all__ = ["Pool", "pool_of"]

MAX_MEMBERS = 64
IDLE_SECONDS = 10.0  # after which all but one of the workers that have nothing to do end
LONG_WORK_SECONDS = 0.1  # where it is running all the time: more workers would not make it faster
MAX_PACKET = 67108864  # of a shipment
MAX_WAITING = 4096  # calls, from which on the near end has to wait

_crews: "dict[Outpost, Crew]" = {}
_pools: "dict[tuple[Outpost, int], Pool]" = {}


def pool_of(outpost: "Outpost", number: "int") -> "Pool | None":
    """Return the pool that a channel stands for."""
    return _pools.get((outpost, number))


class Pool(Handler, Owner):
    """Workers that share what the near end has shipped. The header is JSON: the packages that may be asked for.

    Attributes:
        outpost, number: where its channel is.
        packages: as in the header.
    """

    def __init__(self, outpost: "Outpost", number: "int", header: "bytes") -> "None":
        if outpost not in _crews:
            _crews[outpost] = Crew(outpost)
        self._crew = _crews[outpost]
        self.outpost: "Outpost" = outpost
        self.number: "int" = number
        self.packages: "list[str]" = json.loads(header.decode())
        self._packets = Packets(MAX_PACKET)
        self._stock = Stock()
        self._waiting: "deque[tuple[int, bytes]]" = deque()
        self._members: "set[Member]" = set()
        self._idle: "list[Member]" = []
        self._starting = 0
        self._where: "dict[int, Member]" = {}
        self._hot: "Member | None" = None
        self._pace = Pace()
        self._answers: "list[bytes]" = []
        self._large: "int" = 0
        self._owed = 0
        self._finished = 0  # calls, since the last look
        self._relief = self._shrinking = False
        self._over = False
        _pools[outpost, number] = self
        outpost.accept(number)

    # from the near end

    def on_message(self, data: "bytes", more: "bool") -> "None":
        for kind, number, body in self._packets.feed(data):
            if kind == CALL:
                self._waiting.append((number, HEAD.pack(len(body), number, CALL) + body))
            elif kind == CANCEL:
                self._cancel(number)
            elif kind == DEFINE:
                self._stock.put(DEFINE, bytes(body[:16]), bytes(body[16:]))
            elif kind == MODULE:
                name, _, text = bytes(body).partition(b"\0")
                self._stock.put(MODULE, name, text)
        self._owed += cost(data)
        self._dispatch()

    def on_reset(self, code: "int", text: "str", refused: "bool") -> "None":
        self.on_lost(text)

    def on_lost(self, text: "str") -> "None":
        self._over = True
        _pools.pop((self.outpost, self.number), None)
        self._waiting.clear()
        for member in list(self._members):
            member.interrupt()

    def on_eof(self) -> "None":
        self.outpost.eof(self.number)
        self.on_lost("closed")

    # which worker

    def _dispatch(self) -> "None":
        waiting = self._waiting
        now = time.monotonic()
        while waiting:
            member = self._choose()
            if member is None or not member.post(waiting[0][1]):
                break
            number = waiting.popleft()[0]
            if not member.numbers:
                member.since = now
            member.numbers.append(number)
            self._where[number] = member
            self._hot = member
            if len(member.numbers) > 1:
                self._watch()
        if waiting and not self._idle:
            if not self._members or self._pace.slow():
                self._grow()
            self._watch()
        if self._owed and len(waiting) < MAX_WAITING:
            self.outpost.grant(self.number, self._owed)
            self._owed = 0

    def _choose(self) -> "Member | None":
        hot = self._hot
        if hot is not None and hot.numbers and len(hot.numbers) < self._pace.depth():
            return hot
        if self._idle:
            return self._idle.pop()
        return None

    def _grow(self) -> "None":
        """Start workers: as many as there are, so that few calls do not start many."""
        wanted = min(len(self._waiting), max(1, len(self._members)), MAX_MEMBERS - len(self._members))
        for _ in range(wanted - self._starting):
            self._starting += 1
            self._members.add(self._crew.start(self.packages, self))

    def _watch(self) -> "None":
        """Look after a while whether somebody waits behind a call that takes long."""
        if not self._relief and not self._over:
            self._relief = True
            self._finished = 0
            self.outpost.later(LONG_SECONDS, self._relieve)

    def _relieve(self) -> "None":
        """Take back what waits behind calls that take long; start workers where many wait for few."""
        self._relief = False
        now = time.monotonic()
        busy = False
        for member in list(self._members):
            if len(member.numbers) > 1:
                took = now - member.since
                if took >= (LONG_SECONDS if member.sleeps() else LONG_WORK_SECONDS):
                    self._pace.stuck(took)
                    self._return(member, member.take_back())
                else:
                    busy = True
        if self._waiting and not self._idle and self._finished <= len(self._waiting):
            self._grow()
        if busy:
            self._watch()
        self._dispatch()

    def _return(self, member: "Member", messages: "list[bytes]") -> "None":
        """Let calls that a worker has not begun wait again, before all others."""
        for message in reversed(messages):
            number = HEAD.unpack_from(message)[1]
            if self._where.pop(number, None) is not None:
                member.numbers.remove(number)
                self._waiting.appendleft((number, message))

    def _cancel(self, number: "int") -> "None":
        member = self._where.get(number)
        if member is not None:
            self._return(member, member.take_back())
        if number in self._where:
            assert member is not None
            member.interrupt()
            return
        before = len(self._waiting)
        self._waiting = deque(call for call in self._waiting if call[0] != number)
        if len(self._waiting) != before:
            self._say(packet(GONE, number))

    def _say(self, data: "bytes") -> "None":
        if not self._over:
            self.outpost.send_message(self.number, data)

    # from workers

    def on_started(self, member: "Member") -> "None":
        self._starting -= 1
        if self._over:
            member.interrupt()
        self._rest(member)

    def _rest(self, member: "Member") -> "None":
        self._idle.append(member)
        self._dispatch()
        self._plan_to_shrink()

    def _plan_to_shrink(self) -> "None":
        if len(self._idle) > 1 and not self._shrinking:
            self._shrinking = True
            self.outpost.later(IDLE_SECONDS, self._shrink)

    def _shrink(self) -> "None":
        """Let workers end that were not needed for a while: those that have waited longest."""
        self._shrinking = len(self._idle) > 2
        for member in self._idle[: (len(self._idle) + 1) // 2]:
            self._idle.remove(member)
            member.retire()
        if self._shrinking:
            self.outpost.later(IDLE_SECONDS, self._shrink)

    def on_packet(self, member: "Member", kind: "bytes", number: "int", packet: "bytes") -> "None":
        self._answers.append(packet)
        self.done(member, number)

    def done(self, member: "Member", number: "int") -> "None":
        """Take note that a worker has answered a call."""
        now = time.monotonic()
        self._pace.done(now - member.since)
        member.since = now
        self._finished += 1
        self._where.pop(number, None)
        if number in member.numbers:
            member.numbers.remove(number)
        if not member.numbers and not member.interrupted:
            self._idle.append(member)

    def on_read(self) -> "None":
        if self._answers:
            self._say(b"".join(self._answers))
            self._answers = []
        if self._waiting:
            self._dispatch()
        self._plan_to_shrink()

    def on_large(self, member: "Member", kind: "bytes", number: "int", head: "bytes") -> "None":
        member.owner = Large(self, member, number, head)

    def on_question(self, member: "Member", kind: "bytes", body: "bytes") -> "None":
        if self._stock.ask(kind, body, member) and kind == MODULE:
            self._say(packet(MODULE, 0, body))

    def on_output(self, member: "Member", which: "int", data: "bytes") -> "None":
        member.keep(which, data)

    def on_ended(self, member: "Member", status: "int", returned: "list[bytes]") -> "None":
        self._members.discard(member)
        if not member.pid:
            self._starting -= 1
        if member in self._idle:
            self._idle.remove(member)
        if self._hot is member:
            self._hot = None
        self._return(member, returned)
        for number in member.numbers:
            self._where.pop(number, None)
            ends = packet(GONE, number) if member.interrupted else packet(DIED, number, *death(member, status))
            self._say(ends)
        member.numbers.clear()
        if not self._over and (member.pid or self._members):
            self._dispatch()
        elif self._waiting:
            for number, _ in self._waiting:
                self._say(packet(DIED, number, *death(member, status)))
            self._waiting.clear()

    def lease(self, owner: "Owner") -> "Member":
        """Return a worker for one owner alone; it may not have started yet."""
        if self._idle:
            member = self._idle.pop()
            member.owner = owner
        else:
            member = self._crew.start(self.packages, owner)
        for which in member.tails:
            member.tails[which] = b""
        self._members.discard(member)
        return member

    def give_back(self, member: "Member") -> "None":
        """Take a worker back that has nothing to do."""
        member.owner = self
        self._members.add(member)
        if self._over:
            member.interrupt()
        elif len(self._members) > MAX_MEMBERS:
            member.retire()
        else:
            self._rest(member)
