"""known_hosts against the real ssh-keygen, ssh and sshd as oracles, and the costs that promises 123 and 124 bound."""

import asyncio
import base64
import hmac
import os
import pickle
import random
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aioremote.host_keys
from aioremote.errors import HostKeyError
from aioremote.host_keys import HostKey, HostKeys, InsecureHostKeyWarning
from aioremote.transports.ssh import known_hosts
from aioremote.transports.ssh.known_hosts import KnownFile, KnownHosts, load, parse, verify, verify_certificate

SOURCE = Path(aioremote.host_keys.__file__).parent.parent
STALL_SECONDS = 0.05


def made(seed: int, algorithm: str = "ssh-ed25519") -> HostKey:
    """Return a key that no server has; ssh-keygen takes any 32 bytes for an Ed25519 key."""
    name, value = algorithm.encode(), random.Random(seed).randbytes(32)
    return HostKey(algorithm, struct.pack(">I", len(name)) + name + struct.pack(">I", 32) + value)


A, B, C = made(1), made(2), made(3)


def hashed(name: str) -> str:
    salt = random.Random(name).randbytes(20)
    parts = (salt, hmac.digest(salt, name.encode(), "sha1"))
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in parts)


def known(text: str) -> KnownHosts:
    return KnownHosts([parse("known_hosts", text.encode())])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count parses: one name of a thread for each."""
    threads: list[str] = []
    real = known_hosts.parse

    def counting(path: str, data: bytes) -> KnownFile:
        threads.append(threading.current_thread().name)
        return real(path, data)

    monkeypatch.setattr(known_hosts, "parse", counting)
    return threads


async def refused(awaitable: Awaitable[None], match: str) -> HostKeyError:
    with pytest.raises(HostKeyError, match=match) as caught:
        await awaitable
    return caught.value


# --- what is refused, and with which words (promise 94)


async def test_an_unknown_key_is_refused_with_the_files_and_the_ways_out(path: Path) -> None:
    """Promise 94."""
    path.write_text(f"web2 {A.openssh}\nbroken line\n")
    other = path.with_name("other")
    error = await refused(verify(HostKeys.strict([path, other]), "web1", 22, A), "unknown host key")
    assert (error.host, error.presented, error.expected) == ("web1", A.fingerprint, ())
    for part in (A.fingerprint, str(path), str(other), "accept_new()", f"cannot be read: 1, as {path}:2"):
        assert part in str(error)


async def test_without_any_file_every_key_is_unknown(path: Path) -> None:
    """Promise 94."""
    assert (await refused(verify(HostKeys.strict(path), "web1", 22, A), "unknown host key")).expected == ()
    assert (await refused(verify(HostKeys.strict(path / "x"), "web1", 22, A), "unknown")).presented == A.fingerprint
    await refused(verify(HostKeys.strict("/dev/null"), "web1", 22, A), "unknown")


@pytest.mark.parametrize("name", ["web1", hashed("web1"), "web*,!web2", "10.0.0.1,web1"])
async def test_a_changed_key_is_refused_with_both_fingerprints_and_the_line(path: Path, name: str) -> None:
    """Promise 94."""
    path.write_text(f"# a comment\n{name} {B.openssh}\n")
    for policy in (HostKeys.strict(path), HostKeys.accept_new(path)):
        error = await refused(verify(policy, "web1", 22, A), "has changed")
        assert (error.presented, error.expected) == (A.fingerprint, (B.fingerprint,))
        for part in (A.fingerprint, B.fingerprint, f"{path}:2", f"ssh-keygen -R web1 -f {path}"):
            assert part in str(error)
    assert path.read_text().count("\n") == 2


async def test_expected_fingerprints_are_in_the_order_of_the_files(path: Path) -> None:
    path.write_text(f"{hashed('web1')} {C.openssh}\nweb? {B.openssh}\nweb1 {made(4).openssh}\nweb1 {B.openssh}\n")
    second = path.with_name("second")
    second.write_text(f"web1 {made(5).openssh}\n")
    error = await refused(verify(HostKeys.strict([path, second]), "web1", 22, A), "has changed")
    assert error.expected == tuple(key.fingerprint for key in (C, B, made(4), made(5)))
    assert f"-f {second}" in str(error)


@pytest.mark.parametrize("name", ["web1", "*", hashed("web1")])
async def test_a_revoked_key_is_refused_by_every_policy_but_the_insecure_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Promise 94."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"web1 {A.openssh}\n@revoked {name} {A.openssh}\n")
    asked: list[str] = []

    def ask(host: str, port: int, key: HostKey) -> bool:
        asked.append(host)
        return True

    policies = [HostKeys.strict(), HostKeys.accept_new(), HostKeys.pinned(A.fingerprint), HostKeys.callback(ask)]
    for policy in policies:
        error = await refused(verify(policy, "web1", 22, A), "is revoked .*known_hosts:2")
        assert error.presented == A.fingerprint
        if name != "*":
            await refused(verify(policy, "web1", 2222, A), "is revoked")
    assert not asked
    with pytest.warns(InsecureHostKeyWarning):
        await verify(HostKeys.insecure_no_check(), "web1", 22, A)


async def test_a_revoked_authority_or_certified_key_is_refused(path: Path) -> None:
    """Promise 94."""
    path.write_text(f"@cert-authority *.example.com {A.openssh}\n@revoked * {B.openssh}\n")
    policy = HostKeys.strict(path)
    await verify_certificate(policy, "web1.example.com", 22, A)
    await verify_certificate(policy, "web1.example.com", 22, A, key=C)
    await refused(verify_certificate(policy, "web1.example.com", 22, A, key=B), "is revoked")
    await refused(verify_certificate(policy, "web1.example.com", 22, B), "is revoked")


async def test_an_authority_signs_for_its_hosts_only_and_is_no_host_key(path: Path) -> None:
    """Promise 94."""
    path.write_text(f"@cert-authority *.example.com {A.openssh}\n@cert-authority {hashed('db')} {B.openssh}\n")
    for policy in (HostKeys.strict(path), HostKeys.accept_new(path)):
        await verify_certificate(policy, "web1.example.com", 22, A)
        await verify_certificate(policy, "db", 22, B)
        error = await refused(verify_certificate(policy, "web1.example.org", 22, A), "@cert-authority")
        assert (error.presented, error.expected) == (A.fingerprint, ())
        error = await refused(verify_certificate(policy, "web1.example.com", 22, B), "not trusted")
        assert (error.presented, error.expected) == (B.fingerprint, (A.fingerprint,))
    await refused(verify(HostKeys.strict(path), "web1.example.com", 22, A), "unknown")
    assert [entry.line for entry in (await load([str(path)])).authorities("db", 22)] == [2]


async def test_policies_without_files_decide_about_the_certified_key(path: Path) -> None:
    await verify_certificate(HostKeys.pinned(B.fingerprint), "web1", 22, A, key=B)
    await refused(verify_certificate(HostKeys.pinned(B.fingerprint), "web1", 22, A), "not a pinned one")
    await verify_certificate(HostKeys.callback(lambda _host, _port, key: key == B), "web1", 22, A, key=B)
    with pytest.warns(InsecureHostKeyWarning):
        await verify_certificate(HostKeys.insecure_no_check(), "web1", 22, A)


async def test_a_port_has_its_own_lines(path: Path) -> None:
    """Promise 94."""
    path.write_text(f"[web1]:2222 {A.openssh}\n{hashed('[web2]:2222')} {A.openssh}\n")
    policy = HostKeys.strict(path)
    for host in ("web1", "WEB1", "web2"):
        await verify(policy, host, 2222, A)
        await refused(verify(policy, host, 22, A), "unknown")
        error = await refused(verify(policy, host, 2222, B), re.escape(f"ssh-keygen -R '[{host.lower()}]:2222'"))
        assert error.expected == (A.fingerprint,)


async def test_a_host_known_with_other_types_only_says_which(path: Path) -> None:
    path.write_text(f"{hashed('web1')} {made(4, 'ssh-rsa').openssh}\nweb1 {made(5, 'ecdsa').openssh}\n")
    for policy in (HostKeys.strict(path), HostKeys.accept_new(path)):
        error = await refused(verify(policy, "web1", 22, A), "another type")
        assert vars(error)["other_algorithms"] == ("ssh-rsa", "ecdsa")
        again = pickle.loads(pickle.dumps(error))
        assert vars(again) == vars(error)
    verdict = await (await load([str(path)])).explain("web1", 22, A)
    assert (verdict.status, verdict.other_algorithms) == ("other_type", ("ssh-rsa", "ecdsa"))


@pytest.mark.parametrize("shape", ["folder", "pipe", "loop"])
async def test_what_is_no_file_is_named(path: Path, shape: str) -> None:
    if shape == "folder":
        path.mkdir()
    elif shape == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    for policy in (HostKeys.strict([path, "/dev/null"]), HostKeys.accept_new(["/dev/null", path])):
        error = await refused(verify(policy, "web1", 22, A), f"cannot read {path}: ")
        assert error.host == "web1"
        assert isinstance(error.__cause__, OSError)


async def test_a_file_that_may_not_be_read_is_named() -> None:
    euid = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known_hosts"
        path.write_text(f"web1 {A.openssh}\n")
        path.chmod(0)
        Path(folder).chmod(0o755)
        try:
            if euid == 0:  # whom no mode stops
                os.seteuid(65534)
            error = await refused(
                verify(HostKeys.strict(path), "web1", 22, A), f"cannot read {path}: Permission denied"
            )
        finally:
            os.seteuid(euid)
        assert isinstance(error.__cause__, PermissionError)


# --- the grammar; ssh-keygen -F finds the same lines


NAMES = ["web1", "web2", "a.example.com", "b.example.com", "10.0.0.1", "::1", "[web1]:2222", "[::1]:2222"]
PATTERNS = [*NAMES, "WEB1", "*", "web?", "*.example.com", "a.*", "*e*a*p*", "?*1", "[web1]:*", "[*]:2222", "we", "*b1x"]
pattern = st.tuples(st.sampled_from(["", "", "!"]), st.sampled_from(PATTERNS)).map("".join)
names = st.one_of(st.lists(pattern, min_size=1, max_size=4).map(",".join), st.sampled_from(NAMES).map(hashed))
# No tab after a marker: ssh-keygen does not see the marker then, and we do.
marked = st.tuples(st.sampled_from(["", "", "", "@revoked ", "@cert-authority "]), names).map("".join)
entry = st.tuples(
    st.sampled_from(["", "", " ", "\t"]),
    marked,
    st.sampled_from([" ", "\t ", "  "]),
    st.sampled_from([A, B, C]).map(lambda key: key.openssh),
    st.sampled_from(["", " comment", " two words # here"]),
).map("".join)
# No damaged keys: ssh-keygen -F names their lines, though ssh takes them for nothing (below).
junk = st.sampled_from(
    [
        "",
        "  ",
        "#",
        "# web1 ssh-ed25519",
        "web1",
        "web1 ssh-ed25519",
        f"@strange web1 {A.openssh}",
        "@revoked",
        "@revoked web1",
        f"|1|x|y {A.openssh}",
    ]
)


def found_by_keygen(path: Path, name: str) -> list[tuple[int, str]]:
    run = subprocess.run(["ssh-keygen", "-F", name, "-f", path], capture_output=True, text=True, errors="replace")
    lines = re.findall(r"^# Host .* found: line (\d+) ?(\w*)", run.stdout, re.MULTILINE)
    return sorted((int(number), marker) for number, marker in lines)


def found_by_us(file: KnownFile, name: str) -> list[tuple[int, str]]:
    of = KnownHosts([file])
    revoked = [(number, "REVOKED") for key in (A, B, C) for number in file.revoked.get(key.openssh.split()[1].encode())]
    found = [(number, kind) for number, kind in revoked if file.entry(number).matches(name.encode())]
    found += [(entry.line, "CA") for entry in of.authorities(name, 22)]
    return sorted(found + [(entry.line, "") for entry in file.about(name.encode())])


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(st.one_of(entry, entry, entry, junk), max_size=12), ending=st.sampled_from(["\n", "\r\n", ""]))
def test_the_same_lines_are_found_as_by_ssh_keygen(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    data = ((ending or "\n").join(lines) + ending).encode()
    path.write_bytes(data)
    file = parse(str(path), data)
    assert b"".join(file.lines) == data
    for name in NAMES:
        assert found_by_us(file, name) == found_by_keygen(path, name), name


@settings(max_examples=300)
@given(text=st.text("ab*?", max_size=10), name=st.text("ab", max_size=12))
def test_wildcards_match_as_the_manual_says(text: str, name: str) -> None:
    def matches(text: str, name: str) -> bool:
        if text.startswith("*"):
            return any(matches(text[1:], name[start:]) for start in range(len(name) + 1))
        if not text or not name:
            return text == name
        return text[0] in ("?", name[0]) and matches(text[1:], name[1:])

    line = known_hosts.Entry(text.encode(), b"", b"", "", 1)
    assert line.matches(name.encode()) == matches(text, name)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    line = known_hosts.Entry(b"*a" * 40 + b"*b", b"", b"", "", 1)
    start = time.process_time()
    assert not line.matches(b"a" * 255)
    assert time.process_time() - start < STALL_SECONDS


def test_a_file_that_ssh_keygen_hashed_knows_the_same_hosts(path: Path) -> None:
    """Promise 94."""
    keys = {f"host{number}": made(number) for number in range(50)}
    path.write_text("".join(f"{name} {key.openssh}\n" for name, key in keys.items()))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    file = parse(str(path), path.read_bytes())
    assert len(file.hashed) == len(keys)
    of = KnownHosts([file])
    for number, (name, key) in enumerate(keys.items(), 1):
        assert of.check(name.upper(), 22, key).entries[0].line == number
        assert of.check(name, 22, A if key != A else B).status == "unlisted"
        assert of.scan(name, 2222, made(99)).status == "unknown"


def test_lines_that_cannot_be_read_are_skipped_and_listed() -> None:
    text = f"web1\nweb1 ssh-ed25519\n\n# c\n@odd web1 {A.openssh}\nweb1 1024 35 999\n@revoked web1 \nweb1 {A.openssh}"
    of = known(text)
    assert of.files[0].malformed == [1, 2, 5, 6, 7]
    assert of.check("web1", 22, A).trusted


@pytest.mark.parametrize("damage", ["ssh-rsa " + A.openssh.split()[1], A.openssh[:-6], "ssh-ed25519 AAAA*"])
def test_a_line_with_a_damaged_key_expects_nothing_and_is_named(damage: str) -> None:
    verdict = known(f"web1 {damage}\n").scan("web1", 22, B)
    assert verdict.status == "unknown"
    assert "known_hosts:1" in str(verdict.error())


def test_any_bytes_can_be_parsed() -> None:
    for seed in range(200):
        source = random.Random(seed)
        data = bytes(source.choices(b"@|#*!?, \t\r\n\0AAAAssh=1\xff", k=300))
        of = KnownHosts([parse("known_hosts", data)])
        assert of.scan("a", 22, A).status == "unknown"
        of.algorithms("a", 22)


# --- the real ssh decides alike


class Server:
    """An sshd on a pipe, with one host key and a certificate for it if that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = self.make("host")
        self.ca = self.make("ca")
        self.config = folder / "sshd_config"
        self.config.write_text(
            f"HostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )

    def make(self, name: str) -> HostKey:
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return HostKey.from_openssh(path.with_suffix(".pub").read_text())

    def certify(self, host: str) -> None:
        command = ["ssh-keygen", "-q", "-s", "ca", "-h", "-I", "id", "-n", host, "host.pub"]
        subprocess.run(command, check=True, cwd=self.folder)
        self.config.write_text(self.config.read_text() + f"HostCertificate {self.folder}/host-cert.pub\n")

    def accepted_by_ssh(self, known: Path, host: str, port: int) -> bool:
        sshd = f"{shutil.which('sshd', path='/usr/sbin:/sbin:/usr/bin')} -i -f {self.config}"
        options = ["ProxyCommand=" + sshd, f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=none"]
        options += ["BatchMode=yes", "StrictHostKeyChecking=yes", "IdentityFile=none", "IdentityAgent=none"]
        command = ["ssh", "-F", "none", "-p", str(port), *(word for option in options for word in ("-o", option))]
        run = subprocess.run([*command, "-l", "root", host, "true"], capture_output=True, text=True)
        assert "Permission denied" in run.stderr or "Host key verification failed" in run.stderr, run.stderr
        return "Host key verification failed" not in run.stderr


@pytest.fixture
def server(tmp_path: Path) -> Server:
    Path("/run/sshd").mkdir(exist_ok=True)
    return Server(tmp_path)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("web1 KEY", "web1", 22),
        ("web1 OTHER", "web1", 22),
        ("web1 OTHER\nweb1 KEY", "web1", 22),
        ("web2 KEY", "web1", 22),
        ("WEB1 KEY", "Web1", 22),
        ("HASHED KEY", "web1", 22),
        ("web* KEY", "web1", 22),
        ("web*,!web1 KEY", "web1", 22),
        ("[web1]:2222 KEY", "web1", 2222),
        ("[web1]:2222 KEY", "web1", 22),
        ("web1 KEY", "web1", 2222),
        ("web1 OTHER", "web1", 2222),
        ("web1 KEY\n[web1]:2222 OTHER", "web1", 2222),
        ("web1 KEY\n@revoked * KEY", "web1", 22),
        ("web1 KEY\n@revoked web2 KEY", "web1", 22),
        ("@cert-authority web1 KEY", "web1", 22),
        ("@odd web1 KEY\nweb1", "web1", 22),
        ("web1 ssh-ed25519 é\nweb1 1024 35 999\nweb1 ssh-rsa OTHER\nweb1 KEY", "web1", 22),
        ("web1 KEY\r\n", "web1", 22),
    ],
)
async def test_ssh_and_we_accept_the_same_keys(path: Path, server: Server, text: str, host: str, port: int) -> None:
    """Promise 94."""
    text = text.replace("HASHED", hashed("web1")).replace("KEY", server.key.openssh).replace("OTHER", B.openssh)
    path.write_text(text + "\n")
    try:
        await verify(HostKeys.strict(path), host, port, server.key)
        accepted = True
    except HostKeyError:
        accepted = False
    assert accepted == server.accepted_by_ssh(path, host, port)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("@cert-authority web1 CA", 22),
        ("@cert-authority web2 CA", 22),
        ("@cert-authority web1 CA", 2222),
        ("@cert-authority *,!web1 CA", 22),
        ("@cert-authority * CA\n@revoked * CA", 22),
        ("@cert-authority * CA\n@revoked * KEY", 22),
        ("web1 CA", 22),
    ],
)
async def test_ssh_and_we_trust_the_same_authorities(path: Path, server: Server, text: str, port: int) -> None:
    """Promise 94."""
    server.certify("web1")
    path.write_text(text.replace("KEY", server.key.openssh).replace("CA", server.ca.openssh) + "\n")
    try:
        await verify_certificate(HostKeys.strict(path), "web1", port, server.ca, key=server.key)
        accepted = True
    except HostKeyError:
        accepted = False
    assert accepted == server.accepted_by_ssh(path, "web1", port)


