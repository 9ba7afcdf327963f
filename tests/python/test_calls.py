"""Calls: functions, expressions, statements, paths, generators, exceptions, output, callbacks (promises 30 to 43)."""

import asyncio
import errno
import functools
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.python import far_functions as far

from aioremote import (
    CallTimeout,
    ClosedError,
    LocalMachine,
    Machine,
    RemoteException,
    RemoteValueError,
    ShipError,
    WorkerDied,
)
from aioremote.python.handles import Callback, Items
from aioremote.python.interpreter import Interpreter
from aioremote.testing.checks import until

pytestmark = pytest.mark.asyncio


async def test_functions_expressions_statements_and_paths(any_python: Interpreter) -> None:
    """Promise 32: functions with defaults, lambdas and closures give at every far Python what they give here."""
    three = 3
    assert await any_python.call(far.add, 1, b=2) == 3
    assert await any_python.call(far.add, 1, c=2) == 3
    assert await any_python.call(lambda x: (x, three), 1) == (1, 3)
    assert await any_python.call(functools.partial(far.add, 1), 2) == 3
    assert await any_python.call(sorted, [3, 1, 2]) == [1, 2, 3]
    assert await any_python.call(far.apply, far.add, 1, 2) == 3
    assert await any_python.call(far.double_later, 4) == 8
    assert await any_python.eval("1 + 2") == 3
    await any_python.exec("import sys")
    assert await any_python.modules.os.path.join("a", "b") == "a/b"
    assert await any_python.eval("__import__('sys').version_info[:3]") == await any_python.version()


async def test_large_values_go_both_ways(any_python: Interpreter) -> None:
    """Promise 31: much data arrives whole, as an argument, as a result, and both."""
    data = bytes(range(256)) * 16384
    assert await any_python.call(far.give_back, data) == data
    assert len(await any_python.eval("b'x' * 3000000")) == 3_000_000
    assert await any_python.call(len, data) == len(data)
    assert await any_python.eval("list(range(300000))") == list(range(300_000))


async def test_a_generator_is_iterated_over(any_python: Interpreter) -> None:
    """Promise 42: all items come, in order, from plain and asynchronous generators and other iterables."""
    assert [x async for x in any_python.stream(far.numbers, 100)] == list(range(100))
    assert [x async for x in any_python.stream(far.async_numbers, 40)] == list(range(40))
    assert [x async for x in any_python.stream(far.give_back, [1, "2"])] == [1, "2"]


async def test_output_belongs_to_its_call(any_python: Interpreter) -> None:
    """Promise 40: what Python, C, system calls and children print comes to the call's streams."""
    out, err = bytearray(), bytearray()
    talking = any_python.with_options(stdout=out.extend, stderr=err.extend)
    assert await talking.call(far.print_everywhere) == "returned"
    assert sorted(out.decode().splitlines()) == ["from C", "from a child", "printed é", "written"]
    assert err == b"an error\n"
    out.clear()
    assert await talking.call(far.print_much) == 1
    assert out == b"x" * 1048576
    assert await any_python.call(far.print_much) == 1  # nobody wants it


async def test_late_output_of_a_call_is_no_other_call_s(any_python: Interpreter, tmp_path: Path) -> None:
    """Promise 40: what a process that a call has left behind writes during the next call of the same worker."""
    for name in ("go", "done"):
        os.mkfifo(tmp_path / name)
    out: list[bytes] = []
    err: list[bytes] = []
    talking = any_python.with_options(stdout=out.append, stderr=err.append)
    worker = await talking.call(far.leave_a_writer, str(tmp_path))
    assert b"".join(out) == b"first\n"
    out.clear()
    assert await talking.call(far.let_it_write, str(tmp_path)) == (worker, "written\n")
    assert (b"".join(out), err) == (b"second\n", [])


async def test_a_session_keeps_its_state(any_python: Interpreter) -> None:
    async with any_python.session() as session:
        await session.exec("x = 123")
        assert await session.eval("x") == 123
        assert await session.modules.os.path.exists("/etc")
        json = await session.import_("json")
        assert await json.dumps([1, 2]) == "[1, 2]"
        assert await session.eval("json.loads('[3]')") == [3]
        system = await session.ref("sys")
        assert await system.maxsize == await session.eval("__import__('sys').maxsize")
        numbers = await session.ref("[1, 2, 3]")
        await numbers.append(4)
        assert await session.call(far.total, numbers) == 10
        pid = await session.pid()
        assert await session.pid() == pid
    with pytest.raises(ClosedError):
        await session.eval("x")


