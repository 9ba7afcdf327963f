"""One piece of Python source in the Python of one machine, with the ends of a command.

What it prints is passed on as it comes, or collected; an expression's value is shown as the prompt shows it; what it
raises is a traceback on standard error and status 1, as of ``python -c``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from aioremote.cli.streaming import Receiver, Source
from aioremote.errors import CommandFailed, RemoteException
from aioremote.types import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioremote.machine import Machine

__all__ = ["is_expression", "run_source"]

_SHOWN = "(lambda value: None if value is None else repr(value))((\n{}\n))"


def is_expression(source: str) -> bool:
    """Whether the source is one expression, and not statements; newer syntax than ours is statements too.

    Raises:
        SyntaxError: it is neither.
    """
    try:
        compile(source, "<source>", "eval")
    except SyntaxError:
        compile(source, "<source>", "exec")
        return False
    return True


async def run_source(
    machine: Machine, source: str, *, timeout: float | None, errors: str, receiver: Receiver | None
) -> Result:
    """Run it.

    Args:
        machine: where.
        source: an expression or statements.
        timeout: seconds, for connecting and starting Python too; None for no limit.
        errors: how the output is decoded in the result.
        receiver: takes the output as it comes; None collects it in the result.

    Raises:
        CommandFailed: it raised something.
        CallTimeout: it did not end in time.
        RemoteError: the machine cannot be reached, has no Python, or was lost.
    """
    began = time.monotonic()
    collected: dict[Source, list[bytes]] = {"stdout": [], "stderr": []}

    def to(where: Source) -> Callable[[bytes], None]:
        return collected[where].append if receiver is None else partial(receiver.take, machine.host, where)

    def ended(returncode: int) -> Result:
        return Result(
            args=("python", "-c", source),
            host=machine.host,
            elapsed=time.monotonic() - began,
            stdout_bytes=b"".join(collected["stdout"]),
            stderr_bytes=b"".join(collected["stderr"]),
            errors=errors,
            returncode=returncode,
        )

    far = machine.python.with_options(stdout=to("stdout"), stderr=to("stderr"), timeout=timeout)
    try:
        if is_expression(source):
            shown = await far.eval(_SHOWN.format(source))
            if shown is not None:
                to("stdout")(f"{shown}\n".encode(errors="backslashreplace"))
        else:
            await far.exec(source)
    except RemoteException as error:
        to("stderr")(error.remote_traceback.encode(errors="backslashreplace"))
        raise CommandFailed(ended(1)) from error
    finally:
        if receiver is not None:
            receiver.end(machine.host)
    return ended(0)
