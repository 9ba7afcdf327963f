"""This machine as a far machine: subprocesses, each in a session and process group of its own.

Every ability of the Transport seam is here, so that code written for a far host runs unchanged near. POSIX only.
One module, since a process, its streams, its terminal and its group end only together.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import shutil
import signal
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import anyio
from anyio.abc import ByteSendStream

from aioremote._core.draining import AGAIN_SECONDS, DRAIN_SECONDS, Drain
from aioremote._core.engines import check_engine
from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote._core.pieces import carry_file
from aioremote._core.streams import CHUNK_BYTES, Feed
from aioremote.errors import BusyError, ClosedError, CommandNotFound, TunnelError, TunnelRefused, file_error
from aioremote.protocols import FarProcess, FileSystem, OutputStream, Transport
from aioremote.transports.local_files import LocalFiles
from aioremote.transports.tar_files import TarFiles
from aioremote.types import Address, Capability, Endpoint, ExitStatus, ProcessSpec, Terminal

if TYPE_CHECKING:
    from anyio.abc import ByteStream, Listener

    from aioremote.errors import ConnectionLost

__all__ = ["LocalTransport"]

GRACE_SECONDS = 0.5  # between TERM and KILL
CANCEL_SECONDS = 2.0
WIDE_PIPE_BYTES = 1024 * 1024  # Source: the default of /proc/sys/fs/pipe-max-size
_LOOKS = 1000  # at output that keeps coming: more than there can be in full pipes


class _Input(ByteSendStream):
    """The near end of a child's standard input, with back-pressure."""

    def __init__(self, transport: asyncio.WriteTransport | _TerminalEnd, process: _Process) -> None:
        self._transport = transport
        self._process = process
        self._busy = False

    async def send(self, item: bytes) -> None:
        if self._busy:
            raise BusyError("somebody is writing to this standard input already")
        if self._process.stdin_closed:
            raise anyio.ClosedResourceError
        if self._transport.is_closing():
            raise anyio.BrokenResourceError
        self._busy = True
        try:
            self._transport.write(item)
            await self._process.writable()
        finally:
            self._busy = False

    async def aclose(self) -> None:
        self._process.stdin_closed = True
        self._transport.close()