async def test_callbacks_and_items_of_the_near_end(any_python: Interpreter) -> None:
    """Promise 43: what a callback returns or raises reaches the far function, and it may call the same host."""
    seen = []

    async def note(value: int) -> int:
        seen.append(value)
        return int(await any_python.call(far.add, value, 1))

    def refuse() -> None:
        raise LookupError("not today")

    assert await any_python.call(far.apply, Callback(note), 5) == 6
    assert seen == [5]
    with pytest.raises(LookupError, match="not today"):
        await any_python.call(far.apply, Callback(refuse))
    assert await any_python.call(far.total, Items(range(1000))) == 499_500

    async def some() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    assert await any_python.call(far.total, Items(some())) == 10


async def test_an_exception_is_also_the_builtin_one(any_python: Interpreter) -> None:
    """Promise 39: errno is kept, and the far traceback is on the error."""
    with pytest.raises(FileNotFoundError) as caught:
        await any_python.call(open, "/nonexistent/file")
    error = caught.value
    assert isinstance(error, RemoteException)
    assert (error.errno, error.filename) == (errno.ENOENT, "/nonexistent/file")
    with pytest.raises(ZeroDivisionError) as divided:
        await any_python.call(lambda: 1 / 0)
    assert isinstance(divided.value, RemoteException)
    assert divided.value.type_name == "ZeroDivisionError"
    assert "1 / 0" in divided.value.remote_traceback
    assert "test_calls.py" in divided.value.remote_traceback
    assert "test_calls.py" in str(divided.value.__cause__)


@pytest.mark.parametrize("how", ["exit", "segfault", "SIGKILL"])
async def test_a_worker_that_dies_takes_only_its_call_along(any_python: Interpreter, how: str) -> None:
    """Promise 38: how it ended and what it last wrote are on the error; the next call works."""
    with pytest.raises(WorkerDied) as caught:
        await any_python.call(far.die, how)
    died = caught.value
    expected = {"exit": (3, None), "segfault": (-11, "SEGV"), "SIGKILL": (-9, "KILL")}
    assert (died.returncode, died.signal) == expected[how]
    assert "last words" in died.stderr
    assert await any_python.call(far.add, 1, 1) == 2


@pytest.mark.parametrize("argument", [3, None, "words"])
async def test_sys_exit_is_an_exception_and_not_a_death(any_python: Interpreter, argument: int | str | None) -> None:
    """Promises 38, 39: it is told with its argument and where it was; the worker lives; a fork of it does exit."""
    pid = await any_python.pid()
    with pytest.raises(RemoteException) as caught:
        await any_python.call(sys.exit, argument)
    assert not isinstance(caught.value, SystemExit)
    assert caught.value.type_name == "SystemExit"
    assert caught.value.remote_args == (() if argument is None else (argument,))
    assert await any_python.pid() == pid
    assert await any_python.call(far.exit_in_a_child, argument) == {3: 3, None: 0, "words": 1}[argument]


async def test_a_result_that_cannot_travel_is_named(python: Interpreter) -> None:
    """Promise 30: the error tells where in the result it stands, and the worker still serves."""
    pid = await python.pid()
    with pytest.raises(RemoteValueError, match=r"result\['a'\]\[3\]"):
        await python.call(lambda: {"a": [0, 1, 2, open("/dev/null")]})  # noqa: SIM115
    assert await python.pid() == pid


async def test_what_cannot_be_shipped_is_refused_first(python: Interpreter) -> None:
    """Promise 33: nothing is sent, and the error names what it is."""
    lock = threading.Lock()
    with pytest.raises(ShipError, match="lock"):
        await python.call(lambda: lock)
    with pytest.raises(ShipError):
        await python.call(far.give_back, memoryview(b""))
    with pytest.raises(ShipError):
        await python.call(eval("lambda: 1"))
    assert await python.call(far.add, 1, 1) == 2


