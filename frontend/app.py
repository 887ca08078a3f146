"""The inference application of one HTTP process: which request goes where, and what all answers have in common.

A connection hands over each request as an `Exchange`. Those for a model go straight to `predict`; the others to the
routes that the protocol modules in `PROTOCOLS` bring. Not for: listening, which is `server`.
"""

import asyncio
import itertools
import logging
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import msgspec

from ..management.jwt_auth import model_in
from . import description, oip, openai, sax, text_api, torchserve, workflows
from .access_log import AccessLog
from .connection import Connection
from .control import Control
from .dispatch import SequenceHeaders
from .errors import MethodNotAllowed, NotFound, RequestError
from .exchange import FIXED, Exchange
from .gate import Gate
from .line_log import LineLog
from .metrics import Metrics
from .metrics_log import MetricsLog
from .models import TICK_SECONDS, Models
from .options import FrontendOptions
from .predict import Target, predict, respond, respond_error
from .proxy import to_control
from .tally import tally_of
from .web import Request, Route, Router, start_task

logger = logging.getLogger(__name__)

PROTOCOLS: tuple[Callable[[Models, FrontendOptions], list[Route]], ...] = (
    torchserve.routes,
    text_api.routes,
    openai.routes,
    oip.routes,
    workflows.routes,
)
MAX_TARGETS = 10_000  # URLs remembered; a client that varies them must not fill our memory


