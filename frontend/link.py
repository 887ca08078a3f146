"""One HTTP process' link to one worker: many requests on one stream, told apart by their ids.

Frames become callbacks on the `Call` they answer; no task and no future lives per request. Nothing is routed to a worker
before its HELLO has come (the listener of a killed worker may still accept). Not for: choosing the worker, which is
`dispatch`.
"""

import asyncio
import logging
from typing import Protocol, cast

import msgspec
from msgspec.structs import replace

from ..handlers.protocol import (
    LENGTH,
    EndHead,
    Frame,
    Hello,
    Kind,
    ProtocolError,
    Reader,
    RequestHead,
    ResponseHead,
    pack,
)
from .dial import Dialler
from .errors import RequestError
from .lookout import Lookout

logger = logging.getLogger(__name__)

AHEAD_SECONDS = 0.002  # work that a worker may have waiting beside the batch it runs
MAX_AHEAD = 64  # requests of that

_decode_head = msgspec.msgpack.Decoder(ResponseHead).decode
_RESPONSE, _CHUNK = int(Kind.RESPONSE), int(Kind.CHUNK)


class Call:
    """One request to a worker, from the queue to its last frame; subclasses say what becomes of the frames."""

    __slots__ = ("again", "body", "cancelled", "id", "link", "request", "sent", "submitted", "timer")

    def __init__(self, request: RequestHead, body: bytes | bytearray | memoryview) -> None:
        self.request = request
        self.body = body
        self.id = 0
        self.link: Link | None = None
        self.submitted = 0.0
        self.sent = 0.0
        self.cancelled = False
        self.again = False  # another worker may run it when this one dies; its body is kept so long
        self.timer: asyncio.TimerHandle | None = None  # of clientTimeoutInMills, until an answer begins

    def answered(self, head: ResponseHead, body: memoryview) -> None:
        """The whole answer."""
        raise NotImplementedError

    def started(self, head: ResponseHead) -> None:
        """The answer comes in chunks."""
        raise NotImplementedError

    def chunk(self, body: memoryview) -> None:
        raise NotImplementedError

    def ended(self, error: str) -> None:
        """The last chunk has come; with an error, the answer is cut short."""
        raise NotImplementedError

    def failed(self, error: RequestError) -> None:
        """No (further) answer will come."""
        raise NotImplementedError

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Owner(Protocol):
    """Who routes over the link."""

    def opened(self, link: "Link") -> None: ...
    def freed(self, link: "Link", calls: int) -> None: ...
    def leaving(self, link: "Link") -> None: ...
    def lost(self, link: "Link", calls: list[Call]) -> None: ...


