"""What the type checkers are to know of machines and of running on them. Checked, never run."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, Self, assert_type

from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, Listener

from aioremote import (
    Address,
    Capability,
    Facts,
    FileStat,
    HostKeys,
    Job,
    JobStatus,
    Line,
    LocalMachine,
    Machine,
    PasswordRequest,
    ProcessInfo,
    RemotePath,
    RemoteTextFile,
    Result,
    SshMachine,
    SyncReport,
    Terminal,
    TransferReport,
    Transport,
    ask_once,
    copy,
)


async def password(request: PasswordRequest) -> str:
    assert_type(request.host, str)
    assert_type(request.attempt, int)
    return request.prompt


async def constructors(jump: Machine, path: Path) -> None:
    assert_type(SshMachine("web1"), SshMachine)
    SshMachine("web1", user="john", port=22, keyfile=path, password=password, passphrase="x", via=jump)
    SshMachine("web1", keyfile=["a", path], host_keys=HostKeys.accept_new(), config=None, connect_timeout=5)
    SshMachine("web1", keepalive=1.0, keepalive_count=2, agent_forwarding=True, guard="never", max_sessions=1)
    SshMachine("web1", host_keys=None, config=path, encoding="latin-1")
    SshMachine("web1", "john")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # by name
    SshMachine("web1", guard="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SshMachine("web1", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(LocalMachine(), LocalMachine)
    async with SshMachine("web1") as ssh, LocalMachine() as local:
        assert_type(ssh, SshMachine)
        assert_type(local, LocalMachine)
    assert_type(await SshMachine("web1").connect(), SshMachine)


async def plain_values(m: Machine) -> None:
    assert_type(m.host, str)
    assert_type(m.address, Address)
    assert_type(m.capabilities, frozenset[Capability])
    assert_type(m.state, str)
    assert_type(str(m), str)
    assert_type(m.transport, Transport)
    assert_type(m.path("/etc", "passwd"), RemotePath)
    assert_type(m.sudo(), Machine)
    assert_type(m.sudo("john", password=ask_once(password)), Machine)
    m.sudo("john", "x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # by name


async def asking(m: Machine) -> None:
    assert_type(await m.ping(), float)
    assert_type(await m.facts(), Facts)
    assert_type((await m.facts()).python, str | None)
    assert_type(await m.which("python3", "python"), RemotePath)
    assert_type(await m.has("git"), bool)
    assert_type(await m.processes(), list[ProcessInfo])
    assert_type(await m.pgrep("ssh.*"), list[ProcessInfo])
    async with m.tempdir() as folder:
        assert_type(folder, RemotePath)


async def running(m: Machine, near: os.PathLike[str], far: RemotePath) -> None:
    result = await m.run("ls", "-l", b"/etc", near, far, 5, 0.5)
    assert_type(result, Result)
    assert_type(result.args, tuple[str, ...])
    assert_type(result.returncode, int)
    assert_type(result.signal, str | None)
    assert_type(result.stdout, str)
    assert_type(result.stderr_bytes, bytes)
    assert_type(result.ok, bool)
    assert_type(result.elapsed, float)
    await m.run("cat", input="text", check=False, timeout=5, cwd="/srv", env={"A": 1, "B": None, "C": far}, pty=True)
    await m.run("cat", input=b"data", cwd=far, pty=Terminal(100, 40), ok_codes=range(3), max_output_bytes=None)
    await m.run(["ls"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # arguments one by one
    await m.run("ls", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await m.run("ls", shell=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(await m.shell("ls | wc -l", errors="surrogateescape"), Result)
    await m.shell("ls", "-l")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # one line


async def started(m: Machine) -> None:
    async with m.start("cat", timeout=5) as p:
        assert_type(p.stdin, ByteSendStream | None)
        assert_type(p.stdout, ByteReceiveStream)
        assert_type(p.stderr, ByteReceiveStream | None)
        assert_type(p.pid, int)
        assert_type(p.returncode, int | None)
        assert_type(p.args, tuple[str, ...])
        assert_type(await p.wait(), int)
        p.send_signal("HUP")
        p.resize(100, 40)
        async for line in p.lines():
            assert_type(line, Line)
    (await m.start_shell("cat; true")).terminate()


async def sessions(m: Machine, far: RemotePath) -> None:
    async with m.session("bash", pty=True, cwd=far, env={"A": 1}, timeout=5) as sh:
        assert_type(await sh.run("cd /tmp", input="x", check=False, timeout=5, ok_codes=(0, 1)), Result)
        assert_type(sh.pid, int)
        assert_type(sh.shell, str)


async def lines(m: Machine) -> None:
    async with m.lines("tail", "-F", "log", line_timeout=5, keep_last=10) as found:
        async for line in found:
            assert_type(line.source, Literal["stdout", "stderr"])
            assert_type(line.text, str)
            assert_type(line.host, str)
    async for line in m.lines("ls"):
        assert_type(line, Line)
    iterator: AsyncIterator[Line] = m.lines("ls")
    assert_type(await anext(iterator), Line)


async def scopes(m: Machine, far: RemotePath) -> None:
    with m.cwd("/srv"), m.cwd(far), m.env(LANG="C", BAR=None, N=1), m.env({"A": far}, B="x"):
        assert_type(await m.cwd.get(), RemotePath)
        assert_type(await m.env.get("HOME"), str | None)
        assert_type(await m.env.all(), dict[str, str])
        assert_type(str(m.cwd), str)
    assert_type(m.with_cwd(far).with_env({"A": far}, B=None), Machine)
    m.env["A"] = True
    m.env["A"] = far
    del m.env["A"]
    m.env.update({"A": 1.5}, B=None)
    m.cwd.chdir(far)
    m.env.path.insert(0, far)
    m.env.path.append("/opt/bin")
    m.env.path.remove(far)
    assert_type(await m.env.path.get(), list[RemotePath])
    assert_type(await m.env.expand("$HOME/x"), str)
    assert_type(await m.env.expanduser("~root"), str)
    assert_type(await far.expanduser(), RemotePath)


async def streams(m: Machine) -> None:
    assert_type(await m.open_connection("db", 5432), ByteStream)
    assert_type(await m.open_connection(path="/run/socket"), ByteStream)
    assert_type(await m.open_listener(0, host="localhost"), Listener[ByteStream])


async def transfers(m: Machine, near: os.PathLike[str], far: RemotePath) -> None:
    assert_type(await m.upload(near, far, progress=lambda progress: None), TransferReport)
    assert_type(await m.download("far", "near", preserve=True, durable=False), TransferReport)
    assert_type(await copy(far, near), TransferReport)
    assert_type(await m.sync(near, "far", exclude=["*.log"]), SyncReport)


async def paths(p: RemotePath) -> None:
    assert_type(p / "x", RemotePath)
    assert_type(p.parent, RemotePath)
    assert_type(await p.stat(), FileStat)
    assert_type(await p.read_bytes(), bytes)
    assert_type(await p.read_text(), str)
    assert_type(await p.resolve(), RemotePath)
    assert_type([child async for child in p.iterdir()], list[RemotePath])
    assert_type([child async for child in p.glob("*", "**/x")], list[RemotePath])
    async for folder, names, _ in p.walk():
        assert_type((folder, names), tuple[RemotePath, list[str]])
    async with p.open("rb") as binary:
        assert_type(await binary.read(), bytes)
    async with p.open() as text:
        assert_type(await text.readline(), str)
    assert_type(await p.open("w"), RemoteTextFile)
    assert_type(p.parent.name, str)
    assert_type(p.machine, Machine)
    assert_type(await p.exists(), bool)
    await p.unlink()
    await p.remove_tree()


class Site(SshMachine):
    """A machine of somebody's own keeps its type."""

    async def ready(self) -> Self:
        return await self.connect()


async def subclasses() -> None:
    async with Site("web1") as site:
        assert_type(site, Site)
        assert_type(await site.ready(), Site)


async def jobs(m: Machine) -> None:
    job = await m.detach("backup", 1, stdout=m.path("log"), stderr="log", cwd="/srv", env={"A": None}, timeout=5)
    assert_type(job, Job)
    assert_type(m.job(job.id, records=m.path("/var/jobs")), Job)
    assert_type(job.id, str)
    status = await job.status()
    assert_type(status, JobStatus)
    assert_type(status.state, Literal["running", "exited", "lost"])
    assert_type(status.returncode, int | None)
    assert_type(status.ended, float | None)
    assert_type(await job.wait(timeout=1), JobStatus)
    assert_type(await job.kill("HUP", grace=None), JobStatus)
    data, offset = await job.tail(-100, stream="stderr")
    assert_type(data, bytes)
    assert_type(offset, int)
    async with job.follow(offset) as pieces:
        async for piece in pieces:
            assert_type(piece, bytes)
    await job.forget()
    await job.tail(stream="both")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
