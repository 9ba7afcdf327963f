"""From "not connected" to "connected": shared by tasks, through gates and slow links, and what can stop it."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pace import in_time
from tests.transports.ssh.conftest import MachineMaker
from tests.transports.ssh.servers import recording_server

from aioremote import (
    AddressError,
    ClosedError,
    ConnectError,
    ConnectTimeout,
    HostKeys,
    LocalMachine,
    SshMachine,
    UnsupportedError,
)
from aioremote.testing.checks import cancel_everywhere, until
from aioremote.testing.embedded import EmbeddedServer
from aioremote.testing.proxy import TcpProxy
from aioremote.testing.sshd import Sshd
from aioremote.transports.ssh import known_hosts

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Over = Callable[..., SshMachine]


def one_line(error: BaseException, *words: str) -> None:
    """Check that an error says everything in one line."""
    text = str(error)
    assert "\n" not in text
    for word in words:
        assert word in text, text


# --- shared by tasks --------------------------------------------------------------------------------------------------


async def test_tasks_share_one_connect(proxy: TcpProxy, over: Over) -> None:
    """DESIGN 13: twenty tasks at once, one TCP connection."""
    async with over(proxy) as machine:
        pass
    machine = over(proxy)
    before = proxy.accepted
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.run("echo", number)) for number in range(20)]
        assert [task.result().stdout for task in tasks] == [f"{number}\n" for number in range(20)]
        assert proxy.accepted == before + 1
    finally:
        await machine.aclose()


async def test_a_cancelled_task_does_not_hurt_those_who_share_its_connect(proxy: TcpProxy, over: Over) -> None:
    proxy.freeze()
    machine = over(proxy)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.connect()) for _ in range(20)]
            await until(lambda: proxy.accepted)
            tasks[0].cancel()
            tasks[7].cancel()
            await asyncio.wait({tasks[0], tasks[7]})
            proxy.thaw()
        assert [task.cancelled() for task in tasks].count(True) == 2
        assert proxy.accepted == 1
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
    finally:
        await machine.aclose()


async def test_a_connect_survives_the_cancel_of_all_who_waited(proxy: TcpProxy, over: Over) -> None:
    proxy.freeze()
    machine = over(proxy)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await machine.connect()
        await until(lambda: proxy.accepted)
        proxy.thaw()
        await machine.connect()
        assert proxy.accepted == 1
    finally:
        await machine.aclose()


async def test_a_failed_connect_is_told_to_all_who_waited_and_can_be_tried_again(proxy: TcpProxy, over: Over) -> None:
    proxy.accept_silently = True
    machine = over(proxy, connect_timeout=0.3)
    try:
        tasks = [asyncio.get_running_loop().create_task(machine.connect()) for _ in range(5)]
        await asyncio.wait(tasks)
        assert [type(task.exception()) for task in tasks] == [ConnectTimeout] * 5
        assert proxy.accepted == 1
        assert machine.state == "new"
        proxy.accept_silently = False
        machine.transport._settings = over(proxy).transport._settings  # type: ignore[attr-defined]  # a longer timeout
        assert (await machine.run("echo", "fine")).stdout == "fine\n"
    finally:
        await machine.aclose()


async def test_closing_ends_a_connect_for_all_who_wait(proxy: TcpProxy, over: Over) -> None:
    """Promise 79."""
    proxy.freeze()
    machine = over(proxy)
    tasks = [asyncio.get_running_loop().create_task(machine.run("true")) for _ in range(3)]
    await until(lambda: proxy.accepted)
    await machine.aclose()
    await machine.aclose()
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [ClosedError] * 3


async def test_cancelled_anywhere_in_connect_nothing_is_left(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    """Promise 13, for ssh."""
    before = set(asyncio.all_tasks())

    async def connect_and_close() -> None:
        machine = make(guard="never")
        try:
            await machine.connect()
        finally:
            await machine.aclose()

    async def nothing_left() -> None:
        await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()})

    assert await cancel_everywhere(connect_and_close, nothing_left) > 1
    await until(lambda: not aioremote_sshd.session_pids())


async def test_cancelled_anywhere_in_dialling_nothing_is_left(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    """The shared connect survives a cancel of those who wait for it; here the connect itself is cancelled."""
    async with make() as machine:
        settings, address = machine.transport._settings, machine.address  # type: ignore[attr-defined]
    from aioremote.transports.ssh.dial import dial

    before = set(asyncio.all_tasks())

    async def dial_and_close() -> None:
        link = await dial(address, settings, None)
        await link.aclose()

    async def nothing_left() -> None:
        await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()})

    assert await cancel_everywhere(dial_and_close, nothing_left) > 2
    await until(lambda: not aioremote_sshd.session_pids())


async def test_abort_drops_the_connection_at_once(make: MachineMaker) -> None:
    machine = await make().connect()
    task = asyncio.get_running_loop().create_task(machine.run("sleep", "60"))
    await asyncio.sleep(0)
    machine.abort()
    await asyncio.wait({task}, timeout=2)
    assert task.exception() is not None
    with pytest.raises(ClosedError):
        await machine.run("true")
    await machine.aclose()


# --- loops and ends ---------------------------------------------------------------------------------------------------


def test_a_machine_belongs_to_the_loop_that_connected_it(make: MachineMaker) -> None:
    """DESIGN 13."""
    machine = make()
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(machine.connect())
        for call in (machine.run("true"), machine.ping(), machine.open_connection("localhost", 1), machine.connect()):
            with pytest.raises(UnsupportedError, match="another event loop"):
                second.run(call)
        with pytest.raises(UnsupportedError, match="another event loop"):
            second.run(machine.start("true")._start())
        assert first.run(machine.run("echo", "fine")).stdout == "fine\n"
        first.run(machine.aclose())
        with pytest.raises(ClosedError):
            second.run(machine.run("true"))


def test_a_machine_that_did_not_connect_belongs_to_no_loop(make: MachineMaker, tmp_path: Path) -> None:
    machine = make(host_keys=HostKeys.strict(tmp_path / "none"))
    for _ in range(2):
        with asyncio.Runner() as runner, pytest.raises(ConnectError):
            runner.run(machine.connect())


async def dropped(kept: list[object]) -> None:
    """Drop what is kept, and wait until the collector has found it: timers of its last second may hold it."""
    found = weakref.ref(kept.pop())
    await until(lambda: gc.collect() is not None and found() is None)


async def test_a_machine_that_is_dropped_unclosed_warns_and_lets_its_connection_go(
    make: MachineMaker, aioremote_sshd: Sshd
) -> None:
    """Promise 79."""
    machine = await make().connect()
    await machine.run("true")
    assert aioremote_sshd.session_pids()
    kept = [machine.transport]
    del machine
    with pytest.warns(ResourceWarning, match="never closed"):
        await dropped(kept)
    await until(lambda: not aioremote_sshd.session_pids())


async def test_a_running_process_keeps_its_machine(make: MachineMaker) -> None:
    process = await make().start("cat")
    gc.collect()
    assert process.stdin is not None
    await process.stdin.send(b"still here")
    assert await process.stdout.receive() == b"still here"
    await process.stdin.aclose()
    await process.wait()
    kept = [process._far._link]  # type: ignore[attr-defined]  # it goes with the machine
    del process
    with pytest.warns(ResourceWarning, match="never closed"):
        await dropped(kept)


def test_a_program_that_ends_with_live_machines_ends_quietly(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    """Promise 80, with 50 machines, half of them with a running command."""
    server = aioremote_sshd
    program = f"""
        import asyncio, time
        from aioremote import HostKeys, SshMachine
        machines = []
        async def main():
            keys = dict(keyfile={str(server.keyfile)!r}, host_keys=HostKeys.strict({str(server.known_hosts)!r}))
            machines.extend(SshMachine("localhost", port={server.port}, config=None, **keys) for _ in range(50))
            async with asyncio.TaskGroup() as group:
                for machine in machines:
                    group.create_task(machine.connect())
            for machine in machines[:25]:
                asyncio.get_running_loop().create_task(machine.run("sleep", "60"))
            await asyncio.sleep(0)
            return time.monotonic()
        ended = asyncio.run(main())
        print(time.monotonic() - ended)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < 1.5


