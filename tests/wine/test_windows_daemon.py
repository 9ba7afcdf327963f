"""A daemon on Windows, behind a named pipe; `nox -s wine` runs these, under Wine."""

import ast
import asyncio
import os
import platform
import re
import secrets
from pathlib import Path

import anyio
import pytest
from tests.samba import run_samba
from tests.wine import far_functions
from tests.wine.conftest import PIPE
from tests.wine.road import machine_behind, machine_through_smb
from tests.wine.windows import HERE, Windows, shown

from aioremote import (
    Callback,
    ClosedError,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    Machine,
    RemoteError,
    UnsupportedError,
    WorkerDied,
)
from aioremote.commands.process import Process
from aioremote.testing.checks import marked_processes, until
from aioremote.types import Capability

pytestmark = pytest.mark.timeout(180)


async def stay_until_lost(machine: Machine, mark: str) -> None:
    with pytest.raises((ClosedError, ConnectionLost)):
        await machine.python.call(far_functions.stay, mark)


async def run_until_lost(machine: Machine, *argv: str) -> None:
    with pytest.raises((ClosedError, ConnectionLost)):
        await machine.run(*argv)


async def send_on_and_on(process: Process) -> None:
    while True:
        await process.stdin.send(bytes(100_000))


async def test_functions_run_in_windows(machine: Machine) -> None:
    assert await machine.python.call(platform.system) == "Windows"
    assert await machine.python.call(os.path.join, "a", "b") in ("a/b", "a\\b")
    assert await machine.ping() < 5


async def test_the_whole_road_leads_through_smb(port: int) -> None:
    """Everything but Windows' own SMB server: that is Samba here."""
    data = secrets.token_bytes(1_000_000)
    with run_samba() as samba:
        async with machine_through_smb(samba, port) as machine:
            assert await machine.python.call(platform.system) == "Windows"
            assert await machine.python.call(bytes, data) == data
            assert (await machine.run("cmd", "/c", "echo", "hello")).stdout.split() == ["hello"]


async def test_results_and_arguments_of_all_sizes_come_through(machine: Machine) -> None:
    for size in (0, 1, 40_000, 5_000_000):
        data = secrets.token_bytes(size)
        assert await machine.python.call(bytes, data) == data


async def test_paths_and_directories_are_written_as_windows_does(machine: Machine) -> None:
    windows = machine.path(r"C:\windows")
    assert str(windows / "system32") == r"C:\windows\system32"
    assert machine.path(r"c:\Windows", r"D:\x").parts == ("D:\\", "x")
    assert windows == machine.path("c:/WINDOWS")
    with machine.cwd(windows):
        assert (await machine.run("cmd", "/c", "cd")).stdout.strip().lower() == r"c:\windows"
        with machine.cwd("system32"):
            assert (await machine.run("cmd", "/c", "cd")).stdout.strip().lower() == r"c:\windows\system32"
        assert (await machine.python.call(os.getcwd)).lower() == r"c:\windows"


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


@pytest.fixture
async def python(machine: Machine) -> str:
    """The path of a Python there."""
    return str(await machine.python.eval("__import__('sys').executable"))


async def test_programs_get_exact_arguments_and_give_exact_bytes(machine: Machine, python: str) -> None:
    words = ["a b", 'q"uo\\"te', "\\", "\\\\", "", "é€", "%PATH%", "^&|<>", "*", "'", "\t", 'x\\\\"', "ends\\"]
    result = await machine.run(python, "-c", "import sys; print(ascii(sys.argv[1:]))", *words)
    assert ast.literal_eval(result.stdout) == words
    data = secrets.token_bytes(3_000_000)
    copy = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
    assert (await machine.run(python, "-c", copy, input=data)).stdout_bytes == data


async def test_a_slow_reader_gets_everything_that_a_program_has_left(machine: Machine, python: str) -> None:
    code = "import sys; [sys.stdout.buffer.write(b'y' * 1_000_000) for _ in range(20)]; sys.stderr.write('e' * 30_000)"
    async with machine.start(python, "-c", code) as process:
        chunks = aiter(process.stdout)
        got = len(await anext(chunks))
        await asyncio.sleep(1)  # in which the program, or the road, fills up
        got += sum([len(chunk) async for chunk in chunks])
        assert (got, await process.wait()) == (20_000_000, 0)


