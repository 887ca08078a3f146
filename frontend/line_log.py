"""A log file that several processes append to, written in the background of the event loop some times a second.

A line is `2024-05-21T10:23:45,123 - text`. Logging must never hold a request up: what can't be written is dropped and
counted. Whoever owns the folder moves a full file away; it is opened anew within a second. Not for: what lines say.
"""

import os
import time
from pathlib import Path

MAX_LINES = 50_000  # unwritten; further lines are dropped until the file takes them


class LineLog:
    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._second = 0
        self._stamp = b""
        self._file = -1
        self.dropped = 0
        if path is not None:
            self._open(path)

    def write(self, text: bytes, now: float) -> None:
        """`now`: seconds since the epoch."""
        if self._file < 0:
            return
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second)).encode()
        if len(self._lines) < MAX_LINES:
            self._lines.append(b"%b,%03d - %b\n" % (self._stamp, (now - second) * 1000, text))
        else:
            self.dropped += 1

    def flush(self) -> None:
        """Called by the event loop."""
        if not self._lines or self._file < 0:
            return
        text, self._lines = b"".join(self._lines), []
        try:
            os.write(self._file, text)
        except OSError:
            self.dropped += text.count(b"\n")

    def reopen(self) -> None:
        """When the file was moved or deleted, a new one takes its place."""
        if self._path is None:
            return
        try:
            same = os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:
            same = False
        if not same:
            self.close()
            self._open(self._path)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)

    def close(self) -> None:
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
