"""How many calls one worker may have waiting, by how long calls have taken."""

__all__ = ["LONG_SECONDS", "Pace"]

LONG_SECONDS = 0.01  # for which others wait behind a call
QUICK_SECONDS = 0.004  # of work that may wait at one worker
MAX_QUEUED = 64
FEW_QUEUED = 4  # while calls take as long as a busy machine makes them


class Pace(object):
    """The mean duration of calls, the latest counting most."""

    def __init__(self) -> "None":
        self._average = 0.0

    def done(self, seconds: "float") -> "None":
        """Take note of a call that took so long."""
        self._average += (seconds - self._average) / 16

    def stuck(self, seconds: "float") -> "None":
        """Take note of one that takes so long already."""
        self._average = max(self._average, seconds)

    def slow(self) -> "bool":
        """Tell whether calls take so long that each should have a worker."""
        return self._average > 2 * LONG_SECONDS

    def depth(self) -> "int":
        """Return how many calls one worker may have."""
        if self._average * MAX_QUEUED < QUICK_SECONDS:
            return MAX_QUEUED
        return max(int(QUICK_SECONDS / self._average), 1 if self.slow() else FEW_QUEUED)
