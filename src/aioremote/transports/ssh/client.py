"""One ssh connection: asyncssh's client connection with our judgement of host keys and fewer round trips.

What differs from asyncssh's own: host keys are judged by `known_hosts` (an index, and off the loop where it takes long)
before any authentication begins; key files are offered with their signature at once and together with the service
request, which saves three round trips; keepalive counts unanswered questions and not the time, so that a loop that was
blocked loses nothing; nothing is logged, since asyncssh's log shows whole command lines.

What reaches into asyncssh's private side is here, in `packets`, `negotiation` and `channels`;
tests/transports/ssh/test_client.py holds it.
"""

from __future__ import annotations

import abc
import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import asyncssh
from asyncssh.auth import ClientAuth, lookup_client_auth  # private: not in asyncssh's documentation
from asyncssh.connection import SSHConnection
from asyncssh.constants import DEFAULT_LANG, DISC_BY_APPLICATION, MSG_DEBUG, MSG_KEXINIT, MSG_SERVICE_ACCEPT
from asyncssh.packet import Boolean, SSHPacket, String
from asyncssh.public_key import (
    SSHLocalKeyPair,
    SSHOpenSSHCertificate,
    decode_ssh_certificate,
    decode_ssh_public_key,
)

from aioremote.errors import HostKeyError, RemoteError
from aioremote.host_keys import HostKey
from aioremote.transports.ssh.negotiation import NegotiatingConnection
from aioremote.transports.ssh.options import shallow_copy

__all__ = ["NO_ANSWER", "Client", "Connection", "Judge"]

NO_ANSWER = "no answer to keepalive"  # the loss of a link that has fallen silent


class Judge(abc.ABC):
    """Judges host keys. `at_once` may say yes without waiting; `judge` decides, and raises HostKeyError."""

    @abc.abstractmethod
    def at_once(self, key: HostKey, authority: HostKey | None) -> bool:
        """Whether the key is known to be right, without any waiting."""

    @abc.abstractmethod
    async def judge(self, key: HostKey, authority: HostKey | None) -> None:
        """Return where the key, or the authority that signed it, is to be trusted."""


class _Silent:
    """Stands for asyncssh's logger, whose calls cost more than the work that they describe."""

    def get_child(self, child: str = "", context: str = "") -> _Silent:
        return self

    def _nothing(self, *args: object, **kwargs: object) -> None:
        return None

    debug = info = warning = error = log = debug1 = debug2 = packet = _nothing

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        return False


_SILENT: Any = _Silent()  # Any: stands for a foreign class


