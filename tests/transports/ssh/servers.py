"""Servers that see what a client does: one notes every credential, one stands between and changes the bytes."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from asyncssh.constants import MSG_NEWKEYS

__all__ = ["Between", "Seen", "between", "recording_server"]


@dataclass
class Seen:
    """What a recording server was shown.

    Attributes:
        port: where it listens, on 127.0.0.1.
        key: its host key.
        connections: how many clients came.
        begun: users for whom authentication began.
        passwords, keys, answers: what was offered, in order: passwords, fingerprints, keyboard-interactive answers.
        commands: what was ordered.
        live: the connections themselves, from the server's side.
    """

    port: int = 0
    key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    connections: int = 0
    begun: list[str] = field(default_factory=list[str])
    passwords: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    answers: list[list[str]] = field(default_factory=list[list[str]])
    commands: list[str] = field(default_factory=list[str])
    live: list[asyncssh.SSHServerConnection] = field(default_factory=list[asyncssh.SSHServerConnection])

    @property
    def fingerprint(self) -> str:
        return self.key.get_fingerprint()

    @property
    def secrets(self) -> list[object]:
        return [*self.begun, *self.passwords, *self.keys, *self.answers, *self.commands]

    def known_hosts(self, path: Path, *, host: str = "127.0.0.1") -> Path:
        """Write a known_hosts file for this server and return its path."""
        path.write_text(f"[{host}]:{self.port} {self.key.export_public_key().decode()}")
        return path


class _Server(asyncssh.SSHServer):
    def __init__(
        self, seen: Seen, password: str | None, prompts: list[tuple[str, bool]] | None, *, answers: bool
    ) -> None:
        self._seen = seen
        self._answers = answers
        self._password = password
        self._prompts = prompts
        seen.connections += 1

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._seen.live.append(conn)

    def begin_auth(self, username: str) -> bool:
        self._seen.begun.append(username)
        return True

    def password_auth_supported(self) -> bool:
        return self._password is not None and self._prompts is None

    def validate_password(self, username: str, password: str) -> bool:
        self._seen.passwords.append(password)
        return password == self._password

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._seen.keys.append(key.get_fingerprint())
        if not self._answers:
            await asyncio.get_running_loop().create_future()
        return False

    def kbdint_auth_supported(self) -> bool:
        return self._prompts is not None

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, list[tuple[str, bool]]]:
        return "name", "instructions", "", self._prompts or []

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        self._seen.answers.append(list(responses))
        return list(responses) == [self._password]


def _run_nothing(process: "asyncssh.SSHServerProcess[str]") -> None:
    """Answer as a far shell would that has announced itself and ends with success."""
    process.exit(0)


@contextlib.asynccontextmanager
async def recording_server(
    *,
    password: str | None = None,
    prompts: list[tuple[str, bool]] | None = None,
    certify: Callable[[asyncssh.SSHKey], asyncssh.SSHCertificate] | None = None,
    seen: Seen | None = None,
    answers: bool = True,
) -> AsyncIterator[Seen]:
    """Run a server that notes what it is shown; it takes one password, or that as the answer to its prompts.

    Without `answers` it never says whether a key will do.
    """
    seen = seen or Seen()
    host_keys = [seen.key] if certify is None else [(seen.key, certify(seen.key))]
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=host_keys,
        server_factory=lambda: _Server(seen, password, prompts, answers=answers),
        process_factory=_run_nothing,
        gss_host=None,
        config=None,
    )
    async with listener:
        seen.port = listener.get_port()
        yield seen
        listener.close()
        await listener.wait_closed()


@dataclass
class Between:
    """What stands between client and server sees and does.

    Attributes:
        port: where it listens, on 127.0.0.1.
        said: clear packets of the client and of the server, up to each one's NEWKEYS.
    """

    port: int = 0
    said: dict[str, list[bytes]] = field(default_factory=lambda: {"client": [], "server": []})


@contextlib.asynccontextmanager
async def between(
    host: str,
    port: int,
    *,
    inject: bytes = b"",
    before: int = MSG_NEWKEYS,
    piece_bytes: int = 65536,
    flip_at: int | None = None,
) -> AsyncIterator[Between]:
    """Stand between a client and a server.

    Args:
        host, port: the server.
        inject: payload of a packet that the client gets just before the server's clear packet of type `before`.
        before: see `inject`.
        piece_bytes: how much of the server's encrypted bytes the client gets at a time.
        flip_at: the encrypted byte that the client gets changed, counted from the server's NEWKEYS.
    """
    found = Between()
    changes = _Changes(inject, before, piece_bytes, flip_at)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(_relay(reader, far_writer, found.said["client"], _Changes()))
                group.create_task(_relay(far_reader, writer, found.said["server"], changes))
        for one in (writer, far_writer):
            one.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        found.port = server.sockets[0].getsockname()[1]
        yield found


@dataclass
class _Changes:
    inject: bytes = b""
    before: int = MSG_NEWKEYS
    piece_bytes: int = 65536
    flip_at: int | None = None


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: list[bytes], changes: _Changes
) -> None:
    """Relay packet by packet while they are clear (RFC 4253, section 6), then as it comes."""
    try:
        writer.write(await reader.readuntil(b"\n"))
        while not said or said[-1][0] != MSG_NEWKEYS:
            head = await reader.readexactly(5)
            length, padding = struct.unpack(">IB", head)
            body = await reader.readexactly(length - 1)
            payload = body[: length - 1 - padding]
            if changes.inject and payload[0] == changes.before:
                writer.write(clear_packet(changes.inject))
            said.append(payload)
            writer.write(head + body)
        position = 0
        while data := await reader.read(changes.piece_bytes):
            if changes.flip_at is not None and position <= changes.flip_at < position + len(data):
                at = changes.flip_at - position
                data = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            position += len(data)
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0)
    finally:
        writer.close()


def clear_packet(payload: bytes) -> bytes:
    """Return a packet as it is before encryption."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + b"\0" * padding
