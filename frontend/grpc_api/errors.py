"""What a gRPC caller is told of a failure: a code, and TorchServe's two lines, the message and its Java class."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from ..errors import RequestError, status_of, type_of

PACKAGES = {  # of TorchServe's exceptions; the others are org.pytorch.serve.http's
    "DownloadArchiveException": "org.pytorch.serve.archive",
    "InvalidModelException": "org.pytorch.serve.archive.model",
    "ModelNotFoundException": "org.pytorch.serve.archive.model",
    "ModelVersionNotFoundException": "org.pytorch.serve.archive.model",
}

# HTTP status → gRPC code; anything else is INTERNAL
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def code_of(status: int) -> grpc.StatusCode:
    return CODES.get(status, grpc.StatusCode.INTERNAL)


@asynccontextmanager
async def told(context: Any) -> AsyncIterator[None]:
    """What goes wrong inside ends the call with the code and the words that the REST API would use."""
    try:
        yield
    except RequestError as error:
        await context.abort(code_of(status_of(error)), words(str(error), type_of(error)))


def words(message: str, type: str) -> str:
    return f"{message}\n{PACKAGES.get(type, 'org.pytorch.serve.http')}.{type}"
