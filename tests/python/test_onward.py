"""From an interpreter on to a third machine, with what that one alone has: its ssh, its keys, its network."""

import os

from aioremote import HostKeys, SshMachine
from aioremote.testing.checks import marked_processes, until
from aioremote.testing.sshd import Sshd, TestUser


async def test_an_interpreter_reaches_a_third_machine(
    aioremote_sshd: Sshd, aioremote_user: TestUser, aioremote_no_leaks: None
) -> None:
    """The outpost of the second machine runs the ssh that carries the outpost of the third; all end with the first."""
    server = aioremote_sshd
    ssh = ["ssh", "-T", "-p", str(server.port), "-i", str(server.keyfile), "-o", "BatchMode=yes", "-F", "none"]
    ssh += ["-o", f"UserKnownHostsFile={server.known_hosts}", "-l", aioremote_user.name, server.host]
    mark = f"aioremote-mark-{os.getpid()}-onward"
    async with SshMachine(
        server.host,
        port=server.port,
        keyfile=server.keyfile,
        host_keys=HostKeys.strict(server.known_hosts),
        config=None,
        outpost="always",
    ) as second:
        third = second.within(ssh, joins="shell")
        uids = await second.python.call(os.getuid), await third.python.call(os.getuid)
        assert uids == (0, aioremote_user.uid)
        assert [x async for x in third.python.stream(range, 3)] == [0, 1, 2]
        await third.start("sleep", "600", env={"MARK": mark})
        await until(lambda: bool(marked_processes(mark)))
    await until(lambda: not marked_processes(mark))
