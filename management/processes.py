"""Child processes: started by exec, their output read as it comes, their end noticed at once; and model workers among them.

One event loop owns it all: SIGCHLD and the pipes wake it, nothing waits in a thread. Not for: when to start another one,
which is `workers`' business.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..handlers import protocol
from ..handlers.protocol import Kind, LoadFailure, Metric, Ready, RequestHead, ResponseHead, WorkerConfig

logger = logging.getLogger(__name__)

CHUNK_BYTES = 65536
LINES_KEPT = 12  # of a worker's last output, for the log's line on how it died
LAST_WORDS_SECONDS = 0.1  # for reading what an ended process had printed
LINES_PER_SECOND = 20_000  # more of a worker's output than this is counted, not logged: prints must never block it

OnLine = Callable[[str, str], None]  # (stream, line)


class LoadFailed(Exception):
    """The worker could not load its model; `final` when trying again can't help."""

    def __init__(self, cause: str, *, final: bool = False) -> None:
        super().__init__(cause)
        self.final = final


class Child:
    """A process of ours. `ended` resolves to its return code, negative for a signal, as subprocess has it."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", loop: asyncio.AbstractEventLoop, streams: "list[asyncio.Future[None]]"
    ) -> None:
        self._process = process
        self._streams = streams  # each done when the last writer has closed it
        self.pid = process.pid
        self.started = time.monotonic()
        self.ended: asyncio.Future[int] = loop.create_future()

    def poll(self) -> None:
        """When it has ended, so does what it started and left behind: it led a process group of its own."""
        if self.ended.done() or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)  # before it is reaped: the number is still its own
        self.ended.set_result(self._process.wait())

    async def all_said(self) -> None:
        """Waits until what it printed has been read, but not for somebody who still holds the pipe."""
        await asyncio.wait(self._streams, timeout=LAST_WORDS_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            self._process.send_signal(number)

    async def end(self, timeout_seconds: float) -> int:
        """Wait for its end; after `timeout_seconds` it is killed."""
        try:
            return await asyncio.wait_for(asyncio.shield(self.ended), timeout_seconds)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.ended


class Children:
    """Starts processes and reaps them. One per event loop, in the main thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._alive: set[Child] = set()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        on_line: OnLine,
        *,
        pass_fds: Sequence[int] = (),
        cwd: str | None = None,
    ) -> Child:
        pipes = {"stdout": os.pipe(), "stderr": os.pipe()}
        try:
            process = subprocess.Popen(
                argv,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=pipes["stdout"][1],
                stderr=pipes["stderr"][1],
                pass_fds=pass_fds,
                cwd=cwd,
                process_group=0,  # a Ctrl-C in the terminal is ours alone, and its own children end with it
            )
        except OSError:
            for read, _ in pipes.values():
                os.close(read)
            raise
        finally:
            for _, write in pipes.values():
                os.close(write)
        streams = [_Lines(self._loop, read, stream, on_line).closed for stream, (read, _) in pipes.items()]
        child = Child(process, self._loop, streams)
        self._alive.add(child)
        child.ended.add_done_callback(lambda _: self._alive.discard(child))
        return child

    def _reap(self) -> None:
        for child in list(self._alive):
            child.poll()

    def kill_all(self) -> None:
        for child in list(self._alive):
            child.signal(signal.SIGKILL)

    async def end_all(self, timeout_seconds: float) -> None:
        """None is left when this returns, unless the kernel takes longer."""
        self.kill_all()
        if alive := [child.ended for child in self._alive]:
            await asyncio.wait(alive, timeout=timeout_seconds)


class _Lines:
    """One end of a pipe, cut into lines until the last writer is gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: int, stream: str, on_line: OnLine) -> None:
        self._loop, self._file, self._stream, self._on_line = loop, file, stream, on_line
        self.closed: asyncio.Future[None] = loop.create_future()
        self._rest = b""
        self._second, self._lines, self._dropped = 0, 0, 0
        os.set_blocking(file, False)
        loop.add_reader(file, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._file, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._file)
            os.close(self._file)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) > CHUNK_BYTES):
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._tell(line)
        if not data:
            self.closed.set_result(None)

    def _tell(self, line: bytes) -> None:
        second = int(time.monotonic())
        if second != self._second:
            if self._dropped:
                self._on_line(self._stream, f"({self._dropped} lines were not logged)")
            self._second, self._lines, self._dropped = second, 0, 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._dropped += 1
        else:
            self._on_line(self._stream, line.decode("utf-8", "replace").rstrip("\r"))


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
        answer = self._answers[self._last_id] = self._loop.create_future()
        try:
            await self._send(protocol.pack(Kind.REQUEST, self._last_id, head, body))
            return await asyncio.wait_for(answer, timeout_seconds)
        finally:
            self._answers.pop(self._last_id, None)

    async def configure(self, config: WorkerConfig) -> None:
        await self._send(protocol.pack(Kind.CONFIG, 0, config))

    async def stop(self, timeout_seconds: float) -> None:
        """Let it finish what it has; after `timeout_seconds` it is killed."""
        await self._send(protocol.pack(Kind.STOP, 0))
        await self._child.end(timeout_seconds)

    def kill(self) -> None:
        self._child.signal(signal.SIGKILL)

    async def _send(self, frame: bytes) -> None:
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
    await worker.configure(config)
    return worker


def describe_end(code: int, out_of_memory: bool | None = None) -> str:
    """`killed by SIGKILL`, `exited with code 3`: what the operator looks for first. `out_of_memory` None: nobody knows."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hints = {None: "; out of memory?", True: ": out of memory (the kernel says so)", False: ""}
        return f"killed by {name}" + (hints[out_of_memory] if -code == signal.SIGKILL else "")
    return f"exited with code {code}"


def out_of_memory_kills() -> int | None:
    """How often the kernel has killed for memory in our container so far; None where it does not say."""
    try:
        words = Path("/sys/fs/cgroup/memory.events").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return None


SECRETS = r"FLAMBEAU_(INFERENCE|MANAGEMENT|API)_KEY|JWT_SECRET"  # no handler has any business with them


def worker_environment(environ: Mapping[str, str], hidden: str | None) -> dict[str, str]:
    """For code that is not ours: without the server's keys, and without what the operator hides."""
    return child_environment(environ, f"{SECRETS}|{hidden}" if hidden else SECRETS)


def child_environment(environ: Mapping[str, str], hidden: str | None = None, **more: str) -> dict[str, str]:
    """Ours for a child, less what `hidden` matches, and with an import path that finds this package from any folder.

    Threads of PyTorch that wait for each other sleep, unless ours says otherwise: where there are more of them than free
    cores, spinning costs far more than it saves (a model of 5 million parameters, load 9 on 2 cores: 4 against 150 tokens/s).
    """
    kept = {k: v for k, v in environ.items() if not (hidden and re.fullmatch(hidden, k))}
    paths = [os.path.abspath(p) for p in kept.get("PYTHONPATH", "").split(os.pathsep) if p]
    home = _home_unless_installed()
    kept["PYTHONPATH"] = os.pathsep.join([*paths, *([home] if home and home not in paths else [])])
    if not kept["PYTHONPATH"]:
        del kept["PYTHONPATH"]
    return {"OMP_WAIT_POLICY": "PASSIVE"} | kept | more


def _home_unless_installed() -> str | None:
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return None if os.path.basename(home) in ("site-packages", "dist-packages") else home


Tail = deque[str]


def new_tail() -> Tail:
    return deque(maxlen=LINES_KEPT)


def unused(*_: Any) -> None:
    """For callers that want no lines or no metrics."""
