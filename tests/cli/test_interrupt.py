"""Ctrl-C: a partial report, and nothing left running at the far ends."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.cli.harness import HOSTS, Cli, seconds_until_gone
from tests.pace import in_time

TREE = 'trap "" TERM; sleep 1000 & echo $$ $!; wait; sleep 1000'
MIXED = f'set -- $SSH_CONNECTION; [ "$3" = 127.0.0.1 ] && {{ echo $$ $$; exit; }}; {TREE}'
TWICE = """
import asyncio, sys
from aioremote.cli.interrupt import run_interruptible

async def work(interrupt):
    print("working", flush=True)
    try:
        await asyncio.sleep(1000)
    finally:
        print("cleaning up", flush=True)
        await asyncio.sleep(1000)

run_interruptible(work)
"""


def pids_of(process: "subprocess.Popen[bytes]", lines: int) -> list[int]:
    assert process.stdout is not None
    return [int(word) for _ in range(lines) for word in process.stdout.readline().split(b": ")[-1].split()]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_ctrl_c_ends_every_far_tree_and_says_how_far_it_came(cli: Cli, number: signal.Signals, status: int) -> None:
    """Promise 93: partial report, all trees dead within 2 s."""
    process = cli.start("shell", "127.0.0.[1-4]", MIXED, "--limit", "3", *cli.ssh)
    assert process.stderr is not None
    pids = pids_of(process, 4)
    process.send_signal(number)
    assert seconds_until_gone(pids) < 2
    assert process.wait() == status
    report = process.stderr.read().decode().splitlines()
    assert report[-1].startswith("aioremote: interrupted after ")
    assert "1 of 4 hosts done (1 ok), 3 ended (127.0.0.[2-4])" in report[-1]


def test_hosts_that_were_not_begun_are_counted(cli: Cli) -> None:
    """Promise 93."""
    process = cli.start("shell", "127.0.0.[1-4]", TREE, "--limit", "1", *cli.ssh)
    assert process.stderr is not None
    pids = pids_of(process, 1)
    process.send_signal(signal.SIGINT)
    assert seconds_until_gone(pids) < 2
    assert process.wait() == 130
    assert b"0 of 4 hosts done, 1 ended (127.0.0.1), 3 not started\n" in process.stderr.read()


@pytest.mark.parametrize("layout", ["--json", "--gather"])
def test_what_was_done_is_shown_in_every_layout(cli: Cli, tmp_path: Path, layout: str) -> None:
    """Promise 93."""
    second = tmp_path / "second"
    os.mkfifo(second)
    line = f'set -- $SSH_CONNECTION; [ "$3" = 127.0.0.1 ] && {{ echo first; exit; }}; echo begun > {second}; {TREE}'
    process = cli.start("shell", "127.0.0.[1-2]", line, "--limit", "1", layout, *cli.ssh)
    assert process.stdout is not None
    assert process.stderr is not None
    assert second.read_text() == "begun\n"
    process.send_signal(signal.SIGINT)
    shown, report = process.stdout.read(), process.stderr.read()
    assert process.wait() == 130
    assert b"1 of 2 hosts done (1 ok), 1 ended (127.0.0.2)" in report
    assert (b'"stdout": "first\\n"' if layout == "--json" else b"127.0.0.1\n---------------\nfirst\n") in shown


def test_a_single_host_is_ended_too(cli: Cli) -> None:
    """Promise 93."""
    process = cli.start("shell", HOSTS[0], TREE, *cli.ssh)
    pids = pids_of(process, 1)
    process.send_signal(signal.SIGINT)
    assert seconds_until_gone(pids) < 2
    assert process.wait() == 130


def test_a_reader_that_has_stopped_does_not_hold_ctrl_c_up(cli: Cli) -> None:
    """Promise 93."""
    process = cli.start("run", HOSTS[0], *cli.ssh, "--", "yes", stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"  # and no more: the pipe fills
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert in_time(time.monotonic() - began, 4)


def test_a_second_ctrl_c_ends_the_process_at_once(cli: Cli) -> None:
    """Promise 93."""
    process = cli.start(code=TWICE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"cleaning up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_a_signal_that_was_ignored_from_outside_stays_ignored(cli: Cli) -> None:
    process = cli.start(
        "shell",
        HOSTS[0],
        "echo $$; read _ < /proc/self/fd/0; sleep 1; echo end",
        *cli.ssh,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == b"end\n"
    assert process.wait() == 0
