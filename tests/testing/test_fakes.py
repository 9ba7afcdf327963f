"""Transports that answer by script or fail on purpose, used as a machine's transport, as their users do."""

import asyncio
import secrets
from pathlib import Path

import anyio
import pytest

from aioremote import (
    Capability,
    ClosedError,
    CommandFailed,
    CommandKilled,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    Endpoint,
    Fleet,
    Line,
    Machine,
    UnsupportedError,
)
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.fakes import FakeTransport, Fault, FaultyTransport
from aioremote.transports.local import LocalTransport

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

COUNT = ("/bin/sh", "-c", "echo one; echo two; echo three")


@pytest.fixture
def mark() -> str:
    return f"aioremote-mark-{secrets.token_hex(6)}"


def faulty(**fault: object) -> Machine:
    return Machine(FaultyTransport(LocalTransport(), Fault(**fault)), host="web1")  # type: ignore[arg-type]


# --- answers by script ------------------------------------------------------------------------------------------------


async def test_a_script_answers_the_commands_that_begin_so() -> None:
    fake = FakeTransport(host="web1").on("uptime", stdout=b"up 3 days\n").on("systemctl", "status", returncode=3)
    async with Machine(fake, host="web1") as machine:
        assert (await machine.run("uptime", "-p")).stdout == "up 3 days\n"
        with pytest.raises(CommandFailed) as caught:
            await machine.run("systemctl", "status", "nginx")
        assert caught.value.returncode == 3
        assert caught.value.host == "web1"
    assert [spec.argv for spec in fake.orders] == [(b"uptime", b"-p"), (b"systemctl", b"status", b"nginx")]


async def test_the_last_fitting_script_answers() -> None:
    fake = FakeTransport().on("ls", stdout=b"all").on("ls", "-l", stdout=b"long").on(b"ls", b"-l", b"/x", stdout=b"x")
    machine = Machine(fake, host="fake")
    assert [(await machine.run("ls", *rest)).stdout for rest in ([], ["-l"], ["-l", "/x"], ["/x"])] == [
        "all",
        "long",
        "x",
        "all",
    ]


async def test_a_script_can_end_by_a_signal_and_write_both_streams() -> None:
    fake = FakeTransport().on("x", stdout=b"out", stderr=b"err", returncode=-9, signal="KILL")
    with pytest.raises(CommandKilled) as caught:
        await Machine(fake, host="fake").run("x")
    assert (caught.value.signal, caught.value.stdout, caught.value.stderr) == ("KILL", "out", "err")


async def test_a_script_keeps_what_it_was_told() -> None:
    fake = FakeTransport().on("tee", stdout=b"done")
    machine = Machine(fake, host="fake")
    await machine.run("tee", input="text", cwd="/srv", env={"A": "1"})
    async with machine.start("tee", "-a") as process:
        assert process.stdin is not None
        await process.stdin.send(b"some")
        await process.stdin.send(b"thing")
        await process.stdin.aclose()
        assert await process.wait() == 0
        assert await process.stdout.receive() == b"done"
    assert fake.inputs == [b"text", b"something"]
    assert (fake.orders[0].cwd, fake.orders[0].env) == (b"/srv", {"A": b"1"})


async def test_a_script_gives_lines_too() -> None:
    machine = Machine(FakeTransport().on("log", stdout=b"a\nb\n"), host="fake")
    assert [line async for line in machine.lines("log")] == [Line("stdout", "a", "fake"), Line("stdout", "b", "fake")]


async def test_a_script_answers_the_same_each_time() -> None:
    machine = Machine(FakeTransport().on("date", stdout=b"now"), host="fake")
    assert {(await machine.run("date")).stdout for _ in range(3)} == {"now"}


async def test_without_script_and_base_there_is_no_program_and_nothing_else() -> None:
    fake = FakeTransport()
    machine = Machine(fake, host="fake")
    with pytest.raises(CommandNotFound) as caught:
        await machine.run("uptime")
    assert caught.value.program == "uptime"
    assert machine.capabilities == {Capability.COMMANDS}
    assert str(machine) == "fake://fake"
    assert await machine.ping() == 0.0
    for work in (
        machine.open_connection("web1", 80),
        machine.open_listener(),
        fake.open_files(),
        fake.getfile("/far", "near"),
        fake.putfile("near", "/far"),
    ):
        with pytest.raises(UnsupportedError, match="without a base only answers commands"):
            await work


