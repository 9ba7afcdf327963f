"""The far files by way of plain programs: single operations by small scripts, trees by tar.

For hosts that offer neither SFTP nor a Python, and for another user behind sudo.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from aioremote.transports.shell_files import ShellFiles
from aioremote.transports.tar_reader import TarReader
from aioremote.transports.tar_writer import TarWriter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from aioremote._core.pieces import Piece, Tally, TreeOptions
    from aioremote.protocols import Starter

__all__ = ["TarFiles"]


class TarFiles(ShellFiles):
    """Far files over `start_process` of a transport.

    Args:
        starter: the way to the host.
        host: its name, for errors.
    """

    def __init__(self, starter: Starter, host: str) -> None:
        super().__init__(starter, host)
        self.engine = "tar"

    async def read_tree(self, root: bytes, tally: Tally) -> AsyncGenerator[Sequence[Piece]]:
        reader = TarReader(self, self._transport, self._host, root, tally)
        async with aclosing(reader.read()) as batches:
            async for batch in batches:
                yield batch

    async def write_tree(
        self, root: bytes, pieces: AsyncIterator[Sequence[Piece]], tally: Tally, options: TreeOptions
    ) -> None:
        await TarWriter(self._transport, self._host, root, tally, options).write(pieces)
