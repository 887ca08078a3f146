"""Flask behind an event loop: uvicorn reads each request wholly, then a thread runs the application on it.

So a slow client costs a buffer of bounded size and no thread, and the control plane's loop is never blocked by a view.
Not for: streaming in either direction, which no route of the control plane needs.
"""

import asyncio
import contextlib
import io
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

import uvicorn
from flask import Flask

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TOO_LARGE = b'{\n  "code": 413,\n  "type": "RequestEntityTooLargeException",\n  "message": "Request is too large."\n}\n'
THREADS = 32  # calls that wait for workers hold one each
HEADER_SECONDS = 10


class Adapter:
    """An ASGI application made of a WSGI one."""

    def __init__(self, app: Flask, threads: ThreadPoolExecutor, max_body_bytes: int) -> None:
        self._app, self._threads, self._max = app, threads, max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # lifespan and websockets are switched off
        body = await self._body(receive)
        if body is None:
            await _answer(send, 413, [(b"content-type", b"application/json"), (b"connection", b"close")], TOO_LARGE)
            return
        status, headers, content = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._run, _environ(scope, body)
        )
        await _answer(send, status, headers, content)

    async def _body(self, receive: Receive) -> bytes | None:
        """None: too large."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max:
                return None
            if not message.get("more_body"):
                return bytes(body)

    def _run(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            started[:] = [int(status[:3]), [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]]
            return lambda data: None

        content = b"".join(self._app.wsgi_app(environ, start_response))
        return started[0], started[1], content


class _Listener(uvicorn.Server):
    """uvicorn in somebody else's event loop: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """One listening socket and what serves it."""

    def __init__(self, app: Flask, sockets: list[socket.socket], *, max_body_bytes: int, **tls: Any) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="control")
        config = uvicorn.Config(
            Adapter(app, self._threads, max_body_bytes),
            http="httptools",
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


def _environ(scope: Message, body: bytes) -> dict[str, Any]:
    path = unquote_to_bytes(scope.get("raw_path") or scope["path"].encode())
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": (scope.get("server") or ("localhost", 0))[0],
        "SERVER_PORT": str((scope.get("server") or ("localhost", 0))[1] or 80),
        "REMOTE_ADDR": (scope.get("client") or ("", 0))[0],
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").upper().replace("-", "_"), raw_value.decode("latin-1")
        key = name if name == "CONTENT_TYPE" else f"HTTP_{name}"
        if name not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
