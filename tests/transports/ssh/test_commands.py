"""Commands and pipelines behind every kind of login shell."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.conformance.test_running import NASTY
from tests.transports.ssh.conftest import MachineMaker

from aioremote import CommandFailed, SshMachine
from aioremote.testing.sshd import Sshd, create_user

LOGIN_SHELLS = ("dash", "bash", "zsh", "fish", "tcsh")
EXPECTED = b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in NASTY)


@pytest_asyncio.fixture(params=LOGIN_SHELLS)
async def machine(
    request: pytest.FixtureRequest, aioremote_sshd: Sshd, make: MachineMaker
) -> AsyncIterator[SshMachine]:
    """A machine whose login has this shell."""
    with create_user(f"aioremote-{request.param}", shell=request.param) as user:
        async with make(user=user.name) as made:
            yield made


async def test_nasty_words_and_values_arrive_byte_for_byte(machine: SshMachine) -> None:
    """Promises 45, 46: through binding, commands as arguments, pipelines, files and environments."""
    show = machine["/usr/bin/printf"]["%s\\0", NASTY]
    assert (await show.run()).stdout_bytes == EXPECTED
    assert (await machine["env"][machine["env"][show]].run()).stdout_bytes == EXPECTED
    both = machine["sh"]["-c", '"$@" >&2; cat', "sh", show]
    result = await (show | both | both).run()
    assert (result.stdout_bytes, result.stderr_bytes) == (EXPECTED, EXPECTED * 2)
    values = {f"V{number}": word for number, word in enumerate(NASTY)}
    env = (await (machine["env"]["-0"].with_env(values) | machine["cat"]).run()).stdout_bytes
    found = dict(item.partition(b"=")[::2] for item in env.split(b"\0") if item)
    assert [found[name.encode()] for name in values] == EXPECTED.split(b"\0")[:-1]
    async with machine.tempdir() as folder:
        for word in ("it's $HOME", "-n", "a\nb", "!x", "naïve ☃", "\\"):
            await (show > folder / word)()
            assert (await (machine["cat"] < folder / word).run()).stdout_bytes == EXPECTED


async def test_statuses_come_through(machine: SshMachine) -> None:
    result = await (machine["sh"]["-c", "exit 3"] | machine["sh"]["-c", "kill -9 $$"]).run(check=False)
    assert [(end.returncode, end.signal) for end in result.stages] == [(3, None), (-9, "KILL")]
    with pytest.raises(CommandFailed):
        await (machine["false"] | machine["cat"])()


async def test_a_pipeline_takes_one_session(aioremote_user: object, make: MachineMaker) -> None:
    """It runs where the server allows one session a connection, MaxSessions 1."""
    with Sshd(max_sessions=1) as server:
        async with make(server, max_sessions=1) as machine:
            pipe = machine["echo"]["x"] | machine["cat"] | machine["sh"]["-c", "cat; echo err >&2"]
            result = await pipe.run(timeout=20)
            assert (result.stdout, result.stages[2].stderr) == ("x\n", "err\n")
