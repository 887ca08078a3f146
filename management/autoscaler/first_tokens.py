"""How long first tokens take: by the worker's own clock where its metrics can be read, else by ours without the way there.

The worker's is better: a client's time holds HTTP, two processes and its own waking up besides.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from .http_client import RequestFailed, Server
from .samples import parse

METRIC = "LlmTimeToFirstToken"  # a histogram of milliseconds, from the request's arrival in the worker
PATIENCE_SECONDS = 1.0  # for the metric to tell of an answer that has been given
PAUSE_SECONDS = 0.01

Stream = Callable[[], Awaitable[tuple[float, list[float]]]]  # when it was sent, when each token came


class FirstTokens:
    """Of one model, which nobody else uses meanwhile."""

    def __init__(self, server: Server, metrics: Server | None, model: str) -> None:
        self._server, self._metrics, self._model = server, metrics, model
        self._way = 0.0  # milliseconds that HTTP takes by itself, which are none of the model's

    @property
    def timed_by(self) -> Literal["worker", "client"]:
        return "client" if self._metrics is None else "worker"

    async def begin(self) -> None:
        """After the model's first answer: finds out whose clock there is."""
        self._way = await self._round_trip()
        if self._metrics is None:
            return
        try:
            count, _ = await self._told(self._metrics, beyond=0)
        except (OSError, RequestFailed, ValueError):
            count = 0
        if not count:
            self._metrics = None

    async def measure(self, stream: Stream) -> float:
        """Milliseconds to the first token of this stream."""
        if self._metrics is None:
            begun, times = await stream()
            return (times[0] - begun) * 1000 - self._way
        count, total = await self._told(self._metrics)
        begun, times = await stream()
        after, summed = await self._told(self._metrics, beyond=count)
        if after > count:
            return (summed - total) / (after - count)
        return (times[0] - begun) * 1000 - self._way

    async def _told(self, metrics: Server, beyond: int | None = None) -> tuple[int, float]:
        """How many first tokens the metrics know, and the sum of their times; waits a little for more than `beyond`."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            values = {f"{METRIC}_count": 0.0, f"{METRIC}_sum": 0.0}
            for sample in parse((await metrics.ask("GET", "/metrics")).decode()):
                if sample.name in values and self._model in (
                    sample.labels.get("ModelName"),
                    sample.labels.get("model_name"),
                ):
                    values[sample.name] += sample.value
            count, total = values.values()
            if beyond is None or count > beyond or time.monotonic() > until:
                return int(count), total
            await asyncio.sleep(PAUSE_SECONDS)

    async def _round_trip(self) -> float:
        times = []
        for _ in range(9):
            begun = time.monotonic()
            await self._server.ask("GET", "/ping")
            times.append(time.monotonic() - begun)
        return sorted(times)[len(times) // 2] * 1000
