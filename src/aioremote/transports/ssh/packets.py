"""AES-GCM packets in one pass.

asyncssh does this in three calls and five copies a packet, which makes most of a connection's CPU time.

Only the common case is taken over (AES-GCM both ways, no compression, no key exchange under way, a version of asyncssh
that this was tried with); everything else goes asyncssh's own way. What is written while packets are being read leaves
in one piece.

Source: RFC 5647 (AES-GCM for SSH), RFC 4253 section 6 (packets), OpenSSH PROTOCOL section 1.6 (the length is sent in
clear).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_FIRST,
    MSG_CHANNEL_LAST,
    MSG_IGNORE,
    MSG_KEX_FIRST,
    MSG_KEX_LAST,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_FIRST,
    MSG_USERAUTH_LAST,
)
from asyncssh.encryption import GCMEncryption
from asyncssh.packet import PacketDecodeError, SSHPacket, UInt32
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["FastConnection", "tried_version"]

_TRIED = "2.24."  # versions of asyncssh whose private side this knows
_TAG_BYTES = 16
_LENGTH_BYTES = 4
_LEAST_PADDING = 4


def tried_version() -> bool:
    """Whether the installed asyncssh is one whose private side this was tried with."""
    return asyncssh.__version__.startswith(_TRIED)


class _Cipher:
    """One direction's cipher, with asyncssh's own counter, so that its way of packing goes on where ours ended."""

    __slots__ = ("_aead", "_cipher")

    def __init__(self, encryption: GCMEncryption) -> None:
        self._cipher: Any = vars(encryption)["_cipher"]  # Any: asyncssh's private class
        self._aead = AESGCM(self._cipher._key)

    def seal(self, body: bytes, header: bytes) -> bytes:
        sealed = self._aead.encrypt(self._cipher._iv, body, header)
        self._cipher._update_iv()
        return sealed

    def open(self, sealed: memoryview, header: memoryview) -> bytes:
        body = self._aead.decrypt(self._cipher._iv, sealed, header)
        self._cipher._update_iv()
        return body


@functools.cache
def _cipher_kind() -> type[Any] | None:
    return GCMEncryption if tried_version() else None


class FastConnection(asyncssh.SSHClientConnection):
    """A client connection that packs and unpacks AES-GCM packets itself, and sends in bursts."""

    def __init__(self, *args: Any, **keywords: Any) -> None:  # Any: a foreign constructor's arguments
        super().__init__(*args, **keywords)
        self._burst: list[bytes] | None = None
        self._sealing: tuple[object, _Cipher | None] = (None, None)
        self._opening: tuple[object, _Cipher | None] = (None, None)

    # writing

    def _send(self, data: bytes) -> None:
        if self._burst is not None:
            self._burst.append(data)
        else:
            super()._send(data)

    def _end_burst(self) -> None:
        burst, self._burst = self._burst, None
        if burst:
            super()._send(b"".join(burst))

    def _force_close(self, exc: Exception | None) -> None:
        self._end_burst()  # a farewell may be among it
        super()._force_close(exc)

    @contextmanager
    def burst(self) -> Generator[None]:
        """Let what is sent in the block leave in one piece at its end."""
        if self._burst is not None:
            yield
            return
        self._burst = []
        try:
            yield
        finally:
            self._end_burst()

    def send_packet(self, pkttype: int, *args: Any, handler: Any = None) -> None:  # Any: bytes and views of them
        """Send a packet; without the empty one that asyncssh puts before each against attacks on CBC modes."""
        cipher = self._sealing_cipher()
        if cipher is None or self._needs_care(pkttype):
            if pkttype != MSG_IGNORE or cipher is None:
                super().send_packet(pkttype, *args, handler=self)
            return
        if pkttype == MSG_IGNORE:
            return
        padding = -(sum(map(len, args)) + 2) % self._send_blocksize
        if padding < _LEAST_PADDING:
            padding += self._send_blocksize
        body = b"".join((bytes((padding, pkttype)), *args, os.urandom(padding)))
        header = len(body).to_bytes(_LENGTH_BYTES, "big")
        self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
        self._rekey_bytes_sent: int = self._rekey_bytes_sent + len(body)
        sealed = cipher.seal(body, header)
        if self._burst is not None:
            self._burst += (header, sealed)
        else:
            self._send(header + sealed)

    def _sealing_cipher(self) -> _Cipher | None:
        encryption = self._send_encryption
        if encryption is not self._sealing[0]:
            known = type(encryption) is _cipher_kind() and not self._compressor
            self._sealing = encryption, _Cipher(encryption) if known else None  # type: ignore[arg-type]
        return self._sealing[1]

    def _needs_care(self, pkttype: int) -> bool:
        """Whether a key exchange is due or under way, or the packet has to wait for authentication."""
        return (
            not self._kex_complete
            or self._rekey_bytes_sent >= self._rekey_bytes
            or (pkttype > MSG_USERAUTH_LAST and not self._auth_complete)
            or bool(self._rekey_seconds and time.monotonic() >= self._rekey_time)
        )

    # reading

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        """Take what arrived; what is written meanwhile leaves together at the end."""
        if self._burst is not None:  # a stream that answers from within a write
            super().data_received(data, datatype)
            return
        with self.burst():
            self._inpbuf = self._inpbuf + data if self._inpbuf else data
            self._recv_data()

    def _opening_cipher(self) -> _Cipher | None:
        encryption = self._recv_encryption
        if encryption is not self._opening[0]:
            known = type(encryption) is _cipher_kind() and not self._decompressor
            self._opening = encryption, _Cipher(encryption) if known else None  # type: ignore[arg-type]
        return self._opening[1]

    def _recv_pkthdr(self) -> bool:
        cipher = self._opening_cipher()
        if cipher is None:
            return super()._recv_pkthdr()
        buffer = self._inpbuf
        view, size, position, changed = memoryview(buffer), len(buffer), 0, False
        try:
            while size - position >= _LENGTH_BYTES:
                start = position + _LENGTH_BYTES
                length = int.from_bytes(view[position:start], "big")
                if length > self._max_recv_pktlen:
                    raise asyncssh.ProtocolError("Max packet size exceeded")
                end = start + length + _TAG_BYTES
                if end > size:
                    break
                body = cipher.open(view[start:end], view[position:start])
                position = end
                if not self._take_packet(body):
                    break
                if self._opening_cipher() is not cipher:  # a key exchange has ended: the rest is for the next one
                    changed = True
                    break
        except InvalidTag:
            raise asyncssh.MACError("MAC verification failed") from None
        finally:
            view.release()
            self._inpbuf = self._inpbuf[
                position:
            ]  # what was appended meanwhile stays; a closed connection has emptied it
        return changed

    def _take_packet(self, body: bytes) -> bool:
        """Hand one packet to what it is for; returns whether the next may follow at once."""
        packet = SSHPacket(body[1 : -body[0]])
        pkttype, sequence = packet.get_byte(), self._recv_seq
        handler = self._handler_of(pkttype, packet)
        try:
            result: object = handler.process_packet(pkttype, sequence, packet)
        except PacketDecodeError as error:
            raise asyncssh.ProtocolError(str(error)) from None
        if result is not True and inspect.isawaitable(result):
            self._recv_handler = lambda: False
            task: asyncio.Task[None] = self.create_task(result)
            finish = cast(Any, self)._finish_recv_packet  # asyncssh does not say what it takes
            task.add_done_callback(functools.partial(finish, pkttype, sequence, is_async=True))
            return False
        if not result:
            self.send_packet(MSG_UNIMPLEMENTED, UInt32(sequence))
        if pkttype > MSG_USERAUTH_LAST:
            self._auth_final = True
        if self._transport:
            restart = pkttype == MSG_NEWKEYS and self._strict_kex
            self._recv_seq = 0 if restart else (sequence + 1) & 0xFFFFFFFF
        return self._transport is not None

    def _handler_of(self, pkttype: int, packet: SSHPacket) -> Any:  # Any: asyncssh's own handlers
        if pkttype > MSG_USERAUTH_LAST:
            if not self._auth_complete:
                raise asyncssh.ProtocolError("Invalid request before authentication was complete")
            if not MSG_CHANNEL_FIRST <= pkttype <= MSG_CHANNEL_LAST:
                return self
            number = packet.get_uint32()
            channel = cast(Any, self)._channels.get(number)
            if channel is None:
                raise asyncssh.ProtocolError(f"Invalid channel number {number} received")
            return channel
        handler: Any = self
        if MSG_KEX_FIRST <= pkttype <= MSG_KEX_LAST:
            handler = self._kex
        elif MSG_USERAUTH_FIRST <= pkttype <= MSG_USERAUTH_LAST:
            handler = self._auth
        if handler is None:
            raise asyncssh.ProtocolError(f"Packet type {pkttype} received out of turn")
        return handler
