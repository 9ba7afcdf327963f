"""What a machine says of itself, scopes, paths, sharing."""

import asyncio
import os
import platform

import pytest

from aioremote import Capability, ClosedError, CommandNotFound, FileError, Machine, RemotePath


async def test_facts(machine: Machine) -> None:
    facts = await machine.facts()
    assert (facts.system, facts.machine, facts.cpu_count) == (platform.system(), platform.machine(), os.cpu_count())
    assert facts.uid == int((await machine.run("id", "-u")).stdout)
    assert facts.python is not None
    assert await machine.facts() is facts


async def test_which_and_has(machine: Machine) -> None:
    found = await machine.which("no-such-program", "sh")
    assert isinstance(found, RemotePath)
    assert found.name == "sh"
    assert await machine.has("ls")
    assert not await machine.has("no-such-program")
    with pytest.raises(CommandNotFound) as caught:
        await machine.which("no-such-1", "no-such-2")
    assert caught.value.programs == ("no-such-1", "no-such-2")


async def test_ping_and_str(machine: Machine) -> None:
    assert 0 <= await machine.ping() < 5
    assert str(machine) == str(machine.address)
    assert Capability.COMMANDS in machine.capabilities


async def test_processes_and_pgrep(machine: Machine, mark: str) -> None:
    async with machine.start("sh", "-c", "sleep 60; :", mark) as process:
        found = await machine.pgrep(mark)
        assert process.pid in [info.pid for info in found]
    assert len(await machine.processes()) > 1


async def test_a_folder_is_exactly_the_one_named(machine: Machine) -> None:
    async with machine.tempdir() as folder:
        for name in ("-", "a b", "~", "$HOME", "it's", "x\ny", "-n", "naïve"):
            await machine.run("mkdir", "--", name, cwd=str(folder))
            result = await machine.run("pwd", cwd=str(folder / name), env={"CDPATH": "/usr:/etc"})
            assert result.stdout == f"{folder}/{name}\n"


async def test_tempdir_is_gone_afterwards(machine: Machine) -> None:
    async with machine.tempdir() as folder:
        assert await folder.exists()
        await machine.run("touch", folder / "file")
        await machine.run("ln", "-s", "/etc", folder / "link")
        await (folder / "file").unlink()
        with pytest.raises(FileNotFoundError) as caught:
            await (folder / "file").unlink()
        assert isinstance(caught.value, FileError)
        await (folder / "file").unlink(missing_ok=True)
        with pytest.raises(IsADirectoryError):
            await folder.unlink()
    assert not await folder.exists()
    assert os.path.exists("/etc/passwd")


async def test_200_tasks_share_one_machine(machine: Machine) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(machine.run("echo", number)) for number in range(200)]
    assert [task.result().stdout for task in tasks] == [f"{number}\n" for number in range(200)]


async def test_after_close_every_call_says_so(machine: Machine) -> None:
    await machine.aclose()
    await machine.aclose()
    if machine.address.scheme == "fake":
        return
    with pytest.raises(ClosedError):
        await machine.run("true")
