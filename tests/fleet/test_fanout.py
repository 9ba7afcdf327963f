"""Fleets against embedded servers (many hosts in this process, real commands) and a real sshd."""

import asyncio
import gc
import itertools
import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from tests.pace import gone, in_time

from aioremote import (
    AddressError,
    AuthenticationError,
    ClosedError,
    CommandFailed,
    CommandNotFound,
    CommandTimeout,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    FileError,
    Fleet,
    FleetError,
    HostKeyError,
    HostKeys,
    Line,
    LocalMachine,
    Machine,
    RemoteError,
    Report,
    Result,
    SshMachine,
)
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.embedded import EmbeddedHost, EmbeddedServer, Faults, ServerKeys
from aioremote.testing.sshd import Sshd

T = TypeVar("T")
USER = "root"
OUTCOME_ROOM = 16  # outcomes that may wait for the consumer of a stream


@dataclass
class Farm:
    """Some hosts of an embedded server and what a fleet needs for them."""

    server: EmbeddedServer

    @property
    def names(self) -> list[str]:
        return [name_of(host) for host in self.server.hosts]

    @property
    def ssh(self) -> dict[str, Any]:
        host_keys = HostKeys.strict(self.server.known_hosts)
        return {"user": USER, "keyfile": self.server.keyfile, "host_keys": host_keys, "config": None}

    def fleet(self, **keywords: Any) -> Fleet:
        return Fleet(self.names, **{**self.ssh, **keywords})


def name_of(host: EmbeddedHost) -> str:
    return f"{host.host}:{host.port}"


def farm(hosts: int, **keywords: Any) -> EmbeddedServer:
    return EmbeddedServer(hosts=hosts, users={USER: None}, **keywords)


@pytest_asyncio.fixture
async def ten(aioremote_no_leaks: None) -> AsyncIterator[Farm]:
    async with farm(10) as server:
        yield Farm(server)


@pytest.fixture
def mark() -> str:
    """A word that marks this test's far processes, which all run on this computer."""
    return f"aioremote-mark-{secrets.token_hex(6)}"


def states(report: Report[Any]) -> Counter[str]:
    return Counter(outcome.state for outcome in report.outcomes)


async def read_into(items: list[T], stream: AsyncIterator[T]) -> None:
    """Read to the end, or to the error."""
    async for item in stream:
        items.append(item)  # noqa: PERF401  # what comes before the error counts


# --- a large fleet with troubles --------------------------------------------------------------------------------------

HOSTS, OF_EACH = 1000, 5
KINDS = ("refused", "unknown key", "wrong auth", "silent", "fails", "dropped")
ERRORS = {
    "refused": ConnectError,
    "unknown key": HostKeyError,
    "wrong auth": AuthenticationError,
    "silent": ConnectTimeout,
    "fails": CommandFailed,
    "dropped": ConnectionLost,
}


def closed_ports(stack: ExitStack, count: int) -> list[str]:
    """Return hosts that refuse connections as long as the stack holds: their ports are bound, and nobody listens."""
    names = []
    for _ in range(count):
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        names.append(f"127.0.0.1:{bound.getsockname()[1]}")
    return names


def with_troubles(good: EmbeddedServer, strange: EmbeddedServer, stack: ExitStack) -> dict[str, str]:
    """Return all hosts in the order in which they are given, with what is wrong with each ("" for nothing)."""
    bad: dict[str, list[str]] = {"refused": closed_ports(stack, OF_EACH)}
    bad["unknown key"] = [name_of(host) for host in strange.hosts]
    sound = iter(good.hosts)
    for kind in KINDS[2:]:
        hosts = list(itertools.islice(sound, OF_EACH))
        bad[kind] = [name_of(host) for host in hosts]
        for host in hosts:
            if kind == "fails":
                host.environment["STATUS"] = "3"
            elif kind == "dropped":
                host.environment["MORE"] = "100000"
                host.faults = Faults(drop_after_bytes=5000)
            else:
                host.faults = Faults(refuse_auth=kind == "wrong auth", silent=kind == "silent")
    names = {name_of(host): "" for host in sound}
    troubles = [(name, kind) for kind in KINDS for name in bad[kind]]
    step = HOSTS // len(troubles)
    given = list(names.items())
    for place, trouble in enumerate(troubles):
        given.insert(place * step, trouble)
    return dict(given)


