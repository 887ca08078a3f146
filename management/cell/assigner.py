"""Who runs what: replicas of models over machines, by memory and tags. Arithmetic only; the same input, the same answer.

Memory is counted per core. What is loaded stays where it is; a model that has too many replicas gives up those which are
not loaded first. What is missing is placed one by one, always for the model that has the fewest, so that a late model is
not starved by a greedy one: on the machine with the fewest replicas of it, then with the most memory free.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from . import overrides
from .machines import Machine
from .names import ModelKey


@dataclass(frozen=True)
class Demand:
    """A published model, as far as placing it matters."""

    path: str
    replicas: int
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def exclusive(self) -> bool:
        return self.overrides.get("exclusive", "").lower() == "true"


@dataclass(frozen=True)
class Holding:
    """A replica that a machine holds now."""

    key: ModelKey
    address: str
    loaded: bool = True


Assignment = dict[ModelKey, list[str]]  # addresses; a machine that holds two replicas is there twice


def assign(
    models: Mapping[ModelKey, Demand],
    machines: Mapping[str, Machine],
    holdings: Collection[Holding] = (),
    shunned: Collection[tuple[ModelKey, str]] = (),
) -> Assignment:
    """`shunned`: where a model failed to load; tried again only when nothing else is left."""
    plan = _Plan(models, machines)
    for key, demand in models.items():
        held = [holding for holding in holdings if holding.key == key and holding.address in machines]
        held.sort(key=lambda holding: not holding.loaded)
        for holding in held[: demand.replicas]:
            plan.place(key, holding.address)
    open_ = {key for key, demand in models.items() if len(plan.placed[key]) < demand.replicas}
    while open_:
        key = min(open_, key=lambda key: (len(plan.placed[key]), -plan.need(key, 1), key))
        candidates = plan.candidates(key)
        if candidates:
            plan.place(key, min(candidates, key=lambda address: plan.preference(key, address, (key, address) in shunned)))
        if not candidates or len(plan.placed[key]) == models[key].replicas:
            open_.remove(key)
    return {key: addresses for key, addresses in plan.placed.items() if addresses}


class _Plan:
    """The assignment as it grows, and the memory it leaves."""

    def __init__(self, models: Mapping[ModelKey, Demand], machines: Mapping[str, Machine]) -> None:
        self._models = models
        self._machines = machines
        self._largest = _largest_by_path_and_cores(machines)
        self._free = {address: machine.bytes_per_core for address, machine in machines.items()}
        self.placed: Assignment = {key: [] for key in models}
        self._on: dict[str, Counter[ModelKey]] = {address: Counter() for address in machines}

    def need(self, key: ModelKey, cores: int, address: str | None = None) -> int:
        """Bytes per core of one replica."""
        demand = self._models[key]
        if hints := overrides.memory(demand.overrides):
            return hints.get(cores, hints.get(1, 0))
        if address and (unhinted := self._machines[address].unhinted_gib) is not None:
            return int(unhinted * (1 << 30))
        return self._largest.get((demand.path, cores), 0)

    def place(self, key: ModelKey, address: str) -> None:
        self.placed[key].append(address)
        self._on[address][key] += 1
        self._free[address] -= self.need(key, self._machines[address].cores, address)

    def candidates(self, key: ModelKey) -> list[str]:
        demand = self._models[key]
        wanted = {tag for tag in overrides.constraints(demand.overrides) or [] if tag}
        return [
            address
            for address, machine in self._machines.items()
            if demand.path in machine.paths
            and wanted <= set(machine.tags)
            and self._on[address][key] < machine.max_per_model
            and self._tolerates(key, address)
            and self._free[address] >= self.need(key, machine.cores, address)
        ]

    def _tolerates(self, key: ModelKey, address: str) -> bool:
        others = [other for other in self._on[address] if other != key]
        return not others or not (self._models[key].exclusive or any(self._models[other].exclusive for other in others))

    def preference(self, key: ModelKey, address: str, shunned: bool) -> tuple[bool, int, int, str]:
        return shunned, self._on[address][key], -self._free[address], address


def _largest_by_path_and_cores(machines: Mapping[str, Machine]) -> dict[tuple[str, int], int]:
    largest: dict[tuple[str, int], int] = {}
    for machine in machines.values():
        for path in machine.paths:
            where = path, machine.cores
            largest[where] = max(largest.get(where, 0), machine.bytes_per_core)
    return largest
