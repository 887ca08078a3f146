"""The models as an HTTP process sees them: the routing table, a queue per version, and `call` and `stream` for protocols.

The table is compared on each request (one read of shared memory), so a request that arrives after a management call has
returned sees its effect. Not for: state of any kind; all of it comes from the table and goes with the process.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..handlers.protocol import RequestHead, ResponseHead
from ..management.routing import RouteReader, Table
from .dial import Dialler
from .dispatch import ModelQueue, SequenceHeaders
from .errors import (
    ModelError,
    ModelNotFound,
    ModelVersionNotFound,
    RequestError,
    ResponseTooLarge,
    SlowReader,
    Starting,
    WorkerDied,
)
from .link import Call
from .lookout import Lookout
from .metrics import Metrics
from .tally import Tally

TICK_SECONDS = 0.1


class Models:
    """`stalled(worker_id)` and `wake(model, version)` tell the control plane."""

    def __init__(
        self,
        runtime: Path,
        metrics: Metrics,
        stalled: Callable[[str], None],
        wake: Callable[[str, str], None],
        max_response_bytes: int = 1 << 30,
        backlog_bytes: int = 1 << 20,
        tally: Tally | None = None,
        busy_poll_seconds: float = 0.0,
        sequence_headers: SequenceHeaders | None = None,
    ) -> None:
        self.table = Table()
        self.max_response_bytes = max_response_bytes
        self.backlog_bytes = backlog_bytes  # chunks that nobody has taken from a stream, until it is given up
        self._reader = RouteReader(runtime)
        self._dialler, self._lookout = Dialler(runtime), Lookout(busy_poll_seconds)
        self._metrics = metrics
        self._stalled = stalled
        self._wake = wake
        self._tally = tally
        self._sequence_headers = sequence_headers
        self._queues: dict[tuple[str, str], ModelQueue] = {}
        self.refresh()

    def refresh(self) -> None:
        """Takes over a new table, if there is one; what was found before may then be stale."""
        table = self._reader.table()
        if table is self.table:
            return
        self.table = table
        routes = {(name, version): route for name, versions in table.models.items() for version, route in versions.items()}
        for key in self._queues.keys() - routes.keys():
            self._queues.pop(key).remove()
        for key, route in routes.items():
            if (queue := self._queues.get(key)) is not None:
                queue.update(route)
            else:
                count = self._tally.of(*key) if self._tally else None
                self._queues[key] = ModelQueue(
                    route,
                    self._metrics.model(*key),
                    self._stalled,
                    self._dialler,
                    self._lookout,
                    count,
                    self._sequence_headers,
                )

    def find(self, name: str, version: str | None = None) -> ModelQueue:
        """The version, or the default one; ModelNotFound or ModelVersionNotFound, Starting where it may still come."""
        self.refresh()
        versions = self.table.models.get(name)
        if not versions:
            raise Starting() if self.table.starting else ModelNotFound(name)
        wanted = version or self.table.defaults.get(name) or next(iter(versions))
        if wanted not in versions:
            if self.table.starting:
                raise Starting()
            raise ModelVersionNotFound(name, wanted)
        return self._queues[name, wanted]

    def tick(self, now: float) -> None:
        self.refresh()
        for (name, version), queue in self._queues.items():
            queue.tick(now)
            if queue.waiting and queue.route.wake_on_request and not queue.route.replicas:
                self._wake(name, version)

    async def call(
        self,
        queue: ModelQueue,
        operation: str,
        body: bytes,
        *,
        request_id: str = "",
        headers: list[tuple[bytes, bytes]] | None = None,
        priority: int = 0,
    ) -> "Answer":
        """One answer, whole: a stream's chunks are joined. Cancelling the task cancels the request."""
        async with self.stream(
            queue, operation, body, request_id=request_id, headers=headers, priority=priority, whole=True
        ) as stream:
            head = await stream.head()
            parts = [part async for part in stream]
        return Answer(head, b"".join(parts))

    def stream(
        self,
        queue: ModelQueue,
        operation: str,
        body: bytes,
        *,
        request_id: str = "",
        headers: list[tuple[bytes, bytes]] | None = None,
        priority: int = 0,
        whole: bool = False,
    ) -> "Stream":
        """The answer in chunks as they come; one chunk when the worker answers at once.

        `whole`: the client gets it in one piece, so its size is limited, not what waits to be taken.
        """
        head = RequestHead(operation, request_id, headers or [], priority=priority)
        if whole:
            return Stream(head, body, queue, most_bytes=self.max_response_bytes)
        return Stream(head, body, queue, backlog_limit=self.backlog_bytes)


