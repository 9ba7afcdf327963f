"""`aioremote python`: source in the Python of every host, with the ends of a command."""

import json

import pytest
from tests.cli.harness import HOSTS, Cli


def test_an_expression_shows_its_value_and_statements_what_they_print(cli: Cli) -> None:
    done = cli("python", *cli.ssh, HOSTS[0], "{'a': 1}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{'a': 1}\n", b"")
    done = cli("python", *cli.ssh, HOSTS[0], "import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")
    done = cli("python", *cli.ssh, HOSTS[0], "None")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_what_it_raises_is_a_traceback_and_status_1(cli: Cli) -> None:
    done = cli("python", *cli.ssh, HOSTS[0], "print('before'); 1 / 0")
    assert (done.returncode, done.stdout) == (1, b"before\n")
    assert done.stderr.startswith(b"Traceback")
    assert b"ZeroDivisionError" in done.stderr


def test_several_hosts_and_json(cli: Cli) -> None:
    done = cli("python", *cli.ssh, "--json", ",".join(HOSTS[:2]), "6 * 7")
    told = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda one: str(one["host"]))
    assert [(one["host"], one["stdout"]) for one in told] == [(host, "42\n") for host in sorted(HOSTS[:2])]
    assert done.returncode == 0


def test_a_timeout_is_status_124(cli: Cli) -> None:
    """Promise 113."""
    done = cli("python", *cli.ssh, "--timeout", "3", HOSTS[0], "import time; time.sleep(600)")
    assert done.returncode == 124
    assert b"more than 3 s" in done.stderr


@pytest.mark.parametrize("source", ["x = =", "a\x01b"])
def test_what_is_no_python_starts_nothing(cli: Cli, source: str) -> None:
    done = cli("python", *cli.ssh, "--", HOSTS[0], source)
    assert done.returncode == 2
    assert b"SOURCE is no Python" in done.stderr
