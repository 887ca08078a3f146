"""One client's connection: HTTP/1.1 in, exchanges out.

llhttp (httptools) parses and refuses what frames a message in two ways; this adds what TorchServe's users need and
uvicorn's protocol class, from which it takes its shape, has no room for: header names as sent, reason phrases, answers
written without a task per request, and limits on how large a request may be and how long it may take. Not for: what
requests mean.
"""

import asyncio
import contextlib
import enum
import fcntl
import logging
import termios
from collections import deque
from typing import Literal, Protocol, cast

import httptools

from .errors import BadRequest, HeadersTooLarge, RequestError, RequestTimeout, RequestTooLarge, TooManyConnections
from .exchange import Exchange
from .options import FrontendOptions

logger = logging.getLogger(__name__)

LINGER_SECONDS = 2.0  # after a refusal: what the client still sends is read and dropped, lest a reset destroys our answer
NOTED = {b"host", b"content-length", b"origin", b"authorization", b"transfer-encoding", b"expect"}
PIPELINE = 16  # requests a client may send ahead


class Front(Protocol):
    """What a connection asks of the application."""

    options: FrontendOptions
    draining: bool
    fixed_headers: bytes
    connections: "set[Connection]"
    most_connections: int

    def request_id(self) -> str: ...
    def begin(self, exchange: Exchange) -> None: ...
    def refuse(self, exchange: Exchange, error: RequestError) -> None: ...
    def done(self, exchange: Exchange) -> None: ...


class State(enum.Enum):
    SILENT = enum.auto()  # connected, and nothing has come yet
    IDLE = enum.auto()  # between requests
    HEADERS = enum.auto()
    BODY = enum.auto()
    BUSY = enum.auto()  # a request is being answered
    LINGER = enum.auto()  # the last answer is written


