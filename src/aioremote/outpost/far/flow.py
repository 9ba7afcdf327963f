"""How much may be sent and taken: the cap on bulk in flight, the budget for chatter, the keepalive.

Plain arithmetic on times that the caller passes. Not for credit, which belongs to a channel (`channels`).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
else:
    from _collections import deque  # collections takes 2 ms of a bootstrap

__all__ = ["ALIVE", "LOST", "PROBE", "BulkCap", "Chatter", "Keepalive"]

MIN_IN_FLIGHT = 65536
START_IN_FLIGHT = 262144
SHORT_SECONDS = 0.01  # a queue that leaves room for more
GOOD_SECONDS = 0.02  # what a queue that was too long is brought back to
LONG_SECONDS = 0.03
GENTLY = 1.125
MANY_PINGS = 16  # in a full cap; an answer that is long under way tells of much
FEW_PINGS = 4  # where it comes at once: each costs both ends a write
ENOUGH = 4  # long round trips in a row to shrink for
PATIENCE = 16  # and as many at the smallest cap until the road itself is taken to be as long
EARN_BYTES = 1024
EARN_PER_SECOND = 100.0

ALIVE = 0
PROBE = 1
LOST = 2


class BulkCap(object):
    """Bounds the bulk bytes between the two ends, so that what is urgent never queues behind much.

    Pings travel among the bulk; each answer says that everything before its ping has arrived. The cap grows while it is
    what holds bulk back and a round trip shows a short queue: twofold until it has been too much once, then by eighths.
    It shrinks, at most to a half, when several round trips in a row show a long one.
    """

    __slots__ = (
        "_full",
        "_growth",
        "_least",
        "_marks",
        "_quickest",
        "_streak",
        "_turned_at",
        "arrived",
        "cap",
        "most",
        "sent",
    )

    def __init__(self, most: "int") -> "None":
        self.most: "int" = max(MIN_IN_FLIGHT, most)
        self.cap: "int" = min(START_IN_FLIGHT, self.most)
        self.sent: "int" = 0
        self.arrived: "int" = 0
        self._marks: "deque[tuple[int, float, int]]" = deque()  # number, when, bytes sent before it
        self._full = False  # bulk has waited for the cap since it was last changed
        self._turned_at = 0  # the mark before which an answer still tells of the old cap
        self._quickest = 1e9  # round trip ever, the road without a queue
        self._growth = 2.0
        self._streak = 0  # long round trips in a row
        self._least = 1e9  # of them

    def room(self) -> "int":
        """Return how many more bulk bytes may go now."""
        left = self.cap - (self.sent - self.arrived)
        if left <= 0:
            self._full = True
        return left

    def wants_ping(self) -> "bool":
        """Tell whether enough has gone since the last ping."""
        before = self._marks[-1][2] if self._marks else self.arrived
        parts = FEW_PINGS if self._quickest < SHORT_SECONDS else MANY_PINGS
        return self.sent - before >= max(MIN_IN_FLIGHT, self.cap // parts)

    def pinged(self, number: "int", now: "float") -> "None":
        """Take note of a ping."""
        self._marks.append((number, now, self.sent))

    def ponged(self, number: "int", now: "float") -> "float | None":
        """Take note of an answer; returns the seconds of the round trip, None where nothing was asked so."""
        if not self._marks or self._marks[0][0] != number:
            return None
        _, asked, sent = self._marks.popleft()
        self.arrived = sent
        took = max(0.0, now - asked)
        self._quickest = min(self._quickest, took)
        if number >= self._turned_at:
            self._judge(took)
        return took

    def _judge(self, took: "float") -> "None":
        queue = took - self._quickest
        if queue <= LONG_SECONDS:
            self._streak, self._least = 0, 1e9
            short = min(GOOD_SECONDS, max(SHORT_SECONDS, self._quickest / 8))  # a burst waits for itself on a long road
            if self._full and queue <= short and self.cap < self.most:
                self._turn(min(self.most, int(self.cap * self._growth)))
            return
        self._streak += 1
        self._least = min(self._least, took)
        if self._streak >= ENOUGH and self.cap > MIN_IN_FLIGHT:
            self._growth = GENTLY
            fitting = int(self.cap * (self._quickest + GOOD_SECONDS) / self._least)
            self._turn(max(MIN_IN_FLIGHT, self.cap // 2, fitting))
        elif self._streak >= PATIENCE:
            self._quickest = self._least  # so little in flight makes no such queue: the road has become longer

    def _turn(self, cap: "int") -> "None":
        self.cap = cap
        self._full = False
        self._streak, self._least = 0, 1e9
        last = self._marks[-1][0] if self._marks else 0
        self._turned_at = max(self._turned_at, last + 1)


class Chatter(object):
    """A budget for small control frames: bytes that move and time that passes earn it back."""

    __slots__ = ("_at", "_left", "_most")

    def __init__(self, most: "int") -> "None":
        self._most = float(most)
        self._left = float(most)
        self._at: "float | None" = None

    def moved(self, count: "int") -> "None":
        """Take note of bytes that came or went."""
        self._left = min(self._most, self._left + count / EARN_BYTES)

    def spend(self, now: "float") -> "bool":
        """Pay for one frame; False where the budget is used up."""
        if self._at is not None:
            self._left = min(self._most, self._left + max(0.0, now - self._at) * EARN_PER_SECOND)
        self._at = now
        self._left -= 1.0
        return self._left >= 0.0


class Keepalive(object):
    """Judges by silence whether the other end is still there.

    Args:
        interval: seconds of silence after which to ask; 0 never asks and never gives up.
        count: silent intervals that make a lost link.
        now: the time.
    """

    __slots__ = ("_asked_at", "_heard_at", "count", "due", "interval")

    def __init__(self, interval: "float", count: "int", now: "float") -> "None":
        self.interval: "float" = interval
        self.count: "int" = count
        self._heard_at = now
        self._asked_at = now
        self.due: "float" = now + interval

    def heard(self, now: "float") -> "None":
        """Take note that bytes came."""
        self._heard_at = now

    def check(self, now: "float") -> "int":
        """Return ALIVE, PROBE (send a PING) or LOST, and set `due` to when to look again.

        Whoever looks late was stopped itself (a blocked loop, a suspended computer) and has not read meanwhile: the
        silence is its own, and the count begins anew.
        """
        if not self.interval:
            return ALIVE
        if now - self.due > self.interval / 2:
            self._heard_at = now
            return self._ask(now)
        if now - self._heard_at >= self.interval * self.count:
            return LOST
        if now - max(self._heard_at, self._asked_at) >= self.interval:
            return self._ask(now)
        self._plan()
        return ALIVE

    def _ask(self, now: "float") -> "int":
        self._asked_at = now
        self._plan()
        return PROBE

    def _plan(self) -> "None":
        next_question = max(self._heard_at, self._asked_at) + self.interval
        self.due = min(next_question, self._heard_at + self.interval * self.count)
