"""The system behind the REST: one owner, one lock, held for look-ups and changes but never while solving."""

from dataclasses import replace
from threading import Lock
from typing import TypeVar

from .solver import Solution, optimize
from .stabilise import stabilise
from .system import (
    AcceleratorSpec,
    AllocationData,
    CapacityCount,
    ModelTarget,
    OptimizerSpec,
    PerfData,
    ServerSpec,
    ServiceClassSpec,
    System,
    SystemData,
)

Value = TypeVar("Value")
LONGEST_SOLVE_SECONDS = 60.0


class NotFound(Exception):
    """Names what is not there."""


class Inconsistent(Exception):
    """A service class named with another priority than it has."""


class Store:
    def __init__(self) -> None:
        self._system = System()
        self._lock = Lock()

    def snapshot(self) -> System:
        with self._lock:
            return self._system.copy()

    def add(self, data: SystemData) -> None:
        with self._lock:
            self._system.add(data)

    def remove_accelerator(self, name: str) -> AcceleratorSpec:
        with self._lock:
            return _pop(self._system.accelerators, name, f"accelerator {name}")

    def remove_capacity(self, kind: str) -> CapacityCount:
        with self._lock:
            return CapacityCount(kind, _pop(self._system.capacity, kind, f"accelerator type {kind}"))

    def add_model(self, name: str) -> None:
        with self._lock:
            self._system.models.setdefault(name, {})

    def remove_model(self, name: str) -> None:
        with self._lock:
            _pop(self._system.models, name, f"model {name}")

    def add_perf(self, perf: PerfData) -> None:
        with self._lock:
            find(self._system.models, perf.name, f"model {perf.name}")[perf.acc] = perf

    def remove_perf(self, model: str, accelerator: str) -> PerfData:
        with self._lock:
            return _pop(find(self._system.models, model, f"model {model}"), accelerator, f"accelerator {accelerator}")

    def add_class(self, name: str, priority: int) -> ServiceClassSpec:
        with self._lock:
            self._system.classes[name] = ServiceClassSpec(name, priority).normalised()
            return self._system.classes[name]

    def remove_class(self, name: str) -> ServiceClassSpec:
        with self._lock:
            return _pop(self._system.classes, name, f"service class {name}")

    def add_targets(self, given: ServiceClassSpec) -> None:
        with self._lock:
            known = find(self._system.classes, given.name, f"service class {given.name}")
            if known.priority != given.priority:
                raise Inconsistent(f"inconsistent specs: svcName={given.name} ; svcPrio={given.priority}")
            merged = replace(known, model_targets=(*known.model_targets, *given.model_targets))
            self._system.classes[given.name] = merged.normalised()

    def remove_target(self, name: str, model: str) -> ModelTarget:
        with self._lock:
            known = find(self._system.classes, name, f"service class {name}")
            target = find_target(known, model)
            left = tuple(each for each in known.model_targets if each is not target)
            self._system.classes[name] = replace(known, model_targets=left)
            return target

    def remove_server(self, name: str) -> ServerSpec:
        with self._lock:
            return _pop(self._system.servers, name, f"server {name}")

    def optimize(self, spec: OptimizerSpec) -> Solution:
        """Solves what the system is now; what has changed meanwhile keeps its change."""
        solution = solve(self.snapshot(), spec)
        with self._lock:
            _write_back(self._system, solution)
        return solution

    def optimize_one(self, data: SystemData) -> Solution:
        """Solves the given system, which then is the one that is asked about."""
        system = System.of(data)
        solution = solve(system, data.optimizer_data.optimizer)
        _write_back(system, solution)
        with self._lock:
            self._system = system
        return solution

    def apply_allocation(self) -> None:
        """What is desired becomes what is; a server with nothing desired has nothing, but keeps its load."""
        with self._lock:
            for name, server in self._system.servers.items():
                desired, load = server.desired_alloc, server.current_alloc.load
                now = desired if desired.accelerator else AllocationData(load=load)
                self._system.servers[name] = replace(server, current_alloc=now)


def solve(system: System, spec: OptimizerSpec) -> Solution:
    """Within bounds: no client keeps a thread for as long as it likes."""
    if spec.time_limit:
        spec = replace(spec, time_limit=min(spec.time_limit, LONGEST_SOLVE_SECONDS))
    solution = optimize(system, spec)
    return stabilise(solution, spec.stabilisation) if spec.stabilisation else solution


def _write_back(system: System, solution: Solution) -> None:
    allocations = solution.allocations()
    for name, server in system.servers.items():
        if name in solution.candidates.found:
            system.servers[name] = replace(server, desired_alloc=allocations.get(name, AllocationData()))


def find_target(known: ServiceClassSpec, model: str) -> ModelTarget:
    return find({target.model: target for target in known.model_targets}, model, f"model {model}")


def find(known: dict[str, Value], name: str, what: str) -> Value:
    if name not in known:
        raise NotFound(f"{what} not found")
    return known[name]


def _pop(known: dict[str, Value], name: str, what: str) -> Value:
    find(known, name, what)
    return known.pop(name)
