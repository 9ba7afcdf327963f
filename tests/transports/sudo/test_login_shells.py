"""sudo behind every kind of login shell."""

import pytest
from tests.conformance.test_running import NASTY
from tests.sudoers import sudoers
from tests.transports.sudo.conftest import ALL, Login

from aioremote.testing.sshd import create_user

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")

EXPECTED = b"".join((word if isinstance(word, bytes) else word.encode()) + b"\0" for word in NASTY)


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "fish", "tcsh"])
async def test_nasty_words_and_values_arrive_byte_for_byte(shell: str, login: Login) -> None:
    """Promise 45, for sudo."""
    with create_user(f"aioremote-su-{shell}", shell=shell) as user, sudoers(f"{user.name} {ALL} NOPASSWD: ALL"):
        async with login(user) as base, base.sudo() as machine:
            assert (await machine.run("id", "-un")).stdout == "root\n"
            shown = await machine.run("/usr/bin/printf", "%s\\0", *NASTY)
            assert shown.stdout_bytes == EXPECTED
            piped = machine["/usr/bin/printf"]["%s\\0", NASTY] | machine["cat"]
            assert (await piped.run()).stdout_bytes == EXPECTED
            values = {f"V{number}": word for number, word in enumerate(NASTY)}
            env = (await machine.run("env", "-0", env=values)).stdout_bytes
            found = dict(item.partition(b"=")[::2] for item in env.split(b"\0") if item)
            assert [found[name.encode()] for name in values] == EXPECTED.split(b"\0")[:-1]
