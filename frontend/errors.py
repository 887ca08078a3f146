"""What can go wrong with a request, each error named once, and the one table that makes status codes of them.

Every protocol raises these and words them in its own envelope; TorchServe's is `envelope()`. Not for: what a handler says
went wrong, which is `ModelError` and brings its own status.
"""

import json

LONGEST_NAME = 256


class RequestError(Exception):
    """Base of what a caller is told; the message is meant for them."""


class BadRequest(RequestError): ...


class Unauthorized(RequestError): ...


class Forbidden(RequestError):
    """We know who asks; they may not do this."""


class ForeignHost(RequestError):
    """A browser was led here by somebody else's page."""


class NotFound(RequestError):
    def __init__(self) -> None:
        super().__init__("Requested resource is not found, please refer to API document.")


class MethodNotAllowed(RequestError):
    def __init__(self) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")


class ModelNotFound(RequestError):
    def __init__(self, name: str) -> None:
        super().__init__(f"Model not found: {brief(name)}")


class Starting(RequestError):
    """An unknown model may be one of those that are loaded at start."""

    retry_after_seconds = 1

    def __init__(self) -> None:
        super().__init__("The server is starting: its models are not all registered yet. Try again later.")


class WorkflowNotFound(RequestError):
    def __init__(self, name: str) -> None:
        super().__init__(f"Workflow not found: {brief(name)}")


class ModelVersionNotFound(RequestError):
    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"Model version: {brief(version)} does not exist for model: {name}")


class RequestTooLarge(RequestError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than max_request_size, {limit} bytes.")


class HeadersTooLarge(RequestError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The request line and headers are larger than {limit} bytes.")


class RequestTimeout(RequestError):
    """The client took too long to send its request."""


class NoWorker(RequestError):
    def __init__(self, name: str, version: str | None) -> None:
        model = f'"{name}" Version {version}"' if version else f'"{name}"'
        super().__init__(
            f"Model {model} has no worker to serve inference request. Please use scale workers API to add workers. "
            "If this is a sequence inference, please check if it is closed, or expired; "
            "or exceeds maxSequenceJobQueueSize"
        )


class QueueFull(RequestError):
    retry_after_seconds = 1

    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f'The job queue of model "{name}" is full: {size} requests are waiting (jobQueueSize). Try again later.'
        )


class NoTicket(RequestError):
    retry_after_seconds = 1

    def __init__(self, name: str) -> None:
        super().__init__(f'Every worker of model "{name}" is busy and it takes no request that has to wait (useJobTicket).')


class WorkerDied(RequestError):
    def __init__(self, detail: str = "") -> None:
        super().__init__(f"Worker died. {detail}".rstrip())


class ClientTimeout(RequestError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"No answer within clientTimeoutInMills, {seconds * 1000:.0f} ms.")


class ResponseTooLarge(RequestError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The response is larger than max_response_size, {limit} bytes.")


class SlowReader(RequestError):
    """The client does not read its stream; it is never told, its connection is cut."""


class TooManyConnections(RequestError):
    def __init__(self) -> None:
        super().__init__("The server has as many connections as it can hold. Try again later.")


class Draining(RequestError):
    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class ModelError(RequestError):
    """The handler, or the worker on its behalf, refused the request."""

    def __init__(self, status: int, type: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.type = status, type
        self.param = param  # the request's parameter that is to blame, where the handler says so


# error → status, and the type by which TorchServe's users know it
STATUS: dict[type[RequestError], tuple[int, str]] = {
    BadRequest: (400, "BadRequestException"),
    Unauthorized: (401, "InvalidKeyException"),
    Forbidden: (403, "ForbiddenException"),
    ForeignHost: (403, "ForbiddenException"),
    NotFound: (404, "ResourceNotFoundException"),
    ModelNotFound: (404, "ModelNotFoundException"),
    WorkflowNotFound: (404, "WorkflowNotFoundException"),
    ModelVersionNotFound: (404, "ModelVersionNotFoundException"),
    MethodNotAllowed: (405, "MethodNotAllowedException"),
    RequestTimeout: (408, "RequestTimeoutException"),
    RequestTooLarge: (413, "RequestEntityTooLargeException"),
    HeadersTooLarge: (431, "RequestHeaderFieldsTooLargeException"),
    WorkerDied: (500, "InternalServerException"),
    ResponseTooLarge: (507, "InternalServerException"),
    NoWorker: (503, "ServiceUnavailableException"),
    QueueFull: (503, "ServiceUnavailableException"),
    NoTicket: (503, "ServiceUnavailableException"),
    SlowReader: (503, "ServiceUnavailableException"),
    TooManyConnections: (503, "ServiceUnavailableException"),
    Draining: (503, "ServiceUnavailableException"),
    Starting: (503, "ServiceUnavailableException"),
    ClientTimeout: (504, "GatewayTimeoutException"),
}


def brief(name: str) -> str:
    """What a client gave for a name; a megabyte of it is not repeated."""
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…"


def status_of(error: RequestError) -> int:
    return error.status if isinstance(error, ModelError) else STATUS[type(error)][0]


def type_of(error: RequestError) -> str:
    return error.type if isinstance(error, ModelError) else STATUS[type(error)][1]


def headers_of(error: RequestError) -> list[tuple[str, str]]:
    if isinstance(error, QueueFull | NoTicket | Starting):
        return [("Retry-After", str(error.retry_after_seconds))]
    if isinstance(error, Unauthorized):
        return [("WWW-Authenticate", "Bearer")]
    return []


def envelope(status: int, type: str, message: str) -> bytes:
    """The body of every TorchServe error."""
    return (json.dumps({"code": status, "type": type, "message": message}, indent=2) + "\n").encode()
