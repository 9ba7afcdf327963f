"""What the calls of one worker share beside their values: directory, streams, environment, signals, modules."""

import os
import signal
import sys
from importlib import import_module
from os import fstat, getcwd, umask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Surroundings"]

getsignal: "Callable[[int], Any]" = import_module("_signal").getsignal  # that of signal makes an enum of it first
WATCHED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGPIPE")
SIGNALS = [int(getattr(signal, name)) for name in WATCHED if hasattr(signal, name)]  # Windows has two


class Surroundings(object):
    """What calls of one process share, and what no call may leave changed for the next.

    Looked at after every call, so only what can be compared in a microsecond or so.
    """

    def __init__(self) -> "None":
        names = ("builtins", "os", "sys", "io", "signal", "importlib")
        self._modules = [(name, sys.modules[name]) for name in names]
        self._environment: "dict[Any, Any]" = getattr(os.environ, "_data", {})  # a copy of decoded ones costs 20 us
        self._environment_before = dict(self._environment)
        self._path, self._meta_path = list(sys.path), list(sys.meta_path)
        self._before = self._now()

    def _now(self) -> "tuple[Any, ...]":
        mask = umask(0o77)
        umask(mask)
        streams = (sys.stdin, sys.stdout, sys.stderr, fstat(0).st_ino, fstat(1).st_ino, fstat(2).st_ino)
        return getcwd(), mask, streams, [getsignal(number) for number in SIGNALS]

    def changed(self) -> "bool":
        """Tell whether this process has to be replaced."""
        try:
            loaded = sys.modules
            for name, module in self._modules:
                if loaded.get(name) is not module:
                    return True
            if self._environment != self._environment_before or sys.path != self._path:
                return True
            return sys.meta_path != self._meta_path or self._now() != self._before
        except Exception:  # noqa: BLE001  # a closed descriptor, a directory that is gone
            return True
