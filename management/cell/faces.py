"""One registry, two faces: models registered over TorchServe's API seen from the cell, and what that API does to the cell's.

For a server that is its cell's admin. A model registered at 8081 is listed when its name is one of Sax's; scaling or
unregistering a published model there changes what is published. Not for: cells of many machines, whose admin decides alone.
"""

from typing import Any

from ...archiver.unpack import stem
from ..control import ControlPlane
from ..registry import VersionRecord
from ..workers import State
from . import acl, names
from .agent import Agent
from .api import Api, Payload, whole
from .catalogue import Change
from .cell import Cell
from .errors import SaxError
from .host import ControlHost, refused
from .messages import ModelStatus

ONLY_PUBLISHED = ("overrides", "admin_acl", "acls")  # what registered models do not have


class TwoFaces(Api):
    """`model_api` False (`enable_model_api=false`): models are not published or unpublished, as they are not registered."""

    def __init__(self, cell: Cell, control: ControlPlane, *, model_api: bool = True) -> None:
        super().__init__(cell)
        self._control = control
        self._model_api = model_api
        self._bare = names.parse_cell(cell.name)

    async def publish(self, payload: Payload) -> Payload:
        self._require_model_api()
        full = str(payload.get("model", ""))
        if self._registered(full):
            acl.check_admin(self._cell.catalogue.admin_acl, payload.get("role"))
            raise SaxError("AlreadyExists", f"model {full} already exists")
        return await super().publish(payload)

    async def update(self, payload: Payload) -> Payload:
        if record := self._registered(str(payload.get("model", ""))):
            acl.check_admin(self._cell.catalogue.admin_acl, payload.get("role"))
            if payload.get("checkpoint", "None") != "None" or any(payload.get(name) for name in ONLY_PUBLISHED):
                raise SaxError(
                    "FailedPrecondition",
                    f"model {payload['model']} is registered, not published: only its replicas can be changed here",
                )
            replicas = whole(payload, "replicas") if "replicas" in payload else record.min_workers
            names.check_replicas(replicas)
            with refused():
                await self._control.scale(record.name, None, replicas, replicas, wait=False)
            return {"model_path": _path(record), "checkpoint": "None", "replicas": replicas}
        return await super().update(payload)

    async def unpublish(self, payload: Payload) -> Payload:
        self._require_model_api()
        if record := self._registered(str(payload.get("model", ""))):
            acl.check_admin(self._cell.catalogue.admin_acl, payload.get("role"))
            await remove(self._control, record.name)
            return {}
        return await super().unpublish(payload)

    async def list(self, payload: Payload) -> Payload:
        keys = (names.key_of_registered(name, self._bare) for name in self._control.registry.state.models)
        others = {str(key) for key in keys if key and key.cell == self._bare}
        return {"models": sorted({*self._cell.models(), *others})}

    async def status(self, payload: Payload) -> Any:
        record = self._registered(str(payload.get("model", "")))
        if record is None:
            return await super().status(payload)
        pool = self._control.pools.get((record.name, record.version))
        workers = pool.workers if pool else []
        ready = sum(worker.state is State.READY for worker in workers)
        return ModelStatus(
            model=payload["model"], model_path=_path(record), checkpoint="None", max_replicas=record.min_workers,
            active_replicas=ready, assigned_replicas=len(workers), addresses=[], overrides={}, methods=["custom"],
            admin_acl="", acls={}, failures={}, warning="",
        )  # fmt: skip

    def _require_model_api(self) -> None:
        if not self._model_api:
            raise SaxError("PermissionDenied", "this server's models stay as they are: enable_model_api=false")

    def _registered(self, full: str) -> VersionRecord | None:
        """Only when the cell itself knows nothing of it."""
        try:
            key = names.parse_model(full)
        except SaxError:
            return None
        name = key.registered(self._bare)
        if key.cell != self._bare or str(key) in self._cell.models() or name not in self._control.registry.state.models:
            return None
        pool = self._control.pools.get((name, self._control.registry.default(name)))
        if pool and "key" in (pool.archive.config.raw.get("sax") or {}):
            return None  # one of ours that is on its way out
        return self._control.registry.find(name)


def mirror(cell: Cell, agent: Agent, host: ControlHost) -> None:
    """What TorchServe's API did to published models is done to the cell."""
    actual = host.held()
    for key, order in agent.settled().items():
        if key not in cell.models() or cell.catalogue.find(key)[1].uuid != order.uuid:
            continue
        if key not in actual:
            cell.unpublish(key)
        elif actual[key].replicas != order.replicas:
            cell.update(key, Change(replicas=actual[key].replicas))


async def remove(control: ControlPlane, name: str) -> None:
    """All versions, the default one last."""
    with refused():
        default = control.registry.default(name)
        for version in sorted(control.registry.versions(name), key=lambda version: version == default):
            await control.unregister(name, version)


def _path(record: VersionRecord) -> str:
    return "store." + stem(record.archive.rsplit("/", 1)[-1])
