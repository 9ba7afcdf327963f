"""Finding and ending the processes that a test server started. Linux: /proc and process descriptors.

A process is found as a descendant, by its session, or by a mark in its environment (which also finds what a parent left
behind). Signals go through process descriptors, so that a number used again is never hit.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["ProcessEntry", "descendants", "end_processes", "in_sessions", "list_processes", "marked", "owned_by"]

KILL_ROUNDS = 10  # a tree that forks while it is killed needs more than one round
KILL_SECONDS = 5.0  # a killed process is gone at once, save one that sits in the kernel


class ProcessEntry(NamedTuple):
    """One live process: numbers as in /proc/PID/stat."""

    pid: int
    parent: int
    session: int


def list_processes() -> list[ProcessEntry]:
    """Return every live process, zombies left out; some 10 ms for a hundred.

    Source: proc(5), /proc/PID/stat: the name stands in parentheses and may hold anything; then state, ppid, pgrp,
        session.
    """
    found: list[ProcessEntry] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            state, parent, _group, session = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # ended meanwhile
        if state not in (b"Z", b"X"):
            found.append(ProcessEntry(int(name), int(parent), int(session)))
    return found


def descendants(roots: Iterable[int], among: Iterable[ProcessEntry]) -> set[int]:
    """Return the processes below `roots`, which are left out themselves."""
    children: dict[int, list[int]] = {}
    for entry in among:
        children.setdefault(entry.parent, []).append(entry.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


def in_sessions(sessions: Iterable[int], among: Iterable[ProcessEntry]) -> set[int]:
    """Return the processes of these sessions (see setsid(2))."""
    wanted = set(sessions)
    return {entry.pid for entry in among if entry.session in wanted}


def marked(mark: str, among: Iterable[ProcessEntry]) -> set[int]:
    """Return the processes whose first environment held `mark`, as in ``NAME=value``."""
    wanted = mark.encode()
    found: set[int] = set()
    for entry in among:
        try:
            if wanted in _read(f"/proc/{entry.pid}/environ").split(b"\0"):
                found.add(entry.pid)
        except OSError:
            continue  # ended meanwhile, or another user's
    return found - {os.getpid()}


def owned_by(uid: int) -> set[int]:
    """Return the live processes of the user `uid`, real, effective or saved (sshd's and sudo's /proc is root's)."""
    found: set[int] = set()
    for entry in list_processes():
        try:
            status = Path(f"/proc/{entry.pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        uids = status.partition("\nUid:")[2].partition("\n")[0].split()
        if str(uid) in uids:
            found.add(entry.pid)
    return found


def end_processes(find: Callable[[], set[int]], *, grace_seconds: float) -> None:
    """End what `find` returns: TERM, at most `grace_seconds`, then KILL until nothing new is found. Blocks.

    What was found once is followed to its end, even when `find` cannot see it any more (a child whose parent has gone).
    """
    watched: dict[int, int] = {}
    try:
        _watch(find(), watched)
        _send(watched, signal.SIGTERM)
        _send(watched, signal.SIGCONT)  # a stopped process takes its TERM only when it goes on
        _wait(watched, grace_seconds)
        for _ in range(KILL_ROUNDS):
            _watch(find(), watched)
            if not watched:
                return
            _send(watched, signal.SIGKILL)
            _wait(watched, KILL_SECONDS)
    finally:
        for descriptor in watched.values():
            os.close(descriptor)


def _read(path: str) -> bytes:
    """Read a file of /proc at once: no buffer, no decoder."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _watch(pids: set[int], watched: dict[int, int]) -> None:
    for pid in pids - watched.keys():
        try:
            watched[pid] = os.pidfd_open(pid)
        except ProcessLookupError:
            continue


def _send(watched: dict[int, int], number: signal.Signals) -> None:
    for descriptor in watched.values():
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue


def _wait(watched: dict[int, int], seconds: float) -> None:
    """Wait for the watched processes to end; those that did are dropped."""
    poll = select.poll()
    owners = {descriptor: pid for pid, descriptor in watched.items()}
    for descriptor in owners:
        poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + seconds
    while owners and (left := end - time.monotonic()) > 0:
        for descriptor, _event in poll.poll(left * 1000):
            poll.unregister(descriptor)
            del watched[owners.pop(descriptor)]
            os.close(descriptor)