# --- how many at once -------------------------------------------------------------------------------------------------


async def test_sixty_machines_at_once_to_one_server(make: MachineMaker) -> None:
    """Promise 119: default MaxStartups 10:30:100."""
    machines = [make() for _ in range(60)]
    try:
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(machine.connect())
        assert {machine.state for machine in machines} == {"connected"}
    finally:
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                group.create_task(machine.aclose())


async def test_a_server_that_drops_connections_before_authentication_is_asked_again(make: MachineMaker) -> None:
    """Promise 119: here the only place is taken by somebody else."""
    with Sshd(max_startups="1:100:1") as server:
        async with asyncio.TaskGroup() as group:
            with socket.create_connection((server.host, server.port)):
                await server.wait_for_log("Connection from")
                machine = make(server)
                connecting = group.create_task(machine.connect())
                await server.wait_for_log("past MaxStartups")
                assert not connecting.done()
        assert machine.state == "connected"
        await machine.aclose()


async def test_many_hosts_through_one_machine_that_is_not_connected_yet(make: MachineMaker) -> None:
    """They must not hold the connect gate's places while they wait for the machine in between."""
    async with EmbeddedServer(hosts=40) as servers:
        jump = make()
        host_keys = HostKeys.strict(servers.known_hosts)
        machines = [
            SshMachine(
                host.host,
                port=host.port,
                keyfile=servers.keyfile,
                host_keys=host_keys,
                config=None,
                via=jump,
                connect_timeout=20,
            )
            for host in servers.hosts
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for machine in machines:
                    group.create_task(machine.connect())
            assert (await machines[-1].run("echo", "fine")).stdout == "fine\n"
        finally:
            for machine in (*machines, jump):
                await machine.aclose()


# --- slow, silent, not there ------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)  # some ten round trips
async def test_a_link_of_three_seconds_with_stalls(proxy: TcpProxy, over: Over) -> None:
    """Promise 85: a round trip of 3 s, and nothing moves for a twentieth of the time."""
    async with TcpProxy(proxy.host, proxy.port, delay=1.5) as slow, asyncio.TaskGroup() as group:

        async def stall() -> None:
            while True:
                await asyncio.sleep(1.9)
                slow.freeze()
                await asyncio.sleep(0.1)
                slow.thaw()

        stalling = group.create_task(stall())
        async with over(slow, connect_timeout=60) as machine:
            assert (await machine.run("echo", "fine")).stdout == "fine\n"
            assert await machine.python.eval("1 + 1") == 2
        stalling.cancel()


async def test_a_silent_server(proxy: TcpProxy, over: Over) -> None:
    """Promise 122: connect_timeout 2, over in 3 s, and it says at what it stopped."""
    proxy.accept_silently = True
    began = time.monotonic()
    with pytest.raises(ConnectTimeout) as caught:
        await over(proxy, connect_timeout=2).connect()
    took = time.monotonic() - began
    assert took >= 2
    assert in_time(took, 3)
    one_line(caught.value, proxy.host, str(proxy.port), "2 s", "waiting for the server's version")
    assert isinstance(caught.value, TimeoutError)


async def test_a_server_that_falls_silent_after_its_version(make: MachineMaker) -> None:
    """Promise 122: the phase is named."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-Silent\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(ConnectTimeout, match="stopped while exchanging keys"):
            await make(port=server.sockets[0].getsockname()[1], connect_timeout=0.3).connect()


async def test_a_server_that_never_judges_our_key(make: MachineMaker, tmp_path: Path) -> None:
    """Promise 122: the phase is named."""
    async with recording_server(answers=False) as seen:
        host_keys = HostKeys.strict(seen.known_hosts(tmp_path / "known_hosts"))
        with pytest.raises(ConnectTimeout, match="stopped while authenticating"):
            await make(port=seen.port, host_keys=host_keys, connect_timeout=0.5).connect()


async def test_the_timeout_of_an_operation_counts_the_connect_too(proxy: TcpProxy, over: Over) -> None:
    """DESIGN 14."""
    proxy.accept_silently = True
    machine = over(proxy)
    with pytest.raises(ConnectTimeout, match=r"0\.2 s"):
        await machine.run("true", timeout=0.2)
    await machine.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_a_port_where_nothing_listens(make: MachineMaker, host: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectError) as caught:
            await make(host=host, port=port).connect()
    one_line(caught.value, host, str(port), "nothing listens there")
    assert type(caught.value) is ConnectError
    assert caught.value.host == host


async def test_a_name_that_does_not_resolve(make: MachineMaker) -> None:
    with pytest.raises(AddressError) as caught:
        await make(host="no-such-host.invalid").connect()
    one_line(caught.value, "no-such-host.invalid", "does not resolve")


async def test_a_server_that_is_no_ssh_server(make: MachineMaker) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 \x1b]0;gotcha\x07\r\n\r\n" * 2000)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(ConnectError) as caught:
            await make(port=server.sockets[0].getsockname()[1]).connect()
    one_line(caught.value, "127.0.0.1")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a;b", "a\nb", "%h", "", "a b", "$(id)", "a|b", "-", "a/../b"])
def test_host_names_that_mean_something_else_are_refused(host: str) -> None:
    """Promise 97: before anything is started, nothing even runs a loop here."""
    with pytest.raises(ValueError, match="host name"):
        SshMachine(host)


@pytest.mark.parametrize("user", ["-x", "", "a;b", "a\nb", "%r", "$(id)", "`id`"])
def test_user_names_that_mean_something_else_are_refused(user: str) -> None:
    """Promise 97."""
    with pytest.raises(ValueError, match="user name"):
        SshMachine("web1", user=user)


@pytest.mark.parametrize(
    "keywords",
    [
        {"port": 0},
        {"port": 65536},
        {"connect_timeout": 0},
        {"keepalive": -1},
        {"keepalive_count": 0},
        {"connect_timeout": "5"},
        {"keepalive_count": "3"},
        {"guard": "sometimes"},
        {"host_keys": "no"},
    ],
    ids=str,
)
def test_keywords_that_cannot_be_meant_are_refused(keywords: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"give|from 1 to"):
        SshMachine("web1", **keywords)  # type: ignore[arg-type]


# --- over other machines ----------------------------------------------------------------------------------------------


async def test_via_another_machine(make: MachineMaker, mark: str) -> None:
    """The near end of the second connection is the first machine's server; closing it leaves that one open."""
    async with make() as jump:
        async with make(via=jump) as machine:
            result = await machine.shell("echo $SSH_CLIENT; head -c 3000000 /dev/zero", input=None)
            assert len(result.stdout_bytes) > 3_000_000
            assert (await machine.run("wc", "-c", input=b"x" * 3_000_000)).stdout == "3000000\n"
            async with machine.start("sleep", "60", env={"MARK": mark}):
                pass
        assert (await jump.run("echo", "fine")).stdout == "fine\n"


async def test_via_three_machines(make: MachineMaker) -> None:
    async with make() as first, make(via=first) as second, make(via=second) as third:
        assert (await third.run("echo", "fine")).stdout == "fine\n"


async def test_via_the_local_machine(make: MachineMaker) -> None:
    async with LocalMachine() as here, make(via=here) as machine:
        assert (await machine.run("wc", "-c", input=b"x" * 1_000_000)).stdout == "1000000\n"


async def test_via_a_machine_to_a_port_where_nothing_listens(make: MachineMaker) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with make() as jump:
            with pytest.raises(ConnectError, match="refused") as caught:
                await make(via=jump, port=unused.getsockname()[1]).connect()
            one_line(caught.value, "machine in between")


@pytest.mark.parametrize("running", [0, 2])
async def test_via_a_machine_whose_link_stands_still_closing_takes_two_seconds_at_most(
    proxy: TcpProxy, over: Over, make: MachineMaker, running: int
) -> None:
    """STYLE 31: nothing answers any more, neither the machine nor the one in between."""
    jump = over(proxy)
    machine = make(via=jump)
    await machine.run("true")
    loop = asyncio.get_running_loop()
    calls = [loop.create_task(machine.run("sleep", "600")) for _ in range(running)]
    await machine.run("true")
    proxy.freeze()
    began = time.monotonic()
    await machine.aclose()
    assert in_time(time.monotonic() - began, 2 + 0.2)
    await jump.aclose()
    assert in_time(time.monotonic() - began, 4)
    for call in calls:
        with pytest.raises(ClosedError):
            await call
    proxy.thaw()


async def test_via_a_machine_whose_link_is_lost(proxy: TcpProxy, over: Over, make: MachineMaker) -> None:
    jump = over(proxy)
    machine = await make(via=jump).connect()
    proxy.cut()
    await until(lambda: machine.state == "lost")
    with pytest.raises(ConnectError, match="machine in between"):
        await make(via=jump).connect()
    await machine.aclose()
    await jump.aclose()


async def test_a_machine_in_between_that_refuses_us_is_named(make: MachineMaker, tmp_path: Path) -> None:
    jump = make(host="localhost", host_keys=HostKeys.strict(tmp_path / "none"))
    with pytest.raises(ConnectError) as caught:
        await make(via=jump).connect()
    assert caught.value.host == "localhost"
    await jump.aclose()


# --- the loop stays free ----------------------------------------------------------------------------------------------


async def stalls_during(work: asyncio.Task[None]) -> list[float]:
    """Tick every 5 ms until `work` is done; returns by how many seconds each tick was late, longest first.

    What other processes take of the CPU is no stall of ours: a tick counts for at most what this process has used.
    """
    late: list[float] = []
    while not work.done():
        began, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(0.005)
        late.append(min(time.perf_counter() - began, time.process_time() - used) - 0.005)
    return sorted(late, reverse=True)


async def test_connecting_leaves_the_loop_free(make: MachineMaker, aioremote_sshd: Sshd, tmp_path: Path) -> None:
    """Promises 123, 124: 50 machines against 10,000 lines of known hosts; the best of three tries."""
    async with make():
        pass  # the import is done
    known = aioremote_sshd.known_hosts.read_text()
    key = aioremote_sshd.host_keys["ed25519"]
    others = "".join(f"host{line}.example,10.0.{line >> 8}.{line & 255} {key}\n" for line in range(10_000))
    tries: list[list[float]] = []
    for number in range(3):
        (many := tmp_path / f"known_hosts{number}").write_text(others + known)
        machines = [make(host_keys=HostKeys.strict(many), guard="never") for _ in range(50)]
        connecting = asyncio.get_running_loop().create_task(connect_all(machines))
        tries.append(await stalls_during(connecting))
        await connecting
        for machine in machines:
            await machine.aclose()
        if tries[-1][0] < 0.05 and tries[-1][len(tries[-1]) // 100] < 0.015:
            return
    pytest.fail(f"longest stalls of each try: {[[round(stall, 3) for stall in found[:3]] for found in tries]}")


async def connect_all(machines: list[SshMachine]) -> None:
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(machine.connect())


async def test_known_hosts_are_parsed_once_for_all(
    make: MachineMaker, aioremote_sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 124."""
    parsed: list[str] = []
    parse = known_hosts.parse

    def counting(path: str, data: bytes) -> object:
        parsed.append(path)
        return parse(path, data)

    monkeypatch.setattr(known_hosts, "parse", counting)
    path = tmp_path / "known_hosts"
    path.write_bytes(aioremote_sshd.known_hosts.read_bytes())
    machines = [make(host_keys=HostKeys.strict(path)) for _ in range(10)]
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(machine.connect())
    for machine in machines:
        await machine.aclose()
    assert parsed.count(str(path)) == 1


def test_importing_does_not_load_asyncssh_and_connecting_loads_it_off_the_loop() -> None:
    program = """
        import asyncio, sys, aioremote
        assert "asyncssh" not in sys.modules
        machine = aioremote.SshMachine("127.0.0.1", port=1, config=None)
        async def main():
            try:
                await machine.connect()
            except aioremote.ConnectError:
                return "asyncssh" in sys.modules
        assert asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=os.environ, timeout=30)
