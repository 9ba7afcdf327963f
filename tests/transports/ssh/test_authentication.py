"""Who the server is, and who we are: nothing secret goes to a server that has not proven itself, or to any other."""

import asyncio
import base64
import logging
import os
import pickle
import re
import secrets
import subprocess
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest
from tests.transports.ssh.conftest import PASSWORD, MachineMaker
from tests.transports.ssh.servers import Seen, recording_server

from aioremote import (
    AuthenticationError,
    ConfigError,
    ConnectError,
    HostKeyError,
    HostKeys,
    InsecureHostKeyWarning,
    PasswordRequest,
    SshMachine,
)
from aioremote.testing.sshd import Sshd, TestUser

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

Certify = Callable[[asyncssh.SSHKey], asyncssh.SSHCertificate]


def to(seen: Seen, known_hosts: Path | None = None, **keywords: object) -> SshMachine:
    """Return a machine on a recording server that would send a password."""
    host_keys = HostKeys.pinned(seen.fingerprint) if known_hosts is None else HostKeys.strict(known_hosts)
    defaults: dict[str, object] = {"user": "me", "password": PASSWORD, "config": None, "host_keys": host_keys}
    return SshMachine("127.0.0.1", port=seen.port, **{**defaults, **keywords})  # type: ignore[arg-type]


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path], check=True)
    return path


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


@pytest.fixture(autouse=True)
def no_other_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the agent nor the default keys of whoever runs the tests."""
    home = tmp_path / "near-home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


# --- the server's key -------------------------------------------------------------------------------------------------


async def refused(seen: Seen, host_keys: HostKeys, **keywords: object) -> HostKeyError:
    """Check that the server's key is refused and that the server was told nothing."""
    with pytest.raises(HostKeyError) as caught:
        await to(seen, host_keys=host_keys, **keywords).run("touch", "/tmp/never")
    assert seen.connections > 0
    assert seen.secrets == []
    error = caught.value
    assert error.host == "127.0.0.1"
    assert error.presented == seen.fingerprint
    assert seen.fingerprint in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.presented, copy.expected) == (str(error), error.presented, error.expected)
    return error


async def test_an_unknown_key_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Promise 94."""
    async with recording_server(password=PASSWORD) as seen:
        (tmp_path / "known_hosts").write_text("")
        error = await refused(seen, HostKeys.strict(tmp_path / "known_hosts"))
    assert error.expected == ()


async def test_without_a_file_every_key_is_unknown(tmp_path: Path) -> None:
    """Promise 94."""
    async with recording_server(password=PASSWORD) as seen:
        await refused(seen, HostKeys.strict(tmp_path / "no" / "such" / "file"))


async def test_a_changed_key_is_refused_naming_both(tmp_path: Path) -> None:
    """Promise 94."""
    other = asyncssh.generate_private_key("ssh-ed25519")
    async with recording_server(password=PASSWORD) as seen:
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{seen.port} {public(other)}\n")
        for policy in (HostKeys.strict(tmp_path / "known_hosts"), HostKeys.accept_new(tmp_path / "known_hosts")):
            error = await refused(seen, policy)
            assert error.expected == (other.get_fingerprint(),)
            assert other.get_fingerprint() in str(error)


async def test_a_key_for_another_port_does_not_count(tmp_path: Path) -> None:
    """Promise 94."""
    async with recording_server(password=PASSWORD) as seen:
        other = seen.port - 1
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{other} {public(seen.key)}\n")
        await refused(seen, HostKeys.strict(tmp_path / "known_hosts"))


@pytest.mark.parametrize("policy", ["strict", "accept_new", "pinned", "callback"])
async def test_a_revoked_key_is_refused_by_every_policy(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 94. For pinned and callback the default files count."""
    async with recording_server(password=PASSWORD) as seen:
        known = Path(os.environ["HOME"], ".ssh", "known_hosts")
        known.write_text(f"@revoked * {public(seen.key)}\n[127.0.0.1]:{seen.port} {public(seen.key)}\n")
        host_keys = {
            "strict": HostKeys.strict(),
            "accept_new": HostKeys.accept_new(),
            "pinned": HostKeys.pinned(seen.fingerprint),
            "callback": HostKeys.callback(lambda host, port, key: True),
        }[policy]
        error = await refused(seen, host_keys)
    assert "revoked" in str(error)