async def test_a_base_does_what_is_not_scripted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    fake = FakeTransport(LocalTransport()).on("uptime", stdout=b"up")
    async with Machine(fake, host="fake") as machine:
        assert (await machine.run("uptime")).stdout == "up"
        assert (await machine.run("echo", "real")).stdout == "real\n"
        await fake.getfile(tmp_path / "file", tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "content"
        await fake.putfile(tmp_path / "file", tmp_path / "copy2")
        assert await (await fake.open_files()).exists(bytes(tmp_path / "copy2"))
        async with await fake.open_listener(Endpoint("127.0.0.1")) as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await fake.open_connection(Endpoint("127.0.0.1", port)):
                pass
    assert fake.capabilities == frozenset(Capability)
    assert [spec.argv[0] for spec in fake.orders] == [b"uptime", b"echo"]


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("how", ["aclose", "abort"])
async def test_after_its_close_it_says_so(base: bool, how: str) -> None:
    fake = FakeTransport(LocalTransport() if base else None).on("uptime", stdout=b"up")
    machine = Machine(fake, host="fake")
    await machine.run("uptime")
    if how == "abort":
        machine.abort()
    else:
        await machine.aclose()
        await machine.aclose()
    for work in (machine.run("uptime"), machine.connect(), machine.ping()):
        with pytest.raises(ClosedError):
            await work


async def test_a_fleet_of_fakes() -> None:
    machines = [Machine(FakeTransport(host=name).on("id", stdout=name.encode()), host=name) for name in ("a", "b")]
    async with Fleet(machines) as fleet:
        report = await fleet.run("id")
    assert {host: result.stdout for host, result in report.items()} == {"fake://a": "a", "fake://b": "b"}


async def test_a_cancel_anywhere_leaves_nothing() -> None:
    machine = Machine(FakeTransport().on("uptime", stdout=b"up"), host="fake")

    async def use() -> None:
        await machine.run("uptime", input="text")
        async with machine.start("uptime") as process:
            await process.wait()

    async def check() -> None:
        assert (await machine.run("uptime")).stdout == "up"

    assert await cancel_everywhere(use, check) >= 2


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_bytes", [1, 3, 7, 100_000])
async def test_pieces_change_nothing_but_the_pieces(piece_bytes: int) -> None:
    async with faulty(piece_bytes=piece_bytes) as machine:
        assert (await machine.run("seq", "1000")).stdout == "".join(f"{n}\n" for n in range(1, 1001))
        assert [line.text async for line in machine.lines("seq", "100")] == [str(n) for n in range(1, 101)]
        async with machine.start(*COUNT) as process:
            await process.wait()
            assert 1 <= len(await process.stdout.receive()) <= piece_bytes


@pytest.mark.parametrize("cut_after", [0, 1, 6, 13, 14])
async def test_promise_52_a_cut_is_a_lost_connection_with_the_output_so_far(cut_after: int) -> None:
    async with faulty(cut_after=cut_after) as machine:
        with pytest.raises(ConnectionLost) as caught:
            await machine.run(*COUNT)
    assert (caught.value.outcome, caught.value.reason, caught.value.host) == ("unknown", "reset", "localhost")
    assert caught.value.result is not None
    assert caught.value.result.stdout == "one\ntwo\nthree\n"[:cut_after]
    assert caught.value.cmd == list(COUNT)


async def test_a_cut_that_is_never_reached_changes_nothing() -> None:
    async with faulty(cut_after=15, piece_bytes=2) as machine:
        assert (await machine.run(*COUNT)).stdout == "one\ntwo\nthree\n"


async def test_a_cut_is_seen_by_whoever_reads_or_waits() -> None:
    async with faulty(cut_after=4) as machine:
        async with machine.start(*COUNT) as process:
            assert await process.stdout.receive() == b"one\n"
            with pytest.raises(ConnectionLost):
                await process.stdout.receive()
            with pytest.raises(ConnectionLost):
                await process.wait()
            assert process.returncode is None
        lines = machine.lines(*COUNT)
        assert (await anext(lines)).text == "one"
        with pytest.raises(ConnectionLost) as caught:
            await anext(lines)
        assert caught.value.result is not None
        assert caught.value.result.stdout == "one\n"


async def test_a_cut_ends_the_real_process_too(mark: str) -> None:
    async with faulty(cut_after=3) as machine:
        with pytest.raises(ConnectionLost):
            await machine.shell("echo up; sleep 600", env={"MARK": mark})
        await until(lambda: not marked_processes(mark))


@pytest.mark.parametrize("stall_after", [0, 4, 14])
async def test_a_stall_ends_by_the_timeout_with_the_output_so_far(stall_after: int) -> None:
    async with faulty(stall_after=stall_after) as machine:
        with pytest.raises(CommandTimeout) as caught:
            await machine.run(*COUNT, timeout=0.3)
    assert caught.value.result is not None
    assert caught.value.result.stdout == "one\ntwo\nthree\n"[:stall_after]


async def test_a_stall_can_be_cancelled(mark: str) -> None:
    async with faulty(stall_after=3) as machine, asyncio.TaskGroup() as group:
        running = group.create_task(machine.shell("echo up; sleep 600", env={"MARK": mark}))
        await until(lambda: marked_processes(mark))
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        await until(lambda: not marked_processes(mark))


@pytest.mark.parametrize(("cut", "stall", "error"), [(3, 5, ConnectionLost), (5, 3, CommandTimeout)])
async def test_of_two_faults_the_first_counts(cut: int, stall: int, error: type[Exception]) -> None:
    async with faulty(cut_after=cut, stall_after=stall) as machine:
        with pytest.raises(error) as caught:
            await machine.run(*COUNT, timeout=0.5)
    assert caught.value.result.stdout == "one"  # type: ignore[attr-defined]


async def test_a_fault_before_the_start_says_that_nothing_ran() -> None:
    async with faulty(before_start=True) as machine:
        with pytest.raises(ConnectionLost) as caught:
            await machine.run(*COUNT)
    assert caught.value.outcome == "not_started"


async def test_a_scripted_answer_goes_through_the_fault() -> None:
    transport = FaultyTransport(LocalTransport(), Fault(cut_after=2)).on("uptime", stdout=b"up 3 days")
    async with Machine(transport, host="web1") as machine:
        with pytest.raises(ConnectionLost) as caught:
            await machine.run("uptime")
    assert caught.value.result is not None
    assert caught.value.result.stdout == "up"


async def test_a_slow_reader_holds_the_real_source_back() -> None:
    async with faulty(piece_bytes=4096) as machine, machine.start("seq", "2000000") as process:
        data = bytearray(await process.stdout.receive())
        await asyncio.sleep(0.1)  # the reader is slow: the program must wait, and nothing may be lost
        async for piece in process.stdout:
            data += piece
        assert await process.wait() == 0
    assert data.count(b"\n") == 2_000_000


async def test_a_faulty_transport_keeps_the_address_of_the_real_one() -> None:
    transport = FaultyTransport(LocalTransport(), Fault())
    assert str(transport.address) == "local:"
    assert transport.fault == Fault()
    await transport.aclose()
