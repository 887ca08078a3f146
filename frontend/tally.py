"""How many requests of a model version are under way in all HTTP processes, where there are several: `job_queue_size` is the
server's.

In `<runtime>/tally`: for each version a small file that all of them map, a number for each process, which it alone writes; who
admits a request adds them up. Two that admit at the same microsecond may both take the last place. A process that was
killed is counted until another one takes its slot. Not for: which request goes where (`dispatch`).
"""

import fcntl
import mmap
import os
from pathlib import Path
from urllib.parse import quote

from .options import FrontendOptions

NUMBER_BYTES = 8
GRPC = 1  # its process, where there is one


class Count:
    """One version's."""

    __slots__ = ("_mine", "_numbers")

    def __init__(self, numbers: memoryview, mine: int) -> None:
        self._numbers, self._mine = numbers, mine

    def add(self, change: int) -> None:
        self._numbers[self._mine] += change

    def total(self) -> int:
        return sum(self._numbers)


class Tally:
    """This process' slot among `processes`; the lock on it ends with the process."""

    def __init__(self, folder: Path, processes: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._processes = folder, processes
        self._slot = self._take_slot()
        for path in folder.glob("*.counts"):
            self._open(path)[self._slot] = 0  # what the last one in this slot had when it was killed

    def of(self, name: str, version: str) -> Count:
        return Count(self._open(self._folder / f"{quote(name, safe='')}@{quote(version, safe='')}.counts"), self._slot)

    def _take_slot(self) -> int:
        for slot in range(self._processes):
            self._lock = os.open(self._folder / f"{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
            else:
                return slot
        raise RuntimeError(f"more than {self._processes} processes serve")

    def _open(self, path: Path) -> memoryview:
        size = self._processes * NUMBER_BYTES
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, size)
            return memoryview(mmap.mmap(file, size)).cast("q")
        finally:
            os.close(file)


def tally_of(runtime: Path, options: FrontendOptions) -> Tally | None:
    """One HTTP process alone need not add up; that of gRPC then counts by itself."""
    return Tally(runtime / "tally", options.processes + GRPC) if options.processes > 1 else None