async def test_a_time_limit_ends_the_call(python: Interpreter) -> None:
    with pytest.raises(CallTimeout) as caught:
        await python.with_options(timeout=0.3).call(far.sleep, 600)
    assert caught.value.timeout == 0.3
    assert await python.call(far.add, 1, 1) == 2


async def test_calls_run_at_once(python: Interpreter) -> None:
    """Thirty calls that wait for each other finish only if all of them run."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(python.call(far.sleep, 0.5)) for _ in range(30)]
    assert [task.result() for task in tasks] == [0.5] * 30


async def test_interpreters_of_one_machine(machine: Machine) -> None:
    """Tasks that want an interpreter at once share one launch; another executable is another one."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(machine.python.eval("__import__('os').getppid()")) for _ in range(5)]
    assert len({task.result() for task in tasks}) == 1
    assert await machine.with_cwd("/").python.eval("__import__('os').getppid()") == tasks[0].result()


async def test_a_closed_machine_calls_nothing() -> None:
    async with LocalMachine() as machine:
        python = machine.python
        await python.eval("1")
    with pytest.raises(ClosedError):
        await python.eval("1")


async def appears(path: Path) -> str:
    """Return what a file holds once it is there."""
    await until(path.exists)
    return path.read_text()


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.parametrize("name", list(far.STUCK))
async def test_a_cancelled_call_lets_go_and_its_worker_is_gone(python: Interpreter, tmp_path: Path, name: str) -> None:
    """Promise 35: within a second, whatever the function does; other calls are not disturbed."""
    function: Callable[[str], object] = far.STUCK[name]
    path = tmp_path / "pid"
    task = asyncio.get_running_loop().create_task(python.call(function, str(path)))
    pid = int(await appears(path))
    started = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - started < 1.4
    assert is_gone(pid)
    assert await python.call(far.add, 1, 1) == 2


@pytest.mark.parametrize("function", [far.leave_a_mark, far.leave_a_mark_in_a_loop])
async def test_a_cancelled_function_runs_its_finally(
    python: Interpreter, tmp_path: Path, function: Callable[[str], None]
) -> None:
    """Promise 36: within the grace, and then the process is gone."""
    path = tmp_path / "pid"
    task = asyncio.get_running_loop().create_task(python.call(function, str(path)))
    pid = int(await appears(path))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "pid.finally").read_text() == "ran"
    assert is_gone(pid)


async def test_a_consumer_that_stops_closes_the_generator(python: Interpreter, tmp_path: Path) -> None:
    """Promise 42: its ``finally`` runs, and it was at most 16 items ahead."""
    path = tmp_path / "at"
    async with aclosing(python.stream(far.numbers, 1000, str(path))) as items:
        async for item in items:
            if item == 3:
                break
    assert (tmp_path / "at.finally").read_text() == "ran"
    assert int(path.read_text()) <= 3 + 17


async def test_calls_run_in_the_scopes_of_their_task(machine: Machine, tmp_path: Path) -> None:
    """Promise 125: two tasks in two directories and environments; what a call finds is gone after it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = await machine.python.call(far.where_am_i)

    async def look(name: str) -> tuple[str, str | None, str]:
        with machine.cwd(tmp_path / name), machine.env(AIOREMOTE_WHERE=name, HOME=None):
            machine.env.path.insert(0, f"/{name}")
            places = [place async for place in machine.python.stream(far.where_am_i)]
            assert places[0] == str(tmp_path / name)
            async with machine.python.session() as session:
                assert await session.eval("__import__('os').getcwd()") == str(tmp_path / name)
            folder, word, home, path = await machine.python.call(far.where_am_i)
        assert home is None
        return folder, word, path.partition(":")[0]

    async with asyncio.TaskGroup() as group:
        looking = [group.create_task(look(name)) for name in "abab"]
    assert [task.result() for task in looking] == [(str(tmp_path / name), name, f"/{name}") for name in "abab"]
    assert await machine.python.call(far.where_am_i) == before
    view = machine.with_cwd(tmp_path).with_env(AIOREMOTE_WHERE="view")
    assert (await view.python.call(far.where_am_i))[:2] == (str(tmp_path), "view")
    with machine.cwd(tmp_path / "none"), pytest.raises(FileNotFoundError):
        await machine.python.call(far.where_am_i)
