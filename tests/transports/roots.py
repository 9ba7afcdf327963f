"""Small roots to enter, and a `docker` that enters them: what starts in one outlives the program that asked for it."""

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["make_docker", "make_root"]

APPLETS = (
    "sh",
    "cat",
    "env",
    "echo",
    "sleep",
    "kill",
    "ls",
    "rm",
    "id",
    "stty",
    "true",
    "false",
    "printenv",
    "head",
    "wc",
)
DOCKER = """\
#!/bin/sh
[ "$1 $2" = "exec -i" ] || exit 64
shift 2
[ -d "{roots}/$1" ] || {{ echo "Error response from daemon: No such container: $1" >&2; exit 1; }}
root={roots}/$1
shift
setsid --fork --wait chroot "$root" "$@"
"""


def make_root(folder: Path) -> Path:
    """Make a root with busybox, the libraries that it needs, and nothing else: no /proc, no Python."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is not installed"
    told = subprocess.run(["ldd", busybox], capture_output=True, text=True)  # fails where busybox is static
    for file in [busybox, *re.findall(r"(/\S+)(?= \(0x)", told.stdout)]:
        place = folder / "bin/busybox" if file == busybox else folder / file.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    for name in ("tmp", "dev", "etc"):
        (folder / name).mkdir()
    return folder


def make_docker(folder: Path, roots: Path) -> str:
    """Make the stand-in; returns its path."""
    program = folder / "docker"
    program.write_text(DOCKER.format(roots=roots))
    program.chmod(0o755)
    return str(program)
