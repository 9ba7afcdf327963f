"""Pipelines: on one machine, across machines; truth about every stage."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.conformance.conftest import machine_of
from tests.conformance.test_commands import EXPECTED, near
from tests.conformance.test_lifetime import STUBBORN, gone
from tests.conformance.test_running import NASTY
from tests.pace import in_time

from aioremote import (
    ClosedError,
    CommandFailed,
    CommandKilled,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    FileError,
    LocalMachine,
    Machine,
    OutputLimitExceeded,
    RemotePath,
)
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.fakes import FakeTransport, Fault, FaultyTransport
from aioremote.testing.sshd import Sshd, TestUser
from aioremote.transports.local import LocalTransport

# Every kind of machine, and every order of near and far.
PLACES = [
    ("local", "here"),
    ("local", "to-far"),
    ("ssh-root", "here"),
    ("ssh-root", "between"),
    ("ssh-user", "to-near"),
    ("ssh-embedded", "to-far"),
    ("fake", "between"),
    ("in-pieces", "to-near"),
]


@pytest_asyncio.fixture(params=PLACES, ids="-".join)
async def places(
    request: pytest.FixtureRequest, aioremote_sshd: Sshd, aioremote_user: TestUser, aioremote_no_leaks: None
) -> AsyncIterator[tuple[Machine, ...]]:
    """Where three stages run."""
    kind, shape = request.param
    async with machine_of(kind, aioremote_sshd, aioremote_user) as machine, LocalMachine() as local:
        yield {
            "here": (machine, machine, machine),
            "to-near": (machine, machine, local),
            "to-far": (local, machine, machine),
            "between": (local, machine, local),
        }[shape]


@pytest_asyncio.fixture
async def local(aioremote_no_leaks: None) -> AsyncIterator[LocalMachine]:
    async with LocalMachine() as made:
        yield made


async def test_every_stage_is_told(places: tuple[Machine, ...]) -> None:
    a, b, c = places
    first = a["sh"]["-c", "echo 1; echo one >&2; exit 3"]
    second = b["sh"]["-c", "cat; echo 2; printf 'two' >&2"]
    third = c["sh"]["-c", "cat; echo three >&2; kill -9 $$"]
    result = await (first | second | third).run(check=False, timeout=30)
    assert result.stdout == "1\n2\n"
    assert [(end.returncode, end.signal, end.stderr) for end in result.stages] == [
        (3, None, "one\n"),
        (0, None, "two"),
        (-9, "KILL", "three\n"),
    ]
    assert [end.host for end in result.stages] == [a.host, b.host, c.host]
    assert [end.args for end in result.stages] == [first.words, second.words, third.words]
    assert (result.returncode, result.signal, result.stderr) == (-9, "KILL", "one\ntwothree\n")


async def test_the_error_names_the_failing_stage(places: tuple[Machine, ...]) -> None:
    """Promise 130."""
    a, b, c = places
    with pytest.raises(CommandFailed) as caught:
        await (a["echo"]["x"] | b["sh"]["-c", "cat; echo why >&2; exit 7"] | c["cat"])()
    error = caught.value
    assert error.cmd == ["sh", "-c", "cat; echo why >&2; exit 7"]
    assert (error.returncode, error.result.host, error.result.stdout) == (7, b.host, "x\n")
    assert "why" in str(error)
    with pytest.raises(CommandKilled) as killed:
        await (a["sh"]["-c", "kill -9 $$"] | b["cat"] | c["cat"])()
    assert (killed.value.signal, killed.value.cmd[0]) == ("KILL", "sh")


@pytest.mark.parametrize("stage", [0, 1, 2])
async def test_a_stage_that_is_not_there_is_named(places: tuple[Machine, ...], stage: int) -> None:
    commands = [place["cat"] for place in places]
    commands[stage] = places[stage]["no-such-program"]["x"]
    with pytest.raises(CommandNotFound) as caught:
        await (commands[0] | commands[1] | commands[2]).run(check=False, timeout=30)
    assert caught.value.program == "no-such-program"


async def test_a_program_that_exits_with_127_is_no_missing_one(machine: Machine) -> None:
    result = await (machine["sh"]["-c", "exit 127"] | machine["cat"]).run(check=False)
    assert result.returncode == 127


async def test_a_missing_directory_is_told_before_anything_runs(machine: Machine, folder: RemotePath) -> None:
    touch = machine["touch"][folder / "ran"].with_cwd("/")
    for pipe in (touch | machine["cat"].with_cwd("/no/such/place"), machine["cat"].with_cwd("/etc/passwd") | touch):
        with pytest.raises(FileError) as caught:
            await pipe.run(check=False)
        assert isinstance(caught.value, FileNotFoundError | NotADirectoryError)
    with machine.cwd("/no/such/place"), pytest.raises(FileNotFoundError):
        await (machine["touch"][folder / "ran"] | machine["cat"])()
    assert not near(folder / "ran").exists()


async def test_nasty_arguments_arrive_byte_for_byte(places: tuple[Machine, ...]) -> None:
    """Promise 45."""
    a, b, c = places
    show = '/usr/bin/printf "%s\\0" "$@" >&2; cat; /usr/bin/printf "%s\\0" "$@"'
    stages = [place["sh"]["-c", show, "sh", NASTY] for place in (a, b, c)]
    result = await (stages[0] | stages[1] | stages[2]).run(timeout=30)
    assert result.stdout_bytes == EXPECTED * 3
    assert result.stderr_bytes == EXPECTED * 3


async def test_environments_and_directories_belong_to_their_stages(machine: Machine) -> None:
    show = machine["sh"]["-c", 'cat; pwd; echo "$A,${B-unset},${aioremote_v0-unset}"']
    values = {f"V{number}": word for number, word in enumerate(NASTY)} | {"UID": "7", "path": "x", "PATH": "/no:/bin"}
    with machine.env(A="task", B="task"):
        pipe = show.with_cwd("/usr").with_env(A="own") | show.with_cwd("/").with_env(B=None) | show.with_cwd("/etc")
        assert await pipe() == "/usr\nown,task,unset\n/\ntask,unset,unset\n/etc\ntask,task,unset\n"
    result = await (machine["/usr/bin/env"]["-0"].with_env(values) | machine["cat"] | machine["cat"]).run()
    found = dict(item.partition(b"=")[::2] for item in result.stdout_bytes.split(b"\0") if item)
    for name, value in values.items():
        assert found[name.encode()] == (value if isinstance(value, bytes) else value.encode()), name


async def test_values_are_in_no_process_list(machine: Machine) -> None:
    """Once the programs run; until then `env` has them."""
    async with (machine["cat"].with_env(TOKEN="hidden-value") | machine["cat"]).start() as process:
        assert process.stdin is not None
        await process.stdin.send(b"x")
        assert await process.stdout.receive() == b"x"
        listed = await machine.run("ps", "-eo", "args")
        assert "cat" in listed.stdout
        assert "hidden-value" not in listed.stdout


async def test_programs_are_run_and_no_builtins(machine: Machine) -> None:
    assert await (machine["echo"]["-n", "a\\c"] | machine["cat"])() == "a\\c"
    with pytest.raises(CommandNotFound):
        await (machine["cd"]["/"] | machine["cat"])()


async def test_programs_get_no_descriptor_of_ours(machine: Machine) -> None:
    listing = machine["sh"]["-c", "cat; ls /proc/self/fd"]
    others = set((await listing.run()).stdout.split())  # uvloop lets programs inherit some of this process
    assert set((await (listing | listing).run()).stdout.split()) <= others


async def test_bytes_are_exact_through_all_stages(places: tuple[Machine, ...]) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB
    both = 'file=$(mktemp); tee "$file"; cat "$file" >&2; rm "$file"'
    a, b, c = places
    result = await (a["cat"] | b["sh"]["-c", both] | c["cat"]).run(input=data, timeout=50)
    assert hashlib.sha256(result.stdout_bytes).digest() == hashlib.sha256(data).digest()
    assert result.stages[1].stderr == data.decode(errors="replace")
    assert result.stderr_bytes == data


async def test_a_noisy_head_neither_hangs_nor_loses(places: tuple[Machine, ...]) -> None:
    """The head writes 500,000 bytes to standard error, the tail transforms standard output."""
    a, b, c = places
    noise = "head -c 500000 /dev/zero | tr '\\0' e >&2; printf abc"
    result = await (a["sh"]["-c", noise] | b["cat"] | c["tr"]["a-z", "A-Z"]).run(timeout=30)
    assert result.stdout == "ABC"
    assert result.stages[0].stderr == "e" * 500_000


async def test_a_reader_that_has_enough_ends_the_writer(places: tuple[Machine, ...]) -> None:
    """Promise 49: a stage that ends by SIGPIPE before the last one has not failed."""
    a, b, c = places
    result = await (a["yes"] | b["cat"] | c["head"]["-n", "2"]).run(timeout=30)
    assert (result.stdout, result.returncode) == ("y\ny\n", 0)
    assert result.stages[0].signal == "PIPE"


async def test_a_writer_that_is_not_read_and_writes_no_more_goes_on(
    machine: Machine, local: LocalMachine, folder: RemotePath
) -> None:
    writer = machine["sh"]["-c", 'echo x; sleep 0.3; touch "$1"', "sh", folder / "ran"]
    assert await (writer | local["head"]["-n", "1"])() == "x\n"
    assert near(folder / "ran").exists()


async def test_a_closed_standard_output_is_an_end_for_the_next(places: tuple[Machine, ...]) -> None:
    """Half-close: `wc` answers when its input ends, and that comes to the end of the pipeline."""
    a, b, c = places
    assert (await (a["printf"]["a\\nb\\n"] | b["wc"]["-l"] | c["tr"]["-d", " "])(timeout=20)) == "2\n"


async def test_statuses_count_from_the_right(machine: Machine) -> None:
    def exits(status: int) -> object:
        return machine["sh"]["-c", f"cat; exit {status}"]

    async def returncode(*statuses: int, **keywords: object) -> int:
        first, *rest = map(exits, statuses)
        for stage in rest:
            first |= stage  # type: ignore[operator]
        return (await first.run(check=False, **keywords)).returncode  # type: ignore[attr-defined,no-any-return]

    assert await returncode(0, 0) == 0
    assert await returncode(5, 0) == 5
    assert await returncode(5, 6, 0) == 6
    assert await returncode(5, 1, 0, ok_codes=(0, 1)) == 5
    assert await returncode(0, 1, 0, ok_codes=(0, 1)) == 1
    assert await returncode(255, 0) == 255
    assert await (machine["false"] | machine["cat"]).ok() is False
    assert await (machine["false"] | machine["cat"]).ok(ok_codes=None) is True
    assert await (machine["false"] | machine["cat"]).returncode() == 1


async def test_killed_is_told_from_a_status_that_looks_so(machine: Machine) -> None:
    """Promise 127."""
    cat = machine["cat"]
    for line, expected in (
        ("kill -9 $$", (-9, "KILL")),
        ("kill -1 $$", (-1, "HUP")),
        ("kill -15 $$", (-15, "TERM")),
        ("exit 137", (137, None)),
        ("exit 129", (129, None)),
    ):
        result = await (machine["sh"]["-c", line] | cat).run(check=False)
        assert (result.stages[0].returncode, result.stages[0].signal) == expected, line


@pytest.mark.parametrize("count", [12, 27])
async def test_many_stages(machine: Machine, count: int) -> None:
    pipe = machine["sh"]["-c", "echo 0 >&2; printf a"] | machine["sh"]["-c", "cat; echo 1 >&2; exit 1"]
    for number in range(2, count):
        pipe |= machine["sh"]["-c", f"cat; echo {number} >&2; exit {number}"]
    result = await pipe.run(check=False, timeout=40)
    assert result.stdout == "a"
    assert [end.returncode for end in result.stages] == list(range(count))
    assert [end.stderr for end in result.stages] == [f"{number}\n" for number in range(count)]


async def test_pipelines_join(machine: Machine) -> None:
    left, right = machine["printf"]["b\\na\\n"] | machine["cat"], machine["sort"] | machine["cat"]
    result = await (left | right).run()
    assert (result.stdout, len(result.stages)) == ("a\nb\n", 4)
    assert await (machine["cat"] | machine["tr"]["a", "b"]).run(input="aa") is not None
    assert await (machine["printf"] | machine["cat"])("%s-", "x", ["y", "z"]) == "x-y-z-"


async def test_redirections_of_pipelines(places: tuple[Machine, ...], tmp_path: Path) -> None:
    (tmp_path / "in").write_text("b\na\n")
    a, b, c = places
    async with a.tempdir() as source, c.tempdir() as target:
        near(source / "in").write_text("b\na\n")
        await (((a["cat"] | b["sort"] | c["cat"]) < source / "in") > target / "out")()
        assert near(target / "out").read_text() == "a\nb\n"
    pipe = a["cat"].merge_stderr() | b["sort"].stderr_to(tmp_path / "e") | c["tr"]["a-z", "A-Z"]
    await ((pipe < str(tmp_path / "in")) > tmp_path / "out")()
    await ((pipe < tmp_path / "in") >> tmp_path / "out")()
    assert (tmp_path / "out").read_text() == "A\nB\nA\nB\n"
    assert await (pipe << "z\n")() == "Z\n"


async def test_standard_errors_to_far_files(machine: Machine, folder: RemotePath) -> None:
    stage = machine["sh"]["-c", 'cat; echo "$0" >&2']
    pipe = stage["0"].stderr_to(folder / "0")
    for number in range(1, 7):
        pipe |= stage[number].stderr_to(folder / str(number))
    result = await (pipe | stage["last"]).run(input="x")
    assert (result.stdout, result.stderr) == ("x", "last\n")
    assert [near(folder / str(number)).read_text() for number in range(7)] == [f"{number}\n" for number in range(7)]


async def test_lines_of_a_pipeline(places: tuple[Machine, ...]) -> None:
    """Promise 129: they come when they are written, standard errors too."""
    a, b, c = places
    wait = a["sh"]["-c", "echo first; echo trouble >&2; exec sleep 600"]
    async with (wait | b["sed"]["-u", "s/^/> /"] | c["cat"]).lines() as lines:
        found = set()
        async for line in lines:
            found.add((line.source, line.text))
            if len(found) == 2:
                break
    assert found == {("stdout", "> first"), ("stderr", "trouble")}
    failing = (a["sh"]["-c", "echo x; exit 4"] | b["cat"] | c["cat"]).lines()
    assert (await anext(failing)).text == "x"
    with pytest.raises(CommandFailed) as caught:
        await anext(failing)
    assert (caught.value.cmd, len(caught.value.result.stages)) == (["sh", "-c", "echo x; exit 4"], 3)


async def test_a_started_pipeline(places: tuple[Machine, ...]) -> None:
    a, b, c = places
    async with (a["cat"] | b["sed"]["-u", "s/a/b/"] | c["cat"]).start() as process:
        assert process.stdin is not None
        await process.stdin.send(b"aa\n")
        assert await process.stdout.receive() == b"ba\n"
        await process.stdin.aclose()
        assert await process.wait() == 0
    async with (a["sleep"]["600"] | b["cat"] | c["cat"]).start() as process:
        process.terminate()
        assert await process.wait() == -15


async def test_a_timeout_ends_every_stage(places: tuple[Machine, ...], mark: str) -> None:
    """Promise 130; what was written until then is in the error."""
    a, b, c = places
    pipe = a["sh"]["-c", STUBBORN].with_env(MARK=mark)
    pipe |= b["sh"]["-c", "echo two >&2; exec sleep 600"].with_env(MARK=mark)
    pipe |= c["sh"]["-c", STUBBORN].with_env(MARK=mark)
    began = time.monotonic()
    with pytest.raises(CommandTimeout) as caught:
        await pipe.run(timeout=0.8)
    assert in_time(time.monotonic() - began, 2.8)
    assert caught.value.result is not None
    assert caught.value.result.stdout == "up\n"
    await gone(mark)


async def test_a_cancel_ends_every_stage(places: tuple[Machine, ...], mark: str) -> None:
    """Promises 117, 130."""
    stages = [place["sh"]["-c", STUBBORN].with_env(MARK=mark) for place in places]
    task = asyncio.get_running_loop().create_task((stages[0] | stages[1] | stages[2]).run())
    await until(lambda: len(marked_processes(mark)) >= 12)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await gone(mark)
    assert await places[1]["echo"]("fine") == "fine\n"


async def test_too_much_output_ends_every_stage(places: tuple[Machine, ...], mark: str) -> None:
    a, b, c = places
    with pytest.raises(OutputLimitExceeded) as caught:
        await (a["yes"].with_env(MARK=mark) | b["cat"] | c["cat"]).run(max_output_bytes=100_000, timeout=30)
    assert caught.value.result is not None
    assert len(caught.value.result.stdout_bytes) == 100_000
    await gone(mark)


async def test_cancelled_anywhere_a_pipeline_leaves_nothing(machine: Machine, local: LocalMachine, mark: str) -> None:
    async def run() -> None:
        stage = machine["cat"].with_env(MARK=mark)
        await (stage | stage | local["cat"]).run(input="x", timeout=20)

    async def check() -> None:
        await until(lambda: not marked_processes(mark))
        assert await machine["echo"]("fine") == "fine\n"

    await cancel_everywhere(run, check, most=15)


async def test_a_background_program_that_keeps_standard_error_holds_nobody_up(
    machine: Machine, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 51."""
    monkeypatch.setattr("aioremote.commands.segments._LINGER_SECONDS", 0.5)
    first = machine["sh"]["-c", "sleep 30 >/dev/null & echo x"].with_env(MARK=mark)
    result = await (first | machine["cat"]).run(timeout=10)
    assert (result.stdout, result.output_truncated) == ("x\n", True)
    await until(lambda: not marked_processes(mark))


