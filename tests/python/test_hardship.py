"""What calls survive: hostile functions, deaths, cancels, lost links (promises 31, 34, 37-41, 43, 44, 75, 82)."""

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path

import pytest
from tests.outpost.links import descriptors, resident_bytes, settled, workers_of
from tests.python import far_functions as far
from tests.python.test_calls import is_gone

from aioremote import ConnectionLost, LocalMachine, Machine, RemoteException, WorkerDied
from aioremote.python.handles import Callback
from aioremote.python.interpreter import Interpreter
from aioremote.testing.checks import cancel_everywhere, until
from aioremote.transports.linked import LinkedTransport
from aioremote.transports.local import LocalTransport

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("aioremote_no_leaks")]

SPOILS = {
    "closes the standard streams": "import os\nfor fd in (0, 1, 2): os.close(fd)",
    "closes everything it knows": "import os\nos.closerange(3, 256)",
    "forks and returns": "import os\nos.fork()",
    "changes the directory": "import os\nos.chdir('/')",
    "changes the umask": "import os\nos.umask(0)",
    "ignores signals": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
    "empties the modules": "import sys\nsys.modules.clear()",
    "changes the environment": "import os\nos.environ['HOME'] = '/nowhere'",
    "replaces the streams": "import sys\nsys.stdout = None",
}


@pytest.mark.parametrize("source", SPOILS.values(), ids=SPOILS.keys())
async def test_what_a_call_spoils_is_gone_with_its_worker(python: Interpreter, source: str) -> None:
    """Promise 41: neither the outpost nor the next call sees any of it."""
    look = "[__import__('os').getcwd(), __import__('os').environ.get('HOME')]"
    before = await python.eval(look)
    try:
        await python.exec(source)
    except (WorkerDied, RemoteException):
        pass
    assert await python.eval(look) == before
    assert await python.eval("__import__('os').umask(0o77)") != 0
    assert await python.call(far.add, 1, 1) == 2


def raise_in_a_circle():
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def raise_with_notes():
    error = LookupError("noted")
    error.__notes__ = ["look here", "\x1b[31mred"]
    raise error


class Custom(ArithmeticError):
    def __str__(self):
        raise RuntimeError("no text")


def raise_custom():
    raise Custom(1, "two")


def raise_long():
    raise ValueError("x" * 10_000_000)


def raise_group():
    raise ExceptionGroup("several", [ValueError("one"), OSError(2, "two", "/three")])


async def test_exceptions_of_every_kind(python: Interpreter) -> None:
    """Promise 39: cycles, notes, a ``__str__`` that raises, much text, groups."""
    with pytest.raises(ValueError, match="first") as circle:
        await python.call(raise_in_a_circle)
    assert "direct cause" in circle.value.remote_traceback  # type: ignore[attr-defined]
    with pytest.raises(LookupError) as noted:
        await python.call(raise_with_notes)
    assert noted.value.__notes__ == ["look here", "\x1b[31mred"]
    with pytest.raises(ArithmeticError) as custom:
        await python.call(raise_custom)
    assert isinstance(custom.value, RemoteException)
    assert custom.value.type_name.endswith("Custom")
    assert custom.value.remote_args == (1, "two")
    with pytest.raises(ValueError, match="left out") as long:
        await python.call(raise_long)
    assert len(str(long.value)) < 100_000
    with pytest.raises(ExceptionGroup) as group:
        await python.call(raise_group)
    assert isinstance(group.value, RemoteException)
    found = group.value.subgroup(FileNotFoundError)
    assert found is not None
    assert [type(error).__name__ for error in group.value.exceptions] == ["RemoteValueError", "RemoteFileNotFoundError"]


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "StopIteration"])
async def test_what_steers_a_program_is_told_and_does_not_steer_this_one(python: Interpreter, kind: str) -> None:
    """Promise 39: it comes as a RemoteException and nothing else."""
    with pytest.raises(RemoteException) as caught:
        await python.exec(f"raise {kind}('far')")
    assert caught.value.type_name == kind
    assert not isinstance(caught.value, (KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration))
    with pytest.raises(RemoteException) as cancelled:
        await python.exec("import asyncio\nraise asyncio.CancelledError")
    assert not isinstance(cancelled.value, asyncio.CancelledError)


