"""What an HTTP process tells the control plane, over its unix socket: that a worker hangs, that a model is wanted.

Sent and forgotten: a request must never wait for the control plane. Not for: anything in the other direction, which is the
routing table's.
"""

import asyncio
import logging
import time
from pathlib import Path
from urllib.parse import quote

from .web import start_task

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 1.0  # the same thing is not said more often


class Control:
    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: dict[str, float] = {}

    def stalled(self, worker_id: str) -> None:
        logger.warning("worker %s is silent while it owes answers", worker_id)
        self._say(f"/internal/stalled/{quote(worker_id, safe='')}")

    def wake(self, model: str, version: str) -> None:
        self._say(f"/internal/wake/{quote(model, safe='')}/{quote(version, safe='')}")

    def _say(self, path: str) -> None:
        now = time.monotonic()
        self._said = {said: at for said, at in self._said.items() if now - at < REPEAT_SECONDS}
        if path not in self._said:
            self._said[path] = now
            start_task(self._post(path), self._tasks)

    async def _post(self, path: str) -> None:
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                writer.write(
                    f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )
                status = await reader.readline()
                writer.close()
            if b" 2" not in status[:12]:
                logger.warning("the control plane answered %r to %s", status[:40], path)
        except OSError as error:
            logger.warning("the control plane can not be told %s: %s", path, error)