# --- which key types to ask for


def test_known_types_are_preferred() -> None:
    rsa, ecdsa = made(6, "ssh-rsa"), made(7, "ecdsa")
    plain = f"web1,web2 {rsa.openssh}\nweb1 {ecdsa.openssh}\n*.lan {A.openssh}\n[web3]:2222 {rsa.openssh}\n"
    of = known(plain)
    assert of.algorithms("WEB1", 22) == ("ssh-rsa", "ecdsa")
    assert of.algorithms("web1", 2222) == ("ssh-rsa", "ecdsa")
    assert of.algorithms("db.lan", 22) == ("ssh-ed25519",)
    assert of.algorithms("web3", 2222) == ("ssh-rsa",)
    assert of.algorithms("web3", 22) == ()
    mixed = known(plain + f"{hashed('a')} {rsa.openssh}\n" + f"{hashed('b')} {A.openssh}\n" * 2)
    assert mixed.algorithms("web1", 22) == ("ssh-rsa", "ecdsa")
    assert mixed.algorithms("a", 22) == ("ssh-ed25519", "ssh-rsa")


# --- accept_new


async def test_accept_new_writes_the_first_file_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    await verify(HostKeys.accept_new(), "Web1", 22, A)
    await verify(HostKeys.accept_new(), "web1", 2222, B)
    await verify(HostKeys.accept_new(), "::1", 22, C)
    folder = tmp_path / ".ssh"
    path = folder / "known_hosts"
    assert path.read_text() == f"web1 {A.openssh}\n[web1]:2222 {B.openssh}\n::1 {C.openssh}\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(folder.iterdir()) == [path]
    for name, number in (("web1", 1), ("[web1]:2222", 2), ("::1", 3)):
        assert found_by_keygen(path, name) == [(number, "")]
    for host, port, key in (("web1", 22, A), ("web1", 2222, B), ("::1", 22, C)):
        await verify(HostKeys.strict(), host, port, key)


