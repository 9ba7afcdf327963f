"""Python sessions by name: one process of the daemon that all clients with a key share, and nobody else."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aioremote import BusyError, Callback, DaemonMachine, LocalMachine, UnsupportedError, WorkerDied
from aioremote.daemon import Daemon, DaemonConfig, make_key, serve
from aioremote.testing.checks import until

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


@asynccontextmanager
async def clients(folder: Path, **settings: object) -> AsyncIterator[tuple[Daemon, DaemonMachine, DaemonMachine]]:
    """A daemon on a unix socket and two of its clients."""
    path = folder / "s"
    folder.chmod(0o700)
    config = DaemonConfig(listen=str(path), **settings)  # type: ignore[arg-type]
    async with serve(config) as daemon, DaemonMachine(path=path) as one, DaemonMachine(path=path) as two:
        yield daemon, one, two


def count(step: int) -> int:
    import builtins

    builtins.counted = getattr(builtins, "counted", 0) + step  # type: ignore[attr-defined]
    print("counted", builtins.counted)  # type: ignore[attr-defined]
    return builtins.counted  # type: ignore[attr-defined, no-any-return]


def wait(seconds: float, path: str) -> None:
    import time

    try:
        with open(path, "w") as file:
            file.write("begun")
        time.sleep(seconds)
    finally:
        with open(path, "a") as file:
            file.write(" ended")


def stay(path: str) -> None:
    """Swallow every interruption."""
    import time

    open(path, "w").close()
    while True:
        try:
            time.sleep(600)
        except BaseException:  # noqa: BLE001  # an interruption is one
            pass


def numbers(upto: int):  # type: ignore[no-untyped-def]
    yield from range(upto)


def with_callback(function):  # type: ignore[no-untyped-def]
    return function(20) + 1


async def test_clients_share_what_is_in_it(tmp_path: Path) -> None:
    """State, process and objects are those of all; what a call prints is its caller's alone."""
    heard: dict[str, list[bytes]] = {"one": [], "two": []}
    async with clients(tmp_path) as (daemon, one, two):
        python = one.python.with_options(stdout=heard["one"].append)
        other = two.python.with_options(stdout=heard["two"].append)
        async with python.session("n") as first, other.session("n") as second:
            assert [await first.call(count, 1), await second.call(count, 2)] == [1, 3]
            assert await first.pid() == await second.pid()
            await first.exec("import os; x = [1]")
            assert await second.eval("x") == [1]
            assert [item async for item in second.stream(numbers, 40)] == list(range(40))
            assert await first.call(with_callback, Callback(lambda n: 2 * n)) == 41
            data = os.urandom(3_000_000)
            assert await second.call(bytes, data) == data
            assert daemon.named_sessions == 1
        assert b"".join(heard["one"]) == b"counted 1\n"
        assert b"".join(heard["two"]) == b"counted 3\n"
        async with two.python.session() as own:
            assert await own.call(count, 1) == 1


async def test_it_outlives_the_link_until_nobody_has_used_it(tmp_path: Path) -> None:
    async with clients(tmp_path, named_idle_seconds=0.5) as (daemon, one, two):
        async with one.python.session("n") as session:
            await session.call(count, 5)
        await one.aclose()
        async with two.python.session("n") as session:
            assert await session.call(count, 1) == 6
        await until(lambda: daemon.named_sessions == 0)
        async with two.python.session("n") as session:
            assert await session.call(count, 1) == 1


async def test_a_name_belongs_to_a_key(tmp_path: Path) -> None:
    pin = make_key(tmp_path / "server")
    for name in ("a", "b"):
        make_key(tmp_path / name)
    (tmp_path / "both").write_text((tmp_path / "a.crt").read_text() + (tmp_path / "b.crt").read_text())
    config = DaemonConfig(listen="127.0.0.1:0", key=tmp_path / "server", authorized=tmp_path / "both")
    async with serve(config) as daemon:
        pids = []
        for key in ("a", "b", "a"):
            async with (
                DaemonMachine("127.0.0.1", daemon.port, keyfile=tmp_path / key, server_fingerprint=pin) as machine,
                machine.python.session("n") as session,
            ):
                pids.append(await session.pid())
        assert pids[0] == pids[2] != pids[1]


async def test_calls_run_one_after_another(tmp_path: Path) -> None:
    async with clients(tmp_path) as (_, one, two), one.python.session("n") as a, two.python.session("n") as b:
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(a.call(wait, 0.3, str(tmp_path / "a")))
            group.create_task(b.call(wait, 0.3, str(tmp_path / "b")))
        assert time.monotonic() - started >= 0.6