async def test_escape_sequences_in_far_text_are_shown_as_such(python: Interpreter) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        await python.exec(r"raise ValueError('\x1b]52;c;x\x07')")
    assert "\x1b" not in str(caught.value)


async def test_a_cancel_at_any_moment_leaves_a_machine_that_serves(python: Interpreter) -> None:
    """Promise 37: at every point where a call waits, and the next call works."""
    await python.call(far.add, 1, 1)

    async def calls() -> None:
        assert await python.call(far.add, 1, 1) == 2
        assert len(await python.call(far.give_back, b"x" * 300_000)) == 300_000

    async def check() -> None:
        assert await python.call(far.add, 1, 1) == 2

    await cancel_everywhere(calls, check)


async def test_a_call_that_is_cancelled_twice_ends_once(python: Interpreter, tmp_path: Path) -> None:
    """Promise 37: one outcome, and nothing is left that nobody has looked at."""
    path = tmp_path / "pid"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(python.call(far.sleep_long, str(path)))
        await until(path.exists)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await python.call(far.sleep, 600)
    assert await python.call(far.add, 1, 1) == 2


async def test_a_cancelled_call_does_not_disturb_those_around_it(python: Interpreter) -> None:
    """Promise 35: those that wait behind it in the same worker, too."""
    async with asyncio.TaskGroup() as group:
        victims = [group.create_task(python.call(far.sleep, 600)) for _ in range(3)]
        others = [group.create_task(python.call(far.add, number, 1)) for number in range(60)]
        await asyncio.wait(others)
        for victim in victims:
            victim.cancel()
    assert [other.result() for other in others] == list(range(1, 61))


async def test_a_callback_may_refuse_and_only_what_was_given_can_be_called(python: Interpreter) -> None:
    """Promise 43: another number is refused and counted."""

    def guess(given):
        try:
            type(given)(given._worker, given._number + 7)()
        except PermissionError as error:
            return str(error), given(1)

    refused, value = await python.call(guess, Callback(lambda x: x + 1))
    assert (refused, value) == ("the near end has not given that", 2)


async def test_a_callback_cannot_call_into_the_session_that_waits_for_it(python: Interpreter) -> None:
    """Promise 43: no deadlock; and a callback has the context variables of whoever made the call."""
    seen = []
    variable: ContextVar[str] = ContextVar("variable")
    async with python.session() as session:

        async def again() -> None:
            seen.append(variable.get("not set"))
            await session.eval("1")

        variable.set("set")
        with pytest.raises(RemoteException, match="session that waits"):
            await session.call(far.apply, Callback(again))
        assert await session.eval("2") == 2
        assert seen == ["set"]