async def test_accept_new_leaves_what_is_there_as_it_is(path: Path) -> None:
    target = path.with_name("target")
    target.write_text(f"web1 {A.openssh}")  # no newline at the end
    target.chmod(0o640)
    path.symlink_to(target)
    await verify(HostKeys.accept_new(path), "web2", 22, B)
    assert path.is_symlink()
    assert target.read_text() == f"web1 {A.openssh}\nweb2 {B.openssh}\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    verdict = (await load([str(path)])).check("web2", 22, B)
    assert [entry.line for entry in verdict.entries] == [2]


async def test_what_was_written_is_known_without_another_parse(path: Path, parses: list[str]) -> None:
    path.write_text(f"web1 {A.openssh}\n{hashed('web9')} {B.openssh}\n")
    policy = HostKeys.accept_new(path)
    for number in range(20):
        await verify(policy, f"new{number}", 22, made(100 + number))
    await refused(verify(policy, "new1", 22, A), f"has changed.*{path}:4")
    await refused(verify(policy, "web9", 22, A), f"has changed.*{path}:2")
    await verify(HostKeys.strict(path), "new19", 22, made(119))
    assert len(parses) == 1


async def test_two_tasks_that_meet_the_same_host_write_one_line(path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(verify(HostKeys.accept_new(path), f"web{number % 4}", 22, made(number % 4)))
    assert sorted(path.read_text().splitlines()) == [f"web{number} {made(number).openssh}" for number in range(4)]


async def test_of_two_keys_for_one_new_host_one_is_accepted(path: Path) -> None:
    outcomes: list[HostKeyError | None] = []

    async def meet(key: HostKey) -> None:
        try:
            await verify(HostKeys.accept_new(path), "web1", 22, key)
            outcomes.append(None)
        except HostKeyError as error:
            outcomes.append(error)

    async with asyncio.TaskGroup() as group:
        for key in (A, B):
            group.create_task(meet(key))
    assert len(path.read_text().splitlines()) == 1
    errors = [error for error in outcomes if error]
    assert len(errors) == 1
    assert "has changed" in str(errors[0])


MEET = """
import asyncio, sys
from pathlib import Path
from aioremote.host_keys import HostKey, HostKeys
from aioremote.transports.ssh.known_hosts import verify

async def main():
    async with asyncio.TaskGroup() as group:
        for line in Path(sys.argv[2]).read_text().splitlines():
            host, text = line.split(None, 1)
            group.create_task(verify(HostKeys.accept_new(sys.argv[1]), host, 22, HostKey.from_openssh(text)))

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


def test_two_processes_that_meet_the_same_hosts_write_each_line_once(path: Path) -> None:
    lines = [f"web{number} {made(number).openssh}" for number in range(60)]
    hosts = path.with_name("hosts")
    hosts.write_text("\n".join(lines))
    command = [sys.executable, "-c", MEET, str(path), str(hosts)]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        assert [worker.wait(30) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert sorted(path.read_text().splitlines()) == sorted(lines)


async def test_a_file_that_is_replaced_while_its_lock_is_waited_for_gets_the_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    path.write_text(f"web1 {A.openssh}\n")
    other = path.with_name("new")
    other.write_text(f"web3 {C.openssh}\n")
    real = fcntl.flock

    def slow(file: int, how: int) -> None:
        if other.exists():
            other.rename(path)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    await verify(HostKeys.accept_new(path), "web2", 22, B)
    assert path.read_text() == f"web3 {C.openssh}\nweb2 {B.openssh}\n"


async def test_a_line_that_another_program_adds_before_ours_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    real = fcntl.flock

    def slow(file: int, how: int) -> None:
        path.write_text(f"{hashed('web1')} {B.openssh}\n")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    await refused(verify(HostKeys.accept_new(path), "web1", 22, A), "has changed")
    await verify(HostKeys.accept_new(path), "web1", 22, B)
    assert path.read_text() == f"{hashed('web1')} {B.openssh}\n"


@pytest.mark.parametrize("host", ["web1,web2", "*", "web 1", "web1\nweb2", "!web1", "|1|a|b", "@revoked", "#"])
async def test_a_name_that_would_mean_something_else_is_not_written(path: Path, host: str) -> None:
    error = await refused(verify(HostKeys.accept_new(path), host, 22, A), "cannot write")
    assert error.presented == A.fingerprint
    assert not path.exists()


@pytest.mark.parametrize("where", ["/dev/null", "/dev/full/x", "/proc/nowhere/known_hosts"])
async def test_a_key_that_cannot_be_remembered_is_not_accepted(where: str) -> None:
    error = await refused(verify(HostKeys.accept_new(where), "web1", 22, A), f"cannot write .* {where}: ")
    assert isinstance(error.__cause__, OSError)


async def test_a_line_is_written_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"web1 {A.openssh}\n")
    real = os.write

    def short(fd: int, data: bytes) -> int:
        return real(fd, data[: len(data) // 2 if b"web2" in data else None])

    monkeypatch.setattr(os, "write", short)
    await refused(verify(HostKeys.accept_new(path), "web2", 22, B), "no room for the whole line")
    assert path.read_text() == f"web1 {A.openssh}\n"


# --- costs


def large(path: Path, *, hash_names: bool, count: int = 10_000) -> None:
    named = ((f"host{number}", made(number)) for number in range(count))
    path.write_text("".join(f"{hashed(name) if hash_names else name} {key.openssh}\n" for name, key in named))


async def test_a_file_is_parsed_once_per_version_off_the_loop(path: Path, parses: list[str]) -> None:
    """Promise 124: by all tasks of several loops in several threads together."""
    large(path, hash_names=False)
    barrier = threading.Barrier(3)

    async def many() -> None:
        barrier.wait()
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(verify(HostKeys.strict(path), f"host{number}", 22, made(number)))

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.to_thread(asyncio.run, many()))
    assert parses == ["aioremote known_hosts"]
    path.write_text(f"host1 {B.openssh}\n")
    await verify(HostKeys.strict(path), "host1", 22, B)
    await verify(HostKeys.strict(str(path)), "host1", 22, B)
    assert len(parses) == 2


async def test_loading_what_is_known_does_not_suspend(path: Path) -> None:
    path.write_text(f"web1 {A.openssh}\n")
    await load([str(path)])
    with pytest.raises(StopIteration):
        load([str(path), "/nonexistent"]).send(None)


async def test_a_cancelled_waiter_takes_nothing_from_the_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"web1 {A.openssh}\n")
    real, begun, go = known_hosts.parse, threading.Event(), threading.Event()

    def held(path: str, data: bytes) -> KnownFile:
        begun.set()
        assert go.wait(30)
        return real(path, data)

    monkeypatch.setattr(known_hosts, "parse", held)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(load([str(path)]))
        second = group.create_task(load([str(path)]))
        await asyncio.to_thread(begun.wait)
        first.cancel()
        await asyncio.wait({first})
        go.set()
    assert first.cancelled()
    assert second.result().check("web1", 22, A).trusted


async def test_a_search_that_nobody_waits_for_any_more_is_not_begun(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, begun, go, searched = known(""), threading.Event(), threading.Event(), list[str]()
    real = KnownHosts.scan

    def held(self: KnownHosts, host: str, port: int, key: HostKey, *, hashed: bool = True) -> known_hosts.Verdict:
        searched.append(host)
        begun.set()
        assert go.wait(30)
        return real(self, host, port, key, hashed=hashed)

    monkeypatch.setattr(KnownHosts, "scan", held)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(of.explain(host, 22, A)) for host in ("a", "b", "c")]
        await asyncio.to_thread(begun.wait)
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        go.set()
    assert searched == ["a", "c"]


async def test_no_thread_remains_when_there_is_nothing_to_do(path: Path) -> None:
    await verify(HostKeys.accept_new(path), "web1", 22, A)
    for thread in threading.enumerate():
        if thread.name.startswith("aioremote known_hosts"):
            thread.join(30)
            assert not thread.is_alive()


FORK = """
import asyncio, os, sys, threading, warnings
from aioremote.host_keys import HostKey, HostKeys
from aioremote.transports.ssh import known_hosts
path, key = sys.argv[1], HostKey.from_openssh(sys.argv[2])
real, begun, go = known_hosts.parse, threading.Event(), threading.Event()

def held(path, data):
    begun.set()
    go.wait()
    return real(path, data)

def check():
    asyncio.run(known_hosts.verify(HostKeys.strict(path), "web1", 22, key))

known_hosts.parse = held
waiter = threading.Thread(target=check)
waiter.start()
begun.wait()
warnings.simplefilter("ignore")
if child := os.fork():
    go.set()
    waiter.join()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
known_hosts.parse = real
check()
os._exit(0)
"""


def test_a_child_forked_in_the_middle_of_a_parse_reads_for_itself(path: Path) -> None:
    path.write_text(f"web1 {A.openssh}\n")
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-c", FORK, path, A.openssh], check=True, env=environment, timeout=30)


def test_a_trusted_key_costs_one_hmac_whatever_the_size_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(path, hash_names=True, count=1000)
    of = KnownHosts([parse(str(path), path.read_bytes())])
    digests: list[bytes] = []
    real = hmac.digest

    def counting(key: bytes, message: bytes, digest: str) -> bytes:
        digests.append(message)
        return real(key, message, digest)

    monkeypatch.setattr(hmac, "digest", counting)
    assert of.check("host500", 22, made(500)).trusted
    assert of.algorithms("host500", 22) == ("ssh-ed25519",)
    assert digests == [b"host500"]
    assert of.check("host500", 22, made(5000)).status == "unlisted"
    assert len(digests) == 1


async def longest_stall(work: Callable[[], Awaitable[None]]) -> float:
    """Return the most CPU seconds that this process spent between two ticks 5 ms apart: other programs do not count."""
    gaps: list[float] = []
    done = asyncio.Event()

    async def tick() -> None:
        last = time.process_time()
        while not done.is_set():
            await asyncio.sleep(0.005)
            now = time.process_time()
            gaps.append(now - last)
            last = now

    async with asyncio.TaskGroup() as group:
        group.create_task(tick())
        await work()
        done.set()
    return max(gaps)


@pytest.mark.parametrize("hash_names", [False, True])
async def test_the_loop_stays_free_while_50_hosts_are_checked(path: Path, hash_names: bool) -> None:
    """Promise 123: known hosts and, at the cost of looking all lines through, unknown ones."""
    large(path, hash_names=hash_names)

    async def one(number: int) -> None:
        await verify(HostKeys.strict(path), f"host{number}", 22, made(number))
        await refused(verify(HostKeys.strict(path), f"other{number}", 22, made(number)), "unknown")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(one(number))

    assert await longest_stall(work) < STALL_SECONDS


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    """Let no thread of one test run in the next."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("aioremote known_hosts"):
            thread.join(30)
