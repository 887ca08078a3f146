"""Child processes: started by exec, their output read as it comes, their end noticed at once.

One event loop owns it all: SIGCHLD and the pipes wake it, nothing waits in a thread. Not for: what a model worker is told
(`worker_process`), nor when to start another one (`workers`, `kept`).
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

CHUNK_BYTES = 65536
LAST_WORDS_SECONDS = 0.1  # for reading what an ended process had printed
LINES_PER_SECOND = 20_000  # more of a worker's output than this is counted, not logged: prints must never block it

OnLine = Callable[[str, str], None]  # (stream, line)


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
        """Not by Popen, which would reap one that has just ended: `poll` would never see it. Till then its number is its own."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

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
        pipes: dict[str, tuple[int, int]] = {}
        try:
            for stream in ("stdout", "stderr"):
                pipes[stream] = os.pipe()
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
