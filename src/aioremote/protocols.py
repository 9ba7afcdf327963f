"""The seams: what a transport is, what a machine is, and what passes between them.

Read this first. A transport knows how bytes and processes reach a host and nothing of commands; a machine offers
commands, files and tunnels over any transport. Implementations subclass these protocols explicitly, and
`aioremote.testing` holds the conformance checks that each must pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import os
    from pathlib import PureWindowsPath

    from anyio.abc import ByteSendStream, ByteStream, Listener

    from aioremote._core.pieces import Listed, Piece, Tally, TreeOptions
    from aioremote.errors import ConnectionLost
    from aioremote.types import Address, Capability, Endpoint, ExitStatus, FileEntry, FileStat, ProcessSpec

__all__ = [
    "DeltaFiles",
    "DeltaSource",
    "FarFile",
    "FarProcess",
    "FileSystem",
    "OutputStream",
    "PasswordProvider",
    "PasswordRequest",
    "SessionTransport",
    "Starter",
    "Transport",
    "Unless",
]

Unless = Callable[[bytes], Awaitable[bool]]
"""Asked with a digest; see `FileSystem.list_tree`."""


class OutputStream(Protocol):
    """What a far process writes: an `anyio.abc.ByteReceiveStream` that can also be diverted to a plain function."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return 1 to `max_bytes` bytes; anyio.EndOfStream after the last, ConnectionLost where the link ended."""
        ...

    def divert(self, sink: Callable[[bytes], None], on_end: Callable[[], None] | None = None) -> None:
        """Pass all bytes to `sink` from now on, without tasks, and call `on_end` once after the last."""
        ...

    def raise_limit(self, max_bytes: int) -> None:
        """Let up to `max_bytes` wait for a reader before the source is held back."""
        ...

    def set_hold(self, held: bool) -> None:  # noqa: FBT001  # its only argument
        """Hold the source back while a diverting reader is slow."""
        ...

    async def aclose(self) -> None:
        """Drop what waits and what still comes."""
        ...


class FarProcess(Protocol):
    """A process that a transport has started.

    `start_process` returns as soon as the far side has taken the order; `started` tells whether the program itself
    began. Leaving it to itself is not possible: whoever starts one either sees it finish or calls `aclose`.

    Attributes:
        pid: the far process id (and process group); None until `started` has returned.
        stdin: None where the spec said ``stdin=False``. Its `aclose` is the end of input.
        stdout: also carries stderr where there is a terminal.
        stderr: None where there is a terminal.
        status: how it ended, None while it runs or when the link was lost.
        output_held: True when the process has ended while another one still held its output open (after a grace time).
        noise: what login files printed before the program began, the last 64 KiB; known when `started` has returned.
        escaped: processes that had left the session of a tree when it was ended, and live on; sorted. Known where an
            outpost runs the program on Linux; else always empty.
    """

    escaped: tuple[int, ...] = ()
    pid: int | None
    stdin: ByteSendStream | None
    stdout: OutputStream
    stderr: OutputStream | None
    status: ExitStatus | None
    output_held: bool
    noise: bytes

    async def started(self) -> None:
        """Wait until the far side has said that the program begins.

        Raises:
            FileError: the directory in the spec cannot be entered; nothing ran.
            CommandNotFound: where this is known before the program starts.
            ConnectionLost: the link ended first.
        """
        ...

    async def wait(self) -> ExitStatus:
        """Wait for the end of the process and of its output.

        Raises:
            ConnectionLost: the link ended first; there is no status and no signal.
            FileError, CommandNotFound: as from `started`.
        """
        ...

    def send_signal(self, name: str) -> None:
        """Ask for a signal to the process group, by its name without SIG. Does nothing after the end."""
        ...

    def end(self) -> None:
        """Ask for the end of the whole tree: TERM, half a second, KILL. Does nothing after the end."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its new size in characters."""
        ...

    async def aclose(self) -> None:
        """End the tree if it still runs, and return when the far side has confirmed it and everything is released."""
        ...


class FarFile(Protocol):
    """An open far file. Several reads and writes may be under way at once. Errors as those of `FileSystem`."""

    async def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, fewer only where the file ends."""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`; at the end where it was opened with O_APPEND."""
        ...

    async def stat(self) -> FileStat:
        """Return what is known of the file."""
        ...

    async def truncate(self, size: int) -> None:
        """Give the file another size."""
        ...

    async def sync(self) -> None:
        """Return when the far disk has the content, where the far side can tell."""
        ...

    async def aclose(self) -> None:
        """Close it. May be called twice."""
        ...


