"""The policy values and the key they are asked about; ssh-keygen says what a fingerprint is."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from aioremote.errors import HostKeyError
from aioremote.host_keys import DEFAULT_PATHS, HostKey, HostKeys, InsecureHostKeyWarning, decide

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBsTn3YTQFY2r1XqVFYqF0yqh3q7p0kW5dC1JkB1oXuT"
PIN = "SHA256:" + "A" * 43


def yes(host: str, port: int, key: HostKey) -> bool:
    return True


@pytest.fixture
def key() -> HostKey:
    return HostKey.from_openssh(ED25519)


@pytest.mark.parametrize(("kind", "bits"), [("ed25519", "256"), ("rsa", "2048"), ("ecdsa", "384")])
def test_a_key_has_the_names_that_ssh_keygen_gives_it(tmp_path: Path, kind: str, bits: str) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "a comment", "-f", path], check=True)
    public = path.with_suffix(".pub").read_text()
    shown = subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True).stdout
    key = HostKey.from_openssh(public)
    assert key.fingerprint == shown.split()[1]
    assert key.algorithm == public.split()[0]
    assert key.openssh == " ".join(public.split()[:2])
    assert HostKey(key.algorithm, key.blob) == key
    assert str(key) == f"{key.fingerprint} ({key.algorithm})"


@pytest.mark.parametrize(
    "text",
    ["", "ssh-ed25519", "ssh-ed25519 not*base64", "ssh-ed25519 AAAA", ED25519.replace("ssh-ed25519", "ssh-rsa"), "é é"],
)
def test_a_text_that_is_no_key_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="key"):
        HostKey.from_openssh(text)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0\0\0\x0bssh",
        b"\0\0\0\0",
        b"\xff\xff\xff\xffx",
        b"\0\0\0\x04a\nbc",
        b"\0\0\0\x04a,bc",
        b"\0\0\0\x04a bc",
    ],
)
def test_bytes_that_name_no_algorithm_are_a_value_error(blob: bytes) -> None:
    with pytest.raises(ValueError, match="RFC 4253"):
        HostKey("ssh-ed25519", blob)


def test_the_default_is_strict_over_the_files_of_openssh() -> None:
    assert HostKeys() == HostKeys.strict()
    assert HostKeys.strict().paths == DEFAULT_PATHS
    assert not HostKeys.strict().given_paths


def test_a_policy_takes_one_path_or_several_in_order() -> None:
    assert HostKeys.strict("a").paths == ("a",)
    assert HostKeys.accept_new(Path("a")).paths == ("a",)
    assert HostKeys.accept_new(["b", Path("a")]).paths == ("b", "a")
    moved = HostKeys.accept_new().with_paths([Path("c"), "d"])
    assert moved.paths == moved.given_paths == ("c", "d")
    assert moved.kind == "accept_new"


def test_files_decide_for_strict_and_accept_new_only() -> None:
    assert HostKeys.strict().uses_files
    assert HostKeys.accept_new().uses_files
    for policy in (HostKeys.pinned(PIN), HostKeys.callback(yes), HostKeys.insecure_no_check()):
        assert not policy.uses_files


@pytest.mark.parametrize("path", ["", [], ["a", ""]])
def test_checking_is_not_switched_off_by_a_path_that_is_missing(path: str | list[str]) -> None:
    """Promise 95: only the named value does that."""
    for make in (HostKeys.strict, HostKeys.accept_new):
        with pytest.raises(ValueError, match=r"insecure_no_check\(\)"):
            make(path)
    with pytest.raises(ValueError, match=r"insecure_no_check\(\)"):
        HostKeys.strict().with_paths(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SHA256:",
        "A" * 43,
        "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
        "sha256:" + "A" * 43,
        "SHA256:" + "A" * 42,
        "SHA256:" + "A" * 44,
        "SHA256:" + "A" * 42 + "B",
        "SHA256:" + "é" * 43,
        "SHA256:" + "A" * 42 + "\n",
        "SHA256:" + "A" * 42 + "-",
    ],
)
def test_a_malformed_fingerprint_is_told_the_form_it_should_have(text: str) -> None:
    with pytest.raises(ValueError, match=r"SHA256:.*43 base64 characters.*ssh-keygen -lf"):
        HostKeys.pinned(PIN, text)


def test_pinning_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a fingerprint"):
        HostKeys.pinned()


def test_a_padded_fingerprint_is_the_same_one() -> None:
    assert HostKeys.pinned(PIN + "=") == HostKeys.pinned(PIN)


def test_a_callback_that_cannot_be_called_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"f\(host, port, key\)"):
        HostKeys.callback(True)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", [HostKeys.strict("x"), HostKeys.pinned(PIN), HostKeys.callback(yes)])
def test_policies_are_values(policy: HostKeys) -> None:
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert hash(again) == hash(policy)
    with pytest.raises(AttributeError):
        policy.kind = "insecure_no_check"  # type: ignore[misc]


async def test_a_pinned_key_is_accepted_and_any_other_refused_with_both_fingerprints(key: HostKey) -> None:
    await decide(HostKeys.pinned(PIN, key.fingerprint), "web1", 22, key)
    with pytest.raises(HostKeyError, match="not a pinned one") as caught:
        await decide(HostKeys.pinned(PIN), "web1", 22, key)
    assert (caught.value.host, caught.value.presented, caught.value.expected) == ("web1", key.fingerprint, (PIN,))


async def test_a_callback_gets_host_port_and_key_and_may_be_async(key: HostKey) -> None:
    asked: list[object] = []

    def plain(host: str, port: int, shown: HostKey) -> bool:
        asked.append((host, port, shown))
        return True

    async def waiting(host: str, port: int, shown: HostKey) -> bool:
        return plain(host, port, shown)

    await decide(HostKeys.callback(plain), "web1", 22, key)
    await decide(HostKeys.callback(waiting), "web2", 2222, key)
    assert asked == [("web1", 22, key), ("web2", 2222, key)]


@pytest.mark.parametrize("answer", [False, None, 1, "yes"])
async def test_only_true_accepts(key: HostKey, answer: object) -> None:
    def wrong(host: str, port: int, shown: HostKey) -> bool:
        return answer  # type: ignore[return-value]

    with pytest.raises(HostKeyError, match="only True accepts") as caught:
        await decide(HostKeys.callback(wrong), "web1", 22, key)
    assert caught.value.presented == key.fingerprint


async def test_what_a_callback_raises_is_the_cause(key: HostKey) -> None:
    def broken(host: str, port: int, shown: HostKey) -> bool:
        raise LookupError(host)

    with pytest.raises(HostKeyError, match="raised LookupError") as caught:
        await decide(HostKeys.callback(broken), "web1", 22, key)
    assert isinstance(caught.value.__cause__, LookupError)


async def test_no_check_warns_each_time_and_names_the_host(key: HostKey) -> None:
    """Promise 95."""
    for _ in range(2):
        with pytest.warns(InsecureHostKeyWarning, match="web1:22"):
            await decide(HostKeys.insecure_no_check(), "web1", 22, key)


async def test_a_policy_that_was_not_made_by_a_constructor_accepts_nothing(key: HostKey) -> None:
    for kind in ("pinned", "callback", "none"):
        with pytest.raises(HostKeyError):
            await decide(HostKeys(kind), "web1", 22, key)  # type: ignore[arg-type]


def test_importing_the_policies_loads_no_ssh_library() -> None:
    code = "import sys, aioremote.host_keys; sys.exit('asyncssh' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
