"""Another user by a real sudo: who is let in, what is kept apart, and that nothing of the password is seen."""

import asyncio
import contextlib
import logging
import os
import time
import traceback
from pathlib import Path

import pytest
from tests.conformance.test_running import NASTY
from tests.pace import in_time
from tests.sudoers import sudoers
from tests.transports.sudo.conftest import PASSWORD, Login

from aioremote import (
    AuthenticationError,
    ClosedError,
    CommandNotFound,
    LocalMachine,
    Machine,
    PasswordRequest,
    RemoteError,
    UnsupportedError,
    ask_once,
)
from aioremote.testing.checks import cancel_everywhere, marked_processes, until
from aioremote.testing.fakes import FakeTransport
from aioremote.testing.sshd import TestUser, create_user

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

ALL_BYTES = bytes(range(256)) * 4096


class Asked:
    """A password provider that remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[PasswordRequest] = []

    async def __call__(self, request: PasswordRequest) -> str:
        self.requests.append(request)
        await asyncio.sleep(0)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def sudo_log(logs: Path) -> str:
    return (logs / "asked").read_text() if (logs / "asked").exists() else ""


# --- let in -----------------------------------------------------------------------------------------------------------


async def test_a_provider_is_asked_when_sudo_asks_and_once_for_a_machine(login: Login, asked: TestUser) -> None:
    provider = Asked(PASSWORD)
    async with login(asked) as m:
        root = m.sudo(password=provider)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(root.run("id", "-un")) for _ in range(5)]
        assert {task.result().stdout for task in tasks} == {"root\n"}
    prompt = f"[sudo] password for {asked.name}: "
    assert provider.requests == [PasswordRequest(host=m.host, user=asked.name, prompt=prompt, attempt=1)]


async def test_where_sudo_asks_for_nothing_nobody_is_asked(login: Login, free: TestUser) -> None:
    provider = Asked("never used")
    async with login(free) as m:
        assert (await m.sudo(password=provider).run("id", "-un")).stdout == "root\n"
        assert (await m.sudo("nobody").run("id", "-un")).stdout == "nobody\n"
    assert provider.requests == []


async def test_a_password_is_not_sent_where_sudo_remembers_one(login: Login) -> None:
    """The remembered -S without a prompt: standard input is the program's alone."""
    with create_user("aioremote-once", password=PASSWORD) as user:
        rules = f"Defaults:{user.name} timestamp_type=global,timestamp_timeout=5"
        with sudoers(rules, f"{user.name} ALL=(ALL:ALL) ALL"):
            async with login(user) as m:
                root = m.sudo(password=PASSWORD)
                for _ in range(3):
                    assert (await root.run("cat", input=ALL_BYTES)).stdout_bytes == ALL_BYTES
                await m.run("sudo", "-K")


async def test_a_second_answer_may_be_the_right_one(login: Login, asked: TestUser) -> None:
    provider = Asked("wrong", PASSWORD)
    async with login(asked) as m:
        root = m.sudo(password=provider)
        assert (await root.run("id", "-un")).stdout == "root\n"
        assert (await root.run("id", "-un")).stdout == "root\n"
    assert [request.attempt for request in provider.requests] == [1, 2]


# --- not let in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "function"])
async def test_a_wrong_password_is_sent_once(login: Login, asked: TestUser, logs: Path, kind: str) -> None:
    """Promise 11. Some 2 s of it are sudo's own pause after a wrong password."""
    before = sudo_log(logs).count("incorrect password")
    async with login(asked) as m:
        root = m.sudo(password="wrong horse" if kind == "text" else Asked("wrong horse"))
        began = time.monotonic()
        with pytest.raises(AuthenticationError, match=f"wrong password for {asked.name}") as caught:
            await root.run("touch", "/never")
        assert in_time(time.monotonic() - began, 5)
        assert "wrong horse" not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(AuthenticationError, match="not sent again"):
            await root.run("true")
        assert (await m.run("id", "-un")).stdout == f"{asked.name}\n"
    await until(lambda: sudo_log(logs).count("1 incorrect password attempt") == before + 1)
    assert not os.path.exists("/never")


@pytest.mark.parametrize(
    ("rule", "password", "says"),
    [
        ("", None, "give password="),
        ("", PASSWORD, "not in the sudoers file"),
        ("{user} ALL=(nobody) ALL", PASSWORD, "not allowed to execute"),
        ("Defaults:{user} requiretty\n{user} ALL=(ALL) NOPASSWD: ALL", None, "must have a tty"),
        ("{user} ALL=(ALL) NOPASSWD: /bin/true", None, "password is required"),
    ],
    ids=["no-password", "not-in-sudoers", "other-target", "requiretty", "other-command"],
)
async def test_who_is_not_let_through_is_told_why(login: Login, rule: str, password: str | None, says: str) -> None:
    with create_user(f"none-{os.getpid()}", password=PASSWORD) as user, sudoers(rule.format(user=user.name)):
        async with login(user) as m:
            with pytest.raises(AuthenticationError, match=says) as caught:
                await m.sudo(password=password).run("true")
    assert f"sudo does not let {user.name} become root" in str(caught.value)
    assert caught.value.host == m.host