async def test_modules_come_from_named_packages_only(python: Interpreter, tmp_path: Path) -> None:
    """Promise 34: what was not named is not there, and nothing here is imported for it."""
    package = tmp_path / "shippable_package"
    package.mkdir()
    package.joinpath("__init__.py").write_text("from .inner import value\n")
    package.joinpath("inner.py").write_text("value = 42\n")
    tmp_path.joinpath("secret_module.py").write_text("raise SystemExit('imported')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        shipping = python(ship=["shippable_package"])
        assert await shipping.eval("__import__('shippable_package').value") == 42
        for name in ("secret_module", "shippable_package...secret_module", "aioremote"):
            with pytest.raises(RemoteException):
                await shipping.exec(
                    textwrap.dedent(f"""
                    import sys
                    sys.path[:] = []
                    __import__({name!r})
                """)
                )
        assert "shippable_package" not in sys.modules
        assert "secret_module" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


async def test_a_call_that_holds_the_gil_is_not_taken_for_a_dead_machine(tmp_path: Path) -> None:
    """Promise 82, at a scale of seconds: three times the time after which a silent link is lost; others go on."""
    path = tmp_path / "pid"
    base = LinkedTransport(LocalTransport(), keepalive=0.3, keepalive_count=3)
    async with Machine(base, host="busy") as machine:
        python = machine.python
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(python.call(far.hold_the_gil, str(path)))
            await until(path.exists)
            end = time.monotonic() + 3 * 0.9
            while time.monotonic() < end:
                assert await python.call(far.add, 1, 1) == 2
                assert (machine.state, holding.done()) == ("connected", False)
                await asyncio.sleep(0.1)
            holding.cancel()
        await until(lambda: is_gone(int(path.read_text())))


async def test_much_data_both_ways_takes_little_more_memory_than_it_has(machine: Machine) -> None:
    """Promise 31: 64 MiB as an argument and as the result, less than three times of it there, and here beside it."""
    size = 64 * 2**20
    async with machine.python.session() as session:
        worker = await session.pid()
        outpost = parent_of(parent_of(worker))
        assert len(await session.call(far.give_back, bytes(300_000))) == 300_000
        data = os.urandom(size)  # it, the buffer of the answer, and the answer itself make a little more than three
        before = {pid: resident_bytes(pid) for pid in (os.getpid(), worker, outpost)}
        Path("/proc/self/clear_refs").write_text("5")  # so that the peak is one from now on
        assert await session.call(far.give_back, data) == data
        grown = {pid: peak_bytes(pid) - earlier for pid, earlier in before.items()}
    assert grown[os.getpid()] < 2.1 * size
    assert grown[worker] < 3 * size
    assert grown[outpost] < 8 * 2**20


async def test_the_death_of_the_zygote_is_told_and_another_takes_its_place(python: Interpreter, tmp_path: Path) -> None:
    """Promise 75: calls in flight fail, the next one works."""
    path = tmp_path / "pid"
    zygote = await python.eval("__import__('os').getppid()")

    async def call() -> None:
        with pytest.raises(WorkerDied):
            await python.call(far.sleep_long, str(path))

    async with asyncio.TaskGroup() as group:
        group.create_task(call())
        await until(path.exists)
        os.kill(zygote, signal.SIGKILL)
    assert await python.call(far.add, 1, 1) == 2


async def test_the_death_of_the_outpost_leaves_the_outcome_open(machine: Machine, tmp_path: Path) -> None:
    """Promise 74: the call's process is gone; what was under way may have run; the next call starts another outpost."""
    path = tmp_path / "pid"
    zygote = await machine.python.eval("__import__('os').getppid()")
    outpost = int(Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[1])
    waiting = asyncio.Event()

    async def call() -> None:
        waiting.set()
        with pytest.raises(ConnectionLost) as caught:
            await machine.python.call(far.sleep_long, str(path))
        assert caught.value.outcome == "unknown"

    async with asyncio.TaskGroup() as group:
        group.create_task(call())
        await until(path.exists)
        os.kill(outpost, signal.SIGKILL)
    worker = int(path.read_text())
    await until(lambda: is_gone(worker), seconds=2.0)
    assert await machine.python.call(far.add, 1, 1) == 2


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def peak_bytes(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


async def test_many_calls_leave_nothing_behind() -> None:
    """Promise 44: ten thousand calls grow neither end."""
    async with LocalMachine() as machine:
        python = machine.python

        async def some(count: int) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(one_after_another(count // 20))

        async def one_after_another(count: int) -> None:
            for number in range(count):
                assert await python.call(far.add, number, 1) == number + 1

        await some(2000)
        zygote = await python.eval("__import__('os').getppid()")
        outpost = int(Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[1])

        def held() -> Counter[str]:
            return descriptors(os.getpid()) + descriptors(outpost, workers=workers_of(outpost))

        before = await settled(held)
        memory = [resident_bytes(pid) for pid in (os.getpid(), outpost)]
        await some(10_000)
        await settled(held, most=before)
        for pid, earlier in zip((os.getpid(), outpost), memory, strict=True):
            assert resident_bytes(pid) - earlier < 2 * 2**20
