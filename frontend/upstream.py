"""One HTTP/1.1 request to another server, streamed both ways: what a reverse proxy needs and no more.

A connection a request, so that closing it tells the upstream that nobody waits any longer. Not for: choosing between
upstreams, retries or caching.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
CONNECT_SECONDS = 10.0
READ_BYTES = 65536


class UpstreamUnreachable(Exception): ...


class UpstreamBroken(Exception): ...


class UpstreamSilent(Exception): ...


@dataclass(frozen=True)
class Head:
    status: int
    headers: Headers


@dataclass
class Upstream:
    """`address` is http://host:port, https://host[:port] or unix:/path."""

    address: str
    silence_seconds: float = 60.0  # between two reads
    _tls: ssl.SSLContext | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https", "unix") or (parts.scheme != "unix" and not parts.hostname):
            raise ValueError(f"{self.address}: http://host:port, https://host or unix:/path is wanted")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None

    @asynccontextmanager
    async def request(self, method: bytes, path: bytes, headers: Headers) -> AsyncIterator["Exchange"]:
        """UpstreamUnreachable on entering; leaving closes the connection."""
        parts = urlsplit(self.address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if parts.scheme == "unix":
                    reader, writer = await asyncio.open_unix_connection(parts.path)
                else:
                    port = parts.port or (443 if self._tls else 80)
                    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=self._tls)
        except (OSError, TimeoutError):
            raise UpstreamUnreachable("The server behind this proxy can't be reached.") from None
        exchange = Exchange(reader, writer, method, self.silence_seconds)
        exchange.begin(path, (parts.netloc or "localhost").encode(), headers)
        try:
            yield exchange
        finally:
            writer.transport.abort()


class Exchange:
    """`write` and `end` the body while `head` and `pieces` bring the answer."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: bytes, silence_seconds: float
    ) -> None:
        self._reader, self._writer, self._method, self._silence = reader, writer, method, silence_seconds
        self._chunked = False
        self._answer = _Answer()
        self._parser = httptools.HttpResponseParser(self._answer)
        self._answer.status = self._parser.get_status_code

    def begin(self, path: bytes, host: bytes, headers: Headers) -> None:
        names = {name.lower() for name, _ in headers}
        self._chunked = b"transfer-encoding" in names
        own = [(b"host", host), (b"connection", b"close")] + [(b"transfer-encoding", b"chunked")] * self._chunked
        kept = [(name, value) for name, value in end_to_end(headers) if name.lower() not in (b"host", b"expect")]
        if self._chunked:
            kept = [(name, value) for name, value in kept if name.lower() != b"content-length"]
        lines = [b"%b %b HTTP/1.1" % (self._method, path), *(b"%b: %b" % header for header in own + kept), b"", b""]
        self._writer.write(b"\r\n".join(lines))

    async def write(self, data: bytes) -> None:
        """Waits while the upstream reads slowly."""
        if data:
            self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            await self._writer.drain()

    def end(self) -> None:
        if self._chunked:
            self._writer.write(b"0\r\n\r\n")

    def abandon(self) -> None:
        """Nobody waits for the answer any longer."""
        self._writer.transport.abort()

    async def head(self) -> Head:
        """UpstreamBroken, UpstreamSilent."""
        while self._answer.head is None:
            await self._read()
        return self._answer.head

    async def pieces(self) -> AsyncIterator[bytes]:
        answer = self._answer
        while True:
            while answer.pieces:
                yield answer.pieces.popleft()
            if answer.complete or self._method == b"HEAD":
                return
            await self._read()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._silence):
                data = await self._reader.read(READ_BYTES)
        except TimeoutError:
            raise UpstreamSilent(f"The server behind this proxy was silent for {self._silence:g} s.") from None
        except OSError:
            data = b""
        try:
            if data:
                self._parser.feed_data(data)
                return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise UpstreamBroken("The server behind this proxy does not speak HTTP/1.1.") from None
        if not self._answer.ended():
            raise UpstreamBroken("The server behind this proxy broke off.")


class _Answer:
    """The parser's callbacks."""

    status: Callable[[], int]

    def __init__(self) -> None:
        self.head: Head | None = None
        self.pieces: deque[bytes] = deque()
        self.complete = False
        self._headers: Headers = []

    def on_message_begin(self) -> None:
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.status() >= 200:  # others are interim
            self._bounded = any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
            self.head = Head(self.status(), end_to_end(self._headers))

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = self.head is not None

    def ended(self) -> bool:
        """The connection's end is also that of an answer which says no length."""
        self.complete = self.complete or (self.head is not None and not self._bounded)
        return self.complete


def end_to_end(headers: Headers) -> Headers:
    """Without those that concern one connection only, the ones that `Connection` names included."""
    named = {word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP | named]
