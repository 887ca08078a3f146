"""A machine's part in its cell: reports what it holds, gets orders, carries them out.

One task speaks with the admin; each model has a task of its own, so that a slow load delays nobody. While the admin can't
be reached everything that is loaded goes on serving. Not for: how models are loaded, which is the `Host`'s.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from .bell import Bell
from .errors import SaxError
from .machines import Machine
from .messages import Held, Order, Orders, ReplicaReport, Report, Route, Traffic

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between attempts to reach an admin

Exchange = Callable[[Report], Awaitable[Orders]]


class Host(Protocol):
    """What loads models here. Names are model keys; a load that fails raises SaxError with its cause."""

    async def load(self, key: str, order: Order) -> None: ...
    async def update(self, key: str, order: Order) -> None:
        """Another checkpoint or other overrides: the new copy serves before the old one ends."""

    async def scale(self, key: str, replicas: int) -> None: ...
    async def unload(self, key: str) -> None: ...
    def replicas(self, key: str) -> list[ReplicaReport]: ...
    def methods(self, order: Order) -> list[str]: ...
    def route(self, key: str) -> dict[str, object]: ...
    def traffic(self) -> dict[str, Traffic]:
        """Of models that may sleep: what has been asked of them here."""

    def woken(self, name: str) -> bool:
        """A request waits for a registered model that has no worker. True when it is the cell's."""

    def take_routes(self, routes: dict[str, list[Route]]) -> None:
        """Where the cell's other machines have loaded replicas."""


@dataclass
class Model:
    """One model that this machine holds or shall hold."""

    wanted: Order | None
    held: Order | None = None  # what was tried last
    done: Order | None = None  # what was carried out last: it serves, whatever became of later orders
    reason: str = ""  # why `held` failed
    task: "asyncio.Task[None] | None" = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Agent:
    def __init__(self, address: str, machine: Callable[[], Machine], host: Host, exchange: Exchange) -> None:
        self.address = address
        self.joined = False
        self.changed = Bell()  # rung by whoever sees that a worker came or went
        self._instance = secrets.token_hex(8)
        self._machine = machine
        self._host = host
        self._exchange = exchange
        self._models: dict[str, Model] = {}
        self._incarnation = ""
        self._seen = ""

    def adopt(self, held: dict[str, Order]) -> None:
        """Before `run`: what this machine holds already."""
        for key, order in held.items():
            self._models[key] = Model(wanted=order, held=order, done=order)

    def settled(self) -> dict[str, Order]:
        """What is held as it was ordered, with nothing under way."""
        return {
            key: model.held
            for key, model in self._models.items()
            if model.held is not None and model.held == model.wanted and not model.reason
        }

    def report(self) -> Report:
        models = {key: self._held(key, model) for key, model in self._models.items()}
        return Report(
            address=self.address, instance=self._instance, machine=self._machine(), models=models, seen=self._seen,
            traffic=self._host.traffic(),
        )  # fmt: skip

    def woken(self, name: str) -> bool:
        """True when the admin sees to it; it is told at once."""
        if ours := self._host.woken(name):
            self.changed.ring()
        return ours

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self._talk()
                except SaxError as error:
                    level = logging.WARNING if self.joined else logging.INFO
                    if self.joined or not self._incarnation:
                        logger.log(level, "Failed to join: %s", error.text)
                    self.joined, self._seen, self._incarnation = False, "", "?"
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            for model in self._models.values():
                if model.task:
                    model.task.cancel()

    async def _talk(self) -> None:
        """One report and its answer; a change here ends the wait for news from there."""
        news = self.changed.listen()
        exchange = asyncio.ensure_future(self._exchange(self.report()))
        change = asyncio.ensure_future(news.wait())
        try:
            await asyncio.wait({exchange, change}, return_when=asyncio.FIRST_COMPLETED)
            if not exchange.done():
                return
            orders = exchange.result()
        finally:
            exchange.cancel()
            change.cancel()
        if not self.joined or orders.incarnation != self._incarnation:
            logger.info("Joined %s", self.address)
        self.joined, self._incarnation, self._seen = True, orders.incarnation, orders.digest
        self._obey(orders)

    def _obey(self, orders: Orders) -> None:
        for key in self._models.keys() | orders.models.keys():
            wanted = orders.models.get(key)
            model = self._models.setdefault(key, Model(wanted))
            model.wanted = wanted
            model.changed.set()
            if model.task is None:
                model.task = asyncio.create_task(self._keep(key, model))
        self._host.take_routes({
            key: others for key, routes in orders.routes.items() if (others := [r for r in routes if r.machine != self.address])
        })  # fmt: skip

    async def _keep(self, key: str, model: Model) -> None:
        """Makes what is held what is wanted, again and again; ends when neither is left."""
        while model.wanted or model.held:
            model.changed.clear()
            if model.wanted != model.held:
                wanted = model.wanted
                try:
                    model.reason = ""
                    await self._step(key, model, wanted)
                except SaxError as error:
                    model.reason = error.text
                    logger.error("%s can not be loaded: %s", key, error.text)
                except Exception:
                    model.reason = "internal error, see this machine's log"
                    logger.exception("%s can not be loaded", key)
                model.held = wanted
                self.changed.ring()
            else:
                await model.changed.wait()
        del self._models[key]
        self.changed.ring()

    async def _step(self, key: str, model: Model, wanted: Order | None) -> None:
        """What serves goes on serving when an update or a scale-up fails, however often that is tried."""
        if wanted is None:
            await self._host.unload(key)
        elif model.done is None:
            if model.held is not None:  # a load that failed may have left something
                await self._host.unload(key)
            await self._host.load(key, wanted)
        elif wanted.uuid != model.done.uuid:  # the name was published anew while this machine was away
            model.done = None
            await self._host.unload(key)
            await self._host.load(key, wanted)
        elif wanted.revision != model.done.revision:
            await self._host.update(key, wanted)
        else:
            await self._host.scale(key, wanted.replicas)
        model.done = wanted

    def _held(self, key: str, model: Model) -> Held:
        order = model.held or model.wanted
        if order is None:
            return Held()
        replicas = self._host.replicas(key)
        missing: Any = ReplicaReport(status="FAILED" if model.reason else "LOADING")
        replicas = [*replicas, *[missing] * (order.replicas - len(replicas))]
        return Held(
            uuid=order.uuid, revision=order.revision, attempt=order.attempt, replicas=replicas,
            methods=self._host.methods(order), reason=model.reason, route=self._host.route(key),
        )  # fmt: skip


def exchange_with(ask: Callable[[object], Awaitable[Any]]) -> Exchange:
    """`ask` carries JSON to whoever is the admin now."""

    async def exchange(report: Report) -> Orders:
        try:
            return msgspec.convert(await ask(msgspec.to_builtins(report)), Orders)
        except msgspec.ValidationError as error:
            raise SaxError("Unavailable", f"the admin answers with what are no orders: {error}") from None

    return exchange
