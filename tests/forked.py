"""Work in a forked process."""

import asyncio
import gc
import os
import signal
import traceback
import warnings
from collections.abc import Awaitable, Callable

import pytest

from aioremote import ForkedConnection, Machine


async def in_a_child(work: Callable[[], Awaitable[object]]) -> None:
    """Run `work` on a loop of its own in a forked process; raises where it raises there."""
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: no child here goes on with ours
        pid = os.fork()
    if not pid:
        status = 1
        try:
            asyncio.run(work())  # type: ignore[arg-type]
            gc.collect()
            status = 0
        except BaseException:  # noqa: BLE001  # told to the parent
            os.write(write_fd, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(write_fd)
    try:
        async with asyncio.timeout(20):
            said = await asyncio.to_thread(_read_all, read_fd)
    finally:
        os.kill(pid, signal.SIGKILL)  # has ended, unless it hangs
        _, status = os.waitpid(pid, 0)
    assert status == 0, said.decode()


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


async def refused_in_a_fork(machine: Machine) -> None:
    """Promise 78: what `in_a_child` does with a machine of its parent's."""
    with pytest.raises(ForkedConnection):
        await machine.run("true")
