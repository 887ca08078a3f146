"""WSGI behind an event loop: a request is read wholly, then a thread runs the application (Flask) on it.

So a slow client costs a buffer of bounded size and no thread, and the loop is never blocked by a view. Not for: streaming in
either direction. Imports nothing of ours: the control plane and the optimizer both stand behind it.
"""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Executor
from typing import Any
from urllib.parse import unquote_to_bytes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

JSON: Headers = [(b"content-type", b"application/json"), (b"connection", b"close")]


class TooLarge(Exception):
    """The body has more bytes than are taken."""


class ClientLeft(Exception):
    """Before it had sent all of its body: half a request is none."""


class Adapter:
    """An ASGI application made of a WSGI one. `too_large` is what is answered, as JSON, to a body that is."""

    def __init__(
        self,
        app: Wsgi,
        threads: Executor,
        max_body_bytes: int,
        *,
        too_large: bytes = b"",
        body_seconds: float | None = None,
    ) -> None:
        self._app, self._threads, self._max = app, threads, max_body_bytes
        self._too_large, self._body_seconds = too_large, body_seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # lifespan and websockets are switched off
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await self._body(receive)
        except ClientLeft:
            return
        except TooLarge:
            await answer(send, 413, JSON, self._too_large)
        except TimeoutError:
            await answer(send, 408, JSON, b"")
        else:
            run = asyncio.get_running_loop().run_in_executor(self._threads, self._run, _environ(scope, body))
            await answer(send, *await run)

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            body += message.get("body", b"")
            if len(body) > self._max:
                raise TooLarge
            if not message.get("more_body"):
                return bytes(body)

    def _run(self, environ: dict[str, Any]) -> tuple[int, Headers, bytes]:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            started[:] = [int(status[:3]), [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]]
            return lambda data: None

        content = b"".join(self._app(environ, start_response))
        return started[0], started[1], content


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


async def answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
