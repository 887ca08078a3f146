"""Which worker answers a request: per model version, the one with the fewest requests in flight, else the queue.

A worker is sent at most its credit (two batches, one running and one waiting beside it, or what it does in 2 ms: `link`);
the remainder waits here, first in first out, and when `job_queue_size` requests wait, wherever they do, the next is refused
at once. Not for: finding the model, which is `models`.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from msgspec.structs import replace

from ..management.routing import ModelRoute, Replica
from .dial import Dialler
from .errors import ClientTimeout, ModelNotFound, NoTicket, NoWorker, QueueFull, RequestError, WorkerDied
from .link import Call, Link
from .lookout import Lookout
from .metrics import ModelMetrics
from .options import FrontendOptions
from .tally import Count

TELL_WITHIN_SECONDS = 0.5  # of a worker's death; so long we wait to hear how it died


class SequenceHeaders(NamedTuple):
    """The headers of models with sequence batching, in small letters."""

    id: bytes = b"ts_request_sequence_id"
    start: bytes = b"ts_request_sequence_start"

    @classmethod
    def of(cls, options: FrontendOptions) -> "SequenceHeaders":
        return cls(options.sequence_id_header.lower().encode(), options.sequence_start_header.lower().encode())


class ModelQueue:
    """One version of one model. `route` is the newest that the control plane has published."""

    def __init__(
        self,
        route: ModelRoute,
        metrics: ModelMetrics,
        on_stalled: Callable[[str], None],
        dialler: Dialler,
        lookout: Lookout,
        count: Count | None = None,
        sequence_headers: SequenceHeaders | None = None,
    ) -> None:
        self.route = route
        self.by_sequence = False
        self.sequence_headers = sequence_headers or SequenceHeaders()
        self.metrics = metrics
        self.waiting: deque[Call] = deque()
        self.outstanding = 0  # waiting here or in flight
        self._links: dict[str, Link] = {}  # by worker; at most one each
        self._open: list[Link] = []  # those that may be sent requests
        self._orphans: list[tuple[Link, list[Call], float]] = []  # of workers that died
        self._count = count  # what is under way in all HTTP processes; None: there is only this one
        self._removed = False
        self._limit = route.job_queue_size
        self._on_stalled = on_stalled
        self._dialler, self._lookout = dialler, lookout
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.update(route)

    # requests

    def submit(self, call: Call) -> None:
        """Sends it, or lets it wait; one of the errors of `errors` when it can do neither.

        The requests of a sequence go to one worker, which orders them; one that names none begins its own.
        """
        self.metrics.arrived += 1
        full = (self.outstanding if self._count is None else self._count.total()) >= self._limit
        if full or not self._open:
            self._refuse_or_wait(full)
        self.outstanding += 1
        if self._count is not None:
            self._count.add(1)
        now = call.submitted = self._loop.time()
        if timeout := self.route.client_timeout_seconds:
            call.timer = self._loop.call_later(timeout, self._too_late, call, timeout)
        sequence = self._sequence_of(call) if self.by_sequence else None
        call.again = self._idempotent and sequence is None
        if sequence is not None and self._open:
            self._worker_of(sequence).send(call, now)
        elif not self.waiting and (link := self._least_busy()) is not None:
            link.send(call, now)
        else:
            self.waiting.append(call)
        self.metrics.pending(self.outstanding, len(self.waiting))

    def _too_late(self, call: Call, seconds: float) -> None:
        self.cancel(call)
        call.failed(ClientTimeout(seconds))

    def _sequence_of(self, call: Call) -> bytes:
        headers, request = self.sequence_headers, call.request
        if given := next((value for name, value in request.headers if name.lower() == headers.id), b""):
            return given
        made = f"ts-seq-{uuid.uuid4()}".encode()
        call.request = replace(request, headers=[*request.headers, (headers.id, made), (headers.start, b"true")])
        return made

    def cancel(self, call: Call) -> None:
        """The client has left: what waits is never run, what runs is told to stop."""
        call.stop_timer()
        if call.cancelled:
            return
        self.metrics.cancelled += 1
        if call.link is not None:
            call.link.cancel(call)
            return
        call.cancelled = True
        try:
            self.waiting.remove(call)
        except ValueError:
            return
        self._ended(1)

    def _refuse_or_wait(self, full: bool) -> None:
        route = self.route
        if not self._open and not (route.replicas or route.wanted_workers or route.wake_on_request):
            self.metrics.rejected += 1
            raise NoWorker(route.name, None)
        if full:
            self.metrics.rejected += 1
            raise NoTicket(route.name) if route.use_job_ticket else QueueFull(route.name, route.job_queue_size)

    def _least_busy(self) -> Link | None:
        best, fewest = None, 1 << 30
        for link in self._open:
            busy = len(link.in_flight)
            if busy < link.credit and busy < fewest:
                best, fewest = link, busy
        return best

    def _worker_of(self, sequence: bytes) -> Link:
        """The same in every HTTP process, as long as the workers are the same."""
        return max(self._open, key=lambda link: blake2b(sequence, key=link.worker_id.encode()[:64], digest_size=8).digest())

    def _ended(self, calls: int) -> None:
        self.outstanding -= calls
        if self._count is not None:
            self._count.add(-calls)
        self.metrics.pending(self.outstanding, len(self.waiting))

    # what links tell

    def opened(self, link: Link) -> None:
        self._open.append(link)
        self._measure()
        self._refill()

    def freed(self, link: Link, calls: int) -> None:
        self._ended(calls)
        if self.waiting:
            self._refill()

    def leaving(self, link: Link) -> None:
        if link in self._open:
            self._open.remove(link)
            self._measure()

    def lost(self, link: Link, calls: list[Call]) -> None:
        """Its calls are run once more if the model allows it; else told when the table says how the worker ended, or soon."""
        self.leaving(link)
        if self._links.get(link.worker_id) is link:
            del self._links[link.worker_id]  # `tick` connects again as long as the table lists the worker
        again = [call for call in calls if call.again and not call.cancelled and not self._removed]
        for call in reversed(again):
            call.again, call.link = False, None
            self.waiting.appendleft(call)
        self._refill()
        if calls := [call for call in calls if call not in again]:
            self._orphans.append((link, calls, self._loop.time() + TELL_WITHIN_SECONDS))
        if self._removed:
            self._tell_orphans(float("inf"))  # nobody ticks us any more

    def _refill(self) -> None:
        while self.waiting and (link := self._least_busy()) is not None:
            link.send(self.waiting.popleft(), self._loop.time())

    def _measure(self) -> None:
        """How many requests may be here at once: those that workers run, and those that wait."""
        batch = self.route.batch_size
        running = sum(max(batch, link.hello.credit - batch) for link in self._open if link.hello)
        self._limit = running + (0 if self.route.use_job_ticket and self._open else self.route.job_queue_size)

    # what the control plane tells

    def update(self, route: ModelRoute) -> None:
        self.route = route
        self.by_sequence = bool(route.model_yaml.get("sequenceBatching"))
        self._idempotent = bool(route.model_yaml.get("idempotent"))
        listed = {replica.worker_id for replica in route.replicas}
        for worker_id in self._links.keys() - listed:
            link = self._links.pop(worker_id)
            self.leaving(link)
            link.retire()
        self._measure()
        self._connect()
        self._tell_orphans(self._loop.time())
        if not (route.replicas or route.wanted_workers or route.wake_on_request):
            self._fail_waiting(NoWorker(route.name, None))

    def _tell_orphans(self, now: float) -> None:
        orphans, self._orphans = self._orphans, []
        for link, calls, deadline in orphans:
            if (end := self.route.ends.get(link.address)) or now > deadline:
                self._lose(link, calls, WorkerDied(f"({end})" if end else ""))
            else:
                self._orphans.append((link, calls, deadline))

    def _lose(self, link: Link, calls: list[Call], error: RequestError) -> None:
        self.metrics.failed += sum(not call.cancelled for call in calls)
        link.fail(calls, error)

    def remove(self) -> None:
        """The version is unregistered: what waits still goes to its workers, which finish what they are sent."""
        self._removed = True
        self._tell_orphans(float("inf"))
        while self.waiting and self._open:
            link = min(self._open, key=lambda link: len(link.in_flight))
            link.send(self.waiting.popleft(), self._loop.time())
        for link in list(self._links.values()):
            self.leaving(link)
            link.retire()
        self._fail_waiting(ModelNotFound(self.route.name))

    def _connect(self) -> None:
        for replica in self.route.replicas:
            if replica.worker_id not in self._links:
                self._links[replica.worker_id] = link = self._link_to(replica)
                task = self._loop.create_task(link.connect())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _link_to(self, replica: Replica) -> Link:
        return Link(replica.worker_id, replica.address, self, self._loop, self._dialler, self._lookout)

    def _fail_waiting(self, error: RequestError) -> None:
        calls, self.waiting = list(self.waiting), deque()
        self._ended(len(calls))
        for call in calls:
            call.cancelled = True
            call.failed(error)

    def tick(self, now: float) -> None:
        """Some times a second: connect to new workers, give up those that are silent."""
        self._connect()
        self._tell_orphans(now)
        timeout = self.route.response_timeout_seconds
        for link in list(self._links.values()):
            if link.in_flight and now - link.heard > timeout:
                calls, link.in_flight = list(link.in_flight.values()), {}
                self._on_stalled(link.worker_id)
                link.close()
                self._lose(
                    link, calls, WorkerDied(f"It gave no answer for {timeout:g} s (responseTimeout) and is replaced.")
                )
        if not self._open and self.waiting and now - self.waiting[0].submitted > timeout:
            self._fail_waiting(NoWorker(self.route.name, None))
