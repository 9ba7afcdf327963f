"""How many short commands a second go over the system's OpenSSH, 8 at once, and what do they cost this process?"""

from __future__ import annotations

from benchmarks import warm_commands
from benchmarks._answers import Answer, Figure, Run, Verdict, figures_of
from benchmarks._measure import Entry, compete
from benchmarks._server import servers

__all__ = ["run"]

AT_ONCE = 8


def run(run: Run) -> Answer:
    """Compare commands a second with ``ssh -S`` processes, and client CPU a command with asyncssh's."""
    load = {"commands": run.pick(800, 200), "at_once": AT_ONCE}
    with servers(max_sessions=200) as site:
        native = {**load, "native": True}
        entries = [
            Entry("aioremote, native", warm_commands.ours, site, native, note="a mux session each"),
            Entry("aioremote, native, outpost", warm_commands.ours, site, {**native, "outpost": "always"}),
            Entry("ControlMaster", warm_commands.control_master, site, load, note="`ssh -S` processes"),
            Entry("asyncssh", warm_commands.asyncssh, site, load),
        ]
        values = compete(entries, run.pick(5, 2), run.say)
    names = [entry.name for entry in entries if entry.name != "ControlMaster"]
    return Answer(
        "native_commands",
        f"commands over the system's OpenSSH, {AT_ONCE} at once",
        [
            *figures_of(values, "per_s", "commands/s"),
            *(Figure(name, values.spread(name, "cpu_ms"), "ms of client CPU each") for name in names),
        ],
        [
            Verdict("ControlMaster", 3.0, values.ratio("aioremote, native", "ControlMaster", "per_s"), at_least=True),
            Verdict("asyncssh's client CPU", 0.3, values.ratio("aioremote, native", "asyncssh", "cpu_ms")),
            Verdict(
                "asyncssh's client CPU, with an outpost",
                0.3,
                values.ratio("aioremote, native, outpost", "asyncssh", "cpu_ms"),
            ),
        ],
        raw=values.rounds,
    )
