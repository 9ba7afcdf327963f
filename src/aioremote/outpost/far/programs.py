"""The service "process": which programs run, and which wait for their turn. Each is a `Process`."""

import errno
from collections import deque

from .orders import StartError
from .processes import Process
from .spawning import Spawner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .serve import Outpost

__all__ = ["Processes"]

IN_ONE_TURN = 64  # starting takes until the new process has been scheduled, and nothing else is done meanwhile
FULL = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # passes when another program has ended


class Processes(object):
    """All programs of one outpost."""

    def __init__(self, outpost: "Outpost") -> "None":
        self._outpost = outpost
        self._spawner = Spawner(outpost.groups.marks)
        self._running = 0
        self._started = 0  # in this turn of the loop
        self._waiting: "deque[Process]" = deque()

    def __call__(self, outpost: "Outpost", number: "int", header: "bytes") -> "Process":
        """Serve a channel."""
        return Process(self, outpost, number, header)

    def start(self, process: "Process") -> "None":
        """Start a program when it is its turn: `Process.adopt` or `Process.refuse` is called."""
        self._waiting.append(process)
        self._go_on()

    def ended(self) -> "None":
        """Take note of an end, which makes room."""
        self._running -= 1
        self._go_on()

    def forget(self, process: "Process") -> "None":
        """Let a program wait no longer."""
        if process in self._waiting:
            self._waiting.remove(process)

    def _go_on(self) -> "None":
        while self._waiting and self._started < IN_ONE_TURN:
            process = self._waiting.popleft()
            try:
                self._outpost.groups.start()
                number = self._outpost.groups.marks.following()
                pid, fds = self._spawner.start(process.order, number)
            except StartError as error:
                process.refuse(error.what, error.number, error.path)
            except OSError as error:
                if error.errno in FULL and self._running:
                    self._waiting.appendleft(process)
                    return
                process.refuse("start", error.errno or errno.EAGAIN)
            else:
                self._running += 1
                if not self._started:
                    self._outpost.later(0.0, self._next_turn)
                self._started += 1
                process.adopt(pid, fds, number)

    def _next_turn(self) -> "None":
        self._started = 0
        self._go_on()
