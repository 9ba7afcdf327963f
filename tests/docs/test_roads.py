"""The table of what each road to a machine can do is what the transports declare."""

from pathlib import Path

from aioremote import (
    Capability,
    CommandMachine,
    DaemonMachine,
    LocalMachine,
    Machine,
    OpenSshMachine,
    SmbMachine,
    SshMachine,
)

PAGE = Path(__file__).parents[2] / "docs/reference/roads.md"
COLUMNS = {
    "commands": Capability.COMMANDS,
    "`pty=`": Capability.TERMINAL,
    "signals": Capability.SIGNALS,
    "ends trees": Capability.TREE_KILL,
    "connections": Capability.TCP_CONNECTIONS,
    "to unix sockets": Capability.UNIX_CONNECTIONS,
    "listeners": Capability.TCP_LISTENERS,
    "on unix sockets": Capability.UNIX_LISTENERS,
    "files": Capability.FILES,
}


def roads() -> dict[str, Machine]:
    ssh = SshMachine("web1", config=None)
    return {
        "`LocalMachine`": LocalMachine(),
        "`SshMachine`": ssh,
        '`SshMachine(outpost="never")`': SshMachine("web1", config=None, outpost="never"),
        "`OpenSshMachine`": OpenSshMachine("web1"),
        '`OpenSshMachine(master=False, outpost="never")`': OpenSshMachine("web1", master=False, outpost="never"),
        "`DaemonMachine`": DaemonMachine(path="/run/daemon/s"),
        "`m.sudo()`": ssh.sudo(),
        "`SmbMachine`": SmbMachine("web1", username="me", password="secret"),
        "`CommandMachine`, `m.within()`": CommandMachine(["env"]),
        "the same without a Python": CommandMachine(["env"], outpost="never"),
    }


def table() -> str:
    lines = ["| road | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, machine in roads().items():
        marks = ("yes" if capability in machine.capabilities else "" for capability in COLUMNS.values())
        lines.append(f"| {name} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def test_every_ability_has_a_column() -> None:
    assert set(COLUMNS.values()) == set(Capability)


def test_promise_133_the_table_is_what_the_roads_declare() -> None:
    made = table()
    assert made in PAGE.read_text(), f"put this into {PAGE.name}:\n{made}"
