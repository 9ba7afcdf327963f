"""Every Python of the floor, a small entry module to ship, and roads to start Pythons on."""

import ast
import contextlib
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import astuple, dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest

import aioremote.outpost.far
from aioremote._core.deadline import Deadline
from aioremote.outpost.launch import Launched, launch
from aioremote.outpost.library import Library
from aioremote.outpost.stages import Payload
from aioremote.protocols import FarProcess, Transport
from aioremote.transports.local import LocalTransport
from aioremote.types import ProcessSpec

HERE = Path(__file__).parent
FAR = Path(aioremote.outpost.far.__file__).parent
FLOOR = ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


@cache
def pythons(wanted: tuple[str, ...] = FLOOR) -> dict[str, str]:
    """Return the path of each far Python, by its minor version; a missing one fails."""
    root = (
        os.environ.get("PYENV_ROOT")
        or subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
    )
    found = {}
    for version in wanted:
        paths = sorted(Path(root, "versions").glob(f"{version}.*/bin/python"))
        assert paths, f"Python {version} is not installed: pyenv install {version}"
        found[version] = str(paths[-1])
    return found


def payload(**modules: str) -> Payload:
    """Return stage 1 with the probe, or with the modules given, of which the first is started."""
    if modules:
        return Payload({"stage1": (FAR / "stage1.py").read_text(), **modules}, next(iter(modules)))
    sources = {name: (FAR / f"{name}.py").read_text() for name in ("stage1", "rebuild", "importer")}
    return Payload({**sources, "probe": (HERE / "probe.py").read_text()}, "probe")


class Under(LocalTransport):
    """This machine, where everything is started by another program: ``env A=b``, ``sh -c '…; exec "$@"' sh``."""

    def __init__(self, *prefix: str) -> None:
        super().__init__()
        self._prefix = tuple(os.fsencode(word) for word in prefix)

    async def start_process(self, spec: ProcessSpec) -> FarProcess:
        return await super().start_process(replace(spec, argv=self._prefix + spec.argv))


def after(script: str) -> Under:
    """Return this machine, where a piece of shell comes before everything."""
    return Under("/bin/sh", "-c", f'{script}; exec "$@"', "sh")


@dataclass(frozen=True)
class Probe:
    """A far Python that answers questions, and asks for modules meanwhile.

    Attributes:
        asked: the modules it has asked for.
    """

    launched: Launched
    library: Library = field(default_factory=lambda: Library([]))
    asked: list[str] = field(default_factory=list[str])

    async def ask(self, expression: str) -> object:
        """Return what an expression is worth at the far end."""
        await self.launched.stdin.send(expression.encode() + b"\n")
        while (line := await self._line()).startswith(b"?"):
            name = ast.literal_eval(line[1:].decode())
            self.asked.append(name)
            module = self.library.find(name)
            await self.launched.stdin.send(ascii(module and astuple(module)).encode() + b"\n")
        return ast.literal_eval(line.decode())

    async def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += await self.launched.stdout.receive()
        return line


@contextlib.asynccontextmanager
async def probing(transport: Transport, library: Library | None = None, **keywords: object) -> AsyncIterator[Probe]:
    """Launch the probe; at the end its input ends, and so does it."""
    launched = await launch(transport, payload(), deadline=Deadline(20), **keywords)  # type: ignore[arg-type]
    try:
        yield Probe(launched, library or Library([]))
        await launched.stdin.aclose()
        status = await launched.process.wait()
        assert status.returncode == 0, launched.stderr.text
    finally:
        await launched.process.aclose()


@pytest.fixture
def mark() -> str:
    """A word that marks this test's far processes, which all run on this computer."""
    return f"aioremote-mark-{secrets.token_hex(6)}"


@pytest.fixture
def fake_python(tmp_path: Path) -> Callable[[str], str]:
    """Return what makes a program that says it is Python 3.11, prints READY and then runs a piece of shell."""

    def make(then: str, version: str = "Python 3.11.7") -> str:
        path = tmp_path / f"python-{secrets.token_hex(4)}"
        path.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo {version} && exit\nready=$(echo "$4" | rev)\n{then}\n')
        path.chmod(0o755)
        return str(path)

    return make
