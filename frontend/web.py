"""What a protocol module is written with: `Route`, and the `Request` its handlers get.

A module (`oip`, `openai`, …) has one function, `routes(models, options) -> list[Route]`, named in `app.PROTOCOLS`. A
handler is `async def handler(request: Request) -> None`; it answers with `request.answer(…)` or, in pieces, with
`request.start(…)`, `request.write(…)`, `request.finish()`. Raising one of `errors` answers it in TorchServe's envelope; a
protocol that has its own words for errors catches `RequestError` itself. When the client leaves, the handler's task is
cancelled. A handler may also be any ASGI application: `Route(…, asgi=app)`. Not for: the predictions' hot path.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

import msgspec

from .errors import BadRequest, Forbidden
from .exchange import Exchange

Handler = Callable[["Request"], Awaitable[None]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Asgi(Protocol):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True)
class Route:
    """`path` is exact, or a prefix when it ends in "/" (then `request.rest` is what follows). The longest one wins."""

    method: str  # "*": any
    path: str
    handler: Handler | None = None
    asgi: Asgi | None = None
    needs_key: bool = True  # when token authorization is on; probes need none
    model_in_body: bool = False  # the handler asks `request.may_use(model)`; otherwise the path names the model
    listener: Literal["inference", "sax"] = "inference"
    client_names_request: bool = False  # by a usable x-request-id; elsewhere, as with TorchServe, the server alone does


class Request:
    """One request, wholly received; see the module's docstring for how to answer it."""

    def __init__(self, exchange: Exchange, path: str, rest: str = "") -> None:
        self.exchange = exchange
        self.method = exchange.method.decode()
        self.path = path
        self.rest = rest
        self.body: bytes = bytes(exchange.body)
        self.request_id = exchange.request_id

    def may_use(self, model: str) -> None:
        """Forbidden when the client's token is for other models."""
        bearer = self.exchange.bearer
        if bearer is not None and not bearer.may_use(model):
            raise Forbidden("The token is not for this model.")

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """As sent, for a worker's RequestHead."""
        return self.exchange.headers

    def header(self, name: str) -> str | None:
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.exchange.headers if key.lower() == wanted), None)

    @property
    def query(self) -> dict[str, str]:
        """The first value of each name."""
        pairs = parse_qsl(self.exchange.url.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)
        return dict(reversed(pairs))

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is no JSON: {error}") from None

    async def answer(
        self,
        status: int,
        body: bytes | str | dict[str, Any] | list[Any],
        content_type: str | None = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """The whole answer; a dict or list becomes compact JSON."""
        if isinstance(body, dict | list):
            body = msgspec.json.encode(body)
        self.exchange.respond(status, body.encode() if isinstance(body, str) else body, content_type, headers)

    async def start(self, status: int, content_type: str | None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.exchange.start(status, content_type, headers)

    async def write(self, chunk: bytes | str) -> None:
        """Waits while the client reads too slowly; one that does not read at all is cut off."""
        self.exchange.write(chunk.encode() if isinstance(chunk, str) else chunk)
        if not self.exchange.complete:
            await self.exchange.connection.drained()

    async def finish(self) -> None:
        self.exchange.finish()

    def cut(self) -> None:
        """Ends a stream so that the client can tell that something is missing."""
        self.exchange.cut()

    @property
    def started(self) -> bool:
        return self.exchange.status != 0


class Router:
    def __init__(self, routes: list[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._prefixes: list[tuple[str, dict[str, Route]]] = []
        prefixes: dict[str, dict[str, Route]] = {}
        for route in routes:
            (prefixes if route.path.endswith("/") and route.path != "/" else self._exact).setdefault(route.path, {})[
                route.method
            ] = route
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))

    def find(self, method: str, path: str) -> tuple[Route | None, str, bool]:
        """The route, what follows its prefix, and whether the path exists for another method."""
        known = False
        if (methods := self._exact.get(path)) is not None:
            if (route := methods.get(method) or methods.get("*")) is not None:
                return route, "", True
            known = True
        for prefix, methods in self._prefixes:
            if path.startswith(prefix) and len(path) > len(prefix):
                if (route := methods.get(method) or methods.get("*")) is not None:
                    return route, path[len(prefix) :], True
                known = True
        return None, "", known


def start_task(coroutine: Awaitable[None], tasks: set["asyncio.Task[None]"]) -> "asyncio.Task[None]":
    """A task that is not forgotten while it runs."""
    task: asyncio.Task[None] = asyncio.ensure_future(coroutine)  # type: ignore[arg-type]
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
