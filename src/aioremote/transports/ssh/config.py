"""Which hosts of an ssh_config share one set of options, so that a fleet does not parse the file once a host.

This only looks at the structure; asyncssh reads the meaning. The hosts of a file with ``Match``, ``Include`` or ``%``
tokens do not share.
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass
from pathlib import Path

from aioremote.transports.ssh.settings import DEFAULT_CONFIG

__all__ = ["ConfigFile", "read_config"]

_KEYWORD = re.compile(r"^\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*?)\s*$")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What matters of one version of an ssh_config file.

    Attributes:
        path: where it is, absolute.
        version: changes when the file does.
        patterns: the patterns of each ``Host`` line, in order.
        shareable: False where options may depend on more than which ``Host`` lines match.
        keywords: every keyword that occurs, lower case.
    """

    path: str
    version: tuple[int, int, int]
    patterns: tuple[tuple[str, ...], ...]
    shareable: bool
    keywords: frozenset[str]

    def signature(self, host: str) -> tuple[object, ...]:
        """Return a key that is equal for hosts to which the same options apply."""
        if not self.shareable:
            return (self.version, host)
        return (self.version, tuple(_matches(patterns, host) for patterns in self.patterns))


def _matches(patterns: tuple[str, ...], host: str) -> bool:
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if fnmatch.fnmatchcase(host, pattern[1:]):
                return False
        elif fnmatch.fnmatchcase(host, pattern):
            found = True
    return found


_read: dict[str, ConfigFile] = {}


def read_config(path: str | None) -> ConfigFile | None:
    """Return the analysed file, cached by its version; None where the default is not there. Blocks for a small read.

    Raises:
        OSError: it cannot be read, or is not there though it is not `DEFAULT_CONFIG`.
    """
    if path is None:
        return None
    absolute = os.path.abspath(os.path.expanduser(path))
    try:
        status = os.stat(absolute)
    except FileNotFoundError:
        if path == DEFAULT_CONFIG:
            return None
        raise
    version = (status.st_mtime_ns, status.st_size, status.st_ino)
    known = _read.get(absolute)
    if known is None or known.version != version:
        known = _read[absolute] = _analyse(absolute, version, Path(absolute).read_text(errors="replace"))
    return known


def _analyse(path: str, version: tuple[int, int, int], text: str) -> ConfigFile:
    patterns: list[tuple[str, ...]] = []
    keywords: set[str] = set()
    tokens = False
    for line in text.splitlines():
        if line.lstrip().startswith("#") or (match := _KEYWORD.match(line)) is None:
            continue
        keyword, value = match[1].lower(), match[2]
        keywords.add(keyword)
        if keyword == "host":
            patterns.append(tuple(value.replace('"', "").split()))
        elif "%" in value or "${" in value:
            tokens = True
    shareable = not tokens and not keywords & {"match", "include", "canonicalizehostname"}
    return ConfigFile(path, version, tuple(patterns), shareable, frozenset(keywords))
