"""Servers of the benchmarks: real sshd on loopback, one or many addresses, all on one port and with one host key.

`aioremote.testing.sshd.Sshd` makes the first; one sshd listens on at most 16 sockets, so further addresses get further
sshd processes with the same configuration.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import random
import re
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

from aioremote.testing.sshd import Sshd
from benchmarks._measure import Site

__all__ = ["addresses", "servers", "with_known_hosts"]

LISTEN_SOCKETS = 16
"""Source: MAX_LISTEN_SOCKS in OpenSSH's sshd.c."""
START_SECONDS = 20.0
SUBNET = 200


def addresses(count: int) -> tuple[str, ...]:
    """Return so many loopback addresses: 127.0.0.1 to 127.0.0.200, then 127.0.1.1 and so on."""
    return tuple(f"127.0.{index // SUBNET}.{index % SUBNET + 1}" for index in range(count))


@contextlib.contextmanager
def servers(
    hosts: Sequence[str] = ("127.0.0.1",), *, max_startups: str = "500", max_sessions: int | None = None
) -> Generator[Site]:
    """Serve ssh on every address until the block ends.

    Args:
        hosts: the addresses.
        max_startups: unauthenticated connections for each 16 addresses; high, since not every peer waits for its turn.
        max_sessions: sessions per connection; None is OpenSSH's default, 10.
    """
    first = Sshd(
        listen=hosts[:LISTEN_SOCKETS],
        max_startups=max_startups,
        max_sessions=max_sessions,
        extra_config="LogLevel INFO",  # less is not possible: its start is read from the log
    )
    with first, contextlib.ExitStack() as more:
        for at in range(LISTEN_SOCKETS, len(hosts), LISTEN_SOCKETS):
            more.enter_context(_another(first, hosts[at : at + LISTEN_SOCKETS]))
        public = first.host_keys["ed25519"]
        known, warm = first.directory / "known_hosts", first.directory / "known_hosts_warm"
        known.write_text("".join(f"{_name(host, first.port)} {public}\n" for host in hosts))
        warm.write_text(f"{_name(hosts[0], first.port)} {public}\n")
        yield Site(
            hosts=tuple(hosts),
            port=first.port,
            user="root",
            keyfile=str(first.keyfile),
            known_hosts=str(known),
            warm_known_hosts=str(warm),
            host_public=public,
        )


def with_known_hosts(site: Site, directory: Path, *, lines: int, hashed: bool) -> Site:
    """Return the site with a known_hosts file of so many lines, those of its hosts scattered among strangers."""
    chance = random.Random(lines)
    names = [_name(host, site.port) for host in site.hosts]
    strangers = [f"host{number:05d}.example.org" for number in range(lines - len(names))]
    entries = [(name, site.host_public) for name in names] + [(name, _stranger(chance)) for name in strangers]
    chance.shuffle(entries)
    path = directory / f"known_hosts_{lines}_{'hashed' if hashed else 'plain'}"
    path.write_text("".join(f"{_hashed(name, chance) if hashed else name} {key}\n" for name, key in entries))
    return replace(site, known_hosts=str(path))


def _stranger(chance: random.Random) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + chance.randbytes(32)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


def _hashed(name: str, chance: random.Random) -> str:
    """Return a name as HashKnownHosts writes it. Source: OpenSSH's hostfile.c."""
    salt = chance.randbytes(20)
    digest = hmac.digest(salt, name.encode(), hashlib.sha1)
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}"


@contextlib.contextmanager
def _another(first: Sshd, hosts: Sequence[str]) -> Generator[None]:
    """Run one more sshd with the first one's configuration, on other addresses."""
    base = (first.directory / "private" / "sshd_config").read_text()
    listen = "\n".join(f"ListenAddress {host}:{first.port}" for host in hosts)
    config = first.directory / "private" / f"sshd_config_{hosts[0]}"
    config.write_text(re.sub(r"(?m)^ListenAddress .*\n", "", base) + listen + "\n")
    process = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_it_serves(hosts[-1], first.port, process)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_until_it_serves(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1) as probe:
            if probe.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    raise RuntimeError(f"sshd on {host}:{port} did not start")
