"""Runs in Windows: a daemon that ends in order when a file appears, and then another at the same pipe."""

import asyncio
import os
import sys

from aioremote.daemon import DaemonConfig, serve


async def main() -> None:
    pipe, sign = sys.argv[1:]
    config = DaemonConfig(listen=pipe)
    async with serve(config):
        print("listening", flush=True)
        while not os.path.exists(sign):  # noqa: ASYNC110  # which another system makes
            await asyncio.sleep(0.05)
    async with serve(config):
        print("listening again", flush=True)
    print("ended", flush=True)


asyncio.run(main())
