"""When output is given up that another process holds open after a program's own end. Not for reading it."""

from __future__ import annotations

__all__ = ["AGAIN_SECONDS", "DRAIN_SECONDS", "Drain"]

DRAIN_SECONDS = 0.5  # after the program's end, and between two looks at what keeps coming
AGAIN_SECONDS = 0.01  # between two looks where all that the program has written is here already


class Drain:
    """Judges from look to look whether all has come that a program has written.

    Its last words may wait, in a pipe or on their way, while this loop stands still or their reader is slow. So nothing
    is given up before two looks in a row have found nothing new: in between the loop has read what there was.

    Args:
        most_bytes: that can be the program's own after its end; what comes beyond is somebody else's.
        most_looks: that may find something new.
        quiet_looks: in a row that find nothing.
    """

    __slots__ = ("_found", "_most_bytes", "_most_looks", "_quiet", "_quiet_looks", "_seen")

    def __init__(self, most_bytes: int, *, most_looks: int, quiet_looks: int = 2) -> None:
        self._most_bytes = most_bytes
        self._most_looks = most_looks
        self._quiet_looks = quiet_looks
        self._seen = 0
        self._found = 0
        self._quiet = 0

    @property
    def is_quiet(self) -> bool:
        """Whether the last look has found nothing new."""
        return self._quiet > 0

    def is_over(self, came: int, *, slow: bool) -> bool:
        """Look, and return whether nothing of the program is left to come.

        Args:
            came: bytes since its end.
            slow: whether they are held back, since their reader is slow.
        """
        if slow:
            self._quiet = 0
        elif self._seen < came < self._most_bytes and self._found < self._most_looks:
            self._quiet = 0
            self._found += 1
        else:
            self._quiet += 1
        self._seen = came
        return self._quiet >= self._quiet_looks
