"""Runs the program of its arguments, and replaces a mark in what goes in and out: a road on which bits fall over."""

import os
import subprocess
import sys
import threading

MARK, OTHER = b"<the mark in the file>", b"<the mark in the fi1e>"


def relay(source: int, target: int) -> None:
    kept = b""
    while data := os.read(source, 65536):
        data = (kept + data).replace(MARK, OTHER)
        keep = next((n for n in range(min(len(MARK) - 1, len(data)), 0, -1) if MARK.startswith(data[-n:])), 0)
        kept = data[len(data) - keep :]
        write(target, data[: len(data) - keep])
    write(target, kept)
    os.close(target)


def write(target: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(target, data) :]
    except BrokenPipeError:  # what ends early does not want the rest
        pass


def main() -> int:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    threading.Thread(target=relay, args=(0, os.dup(process.stdin.fileno())), daemon=True).start()
    process.stdin.close()
    out = threading.Thread(target=relay, args=(process.stdout.fileno(), 1))
    out.start()
    out.join()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
