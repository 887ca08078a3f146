"""What a handler is: the contract between a worker and the model code that it runs.

An ordinary handler gets a batch of rows and returns one answer for each, in the same order:

    class Upper:
        def initialize(self, context: Context) -> None: ...
        def handle(self, rows: list[dict], context: Context) -> list: ...

A *continuous* handler, such as an engine which generates text, takes requests one by one while others are running. Not
for: loading a handler (`entry_point`), or running one (`worker`).
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .protocol import RequestHead

if TYPE_CHECKING:
    from .context import Context


class PredictionException(Exception):
    """A handler's way to refuse a request: the client is told `message` with the status `error_code`."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message, error_code)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"message : {self.message} error_code : {self.error_code}"


def spoken(error: BaseException) -> str:
    """An exception's message, even of one whose own `__str__` fails."""
    try:
        return str(error)
    except BaseException:
        return f"a {type(error).__name__} that can't say what it is"


class Request:
    """One request as it came down a link."""

    __slots__ = ("arrived", "body", "head", "id")

    def __init__(self, id: int, head: RequestHead, body: memoryview, arrived: float) -> None:
        self.id = id  # unique in this worker while the request lives; what `cancel` will name
        self.head = head  # operation, request_id, headers, query, url_path, priority
        self.body = body
        self.arrived = arrived  # time.monotonic()


class Reply(Protocol):
    """The way back to one client. None of these calls waits; after the client left they do nothing."""

    closed: bool  # nobody listens any more: cancelled, link lost, or answered in full

    @property
    def backlog(self) -> int:
        """Bytes which the client's link has not taken yet: produce less for it while this grows."""

    def respond(
        self,
        body: bytes,
        status: int = 200,
        headers: list[tuple[str, str]] | None = None,
        content_type: str | None = None,
        error: str = "",
    ) -> None:
        """The whole answer; or, with `error` the name of an error type, the message of that error."""

    def start(
        self, status: int = 200, headers: list[tuple[str, str]] | None = None, content_type: str | None = None
    ) -> None:
        """A streamed answer begins."""

    def chunk(self, body: bytes) -> None:
        """One part of it; starts the answer if nobody did."""

    def end(self, error: str = "") -> None:
        """The stream is complete; or cut short, and `error` says why."""


@runtime_checkable
class ContinuousHandler(Protocol):
    """A handler whose requests share its steps. The worker calls from one thread and never two methods at once:

        while not stopped: drain sockets (submit, cancel) → step()

    `step` is called as long as it returns True; when it returned False the worker sleeps until a request arrives.
    """

    def initialize(self, context: "Context") -> None:
        """Load the model; what it raises is told as the cause of the failed load."""

    def submit(self, request: Request, reply: Reply) -> None:
        """Take a request; it is answered now or in later steps. What it raises is answered like a handler's exception."""

    def cancel(self, id: int) -> None:
        """The client of request `id` left: free what it holds. Unknown ids are ignored."""

    def step(self) -> bool:
        """One bounded piece of work for all running requests; False when there is none."""


class Handler(Protocol):
    """An ordinary handler, as TorchServe's users know it."""

    def initialize(self, context: "Context") -> None: ...

    def handle(self, data: list[dict[str, Any]], context: "Context") -> list[Any]: ...
