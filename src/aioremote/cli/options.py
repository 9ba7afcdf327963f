"""The options that commands share, and what becomes of them.

Secrets have none: they are asked for on the terminal, once, before anything starts.
"""

from __future__ import annotations

import getpass
import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from aioremote.host_keys import HostKeys
from aioremote.machines import SshKeywords

__all__ = [
    "COPY_OPTIONS",
    "COPY_STATUS_HELP",
    "ENGINE_OPTIONS",
    "RUN_OPTIONS",
    "SSH_OPTIONS",
    "STATUS_HELP",
    "SYNC_OPTIONS",
    "TUNNEL_OPTIONS",
    "TUNNEL_STATUS_HELP",
    "config_option",
    "config_path",
    "options",
    "ssh_keywords",
]

_DEFAULT_CONFIG = "~/.ssh/config"
_FILE = click.Path(exists=True, dir_okay=False, readable=True)
F = TypeVar("F", bound=Callable[..., object])
Option = Callable[[F], F]

STATUS_HELP = """\
Exit status: 0; the far status (one host), or 1 where hosts failed (several); 124 out of time, 127 no such program,
255 no connection, also where that is how all of several hosts ended; 2 where this command line, or a file that it
names, cannot be used; 130 after Ctrl-C.
"""
TUNNEL_STATUS_HELP = """\
Exit status: 130 after Ctrl-C; 255 no connection, or it was lost; 1 a tunnel that could not be opened; 2 where this
command line, or a file that it names, cannot be used.
"""


COPY_STATUS_HELP = """\
Exit status: 0; 1 what could not be read or written; 255 no connection, or it was lost; 2 where this command line, or a
file that it names, cannot be used; 130 after Ctrl-C.
"""


def _check_seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value!r}: give a positive number of seconds", ctx, param)
    return value


def _check_config(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value not in ("none", _DEFAULT_CONFIG):
        _FILE.convert(os.path.expanduser(value), param, ctx)
    return value


def config_option(function: F) -> F:
    """Add ``--config``."""
    option = click.option(
        "--config",
        metavar="PATH|none",
        default=_DEFAULT_CONFIG,
        show_default=True,
        callback=_check_config,
        help="The ssh config to read.",
    )
    return option(function)


SSH_OPTIONS: tuple[Callable[[Any], Any], ...] = (  # Any: whatever a decorator of click's decorates
    click.option("-l", "--user", metavar="USER", help="Login name, where a host has none of its own."),
    click.option(
        "-i",
        "--keyfile",
        "keyfiles",
        metavar="PATH",
        multiple=True,
        type=_FILE,
        help="Private key to offer, and no other; repeatable.",
    ),
    click.option(
        "-p",
        "--port",
        metavar="PORT",
        type=click.IntRange(1, 65535),
        help="Port, where a host has none of its own.",
    ),
    config_option,
    click.option(
        "--host-keys",
        type=click.Choice(["strict", "accept-new"]),
        default="strict",
        show_default=True,
        help="Whether keys of unknown hosts are refused, or accepted and written down.",
    ),
    click.option("--known-hosts", metavar="PATH", help="The known_hosts file, instead of the usual ones."),
    click.option("--ask-password", is_flag=True, help="Ask for the login's password, once for all hosts."),
    click.option("--ask-passphrase", is_flag=True, help="Ask for the passphrase of key files, once."),
    click.option(
        "--connect-timeout",
        type=float,
        callback=_check_seconds,
        metavar="SECONDS",
        default=15.0,
        show_default=True,
        help="For connecting to one host.",
    ),
)
_ALLOW_EXEC = click.option(
    "--allow-exec", is_flag=True, help="Take hosts of scheme exec:, which run programs on this machine."
)
RUN_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--limit",
        metavar="HOSTS",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="How many hosts work at once.",
    ),
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=float,
        callback=_check_seconds,
        help="For connecting to one host and running there, together.",
    ),
    click.option("--fail-fast", is_flag=True, help="End everything at the first host's trouble."),
    click.option("--gather", is_flag=True, help="Show equal outputs once, below the names of their hosts."),
    click.option("--json", "as_json", is_flag=True, help="Write one JSON document for each host, one a line."),
    _ALLOW_EXEC,
    click.option("--raw", is_flag=True, help="Let control characters through to the terminal."),
)
TUNNEL_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("-L", "--local", metavar="SPEC", multiple=True, help="The same as SPEC behind HOST; repeatable."),
    click.option(
        "-R",
        "reverse",
        metavar="SPEC",
        multiple=True,
        help="Listen on HOST: DPORT:LHOST:LPORT leads to LHOST, as seen from here; repeatable.",
    ),
    click.option("--reverse", "all_reverse", is_flag=True, help="Take every SPEC behind HOST as -R does."),
    click.option(
        "-D", "--socks", metavar="[LHOST:]LPORT", multiple=True, help="Offer a SOCKS proxy (5 and 4a); repeatable."
    ),
    click.option("--reconnect", is_flag=True, help="Bring a lost connection back, with the tunnels on the same ports."),
    click.option("--json", "as_json", is_flag=True, help="Write one JSON document for each change of a state."),
    _ALLOW_EXEC,
)


