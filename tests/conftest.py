"""How the suite runs: which event loop, how many examples."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import pytest

# What a shell's background or nohup ignores, the programs of the tests would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=5_000, print_blob=True)
hypothesis.settings.load_profile("suite")


def _held() -> dict[str, list[str]]:
    """Return what this process holds: descriptors, threads, children."""
    gc.collect()
    names = [
        f"{fd} {os.readlink(path)}"
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(path := f"/proc/self/fd/{fd}")
    ]
    pids = [pid for tasks in Path("/proc/self/task").glob("*/children") for pid in tasks.read_text().split()]
    children = [f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()!r}" for pid in pids]
    return {"descriptors": names, "threads": [thread.name for thread in threading.enumerate()], "children": children}


@pytest.fixture(scope="session", autouse=True)
def suite_leaves_nothing() -> Iterator[None]:
    """Promise 116: as many descriptors, threads and children after the suite as before; tasks end with their loops."""
    resource_tracker.ensure_running()  # this and libuv's pipe stay, as soon as there is any use of either
    _uvloop().close()
    before = {what: len(held) for what, held in _held().items()}
    yield
    end = time.monotonic() + 5
    while (held := _held()) and any(len(held[what]) > count for what, count in before.items()):
        assert time.monotonic() < end, f"before the suite there were {before}, after it there are {held}"
        time.sleep(0.1)


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _eager() -> asyncio.AbstractEventLoop:
    if sys.version_info < (3, 12):
        raise pytest.UsageError("eager tasks need Python 3.12")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": _uvloop, "eager": _eager}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give every test the loop named by AIOREMOTE_TEST_LOOP: asyncio (default), uvloop or eager."""
    name = os.environ.get("AIOREMOTE_TEST_LOOP", "asyncio")
    if name not in _LOOPS:
        raise pytest.UsageError(f"AIOREMOTE_TEST_LOOP={name!r}: expected one of {', '.join(_LOOPS)}")
    return {name: _LOOPS[name]}
