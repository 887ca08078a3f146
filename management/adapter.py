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
GRACE_SECONDS = 2.0  # for what is being answered when the listener is told to end
LOOK_SECONDS = 0.005
THREADS = 32  # calls that wait for workers hold one each


class _Listener(uvicorn.Server):
    """uvicorn in somebody else's event loop: signals are not its business, and it is told when to end, not asked now and then."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.asked = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.asked.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                while self.server_state.connections or self.server_state.tasks:
                    await asyncio.sleep(LOOK_SECONDS)


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
            **tls,
        )
        self._server = _Listener(config)
        self._sockets = sockets
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(self._sockets))

    async def stop(self) -> None:
        """Idle, it ends at once; what it is answering, it may finish."""
        self._server.asked.set()
        if self._task:
            await asyncio.wait({self._task}, timeout=5)
        self._threads.shutdown(wait=False, cancel_futures=True)
