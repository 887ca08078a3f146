"""Run one batch: rows to the handler, its answers back to their clients, its exceptions as TorchServe tells them.

Whatever a handler does wrong is answered; nothing it raises ends the worker. Not for: which requests make a batch (`queue`).
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import CoroutineType, GeneratorType
from typing import Any

from .answers import UnsupportedOutput, encode
from .base import PredictionException, spoken
from .context import Context, RequestProcessor
from .entry_point import Entry
from .exchange import Exchange
from .generation import InvalidRequest
from .rows import BadBody, to_row

logger = logging.getLogger(__name__)

FAULT = "InternalServerException"
BAD_REQUEST = "BadRequestException"
OPERATIONS = ("predict", "explain", "describe")
BACKLOG_BYTES = 1 << 20  # a stream whose client's link has so much unsent makes no more for now
UNSUPPORTED = "Unsupported model output data type."


class Runner:
    """`breathe(seconds)`, called between the parts of streams, has them written and now and then drains the sockets."""

    def __init__(
        self,
        entry: Entry,
        context: Context,
        decode: bool,
        max_response_bytes: int,
        breathe: Callable[[float], None],
        in_step: bool = False,
    ) -> None:
        self._pid = os.getpid()
        self._entry = entry
        self._context = context
        self._decode = decode
        self._max_response_bytes = max_response_bytes
        self._breathe = breathe
        self._in_step = in_step  # with other ranks, which don't know that a client has left: streams run to their end
        self._batch: list[Exchange] = []
        self._await: Callable[[Any], Any] | None = None
        context.send_part = self._send_part

    def run(self, batch: list[Exchange]) -> None:
        rows = self._admit(batch)
        if not rows:
            return
        try:
            self._run(rows)
        except BaseException as error:  # SystemExit too: a handler can't end the worker by it
            self._leave_if_forked()
            self._fail(error)

    def _run(self, rows: list[dict[str, Any]]) -> None:
        outputs = self._entry(rows, self._context)
        if type(outputs) is not list:
            outputs = self._collect(outputs)
        self._leave_if_forked()
        if type(outputs) is not list:
            self._refuse("Invalid model predict output", f"the handler returned a {type(outputs).__name__}, not a list")
        elif len(outputs) != len(rows):
            self._refuse("number of batch response mismatched", f"{len(outputs)} answers for {len(rows)} requests")
        else:
            self._answer(outputs)
            self._context.metrics.sample_time("PredictionTime", time.monotonic() - self._batch[0].taken)

    def _leave_if_forked(self) -> None:
        """A child of the handler that came back to us must not answer beside its parent, on the same sockets."""
        if os.getpid() != self._pid:
            os._exit(1)

    def _admit(self, batch: list[Exchange]) -> list[dict[str, Any]]:
        """Rows for the handler; what can't be one is answered at once and spares its batch mates."""
        now = time.monotonic()
        rows, processors = [], []
        self._batch = []
        for exchange in batch:
            exchange.taken = now
            if exchange.head.operation not in OPERATIONS:
                message = f"This model has no operation {exchange.head.operation}"
                exchange.respond(message.encode(), 400, error=BAD_REQUEST)
                continue
            try:
                row, kinds = to_row(exchange.head, exchange.body, self._decode)
            except BadBody as error:
                exchange.respond(str(error).encode(), 400, error=BAD_REQUEST)
                continue
            self._batch.append(exchange)
            rows.append(row)
            processors.append(RequestProcessor(exchange.head, kinds))
        context = self._context
        context.stopping_criteria = None
        context.request_processor = processors
        context.request_ids = {at: exchange.head.request_id for at, exchange in enumerate(self._batch)}
        context.metrics.request_ids = context.request_ids
        return rows

    def _answer(self, outputs: list[Any]) -> None:
        streams: dict[int, Iterator[Any]] = {}
        for at, output in enumerate(outputs):
            if type(output) is GeneratorType:
                streams[at] = output
            else:
                self._respond(at, output)
        if streams:
            self._stream(streams)

    def _respond(self, at: int, output: Any) -> None:
        """The whole answer of request `at`, or the last part of a streamed one."""
        exchange = self._batch[at]
        try:
            processor, criteria = self._context.request_processor[at], self._context.stopping_criteria
            if criteria is not None and not criteria[at](output):
                self._chunk(at, output)  # continuous batching: more will come for it in the next round
                return
            body = encode(output)
            if exchange.started:
                if body:
                    exchange.chunk(body)
                exchange.end()
            elif len(body) > self._max_response_bytes:
                limit = f"more than max_response_size allows ({self._max_response_bytes})"
                exchange.respond(f"The answer has {len(body)} bytes, {limit}".encode(), 503, error=FAULT)
            elif processor.untouched:
                exchange.respond(body)
            else:
                status, headers, content_type, phrase = outcome(processor)
                exchange.respond(body, status, headers, content_type, reason=phrase)
        except UnsupportedOutput as error:
            logger.warning("Model %s: unsupported output: %s", self._context.model_name, error)
            exchange.respond(UNSUPPORTED.encode(), 503, error=FAULT)
        except BaseException as error:  # its batch mates have nothing to do with it
            self._tell(error, exchange)

    def _send_part(self, at: int, part: Any) -> None:
        """A streamed answer's next part, on its way before this returns."""
        self._chunk(at, part)
        self._breathe(0.0)

    def _chunk(self, at: int, part: Any) -> None:
        exchange = self._batch[at]
        if exchange.closed:
            return  # its client left
        if not exchange.started:
            exchange.start(*outcome(self._context.request_processor[at]))
        exchange.chunk(encode(part))

    def _stream(self, streams: dict[int, Iterator[Any]]) -> None:
        """One part of each stream in turn, until all are at their end."""
        while streams:
            waiting = 0
            for at, stream in list(streams.items()):
                exchange = self._batch[at]
                if exchange.closed and not self._in_step:
                    self._end(streams.pop(at))
                elif exchange.backlog > BACKLOG_BYTES:
                    waiting += 1
                elif not self._advance(at, stream):
                    del streams[at]
            self._breathe(0.05 if waiting and waiting == len(streams) else 0.0)

    def _advance(self, at: int, stream: Iterator[Any]) -> bool:
        try:
            self._chunk(at, next(stream))
            return True
        except StopIteration as stop:
            exchange = self._batch[at]
            if not exchange.started:
                self._respond(at, "" if stop.value is None else stop.value)
            elif stop.value is not None:
                self._respond(at, stop.value)
            else:
                exchange.end()
        except BaseException as error:
            self._tell(error, self._batch[at])
        return False

    def _end(self, stream: Any) -> None:
        try:
            stream.close()
        except BaseException as error:
            self._log(error)

    def _collect(self, outputs: Any) -> Any:
        """What is not a list yet: a coroutine is awaited; a generator's lists are parts for the whole batch."""
        if isinstance(outputs, CoroutineType):
            if self._await is None:
                import asyncio

                self._await = asyncio.new_event_loop().run_until_complete
            return self._await(outputs)
        if not isinstance(outputs, GeneratorType):
            return outputs
        parts: Any = None
        try:
            for parts in outputs:
                if not isinstance(parts, list) or len(parts) != len(self._batch):
                    return parts
                for at, part in enumerate(parts):
                    if part is not None:
                        self._chunk(at, part)
                self._breathe(0.0)
                if not self._in_step and all(exchange.closed for exchange in self._batch):
                    break
        finally:
            outputs.close()
        return [""] * len(self._batch)

    def _tell(self, error: BaseException, *exchanges: Exchange) -> int:
        """The status."""
        status, message = verdict(error)
        self._log(error)
        for exchange in exchanges:
            exchange.respond(message, status, error=FAULT)
        return status

    def _fail(self, error: BaseException) -> None:
        status = self._tell(error, *self._batch)
        if status == 507 and (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _refuse(self, message: str, reason: str) -> None:
        logger.warning("Model %s: %s: %s", self._context.model_name, message, reason)
        for exchange in self._batch:
            exchange.respond(message.encode(), 503, error=FAULT)

    def _log(self, error: BaseException) -> None:
        logger.error("Model %s: the handler failed", self._context.model_name, exc_info=error)


def verdict(error: BaseException) -> tuple[int, bytes]:
    """Status and message of what a handler raised; details stay in the log unless it meant them for the client."""
    if isinstance(error, MemoryError) or "CUDA" in spoken(error):
        return 507, b"Out of resources"
    if isinstance(error, PredictionException):
        return 507 if error.error_code == 413 else _status(error.error_code), sayable(error.message)
    if isinstance(error, InvalidRequest):
        return 400, sayable(spoken(error))
    if isinstance(error, UnsupportedOutput):
        return 503, UNSUPPORTED.encode()
    return 503, b"Prediction failed"


def sayable(message: Any) -> bytes:
    """Half characters, which a client's JSON may bring and a message repeat, have no UTF-8."""
    try:
        return str(message).encode("utf-8", "replace")
    except BaseException:  # its __str__ is the handler's code too
        return b"Prediction failed"


def _status(code: Any) -> int:
    return code if isinstance(code, int) and 200 <= code <= 599 else 500


def outcome(processor: RequestProcessor) -> tuple[int, list[tuple[str, str]], str | None, str]:
    """What the handler has set: status, headers, content type, reason phrase."""
    headers, content_type = sendable(processor.get_response_headers())
    phrase = sayable(processor.get_response_status_phrase()).decode()
    return _status(processor.get_response_status_code()), headers, content_type, phrase


def sendable(headers: dict[str, str]) -> tuple[list[tuple[str, str]], str | None]:
    """The headers that can be sent, and the content type among them."""
    content_type, kept = None, []
    for name, value in headers.items():
        name, value = str(name), str(value)
        if any(sign in name + value for sign in "\r\n\0") or not (name + value).isascii():
            logger.warning("A response header %r can't be sent", name)
        elif name.lower() == "content-type":
            content_type = value or None
        else:
            kept.append((name, value))
    return kept, content_type
