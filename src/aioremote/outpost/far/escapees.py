"""Finds programs that have left their session: by their parents, or by a mark in their environment. Linux.

By their parents only while these live. By a mark not what runs with another environment (``env -i``), or as another
user. How programs are ended is in `supervisor`.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Marks", "living", "send", "survey"]

NAME = b"AIOREMOTE_PROGRAM"
MOST_PASSES = 10  # over /proc, while each finds new ones


class Marks(object):
    """The marks of an outpost's programs, a number each.

    Args:
        wanted: whether programs are marked; they see it in their environment.
    """

    def __init__(self, *, wanted: "bool") -> "None":
        wanted = wanted and os.path.exists("/proc/self/environ")
        self._own = os.urandom(12).hex().encode() + b"." if wanted else b""
        self._last = 0

    def following(self) -> "int":
        """Return the number of the next program's mark, 0 for none."""
        self._last += 1 if self._own else 0
        return self._last

    def variable(self, number: "int") -> "dict[bytes, bytes]":
        """Return what a program's environment gets."""
        return {NAME: self._own + b"%d" % number} if number else {}

    def strays(self, sessions: "Mapping[int, int]") -> "dict[int, set[int]]":
        """Return who bears each mark and is not in its program's session: processes by number, sessions likewise."""
        found: "dict[int, set[int]]" = {number: set() for number in sessions}
        for pid, number in self._bearers() if found else ():
            if number in found and _session(pid) != sessions[number]:
                found[number].add(pid)
        return found

    def kill(self, numbers: "Iterable[int]") -> "None":
        """Send KILL to all who bear these marks, and to those that they have started meanwhile."""
        wanted = set(numbers)
        killed: "set[int]" = set()
        for _ in range(MOST_PASSES if wanted else 0):
            fresh = {pid for pid, number in self._bearers() if number in wanted} - killed
            if not fresh:
                break
            send(fresh, 9)
            killed |= fresh

    def _bearers(self) -> "list[tuple[int, int]]":
        """Return the processes with marks of this outpost, and the numbers of these."""
        found: "list[tuple[int, int]]" = []
        start = b"\0" + NAME + b"=" + self._own
        for pid in _pids() if self._own else ():
            try:
                with open("/proc/%d/environ" % pid, "rb") as file:
                    _, mark, rest = (b"\0" + file.read()).partition(start)
            except OSError:  # gone meanwhile, or another user's
                continue
            number = rest.partition(b"\0")[0]
            if mark and number.isdigit():
                found.append((pid, int(number)))
        return found


def survey(sessions: "Iterable[int]") -> "dict[int, tuple[set[int], set[int]]]":
    """Return the groups of each session, its own among them, and which of its processes' descendants have left it."""
    found: "dict[int, tuple[set[int], set[int]]]" = {session: ({session}, set()) for session in sessions}
    members: "dict[int, list[int]]" = {session: [] for session in found}
    children: "dict[int, list[int]]" = {}
    for pid in _pids() if found else ():
        fields = _fields(pid)
        if not fields:
            continue
        parent, group, session = map(int, fields[1:4])
        children.setdefault(parent, []).append(pid)
        if session in found:
            members[session].append(pid)
            if group > 1:
                found[session][0].add(group)
    for session, line in members.items():
        inside = set(line)
        while line:
            for pid in children.get(line.pop(), ()):
                if pid not in inside:
                    inside.add(pid)
                    found[session][1].add(pid)
                    line.append(pid)
    return found


def living(pids: "Iterable[int]") -> "list[int]":
    """Return those that still run, sorted."""
    return sorted(pid for pid in pids if (_fields(pid) or [b"Z"])[0] != b"Z")


def _pids() -> "list[int]":
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _fields(pid: "int") -> "list[bytes]":
    """Return what /proc tells of a process: its state, parent, group, session, …; nothing where it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def send(pids: "Iterable[int]", number: "int") -> "None":
    """Send a signal to single processes, as far as they are there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:  # gone meanwhile, or another user's
            pass


def _session(pid: "int") -> "int":
    try:
        return os.getsid(pid)
    except OSError:
        return -1