async def test_nothing_starts_where_a_later_machine_cannot(machine: Machine, folder: RemotePath) -> None:
    closed = LocalMachine()
    await closed.aclose()
    with pytest.raises(ClosedError):
        await (machine["touch"][folder / "ran"] | closed["cat"])()
    assert not near(folder / "ran").exists()


async def test_a_lost_link_is_no_end_of_input(local: LocalMachine, tmp_path: Path, mark: str) -> None:
    """Promise 127: the next stage is ended, it does not take the loss for the end of its input."""
    far = Machine(FaultyTransport(LocalTransport(), Fault(cut_after=3)), host="far")
    finish = local["sh"]["-c", 'cat; touch "$1"', "sh", tmp_path / "done"].with_env(MARK=mark)
    with pytest.raises(ConnectionLost) as caught:
        await (far["sh"]["-c", "echo hello; sleep 600"].with_env(MARK=mark) | finish).run(timeout=20)
    assert caught.value.host == "localhost"  # as the transport has named it
    await until(lambda: not marked_processes(mark))
    assert not (tmp_path / "done").exists()
    await far.aclose()


async def test_stages_on_one_machine_are_one_far_process(local: LocalMachine) -> None:
    """No byte between them crosses the network."""
    fake = FakeTransport(local.transport)
    machine = Machine(fake, host="fake")
    await (machine["echo"]["x"] | machine["cat"] | machine["cat"] | local["cat"] | machine["cat"])()
    assert len(fake.orders) == 2
