"""The commands: words in, a `Request` out, and whatever is wrong with them told in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

import aioremote
from aioremote.cli.hosts import read_hosts_word
from aioremote.cli.interrupt import run_interruptible
from aioremote.cli.options import (
    COPY_OPTIONS,
    COPY_STATUS_HELP,
    ENGINE_OPTIONS,
    RUN_OPTIONS,
    SSH_OPTIONS,
    STATUS_HELP,
    SYNC_OPTIONS,
    TUNNEL_OPTIONS,
    TUNNEL_STATUS_HELP,
    config_option,
    config_path,
    options,
    ssh_keywords,
)
from aioremote.cli.outcomes import USAGE_STATUS
from aioremote.cli.serve_command import serve_command
from aioremote.errors import RemoteError
from aioremote.escape import one_line
from aioremote.fleet.gather import fold_hosts

__all__ = ["invoke"]

_INTERRUPT_STATUS = 130
_BROKEN_PIPE_STATUS = 141
_ARGV = "aioremote.argv"  # where `run` keeps what stood behind --


def invoke(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; troubles become one line on standard error."""
    _claim_streams()
    try:
        status: object = cli.main(None if args is None else list(args), prog_name="aioremote", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return _INTERRUPT_STATUS
    except click.ClickException as error:
        return _refuse(_click_message(error))
    except (BrokenPipeError, SystemExit):  # click's own way with a broken pipe is to exit with 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed at the end
        return _BROKEN_PIPE_STATUS
    except (RemoteError, ValueError) as error:
        return _refuse(str(error))
    return status if isinstance(status, int) else 0


def _claim_streams() -> None:
    """Open what was given to us closed (``>&-``): a connection would get its number, and our output with it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _refuse(text: str) -> int:
    sys.stderr.write(f"aioremote: {one_line(text)}\n")
    return USAGE_STATUS


def _click_message(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message += "; neither hosts nor programs may start with '-' before --"
    return message + (f" (see {context.command_path} --help)" if context else "")


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(aioremote.__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run commands on one host or on thousands, over ssh.

    HOSTS are names, ranges and lists: web[01-40],db1 or deploy@web[1-3]:2222. With * or ? they are those of the ssh
    config that match: 'web*'.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class _RunCommand(click.Command):
    """What stands behind ``--`` is the program's, whatever it looks like; without it options end at the hosts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else None
        ctx.meta[_ARGV] = None if place is None else args[place + 1 :]
        ctx.allow_interspersed_args = place is not None
        return super().parse_args(ctx, args[:place])


@cli.command("run", cls=_RunCommand, options_metavar="[OPTIONS]", epilog=STATUS_HELP)
@click.argument("hosts")
@click.argument("words", nargs=-1, metavar="-- PROGRAM [ARG]...")
@options(*SSH_OPTIONS, *RUN_OPTIONS)
@click.pass_context
def run_command(ctx: click.Context, /, **params: Any) -> int:  # Any: click's values, checked by their options
    """Run a program on every host; no shell sees its arguments.

    Its standard input is empty. Output comes as it is written, with several hosts line by line behind each one's name.
    """
    words, argv = list(params["words"]), ctx.meta[_ARGV]
    if argv is None and words and not words[0].startswith("-"):
        words, argv = [], words
    if words:
        raise click.UsageError(f"put -- between the hosts and the program, not {words[0]!r}", ctx)
    if not argv:
        raise click.UsageError("no program is given; it stands behind the hosts: aioremote run web1 -- uptime", ctx)
    return _run(tuple(os.fsencode(word) for word in argv), params)


@cli.command("shell", epilog=STATUS_HELP)
@click.argument("hosts")
@click.argument("line")
@options(*SSH_OPTIONS, *RUN_OPTIONS)
def shell_command(**params: Any) -> int:
    """Run a LINE of /bin/sh syntax on every host; otherwise as run."""
    return _run((b"/bin/sh", b"-c", os.fsencode(params["line"])), params)


@cli.command("python", epilog=STATUS_HELP)
@click.argument("hosts")
@click.argument("source")
@options(*SSH_OPTIONS, *RUN_OPTIONS)
@click.pass_context
def python_command(ctx: click.Context, /, **params: Any) -> int:
    """Run Python SOURCE on every host, which needs Python 3.6 or newer and nothing else; otherwise as run.

    The value of an expression is shown. Where SOURCE raises, the status is 1 and the traceback is on standard error.
    """
    from aioremote.cli.python_calls import is_expression

    try:
        is_expression(params["source"])
    except (SyntaxError, ValueError) as error:
        raise click.UsageError(f"SOURCE is no Python: {error}", ctx) from error
    return _run(str(params["source"]), params)


def _run(work: tuple[bytes, ...] | str, params: dict[str, Any]) -> int:
    from aioremote.cli.session import Request, run_request
    from aioremote.commands.orders import make_order

    if params["gather"] and params["as_json"]:
        raise click.UsageError("--gather and --json exclude each other", click.get_current_context())
    hosts = read_hosts_word(params["hosts"], config_path(params), allow_exec=params["allow_exec"])
    if isinstance(work, tuple):
        make_order(work, cwd=None, env={})  # what no host can be given is refused before a secret is asked for
    request = Request(
        hosts=hosts,
        work=work,
        ssh=ssh_keywords(params),
        limit=params["limit"],
        timeout=params["timeout"],
        layout="gathered" if params["gather"] else "json" if params["as_json"] else "lines",
        raw=params["raw"],
        fail_fast=params["fail_fast"],
    )
    return run_interruptible(partial(run_request, request))


@cli.command("tunnel", epilog=TUNNEL_STATUS_HELP)
@click.argument("host")
@click.argument("specs", nargs=-1, metavar="[SPEC]...")
@options(*SSH_OPTIONS, *TUNNEL_OPTIONS)
@click.pass_context
def tunnel_command(ctx: click.Context, /, **params: Any) -> int:
    """Carry connections through HOST until Ctrl-C. HOST is a name or any address, as openssh://web1.

    SPEC is as behind ssh's -L: LPORT:DHOST:DPORT listens here and goes on from HOST; LPORT:DPORT leads to HOST itself.
    LHOST: in front listens elsewhere than on loopback (* for all addresses), [::1] is an IPv6 address, a path in the
    place of a port a unix socket, port 0 a free one.

    All tunnels are open, or none is. On a terminal a table counts, elsewhere each change of a state is a line.
    """
    from aioremote.cli.forwards import read_forward, read_socks
    from aioremote.cli.hosts import read_host_word
    from aioremote.cli.tunnels import TunnelRequest, run_tunnels

    forwards = [read_forward(word, reverse=params["all_reverse"]) for word in params["specs"]]
    forwards += [read_forward(word) for word in params["local"]]
    forwards += [read_forward(word, reverse=True) for word in params["reverse"]]
    forwards += [read_socks(word) for word in params["socks"]]
    if not forwards:
        raise click.UsageError("no tunnel is given: aioremote tunnel web1 5433:db:5432", ctx)
    request = TunnelRequest(
        host=read_host_word(params["host"], allow_exec=params["allow_exec"]),
        forwards=forwards,
        ssh=ssh_keywords(params),
        reconnect=params["reconnect"],
        as_json=params["as_json"],
    )
    return run_interruptible(partial(run_tunnels, request))


@cli.command("copy", epilog=COPY_STATUS_HELP)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@options(*SSH_OPTIONS, *COPY_OPTIONS, *ENGINE_OPTIONS)
def copy_command(**params: Any) -> int:
    """Copy a file or tree: SRC and DST are near paths or [USER@]HOST:PATH, as scp takes them.

    A file given a directory lands in it; a tree's DST is its final path, and a slash at the end of DST takes either
    below it. Each file is old or new at every moment. From host to host it streams through here.
    """
    from aioremote._core.pieces import TreeOptions
    from aioremote.files.transfer import transfer

    tree = TreeOptions(preserve=params["preserve"], overwrite=not params["keep"], verify=params["verify"])
    return _copy(params, partial(transfer, options=tree, resume=params["resume"]))


@cli.command("sync", epilog=COPY_STATUS_HELP)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@options(*SSH_OPTIONS, *SYNC_OPTIONS, *ENGINE_OPTIONS)
def sync_command(**params: Any) -> int:
    """Bring directory DST up to date with directory SRC; words as of copy. Only what differs travels.

    A file differs when its size or its time of change does.
    """
    from aioremote.files.sync import sync

    how = {name: params[name] for name in ("delete", "checksum", "delta", "dry_run", "exclude")}
    return _copy(params, partial(sync, **how))


def _copy(params: dict[str, Any], work: Callable[..., Awaitable[Any]]) -> int:  # as `CopyRequest` has it
    from aioremote.cli.copying import CopyRequest, run_copying
    from aioremote.cli.ends import read_end

    request = CopyRequest(
        source=read_end(params["source"]),
        target=read_end(params["target"]),
        ssh=ssh_keywords(params),
        work=work,
        engine=params["engine"],
        as_json=params["as_json"],
    )
    return run_interruptible(partial(run_copying, request))


@cli.command("hosts")
@click.argument("hosts")
@config_option
@click.option("--fold", is_flag=True, help="Write them in short, on one line.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON list.")
def hosts_command(**params: Any) -> None:
    """Expand HOSTS: list what ranges and patterns stand for, one a line, connecting to none."""
    hosts = read_hosts_word(params["hosts"], config_path(params), allow_exec=True)
    if params["as_json"]:
        sys.stdout.write(json.dumps([fold_hosts(hosts)] if params["fold"] else list(hosts)) + "\n")
    elif params["fold"]:
        sys.stdout.write(fold_hosts(hosts) + "\n")
    else:
        sys.stdout.writelines(f"{host}\n" for host in hosts)


@cli.command("demo")
@click.option(
    "--save-svg",
    metavar="PATH",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Also write what is shown as a picture.",
)
def demo_command(save_svg: Path | None) -> int:
    """Show the main job on twenty hosts that this program plays itself, on loopback."""
    from aioremote.cli.demo import run_demo

    return run_interruptible(partial(run_demo, save_svg=save_svg))


@cli.command("keygen")
@click.argument("path")
@click.option("--token", is_flag=True, help="Make a token in place of a key: both ends need the same file.")
def keygen_command(path: str, *, token: bool) -> None:
    """Make a key for a daemon or its client: PATH (mode 0600) and PATH.crt; prints the fingerprint."""
    from aioremote.daemon import make_key, make_token

    try:
        if token:
            make_token(path)
        else:
            click.echo(make_key(path))
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error


cli.add_command(serve_command)
