"""One worker of a model, over all its lives: started, watched, restarted with back-off, parked when that can't help.

Its id outlives its processes, as TorchServe's do. Not for: how many there should be, which is `pool`'s.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from .processes import describe_end, out_of_memory_kills
from .worker_process import LoadFailed, WorkerProcess, new_tail

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 10.0  # a worker that lived so long after loading starts its back-off anew


class State(Enum):
    LOADING = "LOADING"
    READY = "READY"
    WAITING = "WAITING"  # for its next start
    STOPPING = "UNLOADING"
    FAILED = "FAILED"  # parked: it is not tried again


@dataclass(frozen=True)
class Death:
    """How a worker's process ended, or why it did not load, and what it printed last."""

    at: datetime
    cause: str
    lines: tuple[str, ...]


Launch = Callable[["Worker"], Awaitable[WorkerProcess]]


class Worker:
    def __init__(
        self,
        worker_id: str,
        launch: Launch,
        changed: Callable[[], None],
        *,
        label: str,
        try_command: str,
        startup_timeout: float,
        retry_seconds: float,
        gpus: list[int] | None = None,
        on_loaded: Callable[[str, float], None] = lambda name, seconds: None,
    ) -> None:
        self.id = worker_id
        self.gpus = gpus or []
        self.state = State.LOADING
        self.started_at = datetime.now(UTC)
        self.process: WorkerProcess | None = None
        self.address = ""
        self.generation = 0  # counts its processes: each gets a socket of its own
        self.restarts = 0
        self.last_error = ""
        self.ended: tuple[str, str] | None = None  # the address of the process that served last, and how it ended
        self.tail = new_tail()  # what its process has printed last
        self.last_death: Death | None = None
        self.load_seconds = 0.0
        self._launch, self._changed, self._label, self._try_command = launch, changed, label, try_command
        self._kills_before: int | None = None
        self._on_loaded = on_loaded
        self._startup_timeout, self._retry_seconds = startup_timeout, retry_seconds
        self._first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(), name=f"worker {worker_id}")

    @property
    def gpu_id(self) -> int | None:
        return self.gpus[0] if self.gpus else None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and not self.process.ended.done() else None

    async def first_outcome(self) -> str:
        """Waits for its first load; the cause of its failure, or an empty string."""
        return await asyncio.shield(self._first)

    async def stop(self, drain_seconds: float) -> None:
        """The caller has taken it from the routes: it finishes what it has and goes. While it loads it has nothing."""
        if self.state is not State.READY:
            drain_seconds = 0.0
        self._set(State.STOPPING)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.process:
            await self.process.stop(drain_seconds)
        self._tell_first("it was stopped")

    def kill(self) -> None:
        """It hangs: its next life starts when its end is seen."""
        if self.process:
            self.last_error = "silent while it owed answers (response_timeout)"
            self.process.kill()

    async def _live(self) -> None:
        delays, failing_since = backoff(), None
        while True:
            served, final = await self._one_life()
            await self._note_death()
            if served is not None and served > SETTLED_SECONDS:
                delays, failing_since = backoff(), None
            failing_since = failing_since or time.monotonic()
            if final or time.monotonic() - failing_since > self._retry_seconds:
                self._set(State.FAILED)
                self._log_end(logging.ERROR, "given up")
                return
            delay = next(delays)
            self._set(State.WAITING)
            self._log_end(logging.WARNING, f"next start in {delay} s")
            await asyncio.sleep(min(delay, max(0.0, self._retry_seconds - (time.monotonic() - failing_since)) + 0.01))
            self.restarts += 1

    async def _one_life(self) -> tuple[float | None, bool]:
        """How long it served, None if it never did; and whether another try is pointless."""
        self.generation += 1
        self.started_at = datetime.now(UTC)
        self._set(State.LOADING)
        begun = time.monotonic()
        self.process = None
        self.tail.clear()
        self._kills_before = out_of_memory_kills()
        try:
            async with asyncio.timeout(self._startup_timeout):
                self.process = await self._launch(self)
            await self.process.loaded(self._startup_timeout)
        except Exception as failure:  # none must end the watch, or the model would have no worker any more
            if not isinstance(failure, (LoadFailed, OSError)):
                logger.exception("Worker %s of %s could not be started", self.id, self._label)
            if self.process:
                self.process.kill()
            self.last_error = str(failure) or f"{type(failure).__name__} while it was started"
            self._tell_first(self.last_error)
            return None, isinstance(failure, LoadFailed) and failure.final
        self.load_seconds = time.monotonic() - begun
        self._set(State.READY)
        self._on_loaded(f"W-{self.id}-{self._label}", self.load_seconds)
        self._tell_first("")
        logger.info("Worker %s of %s is ready (pid %d, %.1f s)", self.id, self._label, self.process.pid, self.load_seconds)
        ready_at, self.last_error = time.monotonic(), ""
        code = await asyncio.shield(self.process.ended)
        words = self._describe_end(code)
        self.ended = self.address, words
        self.last_error = f"{self.last_error}: {words}" if self.last_error else words
        self._set(State.WAITING)  # whoever waits for its answers hears at once how it ended
        return time.monotonic() - ready_at, False

    def _describe_end(self, code: int) -> str:
        """With `last_error`, it was we who killed it."""
        kills = out_of_memory_kills()
        known = None if kills is None or self._kills_before is None else kills > self._kills_before
        return describe_end(code, False if self.last_error else known)

    async def _note_death(self) -> None:
        if self.process:
            await self.process.all_said()
        self.last_death = Death(datetime.now(UTC), self.last_error, tuple(self.tail))

    def _log_end(self, level: int, then: str) -> None:
        """How it ended, how to see that in the foreground, what it printed last. Not for clients: prints may name anything."""
        logger.log(
            level, "Worker %s of %s: %s; %s; to see it: %s", self.id, self._label, self.last_error, then, self._try_command
        )
        for line in self.tail:
            logger.log(level, "Worker %s of %s | %s", self.id, self._label, line)

    def _tell_first(self, cause: str) -> None:
        if not self._first.done():
            self._first.set_result(cause)

    def _set(self, state: State) -> None:
        self.state = state
        try:
            self._changed()
        except Exception:  # whoever is told may fail; the worker's life goes on
            logger.exception("Worker %s of %s: nobody could be told that it is %s", self.id, self._label, state.value)


def backoff() -> Iterator[int]:
    """0, 1, 1, 2, 3, 5, 8, … seconds."""
    here, after = 0, 1
    while True:
        yield here
        here, after = after, here + after
