"""The data plane's processes: gunicorn's master of the HTTP processes, and the gRPC process where it is installed.

Told what to serve by one file; started, watched, replaced, drained.

Not for: its children, which it replaces itself; nor for importing any of it: the two meet in the options file's keys.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .addresses import Address
from .errors import StartError
from .processes import Child, Children, describe_end
from .workers import backoff

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 10.0
POLL_SECONDS = 0.02


class HttpMaster:
    def __init__(
        self,
        children: Children,
        environment: Mapping[str, str],
        arguments: Sequence[str],
        module: str = "flambeau.frontend.server",
    ) -> None:
        self._children, self._environment = children, environment
        self._argv = [sys.executable, "-m", module, *arguments]
        self._child: Child | None = None
        self._task = asyncio.create_task(self._keep_alive())

    async def ready(self, address: Address, timeout_seconds: float) -> None:
        """StartError when nobody accepts there in time."""
        deadline = time.monotonic() + timeout_seconds
        while not await _accepts(address):
            if time.monotonic() > deadline:
                raise StartError(
                    f"the HTTP processes do not serve {address.url} after {timeout_seconds:g} s; see ts_log.log"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self, timeout_seconds: float) -> None:
        """It drains: the requests it has are answered."""
        self._task.cancel()
        if self._child:
            self._child.signal(signal.SIGTERM)
            await self._child.end(timeout_seconds)

    async def _keep_alive(self) -> None:
        delays = backoff()
        while True:
            begun = time.monotonic()
            self._child = self._children.spawn(self._argv, self._environment, _log_line)
            code = await asyncio.shield(self._child.ended)
            if time.monotonic() - begun > SETTLED_SECONDS:
                delays = backoff()
            delay = next(delays)
            logger.error("%s %s; next start in %d s", self._argv[2], describe_end(code), delay)
            await asyncio.sleep(delay)


def write_options(runtime: Path, options: Mapping[str, Any]) -> None:
    next_ = runtime / "frontend.json.next"
    next_.write_text(json.dumps(options))
    os.replace(next_, runtime / "frontend.json")


async def _accepts(address: Address) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    try:
        if address.scheme == "unix":
            _, writer = await asyncio.open_unix_connection(address.path)
        else:
            _, writer = await asyncio.open_connection(host, address.port)
    except OSError:
        return False
    writer.close()
    return True


def _log_line(stream: str, line: str) -> None:
    logger.warning("%s", line)