@pytest.mark.timeout(120)
async def test_promise_88_a_thousand_machines_of_which_thirty_fail_in_six_ways(aioremote_no_leaks: None) -> None:
    good = farm(HOSTS - 2 * OF_EACH)
    strange = farm(OF_EACH, keys=ServerKeys(ServerKeys.generate().host_key, good.keys.client_key))
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, good.connections)
            await asyncio.sleep(0.01)

    with ExitStack() as stack:
        async with good, strange, asyncio.TaskGroup() as group:
            given = with_troubles(good, strange, stack)
            assert len(given) == HOSTS
            watcher = group.create_task(watch())
            fleet = Fleet(list(given), limit=100, keep_open=False, connect_timeout=5, **Farm(good).ssh)
            async with fleet:
                report = await fleet.shell("echo $HOSTNAME; head -c ${MORE:-0} /dev/zero; exit ${STATUS:-0}")
            watcher.cancel()
            assert good.connections == 0
    assert most <= 100
    assert list(report) == list(given)
    assert {host: kind for host, kind in given.items() if kind} == {
        outcome.host: given[outcome.host] for outcome in report.outcomes if not outcome.ok
    }
    for outcome in report.outcomes:
        kind = given[outcome.host]
        if not kind:
            assert outcome.result is not None
            assert outcome.result.stdout.startswith("embedded")
            continue
        assert type(outcome.error) is ERRORS[kind], (kind, outcome.error)
        assert outcome.error.host == outcome.host
        assert outcome.host.split(":")[0] in str(outcome.error)
        assert outcome.state == ("failed" if kind in ("fails", "dropped") else "unreachable")
    assert states(report) == {"ok": 970, "failed": 10, "unreachable": 20}
    for host, error in report.failed.items():
        if given[host] == "dropped":
            assert error.outcome == "unknown"
            assert error.result.stdout.startswith("embedded")
    with pytest.raises(FleetError, match=r"^30 of 1000 hosts failed") as caught:
        report.raise_for_failures()
    assert len(caught.value.exceptions) == 30
    assert caught.value.report is report


# --- one fails, all end -----------------------------------------------------------------------------------------------

# $ROLE: "" waits for ever, "quick" is done at once, "culprit" fails when told to.
ROLES = """
case ${ROLE:-} in
quick) exit 0;;
culprit) while test ! -e "$GO"; do sleep 0.02; done; exit 3;;
esac
trap '' TERM; sleep 600 & wait; sleep 600
"""


