"""The keeper as a child of the server: started, told its task, started again after a pause when it ends.

Not for: importing Ray, which only the keeper does.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping

import msgspec

from .keeper import STOP, Task

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 3.0
STOP_SECONDS = 30.0


class ClusterService:
    def __init__(self, task: Task, environment: Mapping[str, str]) -> None:
        self._task, self._environment = task, dict(environment)
        self._keeper: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """The machines' servers are stopped too: it was this server that asked for them."""
        if self._keeping:
            self._keeping.cancel()
        keeper = self._keeper
        if keeper is None or keeper.returncode is not None or keeper.stdin is None:
            return
        keeper.stdin.write(STOP)
        try:
            await asyncio.wait_for(keeper.wait(), STOP_SECONDS)
        except TimeoutError:
            keeper.kill()

    async def _keep(self) -> None:
        while True:
            self._keeper = keeper = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "flambeau.management.cluster.keeper", env=self._environment,
                stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert keeper.stdin and keeper.stderr
            keeper.stdin.write(msgspec.json.encode(self._task) + b"\n")
            async for line in keeper.stderr:
                logger.info("cluster: %s", line.decode(errors="replace").rstrip())
            logger.warning("the cluster's keeper has ended (%s) and is started again", await keeper.wait())
            await asyncio.sleep(PAUSE_SECONDS)
