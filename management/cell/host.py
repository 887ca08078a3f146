"""Published models on this machine: the agent's orders as the control plane's verbs, and its workers as replicas.

A revision is a version of the registered model, so an update is TorchServe's own: the new version's workers are ready
before it becomes the default, and the old one's finish what they have. Not for: deciding anything.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ...archiver.errors import ArchiveError
from ..control import ControlPlane
from ..errors import ManagementError, WorkersFailed
from ..pool import Pool
from ..routing import ModelRoute, Replica
from ..serving import Registration
from ..workers import State
from .deploy import deploy
from .errors import SaxError
from .messages import Order, ReplicaReport, Route, Status, Traffic
from .names import parse_model
from .servables import Servables

STATES: dict[State, Status] = {State.READY: "LOADED", State.FAILED: "FAILED"}


@contextmanager
def refused() -> Iterator[None]:
    """What the control plane refuses, as the cell says it."""
    try:
        yield
    except WorkersFailed as error:
        raise SaxError("Internal", f"Loading error: {error.cause or error}") from None
    except (ManagementError, ArchiveError) as error:
        raise SaxError("Internal", f"Loading error: {error}") from None


class ControlHost:
    """`gate`: the TCP address at which other machines reach our workers; empty when they do not. `counts`: requests that
    arrived and were refused, by registered name."""

    def __init__(
        self,
        control: ControlPlane,
        servables: Servables,
        folder: Path,
        cell: str,
        gate: str = "",
        take: Callable[[dict[str, ModelRoute]], None] = lambda routes: None,
        counts: Callable[[], dict[str, tuple[int, int]]] = dict,
    ) -> None:
        self._control = control
        self._servables = servables
        self._folder = folder
        self._cell = cell
        self._gate = gate
        self._take = take
        self._counts = counts
        self._woken: Counter[str] = Counter()  # requests that found everybody asleep

    async def load(self, key: str, order: Order) -> None:
        await self._register(key, order)

    async def update(self, key: str, order: Order) -> None:
        name, old = self._name(key), self._versions(key)
        await self._register(key, order)
        await self._do(self._control.set_default(name, str(order.revision)))
        for version in old:
            await self._do(self._control.unregister(name, version))
            shutil.rmtree(self._folder / name / version, ignore_errors=True)

    async def scale(self, key: str, replicas: int) -> None:
        await self._do(self._control.scale(self._name(key), None, replicas, replicas, wait=True))

    async def unload(self, key: str) -> None:
        name = self._name(key)
        versions = self._versions(key)
        default = self._control.registry.default(name) if versions else ""
        for version in sorted(versions, key=lambda version: version == default):
            await self._do(self._control.unregister(name, version))
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def replicas(self, key: str) -> list[ReplicaReport]:
        pool = self._pool(key)
        return [
            ReplicaReport(
                status=STATES.get(worker.state, "LOADING"),
                worker_id=f"{self._gate}/{worker.id}.{worker.generation}",
                address=f"tcp:{self._gate}/{worker.id}.{worker.generation}" if self._gate else "",
            )
            for worker in (pool.workers if pool else [])
        ]

    def methods(self, order: Order) -> list[str]:
        try:
            return list(self._servables.find(order.path).methods)
        except SaxError:
            return []

    def route(self, key: str) -> dict[str, object]:
        """What a queue on another machine must know of the model."""
        pool = self._pool(key)
        route = msgspec.to_builtins(pool.route()) if pool else {}
        return {name: value for name, value in route.items() if name not in ("replicas", "name", "wanted_workers")}

    def take_routes(self, routes: dict[str, list[Route]]) -> None:
        """Replicas of other machines become part of the routing table, under the name they have here."""
        found = {}
        for key, machines in routes.items():
            replicas = [Replica(worker, address) for machine in machines for worker, address in machine.replicas]
            if replicas:
                fields = machines[0].route | {"name": self._name(key), "replicas": msgspec.to_builtins(replicas)}
                found[self._name(key)] = msgspec.convert(fields, ModelRoute)
        self._take(found)

    def woken(self, name: str) -> bool:
        ours = any(key == name for key in self._sleepers().values())
        self._woken[name] += ours
        return ours

    def traffic(self) -> dict[str, Traffic]:
        sleepers = self._sleepers()
        counts = self._counts() if sleepers else {}
        return {
            key: Traffic(arrived=arrived, rejected=rejected + self._woken[name])
            for key, name in sleepers.items()
            for arrived, rejected in (counts.get(name, (0, 0)),)
        }

    def _sleepers(self) -> dict[str, str]:
        """Models of the cell that may sleep, by key: the names they have here."""
        sections = [pool.archive.config.raw.get("sax") for pool in self._control.pools.values()]
        keys = {str(of["key"]) for of in sections if isinstance(of, dict) and of.get("dormant_after") and "key" in of}
        return {key: self._name(key) for key in keys}

    def held(self) -> dict[str, Order]:
        """What the registry brought back after a restart, as the orders that made it."""
        found = {}
        for (name, version), pool in self._control.pools.items():
            section = pool.archive.config.raw.get("sax")
            if not isinstance(section, dict) or "key" not in section or self._control.registry.default(name) != version:
                continue
            found[str(section["key"])] = Order(
                path=section["path"],
                checkpoint=section["asked"],
                overrides=section["overrides"],
                replicas=pool.record.min_workers,
                uuid=section.get("uuid", ""),
                revision=section["revision"],
                attempt=section["attempt"],
            )
        return found

    async def _register(self, key: str, order: Order) -> None:
        servable = self._servables.find(order.path)
        folder = await asyncio.to_thread(
            deploy, servable, key, self._name(key), order, self._folder, self._control.allowed_urls
        )
        asked = Registration(
            url=str(folder.absolute()), initial_workers=order.replicas, max_workers=order.replicas, trusted=True
        )  # fmt: skip
        await self._do(self._control.register(asked, wait=True))

    async def _do(self, verb: Awaitable[object]) -> None:
        with refused():
            await verb

    def _name(self, key: str) -> str:
        return parse_model(key).registered(self._cell)

    def _versions(self, key: str) -> list[str]:
        return list(self._control.registry.state.models.get(self._name(key), {}))

    def _pool(self, key: str) -> Pool | None:
        """The version that answers, or the only one there is while it loads."""
        name = self._name(key)
        version = self._control.registry.state.defaults.get(name)
        return self._control.pools.get((name, version)) if version else None
