"""The frames that processes exchange: the one module where a server process and a model worker meet.

Two links speak it, both reliable byte streams:

- a *request link*, one per (HTTP process, worker): the worker listens on a unix socket, the HTTP process connects;
- a *control link*, one per worker: a socket pair made by whoever starts the worker. CONFIG down, READY or FAILED up, then
  STOP down, METRICS up, and requests such as `describe` like on any link. Its end of file means that the starter died.

A frame is `length:u32 kind:u8 id:u64 | payload`, little endian, `length` being the payload's. The payload is a head
(`head_length:u32`, then MessagePack) followed by a body of raw bytes, which no server process ever parses:

    client → worker   REQUEST(RequestHead, body)  CANCEL
    worker → client   HELLO(Hello) first of all; then for each request either
                      RESPONSE(ResponseHead, body)  or  START(ResponseHead) CHUNK(body)… END(EndHead);
                      GOAWAY once, when it takes no more: what was sent before is still answered;
                      ALIVE now and then to whoever waits for an answer, as long as the worker's loop turns.

A cancelled request still gets its last frame (an empty RESPONSE, or END) as soon as the worker has dropped it: only then is
its credit free again, so a client that comes and goes can not flood a worker that is busy.

`id` is chosen by the client, unique on its link while the request lives; frames about unknown ids are dropped, so a late
answer can never reach another caller. Not for: what the bodies mean.
"""

import struct
from enum import IntEnum
from typing import Any, TypeVar

import msgspec

FRAME = struct.Struct("<IBQ")
LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30  # of one payload; larger ones mean that the peer is not speaking this protocol

T = TypeVar("T")


class Kind(IntEnum):
    HELLO = 1
    REQUEST = 2
    RESPONSE = 3
    START = 4
    CHUNK = 5
    END = 6
    CANCEL = 7
    GOAWAY = 8
    ALIVE = 9
    CONFIG = 16
    READY = 17
    FAILED = 18
    STOP = 19
    METRICS = 20


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Who is at the other end; a client routes nothing to a worker before it has heard this."""

    model: str
    version: str
    worker_id: str
    pid: int
    credit: (
        int  # requests this client may have in flight here (more while 2 ms do them all): 2 × batch size, or what is asked
    )


class RequestHead(msgspec.Struct, frozen=True, array_like=True):
    """Everything about a request but its body."""

    operation: str  # "predict", "explain", "describe"; text APIs add "generate", "score", "embed", "tokenize", …
    request_id: str  # the x-request-id the client is told
    headers: list[tuple[bytes, bytes]]  # as received; names may have any case
    query: bytes = b""  # only on the routes that pass it on
    url_path: str = ""  # what followed the version in the path
    priority: int = 0
    waited_seconds: float = 0.0  # in the model's queue, before it was sent


class ResponseHead(msgspec.Struct, frozen=True, array_like=True):
    status: int = 200
    reason: str = ""  # empty: the status' usual phrase
    headers: list[tuple[str, str]] = []
    content_type: str | None = None
    error: str = ""  # not empty: the body is the message of an error of this type (`InternalServerException`, …)
    handler_seconds: float = 0.0
    queue_seconds: float = 0.0  # between the frame's arrival in the worker and the start of its batch


class EndHead(msgspec.Struct, frozen=True, array_like=True):
    error: str = ""  # not empty: the stream was cut short, and this says why


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """CONFIG, the first frame a worker gets: all it needs to load its model."""

    worker_id: str
    model: str
    version: str
    model_dir: str  # the unpacked archive: the worker's working directory, first on its import path
    handler: str  # as the manifest says it, or as the registration overrides it
    listen: str  # "unix:/path"
    manifest: dict[str, Any] = {}
    model_yaml: dict[str, Any] = {}
    batch_size: int = 1
    max_batch_delay_seconds: float = 0.1
    gpu_id: int | None = None
    device_ids: list[int] = []
    service_envelope: str | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    sequence_id_header: str = "ts_request_sequence_id"
    sequence_start_header: str = "ts_request_sequence_start"
    sequence_end_header: str = "ts_request_sequence_end"
    max_response_bytes: int = 6553500
    response_timeout_seconds: float = 120.0  # who waits for an answer and hears nothing for so long gives the worker up
    busy_poll_us: int = 0
    metrics_config: str | None = None  # path of a metrics.yaml
    metrics_mode: str = "log"
    server_version: str = ""


class Ready(msgspec.Struct, frozen=True, array_like=True):
    """READY: the model is loaded and listens."""

    operations: list[str] = []  # beyond predict and explain; they become `ModelRoute.capabilities`


class LoadFailure(msgspec.Struct, frozen=True, kw_only=True):
    """FAILED: why a model could not be loaded, in the terms of whoever wrote its handler."""

    phase: str  # "import", "entry point", "initialize"
    exception: str  # the exception's type
    message: str
    location: str = ""  # `handler.py:12`, the innermost line in the model's own files
    traceback: str = ""  # for the model's log, never for a client


class Metric(msgspec.Struct, frozen=True, array_like=True):
    name: str
    kind: str  # "counter", "gauge", "histogram"
    unit: str
    value: float
    dimensions: list[tuple[str, str]]
    request_id: str = ""


class Frame(msgspec.Struct, frozen=True):
    kind: int
    id: int
    payload: memoryview

    def head(self, type_: type[T]) -> T:
        """The MessagePack head as `type_`; msgspec.ValidationError when it is something else."""
        (length,) = LENGTH.unpack_from(self.payload)
        return msgspec.msgpack.decode(self.payload[4 : 4 + length], type=type_)

    @property
    def body(self) -> memoryview:
        (length,) = LENGTH.unpack_from(self.payload)
        return self.payload[4 + length :]


class ProtocolError(Exception):
    """The peer sent what is no frame of ours: the link is of no more use."""


_encode = msgspec.msgpack.Encoder().encode


def pack(kind: int, id: int, head: Any = None, body: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame as bytes, ready for a socket."""
    packed = b"" if head is None else _encode(head)
    size = 4 + len(packed) + len(body)
    return b"".join((FRAME.pack(size, kind, id), LENGTH.pack(len(packed)), packed, body))


class Reader:
    """Cuts a byte stream into frames, however it arrives."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max = max_frame_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes; ProtocolError for an impossible length."""
        if self._buffer:
            self._buffer += data
            if not self._has_frame():  # spares copying a large frame for every piece of it
                return []
            data, self._buffer = self._buffer, bytearray()
        data = bytes(data)
        frames, start, end, whole = [], 0, len(data), memoryview(data)
        while end - start >= FRAME.size:
            length, kind, id = FRAME.unpack_from(data, start)
            if not 4 <= length <= self._max:
                raise ProtocolError(f"a frame of {length} bytes")
            stop = start + FRAME.size + length
            if stop > end:
                break
            frames.append(Frame(kind, id, whole[start + FRAME.size : stop]))
            start = stop
        if start < end:
            self._buffer += whole[start:]
        return frames

    def _has_frame(self) -> bool:
        """Whether the first frame is whole, or can't be one."""
        if len(self._buffer) < FRAME.size:
            return False
        (length,) = LENGTH.unpack_from(self._buffer)
        return bool(length > self._max or len(self._buffer) >= FRAME.size + length)
