"""The stage for the examples: hosts that they name, a near home with an ssh config, far homes with a few files.

All hosts are one real sshd on loopback addresses; each has a home of its own.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

from aioremote.testing.sshd import Sshd, TestUser

USER = "deploy"
PASSWORD = "correct horse"
PASSPHRASE = "battery staple"
ADDRESSES = {
    "web1": "127.0.0.2",
    "web01": "127.0.0.3",
    "web02": "127.0.0.4",
    "web03": "127.0.0.5",
    "db1": "127.0.0.6",
    "bastion": "127.0.0.7",
    "nas1": "127.0.0.8",  # asks for a password
    "new1": "127.0.0.9",  # not in known_hosts
}
GONE = "127.0.0.99"  # web04: nothing listens there
FINGERPRINT = "SHA256:Nh0Me49Zh9fDw/VYUfq43IJmI1T+XrjiYONPND8GzaM"  # in the text; stands for the server's

SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")

FORCE = """\
Match LocalAddress {address}
    ForceCommand export HOME=~/hosts/{name} HOSTNAME={name} PATH=~/bin:"$PATH"; cd; eval "$SSH_ORIGINAL_COMMAND"
"""
DOCKER = """\
#!/bin/sh
shift 2
name=$1
shift
exec env HOSTNAME="$name" PATH={bin}:"$PATH" "$@"
"""
CONFIG = """\
{hosts}
Host web04
    HostName {gone}
Host nas1
    PreferredAuthentications password
Host *
    Port {port}
    User {user}
"""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where the examples play.

    Attributes:
        server: the sshd behind every host.
        user: the login on all of them.
        home: the near home, made anew for each example; the current directory too.
    """

    server: Sshd
    user: TestUser
    home: Path

    def substitute(self, code: str) -> str:
        """Put the server's own values where the text shows others."""
        return code.replace(FINGERPRINT, self.server.host_key_fingerprint)

    def environment(self) -> dict[str, str]:
        """Return the environment for programs that an example starts."""
        folders = [str(self.home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        sources = os.pathsep.join(path for path in sys.path if path)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}  # it writes
        return {**inherited, "HOME": str(self.home), "PATH": os.pathsep.join(folders), "PYTHONPATH": sources}


def dress_far_homes(user: TestUser) -> None:
    hosts = user.home / "hosts"
    shutil.rmtree(hosts, ignore_errors=True)
    for name in ADDRESSES:
        home = hosts / name
        (home / "app").mkdir(parents=True)
        (home / "app" / "release").write_text("1.4.0\n" if name == "web03" else "1.4.1\n")
        (home / "app" / "app.log").write_text(f"{name} started\n{name} ready\n")
    program = user.home / "bin" / "hostname"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\necho "$HOSTNAME"\n')
    program.chmod(0o755)
    write_container_tools(program.parent)
    sftp = program.with_name("internal-sftp")  # what a forced command is told that a client asks for
    sftp.unlink(missing_ok=True)
    sftp.symlink_to(next(path for path in SFTP_SERVERS if os.path.exists(path)))
    for path in [hosts, *hosts.rglob("*"), program.parent, program, program.with_name("docker")]:
        os.chown(path, user.uid, -1)


def write_container_tools(folder: Path) -> None:
    """Put a `docker` and a `hostname` there whose containers differ in their names only."""
    for name, text in (("docker", DOCKER.format(bin=folder)), ("hostname", '#!/bin/sh\necho "$HOSTNAME"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def write_ssh_folder(folder: Path, server: Sshd) -> None:
    folder.mkdir(mode=0o700)
    hosts = "".join(f"Host {name}\n    HostName {address}\n" for name, address in ADDRESSES.items())
    (folder / "config").write_text(CONFIG.format(hosts=hosts, gone=GONE, port=server.port, user=USER))
    key = server.host_keys["ed25519"]
    known = [f"[{address}]:{server.port} {key}\n" for name, address in ADDRESSES.items() if name != "new1"]
    (folder / "known_hosts").write_text("".join(known))
    for name in ("id_ed25519", "deploy_key"):
        shutil.copyfile(server.keyfile, folder / name)
        (folder / name).chmod(0o600)
    for name in ("locked_key", "locked_key.pub"):
        shutil.copyfile(server.directory / name, folder / name)
        (folder / name).chmod(0o600)


def make_locked_key(server: Sshd) -> None:
    """Let one more key in: encrypted, in the format that is opened without a further package."""
    key = server.directory / "locked_key"
    make = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", PASSPHRASE, "-f", str(key)]
    subprocess.run(make, check=True, capture_output=True)
    server.authorize(key.with_suffix(".pub").read_text())


def write_program(folder: Path) -> None:
    """Put the command line on PATH, also where the package is imported from its source tree."""
    folder.mkdir()
    write_container_tools(folder)
    program = folder / "aioremote"
    program.write_text(f"#!{sys.executable}\nimport sys\n\nfrom aioremote.cli import main\n\nsys.exit(main())\n")
    program.chmod(0o755)