@pytest.mark.parametrize("form", ["plain", "hashed", "wildcard"])
async def test_a_known_key_is_accepted(tmp_path: Path, form: str) -> None:
    """Promise 94."""
    async with recording_server(password=PASSWORD) as seen:
        known = seen.known_hosts(tmp_path / "known_hosts")
        if form == "hashed":
            subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
            assert "|1|" in known.read_text()
        elif form == "wildcard":
            known.write_text(f"[127.0.0.*]:{seen.port} {public(seen.key)}\n")
        async with to(seen, known) as machine:
            await machine.connect()
    assert seen.passwords == [PASSWORD]


def authority(
    tmp_path: Path, principal: str = "127.0.0.1", *, validity: tuple[str, str] = ("", "")
) -> tuple[asyncssh.SSHKey, Certify]:
    """Return a certificate authority and what certifies with it."""
    ca = asyncssh.generate_private_key("ssh-ed25519")

    def certify(key: asyncssh.SSHKey) -> asyncssh.SSHCertificate:
        start, end = validity
        times = {"valid_after": start, "valid_before": end} if start else {}
        return ca.generate_host_certificate(key, "the server", principals=[principal], **times)  # type: ignore[arg-type]

    return ca, certify


async def test_a_certified_key_is_accepted(tmp_path: Path) -> None:
    """Promise 94."""
    ca, certify = authority(tmp_path)
    async with recording_server(password=PASSWORD, certify=certify) as seen:
        known = tmp_path / "known_hosts"
        known.write_text(f"@cert-authority [127.0.0.1]:{seen.port} {public(ca)}\n")
        async with to(seen, known):
            pass
    assert seen.passwords == [PASSWORD]


@pytest.mark.parametrize("fault", ["other authority", "other host", "expired", "revoked authority", "revoked key"])
async def test_a_certificate_that_proves_nothing_is_refused(tmp_path: Path, fault: str) -> None:
    """Promise 94."""
    principal = "other.example" if fault == "other host" else "127.0.0.1"
    validity = ("20200101", "20210101") if fault == "expired" else ("", "")
    ca, certify = authority(tmp_path, principal, validity=validity)
    async with recording_server(password=PASSWORD, certify=certify) as seen:
        trusted = asyncssh.generate_private_key("ssh-ed25519") if fault == "other authority" else ca
        lines = [f"@cert-authority [127.0.0.1]:{seen.port} {public(trusted)}"]
        if fault.startswith("revoked"):
            lines.append(f"@revoked * {public(ca if fault.endswith('authority') else seen.key)}")
        (tmp_path / "known_hosts").write_text("\n".join(lines) + "\n")
        with pytest.raises(HostKeyError):
            await to(seen, tmp_path / "known_hosts").connect()
    assert seen.secrets == []


async def test_a_new_key_is_written_down_once_and_then_known(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    async with recording_server(password=PASSWORD) as seen:
        for _ in range(2):
            async with to(seen, host_keys=HostKeys.accept_new(known)):
                pass
        assert known.read_text().count("ssh-ed25519") == 1
        async with to(seen, known):
            pass


async def test_a_host_known_by_another_kind_of_key_is_asked_for_that(make: MachineMaker, tmp_path: Path) -> None:
    with Sshd(host_key_types=("ed25519", "ecdsa", "rsa")) as server:
        for kind in ("rsa", "ecdsa", "ed25519"):
            known = tmp_path / kind
            known.write_text(f"[{server.host}]:{server.port} {server.host_keys[kind]}\n")
            for _ in range(2):
                async with make(server, host_keys=HostKeys.strict(known)):
                    pass
                subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)


async def test_a_server_that_has_only_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    """Promise 94: and it is a matter of keys, not of a dropped connection."""
    other = asyncssh.generate_private_key("ssh-rsa")
    async with recording_server(password=PASSWORD) as seen:
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{seen.port} {public(other)}\n")
        error = await refused(seen, HostKeys.strict(tmp_path / "known_hosts"))
        assert seen.connections <= 2
    assert other.get_fingerprint() in str(error)


