"""Results: exact bytes in and out, statuses, errors."""

import asyncio
import errno
import gc
import os
import pickle
from typing import Any

import pytest
from tests.conformance.conftest import told_signal

from aioremote import (
    CommandFailed,
    CommandKilled,
    CommandNotFound,
    FileError,
    Machine,
    OutputLimitExceeded,
)

NASTY = [
    "", " ", "\t", "\n", "\r", *"!\"#$%&'()*;<=>?[\\]^`{|}~", "a b", "it's", "$HOME", "`id`", "$(id)", "-n", "--",
    "~root",
    "{a,b}", "#c", "!x", "%s", "*.py", "a\\", "a\nb", "naïve ☃", "\x01", b"\xff\xfe",
]  # fmt: skip


async def test_arguments_arrive_byte_for_byte(machine: Machine) -> None:
    """Promise 45."""
    result = await machine.run("/usr/bin/printf", "%s\\0", *NASTY)
    expected = b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in NASTY)
    assert result.stdout_bytes == expected
    assert result.args[2:4] == ("", " ")


async def test_shell_runs_a_line(machine: Machine) -> None:
    result = await machine.shell("echo a | tr a b; exit 0")
    assert result.stdout == "b\n"
    assert result.args == ("/bin/sh", "-c", "echo a | tr a b; exit 0")


@pytest.mark.parametrize("data", [b"\xff\x00\xfe", bytes(range(256)) * 64, b"x" * 300_000], ids=["nul", "all", "long"])
async def test_bytes_are_exact_both_ways(machine: Machine, data: bytes) -> None:
    """Promise 47."""
    result = await machine.run("cat", input=data)
    assert result.stdout_bytes == data


async def test_output_is_gone_with_its_result(machine: Machine) -> None:
    """Not kept until the next garbage collection."""
    await machine.run("true")  # what is done once is done
    gc.collect()
    gc.disable()
    try:
        await machine.run("echo", "much")
        assert not any(type(kept) is list and kept == [b"much\n"] for kept in gc.get_objects())
    finally:
        gc.enable()


async def test_text_that_cannot_be_decoded_stays_with_its_command(machine: Machine) -> None:
    """Promise 121."""
    async with asyncio.TaskGroup() as group:
        bad = group.create_task(machine.run("printf", "a\\377b"))
        good = group.create_task(machine.shell("sleep 0.2; echo fine"))
    assert bad.result().stdout_bytes == b"a\xffb"
    assert bad.result().stdout == "a\ufffdb"
    assert good.result().stdout == "fine\n"
    escaped = await machine.run("printf", "a\\377b", errors="backslashreplace")
    assert escaped.stdout == "a\\xffb"


async def test_stderr_and_stdout_are_both_complete(machine: Machine) -> None:
    """Promise 48."""
    line = "head -c 200000 /dev/zero; exec 1>&-; head -c 100000 /dev/zero >&2"
    result = await machine.shell(line)
    assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (200_000, 100_000)


async def test_a_reader_that_stops_early_ends_the_writer(machine: Machine) -> None:
    """Promise 49."""
    assert (await machine.shell("yes | head -n 2", timeout=20)).stdout == "y\ny\n"


@pytest.mark.parametrize("status", [0, 1, 2, 100, 125, 126, 127, 128, 255])
async def test_every_exit_status_arrives(machine: Machine, status: int) -> None:
    """Promise 50."""
    result = await machine.shell(f"exit {status}", check=False)
    assert (result.returncode, result.signal, result.ok) == (status, None, status == 0)


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("INT", 2), ("HUP", 1), ("PIPE", 13)])
async def test_signals_are_told_apart(machine: Machine, name: str, number: int) -> None:
    """Promises 50, 127."""
    with pytest.raises(CommandKilled) as caught:
        await machine.shell(f"kill -{name} $$; sleep 20")
    assert (caught.value.returncode, caught.value.signal) == told_signal(machine, name, number)


