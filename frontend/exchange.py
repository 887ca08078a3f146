"""One HTTP request and its answer.

The hot path answers with `respond()`, or `start() write()… finish()`, straight from a worker's frames; everything else is
an ASGI application, for which `receive` and `send` translate. What every answer carries (the request's id, TorchServe's
cache headers, CORS) is added here. Not for: parsing and time limits, which are `connection`'s.
"""

import asyncio
import http
import re
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from ..management.jwt_auth import Bearer
    from .connection import Connection

Headers = Iterable[tuple[str | bytes, str | bytes]]

STATUS_LINES = {status: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
FIXED = (
    b"Pragma: no-cache\r\nCache-Control: no-cache; no-store, must-revalidate, private\r\n"
    b"Expires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
)
OURS = {  # names that no handler sets: they belong to the connection, or are always the same
    b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"upgrade", b"trailer",
    b"x-request-id", b"pragma", b"cache-control", b"expires",
}  # fmt: skip

USABLE_ID = re.compile(rb"[!-~]{1,128}")


class Exchange:
    __slots__ = (
        "_chunked", "_pending_start", "authorization", "bare", "bearer", "body", "complete", "connection", "headers", "host",
        "keep_alive", "method", "on_leave", "origin", "request_id", "started_at", "status", "url", "version",
    )  # fmt: skip

    def __init__(self, connection: "Connection", method: bytes, url: bytes, version: bytes, request_id: str) -> None:
        self.connection = connection
        self.method = method
        self.url = url
        self.version = version
        self.request_id = request_id
        self.headers: list[tuple[bytes, bytes]] = []  # as sent, names in any case
        self.host: bytes | None = None
        self.origin: bytes | None = None
        self.authorization: bytes | None = None
        self.bearer: Bearer | None = None  # who asks, with JSON web tokens
        self.body: bytes | bytearray = b""
        self.keep_alive = False
        self.status = 0  # 0: nothing has been answered yet
        self.complete = False  # the answer is written, or nobody is there to read it
        self.started_at = 0.0  # when the request had come wholly
        self.on_leave: Callable[[], object] | None = None  # called when the client leaves before the answer is complete
        self.bare = method == b"HEAD"  # the answer has no body
        self._chunked = False
        self._pending_start: MutableMapping[str, Any] | None = None

    def take_client_s_id(self) -> None:
        """Its `x-request-id`, if that can stand in headers, logs and ids."""
        for name, value in self.headers:
            if name.lower() == b"x-request-id" and USABLE_ID.fullmatch(value):
                self.request_id = value.decode("ascii")

    # answering

    def respond(
        self,
        status: int,
        body: bytes | memoryview,
        content_type: str | None = None,
        headers: Headers = (),
        reason: str = "",
    ) -> None:
        """The whole answer at once."""
        if self.complete:
            return
        if status in (204, 304):
            self.bare = True
        head = self._head(status, content_type, headers, reason, b"content-length: %d\r\n" % len(body))
        if self.bare:
            self.connection.write(head)
        elif len(body) < 65536:
            self.connection.write(b"".join((head, body)))
        else:
            self.connection.write(head)
            self.connection.write(body)
        self._done()

    def start(self, status: int, content_type: str | None = None, headers: Headers = (), reason: str = "") -> None:
        """An answer whose length is not known: in chunks, to HTTP/1.0 up to the connection's end."""
        if self.complete:
            return
        self._chunked = self.version != b"1.0"
        if not self._chunked:
            self.keep_alive = False
        self.connection.write_soon(
            self._head(status, content_type, headers, reason, b"transfer-encoding: chunked\r\n" if self._chunked else b"")
        )

    def write(self, chunk: bytes | memoryview) -> None:
        if self.complete or self.bare or not chunk:
            return
        if self._chunked:
            self.connection.write_soon(b"%x\r\n" % len(chunk), chunk, b"\r\n")
        else:
            self.connection.write_soon(chunk)

    def finish(self) -> None:
        if self.complete:
            return
        if self._chunked and not self.bare:
            self.connection.write_soon(b"0\r\n\r\n")
        self._done()

    def cut(self) -> None:
        """The stream breaks off: closed without the last chunk, so that the client can tell."""
        if not self.complete:
            self.keep_alive = False
            self._chunked = False
            self._done()

    def _done(self) -> None:
        self.complete = True
        self.on_leave = None
        self.connection.answered(self)

    def _head(self, status: int, content_type: str | None, headers: Headers, reason: str, framing: bytes) -> bytes:
        self.status = status = status if 200 <= status <= 999 else 500  # what a handler sets may be no answer's status
        connection = self.connection
        if status >= 400 or connection.front.draining:
            self.keep_alive = False
        return b"%b%b%bx-request-id: %b\r\n%b%bconnection: %b\r\n\r\n" % (
            status_line(status, reason),
            b"content-type: %b\r\n" % _text(content_type) if content_type else b"",
            b"".join([_header(name, value) for name, value in headers]) if headers else b"",
            self.request_id.encode(),
            connection.front.fixed_headers,
            framing,
            b"keep-alive" if self.keep_alive else b"close",
        )

    def seconds(self) -> float:
        return time.perf_counter() - self.started_at

    def left(self) -> None:
        """The client has gone."""
        self.complete = True
        callback, self.on_leave = self.on_leave, None
        if callback is not None:
            callback()

    # ASGI

    def scope(self) -> dict[str, Any]:
        raw_path, _, query = self.url.partition(b"?")
        connection = self.connection
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version.decode(),
            "method": self.method.decode(),
            "scheme": connection.scheme,
            "path": unquote(raw_path.decode("latin-1"), errors="replace"),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in self.headers],
            "client": connection.client,
            "server": connection.server,
            "extensions": {"flambeau.exchange": self},
        }

    async def receive(self) -> dict[str, Any]:
        """The body, which has come wholly before; then nothing, until the task is cancelled since the client left."""
        if self.body is not None:
            body, self.body = bytes(self.body), None  # type: ignore[assignment]
            return {"type": "http.request", "body": body, "more_body": False}
        while not self.complete:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's messages; the start may bring a `reason`."""
        if message["type"] == "http.response.start":
            self._pending_start = message
            return
        chunk, more = message.get("body", b""), message.get("more_body", False)
        start, self._pending_start = self._pending_start, None
        if start is not None:
            status, headers, reason = start["status"], start.get("headers", ()), start.get("reason", "")
            if not more:
                self.respond(status, chunk, headers=headers, reason=reason)
                return
            self.start(status, headers=headers, reason=reason)
        self.write(chunk)
        if not more:
            self.finish()
        elif not self.complete:
            await self.connection.drained()


def status_line(status: int, reason: str) -> bytes:
    if not reason and (line := STATUS_LINES.get(status)) is not None:  # type: ignore[call-overload]
        return bytes(line)
    return b"HTTP/1.1 %d %b\r\n" % (status, _text(reason))


def _header(name: str | bytes, value: str | bytes) -> bytes:
    name = _text(name)
    return b"" if not name or b":" in name or name.lower() in OURS else b"%b: %b\r\n" % (name, _text(value))


def _text(value: str | bytes) -> bytes:
    """What a handler gave, without the line ends that would begin another header."""
    text = value.encode("latin-1", "replace") if isinstance(value, str) else value
    return text.translate(None, b"\r\n\0") if any(end in text for end in (b"\r", b"\n", b"\0")) else text