async def test_a_cancel_interrupts_one_call_and_nothing_else(tmp_path: Path) -> None:
    """Who cancels is out; the state, and the others, stay."""
    path = tmp_path / "mark"
    async with clients(tmp_path) as (_, one, two), one.python.session("n") as a, two.python.session("n") as b:
        pid = await b.pid()
        await b.exec("x = 5")
        task = asyncio.create_task(a.call(wait, 600, str(path)))  # noqa: TID251
        await until(path.exists)
        late = asyncio.create_task(b.eval("x"))  # noqa: TID251  # waits for its turn
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert path.read_text() == "begun ended"
        assert await late == 5
        assert await b.pid() == pid
        async with one.python.session("n") as again:
            assert await again.eval("x") == 5


async def test_leaving_does_not_wait_for_the_calls_of_others(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    async with clients(tmp_path) as (_, one, two), one.python.session("n") as a:
        async with asyncio.TaskGroup() as group:
            async with two.python.session("n") as b:
                await b.eval("1")
                task = group.create_task(a.call(wait, 1.5, str(path)))
                await until(path.exists)
            assert not task.done()
        assert path.read_text() == "begun ended"


async def test_what_cannot_be_interrupted_is_killed(tmp_path: Path) -> None:
    """The others hear of it at once, and the name can be used anew."""
    path = tmp_path / "mark"
    async with clients(tmp_path) as (_, one, two), one.python.session("n") as a, two.python.session("n") as b:
        await b.exec("x = 5")
        task = asyncio.create_task(a.call(stay, str(path)))  # noqa: TID251
        await until(path.exists)
        late = asyncio.create_task(b.eval("x"))  # noqa: TID251
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(WorkerDied, match="KILL"):
            await late
        async with two.python.session("n") as again:
            assert await again.eval("'x' in globals()") is False


async def test_a_crash_is_told_to_all_who_joined(tmp_path: Path) -> None:
    """Promise 108, for sessions by name: those of other names, and the clients, live on."""
    async with clients(tmp_path) as (_, one, two), two.python.session("other") as other:
        async with one.python.session("n") as a, two.python.session("n") as b:
            with pytest.raises(WorkerDied):
                await a.exec("import os; os._exit(3)")
            with pytest.raises(WorkerDied):
                await b.eval("1")
        assert await other.eval("1 + 1") == 2
        assert (await one.run("echo", "in")).stdout == "in\n"


async def test_a_lost_client_interrupts_its_call(tmp_path: Path) -> None:
    """Promise 73: SIGKILL of a client while its call runs; the session is free for the others at once."""
    path = tmp_path / "mark"
    code = (
        "import asyncio, sys\n"
        "from aioremote import DaemonMachine\n"
        "async def main():\n"
        "    async with DaemonMachine(path=sys.argv[1]) as machine, machine.python.session('n') as session:\n"
        "        await session.exec('open(%r, \"w\").close(); import time; time.sleep(600)' % sys.argv[2])\n"
        "asyncio.run(main())\n"
    )
    async with clients(tmp_path) as (_, one, _two), one.python.session("n") as session:
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path / "s"), str(path))
        await until(path.exists)
        client.send_signal(signal.SIGKILL)
        await client.wait()
        async with asyncio.timeout(5):
            assert await session.eval("1 + 1") == 2


async def test_there_are_only_so_many(tmp_path: Path) -> None:
    async with clients(tmp_path, max_named_sessions=1) as (_, one, two), one.python.session("n"):
        with pytest.raises(BusyError, match="1 sessions by name"):
            async with two.python.session("m"):
                pass
        async with two.python.session("n") as joined:
            assert await joined.eval("1") == 1


async def test_it_ends_with_the_daemon(tmp_path: Path) -> None:
    async with clients(tmp_path) as (_, one, _two), one.python.session("n") as session:
        pid = await session.pid()
        await session.exec("import subprocess; p = subprocess.Popen(['sleep', '600'])")
        child = await session.eval("p.pid")
    await until(lambda: not any(os.path.exists(f"/proc/{one}/exe") for one in (pid, child)))


async def test_objects_of_a_guest_go_with_it(tmp_path: Path) -> None:
    async with clients(tmp_path) as (_, one, two), two.python.session("n") as b:
        async with one.python.session("n") as a:
            await a.exec(
                "import weakref\nclass C: pass\ndef make():\n global seen\n c = C()\n seen = weakref.ref(c)\n return c"
            )
            kept = await a.ref("make()")
            assert await b.eval("seen() is not None")
            del kept

        async def gone() -> bool:
            return bool(await b.eval("seen() is None"))

        async with asyncio.timeout(5):
            while not await gone():
                pass


async def test_other_machines_and_names_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Promise 133."""
    async with LocalMachine() as local:
        with pytest.raises(UnsupportedError, match="daemon"):
            local.python.session("n")
    machine = DaemonMachine(path=tmp_path / "s")
    for name in ("a b", "../x", "x" * 65, "é"):
        with pytest.raises(ValueError, match="letters"):
            machine.python.session(name)
    with pytest.raises(UnsupportedError):
        machine.python(executable="python3").session("n")
    assert machine.state == "new"
