"""The system's ssh without a master: one process a program, as where OpenSSH has none (Windows), or a server forbids.

Every process logs in for itself. What ssh notes on its way goes through a named pipe (``-E``), apart from the program's
own words: it tells a refused login, and a status 255 from a signal and from a lost link.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from anyio.abc import SocketAttribute
from anyio.streams.stapled import StapledByteStream

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.names import check_host_name, check_port, check_user_name
from aioremote.errors import ConnectionLost, RemoteError, TunnelRefused, UnsupportedError
from aioremote.protocols import FarProcess
from aioremote.transports.command import CommandTransport
from aioremote.transports.local import LocalTransport
from aioremote.transports.openssh.asking import Asking
from aioremote.transports.openssh.master import connect_error, find_program, warn_unchecked, write_pins
from aioremote.transports.openssh.pipes import PipeReader
from aioremote.transports.openssh.settings import plain_options
from aioremote.types import Address, Capability, Endpoint, ExitStatus, ProcessSpec

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

    from aioremote.protocols import OutputStream
    from aioremote.transports.openssh.settings import OpenSshSettings

__all__ = ["PlainOpenSshTransport"]

_FAILED = 255  # ssh's own status; also where a signal ended the program
_UNKNOWN_SIGNAL = 99
_SAID_BYTES = 16 * 1024
_CLOSE_SECONDS = 2.0
_PARTING_SECONDS = 0.5
# Source: sshconnect2.c, clientloop.c and channels.c of OpenSSH 8.5 to 10, at LogLevel=DEBUG1 (DEBUG2 for the last two).
_AUTHENTICATED = b"Authenticated to "
_HAS_STATUS = b"rtype exit-status"
_HAS_SIGNAL = b"rtype exit-signal"
_CONNECTED = b"open confirm"
_REFUSED = (b"open failed", b"forwarding failed")


class PlainOpenSshTransport(CommandTransport):
    """A host behind the system's ssh, a process for each program; with an outpost, one for all of them.

    Raises:
        AddressError, ValueError: what no host, user or port can be.
    """

    def __init__(
        self,
        host: str,
        settings: OpenSshSettings,
        *,
        user: str | None = None,
        port: int | None = None,
        outpost: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        check_host_name(host)
        if user is not None:
            check_user_name(user)
        check_port(port)
        self._ssh = _Ssh(Address("openssh", host, user, port), settings)
        super().__init__(
            self._ssh,
            (settings.program,),
            joins="shell",
            outpost=outpost,
            owns_inner=True,
            keepalive=settings.keepalive,
            keepalive_count=settings.keepalive_count,
        )
        self.address: Address = self._ssh.address

    def _be_plain(self) -> None:
        super()._be_plain()
        own = self.capabilities - {Capability.TERMINAL}
        self.capabilities: frozenset[Capability] = own | {Capability.TCP_CONNECTIONS}

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        if spec.terminal is not None and await self._is_plain():  # ssh mixes words of its own into what comes of it
            text = (
                f"{self.host}: without a master only an outpost gives a terminal: outpost='always', or leave out pty="
            )
            raise UnsupportedError(text, host=self.host)
        process = await super().start_process(spec)
        if self._plain:
            self._within.spawn(_see_its_loss(process), "loss of an ssh")
        return process

    async def open_connection(self, target: Endpoint) -> ByteStream:
        if await self._is_plain() and not target.path:
            self._check_open()
            return await self._ssh.open_connection(target)
        return await super().open_connection(target)


class _Ssh(LocalTransport):
    """This machine, on which every program is put behind an ssh.

    Args:
        address: of the host.
        settings: what every ssh is asked to be.
    """

    def __init__(self, address: Address, settings: OpenSshSettings) -> None:
        super().__init__()
        self.address: Address = address
        self._settings = settings
        self._asks = Owner(f"questions of ssh to {address.host}")

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        return await self._start(spec, spec.argv[1:], "-T", "-o", "LogLevel=DEBUG1")

    async def _start(self, spec: ProcessSpec, line: tuple[bytes, ...], *flags: str) -> _SshProcess:
        program = await find_program(self._settings.program, self.address.host)
        warn_unchecked(self._settings, self.address.host)
        road = _Road(self.address, self._settings, self._asks)
        try:
            options = plain_options(self._settings, self.address, road.directory, flags)
            argv = (os.fsencode(program), *map(os.fsencode, options), *line)
            process = await super().start_process(replace(spec, argv=argv, env=road.environment()))
        except BaseException:
            road.close()
            raise
        road.begin(process)
        return _SshProcess(process, road, self._asks)

    async def open_connection(self, target: Endpoint) -> ByteStream:
        """Connect from the far side, by ``ssh -W``.

        Raises:
            TunnelRefused: it does not come about.
            ConnectError: nobody could log in.
        """
        host = f"[{target.host}]" if ":" in target.host else target.host
        flags = ("-T", "-W", f"{host}:{target.port}", "-o", "LogLevel=DEBUG2")
        process = await self._start(ProcessSpec((b"ssh",)), (), *flags)
        try:
            is_open = await process.road.opened()
            if is_open is None:
                await process.wait()  # raises, as it did not get as far as that
            if not is_open:
                text = f"{self.address.host}: cannot connect to {target}: refused there, or forbidden"
                raise TunnelRefused(text, host=self.address.host)
        except BaseException:
            await bounded_cleanup(process.aclose(), _CLOSE_SECONDS)
            raise
        return _Connection(process, target)

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            await self._asks.aclose()


class _Road:
    """What one ssh says and asks, in a private directory until it has logged in.

    Attributes:
        directory: 0700.
    """

    def __init__(self, address: Address, settings: OpenSshSettings, owner: Owner) -> None:
        self.directory: str = tempfile.mkdtemp(prefix="aioremote-")
        self._address = address
        self._settings = settings
        self._said = b""
        self._is_up = False
        self._pid = 0
        self._answered: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        os.mkfifo(f"{self.directory}/log", 0o600)
        fifo = os.open(f"{self.directory}/log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._log = PipeReader(fifo, self._hear, _nothing)
        self._asking: Asking | None = None
        if settings.host_keys.kind == "pinned":
            write_pins(self.directory, settings.host_keys.fingerprints)
        if settings.password is not None or settings.passphrase is not None:
            self._asking = Asking(
                self.directory,
                settings,
                host=address.host,
                user=address.user or getpass.getuser(),
                owner=owner,
                is_master=lambda pid: pid == self._pid,
            )

    def environment(self) -> dict[str, bytes | None]:
        """Return what ssh is to have in its environment."""
        asks = self._asking.environment() if self._asking is not None else {}
        return {"LC_ALL": b"C", **{name: os.fsencode(value) for name, value in asks.items()}}

    def begin(self, process: FarProcess) -> None:
        """Take note of the ssh, which may ask from now on."""
        self._pid = process.pid or 0

    def _hear(self, data: bytes) -> None:
        self._said = (self._said + data)[-_SAID_BYTES:]
        if not self._is_up and _AUTHENTICATED in self._said:
            self._is_up = True
            shutil.rmtree(self.directory, ignore_errors=True)  # what ssh needs of it, it has open
        if not self._answered.done():
            if _CONNECTED in self._said:
                self._answered.set_result(True)
            elif any(words in self._said for words in _REFUSED):
                self._answered.set_result(False)

    async def opened(self) -> bool | None:
        """Wait for the answer to ``-W``; None where there will be none."""
        return await self._answered

    def judge(self, status: ExitStatus) -> ExitStatus | RemoteError:
        """Remove it, and return how the program ended, or what became of ssh instead."""
        self._log.drain()
        failure = self._asking.failure if self._asking is not None else None
        self.close()
        if status.signal is None and (status.returncode != _FAILED or _HAS_STATUS in self._said):
            return status
        if status.signal is None and _HAS_SIGNAL in self._said:
            return ExitStatus(-_UNKNOWN_SIGNAL, "UNKNOWN")
        lines = [line for line in self._said.decode("utf-8", "replace").splitlines() if not line.startswith("debug")]
        if not self._is_up:
            error = connect_error("\n".join(lines), self._address)
            error.__cause__ = failure
            return error
        host, detail = self._address.host, f" ({lines[-1].strip()})" if lines else ""
        text = f"{host}: ssh has ended before the program{detail}; no exit status came"
        return ConnectionLost(text, host=host, outcome="unknown", reason="closed")

    def close(self) -> None:
        """Remove it."""
        if not self._answered.done():
            self._answered.set_result(None)
        self._log.close()
        if self._asking is not None:
            self._asking.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class _SshProcess(FarProcess):
    """A program behind an ssh. Its end is told once what that was: the program's, or ssh's own."""

    def __init__(self, process: FarProcess, road: _Road, owner: Owner) -> None:
        self.pid: int | None = process.pid
        self.stdin: ByteSendStream | None = process.stdin
        self.stdout: OutputStream = process.stdout
        self.stderr: OutputStream | None = process.stderr
        self.status: ExitStatus | None = None
        self.noise: bytes = b""
        self.road = road
        self._process = process
        self._error: RemoteError | None = None
        self._end = owner.spawn(self._see_it_end(), "end of an ssh")

    async def _see_it_end(self) -> None:
        try:
            how = self.road.judge(await self._process.wait())
            if isinstance(how, ExitStatus):
                self.status = how
            else:
                self._error = how
        finally:
            self.road.close()

    @property
    def output_held(self) -> bool:  # type: ignore[override]
        """Whether another process still held the output open when it ended."""
        return self._process.output_held

    async def started(self) -> None:
        return

    async def wait(self) -> ExitStatus:
        await asyncio.wait({self._end})
        if self._error is not None:
            raise self._error
        assert self.status is not None
        return self.status

    def send_signal(self, name: str) -> None:
        self._process.send_signal(name)

    def end(self) -> None:
        self._process.end()

    def resize(self, columns: int, rows: int) -> None:
        self._process.resize(columns, rows)

    async def aclose(self) -> None:
        await self._process.aclose()
        await asyncio.wait({self._end})


class _Connection(StapledByteStream):
    """What ``ssh -W`` passes on."""

    def __init__(self, process: _SshProcess, peer: Endpoint) -> None:
        assert process.stdin is not None
        super().__init__(process.stdin, cast("ByteReceiveStream", process.stdout))
        self._process = process
        self._peer = peer

    async def aclose(self) -> None:
        await super().aclose()
        await bounded_cleanup(self._process.wait(), _PARTING_SECONDS)  # what was sent is on its way
        await self._process.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.remote_address: lambda: (self._peer.host, self._peer.port)}


async def _see_its_loss(process: FarProcess) -> None:
    """Wait for a program, whoever else does: where its ssh is lost, another one ends it."""
    with suppress(RemoteError):
        await process.wait()


def _nothing() -> None:
    return None