async def test_promise_89_fail_fast_ends_the_rest(aioremote_no_leaks: None, mark: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    async with farm(30) as server, asyncio.TaskGroup() as group:
        for host in server.hosts[:4]:
            host.environment["ROLE"] = "quick"
        server.hosts[7].environment["ROLE"] = "culprit"
        names = Farm(server).names
        async with Farm(server).fleet(limit=10) as fleet:
            env = {"MARK": mark, "GO": str(go)}
            running = group.create_task(fleet.shell(ROLES, env=env, fail_fast=True))
            await until(lambda: server.accepted == 14 and len(marked_processes(mark)) >= 2 * 9 + 1, seconds=20)
            go.touch()
            report = await running
            await gone(mark, within=2)
    assert list(report) == names
    assert [outcome.state for outcome in report.outcomes] == ["ok"] * 4 + ["failed"] * 10 + ["skipped"] * 16
    assert isinstance(report.failed[names[7]], CommandFailed)
    ended = [report.failed[host] for host in names[4:14] if host != names[7]]
    assert {str(error) for error in ended} == {f"{error.host}: ended because {names[7]} failed" for error in ended}
    assert {type(error) for error in ended} == {RemoteError}
    assert all(str(error) == f"{host}: not started: {names[7]} failed" for host, error in report.skipped.items())
    with pytest.raises(FleetError, match=r"10 of 30 hosts failed.*16 not started"):
        report.raise_for_failures()


async def test_promise_89_a_host_that_was_not_connected_yet_counts_as_not_started(ten: Farm) -> None:
    ten.server.hosts[1].faults = Faults(silent=True)
    async with ten.fleet(limit=2) as fleet:

        async def work(machine: Machine) -> None:
            await until(lambda: ten.server.connections >= 2)
            raise LookupError("no use")

        report = await fleet.map(work, fail_fast=True)
    assert [outcome.state for outcome in report.outcomes] == ["failed", *["skipped"] * 9]
    assert isinstance(report.failed[ten.names[0]], LookupError)


async def test_fail_fast_at_the_first_step_starts_nobody_else(ten: Farm) -> None:
    machines = [LocalMachine() for _ in range(1)]
    await machines[0].aclose()
    async with Fleet([*machines, *ten.names], limit=5, **ten.ssh) as fleet:
        report = await fleet.run("true", fail_fast=True)
    assert states(report) == {"failed": 1, "skipped": 10}
    assert isinstance(report.outcomes[0].error, ClosedError)
    assert ten.server.accepted == 0


async def test_fail_fast_without_a_failure_changes_nothing(ten: Farm) -> None:
    async with ten.fleet(limit=3) as fleet:
        assert states(await fleet.run("true", fail_fast=True)) == {"ok": 10}


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_promise_90_outcomes_come_as_they_are_ready(ten: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    ten.server.hosts[0].environment["ROLE"] = "culprit"
    for host in ten.server.hosts[1:]:
        host.environment["ROLE"] = "quick"
    order = []
    async with ten.fleet() as fleet:
        async for outcome in fleet.stream("/bin/sh", "-c", ROLES, env={"GO": str(go)}):
            order.append(outcome.host)
            if len(order) == 9:
                go.touch()
    assert sorted(order[:9]) == sorted(ten.names[1:])
    assert order[9] == ten.names[0]
    assert outcome.result is not None
    assert outcome.result.returncode == 3
    assert isinstance(outcome.error, CommandFailed)


async def test_promise_90_a_slow_consumer_stops_the_window(aioremote_no_leaks: None) -> None:
    limit, taken = 5, 1
    most = taken + OUTCOME_ROOM + limit
    async with (
        farm(60) as server,
        Farm(server).fleet(limit=limit, keep_open=False) as fleet,
        fleet.stream("true") as outcomes,
    ):
        first = await anext(outcomes)
        await until(lambda: server.accepted == most and server.connections == 0, seconds=20)
        rest = [outcome async for outcome in outcomes]
    assert server.accepted == 60
    assert len({first.host, *(outcome.host for outcome in rest)}) == 60


async def test_leaving_a_stream_early_ends_what_runs(ten: Farm, mark: str) -> None:
    ten.server.hosts[3].environment["ROLE"] = "quick"
    async with ten.fleet() as fleet:
        async with fleet.stream("/bin/sh", "-c", ROLES, env={"MARK": mark}) as outcomes:
            async for outcome in outcomes:
                assert outcome.host == ten.names[3]
                break
        await gone(mark, within=2)
        assert states(await fleet.run("true")) == {"ok": 10}
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


async def test_closing_the_fleet_ends_its_streams(ten: Farm, mark: str) -> None:
    ten.server.hosts[3].environment["ROLE"] = "quick"
    async with ten.fleet(keep_open=False) as fleet:
        async for _ in fleet.stream("/bin/sh", "-c", ROLES, env={"MARK": mark}):
            break
    await gone(mark, within=1)
    assert ten.server.connections == 0


async def test_a_stream_that_nobody_reads_starts_nothing(ten: Farm) -> None:
    async with ten.fleet() as fleet, fleet.stream("true"):
        pass
    assert ten.server.accepted == 0


async def test_a_consumer_that_fails_ends_the_stream(ten: Farm, mark: str) -> None:
    ten.server.hosts[3].environment["ROLE"] = "quick"
    async with ten.fleet() as fleet:

        async def consume() -> None:
            async with fleet.stream("/bin/sh", "-c", ROLES, env={"MARK": mark}) as outcomes:
                async for _ in outcomes:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await consume()
        await gone(mark, within=2)


# --- timeouts ---------------------------------------------------------------------------------------------------------


async def test_promise_91_a_host_that_hangs_is_hit_alone(ten: Farm, mark: str) -> None:
    ten.server.hosts[2].faults = Faults(silent=True)
    for number in (0, 1, 3, 4, 6, 7, 8, 9):
        ten.server.hosts[number].environment["ROLE"] = "quick"
    async with ten.fleet() as fleet:
        report = await fleet.shell(ROLES, env={"MARK": mark}, timeout=3)
        await gone(mark, within=1)
    assert states(report) == {"ok": 8, "failed": 1, "unreachable": 1}
    assert type(report.failed[ten.names[5]]) is CommandTimeout
    assert type(report.unreachable[ten.names[2]]) is ConnectTimeout


async def test_promise_91_a_mapped_function_that_hangs_is_hit_alone(ten: Farm) -> None:
    ten.server.hosts[2].faults = Faults(silent=True)

    async def work(machine: Machine) -> str:
        if machine.host == ten.names[5]:
            await asyncio.Event().wait()
        return machine.host

    async with ten.fleet() as fleet:
        report = await fleet.map(work, timeout=3)
    assert dict(report.ok) == {name: name for name in ten.names if name not in (ten.names[2], ten.names[5])}
    assert type(report.failed[ten.names[5]]) is CommandTimeout
    assert isinstance(report.failed[ten.names[5]], TimeoutError)
    assert report.failed[ten.names[5]].timeout == 3
    assert type(report.unreachable[ten.names[2]]) is ConnectTimeout


async def test_outcomes_are_gone_with_their_report(ten: Farm) -> None:
    """Not kept until the next garbage collection."""

    def results() -> int:
        return sum(type(kept) is Result for kept in gc.get_objects())

    gc.collect()
    before = results()
    gc.disable()
    try:
        async with ten.fleet() as fleet:
            await fleet.run("true")
        assert results() == before
    finally:
        gc.enable()


async def test_the_window_does_not_count_against_the_timeout(ten: Farm) -> None:
    async with ten.fleet(limit=2) as fleet:
        began = time.monotonic()
        report = await fleet.run("sleep", "1", timeout=4)
    assert states(report) == {"ok": 10}
    assert time.monotonic() - began > 4.9


async def test_an_error_of_the_function_that_is_a_timeout_stays_what_it_is(ten: Farm) -> None:
    async def work(machine: Machine) -> None:
        raise TimeoutError("mine")

    async with ten.fleet() as fleet:
        report = await fleet.map(work, timeout=30)
    assert {(type(error), str(error)) for error in report.failed.values()} == {(TimeoutError, "mine")}


# --- descriptors ------------------------------------------------------------------------------------------------------

DESCRIPTORS = """
import asyncio, os, resource, sys
from aioremote import Fleet, HostKeys
keyfile, known_hosts, allowed, *hosts = sys.argv[1:]

async def main():
    host_keys = HostKeys.strict(known_hosts)
    fleet = Fleet(hosts, limit=1000, user="root", keyfile=keyfile, host_keys=host_keys, config=None)
    limit = int(allowed) or len(os.listdir("/dev/fd")) - 1  # that of listing is closed by then
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    async with fleet:
        report = await fleet.run("true")
        print(report.summary())
        for error in list(report.unreachable.values())[:1] + list(report.failed.values())[:1]:
            print(type(error).__name__, error)

os.closerange(3, 1024)  # uvloop leaves some open in what it starts
asyncio.run(main())
"""


async def python(code: str, *args: object) -> asyncio.subprocess.Process:
    words = (sys.executable, "-W", "error", "-c", code, *map(str, args))
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "PYTHONASYNCIODEBUG": ""}  # it would log what is slow
    return await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


@pytest.mark.timeout(120)
async def test_promise_92_a_thousand_hosts_queue_for_256_descriptors(aioremote_no_leaks: None) -> None:
    async with farm(1000) as server:
        process = await python(DESCRIPTORS, server.keyfile, server.known_hosts, 256, *Farm(server).names)
        stdout, stderr = await process.communicate()
    assert (stdout.decode(), stderr.decode()) == ("1000 hosts: 1000 ok\n", "")
    assert server.accepted == 1000


async def test_promise_92_too_few_descriptors_for_even_one_host_is_a_clear_error(ten: Farm) -> None:
    process = await python(DESCRIPTORS, ten.server.keyfile, ten.server.known_hosts, 0, *ten.names)
    stdout, stderr = await process.communicate()
    assert stderr.decode() == ""
    summary, error = stdout.decode().splitlines()
    assert summary == "10 hosts: 10 unreachable"
    assert error.startswith("ConnectError ")
    assert "may open no more" in error
    assert "ulimit -n" in error


# --- cancelled --------------------------------------------------------------------------------------------------------


async def test_promise_93_a_cancel_in_the_middle_leaves_a_partial_report_and_no_tree(ten: Farm, mark: str) -> None:
    for number in (1, 4):
        ten.server.hosts[number].environment["ROLE"] = "quick"
    async with ten.fleet(limit=6) as fleet, asyncio.TaskGroup() as group:
        running = group.create_task(fleet.shell(ROLES, env={"MARK": mark}))
        await until(lambda: ten.server.accepted == 8 and len(marked_processes(mark)) >= 2 * 6, seconds=20)
        began = time.monotonic()
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        await gone(mark, within=2)
        assert in_time(time.monotonic() - began, 2.5)
        assert fleet.partial is not None
        assert list(fleet.partial) == [ten.names[1], ten.names[4]]
        assert states(await fleet.run("true")) == {"ok": 10}
        assert fleet.partial is None


async def test_promise_93_on_a_real_sshd_as_root(aioremote_no_leaks: None, mark: str) -> None:
    async with Sshd(listen=[f"127.0.0.{number}" for number in range(1, 13)]) as server:
        names = [f"{address}:{server.port}" for address in server.addresses]
        host_keys = HostKeys.strict(server.known_hosts)
        async with (
            Fleet(names, keyfile=server.keyfile, host_keys=host_keys, config=None) as fleet,
            asyncio.TaskGroup() as group,
        ):
            assert (await fleet.run("echo", "hi")).gathered()[0][1] == "hi\n"
            running = group.create_task(fleet.shell(ROLES, env={"MARK": mark}))
            await until(lambda: len(marked_processes(mark)) >= 2 * 12, seconds=20)
            began = time.monotonic()
            running.cancel()
            await asyncio.wait({running})
            await gone(mark, within=2)
            assert in_time(time.monotonic() - began, 2.5)
            assert fleet.partial is not None
            assert len(fleet.partial) == 0


INTERRUPTED = """
import asyncio, sys
from aioremote import Fleet, HostKeys
keyfile, known_hosts, mark, line, *hosts = sys.argv[1:]
fleet = Fleet(hosts, limit=9, user="root", keyfile=keyfile, host_keys=HostKeys.strict(known_hosts), config=None)

async def main():
    async with fleet:
        await fleet.shell(line, env={"MARK": mark})

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print(list(fleet.partial))
"""


async def test_promise_93_ctrl_c_leaves_a_partial_report_and_no_tree(ten: Farm, mark: str) -> None:
    ten.server.hosts[4].environment["ROLE"] = "quick"
    process = await python(INTERRUPTED, ten.server.keyfile, ten.server.known_hosts, mark, ROLES, *ten.names)
    await until(lambda: ten.server.accepted == 10 and len(marked_processes(mark)) >= 2 * 9, seconds=20)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = await process.communicate()
    await gone(mark, within=2)
    assert in_time(time.monotonic() - began, 3)
    assert (stdout.decode(), stderr.decode()) == (f"{[ten.names[4]]}\n", "")


# --- connections that stay --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_open", "limit", "kept", "accepted"),
    [(None, 10, 10, 10), (None, 4, 4, 16), (True, 4, 10, 10), (False, 10, 0, 20), (3, 4, 3, 17), (0, 4, 0, 20)],
)
async def test_keep_open_says_how_many_connections_stay(
    ten: Farm, keep_open: int | None, limit: int, kept: int, accepted: int
) -> None:
    async with ten.fleet(limit=limit, keep_open=keep_open) as fleet:
        for _ in range(2):
            assert states(await fleet.run("true")) == {"ok": 10}
            await until(lambda: ten.server.connections == kept)
        assert ten.server.accepted == accepted
    await until(lambda: ten.server.connections == 0)


