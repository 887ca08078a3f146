"""A client's connection to the control plane: uvicorn's HTTP/1.1 and what that would let pass.

Headers end after so many bytes and seconds, bodies do not pause for ever, a message has one Host and says HTTP/1.0 or 1.1.
Not for: the data plane, whose connections are its own.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGER_SECONDS = 2.0  # closing on unread bytes would be a reset, which the client may see before our answer

ANSWERS = {
    400: (b"Bad Request", "BadRequestException", "Invalid HTTP message"),
    408: (b"Request Timeout", "RequestTimeoutException", "The request took too long."),
    413: (b"Request Entity Too Large", "RequestEntityTooLargeException", "Request is too large."),
    431: (b"Request Header Fields Too Large", "RequestHeaderFieldsTooLargeException", "The headers are too large."),
}


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    header_bytes: int = 65536
    header_seconds: float = 10.0  # from the connection, or a request's first byte, to the last header
    body_seconds: float = 60.0  # a body may pause for so long


class Refused(Exception):
    """Leaves the parser's callback; the client has been told."""


class Connection(HttpToolsProtocol):
    """One of `ANSWERS` ends it."""

    def __init__(self, *given: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*given, **named)
        self._limits = limits
        self._header_bytes = 0
        self._quiet_bytes = 0  # in reads that brought no head to its end and no body: of one endless field, or of chunks
        self._in_headers = self._silent = True
        self._deaf = False  # refused: what still comes is not read
        self._ends_at: float | None = None  # what we wait for has to come before
        self._timer: asyncio.TimerHandle | None = None

    # the transport's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._silent = False
        self._quiet_bytes += len(data)
        super().data_received(data)
        if max(self._header_bytes, self._quiet_bytes) > self._limits.header_bytes:
            self._refuse(431)

    # the parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes, self._quiet_bytes, self._in_headers = 0, 0, True
        self._wait(self._limits.header_seconds)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._header_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._in_headers:
            super().on_header(name, value)
        elif self._header_bytes > self._limits.header_bytes:  # trailers are counted and dropped
            self._stop(431)

    def on_headers_complete(self) -> None:
        self._quiet_bytes, self._in_headers = 0, False
        self._wait(self._limits.body_seconds)
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        lengths = [int(value) for name, value in self.headers if name == b"content-length"]
        if self._header_bytes > self._limits.header_bytes:
            self._stop(431)
        chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        if version not in ("1.0", "1.1") or len(hosts) > 1 or (not hosts if version == "1.1" else chunked):
            self._stop(400)
        if any(length > self._limits.body_bytes for length in lengths):
            self._stop(413)
        self._take_absolute_url()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._quiet_bytes = 0
        self._wait(self._limits.body_seconds)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._wait(None)
        super().on_message_complete()

    def _take_absolute_url(self) -> None:
        """`http://host/path`, as proxies are asked: its host counts, not the header's."""
        if self.url.startswith(b"/"):
            return
        host = httptools.parse_url(self.url).host
        if host:
            self.headers[:] = [*((name, value) for name, value in self.headers if name != b"host"), (b"host", host)]

    # the end

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is answered as plain HTTP; there is nothing to install."""

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser has given up; also when we have, and the answer is out."""
        self._refuse(400)

    def _stop(self, status: int) -> None:
        self._refuse(status)
        raise Refused

    def _refuse(self, status: int) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        reason, type, message = ANSWERS[status]
        body = json.dumps({"code": status, "type": type, "message": message}, indent=2).encode() + b"\n"
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, reason, len(body)) + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._wait(LINGER_SECONDS)
        else:
            self.transport.close()

    def _wait(self, seconds: float | None) -> None:
        """For the next thing to come; None: it is our turn."""
        self._ends_at = self.loop.time() + seconds if seconds else None
        if self._ends_at is None or (self._timer and self._timer.when() <= self._ends_at):
            return  # the timer will look: a body that comes in many pieces does not set it anew for each of them
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._ends_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._ends_at is None or self.transport.is_closing():
            return
        if self._ends_at > self.loop.time():
            self._timer = self.loop.call_at(self._ends_at, self._look)
        elif self._deaf or self._silent:
            self.transport.close()
        else:
            self._refuse(408)
