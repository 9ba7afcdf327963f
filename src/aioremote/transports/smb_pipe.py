"""A named pipe behind SMB 3.1.1, always encrypted, as an asyncio transport. Not for what is said over it.

The library for SMB blocks: one thread reads the pipe, one writes it, and the library's own takes the replies apart. All
of them end once the socket is shut down, which never blocks.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from smbprotocol.connection import Connection, Dialects
from smbprotocol.exceptions import (
    EndOfFile,
    LogonFailure,
    ObjectNameNotFound,
    PasswordExpired,
    PipeBroken,
    PipeClosing,
    PipeDisconnected,
    PipeNotAvailable,
    SMBAuthenticationError,
    SMBException,
    SMBResponseException,
    WrongPassword,
)
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from aioremote.errors import AuthenticationError, ConnectError

__all__ = ["Login", "SmbPipe", "open_pipe"]

MAX_CHUNK_BYTES = 65535  # of one READ or WRITE; a pipe takes no more
MAX_FRAME_BYTES = 1 << 20  # of one reply: far above what is ever asked for
HIGH_WATER_BYTES = 256 * 1024
_UNREAD_CHUNKS = 4  # that wait for the loop
_ENCRYPTED = b"\xfdSMB"
_NOT_ALLOWED = {0xC000006E, 0xC0000072, 0xC0000193, 0xC0000234, 0xC0000224, 0xC0000022}  # restricted, disabled, locked…
_T = TypeVar("_T")


class Login:
    """Who logs in; its repr has no password."""

    def __init__(self, username: str, password: str, domain: str) -> None:
        self.name: str = f"{domain}\\{username}" if domain else username
        self.password: str = password

    def __repr__(self) -> str:
        return f"Login({self.name!r})"


class _Road:
    """The library's TCP connection, over a socket that is open already.

    Once `sealed`, a frame that is not encrypted ends it (MS-SMB2 3.2.5.1.1): it would else be believed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.connected: bool = True
        self.sealed: bool = False

    def connect(self) -> None:
        """Do nothing: it is."""

    def send(self, header: Any) -> None:  # Any: bytes, or a structure of the library
        data = header if isinstance(header, bytes) else header.pack()
        with self._lock:
            self._sock.sendall(len(data).to_bytes(4, "big") + data)

    def recv(self, timeout: float) -> bytes:
        """Return the next frame; empty at the end. Not bounded: silence is judged by the outpost's link.

        What is raised here the library first keeps, for whoever calls it next, and then closes the connection.
        """
        size = int.from_bytes(self._exactly(4), "big")
        if size > MAX_FRAME_BYTES:
            raise SMBException(f"a reply of {size} bytes")
        frame = self._exactly(size)
        if self.sealed and frame and not frame.startswith(_ENCRYPTED):
            raise SMBException("a reply that is not encrypted, on a connection that is")
        return frame

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self._sock.recv(size - len(data), socket.MSG_WAITALL)
            except OSError:
                more = b""
            if not more:
                self.close()
                return b""
            data = data + more if data else more
        return data

    def close(self) -> None:
        """Shut it down, from any thread; whoever reads or writes sees the end."""
        self.connected = False
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def dispose(self) -> None:
        """Free the descriptor; nobody reads or writes any more."""
        self._sock.close()


class _Requests(dict[int, Any]):
    """The library's worker goes through these while the writer adds one; a list does not mind."""

    def values(self) -> Any:  # Any: no view, as dict's signature wants
        return list(super().values())


