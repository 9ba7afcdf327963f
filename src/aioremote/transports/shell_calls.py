"""Small /bin/sh programs at the far end: how they are run, and what is read from what they say when they fail."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioremote.errors import file_error
from aioremote.types import ProcessSpec

if TYPE_CHECKING:
    from aioremote.errors import FileError
    from aioremote.protocols import Starter
    from aioremote.types import ExitStatus

__all__ = ["PRELUDE", "errno_in", "operand", "program", "run_program", "said_error"]

_SAID_BYTES = 64 * 1024  # of standard error, the last of it
# Exit statuses of the scripts; others are failures that only their text explains.
STATUSES = {
    40: errno.ENOENT,
    41: errno.EACCES,
    42: errno.EISDIR,
    43: errno.ENOTDIR,
    45: errno.EEXIST,
    46: errno.EINVAL,
}
# What programs say instead of the C library's text; musl's and dash's own.
_TEXTS = {
    "No such file": errno.ENOENT,
    "Directory nonexistent": errno.ENOENT,
    "Filename too long": errno.ENAMETOOLONG,
    "cannot overwrite existing file": errno.EEXIST,
    "Symbolic link loop": errno.ELOOP,
    "Cross-device link": errno.EXDEV,
    **{
        os.strerror(number): number
        for number in (
            errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL,
            errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EBUSY, errno.ELOOP,
            errno.EXDEV, errno.ETXTBSY, errno.EFBIG, errno.EMLINK, errno.EIO,
        )
    },
}  # fmt: skip
_SHORT = re.compile(r"Wrote only \d+ of \d+ bytes$")  # GNU tar, where a disk is full in the middle of a block
_OVERWRITES = re.compile(r"cannot overwrite (non-)?directory")
# A path whose folder may not be searched looks missing: find the first ancestor that exists and ask whether it may be
# entered.
PRELUDE = b"""LC_ALL=C; export LC_ALL; unset CDPATH
why_missing() {
 up=$1
 while :; do
  case $up in */*) up=${up%/*}; up=${up:-/} ;; *) up=. ;; esac
  if [ -d "$up" ]; then [ -x "$up" ] && exit 40; exit 41; fi
  if [ -e "$up" ]; then exit 43; fi
  if [ "$up" = / ] || [ "$up" = . ]; then exit 40; fi
 done
}
"""


def operand(path: bytes) -> bytes:
    """Return a path that no program takes for an option."""
    return path if path.startswith(b"/") else b"./" + path


def program(script: bytes, *operands: bytes, stdin: bool = False) -> ProcessSpec:
    """Return what starts a script, with its operands as $1 and following."""
    return ProcessSpec((b"/bin/sh", b"-c", PRELUDE + script, b"sh", *operands), stdin=stdin)


async def run_program(
    starter: Starter, script: bytes, *operands: bytes, data: bytes | None = None
) -> tuple[ExitStatus, bytes, str]:
    """Run a script to its end.

    Args:
        starter: the way to the host.
        script: for /bin/sh.
        operands: its $1 and following.
        data: its standard input.

    Returns:
        How it ended, its standard output, and the last 64 KiB of its standard error.
    """
    out, said = bytearray(), bytearray()

    def keep_last(chunk: bytes) -> None:
        said.extend(chunk)
        del said[:-_SAID_BYTES]

    far = await starter.start_process(program(script, *operands, stdin=data is not None))
    try:
        far.stdout.divert(out.extend)
        if far.stderr is not None:
            far.stderr.divert(keep_last)
        if far.stdin is not None:
            with suppress(anyio.BrokenResourceError):  # it ended early, and says why
                if data:
                    await far.stdin.send(data)
                await far.stdin.aclose()
        status = await far.wait()
    finally:
        await far.aclose()
    return status, bytes(out), said.decode(errors="surrogateescape").strip()


def said_error(host: str, path: bytes, status: ExitStatus, said: str) -> FileError:
    """Return the error for a script that failed."""
    known = STATUSES.get(status.returncode)
    if known is not None:
        return file_error(known, os.fsdecode(path), host=host)
    number = errno_in(said)
    text = said.encode(errors="surrogateescape").decode(errors="replace")[-500:]
    if number != errno.EIO and os.strerror(number) not in text:
        text = f"{os.strerror(number)}: {text}"
    return file_error(number, os.fsdecode(path), host=host, text=text or f"the far shell ended with {status}")


def errno_in(said: str) -> int:
    """Return the errno that stands at the end of a line; EIO where none does. The text itself is in the message."""
    for line in reversed(said.splitlines()):
        number = _TEXTS.get(line.rpartition(": ")[2])
        if number is not None:
            return number
        if _SHORT.search(line):
            return errno.ENOSPC
        if found := _OVERWRITES.search(line):
            return errno.ENOTDIR if found[1] else errno.EISDIR
    return errno.EIO