class _Process(asyncio.SubprocessProtocol, FarProcess):
    """A child process as the loop's callbacks tell of it."""

    def __init__(self, owner: Owner, *, on_terminal: bool) -> None:
        self.pid: int | None = None
        self.stdin: ByteSendStream | None = None
        self._out = Feed(lambda held: self._hold(1, held))
        self._err = None if on_terminal else Feed(lambda held: self._hold(2, held))
        self.stdout: OutputStream = self._out
        self.stderr: OutputStream | None = self._err
        self.status: ExitStatus | None = None
        self.output_held: bool = False
        self.noise: bytes = b""
        self.stdin_closed = False
        self._owner = owner
        self._narrow = {0, 1, 2}  # pipes that have not been widened
        self._late_bytes = 0  # of output that has come after the process's end
        self._drain = Drain(2 * WIDE_PIPE_BYTES, most_looks=_LOOKS)
        self._open_pipes = {1} if on_terminal else {1, 2}
        self._ended = asyncio.Event()  # of the process
        self._finished = asyncio.Event()  # of the process and of its output
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._killing: asyncio.Task[None] | None = None
        self.transport: asyncio.SubprocessTransport | None = None
        self.terminal: _TerminalEnd | None = None

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if len(data) >= CHUNK_BYTES:
            self._widen(fd)
        if self.status is not None:
            self._late_bytes += len(data)
        feed = self._out if fd == 1 else self._err
        if feed is not None:
            feed.feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._can_write.set()
            return
        feed = self._out if fd == 1 else self._err
        if feed is not None:
            feed.end()
        self._open_pipes.discard(fd)
        self._check_finished()

    def _widen(self, fd: int) -> None:
        """Let more bytes wait in a pipe that was full: fewer turns of the loop for the same bytes. Linux."""
        if fd in self._narrow and self.terminal is None and self.transport is not None:
            self._narrow.discard(fd)
            pipe = self.transport.get_pipe_transport(fd)
            with suppress(AttributeError, OSError):  # no Linux, no pipe, or more than this user may have
                if pipe is not None:
                    fcntl.fcntl(pipe.get_extra_info("pipe").fileno(), fcntl.F_SETPIPE_SZ, WIDE_PIPE_BYTES)

    def pause_writing(self) -> None:
        self._widen(0)
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def process_exited(self) -> None:
        code = self.transport.get_returncode() if self.transport is not None else None
        self.status = _status(code if code is not None else -1)
        self._ended.set()
        self._can_write.set()
        if self._open_pipes:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._stop_draining)
        self._check_finished()

    def _check_finished(self) -> None:
        if self.status is not None and not self._open_pipes:
            self._finished.set()
            if self.transport is not None:
                self.transport.close()
            if self.terminal is not None:
                self.terminal.close()

    def _stop_draining(self) -> None:
        """Give up the output that another process still holds open."""
        if not self._open_pipes:
            return
        slow = self._reader_is_slow()
        if self._drain.is_over(self._late_bytes, slow=slow):
            self.output_held = True
            self._release_pipes()
        else:
            pause = DRAIN_SECONDS if slow else AGAIN_SECONDS
            asyncio.get_running_loop().call_later(pause, self._stop_draining)

    def _reader_is_slow(self) -> bool:
        """Whether it is our own reader that is slow, so that the end of output cannot be known yet."""
        return self._out.holding or (self._err is not None and self._err.holding)

    def _release_pipes(self) -> None:
        for fd in list(self._open_pipes):
            self.pipe_connection_lost(fd, None)
        if self.terminal is not None:
            self.terminal.close()
        if self.transport is not None:
            self.transport.close()

    def _hold(self, fd: int, held: bool) -> None:  # noqa: FBT001  # a Feed's callback
        if self.terminal is not None:
            self.terminal.hold(held=held)
            return
        pipe = self.transport.get_pipe_transport(fd) if self.transport is not None else None
        pipe = cast("asyncio.ReadTransport | None", pipe)
        if pipe is not None and not pipe.is_closing():
            pipe.pause_reading() if held else pipe.resume_reading()

    async def writable(self) -> None:
        """Wait until the input pipe takes more."""
        await self._can_write.wait()
        if self.status is not None:
            raise anyio.BrokenResourceError

    # FarProcess

    async def started(self) -> None:
        return

    async def wait(self) -> ExitStatus:
        await self._finished.wait()
        if self._killing is not None and self._owner.closing:
            raise ClosedError("localhost: the machine was closed while the command ran", host="localhost")
        return cast(ExitStatus, self.status)

    def send_signal(self, name: str) -> None:
        if self.status is None:
            self._signal_group(_signal_number(name))

    def _signal_group(self, number: int) -> bool:
        if self.pid is None:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # members of another user: there are some
            return True
        return True

    def end(self) -> None:
        if self.status is None and self._killing is None:
            self._killing = self._owner.spawn(self._end_tree(), f"end of {self.pid}")

    async def _end_tree(self) -> None:
        # The kernel tells no one when a group is empty, so this asks; it is a matter of a few looks.
        if self._signal_group(signal.SIGTERM):
            pause, loop = 0.002, asyncio.get_running_loop()
            end = loop.time() + GRACE_SECONDS
            while loop.time() < end and self._signal_group(0):
                await asyncio.sleep(min(pause, max(0.0, end - loop.time())))
                pause = min(0.05, pause * 2)
        self._signal_group(signal.SIGKILL)
        await self._ended.wait()

    def resize(self, columns: int, rows: int) -> None:
        if self.terminal is not None:
            self.terminal.resize(columns, rows)

    async def aclose(self) -> None:
        try:
            if self.status is None:
                self.end()
            if self._killing is not None:
                await asyncio.wait({self._killing})
            await self._ended.wait()
        finally:
            self._release_pipes()


