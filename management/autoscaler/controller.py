"""`flambeau control`: Inferno's controller, for fleets that are not ours: collect, optimize, update, every period or when asked.

The servers come from a collector, or from server-data.json with their loads from Prometheus; all else from accelerator-, model-,
serviceclass-, capacity- and optimizer-data.json, read anew each time. A cycle that fails changes nothing and is told; an empty
collection changes nothing either.
"""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

import click

from ...hosts import answered, foreign
from .. import sockets
from ..addresses import Address
from ..errors import StartError
from .http_client import RequestFailed, Server

logger = logging.getLogger(__name__)

FILES = ("accelerator-data", "model-data", "serviceclass-data", "capacity-data", "optimizer-data")
DEFAULT_PORT = 8080
CYCLE_SECONDS = 120.0  # the longest a cycle may take
GRACE_SECONDS = 5  # for a cycle under way when the end is asked for

Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Services:
    collector: Server
    optimizer: Server
    actuator: Server


def services(environ: Mapping[str, str]) -> Services:
    """COLLECTOR_HOST and COLLECTOR_PORT, likewise INFERNO_ and ACTUATOR_; localhost:8080 each."""

    def at(prefix: str) -> Server:
        return Server.at(f"{environ.get(f'{prefix}_HOST') or 'localhost'}:{environ.get(f'{prefix}_PORT') or DEFAULT_PORT}")

    return Services(at("COLLECTOR"), at("INFERNO"), at("ACTUATOR"))


@dataclass
class Controller:
    """Its cycles run one after another, whoever asks for them."""

    data: Path
    at: Services
    prometheus: str | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def cycle(self) -> int:
        """How many servers have an allocation now; CycleFailed when nothing was changed, or not all."""
        from .inferno import collect, drive, read_system, watched

        try:
            async with self._turn, asyncio.timeout(CYCLE_SECONDS):
                system, spec = read_system([self.data / f"{name}.json" for name in FILES])
                if self.prometheus is None:
                    collected = await collect(self.at.collector)
                else:
                    collected = await asyncio.to_thread(watched, self.data / "server-data.json", self.prometheus)
                answer = await drive(collected, self.at.optimizer, self.at.actuator, system, spec)
        except TimeoutError:
            raise CycleFailed(f"not done within {CYCLE_SECONDS:g} s") from None
        except (OSError, RequestFailed, ValueError, LookupError) as error:
            raise CycleFailed(str(error)) from None
        return len(answer.get("allocations") or {})


class CycleFailed(Exception):
    """Says why; the next one may succeed."""


class Invoke:
    """The controller's own listener, an ASGI application: GET /invoke runs a cycle."""

    def __init__(self, controller: Controller, hosts: frozenset[str] | None) -> None:
        self._controller, self._hosts = controller, hosts

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        status, told = await self._answer(scope)
        headers = [(b"content-type", b"application/json; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told, indent=4).encode()})

    async def _answer(self, scope: Message) -> tuple[int, Any]:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        wrong = foreign(self._hosts, headers.get(b"host"), headers.get(b"origin"))
        if wrong == "Host":
            return 403, {"message": "The Host header names no host of this controller."}
        if wrong == "Origin":
            return 403, {"message": "Requests of this Origin are not allowed."}
        if (scope["method"], scope["path"]) != ("GET", "/invoke"):
            return 404, {"message": "GET /invoke is all there is"}
        try:
            await self._controller.cycle()
        except CycleFailed as error:
            return 404, {"message": f"controller: {error}"}
        return 200, "OK"


@click.command()
@click.argument(
    "data", envvar="INFERNO_DATA_PATH", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--period", envvar="INFERNO_CONTROL_PERIOD", default=60.0, show_default=True, type=click.FloatRange(0, 86400),
    help="Seconds between cycles; 0: only when asked for. INFERNO_CONTROL_PERIOD says the same.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="One cycle, and its failure is the command's.")
@click.option(
    "--prometheus", metavar="URL", help="Instead of a collector: vLLM's metrics of each server, by its name as their job."
)
def control(data: Path, period: float, once: bool, prometheus: str | None) -> None:
    """Drive others' collector, optimizer and actuator with the files in DATA (or INFERNO_DATA_PATH, or here).

    COLLECTOR_HOST, COLLECTOR_PORT, INFERNO_HOST, INFERNO_PORT, ACTUATOR_HOST and ACTUATOR_PORT say where they are. GET
    /invoke runs a cycle at once: listens on CONTROLLER_HOST and CONTROLLER_PORT if one is given, or if --period is 0.
    """
    try:
        controller, own = Controller(data, services(os.environ), prometheus), listening(os.environ, period)
        opened = sockets.listen(own) if own and not once else None
    except (ValueError, StartError) as error:
        raise click.ClickException(str(error)) from None
    try:
        asyncio.run(_once(controller) if once else _run(controller, period, opened, answered([own.host] if own else [])))
    except CycleFailed as error:
        raise click.ClickException(str(error)) from None


def listening(environ: Mapping[str, str], period: float) -> Address | None:
    """Where GET /invoke is answered; None: nowhere."""
    host, port = environ.get("CONTROLLER_HOST"), environ.get("CONTROLLER_PORT")
    if not (host or port) and period:
        return None
    if port and not (port.isdecimal() and int(port) < 65536):
        raise ValueError(f"CONTROLLER_PORT={port}: not a port")
    return Address("http", host or "localhost", int(port or DEFAULT_PORT))


async def _once(controller: Controller) -> None:
    click.echo(f"{await controller.cycle()} servers have an allocation")


async def _run(controller: Controller, period: float, opened: socket | None, hosts: frozenset[str] | None) -> None:
    """Until interrupted."""
    regularly = [_regularly(controller, period)] if period else []
    when_asked = [_listen(Invoke(controller, hosts), opened)] if opened else []
    await asyncio.gather(*regularly, *when_asked)


async def _regularly(controller: Controller, period: float) -> None:
    while True:
        try:
            await _once(controller)
        except CycleFailed as error:
            logger.warning("A cycle is skipped: %s", error)
        except Exception:  # whatever a service answers, the next cycle may find better
            logger.exception("A cycle is skipped")
        await asyncio.sleep(period)


async def _listen(app: Invoke, opened: socket) -> None:
    import uvicorn

    host, port, *_ = opened.getsockname()
    click.echo(f"GET {Address('http', host, port).url}/invoke runs a cycle", err=True)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=GRACE_SECONDS
    )  # fmt: skip
    await uvicorn.Server(config).serve([opened])