if TYPE_CHECKING:

    class _Library:
        """What is used of the library's connection, which has no types."""

        def __init__(self, *args: Any, **keywords: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def receive(self, *args: Any, **keywords: Any) -> Any: ...

else:
    _Library = Connection


class _Connection(_Library):
    """The library's connection, on a road of ours."""

    def __init__(self, host: str, port: int, road: _Road) -> None:
        self._road = road
        super().__init__(uuid.uuid4(), host, port, require_signing=True)
        self.outstanding_requests: dict[int, Any] = _Requests()
        self._last_reply: Any = None  # Any: a structure of the library

    def receive(self, *args: Any, **keywords: Any) -> Any:  # Any: the library's signature
        self._last_reply = super().receive(*args, **keywords)
        return self._last_reply

    def check_login(self, session_id: int) -> None:
        """Check the signature of the reply that has ended the login.

        With encryption the library leaves that out, and would take one that is unsigned or was changed.
        Source: MS-SMB2 3.2.5.3.1, for dialect 3.1.1.
        """
        self.verify_signature(self._last_reply, session_id, force=True)

    @property
    def transport(self) -> _Road:
        return self._road

    @transport.setter
    def transport(self, made: object) -> None:
        """Keep ours, whatever the library makes."""

    def join(self) -> None:
        if self._t_worker is not None:
            self._t_worker.join()


class SmbPipe(asyncio.Transport):
    """An open pipe: one READ is always pending, unless the reader is slow, and at most one WRITE outstanding."""

    def __init__(self, connection: _Connection, handle: Any, protocol: asyncio.Protocol) -> None:  # Any: no types
        super().__init__()
        self._connection, self._handle, self._protocol = connection, handle, protocol
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._buffer = bytearray()
        self._held = self._closing = False
        self._may_read = threading.Event()
        self._may_read.set()
        self._places = threading.Semaphore(_UNREAD_CHUNKS)
        self._writer = threading.Thread(target=self._write, name="smb pipe writer", daemon=True)

    def start(self) -> None:
        """Begin: the protocol learns of its transport, and bytes flow."""
        self._protocol.connection_made(self)
        self._writer.start()
        threading.Thread(target=self._run, name="smb pipe reader", daemon=True).start()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with self._changed:
            self._buffer += data
            if len(self._buffer) > HIGH_WATER_BYTES and not self._held:
                self._held = True
                self._protocol.pause_writing()
            self._changed.notify()

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """End at once by dropping the connection: a polite CLOSE waits for the READ that is pending."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._connection.transport.close()
        self._may_read.set()
        self._places.release()

    def _tell(self, call: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop was closed before us
            self._loop.call_soon_threadsafe(call, *args)

    def _deliver(self, data: bytes) -> None:
        self._places.release()
        if not self._closing:
            self._protocol.data_received(data)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._read()
        except (EndOfFile, PipeBroken, PipeClosing, PipeDisconnected):
            pass  # the server's end has closed it
        except Exception as found:  # noqa: BLE001  # a reply that makes no sense breaks the library in any way
            error = ConnectionResetError(f"the pipe broke: {_short(found)}")
        finally:
            self.abort()
            self._writer.join()
            self._connection.join()
            self._connection.transport.dispose()
            self._tell(self._protocol.connection_lost, error)

    def _read(self) -> None:
        """Read on; where the reader is not slow, the next READ goes out before the last one's bytes are handed on."""
        asked = self._ask() if self._is_welcome(wait=True) else None
        while asked is not None:
            data = asked()
            asked = self._ask() if self._is_welcome() else None
            self._tell(self._deliver, data)
            if asked is None and self._is_welcome(wait=True):
                asked = self._ask()

    def _is_welcome(self, *, wait: bool = False) -> bool:
        """Whether one more READ may go out now, or after a while; its place is then taken."""
        if not wait and not self._may_read.is_set():
            return False
        self._may_read.wait()
        return self._places.acquire(blocking=wait) and not self._closing

    def _ask(self) -> Callable[[], bytes]:
        """Send a READ and return what waits for its answer."""
        read, take = self._handle.read(0, MAX_CHUNK_BYTES, send=False)
        tree = self._handle.tree_connect
        return partial(take, self._connection.send(read, tree.session.session_id, tree.tree_connect_id))

    def _write(self) -> None:
        try:
            while chunk := self._next():
                written = 0
                while written < len(chunk):
                    written += self._handle.write(chunk[written:])
        except Exception:  # noqa: BLE001  # as above
            self._connection.transport.close()  # the reader tells of it

    def _next(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._closing)
            if self._closing:
                return b""
            chunk = bytes(self._buffer[:MAX_CHUNK_BYTES])
            del self._buffer[:MAX_CHUNK_BYTES]
            if self._held and len(self._buffer) <= HIGH_WATER_BYTES // 2:
                self._held = False
                self._tell(self._protocol.resume_writing)
            return chunk


async def open_pipe(host: str, port: int, pipe: str, login: Login, protocol: asyncio.Protocol) -> None:
    r"""Open ``\\host\pipe\NAME`` and join it to a protocol.

    Raises:
        AuthenticationError: the login is refused, or let in as a guest only.
        ConnectError: no such pipe, or no encrypted SMB 3.1.1.
        OSError: nothing listens.

    Cancellation:
        Drops the connection, and the thread that waits on it ends.
    """
    road = _Road(await _connected(host, port))
    connection = _Connection(host, port, road)
    refused: Exception | None = None
    handle: Any = None  # Any: the library has no types
    over = threading.Event()  # nothing is freed before: after a cancel the handshake goes on until it sees the end
    try:
        handle = await _in_thread(lambda: _handshake(connection, pipe, login), over)
    except Exception as error:  # noqa: BLE001  # a reply that makes no sense breaks the library in any way
        refused = error
    finally:
        if handle is None:
            road.close()
            threading.Thread(target=_clean, args=(over, connection), name="smb pipe end", daemon=True).start()
    if refused is not None:
        raise _typed(refused, host, pipe, login)  # without a cause: the library's frames know the password
    SmbPipe(connection, handle, protocol).start()


def _clean(over: threading.Event, connection: _Connection) -> None:
    over.wait()
    connection.join()
    connection.transport.dispose()


async def _connected(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    errors: list[OSError] = []
    for family, kind, proto, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            errors.append(error)
            continue
        except BaseException:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(True)
        return sock
    raise errors[-1]


async def _in_thread(call: Callable[[], _T], over: threading.Event) -> _T:
    """Return what a blocking call does, in a thread of its own: the loop's pool may be full of others."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error is not None else done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = call()
        except Exception as found:  # noqa: BLE001  # passed on to who waits
            error = found
        over.set()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="smb handshake", daemon=True).start()
    return await done


def _handshake(connection: Any, pipe: str, login: Login) -> Any:  # Any: the library has no types
    connection.connect(Dialects.SMB_3_1_1)
    if connection.dialect != Dialects.SMB_3_1_1 or not connection.supports_encryption:
        raise SMBException("the server has no encrypted SMB 3.1.1")
    session: Any = Session(connection, login.name, login.password, require_encryption=True)
    try:
        session.connect()
    finally:
        session.password = None
    connection.transport.sealed = True
    connection.check_login(session.session_id)
    tree = TreeConnect(session, f"\\\\{connection.server_name}\\IPC$")
    tree.connect()
    handle: Any = Open(tree, pipe)
    access = FilePipePrinterAccessMask
    handle.create(
        ImpersonationLevel.Identification,  # the server may learn who we are, and not act as us
        access.FILE_READ_DATA | access.FILE_WRITE_DATA | access.SYNCHRONIZE,
        FileAttributes.FILE_ATTRIBUTE_NORMAL,
        ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE,
        CreateDisposition.FILE_OPEN,
        CreateOptions.FILE_NON_DIRECTORY_FILE,
    )
    return handle


def _typed(error: Exception, host: str, pipe: str, login: Login) -> ConnectError:
    where = f"{host}: pipe {pipe!r}"
    if isinstance(error, ObjectNameNotFound | PipeNotAvailable):
        return ConnectError(f"{where}: there is no such pipe, or nobody serves it", host=host)
    refused = isinstance(error, SMBAuthenticationError | LogonFailure | WrongPassword | PasswordExpired)
    if refused or "as a guest" in str(error):
        return AuthenticationError(f"{host}: the login of {login.name!r} is refused: {_short(error)}", host=host)
    if isinstance(error, SMBResponseException) and cast(Any, error).status in _NOT_ALLOWED:
        return AuthenticationError(f"{where}: {login.name!r} may not use it: {_short(error)}", host=host)
    return ConnectError(f"{where}: {_short(error)}", host=host)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
