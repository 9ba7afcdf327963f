"""`run` and `shell` on one host: its output is ours, and so is its status."""

import hashlib
import json
import subprocess
import time

import pytest
from tests.cli.harness import HOSTS, Cli, json_lines
from tests.pace import in_time

HOST = HOSTS[0]


def test_both_streams_and_the_status_are_those_of_the_far_program(cli: Cli) -> None:
    """Promise 113."""
    ended = cli.run(HOST, "sh", "-c", "echo out; echo err >&2; printf unfinished; exit 3")
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"out\nunfinished", b"err\n", 3)


def test_all_went_well_is_status_0(cli: Cli) -> None:
    """Promise 113."""
    assert cli.run(HOST, "true").returncode == 0


def test_arguments_arrive_byte_for_byte_whatever_they_look_like(cli: Cli) -> None:
    nasty = ["-n", "--", "--json", "it's", "$HOME", "a\nb", "", "*", "é", "\udcff"]
    ended = cli.run(HOST, "printf", "[%s]", *nasty)
    assert ended.stdout == "".join(f"[{word}]" for word in nasty).encode("utf-8", "surrogateescape")


def test_without_the_dashes_options_end_at_the_hosts(cli: Cli) -> None:
    assert cli("run", *cli.ssh, HOST, "printf", "%s", "-l").stdout == b"-l"


def test_shell_runs_a_line_of_shell_syntax(cli: Cli) -> None:
    assert cli("shell", HOST, "echo a | tr a b; exit 4", *cli.ssh).stdout == b"b\n"


def test_standard_input_is_empty(cli: Cli) -> None:
    """Promise 126."""
    assert cli.run(HOST, "cat").stdout == b""


def test_bytes_go_through_a_pipe_unchanged(cli: Cli) -> None:
    """Promise 110: escapes are for terminals."""
    assert cli.run(HOST, "printf", r"\033[2J\007\000\377\r\n").stdout == b"\x1b[2J\x07\x00\xff\r\n"


def test_much_output_arrives_whole_although_the_reader_is_slow(cli: Cli) -> None:
    process = cli.start("run", HOST, *cli.ssh, "--", "seq", "2000000")
    assert process.stdout is not None
    digest = hashlib.sha256()
    while chunk := process.stdout.read(1024 * 1024):
        digest.update(chunk)
    assert process.wait() == 0
    assert digest.digest() == hashlib.sha256(b"".join(b"%d\n" % number for number in range(1, 2_000_001))).digest()


def test_output_comes_while_the_program_runs(cli: Cli) -> None:
    """Promise 129."""
    process = cli.start("run", HOST, *cli.ssh, "--", "sh", "-c", "echo one; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    assert process.poll() is None


def test_a_signal_has_the_status_that_a_shell_gives_it(cli: Cli) -> None:
    """Promise 113, promise 127."""
    ended = cli.run(HOST, "sh", "-c", "kill -9 $$")
    assert (ended.returncode, ended.stderr) == (137, f"aioremote: {HOST}: killed by SIGKILL\n".encode())


def test_a_far_status_of_255_and_of_127_are_just_that(cli: Cli) -> None:
    """Promise 113, promise 127."""
    for status in (255, 127):
        ended = cli.run(HOST, "sh", "-c", f"echo own words >&2; exit {status}")
        assert (ended.returncode, ended.stderr) == (status, b"own words\n")


def test_out_of_time_is_status_124_with_the_output_so_far(cli: Cli) -> None:
    """Promise 113, promise 53."""
    began = time.monotonic()
    ended = cli.run(HOST, "sh", "-c", "echo so far; exec sleep 1000", options=("--timeout", "3"))
    assert in_time(time.monotonic() - began, 10)
    assert (ended.returncode, ended.stdout) == (124, b"so far\n")
    assert ended.stderr.startswith(f"aioremote: {HOST}: sh -c ".encode())
    assert ended.stderr.endswith(b"not finished after 3 s\n")


@pytest.mark.parametrize("layout", ["--json", "--gather"])
def test_every_layout_has_the_same_statuses(cli: Cli, layout: str) -> None:
    """Promise 113."""
    assert cli.run(HOST, "sh", "-c", "exit 3", options=(layout,)).returncode == 3
    assert cli.run(HOST, "sleep", "1000", options=(layout, "--timeout", "3")).returncode == 124
    assert cli.run(HOST, "no-such-program", options=(layout,)).returncode == 127


def test_json_is_valid_and_harmless_with_any_bytes(cli: Cli) -> None:
    """Promise 112."""
    ended = cli.run(HOST, "printf", r"a\377\033]52;\302\233\000\n", options=("--json",))
    (document,) = json_lines(ended.stdout)
    assert document["host"] == HOST
    assert document["stdout"] == "a\ufffd\x1b]52;\x9b\0\n"
    assert document["stdout_base64"] == "Yf8bXTUyO8KbAAo="
    assert document["returncode"] == 0
    assert not set(ended.stdout[:-1]) & {*range(32), *range(127, 256)}


def test_json_tells_errors_too(cli: Cli) -> None:
    """Promise 112."""
    ended = cli.run(HOST, "sh", "-c", "echo so far; exec sleep 1000", options=("--json", "--timeout", "3"))
    error = json.loads(ended.stdout)["error"]
    assert (error["type"], error["stdout"]) == ("CommandTimeout", "so far\n")


def test_a_closed_pipe_is_a_quiet_end_and_the_end_of_the_far_program(cli: Cli) -> None:
    """Promise 113."""
    process = cli.start("run", HOST, *cli.ssh, "--", "yes")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""


def test_a_full_disk_is_said(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        ended = cli("run", HOST, *cli.ssh, "--", "echo", "x", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (1, b"aioremote: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_from_outside_is_nobody_elses(cli: Cli, closed: str) -> None:
    command = cli.command("run", HOST, *cli.ssh, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    ended = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], env=cli.env, capture_output=True)
    assert (ended.returncode, ended.stdout) == (3, b"")
    assert ended.stderr == (b"err\n" if closed == ">&-" else b"")


def test_too_much_for_a_document_is_said(cli: Cli) -> None:
    """Promise 47: without --json and --gather nothing is collected."""
    ended = cli.run(HOST, "head", "-c", "70000000", "/dev/zero", options=("--gather",))
    assert ended.returncode == 1
    assert b"without --json and --gather" in ended.stderr
