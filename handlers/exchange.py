"""One request in a worker and the way back to its client: what a batch is made of. Not for: sockets (`link`)."""

import time
from struct import Struct
from typing import TYPE_CHECKING

import msgspec

from .base import Request
from .protocol import EndHead, Kind, RequestHead, ResponseHead, pack

if TYPE_CHECKING:
    from .link import Link

ANSWER = Struct("<IBQI")  # a frame's header and the length of its head

_encode = msgspec.msgpack.Encoder().encode
_RESPONSE, _CHUNK = int(Kind.RESPONSE), int(Kind.CHUNK)


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
        now, taken = time.monotonic(), self.taken
        times = (now - taken, taken - self.arrived) if taken else (0.0, 0.0)
        head = _encode(ResponseHead(status, reason, headers or [], content_type, error, *times))
        size = len(head)
        self._close()
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
        self.link.write(ANSWER.pack(4 + len(body), _CHUNK, self.frame_id, 0), body)

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