async def test_a_connection_that_was_lost_is_made_anew(ten: Farm) -> None:
    async with ten.fleet() as fleet:
        assert states(await fleet.run("true")) == {"ok": 10}
        ten.server.drop_connections()
        await until(lambda: ten.server.connections == 0)
        report = await fleet.run("true")
        again = await fleet.run("true")
    assert states(report) == {"ok": 10}, report.unreachable
    assert states(again) == {"ok": 10}


async def test_a_host_that_was_down_is_tried_again(ten: Farm) -> None:
    ten.server.hosts[3].faults = Faults(refuse_auth=True)
    async with ten.fleet() as fleet:
        assert list((await fleet.run("true")).unreachable) == [ten.names[3]]
        ten.server.hosts[3].faults = Faults()
        assert states(await fleet.run("true")) == {"ok": 10}


async def test_machines_that_were_given_stay_open(ten: Farm) -> None:
    async with SshMachine(ten.server.host, port=ten.server.port, **ten.ssh) as ssh, LocalMachine() as local:
        given = [ssh, ten.names[1], local]
        async with Fleet(given, keep_open=False, **ten.ssh) as fleet:
            report = await fleet.run("true")
        assert list(report) == [str(ssh.address), ten.names[1], "local:"]
        assert states(report) == {"ok": 3}
        assert (ssh.state, ten.server.connections) == ("connected", 1)
        assert (await ssh.run("echo", "on")).stdout == "on\n"
        assert (await local.run("echo", "on")).stdout == "on\n"


