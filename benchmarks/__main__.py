"""Runs the benchmarks; see the package's docstring for the command line."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._answers import Answer, Benchmark, Run, as_text
from benchmarks._docs import write_docs
from benchmarks._environment import environment, is_busy

QUESTIONS = (
    "fan_out",
    "known_hosts",
    "growth",
    "warm_commands",
    "reading",
    "small_files",
    "big_file",
    "fleet_upload",
    "sync_unchanged",
    "slow_files",
    "changed_file",
    "loop_stall",
    "round_trips",
    "lines",
    "idle_machines",
    "tunnels",
    "link_bulk",
    "link_round_trip",
    "link_latency",
    "bootstrap",
    "outpost_commands",
    "outpost_trips",
    "native_commands",
    "calls",
    "daemon_calls",
    "daemon_siege",
    "smb_pipes",
    "binding",
    "pipelines",
    "streaming",
)


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; 1 when a benchmark failed to run. A missed goal is a result, not a failure."""
    wanted = _arguments(argv)
    about = environment()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    if is_busy():
        print("this machine is busy: figures of elapsed time will be off")
    answers, failed = _ask(wanted.names or QUESTIONS, Run(wanted.quick, _say if wanted.verbose else _nothing))
    missed = sum(not verdict.met for answer in answers for verdict in answer.verdicts)
    goals = sum(len(answer.verdicts) for answer in answers)
    print(f"\n{goals - missed} of {goals} goals met" + (f"; failed to run: {', '.join(failed)}" if failed else ""))
    if wanted.json:
        content = {"environment": about, "quick": wanted.quick, "answers": [answer.as_json() for answer in answers]}
        Path(wanted.json).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if wanted.write_docs:
        print(f"wrote {write_docs(answers, about)}")
    return 1 if failed else 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed, as ratios against peers in the same run."
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller loads, fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write every value to a file")
    parser.add_argument("--write-docs", action="store_true", help="write docs/explanation/performance.md and its plots")
    parser.add_argument("--verbose", action="store_true", help="show each round")
    wanted = parser.parse_args(argv)
    if unknown := set(wanted.names) - set(QUESTIONS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if wanted.write_docs and wanted.quick:
        parser.error("--write-docs wants benchmarks at full size")
    return wanted


def _ask(names: Sequence[str], run: Run) -> tuple[list[Answer], list[str]]:
    answers: list[Answer] = []
    failed: list[str] = []
    for name in names:
        started = time.monotonic()
        benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").run
        print(flush=True)
        try:
            answers.append(benchmark(run))
        except Exception as error:  # noqa: BLE001  # the others still have something to say
            failed.append(name)
            print(f"{name}: failed: {error}", flush=True)
        else:
            print(f"{as_text(answers[-1])}\n  ({time.monotonic() - started:.0f} s)", flush=True)
    return answers, failed


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _nothing(text: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
