"""One private master: an ssh(1) of our own that does nothing but hold a connection and its control socket.

It ends with this process, however that ends: a shell beside it waits for the end of a pipe that is open here. The only
place where ssh's words are read.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import shutil
import signal
import tempfile
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from aioremote._core.lifetime import Owner, bounded_cleanup
from aioremote.errors import (
    AddressError,
    AuthenticationError,
    ConfigError,
    ConnectError,
    ConnectTimeout,
    HostKeyError,
    UnsupportedError,
)
from aioremote.host_keys import InsecureHostKeyWarning
from aioremote.transports.openssh.asking import Asking
from aioremote.transports.openssh.pipes import PipeReader
from aioremote.transports.openssh.settings import MAX_CONTROL_PATH, check_control_path, master_options

if TYPE_CHECKING:
    from aioremote.transports.openssh.settings import OpenSshSettings
    from aioremote.types import Address

__all__ = ["Master", "connect_error", "find_program", "start_master", "warn_unchecked", "write_pins"]

OLDEST = (8, 5)  # KnownHostsCommand; SSH_ASKPASS_REQUIRE came with 8.4
_SAID_BYTES = 4000
_GRACE_SECONDS = 1.0
_VERSION = re.compile(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

# Starts ssh and tells its process id; ends it when the input ends, which is open here and nowhere else, and removes $1.
_KEEPER = """
directory=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
ssh=$!
echo "pid $ssh"
{ read -r word <&3; kill "$ssh"; } >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$ssh"; status=$?
kill "$watch" 2>/dev/null
rm -rf "$directory"
exit "$status"
"""
_PINNED = """#!/bin/sh
case " {pins} " in *" $1 "*) printf '* %s %s\\n' "$2" "$3" ;; esac
"""
_versions: dict[str, tuple[int, int]] = {}


async def start_master(address: Address, settings: OpenSshSettings) -> Master:
    """Start a master and wait until it can be asked.

    Raises:
        ConnectError: one of its kinds; nothing has run.
        UnsupportedError: there is no ssh here, or it is too old.
    """
    program = await find_program(settings.program, address.host)
    warn_unchecked(settings, address.host)
    master = Master(address, settings)
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await master.start(program)
    except TimeoutError as error:
        await master.aclose()
        text = f"{address.host}: no connection within {settings.connect_timeout:g} s"
        raise ConnectTimeout(text, host=address.host) from error
    except BaseException:
        await master.aclose()
        raise
    return master


def warn_unchecked(settings: OpenSshSettings, host: str) -> None:
    """Warn where anybody may be at the other end."""
    if settings.host_keys.kind == "insecure_no_check":
        text = f"{host}: the host key is not checked; anybody may be at the other end"
        warnings.warn(text, InsecureHostKeyWarning, stacklevel=3)


async def find_program(name: str, host: str) -> str:
    """Return the path of an ssh that is new enough."""
    path = shutil.which(name)
    if path is None:
        raise UnsupportedError(f"{host}: there is no program {name!r} on this machine", host=host)
    if path not in _versions:
        process = await asyncio.create_subprocess_exec(
            path,
            "-V",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            await bounded_cleanup(process.wait(), _GRACE_SECONDS)
            raise
        found = _VERSION.search(said.decode("utf-8", "replace"))
        if found is None:
            raise UnsupportedError(f"{host}: {path} is no OpenSSH: {said[:100].decode(errors='replace')!r}", host=host)
        _versions[path] = (int(found[1]), int(found[2]))
    if _versions[path] < OLDEST:
        version, oldest = (".".join(map(str, numbers)) for numbers in (_versions[path], OLDEST))
        raise UnsupportedError(f"{host}: {path} is OpenSSH {version}, too old: {oldest} is needed", host=host)
    return path


def _short_directory() -> str:
    """Make a directory that only this user can enter, with a path that is short enough for a control socket."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108  # made private below
    longest = MAX_CONTROL_PATH - len("/aioremote-12345678/m")
    for place in places:
        if os.path.isabs(place) and len(os.fsencode(place)) <= longest and os.access(place, os.W_OK | os.X_OK):
            return tempfile.mkdtemp(prefix="aioremote-", dir=place)
    check_control_path(f"{places[1]}/aioremote-12345678/m")
    raise ConfigError(f"no directory for a control socket can be made below {places[1]}")


