"""`run` on several hosts: lines behind names, folded outputs, JSON, a summary, one status."""

import os
from pathlib import Path

import pytest
from tests.cli.harness import HOSTS, Cli, gone, json_lines

ALL = "127.0.0.[1-4]"
HERE = "set -- $SSH_CONNECTION; here=$3; "


def shell(cli: Cli, line: str, *options: str, hosts: str = ALL) -> tuple[int, bytes, list[str]]:
    ended = cli("shell", hosts, HERE + line, *cli.ssh, *options)
    return ended.returncode, ended.stdout, ended.stderr.decode().splitlines()


def test_each_line_stands_behind_its_hosts_name_on_the_stream_it_came_from(cli: Cli) -> None:
    status, stdout, stderr = shell(cli, "echo out; echo err >&2; printf unfinished")
    assert status == 0
    assert sorted(stdout.splitlines()) == sorted(
        f"{host}: {text}".encode() for host in HOSTS for text in ("out", "unfinished")
    )
    assert sorted(stderr[:-1]) == [f"{host}: err" for host in HOSTS]
    assert stderr[-1].startswith("aioremote: 4 hosts: 4 ok in ")


def test_lines_of_any_bytes_stay_whole_lines(cli: Cli) -> None:
    """Promise 47."""
    status, stdout, _ = shell(
        cli, r"head -c 3000000 /dev/zero | tr '\000' x; printf '\n\377\033\r\n'", hosts="127.0.0.[1-2]"
    )
    assert status == 0
    for host in HOSTS[:2]:
        lines = [
            line.removeprefix(f"{host}: ".encode()) for line in stdout.split(b"\n") if line.startswith(host.encode())
        ]
        assert b"".join(lines[:-1]) == b"x" * 3_000_000
        assert lines[-1] == b"\xff\x1b\r"


def test_one_failing_host_is_named_and_makes_the_status_1(cli: Cli) -> None:
    """Promise 113."""
    status, _, stderr = shell(cli, '[ "$here" != 127.0.0.3 ] || exit 7')
    assert status == 1
    assert stderr[0] == "aioremote: 127.0.0.3: exit status 7"
    assert stderr[1].startswith("aioremote: 4 hosts: 3 ok, 1 failed (127.0.0.3) in ")
    assert len(stderr) == 2


@pytest.mark.parametrize(
    ("hosts", "options", "expected"),
    [
        ("127.0.0.[1-4]", ("--timeout", "3"), 124),
        ("127.0.0.[5-6]", (), 255),
        ("127.0.0.[4-5]", ("--timeout", "3"), 1),
    ],
)
def test_how_all_hosts_ended_is_the_status(cli: Cli, hosts: str, options: tuple[str, ...], expected: int) -> None:
    """Promise 113."""
    assert cli.run(hosts, "sleep", "1000", options=options).returncode == expected


def test_an_unreachable_host_among_others_is_named(cli: Cli) -> None:
    status, stdout, stderr = shell(cli, "echo x", hosts="127.0.0.[4-5]")
    assert (status, stdout) == (1, b"127.0.0.4: x\n")
    assert "127.0.0.5" in stderr[0]
    assert "refused" in stderr[0]
    assert stderr[1].startswith("aioremote: 2 hosts: 1 ok, 1 unreachable (127.0.0.5) in ")


def test_gather_shows_equal_outputs_once_below_folded_names(cli: Cli) -> None:
    status, stdout, stderr = shell(
        cli, r'[ "$here" = 127.0.0.2 ] && echo other || printf "same\377"; echo e >&2', "--gather"
    )
    rule = b"-" * 15
    head = b"%b\n127.0.0.[1,3-4]\n%b\nsame\xff\n" % (rule, rule)
    assert status == 0
    assert stdout == head + b"%b\n127.0.0.2\n%b\nother\n" % (rule, rule)
    assert stderr[:4] == ["-" * 15, "127.0.0.[1-4]", "-" * 15, "e"]


def test_gather_shows_what_unfinished_hosts_had_written(cli: Cli) -> None:
    """Promise 53."""
    status, stdout, _ = shell(cli, "echo so far; exec sleep 1000", "--gather", "--timeout", "3", hosts="127.0.0.[1-2]")
    assert status == 124
    assert stdout.count(b"(not finished)") == 2
    assert stdout.count(b"so far\n") == 2


def test_json_is_one_document_a_host_a_line(cli: Cli) -> None:
    """Promise 112."""
    status, stdout, stderr = shell(cli, '[ "$here" != 127.0.0.3 ]; exit $?', "--json", hosts="127.0.0.[1-5]")
    documents = sorted(json_lines(stdout), key=lambda document: str(document["host"]))
    assert status == 1
    assert [document["state"] for document in documents] == ["ok", "ok", "failed", "ok", "unreachable"]
    assert [document["index"] for document in documents] == [0, 1, 2, 3, 4]
    assert len(stderr) == 1  # the summary; troubles are in the documents


def test_fail_fast_ends_the_rest(cli: Cli, tmp_path: Path) -> None:
    """Promise 89."""
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    line = f'[ "$here" = 127.0.0.1 ] && {{ cat {begun}; exit 9; }}; echo $$ > {begun}; exec sleep 1000'
    status, stdout, stderr = shell(cli, line, "--fail-fast", "--limit", "2")
    assert status == 1
    assert gone(int(stdout.split()[1]))
    assert stderr[:2] == ["aioremote: 127.0.0.1: exit status 9", "aioremote: 127.0.0.2: ended because 127.0.0.1 failed"]
    assert "2 failed (127.0.0.[1-2]), 2 not started (127.0.0.[3-4])" in stderr[2]


def test_a_closed_pipe_is_a_quiet_end(cli: Cli) -> None:
    """Promise 113."""
    process = cli.start("run", ALL, *cli.ssh, "--", "yes")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().endswith(b": y\n")
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""
