"""The five log files with the line formats of TorchServe's log4j2.xml: ts_log, model_log, access_log, ts_metrics, model_metrics.

access_log is written by the HTTP processes, ts_metrics by them, too, the others here alone. They are turned over at 100 MB and
five are kept. Not for: what is logged.
"""

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

logger = logging.getLogger(__name__)

ROTATE_BYTES, KEPT = 100 << 20, 5
LOOK_SECONDS = 2.0  # how often at the size of files that other processes write
TIME = "%Y-%m-%dT%H:%M:%S"
# One event, one line, whatever a client or a handler put into it: a terminal that shows the log must not obey it.
VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\t")} | {10: "\\n", 13: "\\r"}
LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}


@dataclass(frozen=True)
class Logs:
    folder: Path
    model: logging.Logger
    server_metrics: logging.Logger
    model_metrics: logging.Logger
    access_file: Path
    server_metrics_file: Path

    async def keep_small(self) -> None:
        """The files that other processes write, which open them anew when they are moved away. Ends only with the server."""
        written_elsewhere = [_file(self.access_file, _Line(named=False)), *self.server_metrics.handlers]
        while True:
            for handler in written_elsewhere:
                if isinstance(handler, RotatingFileHandler):
                    turn_over(handler)
            await asyncio.sleep(LOOK_SECONDS)

    def model_line(self, thread: str, stream: str, line: str) -> None:
        """`2026-11-21T08:00:00,123 [INFO ] W-9000-m_1.0-stdout MODEL_LOG - text`"""
        level = logging.INFO if stream == "stdout" else logging.WARNING
        self.model.log(level, "%s", line, extra={"worker_thread": f"{thread}-{stream}"})


def open_logs(folder: Path, metrics_folder: Path, *, debug: bool, console: bool) -> Logs:
    for path in (folder, metrics_folder):
        path.mkdir(parents=True, exist_ok=True)
    server = _file(folder / "ts_log.log", _Line(named=True))
    root = logging.getLogger()
    root.handlers = [server]
    if console:
        shown = logging.StreamHandler(sys.stdout)
        shown.setFormatter(_Line(named=True))
        root.handlers.append(shown)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for noisy in ("asyncio", "uvicorn", "uvicorn.error", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Logs(
        folder,
        _apart("MODEL_LOG", _file(folder / "model_log.log", _Line(named=True))),
        _apart("TS_METRICS", _file(metrics_folder / "ts_metrics.log", _Line(named=False))),
        _apart("MODEL_METRICS", _file(metrics_folder / "model_metrics.log", _Line(named=False))),
        folder / "access_log.log",
        metrics_folder / "ts_metrics.log",
    )


def turn_over(handler: RotatingFileHandler) -> None:
    handler.acquire()
    try:
        if os.path.getsize(handler.baseFilename) >= handler.maxBytes:
            handler.doRollover()
    except OSError as error:
        logger.error("%s could not be turned over: %s", handler.baseFilename, error.strerror)
    finally:
        handler.release()


def _file(path: Path, formatter: logging.Formatter) -> RotatingFileHandler:
    handler = RotatingFileHandler(path, maxBytes=ROTATE_BYTES, backupCount=KEPT, encoding="utf-8", errors="replace")
    handler.setFormatter(formatter)
    return handler


def _apart(name: str, handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    return logger


class _Line(logging.Formatter):
    def __init__(self, *, named: bool) -> None:
        super().__init__(datefmt=TIME)
        self._named = named

    def format(self, record: logging.LogRecord) -> str:
        when = f"{self.formatTime(record, TIME)},{int(record.msecs):03d}"
        text = record.getMessage().translate(VISIBLE)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if not self._named:
            return f"{when} - {text}"
        level = LEVELS.get(record.levelname, record.levelname)
        thread = getattr(record, "worker_thread", "main")
        return f"{when} [{level:<5}] {thread} {record.name} - {text}"
