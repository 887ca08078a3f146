"""Keys for gRPC: the metadata `authorization` holds what the header of that name holds in REST. Probes need none."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ..errors import Forbidden, Unauthorized
from ..gate import Gate

OPEN = ("/Ping", "/ServerLive", "/ServerReady")


class KeyCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.endswith(OPEN):
            return handler
        given = dict(details.invocation_metadata).get("authorization")
        try:
            self._gate.check_key(given.encode() if isinstance(given, str) else given)
        except (Unauthorized, Forbidden) as error:
            return refusing(handler, str(error))
        return handler


def refusing(handler: Any, message: str) -> Any:
    """The same kind of method, that only says no."""

    async def unary(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    async def stream(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
        yield None

    side = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    make = getattr(grpc, f"{side}_rpc_method_handler")
    return make(stream if handler.response_streaming else unary, handler.request_deserializer, handler.response_serializer)
