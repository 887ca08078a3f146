"""The control plane's listening sockets: uvicorn in the supervisor's event loop, Flask in threads behind it."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from flask import Flask

from ..wsgi import Adapter
from .connection import Connection, Limits

TOO_LARGE = b'{\n  "code": 413,\n  "type": "RequestEntityTooLargeException",\n  "message": "Request is too large."\n}\n'
THREADS = 32  # calls that wait for workers hold one each


class _Listener(uvicorn.Server):
    """uvicorn in somebody else's event loop: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """One listening socket and what serves it."""

    def __init__(self, app: Flask, sockets: list[socket.socket], limits: Limits, **tls: Any) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="control")
        config = uvicorn.Config(
            Adapter(app, self._threads, limits.body_bytes, too_large=TOO_LARGE),
            http=functools.partial(Connection, limits=limits),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=2,
            **tls,
        )
        self._server = _Listener(config)
        self._sockets = sockets
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(self._sockets))

    async def stop(self) -> None:
        """Idle, it ends at once; what it is answering, it may finish."""
        self._server.should_exit = True
        if self._task:
            if not self._server.server_state.tasks:
                self._task.cancel()
            await asyncio.wait({self._task}, timeout=5)
        self._threads.shutdown(wait=False, cancel_futures=True)