class Connection(asyncio.Protocol):
    """Of 28 attributes: beyond 30, CPython finds each of an object's more slowly, which costs 5 % of what is done here."""

    def __init__(self, front: Front, listener: Literal["inference", "sax"] = "inference") -> None:
        self.front = front
        self.listener = listener
        self.state = State.SILENT
        self.since = 0.0  # when the state began; in BODY, when the last piece came
        self.client: tuple[str, int] | None = None
        self.client_text = b"unix"
        self.server: tuple[str, int | None] | None = None
        self.scheme = "http"
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # bytes after a last request are not read
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._drained: asyncio.Future[None] | None = None
        self._exchange: Exchange | None = None  # being received
        self._current: Exchange | None = None  # being answered
        self._pipeline: deque[Exchange] = deque()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._read_bytes = 0  # of the last read
        self._quiet_bytes = 0  # of later reads that brought no head to its end and no body: one endless field, or chunks
        self._body_bytes = 0
        self._length: bytes | None = None
        self._host: bytes | None = None
        self._origin: bytes | None = None
        self._authorization: bytes | None = None
        self._expects_continue = self._chunked = False
        self._unsent: list[bytes | memoryview] = []
        self._deaf = False  # what still comes is not read

    # the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.since = self._loop.time()
        self.front.connections.add(self)
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if isinstance(peer, tuple):
            self.client = (peer[0], peer[1])
            self.client_text = f"{peer[0]}:{peer[1]}".encode()
        if isinstance(local, tuple):
            self.server = (local[0], local[1])
        elif local:
            self.server = (str(local), None)
        if transport.get_extra_info("ssl_object"):
            self.scheme = "https"
        if len(self.front.connections) > self.front.most_connections:
            self._refuse(TooManyConnections())
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.front.connections.discard(self)
        self.resume_writing()
        leaving = [self._current, *self._pipeline]
        self._current = self._exchange = None
        self._pipeline.clear()
        for exchange in leaving:
            if exchange is not None and not exchange.complete:
                exchange.left()
                self.front.done(exchange)
        self._parser = None  # it refers to us

    def data_received(self, data: bytes) -> None:
        if self._deaf or self._parser is None:
            return
        self._read_bytes = len(data)
        self._quiet_bytes += self._read_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # we speak no other protocol: it is answered as plain HTTP, and the connection closed
        except httptools.HttpParserCallbackError:
            if not self._deaf:  # else `_stop` has refused the request
                logger.exception("a request could not be received")
                self._refuse(BadRequest("Invalid HTTP message"))
        except httptools.HttpParserError:
            self._refuse(BadRequest("Invalid HTTP message"))
        if self._url and not self._quiet_bytes:  # a head that began in this read goes on in the next
            self._quiet_bytes = self._header_bytes(self._headers)
        most = self.front.options.max_header_bytes
        if self._quiet_bytes > most and not self._deaf:
            self._refuse(HeadersTooLarge(most))

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        waiter, self._drained = self._drained, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._pipeline:
            self._loop.call_soon(self._next)

    # the parser's callbacks

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", []
        self._quiet_bytes = self._body_bytes = 0
        self._length = self._host = self._origin = self._authorization = self._exchange = None
        self._expects_continue = self._chunked = False
        if self._current is None and not self._pipeline:
            self.state, self.since = State.HEADERS, self._loop.time()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        known = name.lower()
        if known not in NOTED:
            return
        match known:
            case b"host":
                if self._host is not None:
                    self._stop(BadRequest("Invalid HTTP message: two Host headers"))
                self._host = value
            case b"content-length":
                self._length = value
            case b"origin":
                self._origin = value
            case b"authorization":
                self._authorization = value
            case b"transfer-encoding":
                self._chunked = True
            case b"expect":
                self._expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        parser, options = self._parser, self.front.options
        assert parser is not None
        version = parser.get_http_version().encode()
        if not self._url.startswith(b"/"):
            self._take_other_target()
        exchange = Exchange(self, parser.get_method(), self._url, version, self.front.request_id())
        exchange.headers, self._headers = self._headers, []  # trailers, which may not say what headers say, go nowhere
        exchange.host, exchange.origin, exchange.authorization = self._host, self._origin, self._authorization
        exchange.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._exchange = exchange
        if self._quiet_bytes or self._read_bytes > options.max_header_bytes:
            self._limit(exchange.headers)
        self._url, self._quiet_bytes = b"", 0
        if version not in (b"1.1", b"1.0"):
            self._stop(BadRequest("Invalid HTTP message: this server speaks HTTP/1.1"))
        if self._host is None and version == b"1.1":
            self._stop(BadRequest("Invalid HTTP message: no Host header"))
        if self._chunked and version == b"1.0":
            self._stop(BadRequest("Invalid HTTP message: HTTP/1.0 has no Transfer-Encoding"))
        if self._length is not None and int(self._length) > options.max_request_bytes:
            self._stop(RequestTooLarge(options.max_request_bytes))
        if self._expects_continue:
            self._go_on()
        if self._current is None and not self._pipeline:
            self.state, self.since = State.BODY, self._loop.time()

    def _go_on(self) -> None:
        """To a client that waits to be asked for its body, once nothing else is to be written before."""
        if self._expects_continue and self._current is None and not self._pipeline:
            self._expects_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take_other_target(self) -> None:
        """`http://host/path`, as proxies are asked: its host counts, not the header's. In others but `*`, who passes them on
        might see another path than we do."""
        scheme, _, rest = self._url.partition(b"://")
        if scheme.lower() in (b"http", b"https"):
            self._host, slash, path = rest.partition(b"/")
            self._url = slash + path or b"/"
        elif self._url != b"*":
            self._stop(BadRequest("Invalid HTTP message: the request's target is no path"))

    def _limit(self, headers: list[tuple[bytes, bytes]]) -> None:
        most = self.front.options.max_header_bytes
        if self._header_bytes(headers) > most:
            self._stop(HeadersTooLarge(most))

    def _header_bytes(self, headers: list[tuple[bytes, bytes]]) -> int:
        return len(self._url) + sum(len(name) + len(value) for name, value in headers)

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        self._quiet_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self.front.options.max_request_bytes:
            self._stop(RequestTooLarge(self.front.options.max_request_bytes))
        if not exchange.body:
            exchange.body = body
        else:
            if isinstance(exchange.body, bytes):
                exchange.body = bytearray(exchange.body)
            exchange.body += body
        self.since = self._loop.time()

    def on_message_complete(self) -> None:
        if self._headers:
            self._limit(self._headers)  # of the trailers
        exchange, self._exchange = self._exchange, None
        if exchange is None or self._deaf:
            return
        if self._current is None and self._drained is None and not self._pipeline:
            self._begin(exchange)
        else:
            self._wait_its_turn(exchange)

    # requests, one after the other; none is begun while the client leaves earlier answers unread

    def _wait_its_turn(self, exchange: Exchange) -> None:
        self._pipeline.append(exchange)
        if self._current is None:
            self.state = State.IDLE
        if self._transport.is_reading() and (self._drained is not None or len(self._pipeline) >= PIPELINE):
            self._transport.pause_reading()

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        self.state = State.BUSY
        self.front.begin(exchange)

    def answered(self, exchange: Exchange) -> None:
        """An exchange has written the last of its answer."""
        self.front.done(exchange)
        if exchange is not self._current:
            return  # refused while it was received, or its client has left
        self._current = None
        if not exchange.keep_alive:
            self._close_after_answer()
            return
        self.state, self.since = State.IDLE, self._loop.time()
        if self._pipeline:
            self._loop.call_soon(self._next)
        elif self._exchange is not None:
            self.state = State.BODY
            self._go_on()

    def _next(self) -> None:
        if self._current is not None or self._drained is not None or not self._pipeline:
            return
        exchange = self._pipeline.popleft()
        if len(self._pipeline) < PIPELINE and not self._transport.is_reading():
            self._transport.resume_reading()
        self._begin(exchange)

    def _stop(self, error: RequestError) -> None:
        """Refuses the request that is being received, and leaves the parser's callback."""
        self._refuse(error)
        raise error

    def _refuse(self, error: RequestError) -> None:
        self._deaf = True
        last = self._pipeline[-1] if self._pipeline else self._current
        if last is not None:  # earlier requests still get their answers, then we close
            last.keep_alive = False
            return
        exchange = self._exchange or Exchange(self, b"-", self._url or b"-", b"1.1", self.front.request_id())
        self._current, self._exchange = exchange, None
        exchange.keep_alive = False
        self.front.refuse(exchange, error)

    # closing

    def _close_after_answer(self) -> None:
        """Unread bytes would turn our close into a reset, so after a refusal the client is listened to a little longer."""
        self._flush()
        self._deaf = True
        self._pipeline.clear()
        whole = self.state is State.BUSY
        self.state, self.since = State.LINGER, self._loop.time()
        if whole or self.scheme == "https":
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()

    def shutdown(self) -> bool:
        """The server goes down: an idle connection ends now, a busy one after its answer. Returns whether it is busy."""
        if self._current is not None:
            self._current.keep_alive = False
        elif self.state in (State.SILENT, State.IDLE, State.HEADERS):
            if self._pipeline or self._unread():
                return True
            if self.state is not State.HEADERS:
                self._transport.close()
        return self.state in (State.BODY, State.BUSY) or self.unsent() > 0

    def _unread(self) -> bool:
        """Bytes have come that the event loop has not seen yet: perhaps a whole request, or the rest of one."""
        count = bytearray(4)
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
        return any(count)

    def check(self, now: float) -> None:
        """Called once a second: ends what takes too long."""
        options, waited = self.front.options, now - self.since
        match self.state:
            case State.SILENT if waited > options.header_timeout_seconds:
                self._transport.abort()
            case State.IDLE | State.LINGER if waited > options.keep_alive_seconds:
                self._transport.abort()  # it may have left the last answer unread
            case State.HEADERS if waited > options.header_timeout_seconds:
                self._refuse(RequestTimeout("The request's headers took too long."))
            case State.BODY if waited > options.body_timeout_seconds:
                self._refuse(RequestTimeout("The request's body took too long."))
            case State.LINGER if waited > LINGER_SECONDS and not self.unsent():
                self._transport.abort()

    # writing

    def write(self, data: bytes | memoryview) -> None:
        if self._unsent:
            self._flush()
        self._send(data)

    def write_soon(self, *pieces: bytes | memoryview) -> None:
        """What one turn of the event loop brings shares a system call."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += pieces

    def _flush(self) -> None:
        pieces, self._unsent = self._unsent, []
        if pieces:
            self._send(b"".join(pieces))

    def _send(self, data: bytes | memoryview) -> None:
        """To a client that has left nothing is sent, though `connection_lost` may not have told us yet."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        self._transport.abort()

    async def drained(self) -> None:
        """Waits until the client has read enough; one which reads nothing for long is cut off."""
        if self._drained is None:
            return
        try:
            async with asyncio.timeout(self.front.options.body_timeout_seconds):
                await asyncio.shield(self._drained)
        except TimeoutError:
            self.abort()