@dataclass(frozen=True)
class Answer:
    head: ResponseHead
    body: bytes


class Stream(Call):
    """`async with models.stream(…) as stream:` — `await stream.head()`, then `async for chunk in stream`.

    Raises what `errors` names: QueueFull and NoWorker on entering, ModelError when the handler refuses, WorkerDied when
    its process ends, SlowReader when a chunk comes while more than `backlog_limit` bytes of earlier ones still lie here,
    ResponseTooLarge beyond `most_bytes`. Leaving the block early cancels the request in the worker.
    """

    __slots__ = (
        "_backlog", "_backlog_limit", "_chunks", "_entered", "_error", "_finished", "_head", "_most_bytes", "_queue", "_size",
        "_waiter",
    )  # fmt: skip

    def __init__(
        self,
        request: RequestHead,
        body: bytes,
        queue: ModelQueue,
        backlog_limit: float = math.inf,
        most_bytes: float = math.inf,
    ) -> None:
        super().__init__(request, body)
        self._queue = queue
        self._chunks: deque[bytes] = deque()
        self._size, self._most_bytes = 0, most_bytes
        self._backlog, self._backlog_limit = 0, backlog_limit
        self._head: ResponseHead | None = None
        self._error: RequestError | None = None
        self._finished = False
        self._waiter: asyncio.Future[None] | None = None
        self._entered = 0.0

    async def __aenter__(self) -> "Stream":
        self._entered = asyncio.get_running_loop().time()
        self._queue.submit(self)
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._finished:
            self._finished = True
            self._queue.cancel(self)

    async def head(self) -> ResponseHead:
        while self._head is None:
            await self._more()
        return self._head

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._finished and self._error is None:
                raise StopAsyncIteration
            await self._more()
        chunk = self._chunks.popleft()
        self._backlog -= len(chunk)
        return chunk

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # frames

    def answered(self, head: ResponseHead, body: memoryview) -> None:
        self._observe(head)
        self._finished = True
        if head.error:
            param = next((value for name, value in head.headers if name == "param"), None)
            self._error = ModelError(head.status, head.error, bytes(body).decode(errors="replace"), param)
        elif len(body) > self._most_bytes:
            self._error = ResponseTooLarge(int(self._most_bytes))
        else:
            self._head = head
            if body:
                self._chunks.append(bytes(body))
                self._backlog += len(body)
        self._wake()

    def started(self, head: ResponseHead) -> None:
        self._observe(head)
        self._head = head
        self._wake()

    def chunk(self, body: memoryview) -> None:
        self._size += len(body)
        if self._size > self._most_bytes:
            self._give_up(ResponseTooLarge(int(self._most_bytes)))
        elif self._backlog > self._backlog_limit and self._waiter is None:  # else it has not had its turn yet
            self._give_up(SlowReader("The client does not read its stream."))
        else:
            self._chunks.append(bytes(body))
            self._backlog += len(body)
            self._wake()

    def _give_up(self, error: RequestError) -> None:
        self._queue.cancel(self)
        self.failed(error)

    def ended(self, error: str) -> None:
        self._finished = True
        if error:
            self._error = WorkerDied(error)
        self._wake()

    def failed(self, error: RequestError) -> None:
        self.stop_timer()
        self._finished = True
        self._error = error
        self._wake()

    def _observe(self, head: ResponseHead) -> None:
        self.stop_timer()
        now = asyncio.get_running_loop().time()
        self._queue.metrics.observe(
            head.status, now - self._entered, self.sent - self.submitted + head.queue_seconds, head.handler_seconds
        )