async def test_a_failure_tells_everything(machine: Machine) -> None:
    with pytest.raises(CommandFailed) as caught:
        await machine.shell("echo out; echo why >&2; exit 3")
    error = caught.value
    assert (error.returncode, error.stdout, error.stderr) == (3, "out\n", "why\n")
    assert error.cmd == ["/bin/sh", "-c", "echo out; echo why >&2; exit 3"]
    assert "why" in str(error)
    assert "exit status 3" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.result, copy.cmd, str(copy)) == (error.result, error.cmd, str(error))


async def test_wanted_statuses_are_no_failure(machine: Machine) -> None:
    assert (await machine.shell("exit 3", ok_codes=(0, 3))).ok
    with pytest.raises(CommandFailed):
        await machine.shell("exit 0", ok_codes=(3,))


async def test_what_the_far_side_said_is_harmless_in_an_error_and_exact_beside_it(machine: Machine) -> None:
    """Promise 110: ESC, OSC 52, BEL, C1, carriage returns and bidi marks are written out."""
    said = "\x1b]52;c;cHduZWQ=\x07 50%\r \x9b31m \u202egnp.exe\tname\n"
    with pytest.raises(CommandFailed) as caught:
        await machine.run("sh", "-c", 'cat >&2; : "$0"; exit 3', "arg\x1b[2J", input=said)
    shown = str(caught.value)
    assert r"\x1b]52;c;cHduZWQ=\x07 50%\r \x9b31m \u202egnp.exe" in shown
    assert all(char.isprintable() or char in "\t\n" for char in shown)
    assert caught.value.stderr == caught.value.result.stderr == said
    assert caught.value.cmd[-1] == "arg\x1b[2J"
    with pytest.raises(FileError) as missing:
        await machine.run("true", cwd="/no\x1b[2J/such")
    assert r"/no\x1b[2J/such" in str(missing.value)
    assert missing.value.filename == "/no\x1b[2J/such"


async def test_a_missing_program_is_told_from_one_that_exits_with_127(machine: Machine) -> None:
    with pytest.raises(CommandNotFound) as caught:
        await machine.run("no-such-program", "x", check=False)
    assert isinstance(caught.value, FileNotFoundError)
    assert not isinstance(caught.value, CommandFailed)
    assert (caught.value.program, caught.value.programs) == ("no-such-program", ("no-such-program",))
    assert "/usr/bin" in caught.value.path
    with pytest.raises(CommandFailed) as failed:
        await machine.run("/bin/bash", "-c", "exit 127")
    assert failed.value.returncode == 127


async def test_a_program_name_with_blanks_gets_a_hint(machine: Machine) -> None:
    with pytest.raises(CommandNotFound, match=r"shell\(\)"):
        await machine.run("ls -l")


async def test_a_file_that_may_not_be_executed_is_named(machine: Machine) -> None:
    with pytest.raises(FileError) as caught:
        await machine.run("/etc/passwd")
    assert isinstance(caught.value, PermissionError)
    assert "/etc/passwd" in str(caught.value)


async def test_a_missing_directory_stops_the_command_before_it_starts(
    machine: Machine, tmp_path: os.PathLike[str]
) -> None:
    witness = os.path.join(tmp_path, "ran")
    with pytest.raises(FileNotFoundError) as caught:
        await machine.run("touch", witness, cwd="/no/such/place")
    assert isinstance(caught.value, FileError)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/no/such/place")
    with pytest.raises(NotADirectoryError):
        await machine.run("touch", witness, cwd="/etc/passwd")
    assert not os.path.exists(witness)


async def test_cat_without_input_ends_at_once(machine: Machine) -> None:
    """Promise 126."""
    assert (await machine.run("cat", timeout=10)).stdout_bytes == b""


