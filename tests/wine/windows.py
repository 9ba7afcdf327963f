"""A Windows of our own: Wine, with a prefix in a temporary directory, and the Windows Python of `nox -s wine`."""

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aioremote

HERE = Path(__file__).parent
PYTHON = "AIOREMOTE_WINDOWS_PYTHON"  # a directory with python.exe


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path of this machine as Windows calls it."""
    return "Z:" + os.fspath(path).replace("/", "\\")


@dataclass
class Windows:
    """Programs of it are started in `folder`; all end with it."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        # Without wbemprox platform.uname() asks the system itself, as Wine's answers break off.
        dlls = "mscoree=;mshtml=;wbemprox="
        return {**os.environ, "WINEPREFIX": str(self.folder / "prefix"), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": dlls}

    def python(self, *argv: str) -> subprocess.Popen[str]:
        """Start Python, with both outputs in one pipe (Wine gives programs no regular file there)."""
        process = subprocess.Popen(
            ["wine", str(self.folder / "python/python.exe"), "-B", *argv],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def server(self, line: str, *argv: str) -> tuple[subprocess.Popen[str], str]:
        """Start Python and wait for a line that begins so; returns the process and the line's rest."""
        process = self.python(*argv)
        assert process.stdout is not None
        said = ""
        for one in process.stdout:
            said += one
            if one.startswith(line):
                return process, one.removeprefix(line).strip()
        raise AssertionError(f"{argv} ended without {line!r}: {said}")

    def end(self) -> None:
        subprocess.run(["wineserver", "-k"], env=self.env, check=False)
        subprocess.run(["wineserver", "-w"], env=self.env, check=False, timeout=30)
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def run_windows() -> Iterator[Windows]:
    assert shutil.which("wine"), "these tests need Wine: apt-get install wine64 wine"
    assert os.environ.get(PYTHON), f"{PYTHON} names no directory with a Windows Python: run nox -s wine"
    folder = Path(tempfile.mkdtemp(prefix="wine"))
    windows = Windows(folder)
    try:
        shutil.copytree(os.environ[PYTHON], folder / "python")
        (paths,) = (folder / "python").glob("python*._pth")  # all that it has for sys.path
        library = Path(aioremote.__file__).parent.parent
        own = [shown(library), shown(sysconfig.get_path("purelib"))]
        paths.write_text("\n".join([f"{paths.name.removesuffix('._pth')}.zip", ".", *own]))
        yield windows
    finally:
        windows.end()
        shutil.rmtree(folder, ignore_errors=True)
