"""A session that leaks whatever there is to be leaked: the others live, and the daemon's own process does not grow."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest
from tests.daemon.served import Served, served

from aioremote import DaemonMachine, RemoteException, WorkerDied
from aioremote.testing.checks import until

LEAKED_BYTES = 192 * 2**20
MOST_GROWTH_BYTES = 16 * 2**20
MOST_GROWTH_DESCRIPTORS = 8  # of the daemon for one client more: its socket, its outpost's, its door

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@asynccontextmanager
async def measured(daemon: Served) -> AsyncIterator[DaemonMachine]:
    """A client that looks on; afterwards it is as well as before, and the daemon has not grown."""
    process = psutil.Process(daemon.process.pid)
    async with daemon.machine() as machine, machine.python.session() as session, machine.start("cat") as cat:
        await session.exec("kept = 41")
        async with daemon.machine() as another:
            await another.ping()
        await until(lambda: len(process.children()) == 1)
        memory, descriptors = process.memory_info().rss, process.num_fds()
        yield machine
        assert process.memory_info().rss - memory < MOST_GROWTH_BYTES
        assert process.num_fds() - descriptors <= MOST_GROWTH_DESCRIPTORS
        assert await session.eval("kept + 1") == 42
        await cat.stdin.send(b"alive")
        assert await cat.stdout.receive() == b"alive"
        async with daemon.machine() as another:
            assert (await another.run("echo", "in")).stdout == "in\n"


MEMORY = f"""
import os, resource
held = [b"x" * {LEAKED_BYTES}]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
while True:
    held.append(b"x" * 2**20)
"""
DESCRIPTORS = """
import os
held = []
while True:
    held.append(os.open(os.devnull, os.O_RDONLY))
"""
THREADS = """
import threading
held = [threading.Event() for _ in range(500)]
for one in held:
    threading.Thread(target=one.wait, daemon=True).start()
raise RuntimeError
"""


@pytest.mark.parametrize(
    ("script", "error"),
    [(MEMORY, MemoryError), (DESCRIPTORS, OSError), (THREADS, RuntimeError)],
    ids=["memory", "descriptors", "threads"],
)
async def test_a_python_session_that_leaks_is_alone(tmp_path: Path, script: str, error: type[Exception]) -> None:
    """Promise 108: one's own and one by name, while it holds all that it can have, and when it is killed for that."""
    async with served(tmp_path) as daemon:
        for name in ("", "by-name"):
            async with measured(daemon), daemon.machine() as leaking:
                async with leaking.python.session(name) as session:
                    worker = psutil.Process(await session.pid())
                    with pytest.raises(error) as caught:
                        await session.exec(script)
                    assert isinstance(caught.value, RemoteException)
                    if error is MemoryError:
                        assert worker.memory_info().rss > LEAKED_BYTES
                    worker.kill()  # what the kernel does when memory runs out
                    with pytest.raises(WorkerDied):
                        await session.eval("1")
                assert (await leaking.run("echo", "in")).stdout == "in\n"


async def test_a_client_that_leaks_programs_is_alone(tmp_path: Path) -> None:
    """Promise 108: many that do not end, and some whose output nobody reads: it stands still, nowhere kept."""
    async with served(tmp_path) as daemon, measured(daemon), daemon.machine() as leaking, AsyncExitStack() as stack:
        for words in (*[("sleep", "600")] * 20, *[("cat", "/dev/zero")] * 4):
            await stack.enter_async_context(leaking.start(*words))
        assert (await leaking.run("echo", "in")).stdout == "in\n"


async def test_sessions_that_crash_leave_nothing_in_the_daemon(tmp_path: Path) -> None:
    """Promise 108: ten of them, one after another, by an outpost that was killed."""
    async with served(tmp_path) as daemon, measured(daemon):
        process = psutil.Process(daemon.process.pid)
        descriptors, children = process.num_fds(), len(process.children())
        for _ in range(10):
            async with daemon.machine() as machine, machine.start("sleep", "600") as sleep:
                outpost = psutil.Process(sleep.pid).parent()
                assert outpost is not None
                outpost.kill()
        await until(lambda: process.num_fds() <= descriptors and len(process.children()) <= children)
