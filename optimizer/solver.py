"""From a system to its allocations: candidates, a choice, and what was chosen in the words of the wire."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from .allocation import Candidates, candidates
from .candidate import Candidate
from .greedy import Stock, best_effort, choose_greedily, choose_unlimited, entries_for, has_best_effort
from .milp import Exact, SolverError, solve_exactly
from .system import AllocationData, OptimizerSpec, System
from .wire import encode


@dataclass(frozen=True)
class Solution:
    """What each server gets: usually one candidate, several when accelerators share a server."""

    chosen: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)
    candidates: Candidates = field(default_factory=Candidates)
    exact: Exact | None = None

    @property
    def cost(self) -> float:
        return sum(part.cost for parts in self.chosen.values() for part in parts)

    @property
    def power(self) -> float:
        return sum(part.power for parts in self.chosen.values() for part in parts)

    def served(self, server: str) -> bool:
        """Whether it has all it needs."""
        return server in self.chosen and all(part.short_of is None for part in self.chosen[server])

    def units_used(self) -> dict[str, int]:
        used: dict[str, int] = {}
        for part in (part for parts in self.chosen.values() for part in parts if not part.is_null):
            used[part.type] = used.get(part.type, 0) + part.needed_units
        return used

    def allocations(self, *, power: bool = False) -> dict[str, AllocationData]:
        return {name: _data(parts, power=power) for name, parts in sorted(self.chosen.items())}


def optimize(system: System, spec: OptimizerSpec) -> Solution:
    """Raises SolverError when the exact solver must serve everyone and cannot."""
    found = candidates(system, spec)
    if spec.unlimited:
        return Solution(_alone(choose_unlimited(found, spec)), found)
    if not (spec.milp_solver or spec.use_cplex):
        return Solution(_alone(choose_greedily(system, found, spec)), found)
    if not system.servers or not system.accelerators:
        raise SolverError("inconsistent problem size")
    exact = solve_exactly(system, found, spec)
    chosen = {name: _shared(found, name, counts) for name, counts in exact.replicas.items()}
    if not exact.optimal:
        chosen = _better(system, chosen, _alone(choose_greedily(system, found, replace(spec, saturation_policy=""))))
    if spec.partial and has_best_effort(spec):
        _give_what_is_left(system, found, spec, chosen)
    return Solution(chosen, found, exact)


def satisfaction(system: System, served: Iterable[str]) -> tuple[int, ...]:
    """How many servers of each priority are served, the first priority first: what the exact solver maximises."""
    counts = Counter(system.priority_of(system.servers[name]) for name in served)
    return tuple(counts[priority] for priority in sorted({system.priority_of(each) for each in system.servers.values()}))


def _better(
    system: System, one: dict[str, tuple[Candidate, ...]], other: dict[str, tuple[Candidate, ...]]
) -> dict[str, tuple[Candidate, ...]]:
    """When time ran out the greedy may have found more."""
    return other if satisfaction(system, other) > satisfaction(system, one) else one


def _alone(chosen: dict[str, Candidate]) -> dict[str, tuple[Candidate, ...]]:
    return {name: (candidate,) for name, candidate in chosen.items()}


def _shared(found: Candidates, server: str, counts: dict[str, int]) -> tuple[Candidate, ...]:
    """The load goes to the accelerators in proportion to what each can serve, so that all stay within the targets."""
    parts = [found.found[server][accelerator] for accelerator in sorted(counts)]
    if len(parts) == 1 and counts[parts[0].accelerator] == parts[0].replicas:
        return tuple(parts)
    strength = np.array([part.replica_rate * counts[part.accelerator] for part in parts])
    shares = strength / strength.sum() if strength.sum() > 0 else np.full(len(parts), 1 / len(parts))
    return tuple(
        found.with_share(server, part, counts[part.accelerator], float(share))
        for part, share in zip(parts, shares, strict=True)
    )


def _give_what_is_left(
    system: System, found: Candidates, spec: OptimizerSpec, chosen: dict[str, tuple[Candidate, ...]]
) -> None:
    stock = Stock(dict(system.capacity))
    for part in (part for parts in chosen.values() for part in parts):
        stock.take(part, part.replicas)
    extra: dict[str, Candidate] = {}
    left_over = entries_for(system, found, [name for name in found.found if name not in chosen])
    best_effort(found, left_over, stock, extra, spec.saturation_policy)
    chosen |= _alone(extra)


def _data(parts: tuple[Candidate, ...], *, power: bool) -> AllocationData:
    each = [part.data(power=power) for part in parts]
    if len(each) == 1:
        return each[0]
    main = max(each, key=lambda part: (part.load.arrival_rate, part.accelerator))
    weights = [part.load.arrival_rate for part in each]
    return replace(
        main,
        num_replicas=sum(part.num_replicas for part in each),
        cost=sum(part.cost for part in each),
        itl_average=float(np.average([part.itl_average for part in each], weights=weights)),
        ttft_average=float(np.average([part.ttft_average for part in each], weights=weights)),
        load=replace(main.load, arrival_rate=sum(weights)),
        power=sum(part.power or 0.0 for part in each) if power else None,
        parts=tuple(each),
    )


def solution_body(solution: Solution, spec: OptimizerSpec) -> dict[str, object]:
    """The answer of /optimize: the allocations, and what was asked for beyond them."""
    body: dict[str, object] = {"allocations": encode(solution.allocations(power=spec.power_weight is not None))}
    if solution.exact is not None and not solution.exact.optimal:
        gap = solution.exact.gap if math.isfinite(solution.exact.gap) else None  # nothing is known of the least cost
        body["solver"] = {"optimal": False, "gap": gap, "seconds": solution.exact.seconds}
    return body
