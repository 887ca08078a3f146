"""The REST as a process: an event loop reads whole bodies, threads solve. A slow client costs a socket, not a thread."""

import asyncio
import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import uvicorn

from .api import LARGEST_BODY, create_app

logger = logging.getLogger(__name__)

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8080
THREADS = 16
BODY_TIMEOUT_SECONDS = 30.0

Message = MutableMapping[str, Any]


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """INFERNO_HOST and INFERNO_PORT, or localhost:8080."""
    port = environ.get("INFERNO_PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"INFERNO_PORT={port}: not a port")
    return environ.get("INFERNO_HOST") or DEFAULT_HOST, int(port)


def serve(host: str, port: int, *, stateful: bool) -> None:
    """Until interrupted."""
    application = Bridge(create_app(stateful=stateful))
    uvicorn.run(application, host=host, port=port, log_level="warning", timeout_keep_alive=30, lifespan="off")


class Bridge:
    """An ASGI application before a WSGI one: the latter only ever sees whole, bounded requests."""

    def __init__(self, wsgi: Callable[..., Any]) -> None:
        self._wsgi = wsgi
        self._threads = ThreadPoolExecutor(THREADS)

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                body = await _whole_body(receive)
        except TimeoutError:
            body = None
        if body is None:
            status, headers, answer = 408, [(b"connection", b"close")], b""
        elif len(body) > LARGEST_BODY:
            status, headers, answer = 413, [(b"connection", b"close")], b""
        else:
            call = asyncio.get_running_loop().run_in_executor(self._threads, self._call, _environ(scope, body))
            status, headers, answer = await call
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _call(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        started: list[Any] = []
        parts = self._wsgi(environ, lambda status, headers, *_: started.extend((status, headers)))
        answer = b"".join(parts)
        status, headers = started
        return (
            int(status.split()[0]),
            [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in headers],
            answer,
        )


async def _whole_body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """None when the client went away; a byte too many when it sent too much."""
    body = bytearray()
    while len(body) <= LARGEST_BODY:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body)


def _environ(scope: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REQUEST_URI": quote(scope["path"]),
        "SERVER_NAME": str(scope["server"][0]),
        "SERVER_PORT": str(scope["server"][1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(body)),
    }
    for key, value in scope["headers"]:
        name = key.decode("latin-1").upper().replace("-", "_")
        if name not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            environ[name if name == "CONTENT_TYPE" else f"HTTP_{name}"] = value.decode("latin-1")
    return environ


if __name__ == "__main__":
    serve(*address(os.environ), stateful="-F" in sys.argv[1:])
