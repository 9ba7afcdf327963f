"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["environment", "is_busy"]

PACKAGES = ("aioremote", "asyncssh", "anyio", "cryptography", "parallel-ssh", "ClusterShell")


def environment() -> dict[str, str]:
    """Return processor, memory, system, Python and the versions of all contestants."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": f"{platform.python_version()} ({sys.implementation.name})",
        "OpenSSH": said.partition(",")[0].removeprefix("OpenSSH_").split()[0],
        "load before": f"{os.getloadavg()[0]:.1f}",
    }
    return found | {name: _version(name) for name in PACKAGES}


def is_busy() -> bool:
    """Whether others use this machine so much that figures of elapsed time mean little."""
    return os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2


def _processor() -> str:
    names = re.findall(r"(?m)^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text())
    return names[0].strip() if names else platform.machine()


def _version(package: str) -> str:
    if package == "aioremote":
        import aioremote

        return aioremote.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
