"""What a far machine says of itself: facts and processes, in one round trip each."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioremote.errors import UnsupportedError
from aioremote.types import Facts, ProcessInfo, ProcessSpec, Result

if TYPE_CHECKING:
    from aioremote.protocols import Transport

__all__ = ["PROCESSES_SCRIPT", "ask_facts", "found_processes", "read_processes"]

_FACTS = rb"""
say() { printf '%s\0' "$1"; }
say "$(uname -s)"; say "$(uname -r)"; say "$(uname -m)"; say "$(uname -n)"
say "$(id -un 2>/dev/null || echo "$USER")"; say "$(id -u 2>/dev/null || echo -1)"
say "$HOME"; say "$SHELL"
for python in python3 /usr/libexec/platform-python /usr/bin/python3 /usr/local/bin/python3; do
 found=$(command -v "$python" 2>/dev/null) && break; found=
done
say "$found"
say "$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null || echo 1)"
"""
# POSIX allows one header for each -o. busybox knows no uid, and some of its builds no -o: names are looked up here.
_PS = "ps -A -ww -o pid= -o uid= -o state= -o args="
PROCESSES_SCRIPT = rf"""
{_PS} 2>/dev/null && exit
ps -o pid,user,stat,args 2>/dev/null || ps w 2>/dev/null || ps || exit
printf '\0'; cat /etc/passwd
"""
"""What /bin/sh runs for `read_processes`."""


async def _output(transport: Transport, script: bytes) -> bytes:
    far = await transport.start_process(ProcessSpec((b"/bin/sh", b"-c", script), stdin=False))
    parts: list[bytes] = []
    try:
        with suppress(anyio.EndOfStream):
            while True:
                parts.append(await far.stdout.receive())
        await far.wait()
    finally:
        await far.aclose()
    return b"".join(parts)


async def ask_facts(transport: Transport, host: str) -> Facts:
    """Ask everything that `Facts` holds."""
    words = [os.fsdecode(word) for word in (await _output(transport, _FACTS)).split(b"\0")]
    if len(words) != 11:
        raise UnsupportedError(f"{host}: /bin/sh does not answer as a POSIX shell does", host=host)
    system, release, machine, hostname, user, uid, home, shell, python, cpus, _ = words
    return Facts(
        system=system,
        release=release,
        machine=machine,
        hostname=hostname,
        user=user,
        uid=int(uid) if uid.lstrip("-").isdigit() else -1,
        home=home,
        shell=shell,
        python=python or None,
        cpu_count=int(cpus) if cpus.isdigit() else 1,
    )


def found_processes(result: Result, host: str) -> list[ProcessInfo]:
    """Return the processes in what `PROCESSES_SCRIPT` has printed; raises UnsupportedError where there are none."""
    found = read_processes(result.stdout)
    if not found:
        said = result.stderr.strip()[:200]
        raise UnsupportedError(f"{host}: no usable ps" + (f": {said}" if said else ""), host=host)
    return found


def read_processes(text: str) -> list[ProcessInfo]:
    """Return the processes that `PROCESSES_SCRIPT` has listed, without its own.

    Takes what POSIX describes (procps, BSD, macOS): lines of pid, uid, state and command line; and tables of busybox,
    with a header, followed by NUL and the passwd file. Where a name is not in there the uid is -1, where a table has no
    state it is "?".
    """
    table, _, passwd = text.partition("\0")
    lines = table.splitlines()
    if lines and lines[0].split()[:1] == ["PID"]:
        found = _read_table(lines, _read_users(passwd))
    else:
        found = [_process(line.split(None, 3)) for line in lines]
    return [process for process in found if process is not None and _PS not in process.args]


def _process(words: list[str]) -> ProcessInfo | None:
    """Make a process of pid, uid, state and, unless it has none, its command line."""
    if len(words) < 3 or not words[0].isdigit() or not words[1].lstrip("-").isdigit():
        return None
    return ProcessInfo(int(words[0]), int(words[1]), words[2][:1], words[3].rstrip() if len(words) > 3 else "")


def _read_users(passwd: str) -> dict[str, str]:
    """Return the uid of each name; "-1" for the 8 characters that busybox shows of several names."""
    users: dict[str, str] = {}
    for line in passwd.splitlines():
        name, _, uid, *_ = [*line.split(":"), "", ""]
        shown = name[:8]
        users[shown] = uid if users.get(shown, uid) == uid else "-1"
        if name != shown:
            users[name] = uid
    return users


def _read_table(lines: list[str], users: dict[str, str]) -> list[ProcessInfo | None]:
    header, *rows = lines
    columns = header.split()
    user = columns.index("USER")
    # The state may have blanks inside, and is as wide as its column.
    width = header.index("COMMAND") - header.index("STAT") if "STAT" in columns else 0
    before = columns.index("STAT" if width else "COMMAND")
    found: list[ProcessInfo | None] = []
    for row in rows:
        words = row.split(None, before)
        if len(words) > before:
            uid = words[user] if words[user].isdigit() else users.get(words[user], "-1")
            rest = words[before]
            found.append(_process([words[0], uid, rest[:1] if width else "?", rest[width:].strip()]))
    return found
