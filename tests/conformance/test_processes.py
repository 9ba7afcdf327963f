"""Processes that keep running: streams, lines, terminals."""

import asyncio
import contextlib

import anyio
import anyio.abc
import pytest
from tests.conformance.conftest import told_signal

from aioremote import BusyError, CommandFailed, CommandNotFound, CommandTimeout, Line, Machine, Terminal


async def test_a_process_is_an_anyio_process(machine: Machine) -> None:
    async with machine.start("cat") as process:
        assert isinstance(process, anyio.abc.Process)
        assert process.stdin is not None
        await process.stdin.send(b"ping")
        assert await process.stdout.receive() == b"ping"
        await process.stdin.aclose()
        with pytest.raises(anyio.EndOfStream):
            await process.stdout.receive()
        assert await process.wait() == 0


async def test_output_nobody_reads_is_held_back_and_not_lost(machine: Machine) -> None:
    """Promise 128."""
    async with machine.start("head", "-c", "3000000", "/dev/zero") as process:
        assert await process.wait() == 0
        sizes = [len(data) async for data in process.stdout]
    assert sum(sizes) == 3_000_000


async def test_two_readers_of_one_stream_are_refused(machine: Machine) -> None:
    async with machine.start("sleep", "60") as process:
        first = asyncio.get_running_loop().create_task(process.stdout.receive())
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await process.stdout.receive()
        first.cancel()
        await asyncio.wait({first})


async def test_lines_come_when_they_arrive(machine: Machine) -> None:
    """Promise 129."""
    async with machine.lines("/bin/sh", "-c", "printf 'one\\n  two  \\n\\n'; sleep 60", line_timeout=30) as lines:
        got = [await anext(lines) for _ in range(3)]
    assert [line.text for line in got] == ["one", "  two  ", ""]
    assert got[0] == Line("stdout", "one", machine.host)


async def test_lines_of_both_streams_and_a_last_one_without_newline(machine: Machine) -> None:
    got = [line async for line in machine.lines("/bin/sh", "-c", "echo a; echo b >&2; printf c")]
    assert [line.text for line in got if line.source == "stdout"] == ["a", "c"]
    assert [line.text for line in got if line.source == "stderr"] == ["b"]


async def test_lines_end_with_the_failure(machine: Machine) -> None:
    got: list[str] = []

    async def read() -> None:
        async for line in machine.lines("/bin/sh", "-c", "seq 1 500; exit 4", keep_last=3):
            got.append(line.text)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(CommandFailed) as caught:
        await read()
    assert got == [str(number) for number in range(1, 501)]
    assert caught.value.returncode == 4
    assert caught.value.stdout == "498\n499\n500\n"


async def test_lines_of_a_missing_program_say_so(machine: Machine) -> None:
    async def read() -> None:
        async for _ in machine.lines("no-such-program"):
            pass  # ssh: the far shell's own words about it

    with pytest.raises(CommandNotFound):
        await read()


async def test_a_missing_program_is_told_by_start_or_by_the_wait(machine: Machine) -> None:
    """At the start where that is known then, else with its status; a program's own 127 stays one."""

    async def status_of(*argv: str) -> int:
        async with machine.start(*argv) as process:
            with contextlib.suppress(CommandNotFound):
                await process.wait()
            return await process.wait()  # says the same again

    with pytest.raises(CommandNotFound) as caught:
        await status_of("no-such-program")
    assert caught.value.program == "no-such-program"
    with pytest.raises(PermissionError):
        await status_of("/etc/passwd")
    assert await status_of("/bin/bash", "-c", "exit 127") == 127


async def test_silence_between_lines_is_a_timeout(machine: Machine) -> None:
    lines = machine.lines("/bin/sh", "-c", "echo a; sleep 60", line_timeout=0.3)
    assert (await anext(lines)).text == "a"
    with pytest.raises(CommandTimeout, match="no line"):
        await anext(lines)


async def test_many_lines_through_a_slow_reader(machine: Machine) -> None:
    count = 0
    async for line in machine.lines("seq", "1", "60000"):
        count += 1
        if count % 20_000 == 0:
            await asyncio.sleep(0.05)
        assert line.text == str(count)
    assert count == 60_000


async def test_terminal_size_and_resize(machine: Machine) -> None:
    """Promise 56."""
    script = "stty size; trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done"
    async with machine.start_shell(script, pty=Terminal(columns=101, rows=33)) as process:
        seen = b""
        while b"up" not in seen:
            seen += await process.stdout.receive()
        assert b"33 101" in seen
        process.resize(77, 22)
        while b"22 77" not in seen:
            seen += await process.stdout.receive()


async def test_ctrl_c_and_end_of_file_on_a_terminal(machine: Machine) -> None:
    """Promise 56."""
    async with machine.start("cat", pty=True) as process:
        assert process.stdin is not None
        await process.stdin.send(b"hello\n")
        seen = b""
        while seen.count(b"hello") < 2:
            seen += await process.stdout.receive()
        await process.stdin.aclose()
        assert await process.wait() == 0
    async with machine.start_shell("echo up; exec sleep 60", pty=True) as process:
        assert process.stdin is not None
        assert b"up" in await process.stdout.receive()
        await process.stdin.send(b"\x03")
        assert await process.wait() == told_signal(machine, "INT", 2)[0]


async def test_a_terminal_is_one_and_its_output_is_stdout(machine: Machine) -> None:
    result = await machine.shell("tty; test -t 0 && test -t 1 && test -t 2 && echo yes >&2", pty=True)
    assert "/dev/pts/" in result.stdout
    assert "yes" in result.stdout
    assert result.stderr == ""
