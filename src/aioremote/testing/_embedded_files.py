"""The keys of an embedded server, and the files that its clients need."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from aioremote.testing._ports import known_hosts_name
from aioremote.testing._state import EmbeddedHost

__all__ = ["ClientFiles", "ServerKeys"]

SSH_CONFIG = """\
Host *
    User {user}
    IdentityFile {keyfile}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile none
    BatchMode yes
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerKeys:
    """The keys of an embedded server; several servers may share them.

    Attributes:
        host_key: The server's, ed25519.
        client_key: Opens every account of the server, ed25519.
    """

    host_key: asyncssh.SSHKey
    client_key: asyncssh.SSHKey

    @classmethod
    def generate(cls) -> ServerKeys:
        """Make new ones."""
        return cls(_new_key(), _new_key())


def _new_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType] - its **kwargs


class ClientFiles:
    """A private directory (0700): key, known hosts, ssh configuration."""

    def __init__(self, keys: ServerKeys, hosts: Sequence[EmbeddedHost], user: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="aioremote-embedded-"))
        self.keyfile = self.directory / "client_key"
        self.known_hosts = self.directory / "known_hosts"
        self.ssh_config = self.directory / "ssh_config"
        self.keyfile.touch(mode=0o600)
        self.keyfile.write_bytes(keys.client_key.export_private_key("openssh"))
        self.keyfile.with_suffix(".pub").write_bytes(keys.client_key.export_public_key())
        key = keys.host_key.export_public_key().decode().strip()
        names = [known_hosts_name(host.host, host.port) for host in hosts]
        self.known_hosts.write_text("".join(f"{name} {key}\n" for name in names), encoding="utf-8")
        entries = [f"Host {host.name}\n    HostName {host.host}\n    Port {host.port}\n" for host in hosts]
        common = SSH_CONFIG.format(user=user, keyfile=self.keyfile, known_hosts=self.known_hosts)
        self.ssh_config.write_text("".join(entries) + common, encoding="utf-8")

    def remove(self) -> None:
        """Remove the directory; does nothing the second time."""
        shutil.rmtree(self.directory, ignore_errors=True)
