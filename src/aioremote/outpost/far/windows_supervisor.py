"""What stands for `supervisor` on Windows: programs are in jobs, which the kernel ends with the outpost.

There are no signals: what has to end, ends at once.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

    from .escapees import Marks
    from .windows_kernel import Job
    from .windows_outpost import WindowsOutpost

__all__ = ["PROGRAMS", "Groups", "kill"]

PROGRAMS: "dict[int, tuple[subprocess.Popen[bytes], Job]]" = {}  # by process id, from the start of each to its end


class Groups(object):
    """The programs, each with what it has started; as that of `supervisor`.

    Args:
        outpost: whose they are.
        marks: none are given.
    """

    def __init__(self, outpost: "WindowsOutpost", marks: "Marks") -> "None":
        self.marks: "Marks" = marks
        self._outpost = outpost

    def start(self) -> "None":
        """Nothing: the kernel supervises."""

    def add(self, group: "int", number: "int" = 0) -> "None":
        """Nothing: they were put into their jobs before they ran."""

    def remove(self, group: "int") -> "None":
        """Let what is left of a program that has ended live on, until the link is over."""
        _, job = PROGRAMS.pop(group, (None, None))
        if job is not None:
            job.release()

    def end(self, group: "int", done: "Callable[[list[int]], None]", number: "int" = 0) -> "None":
        """End a program with all that it has started, and call `done`."""
        if group in PROGRAMS:
            PROGRAMS[group][1].end()
        self._outpost.later(0.0, lambda: done([]))


def kill(groups: "Iterable[int]", number: "int") -> "bool":
    """Send nothing: there are no signals. The near end has been told."""
    return False