async def test_a_user_that_does_not_exist_is_named(login: Login, free: TestUser) -> None:
    async with login(free) as m:
        with pytest.raises(AuthenticationError, match=r"become no-such-user: .*no-such-user"):
            await m.sudo("no-such-user").run("true")
        with pytest.raises(ValueError, match="user name '-s'"):
            m.sudo("-s")


async def test_a_host_without_sudo_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport(LocalMachine().transport).on("sudo", returncode=127, stderr=b"sh: sudo: not found\n")
    async with Machine(fake, host="fake") as m:
        with pytest.raises(UnsupportedError, match="no sudo"):
            await m.sudo().run("true")
    monkeypatch.setenv("PATH", "/nowhere")
    async with LocalMachine() as m:
        with pytest.raises(UnsupportedError, match="no sudo"):
            await m.sudo().run("true")


async def test_an_unknown_question_is_not_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("aioremote.transports.sudo.entry.ANSWER_SECONDS", 0.3)
    program = tmp_path / "sudo"
    program.write_text("#!/bin/sh\nprintf 'Token for \\033you: ' >&2; cat\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with LocalMachine() as m:
        with pytest.raises(AuthenticationError, match=r"neither asked .*: Token for \?you:"):
            await m.sudo(password="not for this").run("true")


# --- kept apart -------------------------------------------------------------------------------------------------------


async def test_streams_are_the_programs_own(login: Login, asked: TestUser) -> None:
    """Promise 47: a MiB of all byte values, both ways, with a prompt before."""
    async with login(asked) as m:
        result = await m.sudo(password=PASSWORD).run("tee", "/dev/stderr", input=ALL_BYTES)
        assert result.stdout_bytes == ALL_BYTES
        assert result.stderr_bytes == ALL_BYTES


async def test_streams_are_the_programs_own_with_a_lecture_and_io_logging(login: Login, logged: TestUser) -> None:
    """The same while the program runs: what it writes last, sudo 1.9.13 may lose when it logs (explanation/limits)."""
    async with login(logged) as m:
        root = m.sudo(password=PASSWORD)
        async with root.start("cat") as process, asyncio.TaskGroup() as group:
            assert process.stdin is not None
            group.create_task(process.stdin.send(ALL_BYTES))
            echoed = b""
            while len(echoed) < len(ALL_BYTES):
                echoed += await process.stdout.receive()
            assert echoed == ALL_BYTES
        assert (await root.run("true")).stderr_bytes == b""
        assert (await root.shell("tty; echo out", pty=True)).stdout.splitlines()[-1] == "out"


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "fish", "tcsh"])
async def test_arguments_and_values_are_exact_under_every_login_shell(login: Login, shell: str) -> None:
    """Promises 45, 55."""
    with create_user(f"aioremote-{shell}", shell) as user, sudoers(f"{user.name} ALL=(ALL:ALL) NOPASSWD: ALL"):
        async with login(user) as m:
            root = m.sudo()
            env = {f"V{number}": word for number, word in enumerate(NASTY)} | {"LD_PRELOAD": "", "UID": "7"}
            for pty in (False, True):
                script = "import os, sys; print([list(map(os.fsencode, sys.argv[1:])), dict(os.environb)])"
                result = await root.run("python3", "-c", script, *NASTY, env=env, pty=pty)
                argv, environ = eval(result.stdout)  # the repr of bytes
                assert argv == [word if isinstance(word, bytes) else word.encode() for word in NASTY]
                for name, value in env.items():
                    assert environ[name.encode()] == (value if isinstance(value, bytes) else value.encode())
                assert environ[b"HOME"] == b"/root"


async def test_a_directory_is_entered_as_the_other_user(login: Login, free: TestUser) -> None:
    async with login(free) as m, m.tempdir() as private:
        root = m.sudo()
        assert (await root.run("pwd", cwd=str(private))).stdout == f"{private}\n"
        assert (await root.run("pwd")).stdout == f"{free.home}\n"
        with root.cwd(".."):
            assert (await root.run("pwd")).stdout == "/home\n"
        with pytest.raises(PermissionError) as caught:
            await m.sudo("nobody").run("pwd", cwd=str(private / "x"))
        assert caught.value.filename == str(private / "x")


