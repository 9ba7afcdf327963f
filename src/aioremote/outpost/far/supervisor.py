"""Ends process groups: on request while the outpost lives, and all of them when it dies.

The groups stand in memory that the outpost shares with one forked process, the supervisor, which waits for the end of
a pipe: so a group costs no system call to add, and a supervisor that dies is replaced by one that knows them all. A
group is ended by TERM, and half a second later by KILL; other groups of its session (job control) end with it. What
leaves its session is told of as far as its parents were there, and ended with it where programs are marked
(`escapees`).
"""

import mmap
import os
import signal
import struct
import time

from .escapees import Marks, living, send, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from .serve import Outpost

__all__ = ["GRACE_SECONDS", "Groups", "kill", "open_descriptors", "stand_apart"]

GRACE_SECONDS = 0.5  # between TERM and KILL
FIRST_LOOK_SECONDS = 0.002  # the kernel tells no one when a group is empty
LONGEST_LOOK_SECONDS = 0.05
MOST_GROUPS = 16384
MOST_STARTS = 20  # of supervisors; something there ends them, if so many do not last
_SLOT = struct.Struct("=iI")  # the group, and its mark's number


class Groups(object):
    """The process groups that end with the outpost.

    Args:
        outpost: whose they are.
        marks: of programs, by which those that leave their session are found.

    A process that is forked and does not exec has to call `leave`, or its copy of the pipe keeps the supervisor from
    seeing the outpost's death.
    """

    def __init__(self, outpost: "Outpost", marks: "Marks") -> "None":
        self.marks: "Marks" = marks
        self._outpost = outpost
        self._table = mmap.mmap(-1, MOST_GROUPS * _SLOT.size)
        self._free = list(range(MOST_GROUPS - 1, -1, -1))
        self._slots: "dict[int, int]" = {}
        self._pipes: "tuple[int, int] | None" = None  # the supervisor sees the end of one, and we of the other
        self._starts = 0
        self._endings: "dict[int, _Ending]" = {}
        self._fresh: "list[int]" = []  # of these, what has not been sent TERM
        self._pause = 0.0  # between two looks, 0 while there is nothing to look for

    # which there are

    def start(self) -> "None":
        """Fork the supervisor, unless there is one; raises OSError where that cannot be."""
        if self._pipes is not None:
            return
        if self._starts >= MOST_STARTS:
            raise OSError("no supervisor lasts here: %d have died" % self._starts)
        lifeline, ours = os.pipe()
        watched, theirs = os.pipe()
        self._pipes = watched, ours
        try:
            if not os.fork():
                _supervise(lifeline, theirs, self._table, self.marks)
        except OSError:
            self.leave()
            raise
        finally:
            os.close(lifeline)
            os.close(theirs)
        self._starts += 1
        self._outpost.watch(watched, self._on_death)

    def leave(self) -> "None":
        """Forget all this in a forked child that is not to be watched itself."""
        if self._pipes is not None:
            for fd in self._pipes:
                os.close(fd)
            self._pipes = None

    def add(self, group: "int", number: "int" = 0) -> "None":
        """Have a group ended when the outpost dies; to be called before anybody else is told of it.

        Args:
            group: its number.
            number: of its mark, 0 for none.
        """
        self.start()
        if group not in self._slots:
            if not self._free:
                raise OSError("%d process groups, and no room for more" % MOST_GROUPS)
            slot = self._slots[group] = self._free.pop()
            _SLOT.pack_into(self._table, slot * _SLOT.size, group, number)

    def remove(self, group: "int") -> "None":
        """Let a group be: it has ended, or what is left of it may live on."""
        slot = self._slots.pop(group, None)
        if slot is not None:
            _SLOT.pack_into(self._table, slot * _SLOT.size, 0, 0)
            self._free.append(slot)

    def _on_death(self, _: "int") -> "None":
        """Replace the supervisor, which has died."""
        if self._pipes is not None:
            self._outpost.watch(self._pipes[0], self._on_death, 0)
            self.leave()
        if not self._outpost.ending:
            self._outpost.complain("aioremote: the supervisor has died\n")
            self.start()

    # ending them

    def end(self, group: "int", done: "Callable[[list[int]], None]", number: "int" = 0) -> "None":
        """End a group, and who bears the mark of that number.

        `done` is called when nothing of them is left, at the latest when they have been sent KILL, with the processes
        that have left the session and live on.
        """
        if group in self._endings:
            return
        if not self._fresh:
            self._outpost.later(0.0, self._begin)
        self._fresh.append(group)
        self._endings[group] = _Ending(time.monotonic() + GRACE_SECONDS, done, number)

    def _begin(self) -> "None":
        """Send TERM to what is to end; who belongs to it can only be seen before."""
        fresh, self._fresh = self._fresh, []
        for group, (groups, away) in survey(fresh).items():
            ending = self._endings[group]
            ending.groups, ending.away = groups, away
            kill(groups, signal.SIGTERM)
        if not self._pause:
            self._outpost.later(FIRST_LOOK_SECONDS, self._look)
        self._pause = FIRST_LOOK_SECONDS

    def _look(self) -> "None":
        now = time.monotonic()
        self._chase()
        for group, ending in list(self._endings.items()):
            if group not in self._fresh and ending.is_over(now, self.marks):
                del self._endings[group]
                ending.done(living(ending.away - ending.strays))
        if not self._endings:
            self._pause = 0.0
            return
        first = min(ending.kill_at for ending in self._endings.values())
        self._outpost.later(max(0.0, min(self._pause, first - now)), self._look)
        self._pause = min(LONGEST_LOOK_SECONDS, self._pause * 2)

    def _chase(self) -> "None":
        """Look for those that have left their session; who is seen for the first time gets TERM."""
        numbers = {ending.number: group for group, ending in self._endings.items() if ending.number}
        for number, pids in self.marks.strays(numbers).items():
            ending = self._endings[numbers[number]]
            send(pids - ending.strays, signal.SIGTERM)
            ending.strays = pids


