"""A server under test as a tree of processes: its CPU time, its memory, its end."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


class Tree:
    """`start` may return at once or stay; what it leaves running in its session is the server."""

    def __init__(self, argv: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self.log = cwd / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._session = self._process.pid
        self.began = time.monotonic()

    def members(self) -> list[psutil.Process]:
        found = []
        for pid in psutil.pids():
            try:
                if os.getsid(pid) == self._session and (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    def wait_ready(self, ready: Callable[[], bool], timeout_seconds: float) -> float:
        """Seconds from the start until `ready()`; RuntimeError with the log's end when it never is."""
        while time.monotonic() - self.began < timeout_seconds:
            if ready():
                return time.monotonic() - self.began
            if not self.members():
                break
            time.sleep(0.05)
        raise RuntimeError(f"not ready in {timeout_seconds} s:\n{self.log.read_text(errors='replace')[-2000:]}")

    def cpu_seconds(self) -> float:
        return sum(times.user + times.system for process in self.members() if (times := _quietly(process.cpu_times)))

    def pss_bytes(self) -> int:
        return sum(info.pss for process in self.members() if (info := _quietly(process.memory_full_info)))

    def stop(self) -> None:
        for number, seconds in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 10.0)):
            for process in self.members():
                _quietly(lambda process=process, number=number: process.send_signal(number))
            end = time.monotonic() + seconds
            while time.monotonic() < end and self.members():
                self._process.poll()
                time.sleep(0.05)
        self._process.wait(timeout=5)


class Attention:
    """Who has the processor's time from now on: a server, the load generator (whose end we wait for), or others."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._server, self._load, self._busy, self._began = tree.cpu_seconds(), _of_children(), _busy(), time.monotonic()

    def spent(self) -> tuple[float, float]:
        """Seconds of the server; the share of the whole machine that others took."""
        server, load = self._tree.cpu_seconds() - self._server, _of_children() - self._load
        whole = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return server, max(0.0, (_busy() - self._busy - server - load) / whole)


def wait_for_calm(patience_seconds: float, busy_percent: float = 15.0) -> None:
    """Until the machine idles for a moment, or for so long at most; sockets that were closed have that moment, too."""
    end = time.monotonic() + patience_seconds
    while psutil.cpu_percent(0.25) > busy_percent and time.monotonic() < end:
        pass


def _busy() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _quietly(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except psutil.Error:
        return None
