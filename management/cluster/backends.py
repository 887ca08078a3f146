"""Where a cell's machines come from: `local:N`, this machine playing N; `auto` or an address, the nodes of a Ray cluster.

Not for: what is done with them (`keeper`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .agent import MachineAgent, Spec

NAMESPACE = "flambeau"
TAG = "sax_tag:"  # a Ray resource of this prefix is a tag of the machine
CALL_SECONDS = 120.0


class ClusterError(Exception):
    """The cluster can't be reached or does not do what it should; told, and tried again."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    id: str
    host: str
    chip: str = "cpu"
    topology: str = "1"
    tags: tuple[str, ...] = ()


class Remote(Protocol):
    """A MachineAgent, wherever it runs."""

    def ensure(self, location: str, incarnation: str) -> int: ...
    def missing(self, archives: dict[str, str]) -> list[str]: ...
    def receive(self, name: str, digest: str, content: bytes) -> None: ...
    def stop(self) -> None: ...


class Backend(Protocol):
    def nodes(self) -> list[Node]: ...
    def agent(self, node: Node, spec: Spec) -> Remote: ...
    def close(self) -> None: ...


def backend(cluster: str, folder: Path) -> Backend:
    if cluster.startswith("local:"):
        return LocalBackend(int(cluster.removeprefix("local:")))
    return RayBackend(cluster, folder)


class LocalBackend:
    def __init__(self, count: int) -> None:
        self._count = count

    def nodes(self) -> list[Node]:
        return [Node(f"local-{number}", "127.0.0.1") for number in range(self._count)]

    def agent(self, node: Node, spec: Spec) -> Remote:
        return MachineAgent(spec)

    def close(self) -> None:
        pass


class RayBackend:
    """One agent actor for each node: named, detached, pinned to its node. Ray's token authentication is always on."""

    def __init__(self, address: str, folder: Path) -> None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ClusterError("a Ray cluster needs the extra: pip install 'flambeau[ray]'") from None
        self._ray: Any = ray
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises many kinds
            raise ClusterError(f"{address}: {error}") from None

    def nodes(self) -> list[Node]:
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        return [node_of(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in alive]

    def agent(self, node: Node, spec: Spec) -> Remote:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._ray.remote(MachineAgent).options(
            name=f"{spec.cell}@{node.id}",
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        return _Actor(self._ray, actor.remote(spec))

    def close(self) -> None:
        self._ray.shutdown()


class _Actor:
    """An actor's methods as plain calls."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self._handle = ray, handle

    def ensure(self, location: str, incarnation: str) -> int:
        return int(self._get(self._handle.ensure.remote(location, incarnation)))

    def missing(self, archives: dict[str, str]) -> list[str]:
        return list(self._get(self._handle.missing.remote(archives)))

    def receive(self, name: str, digest: str, content: bytes) -> None:
        self._get(self._handle.receive.remote(name, digest, content))

    def stop(self) -> None:
        self._get(self._handle.stop.remote())
        self._ray.kill(self._handle)

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference, timeout=CALL_SECONDS)
        except Exception as error:  # of Ray, or of the agent, which arrives as one of Ray's
            raise ClusterError(str(error).strip().splitlines()[-1]) from None


def node_of(id: str, host: str, resources: Mapping[str, float]) -> Node:
    """Accelerators and tags are Ray resources."""
    chips = [name.removeprefix("accelerator_type:").lower() for name in resources if name.startswith("accelerator_type:")]
    tags = tuple(sorted(name.removeprefix(TAG) for name in resources if name.startswith(TAG)))
    gpus = int(resources.get("GPU", 0))
    return Node(id, host, chips[0] if chips and gpus else "cpu", str(gpus or 1), tags)
