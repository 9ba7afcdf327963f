"""What stands for `children` on Windows: a thread waits for each."""

import threading

from .windows_supervisor import PROGRAMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from .windows_outpost import WindowsOutpost

__all__ = ["Children"]


class Children(object):
    """The outpost's programs.

    Args:
        outpost: whose they are.
    """

    def __init__(self, outpost: "WindowsOutpost") -> "None":
        self._outpost = outpost

    def start(self) -> "None":
        """Nothing."""

    def add(self, pid: "int", callback: "Callable[[int], None]") -> "None":
        """Call `callback` with the status of a program, as a wait status, once it has ended."""
        threading.Thread(target=self._wait, args=(PROGRAMS[pid][0], callback), daemon=True).start()

    def _wait(self, process: "subprocess.Popen[bytes]", callback: "Callable[[int], None]") -> "None":
        code = process.wait()
        signed = code - 2**32 if code >= 2**31 else code  # which 32 bits hold; the near end makes it positive again
        self._outpost.post(lambda: callback(signed << 8))
