"""Running one command to its end: capture, input, deadline, and what its end means.

A result exists only with an exit status or a signal; everything else that can happen is an error that carries the
output so far.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import anyio

from aioremote._core.deadline import Deadline
from aioremote._core.lifetime import bounded_cleanup
from aioremote._core.streams import CHUNK_BYTES, Capture
from aioremote.commands.lookup import explain_not_found, forget_programs
from aioremote.errors import (
    CommandFailed,
    CommandKilled,
    CommandTimeout,
    ConnectionLost,
    ConnectTimeout,
    OutputLimitExceeded,
    RemoteError,
)
from aioremote.types import PartialResult, Result

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from anyio.abc import ByteSendStream

    from aioremote.commands.orders import Order
    from aioremote.commands.tee import Shown
    from aioremote.protocols import FarProcess, Starter
    from aioremote.types import ExitStatus

__all__ = ["end_process", "finished", "judge", "run_order", "too_late"]

CANCEL_SECONDS = 2.0  # a cancelled command lets go when the far end has confirmed, at the latest after this
TIMEOUT_SECONDS = 0.9  # the same after a timeout, so that one second over its time everything is over


class _Run:
    """One command on its way."""

    def __init__(self, order: Order, transport: Starter, host: str, shown: Shown | None) -> None:
        self.order = order
        self.host = host
        self.phase = "connect"
        self._transport = transport
        self._shown = shown
        self._began = monotonic()
        self._capture = Capture(2, order.max_output_bytes, self._stop_for_excess)
        self._far: FarProcess | None = None
        self._input_unread = False

    async def run(self) -> Result:
        try:
            status = await (self._proceed(None) if self.order.timeout is None else self._proceed_in_time())
            if self._capture.exceeded:
                raise self._exceeded()
            return judge(self._result(status), self.order)
        except ConnectionLost as error:
            error.cmd, error.result = list(self.order.args), self._partial()
            raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Refer no longer to the connection, nor in a circle: neither it nor output shall wait for the collector."""
        self._far = None
        self._capture.let_go()

    async def _proceed_in_time(self) -> ExitStatus:
        scope = Deadline(self.order.timeout).scope()
        try:
            async with scope:
                return await self._proceed(scope)
        except TimeoutError as error:
            if isinstance(error, RemoteError) or not scope.expired():
                raise
            late = self._timed_out()
            for note in getattr(error.__cause__, "__notes__", ()):
                late.add_note(note)
            raise late from error

    async def _proceed(self, scope: asyncio.Timeout | None) -> ExitStatus:
        try:
            await self._transport.connect()
            self.phase = "run"
            far = self._far = await self._transport.start_process(self.order.spec)
            for index, stream in enumerate((far.stdout, far.stderr)):
                if stream is not None:
                    sink = self._capture.sink(index)
                    stream.divert(sink if self._shown is None else self._shown.sink(index, stream, sink))
            if self.order.input is not None and far.stdin is not None:
                await self._feed(far.stdin, self.order.input)
            status = await far.wait()
            if status.returncode in (126, 127) and not self.order.wants(status.returncode):
                await explain_not_found(self._transport, self.order, self.host)
        except BaseException as error:
            forget_programs(self._transport, error)
            in_time = scope is None or not scope.expired()
            await end_process(self._far, error, CANCEL_SECONDS if in_time else TIMEOUT_SECONDS)
            raise
        return status

    async def _feed(self, stdin: ByteSendStream, data: bytes) -> None:
        view = memoryview(data)
        try:
            for start in range(0, len(view), CHUNK_BYTES):
                await stdin.send(bytes(view[start : start + CHUNK_BYTES]))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._input_unread = True
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await stdin.aclose()

    def _stop_for_excess(self) -> None:
        if self._far is not None:
            self._far.end()

    def _partial(self) -> PartialResult:
        order = self.order
        return PartialResult(
            args=order.args,
            host=self.host,
            elapsed=monotonic() - self._began,
            stdout_bytes=self._capture.value(0),
            stderr_bytes=self._capture.value(1),
            encoding=order.encoding,
            errors=order.errors,
        )

    def _result(self, status: ExitStatus) -> Result:
        order = self.order  # not by way of `finished`: a partial result for each command costs as much as the rest
        return Result(
            args=order.args,
            host=self.host,
            elapsed=monotonic() - self._began,
            stdout_bytes=self._capture.value(0),
            stderr_bytes=self._capture.value(1),
            encoding=order.encoding,
            errors=order.errors,
            returncode=status.returncode,
            signal=status.signal,
            ok_codes=order.ok_codes,
            output_truncated=self._far is not None and self._far.output_held,
            input_unread=self._input_unread,
        )

    def _timed_out(self) -> RemoteError:
        if self.phase == "connect":
            return too_late(self.order, self.host, connected=False)
        seconds = self.order.timeout or 0.0
        partial = self._partial()
        text = f"{self.host}: {partial.command_line}: not finished after {seconds:g} s"
        return CommandTimeout(text, host=self.host, cmd=self.order.args, timeout=seconds, result=partial)

    def _exceeded(self) -> OutputLimitExceeded:
        limit, partial = self.order.max_output_bytes or 0, self._partial()
        text = (
            f"{self.host}: {partial.command_line}: more than {limit} bytes of output; raise max_output_bytes=, "
            "or read it as it comes with start() or lines()"
        )
        return OutputLimitExceeded(text, host=self.host, cmd=self.order.args, limit_bytes=limit, result=partial)


