"""Workflows: graphs of models and functions, registered from `.war` archives, run by the data plane.

Each node becomes a model named `WORKFLOW__NODE`; functions are models whose code is the workflow's handler file. Here they are
registered and taken away together. Not for: running a graph, which is `frontend.workflows`.
"""

import asyncio
import json
import logging
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..archiver.fetch import Fetched, remove_download
from ..archiver.workflow_spec import Node, WorkflowSpec, read_workflow
from .control import ControlPlane, Scaled
from .errors import ManagementError, WorkflowConflict, WorkflowNotFound
from .registry import WorkflowRecord
from .serving import Registration

logger = logging.getLogger(__name__)


class Workflows:
    def __init__(self, control: ControlPlane, store: Path) -> None:
        self._control = control
        self._store = store
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # while somebody has or wants them

    async def register(self, url: str, name: str | None) -> str:
        """All its models are ready when it returns, or none of it is there."""
        control = self._control
        fetched = await control.fetch(url, self._store)
        with ExitStack() as undone:
            undone.callback(remove_download, fetched)
            async with control.unpacked.opened(fetched.path) as archive:
                spec = read_workflow(archive.model_dir, name)
                await self._register(url, fetched, spec)
            undone.pop_all()
        logger.info("Workflow %s is registered with %d nodes", spec.name, len(spec.nodes))
        return spec.name

    async def _register(self, url: str, fetched: Fetched, spec: WorkflowSpec) -> None:
        control = self._control
        lock = self._locks.setdefault(spec.name, asyncio.Lock())
        async with lock:
            if spec.name in control.registry.state.workflows:
                raise WorkflowConflict(f"Workflow {spec.name} is already registered.")
            models, failure = await self._register_models(spec, fetched.path)
            try:
                if failure:
                    raise failure
                nodes = record_of(spec, [model.version for model in models])
                control.registry.add_workflow(
                    WorkflowRecord(
                        name=spec.name,
                        url=url,
                        archive=str(fetched.path),
                        downloaded=fetched.downloaded,
                        nodes=nodes,
                        dag=spec.dag,
                    )
                )
            except BaseException:
                await self._remove_models((model.name, model.version) for model in models)
                raise
            control.publish()

    async def unregister(self, name: str) -> None:
        """Routed no more when it returns."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            record = self.find(name)
            self._control.registry.remove_workflow(name)
            self._control.publish()
            await self._remove_models((model_of(name, node["name"]), node.get("version")) for node in record.nodes)
            remove_download(Fetched(Path(record.archive), record.downloaded))

    def find(self, name: str) -> WorkflowRecord:
        try:
            return self._control.registry.state.workflows[name]
        except KeyError:
            raise WorkflowNotFound(f"Workflow not found: {name}") from None

    def describe(self, name: str) -> list[dict[str, Any]]:
        record = self.find(name)
        first = record.nodes[0]
        return [
            {
                "workflowName": record.name,
                "workflowUrl": record.url,
                "minWorkers": first["min_workers"],
                "maxWorkers": first["max_workers"],
                "batchSize": first["batch_size"],
                "maxBatchDelay": first["max_batch_delay_ms"],
                "workflowDag": json.dumps(record.dag),
            }
        ]

    def listed(self) -> list[dict[str, str]]:
        return [
            {"workflowName": r.name, "workflowUrl": r.url}
            for _, r in sorted(self._control.registry.state.workflows.items())
        ]

    async def _register_models(self, spec: WorkflowSpec, war: Path) -> tuple[list[Scaled], BaseException | None]:
        """Those that are there, and what failed first. None is broken off: each either stands or has taken itself back."""
        asked = [self._registration(spec, node, war) for node in spec.nodes]
        outcomes = await asyncio.gather(
            *(self._control.register(registration, wait=True) for registration in asked), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        return [outcome for outcome in outcomes if isinstance(outcome, Scaled)], failures[0] if failures else None

    def _registration(self, spec: WorkflowSpec, node: Node, war: Path) -> Registration:
        function = node.url is None
        return Registration(
            url=str(war) if function else node.url or "",
            trusted=function,  # the path is ours
            name=model_of(spec.name, node.name),
            handler=f"{Path(spec.handler or '').stem}:{node.name}" if function else None,
            batch_size=node.batch_size,
            max_batch_delay_ms=node.max_batch_delay_ms,
            initial_workers=node.min_workers,
            max_workers=node.max_workers,
        )

    async def _remove_models(self, models: Iterable[tuple[str, str | None]]) -> None:
        """The versions that a workflow has made: others of such a name are their owner's."""
        for name, version in models:
            try:
                await self._control.unregister(name, version)
            except ManagementError as error:
                logger.warning("Model %s of a workflow: %s", name, error)


def model_of(workflow: str, node: str) -> str:
    """The name under which a node is a model, as TorchServe has it."""
    return f"{workflow}__{node}"


def record_of(spec: WorkflowSpec, versions: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": node.name,
            "version": version,
            "inputs": list(node.inputs),
            "min_workers": node.min_workers,
            "max_workers": node.max_workers,
            "batch_size": node.batch_size,
            "max_batch_delay_ms": node.max_batch_delay_ms,
            "timeout_seconds": node.timeout_seconds,
            "attempts": node.attempts,
        }
        for node, version in zip(spec.nodes, versions, strict=True)
    ]
