"""A last resort: what a test server started goes away even when the test process is killed.

A shell waits for the end of a pipe that only this process holds open. Nothing else ends it but `release`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["Guard"]

# Servers are known by their directory, which stands in their command line, commands by the mark in their environment.
SCRIPT = """\
trap '' HUP INT TERM PIPE
read -r nothing
for file in $(
    grep -lsF -e "$DIRECTORY" /proc/[0-9]*/cmdline
    grep -lsF -e "$MARK" /proc/[0-9]*/environ
); do
    pid=${file#/proc/}
    pid=${pid%%/*}
    [ "$pid" = "$$" ] || kill -KILL "$pid"
done
rm -rf -- "$DIRECTORY"
"""


class Guard:
    """Ends the processes of a test server, and removes its directory, when this process dies before `release`.

    Args:
        directory: The server's own; its path stands in the command line of every server process.
        mark: ``NAME=value`` in the environment of everything else that is to be ended.
        path: Where sh's tools are looked up.
    """

    def __init__(self, directory: Path, mark: str, path: str) -> None:
        reader, self._life = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": path, "DIRECTORY": str(directory), "MARK": mark},
                start_new_session=True,
            )
        except BaseException:
            os.close(self._life)
            raise
        finally:
            os.close(reader)

    def release(self) -> None:
        """Give the guard up: everything is gone. Blocks for as long as a killed process takes to go."""
        self._process.kill()
        self._process.wait()
        os.close(self._life)
