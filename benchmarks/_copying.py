"""What the benchmarks of files share: trees to copy, ssh's command line, an open ssh connection for other programs."""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from benchmarks._measure import Site

__all__ = ["PLACE", "count", "plant", "shared_ssh", "ssh_words"]

FOLDERS = 50
PLACE = "/dev/shm"  # where no disk decides


def plant(root: Path, files: int, sizes: tuple[int, int]) -> None:
    """Make so many files of random sizes, in 50 directories."""
    chance = random.Random(5)
    for number in range(files):
        path = root / f"d{number % FOLDERS}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randint(*sizes)))


def count(root: str) -> int:
    """Return how many files there are."""
    return sum(path.is_file() for path in Path(root).rglob("*"))


def ssh_words(site: Site, *options: str) -> list[str]:
    """Return the words of an ssh to the site, without the host."""
    known = f"UserKnownHostsFile={site.known_hosts}"
    return ["ssh", "-F", "none", "-p", str(site.port), "-i", site.keyfile, "-o", known, *options]


@contextlib.contextmanager
def shared_ssh(site: Site, *options: str) -> Generator[list[str]]:
    """Open a connection, and return the words of an ssh that uses it."""
    with tempfile.TemporaryDirectory() as folder:
        words = ssh_words(site, *options, "-S", f"{folder}/master")
        host = f"{site.user}@{site.hosts[0]}"
        subprocess.run([*words, "-M", "-N", "-f", host], check=True, stderr=subprocess.DEVNULL)
        try:
            yield words
        finally:
            subprocess.run([*words, "-O", "exit", host], check=True, stderr=subprocess.DEVNULL)
