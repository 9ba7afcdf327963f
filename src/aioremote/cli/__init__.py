"""The command line: ``aioremote run``, ``shell``, ``tunnel``, ``hosts`` and ``demo``; also ``python -m aioremote``.

Not for programs: they import `aioremote`. What this package needs besides is in the extra ``cli``, and nothing of that
is imported here.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["main"]

_NEEDED = ("click", "rich")
_USAGE_STATUS = 2
_INTERRUPT_STATUS = 130


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line to its end.

    Args:
        args: the words after the program's name; None for those of this process.

    Returns:
        The exit status: 0; the far status (one host) or 1; 124 for a timeout, 255 without a connection, 2 for a command
        line that cannot be used, 130 after Ctrl-C, 141 where standard output was closed.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        words = " and ".join(missing)
        sys.stderr.write(f"aioremote: the command line needs {words}: pip install 'aioremote[cli]'\n")
        return _USAGE_STATUS
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings are for programs, and would stand between the lines of the hosts
    try:
        if os.name == "nt":
            from aioremote.cli.windows import invoke as invoke_on_windows

            return invoke_on_windows(args)
        from aioremote.cli.app import invoke

        return invoke(args)
    except KeyboardInterrupt:
        return _INTERRUPT_STATUS
