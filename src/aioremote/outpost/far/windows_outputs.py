"""What stands for `outputs` on Windows: what a worker and its children write, through two pipes."""

from .windows_kernel import new_pipe
from .windows_pipes import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .windows_outpost import WindowsOutpost

__all__ = ["ERR", "OUT", "Outputs"]

OUT, ERR = 1, 2


class Outputs(object):
    """The outpost's ends; as that of `outputs`, but what earlier calls have left behind writes to the same pipes.

    Args:
        outpost: whose loop reads.
        take: gets what was written, and to which descriptor.

    Attributes:
        theirs: the other ends, for descriptors 1 and 2; to be closed by whoever has started the worker.
    """

    def __init__(self, outpost: "WindowsOutpost", take: "Callable[[int, bytes], None]") -> "None":
        self._take = take
        self.theirs: "list[int]" = []
        self._pipes: "list[Output]" = []
        for which in (OUT, ERR):
            ours, theirs = new_pipe()
            self.theirs.append(theirs)
            self._pipes.append(Output(outpost, ours, b"%d" % which, self._on_output))

    def _on_output(self, name: "bytes", data: "bytes") -> "None":
        if data:
            self._take(int(name), data)

    def watch(self, wanted: "bool") -> "None":
        """Read what is written, or let it wait."""
        for pipe in self._pipes:
            (pipe.resume if wanted else pipe.pause)()

    def renew(self) -> "list[int]":
        """Return nothing new: a process that runs cannot be given other pipes."""
        return []

    def drain(self) -> "None":
        """Take all that has been written until now."""
        for pipe in self._pipes:
            pipe.read_rest()

    def close(self) -> "None":
        """Read nothing more."""
        for pipe in self._pipes:
            pipe.close()
