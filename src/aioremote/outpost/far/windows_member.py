"""A worker of Windows, as the outpost sees it: all its calls come over its stream, one after another.

What waits for it waits here, where it can be taken back. Not for how it starts (`windows_crew`).
"""

import socket
from collections import deque

from .packets import PIN, packet
from .workers import GRACE_SECONDS, Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .owner import Owner
    from .windows_kernel import Job
    from .windows_outpost import WindowsOutpost

__all__ = ["WindowsMember"]


class WindowsMember(Member):
    """One worker.

    Attributes:
        job: what ends it with all that it has started; None until it has started.
    """

    def __init__(self, outpost: "WindowsOutpost", owner: "Owner") -> "None":
        super().__init__(outpost, owner)
        self.job: "Job | None" = None
        self._calls: "deque[bytes]" = deque()
        self._retired = False

    def sockets(self) -> "list[socket.socket]":
        """Return the worker's ends: what rings to interrupt it, and its stream."""
        return [self._taken.dup(), socket.socket(fileno=self.theirs[1])]

    def post(self, message: "bytes") -> "bool":
        """Let a call wait for its turn, which is now where nothing else runs."""
        idle = len(self.numbers) == len(self._calls)
        self._calls.append(message)
        if idle:
            self._begin()
        return True

    def _begin(self) -> "None":
        self.write(self._calls.popleft())

    def _receive(self) -> "bool":
        more = super()._receive()
        if self._calls and len(self.numbers) == len(self._calls):
            self._begin()
        return more

    def take_back(self) -> "list[bytes]":
        returned = list(self._calls)
        self._calls.clear()
        return returned

    def pin(self, *, output: "bool") -> "None":
        """Let the next calls be those of one owner alone."""
        self.write(packet(PIN, 0))

    def interrupt(self) -> "None":
        """Let the running function end, and kill what is still there after a while."""
        if not self.interrupted and not self.ended:
            self.interrupted = True
            self._outpost.holds.add(self)
            try:
                self._queue.send(b"!")
            except OSError:  # it is gone
                pass
            self._outpost.later(GRACE_SECONDS, self.kill)

    def kill(self) -> "None":
        """Kill it with all that it has started."""
        if self.job is not None:
            self.job.end()

    def retire(self) -> "None":
        """Let it end when it has nothing to do."""
        self._retired = True
        self._send()

    def _send(self) -> "None":
        super()._send()
        if self._retired and not self._unsent:
            try:
                self._stream.shutdown(socket.SHUT_WR)
            except OSError:  # it is gone
                pass