class _TerminalEnd:
    """The near end of a pseudo-terminal. Read and written by descriptor: libuv's pipes do not work on one."""

    def __init__(self, master: int, process: _Process) -> None:
        os.set_blocking(master, False)
        self._loop = asyncio.get_running_loop()
        self._master: int | None = master
        self._process = process
        self._waiting = bytearray()
        self._loop.add_reader(master, self._read)

    def _read(self) -> None:
        if self._master is None:
            return
        try:
            data = os.read(self._master, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last program has closed it
            data = b""
        if data:
            self._process.pipe_data_received(1, data)
        else:  # closed only after the program's end: closing hangs up on it, and it may still be about to exit
            self._loop.remove_reader(self._master)
            self._process.pipe_connection_lost(1, None)

    def hold(self, *, held: bool) -> None:
        """Stop reading, or go on."""
        if self._master is not None:
            self._loop.remove_reader(self._master)
            if not held:
                self._loop.add_reader(self._master, self._read)

    def write(self, data: bytes) -> None:
        """Queue what is typed."""
        idle = not self._waiting
        self._waiting += data
        if idle:
            self._flush()

    def _flush(self) -> None:
        if self._master is None:
            return
        try:
            del self._waiting[: os.write(self._master, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()
        self._loop.remove_writer(self._master)
        if self._waiting:
            self._loop.add_writer(self._master, self._flush)
            self._process.pause_writing()
        else:
            self._process.resume_writing()

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        if self._master is not None:
            termios.tcsetwinsize(self._master, (rows, columns))

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._master is None

    def close(self) -> None:
        """Close it; what was not typed yet is lost."""
        if self._master is not None:
            master, self._master = self._master, None
            self._loop.remove_reader(master)
            self._loop.remove_writer(master)
            os.close(master)


class _TerminalInput(_Input):
    """Standard input of a program on a terminal: its end of file is a typed character."""

    async def send(self, item: bytes) -> None:
        self._at_line_start = item.endswith(b"\n") if item else self._at_line_start
        await super().send(item)

    async def aclose(self) -> None:
        if not self._process.stdin_closed and self._process.status is None:
            self._process.stdin_closed = True  # in the middle of a line, the first one only hands the line over
            self._transport.write(b"\x04" if self._at_line_start else b"\x04\x04")

    _at_line_start = True


def _signal_number(name: str) -> int:
    try:
        return signal.Signals[f"SIG{name.removeprefix('SIG')}"]
    except KeyError:
        raise ValueError(f"no signal named {name!r}: give a name such as 'TERM' or 'INT'") from None


def _status(code: int) -> ExitStatus:
    if code >= 0:
        return ExitStatus(code)
    try:
        return ExitStatus(code, signal.Signals(-code).name.removeprefix("SIG"))
    except ValueError:  # a real-time signal without a name
        return ExitStatus(code, str(-code))


class LocalTransport(Transport):
    """Runs on this machine. Needs no connection; `aclose` ends what it started."""

    def __init__(self) -> None:
        self.address: Address = Address("local")
        self.capabilities: frozenset[Capability] = frozenset(Capability)
        self._owner: Owner | None = None
        self._processes: set[_Process] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ended: asyncio.Future[None] | None = None
        self._pid = os.getpid()

    def _leave_if_forked(self) -> None:
        """Let go of what the process that forked this one has started: it ends that itself."""
        if self._pid != os.getpid():
            self._owner = self._ended = None
            self._processes, self._starting, self._pid = set(), set(), os.getpid()

    def _own(self) -> Owner:
        self._leave_if_forked()
        if self._closed:
            raise ClosedError("this local machine was closed", host="localhost")
        if self._owner is None:
            self._owner = Owner("local machine")
        return self._owner

    async def connect(self) -> None:
        self._own()

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        process = _Process(self._own(), on_terminal=spec.terminal is not None)
        spawning = self._own().spawn(self._spawn(process, spec), f"start of {spec.argv[0]!r}")
        self._starting.add(spawning)
        spawning.add_done_callback(self._starting.discard)
        try:
            await asyncio.wait({spawning})
        except asyncio.CancelledError:  # asyncio would end the program alone, and wait for what it has started
            await bounded_cleanup(_undo(spawning, process), CANCEL_SECONDS)
            raise
        self._own().failures.clear()  # told below
        if isinstance(error := spawning.exception(), OSError):
            raise _start_error(error, spec) from error
        spawning.result()
        self._processes = {known for known in self._processes if known.status is None}
        return process

    async def _spawn(self, process: _Process, spec: ProcessSpec) -> None:
        if spec.terminal is None:
            await self._spawn_plain(process, spec)
        else:
            await self._spawn_on_terminal(process, spec, spec.terminal)
        assert process.transport is not None
        process.pid = process.transport.get_pid()
        self._processes.add(process)

    async def _spawn_plain(self, process: _Process, spec: ProcessSpec) -> None:
        pipe, empty = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        await _spawn(process, spec.argv, spec, pipe if spec.stdin else empty, pipe, pipe)
        if spec.stdin and process.transport is not None:
            writer = cast(asyncio.WriteTransport, process.transport.get_pipe_transport(0))
            process.stdin = _Input(writer, process)

    async def _spawn_on_terminal(self, process: _Process, spec: ProcessSpec, terminal: Terminal) -> None:
        path = (spec.env.get("PATH") or os.fsencode(os.environ.get("PATH", os.defpath))).decode(
            errors="surrogateescape"
        )
        if shutil.which(os.fsdecode(spec.argv[0]), path=path) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), spec.argv[0])
        master, slave = pty.openpty()
        process.terminal = _TerminalEnd(master, process)
        try:
            termios.tcsetwinsize(slave, (terminal.rows, terminal.columns))
            name = os.fsencode(os.ttyname(slave))
            # A session leader that opens a terminal gets it as its controlling one: no code between fork and exec.
            argv = (b"/bin/sh", b"-c", b'exec <>"$0" >&0 2>&0 && exec "$@"', name, *spec.argv)
            none = asyncio.subprocess.DEVNULL
            # The slave goes into the child as well, or the master would read an end at once.
            await _spawn(process, argv, _with_term(spec, terminal), slave, none, none)
        except BaseException:
            process.terminal.close()
            raise
        finally:
            os.close(slave)
        process.stdin = _TerminalInput(process.terminal, process)
        if not spec.stdin:
            await process.stdin.aclose()

    async def open_connection(self, target: Endpoint) -> ByteStream:
        self._own()
        try:
            if target.path:
                return await anyio.connect_unix(target.path)
            return await anyio.connect_tcp(target.host, target.port)
        except OSError as error:
            if _is_refusal(error):
                raise TunnelRefused(f"localhost: {target} refuses connections", host="localhost") from error
            raise TunnelError(f"localhost: cannot connect to {target}: {error}", host="localhost") from error

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        self._own()
        try:
            if bind.path:
                return await anyio.create_unix_listener(bind.path)
            return await anyio.create_tcp_listener(local_host=bind.host, local_port=bind.port)
        except OSError as error:
            raise TunnelError(f"localhost: cannot listen on {bind}: {error}", host="localhost") from error

    async def open_files(self, engine: str = "auto") -> FileSystem:
        check_engine(engine, ("auto", "local", "tar"), host="localhost")
        self._own()
        return TarFiles(self, "localhost") if engine == "tar" else LocalFiles()

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        self._own()
        files = LocalFiles()
        await carry_file(files, os.fsencode(remote_path), files, os.fsencode(local_path))

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        await self.getfile(local_path, remote_path)

    async def ping(self) -> float:
        self._own()
        return 0.0

    async def wait_lost(self) -> ConnectionLost | None:
        ended = self._ended = self._ended or asyncio.get_running_loop().create_future()
        if not self._closed:
            await asyncio.wait({ended})
        return None

    async def aclose(self) -> None:
        self._leave_if_forked()
        self._closed = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if self._owner is not None:
            self._owner.closing = True
        if self._starting:  # a start that is cancelled half-way may leave its program behind
            await bounded_cleanup(asyncio.wait(set(self._starting)), CANCEL_SECONDS)
        running = [process for process in self._processes if process.status is None]
        for process in running:
            process.end()
        for process in running:
            await process.aclose()
        if self._owner is not None:
            await self._owner.aclose()

    def abort(self) -> None:
        self._leave_if_forked()
        self._closed = True
        for process in self._processes:
            if process.status is None:
                process.send_signal("KILL")


async def _undo(spawning: asyncio.Task[None], process: _Process) -> None:
    await asyncio.wait({spawning})
    if not spawning.cancelled() and spawning.exception() is None:
        await process.aclose()


def _is_refusal(error: BaseException | None) -> bool:
    """Whether nothing listened there; anyio wraps what each address of a name said."""
    if isinstance(error, BaseExceptionGroup):
        parts = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(_is_refusal(part) for part in parts)
    return isinstance(error, ConnectionRefusedError) or (error is not None and _is_refusal(error.__cause__))


def _with_term(spec: ProcessSpec, terminal: Terminal) -> ProcessSpec:
    return ProcessSpec(spec.argv, spec.cwd, {"TERM": terminal.term.encode(), **spec.env}, spec.terminal, spec.stdin)


async def _spawn(
    process: _Process, argv: tuple[bytes, ...], spec: ProcessSpec, stdin: int, stdout: int, stderr: int
) -> None:
    loop = asyncio.get_running_loop()
    # uvloop leaves its own copies of the three streams open in the program, which then never ends them.
    before_exec = None if isinstance(loop, asyncio.BaseEventLoop) else _keep_three
    await loop.subprocess_exec(
        lambda: process,
        *argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=spec.cwd,
        env=_environment(spec),
        start_new_session=True,
        preexec_fn=before_exec,
    )


def _keep_three() -> None:
    """Have all descriptors but the standard ones closed by exec; runs between fork and exec."""
    for number in map(int, os.listdir("/dev/fd")):
        if number > 2:
            with suppress(OSError):  # that of the listing
                os.set_inheritable(number, False)


def _environment(spec: ProcessSpec) -> dict[bytes, bytes] | None:
    if not spec.env:
        return None
    environment = dict(os.environb)
    for name, value in spec.env.items():
        if value is None:
            environment.pop(os.fsencode(name), None)
        else:
            environment[os.fsencode(name)] = value
    return environment


def _start_error(error: OSError, spec: ProcessSpec) -> Exception:
    name = os.fsencode(error.filename) if isinstance(error.filename, (str, bytes)) else b""
    if spec.cwd is not None and name in (spec.cwd, b"") and not os.path.isdir(spec.cwd):  # uvloop tells no name
        return file_error(error.errno or errno.ENOENT, os.fsdecode(spec.cwd), host="localhost")
    if isinstance(error, FileNotFoundError):
        path = (spec.env.get("PATH") or os.fsencode(os.environ.get("PATH", os.defpath))).decode(
            errors="surrogateescape"
        )
        cmd = [os.fsdecode(arg) for arg in spec.argv]
        return CommandNotFound([cmd[0]], host="localhost", cmd=cmd, path=path.split(":"))
    return file_error(error.errno or 0, os.fsdecode(name or spec.argv[0]), host="localhost")
