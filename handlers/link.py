"""One connected peer of a worker: its bytes become exchanges, its answers wait here until the socket takes them.

Not for: when to read or write, which is `links`.
"""

import socket
import time
from typing import TYPE_CHECKING

import msgspec

from .exchange import ANSWER, Exchange
from .protocol import FRAME, LENGTH, MAX_FRAME_BYTES, Kind, ProtocolError, RequestHead

if TYPE_CHECKING:
    from .links import Links

RECEIVE_BYTES = 1 << 16

_decode_head = msgspec.msgpack.Decoder(RequestHead).decode
_REQUEST = int(Kind.REQUEST)


class Link:
    """One connected peer."""

    __slots__ = (
        "_first",
        "_incoming",
        "_links",
        "_outgoing",
        "_unsent",
        "_watched",
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
        self._watched = False  # the selector tells when the peer takes more

    def write(self, *parts: bytes | bytearray) -> None:
        with self._links.lock:
            if not self._outgoing:
                self._links.dirty.append(self)
            self._outgoing += parts

    def flush(self) -> None:
        """Send what there is; have the rest sent when the peer takes it."""
        if self.closed:
            return
        if not self.send():
            self._links.close(self)
        elif bool(self._unsent) != self._watched:
            self._watched = not self._watched
            self._links.watch_writing(self, self._watched)

    def send(self) -> bool:
        """As much as the socket takes; False when nobody is at its other end. Any thread, with the lock."""
        unsent, data = self._unsent, b"".join(self._outgoing)
        self._outgoing.clear()
        try:
            if unsent:
                unsent += data
                del unsent[: self.sock.send(unsent)]
            elif data and (sent := self.sock.send(data)) < len(data):
                unsent += memoryview(data)[sent:]
        except BlockingIOError:
            if not unsent:
                unsent += data
        except OSError:
            return False
        self.unsent = len(unsent)
        return True

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
