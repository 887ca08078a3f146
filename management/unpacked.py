"""Unpacked archives and the environments made for them: there while somebody uses them, gone with the last who does.

A folder stands for its content, so several models may share it: what is registered twice, the functions of a workflow. Who
opens an archive holds it to the end of the block, a model until its last worker has gone. Not for: how archives are opened
(`archiver.unpack`), nor the archives themselves.
"""

import asyncio
import logging
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from ..archiver.unpack import Limits, ModelArchive, open_archive

logger = logging.getLogger(__name__)


class Unpacked:
    """One per server, in its event loop. `folder` is of no other's."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._archives, self._environments = folder, folder.parent / "environments"
        self._limits = limits
        self._held: Counter[str] = Counter()  # how many hold a content
        self._left: set[str] = set()  # contents that nobody held when they were let go
        self._opening = 0  # calls that may find a folder there which nobody holds yet
        self._numbers = count()

    @asynccontextmanager
    async def opened(self, path: Path) -> AsyncIterator[ModelArchive]:
        """What `open_archive` raises, where it can't be."""
        self._opening += 1
        try:
            archive = await asyncio.to_thread(open_archive, path, self._archives, self._limits)
            self.hold(archive)
        finally:
            self._opening -= 1
            self._remove_left()
        try:
            yield archive
        finally:
            self.let_go(archive)

    def environment(self, archive: ModelArchive) -> Path:
        """The place for it."""
        self._environments.mkdir(mode=0o700, exist_ok=True)
        return self._environments / archive.content_hash

    def hold(self, archive: ModelArchive) -> None:
        self._held[archive.content_hash] += 1

    def let_go(self, archive: ModelArchive) -> None:
        content = archive.content_hash
        self._held[content] -= 1
        if not self._held[content]:
            del self._held[content]
            self._left.add(content)
            self._remove_left()

    def _remove_left(self) -> None:
        if self._opening:
            return
        useless, self._left = self._left - self._held.keys(), set()
        for content in useless:
            for folder in (self._archives, self._environments):
                self._remove(folder / content)

    def _remove(self, folder: Path) -> None:
        """From its place at once: who opens the same archive next unpacks it anew. The files go in a thread, they may be many."""
        doomed = folder.with_name(f".left-{next(self._numbers)}")
        try:
            os.rename(folder, doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.error("%s is of no use any more and could not be removed: %s", folder, error.strerror)
            return
        asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, doomed, True)
