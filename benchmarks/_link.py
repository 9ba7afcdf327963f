"""A slow link in a process of its own, so that its CPU is nobody's: prints its port, serves until its stdin ends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from aioremote.testing.proxy import TcpProxy
from benchmarks._measure import ROOT, Site

__all__ = ["slow_link"]


@contextlib.contextmanager
def slow_link(site: Site, delay: float) -> Generator[Site]:
    """Put `delay` seconds, each way, in front of the first host."""
    command = [sys.executable, "-m", "benchmarks._link", site.hosts[0], str(site.port), str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            host, port = process.stdout.readline().split()
            known = Path(f"{site.known_hosts}_link")
            known.write_text(f"[{host}]:{port} {site.host_public}\n")
            yield replace(site, hosts=(host,), port=int(port), known_hosts=str(known), warm_known_hosts=str(known))
        finally:
            process.communicate()


async def _serve(host: str, port: int, delay: float) -> None:
    async with TcpProxy(host, port, delay=delay) as proxy:
        print(proxy.host, proxy.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