def finished(
    partial: PartialResult,
    status: ExitStatus,
    order: Order,
    *,
    output_truncated: bool = False,
    input_unread: bool = False,
) -> Result:
    """Return what is known of a command together with how it ended."""
    return Result(
        args=partial.args,
        host=partial.host,
        elapsed=partial.elapsed,
        stdout_bytes=partial.stdout_bytes,
        stderr_bytes=partial.stderr_bytes,
        encoding=partial.encoding,
        errors=partial.errors,
        returncode=status.returncode,
        signal=status.signal,
        ok_codes=order.ok_codes,
        output_truncated=output_truncated,
        input_unread=input_unread,
    )


def too_late(order: Order, host: str, *, connected: bool) -> RemoteError:
    """Return the error for a command whose time ran out before it had started."""
    seconds = order.timeout or 0.0
    if not connected:
        return ConnectTimeout(f"{host}: no connection within the {seconds:g} s given to the command", host=host)
    partial = PartialResult(args=order.args, host=host, elapsed=seconds)
    text = f"{host}: {partial.command_line}: not started after {seconds:g} s"
    return CommandTimeout(text, host=host, cmd=order.args, timeout=seconds, result=partial)


def run_order(order: Order, transport: Starter, host: str, *, shown: Shown | None = None) -> Awaitable[Result]:
    """Run a command to its end and return its result, or raise what `Machine.run` documents; `shown` shows output."""
    return _Run(order, transport, host, shown).run()


async def end_process(far: FarProcess | None, error: BaseException, seconds: float) -> None:
    """End a far process on the way out with `error`; says on it what may live on, as far as that is known."""
    if far is None:
        return
    try:
        confirmed = await bounded_cleanup(far.aclose(), seconds)
    except ConnectionLost:
        return
    if not confirmed:
        error.add_note(
            f"the far process (pid {far.pid}) was asked to end and has not confirmed it within {seconds:g} s"
        )
    if far.escaped:
        pids = ", ".join(map(str, far.escaped))
        error.add_note(f"what had left the session of the far process (pid {far.pid}) lives on: {pids}")


def judge(result: Result, order: Order) -> Result:
    """Return the result where its status is as wanted, else raise CommandFailed or CommandKilled."""
    result = result if order.conclude is None else order.conclude(result)
    if not order.check or result.ok:
        return result
    raise CommandKilled(result) if result.signal else CommandFailed(result)