async def test_a_user_whose_shell_lets_nobody_in(login: Login, free: TestUser) -> None:
    with create_user("aioremote-nologin", "/usr/sbin/nologin") as target:
        async with login(free) as m:
            nologin = m.sudo(target.name)
            assert (await nologin.run("id", "-un")).stdout == f"{target.name}\n"
            assert (await nologin.facts()).user == target.name
            async with nologin.tempdir() as folder:
                assert (await nologin.run("stat", "-c", "%U", folder)).stdout == f"{target.name}\n"


async def test_a_missing_program_is_looked_for_as_the_other_user(login: Login, free: TestUser) -> None:
    async with login(free) as m:
        with pytest.raises(CommandNotFound) as caught:
            await m.sudo().run("no-such-program")
        assert "/usr/sbin" in caught.value.path  # secure_path


# --- not seen ---------------------------------------------------------------------------------------------------------


def seen_in_processes(*secrets: str) -> set[str]:
    """Return which of the words stand in the arguments or the environment of any process now."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                found |= {secret for secret in secrets if secret.encode() in text}
    return found


async def test_secrets_are_nowhere_to_be_seen(
    login: Login, asked: TestUser, logs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promises 11, 111: no password in argv, environment, logs or reprs, and no variables in the argv of sudo."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncssh").setLevel(logging.DEBUG)
    async with login(asked) as m:
        root = m.sudo(password=PASSWORD)
        seen: set[str] = set()
        async with root.start("sleep", "60", env={"TOKEN": "hidden value"}) as process:
            for _ in range(20):
                seen |= seen_in_processes(PASSWORD)
                await asyncio.sleep(0)
            argv = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            parent = Path(f"/proc/{process.pid}/stat").read_text().split()[3]
            assert argv == b"sleep\x0060\0"
            assert b"sudo" in Path(f"/proc/{parent}/cmdline").read_bytes()
            assert b"hidden value" not in Path(f"/proc/{parent}/cmdline").read_bytes()
            transport = root.transport
            shown = repr([root, transport, vars(transport), process, vars(process), vars(process._far)])
        assert seen == set()
        assert PASSWORD not in shown
    assert PASSWORD not in caplog.text
    assert "hidden value" not in caplog.text + sudo_log(logs)
    assert PASSWORD not in sudo_log(logs)


# --- many machines ----------------------------------------------------------------------------------------------------


async def test_many_machines_ask_once(login: Login, asked: TestUser) -> None:
    provider = Asked(PASSWORD)
    password = ask_once(provider)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        machines = [await stack.enter_async_context(login(asked)) for _ in range(8)]
        tasks = [group.create_task(m.sudo(password=password).run("id", "-un")) for m in machines]
        await asyncio.wait(tasks)
    assert {task.result().stdout for task in tasks} == {"root\n"}
    assert len(provider.requests) == 1


async def test_a_wrong_password_is_not_tried_on_many_machines(login: Login, asked: TestUser, logs: Path) -> None:
    before = sudo_log(logs).count("incorrect password")
    provider = Asked("wrong")
    password = ask_once(provider)

    async def one(m: Machine) -> RemoteError | None:
        try:
            await m.sudo(password=password).run("true")
        except RemoteError as error:
            return error
        return None

    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        machines = [await stack.enter_async_context(login(asked)) for _ in range(8)]
        tasks = [group.create_task(one(m)) for m in machines]
        await asyncio.wait(tasks)
    errors = [task.result() for task in tasks]
    assert {type(error) for error in errors} == {AuthenticationError}
    assert sum("is not sent again" in str(error) for error in errors) == 7
    assert len(provider.requests) == 2  # the second time whether there is another
    assert sudo_log(logs).count("incorrect password") == before + 1


# --- one connection ---------------------------------------------------------------------------------------------------


async def test_closing_ends_its_own_alone(login: Login, free: TestUser, mark: str) -> None:
    async with login(free) as m:
        root = m.sudo()
        mine = await m.start("sleep", "600")
        theirs = await root.start("/bin/sh", "-c", "sleep 600; :", mark)
        assert str(root) == f"{m}#sudo:root"
        assert root.state == m.state == "connected"
        await root.aclose()
        await root.aclose()
        assert root.state == "closed"
        assert mine.returncode is None
        assert not marked_processes(mark)
        with pytest.raises(ClosedError):
            await theirs.wait()
        with pytest.raises(ClosedError, match="as root"):
            await root.run("true")
        another = m.sudo()
        await another.run("true")
        await mine.aclose()
    with pytest.raises(ClosedError):
        await another.run("true")


async def test_a_cancel_at_every_point_leaves_nothing(login: Login, logged: TestUser) -> None:
    """Promise 13 in small: with a password and an environment on the way."""
    async with login(logged) as m:
        root = m.sudo(password=PASSWORD)

        async def check() -> None:
            assert (await root.run("cat", input=b"x", env={"A": "1"}, timeout=20)).stdout == "x"

        points = await cancel_everywhere(lambda: root.run("cat", input=b"x", env={"A": "1"}), check)
    assert points > 3