async def test_input_that_is_not_read_is_no_failure(machine: Machine) -> None:
    """Promise 54, with less than the promise's 1 GiB; benchmarks measure the rest."""
    result = await machine.run("true", input=b"x" * 20_000_000, timeout=30)
    assert result.returncode == 0
    assert result.input_unread


async def test_environment_values_are_exact(machine: Machine) -> None:
    """Promise 55."""
    values = {f"V{number}": word for number, word in enumerate(NASTY)} | {"LD_PRELOAD": "", "UID": "7", "path": "x"}
    result = await machine.run("env", "-0", env=values)
    found = dict(item.partition(b"=")[::2] for item in result.stdout_bytes.split(b"\0") if item)
    for name, value in values.items():
        assert found[name.encode()] == (value if isinstance(value, bytes) else value.encode()), name


@pytest.mark.parametrize("name", ["", "A=B", "1A", "A B", "A\0", "é"])
async def test_impossible_variable_names_are_refused(machine: Machine, name: str) -> None:
    """Promise 55."""
    with pytest.raises(ValueError, match="environment variable name"):
        await machine.run("env", env={name: "x"})


async def test_a_variable_can_be_unset(machine: Machine) -> None:
    assert (await machine.shell("echo ${HOME-unset}", env={"HOME": None})).stdout == "unset\n"


@pytest.mark.parametrize("argv", [(), ("",), ("a\0b",), ("echo", b"\0"), ("echo", "x\0y")])
async def test_impossible_commands_are_refused_before_anything_is_sent(machine: Machine, argv: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"NUL|no program|empty"):
        await machine.run(*argv)


async def test_wrong_kinds_of_arguments_are_refused(machine: Machine) -> None:
    """Before anything is sent, with what was given and what was expected."""
    with pytest.raises(TypeError, match="argument 1"):
        await machine.run("echo", None)  # type: ignore[arg-type]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"timeout": -1}, ValueError, "timeout=-1: give a positive number"),
        ({"timeout": "5"}, TypeError, "timeout='5': give a number"),
        ({"env": {1: "x"}}, TypeError, "variable name 1: give str"),
        ({"env": ["secret"]}, TypeError, "env is list: give a mapping"),
        ({"cwd": 5}, TypeError, "cwd is 5: give str, bytes or a path"),
        ({"max_output_bytes": "x"}, TypeError, "max_output_bytes='x': give a whole number"),
        ({"max_output_bytes": -1}, ValueError, "max_output_bytes=-1: give a number"),
        ({"ok_codes": "01"}, TypeError, "ok_codes='01': give exit statuses"),
        ({"errors": 5}, TypeError, "errors=5: give the name"),
        ({"errors": "no such"}, ValueError, "give a codec"),
    ]
    for keywords, kind, text in wrong:
        with pytest.raises(kind, match=text):
            await machine.run("echo", **keywords)
    for keywords, kind, text in (
        ({"line_timeout": "5"}, TypeError, "line_timeout='5'"),
        ({"keep_last": "x"}, TypeError, "keep_last='x'"),
        ({"keep_last": -1}, ValueError, "keep_last=-1"),
    ):
        with pytest.raises(kind, match=text):
            machine.lines("echo", **keywords)


async def test_too_much_output_ends_the_command(machine: Machine) -> None:
    with pytest.raises(OutputLimitExceeded) as caught:
        await machine.run("yes", max_output_bytes=100_000, timeout=20)
    assert caught.value.limit_bytes == 100_000
    assert caught.value.result is not None
    assert len(caught.value.result.stdout_bytes) == 100_000


async def test_numbers_and_paths_are_arguments(machine: Machine) -> None:
    assert (await machine.run("echo", 1, 2.5, machine.path("/a") / "b")).stdout == "1 2.5 /a/b\n"


async def test_output_held_by_a_child_is_told(machine: Machine) -> None:
    """Promise 51."""
    result = await machine.shell("sleep 3 & echo started", timeout=2.5)
    assert result.stdout == "started\n"
    assert result.output_truncated
