"""Directories and environments of tasks, and machines that share a connection."""

import asyncio
import os
from pathlib import Path

import pytest
from tests.conformance.test_running import NASTY

from aioremote import CommandNotFound, FileError, Machine


async def test_scopes_belong_to_the_task(machine: Machine) -> None:
    """Promise 125."""
    entered = asyncio.Barrier(2)

    async def look(folder: str, value: str) -> tuple[str, str]:
        with machine.cwd(folder), machine.env(SCOPE=value):
            async with entered:
                result = await machine.shell("pwd; echo $SCOPE")
            async with entered:
                return result.stdout, str(machine.cwd)

    before = await machine.cwd.get()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(look("/usr", "1"))
        second = group.create_task(look("/etc", "2"))
    assert first.result() == ("/usr\n1\n", "/usr")
    assert second.result() == ("/etc\n2\n", "/etc")
    assert await machine.cwd.get() == before
    assert await machine.env.get("SCOPE") is None


async def test_200_tasks_in_200_scopes_each_see_their_own(machine: Machine) -> None:
    """Promise 125."""

    async def look(number: int) -> str:
        with machine.cwd("/usr" if number % 2 else "/etc"), machine.env(NUMBER=number):
            await asyncio.sleep(0)
            return (await machine.shell('echo "$NUMBER $PWD"')).stdout

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(look(number)) for number in range(200)]
    assert [task.result() for task in tasks] == [f"{n} {'/usr' if n % 2 else '/etc'}\n" for n in range(200)]


async def test_scopes_nest_and_a_relative_one_is_below(machine: Machine) -> None:
    with machine.cwd("/usr"):
        with machine.cwd("bin"):
            assert (await machine.run("pwd")).stdout == "/usr/bin\n"
            assert (await machine.run("pwd", cwd="..")).stdout == "/usr\n"
        assert (await machine.run("pwd")).stdout == "/usr\n"
        assert not await machine.path("no-such").exists()
        assert await machine.path("bin").exists()


async def test_child_tasks_inherit_a_scope(machine: Machine) -> None:
    with machine.cwd("/usr"), machine.env(SCOPE="outer"):
        task = asyncio.get_running_loop().create_task(machine.shell("echo $SCOPE $PWD"))
    assert (await task).stdout == "outer /usr\n"


async def test_an_error_in_a_scope_restores_what_was(machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError), machine.cwd("/usr"), machine.env(SCOPE="x"):
        raise ZeroDivisionError
    assert str(machine.cwd) == "~"
    assert await machine.env.get("SCOPE") is None


async def test_changes_hold_to_the_end_of_their_block_or_task(machine: Machine) -> None:
    async def change() -> str:
        machine.env["KEPT"] = 1
        machine.cwd.chdir("/usr")
        with machine.env(BLOCK="outer"):
            machine.env["BLOCK"] = "inner"
            del machine.env["KEPT"]
            machine.env.update({"MORE": Path("/x")}, FLAG=True)
            machine.cwd.chdir("bin")
            inside = await machine.shell("echo $BLOCK ${KEPT-unset} $MORE $FLAG $PWD")
        after = await machine.shell("echo ${BLOCK-unset} $KEPT ${MORE-unset} $PWD")
        return inside.stdout + after.stdout

    shown = await asyncio.get_running_loop().create_task(change())
    assert shown == "inner unset /x True /usr/bin\nunset 1 unset /usr\n"
    assert await machine.env.get("KEPT") is None
    assert str(machine.cwd) == "~"


async def test_one_block_serves_several_tasks(machine: Machine) -> None:
    block = machine.env(SHARED="yes")
    entered = asyncio.Barrier(2)

    async def look(*, early: bool) -> str:
        with block:
            await entered.wait()
            if early:
                await asyncio.sleep(0)
            result = await machine.shell("echo $SHARED")
        return result.stdout + str(await machine.env.get("SHARED"))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(look(early=early)) for early in (True, False)]
    assert [task.result() for task in tasks] == ["yes\nNone"] * 2


async def test_values_of_the_environment_are_exact(machine: Machine) -> None:
    """Promise 55."""
    values = {f"V{number}": word for number, word in enumerate(NASTY)}
    with machine.env(values):
        found = await machine.env.all()
    for name, word in values.items():
        assert found[name] == (word.decode(errors="surrogateescape") if isinstance(word, bytes) else word)


