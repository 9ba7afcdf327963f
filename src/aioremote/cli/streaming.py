"""One command on one machine whose output is passed on as it comes, instead of being collected.

The same ends as those of `Machine.run`: a Result only with a status or a signal, the same errors otherwise; the output
itself is in none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from aioremote._core.deadline import Deadline
from aioremote.commands.lookup import explain_not_found
from aioremote.commands.running import end_process, judge
from aioremote.errors import CommandTimeout, ConnectionLost, ConnectTimeout, RemoteError
from aioremote.types import PartialResult, Result

if TYPE_CHECKING:
    from aioremote.commands.orders import Order
    from aioremote.machine import Machine
    from aioremote.protocols import FarProcess
    from aioremote.types import ExitStatus

__all__ = ["Receiver", "Source", "stream_command"]

Source = Literal["stdout", "stderr"]

_TIMEOUT_SECONDS = 0.9  # for the end of the far tree, so that one second over its time everything is over
_CANCEL_SECONDS = 2.0
_HELD_SECONDS = 0.2  # for the far shell's own words about a missing program, which ours replace
_NOT_FOUND = (126, 127)


class Receiver(Protocol):
    """Who takes the output of many machines."""

    @property
    def full(self) -> bool:
        """Whether the hosts should be held back."""
        ...

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once when it is no longer full."""
        ...

    def take(self, host: str, source: Source, data: bytes) -> None:
        """Take some bytes."""
        ...

    def end(self, host: str) -> None:
        """Take note that nothing more comes from a host."""
        ...


class _Streaming:
    """One command on its way."""

    def __init__(self, machine: Machine, order: Order, receiver: Receiver) -> None:
        self._machine = machine
        self._order = order
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._far: FarProcess | None = None
        self._connected = False
        self._held: list[bytes] | None = []  # of stderr; None when it is no longer held back
        self._timer: asyncio.TimerHandle | None = None
        self._holding = False

    async def run(self) -> Result:
        deadline = Deadline(self._order.timeout)
        scope = deadline.scope()
        try:
            async with scope:
                try:
                    status = await self._proceed()
                except BaseException as error:
                    await end_process(self._far, error, _TIMEOUT_SECONDS if scope.expired() else _CANCEL_SECONDS)
                    raise
        except TimeoutError as error:
            if isinstance(error, RemoteError) or not scope.expired():
                raise
            raise self._timed_out() from error
        except ConnectionLost as error:
            error.cmd, error.result = list(self._order.args), self._partial()
            raise
        finally:
            self._let_go()
            self._receiver.end(self._machine.host)
        return judge(self._result(status), self._order)

    async def _proceed(self) -> ExitStatus:
        machine = self._machine
        await machine.connect()
        self._connected = True
        far = self._far = await machine.transport.start_process(self._order.spec)
        far.stdout.divert(self._take_stdout)
        if far.stderr is not None:
            far.stderr.divert(self._take_stderr)
        status = await far.wait()
        if status.returncode in _NOT_FOUND:
            await self._explain()
        return status

    async def _explain(self) -> None:
        """Say ourselves that there is no such program; what the far shell said of it is dropped then."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            await explain_not_found(self._machine.transport, self._order, self._machine.host)
        except RemoteError:
            if self._held is not None:
                self._held.clear()
            raise

    # output

    def _take_stdout(self, data: bytes) -> None:
        self._let_go()
        self._pass_on("stdout", data)

    def _take_stderr(self, data: bytes) -> None:
        if self._held is None:
            self._pass_on("stderr", data)
            return
        self._held.append(data)
        if self._timer is None:
            self._timer = self._loop.call_later(_HELD_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        held, self._held = self._held, None
        for data in held or ():
            self._pass_on("stderr", data)

    def _pass_on(self, source: Source, data: bytes) -> None:
        self._receiver.take(self._machine.host, source, data)
        if self._receiver.full and not self._holding:
            self._set_hold(held=True)
            self._receiver.when_room(lambda: self._set_hold(held=False))

    def _set_hold(self, *, held: bool) -> None:
        self._holding = held
        if self._far is not None:
            self._far.stdout.set_hold(held)
            if self._far.stderr is not None:
                self._far.stderr.set_hold(held)

    # its end

    def _partial(self) -> PartialResult:
        elapsed = self._loop.time() - self._began
        return PartialResult(args=self._order.args, host=self._machine.host, elapsed=elapsed)

    def _result(self, status: ExitStatus) -> Result:
        return Result(
            args=self._order.args,
            host=self._machine.host,
            elapsed=self._loop.time() - self._began,
            returncode=status.returncode,
            signal=status.signal,
            ok_codes=self._order.ok_codes,
            output_truncated=self._far is not None and self._far.output_held,
        )

    def _timed_out(self) -> RemoteError:
        host, seconds, partial = self._machine.host, self._order.timeout or 0.0, self._partial()
        if not self._connected:
            return ConnectTimeout(f"{host}: no connection within {seconds:g} s", host=host)
        text = f"{host}: {partial.command_line}: not finished after {seconds:g} s"
        return CommandTimeout(text, host=host, cmd=self._order.args, timeout=seconds, result=partial)


async def stream_command(machine: Machine, order: Order, receiver: Receiver) -> Result:
    """Run a command to its end, passing its output on as it comes.

    Returns:
        Result: with status and time, without output.

    Raises:
        RemoteError: as from `Machine.run`.

    Cancellation: the far tree is ended before the call lets go, at the latest after 2 s.
    """
    return await _Streaming(machine, order, receiver).run()