async def test_a_plain_key_beside_a_known_authority(tmp_path: Path) -> None:
    """Promise 94: whichever of the two the server shows."""
    ca, certify = authority(tmp_path)
    for chosen in (certify, None):
        async with recording_server(password=PASSWORD, certify=chosen) as seen:
            known = seen.known_hosts(tmp_path / "known_hosts")
            known.write_text(f"{known.read_text()}\n@cert-authority * {public(ca)}\n")
            async with to(seen, known):
                pass


async def test_a_pinned_fingerprint_is_the_only_one(tmp_path: Path) -> None:
    async with recording_server(password=PASSWORD) as seen:
        other = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
        error = await refused(seen, HostKeys.pinned(other))
        assert error.expected == (other,)
        async with to(seen, host_keys=HostKeys.pinned(other, seen.fingerprint)):
            pass


async def test_a_callback_judges_before_anything_is_sent() -> None:
    async with recording_server(password=PASSWORD) as seen:
        asked: list[tuple[str, int, str]] = []

        async def judge(host: str, port: int, key: object) -> bool:
            await asyncio.sleep(0)
            asked.append((host, port, key.fingerprint))  # type: ignore[attr-defined]
            return len(asked) > 1

        await refused(seen, HostKeys.callback(judge))
        async with to(seen, host_keys=HostKeys.callback(judge)):
            pass
        assert asked == [("127.0.0.1", seen.port, seen.fingerprint)] * 2


async def test_a_callback_is_asked_about_the_host_as_it_was_given(tmp_path: Path) -> None:
    config = tmp_path / "config"
    async with recording_server(password=PASSWORD) as seen:
        config.write_text(f"Host web1\n HostName 127.0.0.1\n HostKeyAlias other\n Port {seen.port}\n")
        asked: list[tuple[str, int]] = []

        def judge(host: str, port: int, key: object) -> bool:
            asked.append((host, port))
            return True

        keywords = {"user": "john", "password": PASSWORD, "config": str(config)}
        async with SshMachine("web1", host_keys=HostKeys.callback(judge), **keywords):  # type: ignore[arg-type]
            pass
        assert asked == [("web1", seen.port)]


async def test_no_check_is_said_by_name_and_warns_each_time() -> None:
    """Promise 95."""
    with pytest.raises(TypeError, match="insecure_no_check"):
        SshMachine("web1", host_keys=False)  # type: ignore[arg-type]
    async with recording_server(password=PASSWORD) as seen:
        for _ in range(2):
            with pytest.warns(InsecureHostKeyWarning):
                async with to(seen, host_keys=HostKeys.insecure_no_check()):
                    pass


async def test_none_means_strict(tmp_path: Path) -> None:
    """Promise 95: host_keys=None is no way around."""
    async with recording_server(password=PASSWORD) as seen:
        with pytest.raises(HostKeyError):
            await to(seen, host_keys=None).connect()
        assert seen.secrets == []


@pytest.mark.parametrize("policy", ["strict", "accept_new"])
async def test_known_hosts_none_in_the_config_is_refused(tmp_path: Path, policy: str) -> None:
    """Promise 95: asyncssh would stop checking."""
    config = tmp_path / "config"
    config.write_text("Host *\n  UserKnownHostsFile none\n  GlobalKnownHostsFile none\n")
    async with recording_server(password=PASSWORD) as seen:
        for host_keys in (getattr(HostKeys, policy)(), None):
            with pytest.raises(HostKeyError, match="UserKnownHostsFile none"):
                await to(seen, config=config, host_keys=host_keys).connect()
        assert seen.secrets == []
        async with to(seen, config=config):  # pinned: the files are not asked
            pass


async def test_dev_null_as_known_hosts_knows_nobody(tmp_path: Path) -> None:
    """Promise 95."""
    config = tmp_path / "config"
    config.write_text("UserKnownHostsFile /dev/null\nStrictHostKeyChecking no\n")
    async with recording_server(password=PASSWORD) as seen:
        await refused(seen, HostKeys.strict(), config=config)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_key_files_of_every_kind(make: MachineMaker, tmp_path: Path, aioremote_sshd: Sshd, kind: str) -> None:
    key = make_key(tmp_path / "key", kind=kind)
    aioremote_sshd.authorize(key.with_suffix(".pub").read_text())
    async with make(keyfile=key) as machine:
        await machine.run("true")