COPY_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--preserve", is_flag=True, help="Keep permissions and times."),
    click.option("--keep", is_flag=True, help="Replace no file: fail where there is one."),
    click.option("--verify", is_flag=True, help="Hash every file at both ends and compare before it has its place."),
    click.option("--resume", is_flag=True, help="Go on with one file where an earlier --resume was cut off."),
)
SYNC_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--delete", is_flag=True, help="Remove from DST what SRC has not."),
    click.option("--checksum", is_flag=True, help="Compare files of equal size by content, whatever their times."),
    click.option(
        "--whole-file", "delta", flag_value=False, default=True, help="Send changed files whole, not only what differs."
    ),
    click.option("-n", "--dry-run", is_flag=True, help="Change nothing, list what would be deleted and sent."),
    click.option(
        "--exclude",
        metavar="PATTERN",
        multiple=True,
        help="A line of a .gitignore: neither sent nor deleted; repeatable.",
    ),
)
ENGINE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--engine",
        type=click.Choice(["auto", "sftp", "outpost", "tar"]),
        default="auto",
        show_default=True,
        help="How far files are reached.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Write the report as one JSON document."),
)


def options(*added: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return the decorator that adds these options, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(added):
            function = option(function)
        return function

    return decorate


def config_path(params: Mapping[str, Any]) -> str | None:
    """Return the ssh config to read, None for none."""
    return None if params["config"] == "none" else str(params["config"])


def ssh_keywords(params: Mapping[str, Any]) -> SshKeywords:
    """Return the keywords for every host, asking for secrets where that was wanted.

    Args:
        params: what click has made of the options; their types are those that the options declare.

    Raises:
        click.UsageError: a file that is not there, or no terminal to ask on.
    """
    known_hosts, strict = params["known_hosts"], params["host_keys"] == "strict"
    if known_hosts is not None and strict:
        _require_file("--known-hosts", os.path.expanduser(known_hosts))
    return SshKeywords(
        user=params["user"],
        keyfile=params["keyfiles"] or None,
        port=params["port"],
        config=config_path(params),
        host_keys=HostKeys.strict(known_hosts) if strict else HostKeys.accept_new(known_hosts),
        password=_ask("Password: ") if params["ask_password"] else None,
        passphrase=_ask("Passphrase of the key files: ") if params["ask_passphrase"] else None,
        connect_timeout=params["connect_timeout"],
    )


def _require_file(option: str, path: str) -> None:
    if not os.path.isfile(path):
        raise click.BadParameter(f"there is no file {path!r}", param_hint=option)


def _ask(prompt: str) -> str:
    """Ask on the terminal, before there is an event loop that the waiting could hold up."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would show what is typed
            return getpass.getpass(prompt)
    except (getpass.GetPassWarning, EOFError) as error:
        raise click.UsageError("a secret can only be asked for on a terminal; give a key file with -i") from error
