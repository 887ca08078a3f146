"""Inferno's own protocol, both ways: its collector and actuator bodies for ours, and ours as the controller of others.

A server without an allocation is left as it is: the published actuator stops it, which in a full cluster kills the least
important instead of leaving it alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...optimizer.system import AllocationData, Load, OptimizerSpec, ServerData, ServerSpec, System, SystemData
from ...optimizer.wire import decode, encode, parse
from .http_client import Server
from .loop import Autoscaler
from .observe import Observed
from .policy import Decision
from .problem import key_of
from .prometheus import PrometheusObserver


def collected(autoscaler: Autoscaler, now: float) -> dict[str, Any]:
    """GET /collect: the servers as they are, with the load they are expected to have."""
    system = autoscaler.policy.problem.system(autoscaler.fleet.served(), autoscaler.state.observed, now)
    return {"servers": encode(list(system.servers.values())), "kube-resources": {}}


async def update(autoscaler: Autoscaler, body: Any) -> list[str]:
    """POST /update: places what an outside controller decided; gives what could not be had."""
    allocations = body.get("allocations") if isinstance(body, dict) else None
    if not isinstance(allocations, dict):
        raise ValueError("allocations: expected an object")
    wanted = {name: decode(AllocationData, each, f"allocations.{name}") for name, each in allocations.items()}
    served = {each.key: each for each in autoscaler.fleet.served()}
    failures = []
    for name, allocation in sorted(wanted.items()):
        model = served.get(key_of(name))
        if model is None:
            failures.append(f"{name}: no such model with objectives")
            continue
        parts = allocation.parts or (allocation,)
        if any(part.num_replicas < 0 for part in parts):
            failures.append(f"{name}: numReplicas is negative")
            continue
        after = {part.accelerator: part.num_replicas for part in parts if part.accelerator and part.num_replicas > 0}
        if unknown := after.keys() - {each.name for each in autoscaler.config.accelerators}:
            failures.append(f"{name}: no accelerator {', '.join(sorted(unknown))} here")
            continue
        decision = Decision(*model.key, dict(model.workers), after, "asked for by an outside controller")
        outcome = await autoscaler.act(decision) if decision.changes else "done"
        if outcome.startswith("failed"):
            failures.append(f"{name}: {outcome}")
    return failures


def read_system(files: list[Path]) -> tuple[System, OptimizerSpec]:
    """Of accelerator-data.json and its siblings; WireError for what can't be read."""
    parts = {_FIELDS[path.stem]: parse(path.read_bytes()) for path in files}
    data = decode(SystemData, parts, "data")
    return System.of(data), data.optimizer_data.optimizer


_FIELDS = {
    "accelerator-data": "acceleratorData",
    "model-data": "modelData",
    "serviceclass-data": "serviceClassData",
    "capacity-data": "capacityData",
    "optimizer-data": "optimizerData",
}


async def collect(collector: Server) -> dict[str, Any]:
    """All it says: the servers, and where the actuator finds them (`kube-resources`)."""
    collected = await collector.json("GET", "/collect")
    if not isinstance(collected, dict) or not isinstance(collected.get("servers") or [], list):
        raise ValueError("the collector's answer has no list of servers")
    return collected


def watched(file: Path, prometheus: str) -> dict[str, Any]:
    """As collected: the servers of server-data.json, each with the load that Prometheus has for the job of its name."""
    servers = decode(ServerData, parse(file.read_bytes()), file.name).servers or ()
    seen = PrometheusObserver(prometheus, {each.name: (each.name, "") for each in servers}).look()
    return {"servers": [encode(_under(each, seen[each.name, ""])) for each in servers]}


def _under(server: ServerSpec, seen: Observed) -> ServerSpec:
    before = server.current_alloc.load
    tokens_in, tokens_out = seen.tokens_in or before.avg_in_tokens, seen.tokens_out or before.avg_out_tokens
    load = Load(seen.arrivals_per_second * 60, tokens_in, tokens_out)
    return replace(server, current_alloc=replace(server.current_alloc, load=load))


async def drive(
    collected: dict[str, Any], optimizer: Server, actuator: Server, system: System, spec: OptimizerSpec
) -> dict[str, Any]:
    """The rest of a cycle over others' services: optimize, update. Without servers nothing changes."""
    if not collected.get("servers"):
        return {}
    body = encode(system.data(spec)) | {"serverData": {"servers": collected["servers"]}}
    answer: dict[str, Any] = await optimizer.json("POST", "/optimizeOne", {"system": body})
    if not isinstance(answer, dict) or not isinstance(answer.get("allocations"), dict):
        raise ValueError("the optimizer's answer has no allocations")  # told on, they would stop everything
    await actuator.json("POST", "/update", answer | {"kube-resources": collected.get("kube-resources") or {}})
    return answer