async def test_several_keys_are_offered_in_turn(make: MachineMaker, tmp_path: Path, aioremote_sshd: Sshd) -> None:
    wrong = [make_key(tmp_path / kind, kind=kind) for kind in ("ed25519", "rsa", "ecdsa")]
    async with make(keyfile=[*wrong, aioremote_sshd.keyfile]) as machine:
        await machine.run("true")


async def test_too_many_keys_end_as_refusal(make: MachineMaker, tmp_path: Path, aioremote_sshd: Sshd) -> None:
    """OpenSSH's MaxAuthTries is 6."""
    wrong = [make_key(tmp_path / str(number)) for number in range(8)]
    with pytest.raises(AuthenticationError, match=r"too many|refused") as caught:
        await make(keyfile=[*wrong, aioremote_sshd.keyfile]).connect()
    assert "\n" not in str(caught.value)


async def test_a_refused_key_is_named_in_one_line(make: MachineMaker, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    with pytest.raises(AuthenticationError) as caught:
        await make(keyfile=key).connect()
    assert str(key) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not caught.value.retryable


async def test_with_a_keyfile_no_other_key_is_shown(ssh_agent: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-add", "-q", make_key(tmp_path / "in-agent")], check=True)
    make_key(Path(os.environ["HOME"], ".ssh", "id_ed25519"))
    key = make_key(tmp_path / "key")
    async with recording_server() as seen:
        with pytest.raises(AuthenticationError):
            await to(seen, password=None, keyfile=key).connect()
    fingerprint = asyncssh.read_public_key(key.with_suffix(".pub")).get_fingerprint()
    assert set(seen.keys) == {fingerprint}


async def test_a_default_key_is_found(make: MachineMaker, aioremote_sshd: Sshd) -> None:
    key = make_key(Path(os.environ["HOME"], ".ssh", "id_ed25519"))
    aioremote_sshd.authorize(key.with_suffix(".pub").read_text())
    async with make(keyfile=None) as machine:
        await machine.run("true")


async def test_a_key_in_the_agent_is_used(
    make: MachineMaker, aioremote_sshd: Sshd, ssh_agent: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key")
    aioremote_sshd.authorize(key.with_suffix(".pub").read_text())
    with pytest.raises(AuthenticationError, match="agent"):
        await make(keyfile=None).connect()
    subprocess.run(["ssh-add", "-q", key], check=True)
    async with make(keyfile=None) as machine:
        assert (await machine.run("sh", "-c", "echo ${SSH_AUTH_SOCK-none}")).stdout == "none\n"  # not forwarded


async def test_an_agent_is_forwarded_when_that_is_asked_for(
    make: MachineMaker, aioremote_sshd: Sshd, ssh_agent: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key")
    subprocess.run(["ssh-add", "-q", key], check=True)
    async with make(agent_forwarding=True) as machine:
        listed = (await machine.run("ssh-add", "-L")).stdout
    assert key.with_suffix(".pub").read_text().split()[1] in listed


async def test_an_encrypted_key_is_opened_by_its_passphrase(
    make: MachineMaker, aioremote_sshd: Sshd, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key", passphrase="open sesame")
    aioremote_sshd.authorize(key.with_suffix(".pub").read_text())
    async with make(keyfile=key, passphrase="open sesame") as machine:
        await machine.run("true")
    for passphrase in (None, "wrong"):
        with pytest.raises(ConfigError, match="passphrase=") as caught:
            await make(keyfile=key, passphrase=passphrase).connect()
        assert str(key) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "no key at all\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
async def test_a_keyfile_that_is_none_says_so(make: MachineMaker, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        await make(keyfile=path).connect()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_keyfile_that_may_not_be_read_says_so(make: MachineMaker, tmp_path: Path) -> None:
    """Root may read everything, so a directory stands for it."""
    with pytest.raises(ConfigError, match="cannot read"):
        await make(keyfile=tmp_path).connect()


async def test_a_key_that_was_replaced_is_read_anew(make: MachineMaker, aioremote_sshd: Sshd, tmp_path: Path) -> None:
    """Options are shared between machines, but not beyond a change of the files that they come from."""
    key = make_key(tmp_path / "key")
    with pytest.raises(AuthenticationError):
        await make(keyfile=key).connect()
    key.unlink()
    key.with_suffix(".pub").unlink()
    key.write_bytes(aioremote_sshd.keyfile.read_bytes())
    key.chmod(0o600)
    async with make(keyfile=key) as machine:
        await machine.run("true")


# --- passwords --------------------------------------------------------------------------------------------------------


def by_password(server: Sshd, user: TestUser, password: object = PASSWORD, **keywords: object) -> SshMachine:
    host_keys = HostKeys.strict(server.known_hosts)
    return SshMachine(
        server.host,
        port=server.port,
        user=user.name,
        password=password,
        host_keys=host_keys,
        config=None,
        **keywords,  # type: ignore[arg-type]
    )


async def test_a_password_opens_a_real_server(password_server: Sshd, password_user: TestUser) -> None:
    async with by_password(password_server, password_user) as machine:
        assert (await machine.run("id", "-un")).stdout == f"{password_user.name}\n"


async def test_a_password_provider_is_asked_when_it_is_needed(password_server: Sshd, password_user: TestUser) -> None:
    requests: list[PasswordRequest] = []

    async def provide(request: PasswordRequest) -> str:
        requests.append(request)
        await asyncio.sleep(0)
        return PASSWORD

    machine = by_password(password_server, password_user, provide)
    assert requests == []
    async with machine:
        await machine.run("true")
    assert [(request.host, request.user, request.attempt) for request in requests] == [
        (password_server.host, password_user.name, 1)
    ]


async def test_a_provider_is_not_asked_where_a_key_opens(
    make: MachineMaker, password_server: Sshd, password_user: TestUser
) -> None:
    async def provide(request: PasswordRequest) -> str:
        raise AssertionError("asked")

    async with make(password_server, user=password_user.name, password=provide) as machine:
        await machine.run("true")


async def test_a_provider_that_fails_fails_the_connect(password_server: Sshd, password_user: TestUser) -> None:
    async def provide(request: PasswordRequest) -> str:
        raise LookupError("the vault is closed")

    with pytest.raises((ConnectError, LookupError)) as caught:
        await by_password(password_server, password_user, provide).connect()
    assert "the vault is closed" in "".join(traceback.format_exception(caught.value))


async def test_a_wrong_password_is_tried_once(password_server: Sshd, password_user: TestUser) -> None:
    """Promises 100, 119: refused at once, never retried; the server counts."""
    user, wrong = password_user, secrets.token_hex(8)
    before = password_server.log.count(f"Failed password for {user.name}")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fails(by_password(password_server, user, wrong))) for _ in range(5)]
    for task in tasks:
        error = task.result()
        assert type(error) is AuthenticationError
        assert not error.retryable
        assert f"user '{user.name}' was refused" in str(error)
        assert "\n" not in str(error)
    assert password_server.log.count(f"Failed password for {user.name}") - before == 5


async def fails(machine: SshMachine) -> Exception:
    with pytest.raises(ConnectError) as caught:
        await machine.connect()
    return caught.value


async def test_a_password_goes_to_its_host_only(tmp_path: Path) -> None:
    """Promise 100: not to the host in between, be it given or from the config."""
    async with recording_server(password=PASSWORD) as target, recording_server(password=PASSWORD) as jump:
        config = tmp_path / "config"
        config.write_text(
            f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n  User me\n"
            f"Host target\n  HostName 127.0.0.1\n  Port {target.port}\n  User me\n  ProxyJump jump\n"
        )
        host_keys = HostKeys.pinned(target.fingerprint, jump.fingerprint)
        with pytest.raises(AuthenticationError) as caught:
            await SshMachine("target", password=PASSWORD, config=config, host_keys=host_keys).connect()
        assert caught.value.host == "jump"
        assert jump.begun
        assert (jump.passwords, jump.answers, target.secrets) == ([], [], [])


async def test_a_password_is_sent_by_keyboard_interactive(tmp_path: Path) -> None:
    """Promise 100."""
    async with recording_server(password=PASSWORD, prompts=[("Password: ", False)]) as seen:
        async with to(seen):
            pass
        assert seen.answers == [[PASSWORD]]
        assert seen.passwords == []


async def test_a_wrong_password_by_keyboard_interactive_is_tried_once() -> None:
    """Promise 100."""
    async with recording_server(password="another", prompts=[("Password: ", False)]) as seen:
        assert type(await fails(to(seen))) is AuthenticationError
    assert seen.answers == [[PASSWORD]]


async def test_a_provider_sees_the_prompt() -> None:
    """Promise 100. The request says what the server asked."""
    requests: list[PasswordRequest] = []

    async def provide(request: PasswordRequest) -> str:
        requests.append(request)
        return PASSWORD

    async with (
        recording_server(password=PASSWORD, prompts=[("Password for me: ", False)]) as seen,
        to(seen, password=provide),
    ):
        pass
    assert [request.prompt for request in requests] == ["Password for me: "]


@pytest.mark.parametrize(
    "prompts",
    [
        [("One-time \x1b]0;gotcha\x07 code: ", True)],
        [("User: \x1b[2J", True), ("Password: \x9b31m", False)],
    ],
)
async def test_a_prompt_that_wants_no_password_gets_none(prompts: list[tuple[str, bool]]) -> None:
    """Promise 100: and what it says is shown escaped."""
    async with recording_server(password="something else", prompts=prompts) as seen:
        error = await fails(to(seen))
    assert type(error) is AuthenticationError
    assert PASSWORD not in [answer for answers in seen.answers for answer in answers]
    text = "".join(traceback.format_exception(error))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


async def test_a_banner_is_shown_to_nobody_unescaped(make: MachineMaker, tmp_path: Path) -> None:
    banner = tmp_path / "banner"
    banner.write_text("\x1b]0;gotcha\x07 go away\n")
    with Sshd(extra_config=f"Banner {banner}") as server:
        error = await fails(make(server, keyfile=make_key(tmp_path / "key")))
    assert "\x1b" not in "".join(traceback.format_exception(error))


async def test_secrets_are_shown_nowhere(
    password_server: Sshd,
    password_user: TestUser,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Promises 100, 111: not in repr, log, traceback (with locals), error, pickle or a process list."""
    secret = f"secret-{secrets.token_hex(8)}"
    encoded = base64.b64encode(secret.encode()).decode()[:16]
    asyncssh.set_log_level(logging.DEBUG)
    asyncssh.set_debug_level(3)
    try:
        with caplog.at_level(logging.DEBUG):
            wrong = by_password(password_server, password_user, secret)
            error = await fails(wrong)
            unopened = make_key(tmp_path / "key", passphrase="another")
            closed = SshMachine("127.0.0.1", keyfile=unopened, passphrase=secret, config=None)
            key_error = await fails(closed)
            settings = wrong.transport.base._settings  # type: ignore[attr-defined]
            async with by_password(password_server, password_user) as machine:
                listed = (await machine.run("ps", "-eww", "-o", "args=")).stdout
                transports = machine.transport, machine.transport.base  # type: ignore[attr-defined]
                shown = [repr(machine), str(machine), *(repr(vars(transport)) for transport in transports)]
    finally:
        asyncssh.set_log_level(logging.WARNING)
        asyncssh.set_debug_level(1)
    captured = capfd.readouterr()
    places = [repr(wrong), str(wrong), repr(settings), caplog.text, listed, *captured, *shown]
    for one in (error, key_error):
        places += [str(one), repr(one), repr(pickle.dumps(one)), "".join(traceback.format_exception(one))]
    everything = "\n".join(places)
    assert secret not in everything
    assert encoded not in everything
    assert PASSWORD not in everything


def test_settings_show_no_secret_and_warn_nobody() -> None:
    with warnings.catch_warnings(record=True) as caught:
        machine = SshMachine("web1", password="hush", passphrase="hush-hush")
    assert not caught
    assert "hush" not in repr(machine.transport.base._settings)  # type: ignore[attr-defined]
