"""Commands as values: binding, calling, redirections."""

import asyncio
import os
import pickle
from pathlib import Path

import pytest
from tests.conformance.conftest import told_signal
from tests.conformance.test_running import NASTY

from aioremote import (
    CommandFailed,
    CommandNotFound,
    CommandTimeout,
    FileError,
    LocalMachine,
    Machine,
    RemotePath,
    Result,
)
from aioremote.testing.checks import cancel_everywhere, marked_processes, until

EXPECTED = b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in NASTY)


def near(path: RemotePath) -> Path:
    """All far machines of this suite are this computer."""
    return Path(str(path))


async def test_calling_gives_the_text_of_standard_output(machine: Machine) -> None:
    assert await machine["echo"]("a", "b  c") == "a b  c\n"
    assert await machine["echo"]["-n"]["x"]("y") == "x y"
    with pytest.raises(CommandFailed) as caught:
        await machine["sh"]["-c", "echo why >&2; exit 3"]()
    assert (caught.value.returncode, caught.value.stderr) == (3, "why\n")
    assert caught.value.cmd == ["sh", "-c", "echo why >&2; exit 3"]


async def test_nasty_arguments_arrive_byte_for_byte(machine: Machine) -> None:
    """Promise 45, through binding: one by one, in lists, in a call."""
    show = machine["/usr/bin/printf"]["%s\\0"]
    assert (await show[NASTY].run()).stdout_bytes == EXPECTED
    assert (await show[tuple(NASTY)].run()).stdout_bytes == EXPECTED
    one_by_one = show
    for word in NASTY:
        one_by_one = one_by_one[word]
    assert (await one_by_one.run()).stdout_bytes == EXPECTED
    assert (await show[[NASTY[:5], [NASTY[5:], []]]].run()).stdout_bytes == EXPECTED


@pytest.mark.parametrize("depth", [1, 3])
async def test_a_command_as_an_argument_is_quoted_once_at_any_depth(machine: Machine, depth: int) -> None:
    """Promise 45 and FACTS 24: plumbum quotes twice."""
    inner = machine["/usr/bin/printf"]["%s\\0", NASTY]
    for number in range(depth):
        inner = machine["env"][f"V{number}=x y", inner]
    assert (await inner.run()).stdout_bytes == EXPECTED
    assert await machine["env"][machine["echo"]["a b"]]() == "a b\n"


async def test_run_gives_a_result(machine: Machine) -> None:
    result = await machine["cat"].run(input="text", timeout=20)
    assert isinstance(result, Result)
    assert (result.stdout, result.args, result.host, result.stages) == ("text", ("cat",), machine.host, ())


@pytest.mark.parametrize(("codes", "fine"), [(3, True), ((0, 3), True), (range(2, 5), True), (None, True), (0, False)])
async def test_wanted_statuses(machine: Machine, codes: object, fine: bool) -> None:
    command = machine["sh"]["-c", "exit 3"]
    assert await command.ok(ok_codes=codes) is fine  # type: ignore[arg-type]
    assert await command.returncode() == 3
    if fine:
        assert (await command.run(ok_codes=codes)).ok  # type: ignore[arg-type]
    else:
        with pytest.raises(CommandFailed):
            await command.run(ok_codes=codes)  # type: ignore[arg-type]


async def test_a_missing_program_is_told_whatever_is_asked(machine: Machine) -> None:
    missing = machine["no-such-program"]["x"]
    for asked in (missing(), missing.run(check=False), missing.ok(), missing.returncode()):
        with pytest.raises(CommandNotFound) as caught:
            await asked
        assert caught.value.program == "no-such-program"


async def test_directory_and_environment(machine: Machine) -> None:
    """The task's scope counts when it runs, the command's own stands below it."""
    show = machine["sh"]["-c", 'pwd; echo "$A,${B-unset},$C"']
    with machine.cwd("/usr"), machine.env(A="task", B="task", C="task"):
        assert await show() == "/usr\ntask,task,task\n"
        own = show.with_cwd("lib").with_env(A="own").with_env({"B": None})
        assert await own() == f"{os.path.realpath('/usr/lib')}\nown,unset,task\n"
        assert (await own.with_cwd("/").run()).stdout.startswith("/\n")
    with pytest.raises(ValueError, match="environment variable name"):
        show.with_env({"A B": "x"})
    with pytest.raises(FileNotFoundError) as caught:
        await show.with_cwd("/no/such/place")()
    assert isinstance(caught.value, FileError)


