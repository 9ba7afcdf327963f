"""A daemon on Windows, behind a named pipe; `nox -s wine` runs these, under Wine."""

import asyncio
import os
import platform
import re
import secrets
from pathlib import Path

import pytest
from tests.wine import far_functions
from tests.wine.conftest import PIPE
from tests.wine.road import machine_behind
from tests.wine.windows import HERE, Windows, shown

from aioremote import Callback, ClosedError, ConnectionLost, Machine, UnsupportedError, WorkerDied
from aioremote.testing.checks import marked_processes, until

pytestmark = pytest.mark.timeout(180)


async def stay_until_lost(machine: Machine, mark: str) -> None:
    with pytest.raises((ClosedError, ConnectionLost)):
        await machine.python.call(far_functions.stay, mark)


async def test_functions_run_in_windows(machine: Machine) -> None:
    assert await machine.python.call(platform.system) == "Windows"
    assert await machine.python.call(os.path.join, "a", "b") in ("a/b", "a\\b")
    assert await machine.ping() < 5


async def test_results_and_arguments_of_all_sizes_come_through(machine: Machine) -> None:
    for size in (0, 1, 40_000, 5_000_000):
        data = secrets.token_bytes(size)
        assert await machine.python.call(bytes, data) == data


async def test_many_calls_at_once_are_spread_over_workers(machine: Machine) -> None:
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(machine.python.call(far_functions.nap, 0.2)) for _ in range(8)]
    assert len({call.result() for call in calls}) > 1


async def test_what_a_call_and_its_children_print_comes_before_its_result(machine: Machine) -> None:
    out, err = bytearray(), bytearray()
    talking = machine.python.with_options(stdout=out.extend, stderr=err.extend)
    for _ in range(3):
        out.clear()
        err.clear()
        await talking.call(far_functions.speak, "hello")
        assert (bytes(out).split(), bytes(err).split()) == ([b"hello", b"child", b"end"], [b"error"])


async def test_generators_callbacks_sessions_and_errors_work(machine: Machine) -> None:
    assert [n async for n in machine.python.stream(far_functions.squares, 40)] == [n * n for n in range(40)]
    assert await machine.python.call(far_functions.ask, Callback(lambda n: n * 2), 4) == 9
    async with machine.python.session() as session:
        await session.exec("import os; os.environ['KEPT'] = 'yes'")
        assert await session.eval("os.environ['KEPT']") == "yes"
    assert await machine.python.call(os.getenv, "KEPT") is None
    with pytest.raises(KeyError, match="missing"):
        await machine.python.call(far_functions.fail)
    with pytest.raises(WorkerDied, match="exit status 7"):
        await machine.python.call(far_functions.die)


async def test_scopes_change_directory_and_environment_of_calls(machine: Machine) -> None:
    with machine.cwd("C:\\windows"), machine.env(COLOUR="blue"):
        folder, colour, _ = await machine.python.call(far_functions.place)
    assert (folder.lower(), colour) == ("c:\\windows", "blue")


async def test_a_cancelled_call_ends_with_its_finally(machine: Machine, tmp_path: Path) -> None:
    told = tmp_path / "told"
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(machine.python.call(far_functions.wait_and_tell, shown(told)))
        await until(lambda: told.exists() and told.read_text() == "began", seconds=60)
        call.cancel()
    assert told.read_text() == "ended"
    assert await machine.python.call(platform.system) == "Windows"


async def test_losing_the_client_ends_what_it_ran(port: int) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    async with machine_behind(port) as machine, asyncio.TaskGroup() as tasks:
        tasks.create_task(stay_until_lost(machine, mark))
        await until(lambda: len(marked_processes(mark)) > 0, seconds=60)
        machine.abort()
    await until(lambda: not marked_processes(mark), seconds=30)


async def test_what_is_not_there_is_declared(machine: Machine) -> None:
    await machine.connect()
    assert machine.capabilities == frozenset()
    with pytest.raises(UnsupportedError):
        await machine.run("dir")
    with pytest.raises(UnsupportedError, match="keeps no sessions"):
        async with machine.python.session("name"):
            pass


def test_the_pipe_is_open_to_the_system_to_administrators_and_to_its_owner_alone(windows: Windows, pipe: str) -> None:
    said, _ = windows.python(shown(HERE / "access.py"), pipe).communicate(timeout=60)
    flags, *entries = re.split(r"[()]+", said.strip(" \r\n()"))
    rights = {tuple(entry.split(";")[::5]): set(re.findall("..", entry.split(";")[2])) for entry in entries}
    assert flags == "D:P"
    assert rights == {("A", "SY"): {"GA"}, ("A", "BA"): {"GA"}, ("A", "OW"): {"GR", "GW"}}


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        (PIPE, "another process has this pipe"),
        (r"\\elsewhere\pipe\name", "give a pipe of this machine"),
        ("127.0.0.1:0", "give a pipe of this machine"),
    ],
)
def test_a_daemon_that_cannot_have_its_pipe_does_not_start(windows: Windows, pipe: str, listen: str, says: str) -> None:
    process = windows.python("-m", "aioremote", "serve", "--listen", listen)
    said, _ = process.communicate(timeout=60)
    assert says in " ".join(said.split())
    assert process.returncode != 0


async def test_the_end_of_the_daemon_ends_all_sessions(windows: Windows) -> None:
    """However it ends: the kernel closes its jobs."""
    pipe, mark = PIPE + "-killed", f"mark-{secrets.token_hex(8)}"
    daemon, _ = windows.server("listening on", "-m", "aioremote", "serve", "--listen", pipe)
    port = int(windows.server("port", shown(HERE / "bridge.py"), pipe)[1])
    async with machine_behind(port) as machine, asyncio.TaskGroup() as tasks:
        tasks.create_task(stay_until_lost(machine, mark))
        await until(lambda: len(marked_processes(mark)) > 0, seconds=60)
        daemon.kill()
    await until(lambda: not marked_processes(mark), seconds=30)
