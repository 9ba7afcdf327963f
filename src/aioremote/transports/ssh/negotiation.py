"""What both sides propose for a key exchange, put together and taken apart once for all connections that say the same.

A fleet's servers propose the same lists, and so do we to each of them: only the cookies differ. Everything else about
a key exchange is asyncssh's own. A rekey, GSS, and a server that guesses at the algorithm go its own way altogether.

Source: RFC 4253, section 7.1 (a byte of type, 16 of cookie, the lists).
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable
from typing import Any

import asyncssh
from asyncssh.constants import MSG_KEXINIT
from asyncssh.kex import get_kex
from asyncssh.packet import SSHPacket

from aioremote.transports.ssh.packets import FastConnection, tried_version

__all__ = ["NegotiatingConnection"]

_COOKIE_BYTES = 16
_LISTS_AT = 1 + _COOKIE_BYTES
_KEPT = 256  # of either; a fleet has as many as it has kinds of servers
_CHOSEN = (
    "_can_send_ext_info",
    "_strict_kex",
    "_enc_alg_cs",
    "_enc_alg_sc",
    "_mac_alg_cs",
    "_mac_alg_sc",
    "_cmp_alg_cs",
    "_cmp_alg_sc",
)

_proposals: dict[tuple[tuple[bytes, ...], ...], bytes] = {}  # our lists, by what they are made of
_agreements: dict[tuple[bytes, bytes], tuple[bytes, dict[str, Any]]] = {}  # key exchange and the rest, by both lists


def _keep(cache: dict[Any, Any], key: object, value: object) -> None:
    if len(cache) >= _KEPT:  # servers say what they like
        cache.clear()
    cache[key] = value


class NegotiatingConnection(FastConnection):
    """A client connection that remembers proposals and what came of them."""

    def _is_first_exchange(self) -> bool:
        return not self._session_id and not self._gss and tried_version()

    def _send_kexinit(self) -> None:
        if not self._is_first_exchange():
            super()._send_kexinit()
            return
        lists = (self._kex_algs, self._server_host_key_algs or (), self._enc_algs, self._mac_algs, self._cmp_algs)
        made_of = tuple(map(tuple, lists))
        proposal = _proposals.get(made_of)
        if proposal is None:
            super()._send_kexinit()
            _keep(_proposals, made_of, self._client_kexinit[_LISTS_AT:])
            return
        if self._rekey_seconds:
            self._rekey_time = time.monotonic() + self._rekey_seconds
        body = os.urandom(_COOKIE_BYTES) + proposal
        self._client_kexinit = bytes((MSG_KEXINIT,)) + body
        self.send_packet(MSG_KEXINIT, body)

    def answer_kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> Awaitable[None] | None:
        """Answer a key exchange without a task, since only GSS ever waits in it."""
        if self._gss_kex:
            return self._process_kexinit(pkttype, pktid, packet)
        payload = packet.get_full_payload()
        both = (payload[_LISTS_AT:], self._client_kexinit[_LISTS_AT:])
        first = self._is_first_exchange() and self._kexinit_sent and self._kex is None
        if first and self._recv_seq == 0 and both in _agreements:
            algorithm, chosen = _agreements[both]
            vars(self).update(chosen)
            self._server_kexinit = payload
            self._kexinit_sent = False
            self._kex = get_kex(self, algorithm)
            _drive(self._kex.start())
            return None
        _drive(self._process_kexinit(pkttype, pktid, packet))
        if first and self._kex is not None and not self._ignore_first_kex:
            _keep(_agreements, both, (self._kex.algorithm, {name: vars(self)[name] for name in _CHOSEN}))
        return None


def _drive(answering: Any) -> None:  # Any: asyncssh declares its coroutines as awaitables
    """Run a coroutine that never waits."""
    try:
        answering.send(None)
    except StopIteration:
        return
    answering.close()
    raise asyncssh.KeyExchangeFailed("the key exchange waited for something")
