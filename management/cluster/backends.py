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
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # without a head for so long Ray ends us; the next of us finds the new one
}


class ClusterError(Exception):
    """The cluster can't be reached or does not do what it should; told, and tried again."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster. Its id is the cluster's, and another one after each start; its name lasts."""

    id: str
    name: str
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


def backend(cluster: str, folder: Path) -> Backend:
    if cluster.startswith("local:"):
        return LocalBackend(int(cluster.removeprefix("local:")))
    return RayBackend(cluster, folder)


class LocalBackend:
    def __init__(self, count: int) -> None:
        self._count = count

    def nodes(self) -> list[Node]:
        names = [f"local-{number}" for number in range(self._count)]
        return [Node(name, name, "127.0.0.1") for name in names]

    def agent(self, node: Node, spec: Spec) -> Remote:
        return MachineAgent(spec)


class RayBackend:
    """One agent actor for each node: named, detached, pinned to its node. Ray's token authentication is always on."""

    def __init__(self, address: str, folder: Path) -> None:
        os.environ["RAY_AUTH_MODE"] = "token"
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
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
        return [node_of(node) for node in self._ray.nodes() if node["Alive"]]

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


def node_of(told: Mapping[str, Any]) -> Node:
    """As Ray describes it: its name is its address unless `ray start --node-name` said another; accelerators and tags are
    resources."""
    resources, host = told["Resources"], told["NodeManagerAddress"]
    chips = [name.removeprefix("accelerator_type:").lower() for name in resources if name.startswith("accelerator_type:")]
    tags = tuple(sorted(name.removeprefix(TAG) for name in resources if name.startswith(TAG)))
    gpus = int(resources.get("GPU", 0))
    chip = chips[0] if chips and gpus else "cpu"
    return Node(told["NodeID"], told.get("NodeName") or host, host, chip, str(gpus or 1), tags)
