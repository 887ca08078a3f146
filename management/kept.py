"""A process of ours that is kept alive: started, watched, started anew with back-off, stopped by SIGTERM.

Not for: model workers, which have a control link and can fail for good.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence

from .processes import Child, Children, describe_end
from .workers import backoff

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 10.0  # who lived so long starts its back-off anew


class Kept:
    def __init__(self, name: str, children: Children, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name, self._children, self._argv = name, children, argv
        self._environment = {**environment, "FLAMBEAU_PARENT": str(os.getpid())}  # it ends with us
        self._child: Child | None = None
        self._task = asyncio.create_task(self._keep_alive(), name=name)

    async def stop(self, timeout_seconds: float) -> None:
        """It drains; after `timeout_seconds` it is killed."""
        self._task.cancel()
        if self._child:
            self._child.signal(signal.SIGTERM)
            await self._child.end(timeout_seconds)

    async def _keep_alive(self) -> None:
        delays = backoff()
        while True:
            begun = time.monotonic()
            ended = await self._one_life()
            if time.monotonic() - begun > SETTLED_SECONDS:
                delays = backoff()
            delay = next(delays)
            logger.error("%s: %s; next start in %d s", self._name, ended, delay)
            await asyncio.sleep(delay)

    async def _one_life(self) -> str:
        """How it ended."""
        try:
            self._child = self._children.spawn(self._argv, self._environment, self._log_line)
        except OSError as error:  # no memory, no process or file numbers left: there may be later
            return f"could not be started: {error.strerror}"
        return describe_end(await asyncio.shield(self._child.ended))

    def _log_line(self, stream: str, line: str) -> None:
        logger.warning("%s: %s", self._name, line)