class FileSystem(Protocol):
    """The files of one machine, as one engine reaches them.

    Paths and names are bytes without NUL; a relative path is below the login's directory. Errors are FileError, with
    errno and path, and the matching OSError; ConnectionLost where the link ended; UnsupportedError for what this
    engine cannot do, before anything is sent. Single operations are not repeated; after a cancel they may have been
    done.

    Attributes:
        engine: its name in a `TransferReport`.
    """

    engine: str

    # single operations

    async def exists(self, path: bytes) -> bool:
        """Whether the path exists; a link that leads nowhere does not."""
        ...

    async def stat(self, path: bytes, *, follow: bool = True) -> FileStat:
        """Return what is known of a file; with ``follow=False`` of a link itself."""
        ...

    def scan(self, path: bytes) -> AsyncGenerator[Sequence[FileEntry]]:
        """Yield all entries of a directory but "." and "..", in batches, in no order. Close it where left early.

        Names are as the far side tells them: whoever makes near names of them has to judge them.
        """
        ...

    async def open(self, path: bytes, flags: int, mode: int = 0o666) -> FarFile:
        """Open a file.

        Args:
            path: the file.
            flags: those of `os.open`, of near value: O_RDONLY, O_WRONLY or O_RDWR, with O_CREAT, O_EXCL, O_TRUNC and
                O_APPEND.
            mode: permissions of a new file, less the far umask.
        """
        ...

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        """Make one directory; `mode` less the far umask."""
        ...

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        ...

    async def unlink(self, path: bytes) -> None:
        """Remove one file or link."""
        ...

    async def rename(self, path: bytes, target: bytes) -> None:
        """Give a file or directory another place, replacing what is there as the system call does."""
        ...

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set the permissions, those of what a link leads to."""
        ...

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool = True) -> None:
        """Set owner and group by number; -1 leaves one as it is."""
        ...

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None = None) -> None:
        """Set the times of access and change in nanoseconds; None for now."""
        ...

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link at `path`; `target` is its exact text."""
        ...

    async def link(self, target: bytes, path: bytes) -> None:
        """Make a further name at `path` for the file `target`."""
        ...

    async def readlink(self, path: bytes) -> bytes:
        """Return the exact text of a link."""
        ...

    async def realpath(self, path: bytes) -> bytes:
        """Return the absolute path without links; the last part need not exist."""
        ...

    # whole trees: an engine sees what is coming, and needs no round trip for each file

    async def remove_tree(self, path: bytes) -> None:
        """Remove a directory with all that is in it, never following links out of it."""
        ...

    def list_tree(self, root: bytes, *, unless: Unless | None = None) -> AsyncGenerator[Sequence[Listed]]:
        """Yield all that is below a directory, in batches; a directory comes before what is in it.

        `unless` may be asked first, with the tree's digest (`outpost.far.tree_lister.TreeDigest`): where it returns
        True nothing is yielded.

        One round trip, or as few as the engine can. `root` itself may be a link, no other is followed. A directory that
        cannot be listed comes again, with its error. Names are as the far side tells them. Close it where left early.
        """
        ...

    async def digests(self, paths: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return the SHA-256 of files, computed where they are; one round trip, or as few as the engine can.

        None for what is no file, cannot be read or, without a far program that can, hashed.
        """
        ...

    def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        """Yield a file or a tree as pieces, in batches, reading ahead within bounds. Close it where left early.

        Directories come before what is in them; the pieces of one file in their order, those of several may alternate.
        `root` itself may be a link, no other is followed. Pipes, sockets and devices are never opened: they go to
        ``tally.skipped``.

        Raises:
            FileChanged: a file changed while it was read.
        """
        ...

    def read_files(self, root: bytes, chosen: Sequence[tuple[bytes, FileStat]]) -> AsyncGenerator[Sequence[Piece]]:
        """Yield chosen files of a tree as `read_tree` does, each with what was listed of it.

        Names come back as the far side tells them: whoever writes has to compare them with what was asked for.

        Raises:
            FileChanged: a file is not what was listed any more, by size and time of change.
        """
        ...

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        """Write the pieces of a file or tree to `root`, each file beside its target first, then in its place.

        The pieces have been through `checked`. No link below `root` is followed. Where the pieces, the writing or the
        caller's cancel end this early, whole files stay, no part of another is left.
        """
        ...

    async def deltas(self) -> DeltaFiles | None:
        """Return what brings changed files up to date by their differences; None where this engine cannot."""
        return None


class DeltaFiles(Protocol):
    """Sends of a changed file only what the other side has not: sums of the old one, orders that make the new one.

    Sums and orders are those of `outpost.far.block_sums` and `patching`; nobody trusts those of another side.
    """

    async def sums(self, root: bytes, path: bytes, size: int, block: int) -> bytes:
        """Return the sums of a file below `root` by blocks of that size; b"" where it is not as it was.

        Raises:
            RemoteError: the far side tells other than so many bytes as there have to be.
        """
        ...

    async def begin(self, path: bytes, size: int, old_size: int, block: int) -> DeltaSource:
        """Begin to read a new file of `size` bytes, whose old one has `old_size`.

        Raises:
            FileChanged: it has another size.
        """
        ...

    async def patch(self, root: bytes, path: bytes, found: FileStat, orders: AsyncIterator[Sequence[bytes]]) -> bool:
        """Make a new file of the old one below `root`, beside it, with the source's times and permissions.

        Returns:
            Whether it has the old one's place now; False where the orders do not lead to the source, and all is as it
            was.

        Cancellation: the old file stays, no part of another is left.
        """
        ...


class DeltaSource(Protocol):
    """A new file that is being read."""

    def orders(self, sums: bytes) -> AsyncGenerator[Sequence[bytes]]:
        """Yield the orders that make it of the old one, in batches. Close it where left early.

        Raises:
            FileChanged: the file is not as it was.
        """
        ...

    async def aclose(self) -> None:
        """Give it up. May be called twice."""
        ...


class Starter(Protocol):
    """The part of a Transport that starts programs: all that running needs."""

    async def connect(self) -> None:
        """Bring the connection up, or return at once where it is."""
        ...

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        """Start a program, as `Transport.start_process`."""
        ...


class Transport(Protocol):
    """One way in which bytes and processes reach a host.

    Attributes:
        address: where it leads; holds no secret.
        capabilities: what it can do. Anything else raises UnsupportedError before anything is sent.
        paths: how paths are written there.
    """

    address: Address
    capabilities: frozenset[Capability]
    paths: type[PurePosixPath | PureWindowsPath] = PurePosixPath

    async def connect(self) -> None:
        """Bring the connection up, or return at once where it is. Tasks that call this together share one connect."""
        ...

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        """Start a program.

        Cancellation: nothing is left behind; what the far side had already started is ended.
        """
        ...

    async def open_connection(self, target: Endpoint) -> ByteStream:
        """Connect from the far side to `target`. TunnelError (TunnelRefused) where that fails."""
        ...

    async def open_listener(self, bind: Endpoint) -> Listener[ByteStream]:
        """Listen on the far side. Port 0 picks one: ``listener.extra(anyio.abc.SocketAttribute.local_port)``."""
        ...

    async def open_files(self, engine: str = "auto") -> FileSystem:
        """Return the far files.

        Args:
            engine: how to reach them: "sftp", "outpost", "tar", "local"; "auto" for this road's best.

        Raises:
            ValueError: there is no such engine.
            UnsupportedError: this road does not have it.
        """
        ...

    async def getfile(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        """Copy one far file here by this road's own best means."""
        ...

    async def putfile(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        """Copy one near file there by this road's own best means."""
        ...

    async def ping(self) -> float:
        """Return the seconds that one round trip takes."""
        ...

    async def wait_lost(self) -> ConnectionLost | None:
        """Wait until the connection is lost, and return what is known of that; None where it was closed here.

        A transport that cannot be lost may leave this as it is: it waits for ever.
        """
        await asyncio.Event().wait()
        return None

    async def reconnect(self) -> None:
        """Connect again where the connection was lost; otherwise as `connect`."""
        await self.connect()

    async def aclose(self) -> None:
        """End every far process of this transport and release everything. May be called twice."""
        ...

    def abort(self) -> None:
        """Drop the connection at once, without waiting for anything."""
        ...


class SessionTransport(Transport, Protocol):
    """A transport whose connection has sessions that may run out: what an outpost can take commands over from."""

    async def start_unless_full(self, spec: ProcessSpec) -> FarProcess | None:
        """Start a program where a session is free now; None where the server gives none, and nothing ran."""
        ...

    def another(self) -> Transport:
        """Return a transport to the same host that will have a connection of its own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordRequest:
    """What a password is wanted for.

    Attributes:
        host: the machine's name, as it was given.
        user: the login.
        prompt: what the far side asked, "" where it did not say.
        attempt: 1 for the first time.
    """

    host: str
    user: str
    prompt: str = ""
    attempt: int = 1


PasswordProvider = Callable[[PasswordRequest], Awaitable[str]]
"""An async function that returns a password when one is needed."""
