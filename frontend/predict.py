"""The hot path: a request for a model becomes a frame to a worker, and the worker's frames become the answer.

No task and no future: the connection calls `predict()`, the link calls back. Not for: which path means which model, which
is `torchserve`.
"""

from dataclasses import dataclass

from ..handlers.protocol import RequestHead, ResponseHead
from .dispatch import ModelQueue
from .errors import (
    NoWorker,
    QueueFull,
    RequestError,
    ResponseTooLarge,
    Unauthorized,
    envelope,
    headers_of,
    status_of,
    type_of,
)
from .exchange import Exchange
from .link import Call
from .options import FrontendOptions

STREAM_HEADER = ("ts_stream_next", "true")


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL asks for."""

    queue: ModelQueue
    operation: str
    version: str | None = None  # as asked for
    url_path: str = ""
    query: bytes = b""


def predict(exchange: Exchange, target: Target, options: FrontendOptions) -> None:
    queue = target.queue
    request = RequestHead(target.operation, exchange.request_id, exchange.headers, target.query, target.url_path)
    call = Prediction(request, exchange, queue, options)
    exchange.on_leave = call.left
    try:
        queue.submit(call)
    except NoWorker:
        raise NoWorker(queue.route.name, target.version) from None


class Prediction(Call):
    __slots__ = ("_exchange", "_options", "_queue")

    def __init__(self, request: RequestHead, exchange: Exchange, queue: ModelQueue, options: FrontendOptions) -> None:
        super().__init__(request, exchange.body)
        self._exchange = exchange
        self._queue = queue
        self._options = options

    def answered(self, head: ResponseHead, body: memoryview) -> None:
        self._observe(head)
        if head.error:
            respond_error(self._exchange, head.status, head.error, bytes(body).decode(errors="replace"), head.headers)
        elif len(body) > self._options.max_response_bytes:
            self.failed(ResponseTooLarge(self._options.max_response_bytes))
        else:
            self._exchange.respond(head.status, body, head.content_type, head.headers, head.reason)

    def started(self, head: ResponseHead) -> None:
        self._observe(head)
        self._exchange.start(head.status, head.content_type, [*head.headers, STREAM_HEADER], head.reason)

    def chunk(self, body: memoryview) -> None:
        self._exchange.write(body)
        connection = self._exchange.connection
        if connection.unsent() > self._options.max_response_bytes:  # as much as a whole answer may wait for a slow client
            connection.abort()

    def ended(self, error: str) -> None:
        if error:
            self._exchange.cut()
        else:
            self._exchange.finish()

    def failed(self, error: RequestError) -> None:
        self.stop_timer()
        if self._exchange.status:
            self._exchange.cut()
        else:
            respond(self._exchange, error, self._options)

    def left(self) -> None:
        self._queue.cancel(self)

    def _observe(self, head: ResponseHead) -> None:
        self.stop_timer()
        self._queue.metrics.observe(
            head.status, self._exchange.seconds(), self.sent - self.submitted + head.queue_seconds, head.handler_seconds
        )


def respond(exchange: Exchange, error: RequestError, options: FrontendOptions) -> None:
    """An error as TorchServe words it; two of the statuses are the operator's choice."""
    status: int
    match error:
        case QueueFull():
            status = options.queue_full_status
        case Unauthorized():
            status = options.token_status
        case _:
            status = status_of(error)
    respond_error(exchange, status, type_of(error), str(error), headers_of(error))


def respond_error(exchange: Exchange, status: int, type: str, message: str, headers: list[tuple[str, str]]) -> None:
    if status == 413:  # of a handler: that status says what the client did wrong, and only the server can know
        status = 413 if type.startswith("Request") else 507
    exchange.respond(status, envelope(status, type, message), "application/json", headers)