async def test_scopes_of_given_machines_hold_in_a_fleet(ten: Farm, tmp_path: Path) -> None:
    async with LocalMachine() as local, Fleet([local]) as fleet:
        with local.cwd(str(tmp_path)), local.env(WORD="scoped"):
            report = await fleet.shell("pwd; echo $WORD")
    assert report["local:"].stdout == f"{tmp_path}\nscoped\n"


async def test_two_operations_at_once_share_the_connections_that_stay(ten: Farm) -> None:
    async with ten.fleet() as fleet, asyncio.TaskGroup() as group:
        reports = [group.create_task(fleet.run("echo", number)) for number in range(3)]
        for number, report in enumerate(reports):
            assert (await report).gathered()[0][1] == f"{number}\n"
        assert ten.server.accepted == 10


@pytest.mark.parametrize("keep_open", [True, False])
async def test_promise_80_closing_50_live_hosts_takes_at_most_3_seconds(
    aioremote_no_leaks: None, mark: str, keep_open: bool
) -> None:
    async with farm(50) as server, asyncio.TaskGroup() as group:
        fleet = Farm(server).fleet(keep_open=keep_open)
        async with fleet:
            running = group.create_task(fleet.run("sleep", "600", env={"MARK": mark}))
            await until(lambda: len(marked_processes(mark)) == 50, seconds=30)
            began = time.monotonic()
            if keep_open:
                await fleet.aclose()
                report = await running
                assert states(report) == {"failed": 50}
            else:
                running.cancel()
                await asyncio.wait({running})
                await fleet.aclose()
            assert in_time(time.monotonic() - began, 3)
        await gone(mark, within=2)
        await until(lambda: server.connections == 0)