class Client(asyncssh.SSHClient):
    """What asyncssh tells us of a connection."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        assert isinstance(conn, Connection)
        self.connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        if self.connection is not None:
            self.connection.ended(exc)
            self.connection = None

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        assert self.connection is not None
        return self.connection.present(self.connection.certified or _host_key(key), _host_key(key))

    def auth_banner_received(self, msg: str, lang: str) -> None:
        assert self.connection is not None
        self.connection.banner += msg[: 65536 - len(self.connection.banner)]


def _host_key(key: asyncssh.SSHKey) -> HostKey:
    return HostKey(key.algorithm.decode("ascii", "replace"), key.public_data)


@functools.lru_cache(maxsize=1024)
def _plain_key(key_data: bytes) -> tuple[asyncssh.SSHKey, HostKey] | None:
    """Return a host key that is no certificate, None for anything else."""
    try:
        decode_ssh_certificate(key_data)
    except asyncssh.KeyImportError:
        pass
    else:
        return None
    try:
        key = decode_ssh_public_key(key_data)
    except asyncssh.KeyImportError:
        return None
    return key, _host_key(key)


def _nothing_more() -> bool:
    """Read no further packet."""
    return False


class _SignedAtOnce(ClientAuth):
    """Stands where a key has been offered together with its signature: what is left is to wait for the verdict."""

    def __init__(self, connection: Connection) -> None:
        self._conn = connection  # and not asyncssh's own beginning, which is a task
        self._method = b"publickey"
        self._logger = _SILENT
        self._task = None


class Connection(NegotiatingConnection):
    """A client connection that waits for its judge before it authenticates.

    Attributes:
        phase: what is being done, for error messages.
        authenticating: True from the moment that authentication has begun.
        banner: what the server said before authentication, at most 64 KiB.
        prompt: what the server asked last by keyboard-interactive; for the password provider, not for messages.
        certified: the key that the server's certificate is about; None for a plain key.
        refusal: the judge's error, None while there is none.
        loss: the error that ended the connection, None while it lives or when it was closed by us.
        on_loss: called with that error at the end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHClientConnectionOptions,
        judge: Judge,
        algorithms: Sequence[str],
    ) -> None:
        super().__init__(loop, options, wait="auth")
        self._logger = _SILENT
        self._client_keys = [shallow_copy(key) for key in self._client_keys]  # asyncssh writes the algorithm into them
        self._judge = judge
        self._known_algorithms = [name.encode() for name in algorithms]
        self._to_judge: tuple[HostKey, HostKey | None] | None = None
        self._accepted: bytes | None = None
        self._begun_early = False
        self._heard_at = 0.0
        self._asked_at = 0.0
        self._unanswered = 0
        self._watch: asyncio.TimerHandle | None = None
        self.phase: str = "waiting for the server's version"
        self.authenticating: bool = False
        self.banner: str = ""
        self.prompt: str = ""
        self.certified: HostKey | None = None
        self.refusal: RemoteError | None = None
        self.loss: Exception | None = None
        self.on_loss: Callable[[Exception | None], None] | None = None

    def give_password(self, password: object) -> None:
        """Set what authenticates by password: a str, an async function, or None. Not kept in the shared options."""
        self._password = cast("str | None", password)  # asyncssh takes functions too

    async def established(self) -> None:
        """Wait until authentication has succeeded; raises what asyncssh says otherwise."""
        options: Any = self._options
        await options.waiter

    # key exchange and host keys

    def _send_kexinit(self) -> None:
        if not self._session_id:
            self.phase = "exchanging keys"
        super()._send_kexinit()

    def _match_known_hosts(self, known_hosts: object, host: str, addr: str, port: int | None) -> None:
        """Put the key types that are known for this host first; nothing is trusted yet."""
        self._trusted_host_key_algs = list(self._known_algorithms)

    def _validate_host_key(self, host: str, addr: str, port: int, key_data: bytes) -> asyncssh.SSHKey:
        """Read a plain key once for all connections that are shown it; certificates go asyncssh's way."""
        plain = _plain_key(key_data)
        if plain is None:
            return super()._validate_host_key(host, addr, port, key_data)
        if not self.present(plain[1], None):
            raise ValueError("Host key has changed in the middle of the connection")
        return plain[0]

    def _validate_openssh_host_certificate(
        self, host: str, addr: str, port: int, cert: SSHOpenSSHCertificate
    ) -> asyncssh.SSHKey:
        """Note whose key the certificate is about; asyncssh's callback tells only of the authority."""
        self.certified = _host_key(cert.key)
        return super()._validate_openssh_host_certificate(host, addr, port, cert)

    def present(self, key: HostKey, authority: HostKey | None) -> bool:
        """Take the server's key for judgement before authentication; on a rekey it must be the same key."""
        if self._accepted is not None:
            return key.blob == self._accepted
        self.phase = "judging the host key"
        self._accepted = key.blob
        if not self._judge.at_once(key, authority):
            self._to_judge = key, authority
        return True

    async def _judge_then_authenticate(self, key: HostKey, authority: HostKey | None) -> None:
        try:
            await self._judge.judge(key, authority)
        except HostKeyError as error:
            self.refusal = error
            raise asyncssh.HostKeyNotVerifiable("host key refused") from error
        self.try_next_auth()

    # authentication

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Any
    ) -> Any:  # Any: asyncssh's own types
        """Keep the prompt for the password provider."""
        self.prompt = str(prompts[0][0]) if len(prompts) == 1 else ""
        return await super().kbdint_challenge_received(name, instructions, lang, prompts)

    def send_service_request(self, service: bytes) -> None:
        """Ask for authentication, and begin it in the same breath where the host key and our key allow."""
        super().send_service_request(service)
        if self._to_judge is None and self._accepted is not None and self._prefers_keys() and self._next_key_is_local():
            self._begun_early = True
            self._auth_in_progress = True
            self.try_next_auth()

    def _service_accepted(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if self._begun_early:
            self._next_service = None
        else:
            self._process_service_accept(pkttype, pktid, packet)

    def try_next_auth(self, *, next_method: bool = False) -> None:
        """Begin or go on with authentication, once the host key has been judged."""
        if self._to_judge is not None:
            judging, self._to_judge = self._to_judge, None
            self.create_task(self._judge_then_authenticate(*judging))
            return
        if not self.authenticating:
            self.authenticating = True
            self.phase = "authenticating"
            if self._prefers_keys():
                self._auth_methods = [b"publickey"]
        if self._auth_methods[:1] == [b"publickey"] and not next_method and self._next_key_is_local():
            if self._auth is not None:
                self._auth.cancel()
            self._offer_signed()
            return
        super().try_next_auth(next_method=next_method)

    def _prefers_keys(self) -> bool:
        first = (self._preferred_auth or [b""])[0]
        wanted = first in (b"publickey", b"gssapi-keyex", b"gssapi-with-mic")
        return wanted and bool(self._client_keys) and self._public_key_auth and not self._agent and not self._gss_auth

    def _next_key_is_local(self) -> bool:
        """Whether the next key is a plain file's, of a kind that needs no word of the server about signatures.

        An agent's or a token's may want a touch, a certificate's or RSA's depends on what the server says: one asks
        first.
        """
        if self._get_agent_keys or self._get_pkcs11_keys or not self._client_keys or self._saved_rsa_key is not None:
            return False
        key = self._client_keys[0]
        return (
            isinstance(key, SSHLocalKeyPair)
            and key.algorithm.startswith((b"ssh-ed25519", b"ecdsa-"))
            and b"-cert-" not in key.algorithm
        )

    def _take_local_key(self) -> SSHLocalKeyPair | None:
        """Return the next key that may sign at once; None where there is no fitting one."""
        while self._next_key_is_local():
            key = self._client_keys.pop(0)
            if isinstance(key, SSHLocalKeyPair) and self._choose_signature_alg(key):
                return key
        return None

    def _offer_signed(self) -> None:
        """Offer the next key together with its signature; ask first about what is no plain file's key."""
        while (key := self._take_local_key()) is not None:
            what = (Boolean(True), String(key.algorithm), String(key.public_data))
            request = self._get_userauth_request_packet(b"publickey", what)
            try:
                signature = key.sign(String(self._session_id) + request)
            except ValueError:  # a key that cannot sign: the next one
                continue
            self._auth = _SignedAtOnce(self)
            self.send_userauth_packet(request[0], request[1:], String(signature), trivial=False)
            return
        self._auth = lookup_client_auth(self, b"publickey")

    # what is said and not acted on

    def log_sent_packet(self, *args: object, **kwargs: object) -> None:
        """Nothing is logged."""

    def log_received_packet(self, *args: object, **kwargs: object) -> None:
        """Nothing is logged."""

    def _ignore_debug(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        """Pass over what the server says for debugging, a few lines for each key."""

    def _process_hostkeys_00_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        """Pass over the list of the server's other keys; known_hosts is not ours to extend by that."""
        self._report_global_response(False)

    _packet_handlers: Any = {  # noqa: RUF012  # a table, of a foreign class's functions and of this one's
        **SSHConnection._packet_handlers,
        MSG_DEBUG: _ignore_debug,
        MSG_KEXINIT: NegotiatingConnection.answer_kexinit,
        MSG_SERVICE_ACCEPT: _service_accepted,
    }

    # signs of life

    def watch(self, seconds: float, count: int) -> None:
        """Count the link as lost after `count` times `seconds` without a word from the server.

        Each question waits a whole turn for its answer, and only questions that were asked are counted: a loop that
        stood still reads what has arrived before it asks again.
        """
        turns = max(2, count)
        turn = seconds * count / turns
        self._watch = self._loop.call_later(turn, self._look, turn, turns)

    def _look(self, turn: float, turns: int) -> None:
        now = self._loop.time()
        silent = now - self._heard_at
        if self._heard_at > self._asked_at:
            self._unanswered = 0
        if silent >= turn:
            self._unanswered += 1
        if self._unanswered >= turns:
            self.connection_lost(asyncssh.ConnectionLost(NO_ANSWER))
            return
        if self._unanswered:
            self._asked_at = now
            self.create_task(self._make_keepalive_request())
        self._watch = self._loop.call_later(turn if self._unanswered else turn - silent, self._look, turn, turns)

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        """Take what arrived."""
        self._heard_at = self._loop.time()
        super().data_received(data, datatype)

    async def round_trip(self) -> bool:
        """Send a request that the server answers with a refusal; returns whether it did answer."""
        await self._make_global_request(b"keepalive@openssh.com")
        return not self.is_closed()

    # the end

    def part(self) -> bool:
        """Say farewell and let go at once. Not for calling while packets are being read.

        Returns:
            Whether everything has ended by that; False where `wait_closed` still has something to wait for.
        """
        transport = self._transport
        if transport is not None:
            for channel in list(cast(Any, self)._channels.values()):
                channel.close()
            self._send_disconnect(DISC_BY_APPLICATION, "closed", DEFAULT_LANG)
            self._transport = None
            transport.abort()
            self._cleanup(None)
        return self._close_event.is_set() and self._agent is None

    def _cleanup(self, exc: Exception | None) -> None:
        self.loss = self.loss or exc  # before the channels hear of it
        super()._cleanup(exc)
        self._recv_handler = _nothing_more  # a method of its own would keep this object for the garbage collector

    def ended(self, error: Exception | None) -> None:
        """Note how the connection ended and tell whoever listens."""
        self.loss = error
        if self._watch is not None:
            self._watch.cancel()
        if self.on_loss is not None:
            self.on_loss(error)