class App:
    """Made inside the running event loop; `tick()` and `close()` are its owner's to call."""

    def __init__(self, runtime: Path, options: FrontendOptions, most_connections: int = sys.maxsize) -> None:
        loop = asyncio.get_running_loop()
        self.options = options
        self.most_connections = most_connections  # one more is answered 503
        self.draining = False
        self.connections: set[Connection] = set()
        self.fixed_headers = FIXED + cors_headers(options)
        metrics_log = MetricsLog(Path(options.metrics_log)) if options.metrics_log else None
        self.metrics = Metrics(runtime / "metrics", loop.call_later, metrics_log)
        control = Control(runtime / "control.sock")
        self.models = Models(
            runtime,
            self.metrics,
            control.stalled,
            control.wake,
            options.max_response_bytes,
            options.stream_buffer_bytes,
            tally_of(runtime, options),
            options.busy_poll_seconds,
            SequenceHeaders.of(options),
        )
        self._gate = Gate(runtime, options)
        found = [route for routes in PROTOCOLS for route in routes(self.models, options)]
        if options.sax_cell:
            found += sax.routes(self.models, options, runtime / "cell.sock")
        found += description.routes(self.models, options, list(found))
        self._routers = {
            name: Router([route for route in found if route.listener == name]) for name in ("inference", "sax")
        }
        self._management = (
            Route("*", "*", to_control(runtime / "control.sock"), needs_key=False) if options.same_port else None
        )
        self._access_log = AccessLog(Path(options.access_log) if options.access_log else None)
        self._logs: list[LineLog] = [self._access_log, *([metrics_log] if metrics_log else [])]
        self._targets: dict[bytes, Target | None] = {}  # as long as `_table` is the newest
        self._table = self.models.table
        self._tasks: set[asyncio.Task[None]] = set()
        self.request_id = request_ids()
        self._ticks = 0

    # what connections ask

    def begin(self, exchange: Exchange) -> None:
        """A request has come wholly."""
        exchange.started_at = time.perf_counter()
        try:
            target = self._target_of(exchange)
            if target is not None:
                predict(exchange, target, self.options)
            else:
                self._begin_route(exchange)
        except RequestError as error:
            self.refuse(exchange, error)

    def refuse(self, exchange: Exchange, error: RequestError | None) -> None:
        """In the words of the API that was asked; None: a fault of ours."""
        if exchange.connection.listener == "inference" and openai.owns(exchange.url):
            openai.refuse(exchange, error, self.options)
        elif error is not None:
            respond(exchange, error, self.options)
        else:
            respond_error(exchange, 500, "InternalServerException", "Internal server error.", [])

    def done(self, exchange: Exchange) -> None:
        """The answer is written, or the client has left (then its status may be 0)."""
        status = exchange.status or 499
        self.metrics.answered(status)
        connection, seconds = exchange.connection, exchange.seconds() if exchange.started_at else 0.0
        self._access_log.add(connection.client_text, exchange.method, exchange.url, exchange.version, status, seconds)

    def _target_of(self, exchange: Exchange) -> Target | None:
        """The model it asks for; whoever may not ask is not told whether the model exists."""
        if exchange.connection.listener != "inference" or exchange.method == b"OPTIONS":
            return None
        try:
            target = self._target(exchange.url)
        except RequestError:
            self._gate.check(exchange)
            raise
        if target is not None:
            self._gate.check(exchange, model=target.queue.route.name)
        return target

    def _target(self, url: bytes) -> Target | None:
        self.models.refresh()
        if self._table is not self.models.table:  # whoever has refreshed it
            self._table = self.models.table
            self._targets.clear()
            self.draining = self.draining or self._table.draining
        try:
            return self._targets[url]
        except KeyError:
            target = torchserve.target(self.models, url, self.options)
            if len(self._targets) >= MAX_TARGETS:
                self._targets.clear()
            self._targets[url] = target
            return target

    def _begin_route(self, exchange: Exchange) -> None:
        path = unquote(exchange.url.partition(b"?")[0].decode("latin-1"), errors="replace")
        route, rest, known = self._routers[exchange.connection.listener].find(exchange.method.decode(), path)
        route = route or self._management
        if route is not None and route.client_names_request:
            exchange.take_client_s_id()
        self._gate.check(
            exchange,
            needs_key=route is not None and route.needs_key,
            model=model_in(exchange.url.partition(b"?")[0]),
            in_body=route is not None and route.model_in_body,
        )
        if route is None:
            raise MethodNotAllowed() if known else NotFound()
        task = start_task(self._answer(exchange, route, path, rest), self._tasks)
        exchange.on_leave = task.cancel

    async def _answer(self, exchange: Exchange, route: Route, path: str, rest: str) -> None:
        try:
            if route.asgi is not None:
                await route.asgi(exchange.scope(), exchange.receive, exchange.send)
            elif route.handler is not None:
                await route.handler(Request(exchange, path, rest))
            if not exchange.complete:
                raise RuntimeError(f"{route.path} was left unanswered")
        except asyncio.CancelledError:
            if not exchange.complete:  # we go down; a client that left is not there to be told
                exchange.cut()
        except RequestError as error:
            self._failed(exchange, error)
        except Exception:
            logger.exception("%s %s failed, request %s", exchange.method.decode(), route.path, exchange.request_id)
            self._failed(exchange, None)

    def _failed(self, exchange: Exchange, error: RequestError | None) -> None:
        if exchange.status:
            exchange.cut()
        else:
            self.refuse(exchange, error)

    # what the process does

    def tick(self) -> None:
        """Ten times a second."""
        now = asyncio.get_running_loop().time()
        self.models.tick(now)
        self.draining = self.draining or self.models.table.draining
        for log in self._logs:
            log.flush()
        self._ticks += 1
        if self._ticks % int(1 / TICK_SECONDS) == 0:
            for log in self._logs:
                log.reopen()
            for connection in list(self.connections):
                connection.check(now)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for log in self._logs:
            log.close()
        self.metrics.close()


def cors_headers(options: FrontendOptions) -> bytes:
    given = msgspec.to_builtins(options.cors)
    return "".join(f"{name}: {value}\r\n" for name, value in given.items() if value).encode()


def request_ids() -> Callable[[], str]:
    """UUIDs (version 4 in form) at the price of a counter: one random prefix per process."""
    bits = random.SystemRandom().getrandbits(128)
    prefix = f"{bits & 0xFFFFFFFF:08x}-{bits >> 32 & 0xFFFF:04x}-4{bits >> 48 & 0xFFF:03x}-a{bits >> 60 & 0xFFF:03x}-"
    counter = itertools.count(bits >> 80)
    return lambda: prefix + "%012x" % (next(counter) & 0xFFFFFFFFFFFF)