class Master:
    """A private master.

    Attributes:
        directory: its own, 0700; removed with it.
        path: of its control socket.
    """

    def __init__(self, address: Address, settings: OpenSshSettings) -> None:
        self.directory: str = _short_directory()
        self.path: str = f"{self.directory}/m"
        self._address = address
        self._settings = settings
        self._owner = Owner(f"OpenSSH master for {address.host}")
        self._process: asyncio.subprocess.Process | None = None
        self._pid = 0
        self._leash: int | None = None  # whose closing ends the master
        self._pipes: list[PipeReader] = []
        self._said = b""
        self._told = b""
        self._up: asyncio.Future[None] | None = None
        self._asking: Asking | None = None

    async def start(self, program: str) -> None:
        """Start it and wait until it is up."""
        address, settings = self._address, self._settings
        arguments = [program, *master_options(settings, address, self.directory)]
        if settings.host_keys.kind == "pinned":
            write_pins(self.directory, settings.host_keys.fingerprints)
        environment = {**os.environ, "LC_ALL": "C"}
        if settings.password is not None or settings.passphrase is not None:
            user = address.user or getpass.getuser()
            self._asking = Asking(
                self.directory,
                settings,
                host=address.host,
                user=user,
                owner=self._owner,
                is_master=lambda pid: pid == self._pid,
            )
            environment.update(self._asking.environment())
        self._up = asyncio.get_running_loop().create_future()
        await self._spawn(arguments, environment)
        await self._up
        assert self._process is not None
        if b"up\n" not in self._told:
            await self._process.wait()
            failure = self._asking.failure if self._asking is not None else None
            raise connect_error(self._said.decode("utf-8", "replace"), address) from failure
        if self._asking is not None:
            self._asking.close()

    async def _spawn(self, arguments: list[str], environment: dict[str, str]) -> None:
        (leash_far, self._leash), (told, told_far), (said, said_far) = os.pipe(), os.pipe(), os.pipe()
        self._pipes = [PipeReader(told, self._hear, self._over), PipeReader(said, self._keep, _nothing)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", _KEEPER, "ssh-master", self.directory, *arguments,
                stdin=leash_far, stdout=told_far, stderr=said_far, env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            text = f"{self._address.host}: cannot start {arguments[0]}: {error.strerror}"
            raise ConnectError(text, host=self._address.host) from error
        finally:
            for end in (leash_far, told_far, said_far):
                os.close(end)

    def _hear(self, data: bytes) -> None:
        self._told = (self._told + data)[-_SAID_BYTES:]
        if found := re.match(rb"pid (\d+)\n", self._told):
            self._pid = int(found[1])
        if b"up\n" in self._told:
            self._over()

    def _over(self) -> None:
        if self._up is not None and not self._up.done():
            self._up.set_result(None)

    def _keep(self, data: bytes) -> None:
        self._said = (self._said + data)[-_SAID_BYTES:]

    def said(self) -> str:
        """Return the last line that ssh has said."""
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _release(self) -> None:
        leash, self._leash = self._leash, None
        if leash is not None:
            os.close(leash)
        for pipe in self._pipes:
            pipe.close()
        if self._asking is not None:
            self._asking.close()

    async def aclose(self) -> None:
        """End it and remove its directory."""
        process, self._process = self._process, None
        self._release()
        try:
            if process is not None and not await _ended(process):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await bounded_cleanup(process.wait(), _GRACE_SECONDS)
        finally:
            await self._owner.aclose()
            shutil.rmtree(self.directory, ignore_errors=True)

    def abort(self) -> None:
        """End it without waiting."""
        self._release()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)


def write_pins(directory: str, fingerprints: tuple[str, ...]) -> None:
    """Write the program that judges a server's key by its fingerprint."""
    path = f"{directory}/pinned"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w") as file:
        file.write(_PINNED.format(pins=" ".join(fingerprints)))


def _nothing() -> None:
    return None


async def _ended(process: asyncio.subprocess.Process) -> bool:
    return await bounded_cleanup(process.wait(), _GRACE_SECONDS)


def connect_error(said: str, address: Address) -> ConnectError:
    """Return the error that ssh's words mean. Source: sshconnect.c, sshconnect2.c, readconf.c of OpenSSH 8.5 to 10."""
    host = address.host
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("@")]
    last = lines[-1] if lines else "ssh ended without a word"
    text = f"{host}: {last}"

    def has(*words: str) -> bool:
        return any(word in said for word in words)

    if has("Host key verification failed", "host key is known for", "IDENTIFICATION HAS CHANGED", "REVOKED HOST KEY"):
        found = _FINGERPRINT.search(said)
        presented = found[0] if found else ""
        what = "has changed" if has("IDENTIFICATION HAS CHANGED") else "is unknown or refused"
        reason = next((line for line in lines if "host key is known" in line), last)
        text = f"{host}: the host key {what}{': presented ' + presented if presented else ''} ({reason})"
        return HostKeyError(text, host=host, presented=presented)
    if has("Permission denied (", "Too many authentication failures", "No more authentication methods"):
        return AuthenticationError(text, host=host)
    if has("Could not resolve hostname"):
        return AddressError(text, host=host)
    if has("Bad configuration option", "terminating, ", "Can't open user config file", "Bad owner or permissions"):
        return ConfigError(f"{host}: {lines[0] if lines else last}", host=host)
    if has("too long for Unix domain socket"):
        return ConfigError(text, host=host)
    if has("timed out"):
        return ConnectTimeout(text, host=host)
    dropped = has("Connection closed by", "Connection reset by", "kex_exchange_identification") and not has("refused")
    return ConnectError(text, host=host, retryable=dropped)
