"""`hosts` says what HOSTS stands for."""

import json
from pathlib import Path

from tests.cli.harness import Cli


def test_ranges_and_lists_are_expanded_in_the_order_given(cli: Cli) -> None:
    ended = cli("hosts", "web[09-11],root@db1:2222")
    assert (ended.returncode, ended.stdout) == (0, b"web09\nweb10\nweb11\nroot@db1:2222\n")


def test_fold_writes_them_in_short(cli: Cli) -> None:
    assert cli("hosts", "web01,web02,web03,db1", "--fold").stdout == b"web[01-03],db1\n"


def test_json_is_one_list(cli: Cli) -> None:
    assert json.loads(cli("hosts", "web[1-2]", "--json").stdout) == ["web1", "web2"]
    assert json.loads(cli("hosts", "web1,web2", "--json", "--fold").stdout) == ["web[1-2]"]


def test_patterns_are_looked_up_in_the_ssh_config(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host web1 web2\n  Port 22\nHost db1\nHost *\n  User me\n")
    assert cli("hosts", "db1,web?", "--config", str(config)).stdout == b"db1\nweb1\nweb2\n"


def test_a_closed_pipe_is_a_quiet_end(cli: Cli) -> None:
    """Promise 113."""
    process = cli.start("hosts", "web[1-100000]")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"web1\n"
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""


def test_help_and_version(cli: Cli) -> None:
    assert b"HOSTS" in cli().stdout
    assert b"Exit status" in cli("run", "--help").stdout
    assert cli("--version").stdout.startswith(b"aioremote ")