class Link(asyncio.Protocol):
    """`hello` is None until the worker has introduced itself."""

    def __init__(
        self,
        worker_id: str,
        address: str,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        dialler: Dialler,
        lookout: Lookout,
    ) -> None:
        self.worker_id = worker_id
        self.address = address
        self.hello: Hello | None = None
        self.credit = 0  # requests it may have: what its HELLO said, or more when it answers fast
        self.in_flight: dict[int, Call] = {}
        self.heard = 0.0  # when the worker last said something, or began to owe an answer
        self.closed = False
        self._owner = owner
        self._loop = loop
        self._dialler = dialler
        self._lookout = lookout
        self._reader = Reader()
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []
        self._next_id = 0
        self._leaving = False
        self._pace = AHEAD_SECONDS  # what a batch takes, smoothed

    async def connect(self) -> None:
        """A worker that can't be reached is lost at once; whoever owns the link may try again."""
        kind, _, place = self.address.partition(":")
        try:
            async with asyncio.timeout(5):
                if kind == "unix":
                    await self._loop.create_unix_connection(lambda: self, place)
                else:
                    sock = await self._dialler.dial(place)
                    await self._loop.create_connection(lambda: self, sock=sock)
        except OSError as error:  # TimeoutError is one of them
            logger.debug("worker %s can not be reached: %s", self.worker_id, error)
            self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if self.closed:
            self._transport.abort()

    def send(self, call: Call, now: float) -> None:
        """Only to be called when `hello` has come."""
        self._next_id = call.id = self._next_id + 1
        head = call.request if now == call.submitted else replace(call.request, waited_seconds=now - call.submitted)
        frame = pack(Kind.REQUEST, call.id, head, call.body)
        if not self.in_flight:
            self.heard = now
        if not self._unsent:  # frames of one turn of the event loop share a system call
            self._loop.call_soon(self._flush)
        self._unsent.append(frame)
        call.link, call.sent = self, now
        if not call.again:
            call.body = b""
        self.in_flight[call.id] = call

    def cancel(self, call: Call) -> None:
        """The call is told nothing more; its credit comes back when the worker has let it go."""
        call.cancelled = True
        if call.id in self.in_flight:
            self._flush()
            self._write(pack(Kind.CANCEL, call.id))

    def _flush(self) -> None:
        if self._unsent:
            frames, self._unsent = self._unsent, []
            self._write(b"".join(frames))
            if len(self.in_flight) == 1 and self._pace < self._lookout.seconds:
                self._lookout.watch(self.in_flight)

    def _write(self, frames: bytes) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(frames)

    def retire(self) -> None:
        """Ends once what is in flight is answered."""
        self._leaving = True
        if not self.in_flight:
            self.close()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        freed = 0
        try:
            for frame in self._reader.feed(data):
                freed += self._take(frame)
        except (ProtocolError, msgspec.MsgspecError, ValueError) as error:
            logger.error("worker %s does not speak the protocol: %s", self.worker_id, error)
            self.close()
        if freed:
            self._owner.freed(self, freed)
            if self._leaving and not self.in_flight:
                self.close()

    def _take(self, frame: Frame) -> int:
        """Returns how many calls the frame has ended."""
        kind, id = frame.kind, frame.id
        if kind == _RESPONSE:
            if (call := self.in_flight.pop(id, None)) is None:
                return 0
            payload = frame.payload
            end = 4 + LENGTH.unpack_from(payload)[0]
            head = _decode_head(payload[4:end])
            if head.handler_seconds and (self.credit < MAX_AHEAD or head.handler_seconds > 2 * self._pace):
                self._learn(head.handler_seconds)
            if not call.cancelled:
                call.answered(head, payload[end:])
            return 1
        if kind == _CHUNK:
            if (call := self.in_flight.get(id)) is not None and not call.cancelled:
                call.chunk(frame.body)
            return 0
        return self._take_rare(frame)

    def _learn(self, seconds: float) -> None:
        """A fast handler is sent more ahead, or it would idle while frames travel; a slow one no more than it asked for."""
        assert self.hello is not None
        self._pace += (seconds - self._pace) / 8
        asked = self.hello.credit
        self.credit = max(asked, min(MAX_AHEAD, int(AHEAD_SECONDS / self._pace * asked / 2)))

    def _take_rare(self, frame: Frame) -> int:
        match frame.kind:
            case Kind.START:
                if (call := self.in_flight.get(frame.id)) is not None and not call.cancelled:
                    call.again = False
                    call.started(frame.head(ResponseHead))
            case Kind.END:
                if (call := self.in_flight.pop(frame.id, None)) is not None:
                    if not call.cancelled:
                        call.ended(frame.head(EndHead).error)
                    return 1
            case Kind.HELLO:
                self.hello = frame.head(Hello)
                self.credit = max(1, self.hello.credit)
                self._owner.opened(self)
            case Kind.GOAWAY:
                self._leaving = True
                self._owner.leaving(self)
                if not self.in_flight:
                    self.close()
        return 0

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        calls, self.in_flight = list(self.in_flight.values()), {}
        self._owner.lost(self, calls)

    def fail(self, calls: list[Call], error: RequestError) -> None:
        for call in calls:
            if not call.cancelled:
                call.cancelled = True
                call.failed(error)
        if calls:
            self._owner.freed(self, len(calls))