LIVE = """
import asyncio, sys
from aioremote import Fleet, HostKeys
keyfile, known_hosts, how, *hosts = sys.argv[1:]

async def main():
    fleet = Fleet(hosts, user="root", keyfile=keyfile, host_keys=HostKeys.strict(known_hosts), config=None)
    async with fleet:
        assert len((await fleet.run("true")).ok) == 50
        background = asyncio.create_task(fleet.run("sleep", "600"))
        async for outcome in fleet.stream("true"):
            print("up", flush=True)
            if how == "left":
                break
            await asyncio.to_thread(sys.stdin.readline)
            return
    background.cancel()
    await asyncio.wait({background})

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["left", "returned"])
async def test_promise_80_a_program_that_ends_with_50_live_hosts_ends_in_3_seconds(
    aioremote_no_leaks: None, how: str
) -> None:
    async with farm(50) as server:
        process = await python(LIVE, server.keyfile, server.known_hosts, how, *Farm(server).names)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        began = time.monotonic()
        stdout, stderr = await process.communicate(b"\n")
        assert in_time(time.monotonic() - began, 3 + 1)  # and the end of the interpreter
    assert (process.returncode, stdout.decode(), stderr.decode()) == (0, "", "")


async def test_a_cancelled_aclose_still_releases_everything(ten: Farm) -> None:
    fleet = ten.fleet()
    assert states(await fleet.run("true")) == {"ok": 10}
    task = asyncio.get_running_loop().create_task(fleet.aclose())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await until(lambda: ten.server.connections == 0)
    await fleet.aclose()


async def test_a_closed_fleet_says_so(ten: Farm) -> None:
    fleet = ten.fleet()
    async with fleet:
        pass
    for work in (fleet.run("true"), fleet.shell("true"), fleet.map(Machine.ping)):
        with pytest.raises(ClosedError):
            await work
    for stream in (fleet.stream("true"), fleet.lines("true")):
        with pytest.raises(ClosedError):
            await anext(stream)
    assert ten.server.accepted == 0


# --- hosts ------------------------------------------------------------------------------------------------------------


async def test_an_iterator_of_hosts_is_read_as_the_window_comes_to_it(aioremote_no_leaks: None) -> None:
    begun: list[str] = []
    ends = asyncio.Semaphore(0)
    read: list[str] = []

    async def work(machine: Machine) -> None:
        begun.append(machine.host)
        await ends.acquire()

    async with farm(40) as server:

        def names() -> Iterator[str]:
            for name in Farm(server).names:
                read.append(name)
                yield name

        async with Fleet(names(), limit=4, keep_open=False, **Farm(server).ssh) as fleet, asyncio.TaskGroup() as group:
            tasks, files = len(asyncio.all_tasks()), len(os.listdir("/dev/fd"))
            running = group.create_task(fleet.map(work))
            for done in range(4):
                await until(lambda done=done: len(begun) == 4 + done)
                assert sorted(read) == sorted(begun)
                assert len(asyncio.all_tasks()) <= tasks + 1 + 4
                assert len(os.listdir("/dev/fd")) <= files + 2 * 4 + 8  # both ends are here; threads resolve names
                ends.release()
            for _ in range(36):
                ends.release()
            report = await running
    assert len(report) == 40
    assert list(report) == read


async def test_a_pending_host_costs_nothing_but_its_name(ten: Farm) -> None:
    """A million names are read as they are needed: the operation ends long before the last."""
    names = itertools.chain(ten.names, (f"never{number}" for number in itertools.count()))
    async with Fleet(names, limit=4, **ten.ssh) as fleet:
        async with fleet.stream("true") as outcomes:
            first = list(itertools.islice([await anext(outcomes) for _ in range(4)], 4))
        gc.collect()
        assert {outcome.state for outcome in first} == {"ok"}
        assert len([thing for thing in gc.get_objects() if isinstance(thing, SshMachine)]) <= 4 + OUTCOME_ROOM + 4


@pytest.mark.parametrize("bad", ["-oProxyCommand=x", "web[1-", ""], ids=repr)
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_bad_host_of_an_iterator_comes_out_as_what_it_is(ten: Farm, limit: int, bad: str) -> None:
    names = iter([*ten.names[:4], bad, *ten.names[4:]])
    async with Fleet(names, limit=limit, **ten.ssh) as fleet:
        with pytest.raises(ValueError, match=r".") as caught:
            await fleet.run("true")
        assert isinstance(caught.value, AddressError)
        assert not isinstance(caught.value, BaseExceptionGroup)
        assert fleet.partial is not None
        assert set(fleet.partial) <= set(ten.names[:4])
        assert len(fleet.partial) == (4 if limit == 1 else len(fleet.partial))


async def test_an_iterator_that_fails_comes_out_as_it_is_and_ends_the_rest(ten: Farm, mark: str) -> None:
    def names() -> Iterator[str]:
        yield from ten.names[:3]
        raise LookupError("the inventory is gone")

    ten.server.hosts[1].environment["ROLE"] = "quick"
    async with Fleet(names(), limit=3, **ten.ssh) as fleet:
        with pytest.raises(LookupError, match="inventory"):
            await fleet.shell(ROLES, env={"MARK": mark})
        await gone(mark, within=2)
        with pytest.raises(LookupError, match="inventory"):
            async for _ in fleet.lines("true"):
                pass
        with pytest.raises(LookupError, match="inventory"):
            async for _ in fleet.stream("true"):
                pass


async def test_patterns_of_the_ssh_config(ten: Farm) -> None:
    async with Fleet("embedded0?,embedded10", config=ten.server.ssh_config) as fleet:
        report = await fleet.shell("echo $HOSTNAME")
    assert [result.stdout for result in report.values()] == [f"embedded{number:02}\n" for number in range(1, 11)]
    assert list(report) == [f"embedded{number:02}" for number in range(1, 11)]


async def test_patterns_and_ranges_go_together(ten: Farm) -> None:
    async with Fleet("embedded[01,03], embedded1*", config=ten.server.ssh_config) as fleet:
        assert list(await fleet.run("true")) == ["embedded01", "embedded03", "embedded10"]


@pytest.mark.parametrize(("hosts", "config"), [("db*", True), ("web*", None)])
def test_a_pattern_that_matches_nothing_is_an_address_error(tmp_path: Path, hosts: str, config: bool | None) -> None:
    path = tmp_path / "config"
    path.write_text("Host web1\n")
    with pytest.raises(AddressError, match=r"matches '(db|web)\*'"):
        Fleet(hosts, config=path if config else None)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": 0}, ValueError),
        ({"limit": -1}, ValueError),
        ({"limit": "9"}, TypeError),
        ({"keep_open": "9"}, TypeError),
        ({"keep_open": -1}, ValueError),
        ({"no_such": 1}, TypeError),
        ({"port": 0}, ValueError),
        ({"user": "-x"}, ValueError),
        ({"host_keys": "none"}, TypeError),
        ({"connect_timeout": -1}, ValueError),
    ],
)
def test_wrong_keywords_are_told_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Fleet("web[1-3]", **arguments)


@pytest.mark.parametrize("operation", ["run", "shell", "stream", "lines"])
@pytest.mark.parametrize(
    ("argv", "keywords", "error"),
    [
        (("a\0b",), {}, ValueError),
        (("true",), {"no_such": 1}, TypeError),
        (("true",), {"env": {"A=B": "1"}}, ValueError),
        (("true",), {"cwd": "a\0b"}, ValueError),
        (("true",), {"timeout": -1}, ValueError),
        (("true",), {"errors": "no-such-policy"}, ValueError),
        ((object(),), {}, TypeError),
    ],
)
async def test_wrong_arguments_are_told_before_any_host_is_bothered(
    ten: Farm, operation: str, argv: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception]
) -> None:
    async with ten.fleet() as fleet:

        async def start() -> None:
            started = getattr(fleet, operation)(*argv, **keywords)
            if asyncio.iscoroutine(started):
                await started

        with pytest.raises(error):
            await start()
    assert ten.server.accepted == 0


async def test_an_argument_that_only_run_takes_is_told_too(ten: Farm) -> None:
    async with ten.fleet() as fleet:
        with pytest.raises(TypeError):
            await fleet.run("cat", input=5)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            fleet.lines("cat", input="text")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="-1"):
            fleet.lines("cat", line_timeout=-1)
        with pytest.raises(ValueError, match="-1"):
            await fleet.map(Machine.ping, timeout=-1)
    assert ten.server.accepted == 0


# --- what comes back --------------------------------------------------------------------------------------------------


async def test_run_passes_everything_on(ten: Farm, tmp_path: Path) -> None:
    async with ten.fleet() as fleet:
        report = await fleet.run(
            "/bin/sh",
            "-c",
            'cat; pwd; echo "$WORD $1"; exit 4',
            "sh",
            "it's",
            input="text\n",
            cwd=str(tmp_path),
            env={"WORD": "w"},
            ok_codes=iter([0, 4]),
        )
    assert states(report) == {"ok": 10}
    assert report.gathered() == [(report.gathered()[0][0], f"text\n{tmp_path}\nw it's\n")]
    assert [result.returncode for result in report.values()] == [4] * 10
    assert [result.host for result in report.values()] == ten.names


async def test_troubles_of_a_command_are_typed_and_carry_the_host_as_given(ten: Farm) -> None:
    async with ten.fleet() as fleet:
        missing = await fleet.run("no-such-program-at-all")
        folder = await fleet.run("true", cwd="/no/such/folder")
        failed = await fleet.shell("echo out; echo err >&2; exit 3")
    for report, kind in ((missing, CommandNotFound), (folder, FileError), (failed, CommandFailed)):
        assert {type(error) for error in report.failed.values()} <= {kind, *kind.__subclasses__()}
        assert [error.host for error in report.failed.values()] == ten.names
    assert [(result.stdout, result.stderr) for result in failed.values()] == [("out\n", "err\n")] * 10
    with pytest.raises(CommandNotFound):
        missing[ten.names[0]]


async def test_gathered_folds_hosts_and_outputs(aioremote_no_leaks: None) -> None:
    async with farm(5, name="web") as server:
        server.hosts[2].environment["ODD"] = "odd"
        async with Fleet("web[01-05]", config=server.ssh_config) as fleet:
            report = await fleet.shell("echo ${ODD:-even}")
    assert report.gathered() == [("web[01-02,04-05]", "even\n"), ("web03", "odd\n")]


async def test_map_reports_values_and_errors(ten: Farm) -> None:
    async def work(machine: Machine) -> int | None:
        assert machine.state == "connected"
        if machine.host == ten.names[2]:
            raise KeyError("mine")
        if machine.host == ten.names[4]:
            await machine.shell("exit 5")
        return None if machine.host == ten.names[6] else len((await machine.run("echo", "four")).stdout)

    async with ten.fleet(limit=3) as fleet:
        report = await fleet.map(work)
    assert list(report) == ten.names
    assert states(report) == {"ok": 8, "failed": 2}
    assert [report.get(name, -1) for name in ten.names] == [5, 5, -1, 5, -1, 5, None, 5, 5, 5]
    assert isinstance(report.failed[ten.names[2]], KeyError)
    with pytest.raises(CommandFailed) as caught:
        report[ten.names[4]]
    assert caught.value.host == ten.names[4]


async def test_stream_map_gives_each_outcome_as_it_comes(ten: Farm, mark: str) -> None:
    """Promise 90, for a function: values and errors as they come; leaving the block ends what still runs."""

    async def work(machine: Machine) -> str:
        if machine.host in ten.names[:2]:
            await machine.run("sleep", "600", env={"MARK": mark})
        if machine.host == ten.names[2]:
            raise KeyError("mine")
        return (await machine.run("hostname")).stdout.strip()

    found: dict[str, object] = {}
    async with ten.fleet() as fleet:
        async with fleet.stream_map(work) as outcomes:
            async for outcome in outcomes:
                found[outcome.host] = outcome.result if outcome.ok else type(outcome.error)
                if len(found) == 8:
                    break
        await gone(mark, within=2)
        assert found.keys() == set(ten.names[2:])
        assert found.pop(ten.names[2]) is KeyError
        assert all(isinstance(value, str) for value in found.values())
        with pytest.raises(TypeError, match="timeout='5'"):
            fleet.stream_map(work, timeout="5")  # type: ignore[arg-type]


async def test_without_connect_a_function_gets_the_machine_as_it_is(ten: Farm) -> None:
    async def work(machine: Machine) -> str:
        state = machine.state
        await machine.run("true")
        return state

    async with ten.fleet() as fleet:
        assert set((await fleet.map(work, connect=False)).ok.values()) == {"new"}
        states_seen = {outcome.result async for outcome in fleet.stream_map(work, connect=False)}
        assert states_seen == {"connected"}  # kept from before


async def test_a_function_that_cancels_itself_is_its_hosts_trouble(ten: Farm) -> None:
    async def work(machine: Machine) -> str:
        if machine.host == ten.names[1]:
            task = asyncio.get_running_loop().create_task(asyncio.sleep(600))
            task.cancel()
            await task
        return "fine"

    async with ten.fleet(limit=1) as fleet:
        report = await fleet.map(work)
    assert states(report) == {"ok": 9, "failed": 1}
    assert str(report.failed[ten.names[1]]) == f"{ten.names[1]}: its work was cancelled from within"


async def test_lines_of_all_hosts_come_with_their_host(ten: Farm) -> None:
    async with ten.fleet() as fleet:
        lines = [line async for line in fleet.lines("/bin/sh", "-c", "echo $HOSTNAME; echo two >&2; printf three")]
    for number, name in enumerate(ten.names, 1):
        mine = [(line.source, line.text) for line in lines if line.host == name]
        assert sorted(mine) == [("stderr", "two"), ("stdout", f"embedded{number:02}"), ("stdout", "three")]
        assert mine.index(("stdout", f"embedded{number:02}")) < mine.index(("stdout", "three"))
    assert len(lines) == 30


async def test_a_line_comes_while_its_program_still_runs(ten: Farm, mark: str) -> None:
    async with ten.fleet() as fleet:
        async with fleet.lines("/bin/sh", "-c", f"echo up; {ROLES}", env={"MARK": mark}) as lines:
            up = {(await anext(lines)).host for _ in range(10)}
            assert up == set(ten.names)
            assert len(marked_processes(mark)) >= 10
        await gone(mark, within=2)


async def test_the_fleet_error_comes_after_the_last_line(ten: Farm) -> None:
    ten.server.hosts[6].faults = Faults(refuse_auth=True)
    ten.server.hosts[2].environment["STATUS"] = "7"
    command = ("/bin/sh", "-c", "echo 1; echo 2; exit ${STATUS:-0}")
    lines: list[Line] = []
    async with ten.fleet() as fleet:
        with pytest.raises(FleetError) as caught:
            await read_into(lines, fleet.lines(*command))
        assert len([line async for line in fleet.lines(*command, check=False)]) == 18
        codes = [line async for line in fleet.lines(*command, ok_codes=iter([0, 7]), check=False)]
        assert len(codes) == 18
    assert Counter(line.host for line in lines) == {name: 2 for name in ten.names if name != ten.names[6]}
    first, second = caught.value.exceptions
    assert isinstance(first, CommandFailed)
    assert (first.host, first.returncode) == (ten.names[2], 7)
    assert isinstance(second, AuthenticationError)
    assert states(caught.value.report) == {"ok": 8, "failed": 1, "unreachable": 1}


async def test_lines_name_given_machines_by_their_address(ten: Farm) -> None:
    async with LocalMachine() as local, Fleet([local]) as fleet:
        assert [line.host async for line in fleet.lines("echo", "hi")] == ["local:"]


async def test_line_timeout_hits_the_silent_host_alone(ten: Farm, mark: str) -> None:
    ten.server.hosts[0].environment["ROLE"] = "quick"
    async with Fleet(ten.names[:2], **ten.ssh) as fleet:
        with pytest.raises(FleetError) as caught:
            async for _ in fleet.lines("/bin/sh", "-c", f"echo up; {ROLES}", env={"MARK": mark}, line_timeout=2):
                pass
        await gone(mark, within=1)
    (error,) = caught.value.exceptions
    assert isinstance(error, CommandTimeout)
    assert error.host == ten.names[1]
    assert error.result is not None
    assert error.result.stdout == "up\n"


async def test_a_slow_reader_of_lines_holds_the_far_programs_back(ten: Farm, mark: str) -> None:
    """Promise 90: what one reader does not take waits in bounded buffers, and the far program waits too."""
    async with Fleet(ten.names[:2], **ten.ssh) as fleet, fleet.lines("seq", "1000000", env={"MARK": mark}) as lines:
        first = await anext(lines)
        await until(lambda: len(marked_processes(mark)) == 2)
        written = await steady(lambda: [bytes_written(pid) for pid in marked_processes(mark)])
        assert len(written) == 2
        assert all(0 < count < 5 * 1024 * 1024 for count in written), written  # of 6.6 MiB
        counts = Counter({first.host: 1})
        async for line in lines:
            counts[line.host] += 1
    assert counts == dict.fromkeys(ten.names[:2], 1000000)


async def steady(look: Callable[[], list[int]]) -> list[int]:
    """Return what two looks see that are half a second apart: what is looked at waits."""
    seen = look()
    for _ in range(60):
        await asyncio.sleep(0.5)
        if seen == (seen := look()):
            break
    return seen


def bytes_written(pid: int) -> int:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/io").read_text()
        return int(text.split("wchar: ")[1].split()[0])
    return -1


def test_a_fleet_shows_what_it_is() -> None:
    assert repr(Fleet("web[001-200]")) == "<Fleet of 200 hosts, limit 100>"
    assert repr(Fleet(iter(["a"]), limit=5)) == "<Fleet of ? hosts, limit 5>"
