"""Runs stage 0 in forked children of this interpreter, each with an input of its own, and tells how each ended.

Reads one JSON document: {"stage_0": text, "mark": text, "inputs": [hexadecimal]}; writes a list of
[exit status, CPU seconds, elapsed seconds, output as hexadecimal].
"""

import hashlib  # noqa: F401  # so that the children need not load it
import json
import os
import sys
import tempfile
import time
import zlib  # noqa: F401
from importlib import machinery  # noqa: F401
from typing import IO

AT_ONCE = 4


def start(order: "dict[str, str]", data: "bytes", output: "int") -> "int":
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        with tempfile.TemporaryFile() as source:  # ends where the bytes end, as a pipe does
            source.write(data)
            source.seek(0)
            os.dup2(source.fileno(), 0)
        os.dup2(output, 1)
        sys.argv[:] = ["-c", order["mark"]]
        exec(order["stage_0"], {"__name__": "__main__"})
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


def main() -> "None":
    order = json.load(sys.stdin)
    inputs = [bytes.fromhex(text) for text in order["inputs"]]
    told: list[object] = [None] * len(inputs)
    running: dict[int, tuple[int, IO[bytes], float]] = {}
    waiting = list(range(len(inputs)))
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            index = waiting.pop()
            output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed when its child has ended
            running[start(order, inputs[index], output.fileno())] = index, output, time.time()
        pid, status, usage = os.wait3(0)
        index, written, began = running.pop(pid)
        with written:
            written.seek(0)
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            told[index] = code, usage.ru_utime + usage.ru_stime, time.time() - began, written.read().hex()
    json.dump(told, sys.stdout)


main()
