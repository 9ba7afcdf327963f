"""What the type checkers are to know of commands and pipelines. Checked, never run."""

from pathlib import Path
from typing import assert_type

from aioremote import Command, Exit, Line, Machine, Pipeline, Result


async def binding(m: Machine, near: Path) -> None:
    ls = m["ls"]
    assert_type(ls, Command)
    assert_type(ls["-l", 5, near, m.path("x"), [b"a", ("b", ["c"])]], Command)
    names: list[str] = ["a"]
    assert_type(ls[names], Command)
    assert_type(m["env"][ls["-l"]], Command)
    assert_type(ls.with_cwd("/srv").with_env({"A": 1}, B=None), Command)
    assert_type(await ls("-l", ["a"]), str)
    assert_type(await ls.run(timeout=5, ok_codes=None), Result)
    assert_type(await ls.ok(ok_codes=range(3)), bool)
    assert_type(await ls.returncode(), int)
    assert_type(await ls.tee(), Result)
    ls[None]  # type: ignore[index]  # pyright: ignore[reportArgumentType]


async def connecting(m: Machine, local: Machine, near: Path) -> None:
    pipe = m["cat"] | m["sort"] | local["uniq"]
    assert_type(pipe, Pipeline)
    assert_type(pipe | pipe, Pipeline)
    assert_type((await pipe.run()).stages, tuple[Exit, ...])
    assert_type(m["cat"] < near, Command)
    assert_type((pipe < m.path("in")) > "out", Pipeline)
    assert_type(m["cat"] << b"data", Command)
    assert_type(m["cat"] >> near, Command)
    assert_type(pipe.stdin_from(data="x").stdout_to(near, append=True).stderr_to("e"), Pipeline)
    assert_type(m["cat"].merge_stderr(), Command)
    async with pipe.lines(line_timeout=1) as lines:
        async for line in lines:
            assert_type(line, Line)
    async with pipe.start() as process:
        assert_type(await process.wait(), int)