async def test_input_that_nobody_reads_is_told(machine: Machine, python: str) -> None:
    """Of a program that ends; one that closes its input and lives on shares it with Wine's console."""
    async with machine.start(python, "-c", "import time; time.sleep(1)") as process:
        with pytest.raises(anyio.BrokenResourceError):
            await send_on_and_on(process)
        assert await process.wait() == 0


async def test_programs_have_their_status_directory_and_environment(machine: Machine, python: str) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['COLOUR'], flush=True); os.write(2, b'no'); os._exit({})"
    for told, status in ((0, 0), (3, 3), (0xC0000005 - 2**32, 0xC0000005)):
        result = await machine.run(
            python, "-c", code.format(told), cwd="C:\\windows", env={"Colour": "blue"}, check=False
        )
        said = result.stdout.lower().strip(), result.stderr.strip()
        assert (*said, result.returncode) == ("c:\\windows blue", "no", status)
    assert (await machine.run("cmd", "/c", "echo", "hello")).stdout.split() == ["hello"]


async def test_what_cannot_be_started_is_told(machine: Machine, python: str) -> None:
    """A batch file too: it would take its arguments for commands."""
    with pytest.raises(CommandNotFound):
        await machine.run("no-such-program")
    with pytest.raises(FileNotFoundError):
        await machine.run(python, cwd="C:\\no-such-folder")
    folder = str(await machine.python.call(far_functions.batch_file))
    for name in ("batch.bat", "batch.bat.", "BATCH.CMD"):
        with pytest.raises(RemoteError) as caught:
            await machine.run(f"{folder}\\{name}", "&calc")
        assert not isinstance(caught.value, ConnectionLost)


async def test_a_late_program_ends_with_what_it_has_started(machine: Machine, python: str) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}])"
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(machine.run(python, "-c", child))
        await until(lambda: len(marked_processes(mark)) > 1, seconds=60)
        run.cancel()
    await until(lambda: not marked_processes(mark), seconds=30)
    with pytest.raises(CommandTimeout):
        await machine.run(python, "-c", "import time; time.sleep(600)", timeout=1)


async def test_losing_the_client_ends_its_programs(port: int) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    async with machine_behind(port) as machine, asyncio.TaskGroup() as tasks:
        python = await machine.python.eval("__import__('sys').executable")
        tasks.create_task(run_until_lost(machine, python, "-c", "import time; time.sleep(600)", mark))
        await until(lambda: marked_processes(mark), seconds=60)
        machine.abort()
    await until(lambda: not marked_processes(mark), seconds=30)


async def test_what_is_not_there_is_declared(machine: Machine, python: str) -> None:
    await machine.connect()
    assert machine.capabilities == {Capability.COMMANDS, Capability.TREE_KILL}
    with pytest.raises(UnsupportedError, match="files"):
        await machine.path("C:\\windows").exists()
    with pytest.raises(UnsupportedError, match="connect"):
        await machine.open_connection("localhost", 1)
    with pytest.raises(UnsupportedError, match="no terminals"):
        async with machine.start(python, pty=True):
            pass
    with pytest.raises(UnsupportedError, match="keeps no sessions"):
        async with machine.python.session("name"):
            pass
    async with machine.start(python, "-c", "import time; time.sleep(600)") as process:
        with pytest.raises(UnsupportedError, match="no signals"):
            process.terminate()
        process.kill()
        assert await process.wait() == 1


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


async def test_a_daemon_that_is_closed_ends_its_sessions_and_gives_its_pipe_free(
    windows: Windows, tmp_path: Path
) -> None:
    pipe, mark, sign = PIPE + "-closed", f"mark-{secrets.token_hex(8)}", tmp_path / "sign"
    daemon, _ = windows.server("listening", shown(HERE / "twice.py"), pipe, shown(sign))
    port = int(windows.server("port", shown(HERE / "bridge.py"), pipe)[1])
    async with machine_behind(port) as machine, asyncio.TaskGroup() as tasks:
        tasks.create_task(stay_until_lost(machine, mark))
        await until(lambda: len(marked_processes(mark)) > 0, seconds=60)
        sign.touch()
    said, _ = await asyncio.to_thread(daemon.communicate, timeout=60)
    assert (said.split("\n"), daemon.returncode) == (["listening again", "ended", ""], 0)
    await until(lambda: not marked_processes(mark), seconds=30)
