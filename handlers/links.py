"""A worker's sockets: a listener, one link per HTTP process, the control link; all in one selector, nothing ever waits.

Requests come out as `Exchange`s, which are the way back too. Answers are collected and written together by `flush`; what
a peer does not take stays here and is written when it can be. Not for: what is done with a request (`worker`).
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable
from itertools import count
from struct import Struct

import msgspec

from .base import Request
from .protocol import (
    FRAME,
    LENGTH,
    MAX_FRAME_BYTES,
    EndHead,
    Hello,
    Kind,
    Metric,
    ProtocolError,
    RequestHead,
    ResponseHead,
    pack,
)

RECEIVE_BYTES = 1 << 16
ANSWER = Struct("<IBQI")  # a frame's header and the length of its head

_decode_head = msgspec.msgpack.Decoder(RequestHead).decode
_encode = msgspec.msgpack.Encoder().encode
_REQUEST, _RESPONSE = int(Kind.REQUEST), int(Kind.RESPONSE)


class Exchange(Request):
    """One request and the way back to its client: base.Request and base.Reply in one."""

    __slots__ = ("closed", "frame_id", "link", "started", "taken")

    def __init__(self, id: int, head: RequestHead, body: memoryview, arrived: float, link: "Link", frame_id: int) -> None:
        self.id, self.head, self.body, self.arrived = id, head, body, arrived
        self.link = link
        self.frame_id = frame_id
        self.closed = False
        self.started = False  # START was sent
        self.taken = 0.0  # when its batch began

    @property
    def backlog(self) -> int:
        return self.link.unsent

    def respond(
        self,
        body: bytes | bytearray,
        status: int = 200,
        headers: list[tuple[str, str]] | None = None,
        content_type: str | None = None,
        error: str = "",
        reason: str = "",
    ) -> None:
        if self.closed:
            return
        if self.started:  # the status is gone already: say the rest in the stream's words
            self.end(bytes(body).decode("utf-8", "replace") if error else "")
            return
        self._close()
        now, taken = time.monotonic(), self.taken
        times = (now - taken, taken - self.arrived) if taken else (0.0, 0.0)
        head = _encode(ResponseHead(status, reason, headers or [], content_type, error, *times))
        size = len(head)
        self.link.write(ANSWER.pack(4 + size + len(body), _RESPONSE, self.frame_id, size), head, body)

    def start(
        self,
        status: int = 200,
        headers: list[tuple[str, str]] | None = None,
        content_type: str | None = None,
        reason: str = "",
    ) -> None:
        if not self.closed:
            self.started = True
            self.link.write(pack(Kind.START, self.frame_id, ResponseHead(status, reason, headers or [], content_type)))

    def chunk(self, body: bytes | bytearray) -> None:
        if self.closed:
            return
        if not self.started:
            self.start()
        self.link.write(ANSWER.pack(4 + len(body), Kind.CHUNK, self.frame_id, 0), body)

    def end(self, error: str = "") -> None:
        if not self.closed:
            self._close()
            self.link.write(pack(Kind.END, self.frame_id, EndHead(error)))

    def drop(self) -> None:
        """The client left: the last frame tells its HTTP process that the request costs nothing any more."""
        self.end("cancelled") if self.started else self.respond(b"", 499)

    def _close(self) -> None:
        self.closed = True
        self.link.exchanges.pop(self.frame_id, None)


class Link:
    """One connected peer."""

    __slots__ = (
        "_first",
        "_incoming",
        "_links",
        "_outgoing",
        "_unsent",
        "closed",
        "control",
        "exchanges",
        "sock",
        "unsent",
    )

    def __init__(self, links: "Links", sock: socket.socket, control: bool = False) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.control = control
        self.exchanges: dict[int, Exchange] = {}
        self.closed = False
        self._first = sock.family == socket.AF_UNIX and not control  # what comes first may be a connection
        self.unsent = 0  # bytes written but not taken by the peer
        self._links = links
        self._incoming = bytearray()
        self._outgoing: list[bytes | bytearray] = []
        self._unsent = bytearray()

    def write(self, *parts: bytes | bytearray) -> None:
        if not self._outgoing:
            self._links.dirty.append(self)
        self._outgoing += parts

    def flush(self) -> None:
        if self.closed:
            return
        data: bytes | bytearray
        if self._unsent:
            self._unsent += b"".join(self._outgoing)
            data = self._unsent
        else:
            data = b"".join(self._outgoing)
        self._outgoing.clear()
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._links.close(self)
            return
        if sent == len(data) and not self._unsent:
            return
        waited = bool(self._unsent)
        if waited:
            del self._unsent[:sent]
        else:
            self._unsent += memoryview(data)[sent:]
        self.unsent = len(self._unsent)
        if waited != bool(self._unsent):
            self._links.watch_writing(self, bool(self._unsent))

    def receive(self) -> None:
        try:
            data = self._receive_first() if self._first else self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._links.close(self)
            return
        if self._incoming:
            self._incoming += data
            used = self._cut(bytes(self._incoming)) if self._complete() else 0
            del self._incoming[:used]
        else:
            used = self._cut(data)
            self._incoming += memoryview(data)[used:]

    def _receive_first(self) -> bytes:
        """A gate of this machine hands over connections that it has accepted from others."""
        data, descriptors, _, _ = socket.recv_fds(self.sock, RECEIVE_BYTES, 1)
        self._first = False
        for descriptor in descriptors:
            self._links.add(socket.socket(fileno=descriptor))
        return data if not descriptors else b""

    def _complete(self) -> bool:
        """Is the first frame here in full? Spares cutting a large one for every piece of it."""
        return (
            len(self._incoming) >= FRAME.size and len(self._incoming) >= FRAME.size + LENGTH.unpack_from(self._incoming)[0]
        )

    def _cut(self, data: bytes) -> int:
        """Takes every complete frame of `data`; returns how many bytes they were."""
        at, end, whole = 0, len(data), memoryview(data)
        now = time.monotonic()
        take, exchanges, ids = self._links.take, self.exchanges, self._links.ids
        while end - at >= ANSWER.size:
            length, kind, frame_id, head_size = ANSWER.unpack_from(data, at)
            if length < 4 or length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes")
            stop = at + FRAME.size + length
            if stop > end:
                break
            if kind == _REQUEST:
                body = at + ANSWER.size + head_size
                head = _decode_head(whole[at + ANSWER.size : body])
                exchange = Exchange(next(ids), head, whole[body:stop], now, self, frame_id)
                exchanges[frame_id] = exchange
                take(exchange)
            elif kind == Kind.CANCEL:
                if (cancelled := exchanges.get(frame_id)) is not None:
                    self._links.cancel(cancelled)
            elif kind == Kind.STOP and self.control:
                self._links.stop()
            at = stop
        return at


class Links:
    """All of them. `take` is called with each request, `cancel` with each whose client has left."""

    def __init__(
        self, control: socket.socket, take: Callable[[Exchange], None], cancel: Callable[[Exchange], None]
    ) -> None:
        self.take = take
        self.cancel = cancel
        self.ids = count(1)
        self.dirty: list[Link] = []
        self.stopping = False
        self.lost_control = False
        self.polled = 0.0
        self._listener: socket.socket | None = None
        self._hello = b""
        self._links: set[Link] = set()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._stop_by_signal)
        self._control = Link(self, control, control=True)
        self._selector.register(control, selectors.EVENT_READ, self._control)

    @property
    def empty(self) -> bool:
        """No HTTP process is connected, and nothing is left to write."""
        return not self._links and not self._control.unsent

    def listen(self, address: str, hello: Hello) -> None:
        """Every peer that connects hears `hello` first."""
        kind, _, place = address.partition(":")
        if kind == "unix":
            listener = socket.socket(socket.AF_UNIX)
            if os.path.exists(place):
                os.unlink(place)  # left by a worker that was killed
            mask = os.umask(0o177)
            try:
                listener.bind(place)
            finally:
                os.umask(mask)
        else:
            host, _, port = place.rpartition(":")
            listener = socket.create_server((host, int(port)), backlog=64)
        listener.listen(64)
        listener.setblocking(False)
        self._listener, self._hello = listener, pack(Kind.HELLO, 0, hello)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def poll(self, timeout_seconds: float | None) -> None:
        """Receive what has come; wait for something at most `timeout_seconds`."""
        for key, events in self._selector.select(timeout_seconds):
            link = key.data
            if not isinstance(link, Link):
                link()
                continue
            if events & selectors.EVENT_WRITE:
                link.flush()
            if events & selectors.EVENT_READ and not link.closed:
                self._receive(link)
        self.polled = time.monotonic()

    def flush(self) -> None:
        """Hand every collected answer to its socket."""
        dirty, self.dirty = self.dirty, []
        for link in dirty:
            link.flush()

    def tell(self, kind: Kind, head: object = None) -> None:
        """A frame for whoever started this worker."""
        self._control.write(pack(kind, 0, head))

    def report(self, metrics: Iterable[Metric]) -> None:
        self.tell(Kind.METRICS, list(metrics))

    def stop(self) -> None:
        """No more clients; those which are connected are told that they should go, and what they sent is still answered."""
        if self.stopping:
            return
        self.stopping = True
        if self._listener is not None:
            self._selector.unregister(self._listener)
            name = self._listener.getsockname()
            self._listener.close()
            if isinstance(name, str):
                os.unlink(name)
        for link in self._links:
            link.write(pack(Kind.GOAWAY, 0))

    def stop_on(self, number: signal.Signals) -> None:
        """This signal is as good as STOP: whoever signals a whole group of processes loses no request by it."""
        signal.signal(number, lambda *_: self._waker.send(b"!"))

    def _stop_by_signal(self) -> None:
        self._wake.recv(64)
        self.stop()

    def watch_writing(self, link: Link, wanted: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._selector.modify(link.sock, events, link)

    def close(self, link: Link) -> None:
        if link.closed:
            return
        link.closed = True
        self._selector.unregister(link.sock)
        link.sock.close()
        self._links.discard(link)
        self.lost_control |= link.control
        for exchange in list(link.exchanges.values()):
            exchange.closed = True
            self.cancel(exchange)
        link.exchanges.clear()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # the peer has gone already
        self.add(sock)

    def add(self, sock: socket.socket) -> None:
        """A peer has connected; it hears who we are."""
        link = Link(self, sock)
        self._links.add(link)
        self._selector.register(sock, selectors.EVENT_READ, link)
        link.write(self._hello)
        link.flush()

    def _receive(self, link: Link) -> None:
        try:
            link.receive()
        except (ProtocolError, msgspec.MsgspecError):
            self.close(link)