@pytest.mark.parametrize("name", ["", "A=B", "1A", "A B", "A\0", "é", "A\n"])
async def test_impossible_names_are_refused_where_they_are_given(machine: Machine, name: str) -> None:
    with pytest.raises(ValueError, match="environment variable name"):
        machine.env({name: "x"})
    with pytest.raises(ValueError, match="environment variable name"):
        machine.env[name] = "x"
    with pytest.raises(ValueError, match="environment variable name"):
        machine.with_env({name: None})


async def test_impossible_directories_are_refused_where_they_are_given(machine: Machine) -> None:
    for folder in ("", "a\0b"):
        with pytest.raises(ValueError, match="cwd"):
            machine.cwd(folder)
        with pytest.raises(ValueError, match="cwd"):
            machine.with_cwd(folder)
    with pytest.raises(TypeError, match="cwd"):
        machine.cwd(5)  # type: ignore[arg-type]


async def test_a_missing_directory_is_named_and_nothing_starts(machine: Machine, tmp_path: os.PathLike[str]) -> None:
    witness = os.path.join(tmp_path, "ran")
    with machine.cwd("/no/such"), pytest.raises(FileNotFoundError) as caught:
        await machine.run("touch", witness)
    assert isinstance(caught.value, FileError)
    assert caught.value.filename == "/no/such"
    with pytest.raises(FileNotFoundError, match="/no/such/place"):
        await machine.with_cwd("/no/such").run("touch", witness, cwd="place")
    assert not os.path.exists(witness)


async def test_a_view_shares_the_connection_and_has_its_own_scope(machine: Machine) -> None:
    view = machine.with_cwd("/usr").with_env(VIEW="yes")
    assert (await view.shell("echo $VIEW $PWD")).stdout == "yes /usr\n"
    with view.cwd("bin"), view.env(VIEW=None):
        assert (await view.shell("echo ${VIEW-unset} $PWD")).stdout == "unset /usr/bin\n"
        assert (await machine.shell("echo ${VIEW-unset}")).stdout == "unset\n"
    assert (await view.run("pwd", cwd="bin")).stdout == "/usr/bin\n"
    assert await view.facts() is await machine.facts()
    async with view:
        pass
    await view.aclose()
    view.abort()
    assert (await machine.run("echo", "still")).stdout == "still\n"
    assert (await view.run("echo", "there")).stdout == "there\n"


async def test_a_view_begins_where_the_calling_task_is(machine: Machine) -> None:
    with machine.cwd("/usr"), machine.env(SCOPE="then"):
        view = machine.with_cwd("bin")
    with machine.env(SCOPE="later"):
        assert (await view.shell("echo $SCOPE $PWD")).stdout == "then /usr/bin\n"


async def test_paths_of_a_view_and_its_owner_mix(machine: Machine) -> None:
    view = machine.with_cwd("/etc")
    assert view.path("/etc/passwd") == machine.path("/etc/passwd")
    assert len({view.path("/etc"), machine.path("/etc")}) == 1
    assert view.path("passwd") != machine.path("passwd")
    assert machine.path("/etc") / view.path("passwd") == machine.path("/etc/passwd")
    assert view.path("/etc/x").relative_to(machine.path("/etc")).name == "x"
    assert await view.path("passwd").exists()
    assert (await machine.run("cat", view.path("/etc/hostname"))).ok


async def test_the_path_is_changed_where_programs_start(machine: Machine) -> None:
    before = await machine.env.path.get()
    async with machine.tempdir() as folder:
        await machine.run("chmod", "755", folder)
        for name in ("front", "a b", "back"):
            await machine.run("mkdir", folder / name)
            await machine.run(
                "sh", "-c", 'printf "#!/bin/sh\\necho $1\\n" >tool; chmod 755 tool', "sh", name, cwd=folder / name
            )
        with machine.env():
            path = machine.env.path
            path.append(folder / "back")
            assert (await machine.run("tool")).stdout == "back\n"
            path.insert(0, folder / "a b")
            path.insert(0, str(folder / "front"))
            assert (await machine.run("tool")).stdout == "front\n"
            assert await path.get() == [folder / "front", folder / "a b", *before, folder / "back"]
            path.remove(folder / "front")
            path.insert(1, "/second")
            path.insert(1000, "/last")
            expected = [folder / "a b", machine.path("/second"), *before, folder / "back", machine.path("/last")]
            assert await path.get() == expected
            assert await machine.which("tool") == folder / "a b" / "tool"
            assert (await machine.run("tool", env={"PATH": f"{folder}/back"})).stdout == "back\n"
            async with machine.start("tool") as process:
                assert await process.wait() == 0
            async with machine.session() as sh:
                assert (await sh.run("tool")).stdout == "a b\n"
            with pytest.raises(CommandNotFound) as caught:
                await machine.run("no-such-program", "x")
            assert caught.value.path[:2] == (f"{folder}/a b", "/second")
            assert caught.value.cmd == ["no-such-program", "x"]
            with machine.env(PATH="/bin:/usr/bin"):
                assert [str(entry) for entry in await path.get()] == ["/bin", "/usr/bin"]
                path.append("/after")
                path.remove("/bin")
                assert [str(entry) for entry in await path.get()] == ["/usr/bin", "/after"]
    assert await machine.env.path.get() == before
    assert not await machine.has("tool")