class _Ending(object):
    """One group on its way out."""

    __slots__ = ("away", "done", "groups", "kill_at", "number", "strays")

    def __init__(self, kill_at: "float", done: "Callable[[list[int]], None]", number: "int") -> "None":
        self.kill_at: "float" = kill_at
        self.done: "Callable[[list[int]], None]" = done
        self.groups: "set[int]" = set()  # with the others of its session
        self.away: "set[int]" = set()  # processes that came from there and have left the session
        self.number: "int" = number  # of its mark
        self.strays: "set[int]" = set()  # processes that bear it

    def is_over(self, now: "float", marks: "Marks") -> "bool":
        """Tell whether all have gone, which is enforced when their time is up."""
        if now < self.kill_at:
            return not self.strays and not any(kill((group,), 0) for group in self.groups)
        kill(self.groups, signal.SIGKILL)
        marks.kill({self.number} - {0})
        return True


def kill(groups: "Iterable[int]", number: "int") -> "bool":
    """Send a signal to groups; returns whether one of them exists."""
    found = False
    for group in groups:
        try:
            os.killpg(group, number)
            found = True
        except ProcessLookupError:
            pass
        except PermissionError:  # members of another user: there are some
            found = True
    return found


def _supervise(lifeline: "int", sign: "int", table: "mmap.mmap", marks: "Marks") -> "NoReturn":
    """Wait for the outpost's death, and end what stands in the table then; `sign` shows that this one lives."""
    try:
        stand_apart(lifeline, sign)
        while os.read(lifeline, 1):
            pass
        _end_all({group: number for group, number in _SLOT.iter_unpack(table[:]) if group > 1}, marks)
    finally:
        os._exit(0)


def stand_apart(*kept: "int") -> "None":
    """Hold nothing of the outpost but these descriptors, and outlive what ends its group."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in open_descriptors():
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass


def open_descriptors() -> "list[int]":
    """Return the descriptors of this process; the last of them may be closed already."""
    for place in ("/proc/self/fd", "/dev/fd"):
        try:
            return [int(name) for name in os.listdir(place)]
        except OSError:
            continue
    return list(range(min(65536, os.sysconf("SC_OPEN_MAX"))))


def _end_all(listed: "dict[int, int]", marks: "Marks") -> "None":
    numbers = {number: group for group, number in listed.items() if number}
    strays: "set[int]" = set()
    kill(listed, signal.SIGTERM)
    groups = {group for found, _ in survey(listed).values() for group in found}
    kill(groups.difference(listed), signal.SIGTERM)
    end, pause = time.monotonic() + GRACE_SECONDS, FIRST_LOOK_SECONDS
    while time.monotonic() < end:
        found = {pid for pids in marks.strays(numbers).values() for pid in pids}
        send(found - strays, signal.SIGTERM)
        strays = found
        if not kill(groups, 0) and not strays:
            break
        time.sleep(max(0.0, min(pause, end - time.monotonic())))
        pause = min(LONGEST_LOOK_SECONDS, pause * 2)
    kill(groups, signal.SIGKILL)
    marks.kill(numbers)
