"""The lookup of programs: one round trip when it is cold, none when it is warm, and never a stale answer for long."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aioremote import CommandNotFound, FileError, Machine, RemotePath
from aioremote.testing.fakes import FakeTransport
from aioremote.transports.local import LocalTransport


@pytest_asyncio.fixture
async def transport(aioremote_no_leaks: None) -> AsyncIterator[FakeTransport]:
    made = FakeTransport(LocalTransport())
    yield made
    await made.aclose()


def make_program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    return program


async def use(machine: Machine, program: RemotePath, how: str) -> None:
    if how == "run":
        await machine.run(program)
    elif how == "start":
        await machine.start(program)
    else:
        await anext(machine.lines(program))


async def test_one_round_trip_cold_and_none_warm(transport: FakeTransport) -> None:
    machine = Machine(transport, host="fake")
    first = await machine.which("no-such-program", "sh")
    assert len(transport.orders) == 1
    assert await machine.which("no-such-program", "sh") == first
    assert await machine.with_cwd("/usr").which("no-such-program", "sh") == first
    assert len(transport.orders) == 1


async def test_what_was_not_found_is_looked_for_again(transport: FakeTransport, tmp_path: Path) -> None:
    machine = Machine(transport, host="fake").with_env(PATH=tmp_path / "bin")
    assert not await machine.has("tool")
    make_program(tmp_path / "bin", "tool")
    assert await machine.has("tool")


async def test_each_path_has_its_own_answers(transport: FakeTransport, tmp_path: Path) -> None:
    machine = Machine(transport, host="fake")
    ours = make_program(tmp_path / "bin", "sh")
    theirs = await machine.which("sh")
    with machine.env(PATH=tmp_path / "bin"):
        assert str(await machine.which("sh")) == str(ours)
    with machine.env():
        machine.env.path.insert(0, str(tmp_path / "bin"))
        assert str(await machine.which("sh")) == str(ours)
        machine.env.path.remove(str(tmp_path / "bin"))
        assert await machine.which("sh") == theirs
    asked = len(transport.orders)
    assert await machine.which("sh") == theirs
    assert len(transport.orders) == asked


async def test_a_relative_path_has_answers_for_each_directory(transport: FakeTransport, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_program(tmp_path / name, "tool")
    machine = Machine(transport, host="fake").with_env(PATH=".:/bin")
    for name in ("a", "b"):
        with machine.cwd(str(tmp_path / name)):
            assert str(await machine.which("tool")) == "tool"
    with machine.cwd("/"), pytest.raises(CommandNotFound):
        await machine.which("tool")


@pytest.mark.parametrize("how", ["run", "start", "lines"])
async def test_a_program_that_is_gone_is_looked_for_again(transport: FakeTransport, tmp_path: Path, how: str) -> None:
    first, second = make_program(tmp_path / "1", "tool"), make_program(tmp_path / "2", "tool")
    machine = Machine(transport, host="fake").with_env(PATH=f"{first.parent}:{second.parent}:/bin")
    found = await machine.which("tool")
    assert str(found) == str(first)
    first.unlink()
    with pytest.raises(CommandNotFound):
        await use(machine, found, how)
    assert str(await machine.which("tool")) == str(second)
    second.chmod(0o644)
    with pytest.raises(FileError):
        await machine.run(second)
    with pytest.raises(CommandNotFound):
        await machine.which("tool")


async def test_many_tasks_may_ask_at_once(transport: FakeTransport) -> None:
    machine = Machine(transport, host="fake")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(machine.which(name)) for name in ["sh", "ls", "cat"] * 10]
    assert {task.result().name for task in tasks} == {"sh", "ls", "cat"}