async def test_changes_of_the_path_leave_the_rest_alone(machine: Machine) -> None:
    words = [word for word in NASTY if word]
    names = {"p": "1", "h": "2", "n": "3", "aioremote": "4"}
    with machine.env(names):
        machine.env.path.insert(0, "/no/such")
        result = await machine.run("/usr/bin/printf", "%s\\0", *words)
        assert result.stdout_bytes == b"".join((w if isinstance(w, bytes) else w.encode()) + b"\0" for w in words)
        assert result.args[:2] == ("/usr/bin/printf", "%s\\0")
        found = await machine.env.all()
        assert {name: found[name] for name in names} == names
        assert not [name for name in found if name.startswith("aioremote_")]


async def test_impossible_entries_of_the_path_are_refused(machine: Machine) -> None:
    for folder in ("", "a:b", "a\0b"):
        with pytest.raises(ValueError, match="directory"):
            machine.env.path.append(folder)
    with pytest.raises(ValueError, match="position"):
        machine.env.path.insert(-1, "/x")


async def test_all_variables_without_a_modern_env(machine: Machine) -> None:
    """Promise 55."""
    async with machine.tempdir() as folder:
        await machine.run("chmod", "755", folder)
        old = "#!/bin/sh\necho 'env: unknown option' >&2\nexit 1\n"
        await machine.run("sh", "-c", "cat >env; chmod 755 env", input=old, cwd=str(folder))
        values = {"LINES_OF": "a\nb=c\n\n", "EMPTY": "", "TEXT": "naïve ☃", "NUMBER": "007"}
        with machine.env(values):
            machine.env.path.insert(0, folder)
            found = await machine.env.all()
    assert {name: found[name] for name in values} == values
    assert found["HOME"] == await machine.env.get("HOME")


async def test_expand_knows_variables_and_homes_and_nothing_else(machine: Machine) -> None:
    home = await machine.env.get("HOME")
    with machine.env(A="1 2", B="$A", EMPTY=""):
        expand = machine.env.expand
        assert await expand("x${A}y$A/$B$EMPTY.$NO_SUCH ${NO_SUCH") == "x1 2y1 2/$A.$NO_SUCH ${NO_SUCH"
        assert await expand("~/$A") == f"{home}/1 2"
        assert await expand("$(id) `id` * ; \\$A '$A'") == "$(id) `id` * ; \\1 2 '1 2'"
        assert await expand("plain") == "plain"
    expanduser = machine.env.expanduser
    assert await expanduser("~") == home
    assert await expanduser("~/a $A") == f"{home}/a $A"
    assert await expanduser("~root/x") == "/root/x"
    assert await expanduser("a~/b") == "a~/b"
    assert await machine.path("~root/x").expanduser() == machine.path("/root/x")
    assert await machine.path("/a/~").expanduser() == machine.path("/a/~")
    with machine.env(HOME="/else where"):
        assert await expanduser("~/x") == "/else where/x"
    for text in ("~no-such-user/x", "~$(id)", "~a;id", "~-"):
        with pytest.raises(FileNotFoundError, match="no such user"):
            await expanduser(text)


async def test_processes_by_the_ps_that_is_found(machine: Machine, mark: str) -> None:
    async with machine.tempdir() as folder, machine.start("sh", "-c", "sleep 60; :", mark) as process:
        await machine.run("chmod", "755", folder)
        await machine.run("ln", "-s", "/bin/busybox", folder / "ps")
        (usual,) = [one for one in await machine.pgrep(mark) if one.pid == process.pid]
        with machine.env():
            machine.env.path.insert(0, folder)
            (found,) = [one for one in await machine.pgrep(mark) if one.pid == process.pid]
        assert (found.state, found.args) == (usual.state, usual.args)
        assert found.uid in (usual.uid, -1)  # it shows 8 characters of a name
