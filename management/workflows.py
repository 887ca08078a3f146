"""Workflows: graphs of models and functions, registered from `.war` archives, run by the data plane.

Each node becomes a model named `WORKFLOW__NODE`; functions are models whose code is the workflow's handler file. Here they are
registered and taken away together. Not for: running a graph, which is `frontend.workflows`.
"""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from ..archiver.errors import ArchiveError
from ..archiver.fetch import fetch
from ..archiver.workflow_spec import Node, WorkflowSpec, read_workflow
from .control import ControlPlane
from .errors import ManagementError, ModelNotFound, WorkflowConflict, WorkflowNotFound
from .registry import WorkflowRecord
from .serving import Registration

logger = logging.getLogger(__name__)


class Workflows:
    def __init__(self, control: ControlPlane, store: Path) -> None:
        self._control = control
        self._store = store
        self._lock = asyncio.Lock()

    async def register(self, url: str, name: str | None) -> str:
        """All its models are ready when it returns, or none of it is there."""
        control = self._control
        fetched = await asyncio.to_thread(fetch, url, self._store, control.allowed_urls)
        archive = await asyncio.to_thread(control.open_archive, fetched.path)
        spec = read_workflow(archive.model_dir, name)
        async with self._lock:
            if spec.name in control.registry.state.workflows:
                raise WorkflowConflict(f"Workflow {spec.name} is already registered.")
            try:
                async with asyncio.TaskGroup() as group:
                    for node in spec.nodes:
                        group.create_task(control.register(self._registration(spec, node, fetched.path), wait=True))
            except* (ManagementError, ArchiveError) as errors:
                await self._remove_models(spec.name, [node.name for node in spec.nodes])
                raise errors.exceptions[0] from None
            control.registry.add_workflow(
                WorkflowRecord(name=spec.name, url=url, archive=str(fetched.path), nodes=record_of(spec), dag=spec.dag)
            )
            control.publish()
        logger.info("Workflow %s is registered with %d nodes", spec.name, len(spec.nodes))
        return spec.name

    async def unregister(self, name: str) -> None:
        """Routed no more when it returns."""
        async with self._lock:
            record = self.find(name)
            self._control.registry.remove_workflow(name)
            self._control.publish()
            await self._remove_models(name, [node["name"] for node in record.nodes])

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

    async def _remove_models(self, workflow: str, nodes: list[str]) -> None:
        for node in nodes:
            try:
                await self._control.unregister(model_of(workflow, node))
            except ModelNotFound:
                continue


def model_of(workflow: str, node: str) -> str:
    """The name under which a node is a model, as TorchServe has it."""
    return f"{workflow}__{node}"


def record_of(spec: WorkflowSpec) -> list[dict[str, Any]]:
    return [
        {
            "name": node.name,
            "inputs": list(node.inputs),
            "min_workers": node.min_workers,
            "max_workers": node.max_workers,
            "batch_size": node.batch_size,
            "max_batch_delay_ms": node.max_batch_delay_ms,
            "timeout_seconds": node.timeout_seconds,
            "attempts": node.attempts,
        }
        for node in spec.nodes
    ]
