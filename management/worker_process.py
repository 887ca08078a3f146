"""One model worker's process: what it is told and what it says over its control link.

Not for: its lives one after the other, which are `workers`' business.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..handlers import protocol
from ..handlers.protocol import Kind, LoadFailure, Metric, Ready, RequestHead, ResponseHead, WorkerConfig
from .processes import CHUNK_BYTES, Child, Children, OnLine, describe_end

logger = logging.getLogger(__name__)

LINES_KEPT = 12  # of a worker's last output, for the log's line on how it died


class LoadFailed(Exception):
    """The worker could not load its model; `final` when trying again can't help."""

    def __init__(self, cause: str, *, final: bool = False) -> None:
        super().__init__(cause)
        self.final = final


class WorkerProcess:
    """One model worker: what it is told and what it says over its control link."""

    def __init__(self, child: Child, link: socket.socket, on_metric: Callable[[Metric], None]) -> None:
        self._child, self._link, self._on_metric = child, link, on_metric
        self._loop = asyncio.get_running_loop()
        self._reader = protocol.Reader()
        self._loaded: asyncio.Future[LoadFailure | None] = self._loop.create_future()
        self.operations: list[str] = []  # beyond predict and explain; known when it is loaded
        self._answers: dict[int, asyncio.Future[tuple[ResponseHead, bytes]]] = {}
        self._last_id = 0
        self._sending = asyncio.Lock()  # one frame after the other, also to a process that does not read
        self._loop.add_reader(link, self._read)
        child.ended.add_done_callback(lambda _: self._close())

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> "asyncio.Future[int]":
        return self._child.ended

    async def all_said(self) -> None:
        await self._child.all_said()

    async def loaded(self, timeout_seconds: float) -> None:
        """LoadFailed with the cause when the model is not ready in time, or never will be."""
        either: set[asyncio.Future[Any]] = {self._loaded, self._child.ended}
        await asyncio.wait(either, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._loaded.done() and not self._loaded.cancelled():
            failure = self._loaded.result()
            if failure is None:
                return
            await self._child.end(5)
            place = f" at {failure.location}" if failure.location else ""
            raise LoadFailed(
                f"{failure.phase}: {failure.exception}: {failure.message}{place}",
                final=failure.phase in ("import", "entry point"),
            )
        if self._child.ended.done():
            raise LoadFailed(describe_end(self._child.ended.result()) + " while loading its model")
        self._child.signal(signal.SIGKILL)
        await self._child.ended
        raise LoadFailed(f"did not load its model within {timeout_seconds:g} s (startup_timeout)")

    async def ask(self, head: RequestHead, body: bytes, timeout_seconds: float) -> tuple[ResponseHead, bytes]:
        """A request over the control link, such as `describe`. TimeoutError when no answer comes."""
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[tuple[ResponseHead, bytes]] = self._loop.create_future()
        self._answers[number] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._send(protocol.pack(Kind.REQUEST, number, head, body))
                return await answer
        finally:
            del self._answers[number]

    async def configure(self, config: WorkerConfig) -> None:
        await self._send(protocol.pack(Kind.CONFIG, 0, config))

    async def stop(self, timeout_seconds: float) -> None:
        """Let it finish what it has; after `timeout_seconds` it is killed."""
        telling = asyncio.create_task(self._send(protocol.pack(Kind.STOP, 0)))
        try:
            await self._child.end(timeout_seconds)
        finally:
            telling.cancel()

    def kill(self) -> None:
        self._child.signal(signal.SIGKILL)

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            if self._link.fileno() < 0:
                return  # it has ended: whoever waits for `ended` hears of it
            try:
                await self._loop.sock_sendall(self._link, frame)
            except OSError as error:
                logger.debug("Control link of %d: %s", self.pid, error)

    def _read(self) -> None:
        try:
            data = self._link.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._link)
            return
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except (protocol.ProtocolError, msgspec.MsgspecError) as error:
            logger.error("Worker %d does not speak our protocol: %s", self.pid, error)
            self.kill()

    def _take(self, frame: protocol.Frame) -> None:
        if frame.kind == Kind.READY and not self._loaded.done():
            self.operations = frame.head(Ready).operations
            self._loaded.set_result(None)
        elif frame.kind == Kind.FAILED and not self._loaded.done():
            self._loaded.set_result(frame.head(LoadFailure))
        elif frame.kind == Kind.METRICS:
            for metric in frame.head(list[Metric]):
                self._on_metric(metric)
        elif frame.kind == Kind.RESPONSE and (answer := self._answers.get(frame.id)) and not answer.done():
            answer.set_result((frame.head(ResponseHead), bytes(frame.body)))

    def _close(self) -> None:
        self._loop.remove_reader(self._link)
        self._link.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(TimeoutError("the worker has ended"))


async def start_worker(
    children: Children,
    config: WorkerConfig,
    environment: Mapping[str, str],
    on_line: OnLine,
    on_metric: Callable[[Metric], None],
    python: Sequence[str] = (),
) -> WorkerProcess:
    """exec a worker and hand it its configuration; `python` is the interpreter's command line, ours when empty."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        fd = theirs.fileno()
        argv = [*(python or (sys.executable,)), "-m", "flambeau.handlers.worker", "--control-fd", str(fd)]
        child = children.spawn(argv, environment, on_line, pass_fds=(fd,))
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    worker = WorkerProcess(child, ours, on_metric)
    try:
        await worker.configure(config)
    except BaseException:  # cancelled: nobody else knows of it yet
        worker.kill()
        raise
    return worker


Tail = deque[str]


def new_tail() -> Tail:
    return deque(maxlen=LINES_KEPT)


def unused(*_: Any) -> None:
    """For callers that want no lines or no metrics."""
