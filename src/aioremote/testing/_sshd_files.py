"""The directory of one test sshd: keys, configuration, and what its clients need. Starts no server.

Only public keys can be read by others: sshd reads AuthorizedKeysFile with the rights of the user who logs in.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from aioremote.testing._ports import SSH_PORT, known_hosts_name
from aioremote.testing._users import find_tool

__all__ = ["ServerFiles", "default_limits", "sshd_program"]

INSTALL_SERVER = "apt-get install openssh-server"
INSTALL_CLIENT = "apt-get install openssh-client"
PENALTIES_SINCE = (9, 8)  # OpenSSH 9.8 delays clients that failed to log in, which on loopback means every test

CONFIG = """\
{early}
{host_keys}
{listen}
AuthorizedKeysFile {authorized_keys}
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PubkeyAuthentication yes
PasswordAuthentication {password}
KbdInteractiveAuthentication no
PrintMotd no
PrintLastLog no
UseDNS no
LogLevel VERBOSE
Subsystem sftp internal-sftp
SetEnv {environment}
{limits}
{late}
"""

SSH_CONFIG = """\
Host *
    {port}
    IdentityFile {keyfile}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile none
    BatchMode yes
"""


class ServerFiles:
    """A temporary directory: ``private`` (0700) with the keys, and ``authorized_keys``, which every user can read."""

    def __init__(self, key_types: Sequence[str]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="aioremote-sshd-"))
        private = self.directory / "private"
        private.mkdir(mode=0o700)
        self.directory.chmod(0o711)
        self._key_types = tuple(key_types)
        self.config = private / "sshd_config"
        self.ssh_config = private / "ssh_config"
        self.known_hosts = private / "known_hosts"
        self.keyfile = private / "client_key"
        self.proxy_log = private / "proxy.log"
        self.authorized_keys = self.directory / "authorized_keys"

    def make_keys(self) -> None:
        """Make the host keys and the client's key, which is authorized at once."""
        for kind in self._key_types:
            _make_key(self.host_key(kind), kind)
        _make_key(self.keyfile, "ed25519")
        self.authorize(self.keyfile.with_suffix(".pub").read_text(encoding="utf-8"))
        self.authorized_keys.chmod(0o644)

    def host_key(self, kind: str) -> Path:
        """Return the private key's path; ``.pub`` stands beside it."""
        return self.directory / "private" / f"host_{kind}"

    def public_key(self, kind: str) -> str:
        """Return type and base64 of a host key, as in known_hosts."""
        return " ".join(self.host_key(kind).with_suffix(".pub").read_text(encoding="utf-8").split()[:2])

    def fingerprint(self, kind: str) -> str:
        """Return ``SHA256:…`` of a host key, base64 without padding, as ``ssh-keygen -l`` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.public_key(kind).split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def authorize(self, line: str) -> None:
        """Add a line to AuthorizedKeysFile."""
        with open(self.authorized_keys, "a", encoding="utf-8") as file:
            file.write(line.rstrip("\n") + "\n")

    def write(
        self,
        *,
        hosts: Sequence[str],
        port: int | None,
        extra: str,
        limits: Mapping[str, str | int | None],
        password: bool,
        environment: Mapping[str, str],
    ) -> None:
        """Write the server's configuration and the two client files that name its port."""
        early, late = _split_at_match(extra)
        self.config.write_text(
            CONFIG.format(
                early=early,
                host_keys="\n".join(f"HostKey {self.host_key(kind)}" for kind in self._key_types),
                listen="\n".join(f"ListenAddress [{host}]:{port}" for host in hosts),
                authorized_keys=self.authorized_keys,
                password="yes" if password else "no",
                environment=" ".join(_quoted(f"{name}={value}") for name, value in environment.items()),
                limits="\n".join(f"{name} {value}" for name, value in limits.items() if value is not None),
                late=late,
            ),
            encoding="utf-8",
        )
        every = (*hosts, "localhost")
        names = ",".join(dict.fromkeys(known_hosts_name(host, at) for at in (port, SSH_PORT) for host in every if at))
        lines = [f"{names} {self.public_key(kind)}\n" for kind in self._key_types]
        self.known_hosts.write_text("".join(lines), encoding="utf-8")
        client = SSH_CONFIG.format(
            port=f"Port {port}" if port else "", keyfile=self.keyfile, known_hosts=self.known_hosts
        )
        self.ssh_config.write_text(client, encoding="utf-8")

    def remove(self) -> None:
        """Remove the directory; does nothing the second time."""
        shutil.rmtree(self.directory, ignore_errors=True)


@functools.cache
def sshd_program() -> str:
    """Return the path of sshd (it must be absolute: sshd starts itself anew for every connection)."""
    return find_tool("sshd", INSTALL_SERVER)


@functools.cache
def _version() -> tuple[int, int]:
    """Return OpenSSH's version, (0, 0) when it does not tell. Older ones name it in the complaint about ``-V``."""
    said = subprocess.run([sshd_program(), "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stderr + said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def default_limits() -> dict[str, str | int | None]:
    """Return settings that this OpenSSH knows and that tests on loopback need."""
    return {"PerSourcePenalties": "no"} if _version() >= PENALTIES_SINCE else {}


def _make_key(path: Path, kind: str) -> None:
    program = find_tool("ssh-keygen", INSTALL_CLIENT)
    subprocess.run(
        [program, "-q", "-t", kind, "-N", "", "-C", "aioremote.testing", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _split_at_match(extra: str) -> tuple[str, str]:
    """Split lines of sshd_config before the first Match block, which runs to the end of the file."""
    found = re.search(r"(?im)^[ \t]*match[ \t=]", extra)
    return (extra[: found.start()], extra[found.start() :]) if found else (extra, "")


def _quoted(setting: str) -> str:
    if set(setting) & set('"\\\n\r\0'):
        raise ValueError(f"sshd's SetEnv cannot carry quotes, backslashes or line ends: {setting.partition('=')[0]}")
    return f'"{setting}"'