async def test_start_and_lines(machine: Machine) -> None:
    async with machine["cat"].start() as process:
        assert process.stdin is not None
        await process.stdin.send(b"abc")
        await process.stdin.aclose()
        assert await process.stdout.receive() == b"abc"
        assert await process.wait() == 0
    lines = [(line.source, line.text) async for line in machine["sh"]["-c", "echo a; echo b >&2"].lines()]
    assert sorted(lines) == [("stderr", "b"), ("stdout", "a")]


async def test_tee_shows_and_returns(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    result = await machine["sh"]["-c", "printf 'caf\\303\\251\\n'; echo why >&2; exit 2"].tee(check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("café\n", "why\n", 2)
    assert capsys.readouterr() == ("café\n", "why\n")


# redirections


async def test_far_files(machine: Machine, folder: RemotePath) -> None:
    source, target = folder / "it's a $source", folder / "-n\nü"
    await (machine["printf"]["b\\na\\n"] > source)()
    assert near(source).read_bytes() == b"b\na\n"
    assert (await ((machine["sort"] < source) > target).run()).stdout == ""
    assert near(target).read_bytes() == b"a\nb\n"
    await (machine["echo"]["c"] >> target)()
    assert near(target).read_bytes() == b"a\nb\nc\n"
    await machine["sh"]["-c", "echo out; echo err >&2"].stdout_to(target).stderr_to(folder / "errors").run()
    assert (near(target).read_bytes(), near(folder / "errors").read_bytes()) == (b"out\n", b"err\n")


async def test_far_files_are_below_the_commands_directory(machine: Machine, folder: RemotePath) -> None:
    relative = machine.path("name")
    with machine.cwd(folder):
        await (machine["echo"]["x"] > relative)()
    await (machine["echo"]["y"].with_cwd(folder) >> relative)()
    assert near(folder / "name").read_text() == "x\ny\n"


async def test_near_files(machine: Machine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000  # 5 MB
    (tmp_path / "in").write_bytes(data)
    copy = (machine["cat"] < tmp_path / "in") > str(tmp_path / "out")
    assert (await copy.run(timeout=50)).stdout_bytes == b""
    assert (tmp_path / "out").read_bytes() == data
    await (machine["echo"]["more"] >> tmp_path / "out")()
    assert (tmp_path / "out").read_bytes() == data + b"more\n"
    result = await machine["sh"]["-c", "echo out; echo err >&2"].stderr_to(tmp_path / "err").run()
    assert (result.stdout, result.stderr, (tmp_path / "err").read_text()) == ("out\n", "", "err\n")


async def test_data_and_merged_errors(machine: Machine) -> None:
    assert await (machine["cat"] << "text")() == "text"
    assert (await (machine["cat"] << b"\xff\0").run()).stdout_bytes == b"\xff\0"
    result = await machine["sh"]["-c", "echo out; echo err >&2"].merge_stderr().run()
    assert (result.stdout, result.stderr) == ("out\nerr\n", "")
    lines = [line.text async for line in (machine["cat"] << "a\nb\n").lines()]
    assert lines == ["a", "b"]


async def test_a_far_file_on_another_machine_is_streamed(machine: Machine, folder: RemotePath) -> None:
    async with LocalMachine() as other:
        source = other.path(str(folder / "source"))
        near(source).write_text("b\na\n")
        result = await ((machine["sort"] < source) > other.path(str(folder / "target"))).run()
        assert (result.args, result.stages, result.returncode) == (("sort",), (), 0)
        assert near(folder / "target").read_text() == "a\nb\n"
        with pytest.raises(FileNotFoundError):
            await (machine["sort"] < other.path("/no/such/file"))()
        with pytest.raises(ValueError, match="another machine"):
            machine["sort"].stderr_to(source)


async def test_input_twice_is_refused_before_anything_runs(machine: Machine, tmp_path: Path) -> None:
    command = (machine["touch"][tmp_path / "ran"]) << "a"
    with pytest.raises(ValueError, match="already"):
        await command.run(input="b")
    with pytest.raises(ValueError, match="pty"):
        await (machine["touch"][tmp_path / "ran"] > "x").run(pty=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["far", "near"])
async def test_an_impossible_source_stops_everything(machine: Machine, folder: RemotePath, kind: str) -> None:
    near(folder / "file").write_text("x")
    touch = machine["touch"][folder / "ran"]
    errors = {"no/such/in": FileNotFoundError, "": IsADirectoryError, "file/x": NotADirectoryError}
    for name, error in errors.items():
        place = folder / name if kind == "far" else near(folder / name)
        for command in (touch, touch | machine["cat"]):
            with pytest.raises(error) as caught:
                await (command < place).run(check=False)
            assert isinstance(caught.value, FileError)
            assert str(place) in str(caught.value)
    assert not near(folder / "ran").exists()


@pytest.mark.parametrize("kind", ["far", "near"])
async def test_an_impossible_target_stops_everything(machine: Machine, folder: RemotePath, kind: str) -> None:
    near(folder / "file").write_text("x")
    touch = machine["touch"][folder / "ran"]
    errors = {"no/such/out": FileNotFoundError, "": IsADirectoryError, "file/x": NotADirectoryError}
    for name, error in errors.items():
        place = folder / name if kind == "far" else near(folder / name)
        for command in (touch > place, touch >> place, touch.stderr_to(place), (touch | machine["cat"]) > place):
            with pytest.raises(error) as caught:
                await command.run(check=False)
            assert isinstance(caught.value, FileError)
    assert not near(folder / "ran").exists()


async def test_started_with_an_impossible_file_is_told_at_the_start(machine: Machine) -> None:
    with pytest.raises(FileNotFoundError):
        await (machine["cat"] < machine.path("/no/such/file")).start()


async def test_a_forbidden_file_is_told(machine: Machine, folder: RemotePath) -> None:
    if (await machine.run("id", "-u")).stdout == "0\n":
        return
    near(folder / "secret").write_text("x")
    near(folder / "secret").chmod(0)
    with pytest.raises(PermissionError):
        await (machine["cat"] < folder / "secret")()
    with pytest.raises(PermissionError):
        await (machine["cat"] > machine.path("/etc/passwd"))()


async def test_a_redirected_program_ends_truly(machine: Machine, folder: RemotePath) -> None:
    """Promise 127."""
    out = folder / "out"
    for line, expected in (
        ("kill -9 $$", told_signal(machine, "KILL", 9)),
        ("exit 137", (137, None)),
        ("exit 255", (255, None)),
    ):
        result = await (machine["sh"]["-c", line] > out).run(check=False)
        assert (result.returncode, result.signal) == expected
    with pytest.raises(CommandNotFound):
        await (machine["no-such-program"] > out).run(check=False)


async def test_a_redirected_program_is_ended_by_its_timeout(machine: Machine, folder: RemotePath, mark: str) -> None:
    sleep = machine["sh"]["-c", "echo up; echo trouble >&2; sleep 600"].with_env(MARK=mark)
    for command in (
        sleep.stderr_to(near(folder) / "near"),
        sleep.stderr_to(folder / "far"),
        sleep > near(folder / "o"),
    ):
        with pytest.raises(CommandTimeout):
            await command.run(timeout=0.5)
        await until(lambda: not marked_processes(mark), seconds=1.5)


async def test_cancelled_anywhere_a_redirected_command_leaves_nothing(
    machine: Machine, tmp_path: Path, mark: str
) -> None:
    (tmp_path / "in").write_text("text")

    async def run() -> None:
        command = (machine["cat"].with_env(MARK=mark) < tmp_path / "in") > tmp_path / "out"
        await command.run()

    async def check() -> None:
        await until(lambda: not marked_processes(mark))
        assert await machine["echo"]("fine") == "fine\n"

    await cancel_everywhere(run, check, most=12)


async def test_a_command_does_not_change_between_tasks(machine: Machine) -> None:
    show = machine["pwd"]

    async def inside(folder: str) -> str:
        with machine.cwd(folder):
            await asyncio.sleep(0)
            return await show()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(inside(folder)) for folder in ("/", "/usr", "/etc") * 3]
    assert [task.result() for task in tasks] == ["/\n", "/usr\n", "/etc\n"] * 3


async def test_errors_of_commands_pickle(machine: Machine) -> None:
    with pytest.raises(CommandFailed) as caught:
        await (machine["sh"]["-c", "exit 2"] | machine["cat"])()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.cmd, copy.result) == (caught.value.cmd, caught.value.result)
