"""Meters for inside a contestant's process: CPU of it and its children, memory, how long the loop was held up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Stall", "Used", "come_first", "metered", "peak_bytes", "reset_peak", "resident_bytes", "ticking"]

TICK_SECONDS = 0.005
STATUS = Path("/proc/self/status")


@dataclass(slots=True)
class Used:
    """What a `metered` block used; complete when the block has ended."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@contextlib.contextmanager
def metered() -> Generator[Used]:
    """Measure CPU (user and system, of this process and of children that have ended) and time of a block."""
    used = Used()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    try:
        yield used
    finally:
        used.cpu_seconds = _cpu_seconds() - cpu
        used.wall_seconds = time.perf_counter() - wall


def _cpu_seconds() -> float:
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def _status_bytes(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {name}")


def resident_bytes() -> int:
    """Return the memory of this process that is resident now."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Return the most that was resident since the start or the last `reset_peak`."""
    return _status_bytes("VmHWM")


def reset_peak() -> None:
    """Let `peak_bytes` start anew. Source: proc_pid_clear_refs(5), value 5."""
    Path("/proc/self/clear_refs").write_text("5")


def come_first() -> bool:
    """Let this process have a core when it wants one, so that a stall is its own doing; False where not allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except PermissionError:
        return False
    return True


@dataclass(slots=True)
class Stall:
    """How long the loop was held up; seconds over the 5 ms that a tick takes anyway.

    Attributes:
        worst_seconds: the longest.
        worst_cpu_seconds: the most CPU that this thread used between two ticks.
        p99_seconds: 99 of 100 ticks were not later than this.
    """

    worst_seconds: float = 0.0
    worst_cpu_seconds: float = 0.0
    p99_seconds: float = 0.0

    def as_ms(self) -> dict[str, float]:
        return {
            "stall_ms": self.worst_seconds * 1e3,
            "stall_cpu_ms": self.worst_cpu_seconds * 1e3,
            "stall_p99_ms": self.p99_seconds * 1e3,
        }


@contextlib.asynccontextmanager
async def ticking() -> AsyncGenerator[Stall]:
    """Watch the running loop with a 5 ms ticker while the block runs."""
    stall, late, cpu = Stall(), [0.0], [0.0]
    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(_tick(late, cpu))
        try:
            await asyncio.sleep(TICK_SECONDS * 4)
            yield stall
            await asyncio.sleep(TICK_SECONDS * 4)
        finally:
            ticker.cancel()
            late.sort()
            stall.worst_seconds, stall.worst_cpu_seconds = late[-1], max(cpu)
            stall.p99_seconds = late[int(0.99 * (len(late) - 1))]


async def _tick(late: list[float], cpu: list[float]) -> None:
    before, used_before = time.perf_counter(), time.thread_time()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now, used = time.perf_counter(), time.thread_time()
        late.append(max(0.0, now - before - TICK_SECONDS))
        cpu.append(used - used_before)
        before, used_before = now, used
