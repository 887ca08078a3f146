"""The greedy: servers by priority, then by how much each would lose by waiting; and best effort with what is left."""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .allocation import Candidates
from .candidate import Candidate
from .system import OptimizerSpec, System

_ONLY_CHOICE = float("inf")  # what a server would lose which has no other candidate


@dataclass
class _Entry:
    """A server with its candidates, cheapest first, and the one it now tries for."""

    server: str
    priority: int
    candidates: list[Candidate]
    index: int = 0

    @property
    def current(self) -> Candidate:
        return self.candidates[self.index]

    @property
    def regret(self) -> float:
        following = self.candidates[self.index + 1 : self.index + 2]
        return _single(_single(following[0].value) - _single(self.current.value)) if following else _ONLY_CHOICE

    @property
    def rank(self) -> tuple[int, float, float]:
        return self.priority, -self.regret, -_single(self.current.value)


def _single(value: float) -> float:
    """In single precision, so that near-ties fall as they do in the published tool."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


@dataclass
class Stock:
    """What is left of each accelerator type."""

    available: dict[str, int] = field(default_factory=dict)

    def has(self, candidate: Candidate, replicas: int) -> bool:
        return self.available.get(candidate.type, 0) >= replicas * candidate.units

    def room(self, candidate: Candidate) -> int:
        """Replicas of it which still fit; as many as it wants if it takes no units."""
        left = max(self.available.get(candidate.type, 0), 0)
        return left // candidate.units if candidate.units > 0 else wanted(candidate)

    def take(self, candidate: Candidate, replicas: int) -> None:
        self.available[candidate.type] = self.available.get(candidate.type, 0) - replicas * candidate.units


def wanted(candidate: Candidate) -> int:
    return candidate.replicas if candidate.most is None else min(candidate.most, candidate.replicas)


def choose_unlimited(candidates: Candidates, spec: OptimizerSpec) -> dict[str, Candidate]:
    """Each server's cheapest change, as if capacity had no end."""
    chosen = {}
    for server in candidates.found:
        options = candidates.sorted(server)
        within = [each for each in options if each.most is None]
        if within:
            chosen[server] = within[0]
        elif options and has_best_effort(spec) and wanted(options[0]) > 0:
            chosen[server] = candidates.at_replicas(server, options[0], wanted(options[0]))
    return chosen


def choose_greedily(system: System, candidates: Candidates, spec: OptimizerSpec) -> dict[str, Candidate]:
    """Within capacity. Servers which need nothing, or for which nothing is left, are absent."""
    entries = [
        _Entry(name, system.priority_of(server), options)
        for name, server in system.servers.items()
        if (options := candidates.sorted(name))
    ]
    entries.sort(key=lambda each: (*each.rank, each.server))
    stock, chosen = Stock(dict(system.capacity)), dict[str, Candidate]()
    groups = [entries] if spec.delayed_best_effort else _by_priority(entries)
    for group in groups:
        left_over = _allocate(group, stock, chosen)
        best_effort(candidates, left_over, stock, chosen, spec.saturation_policy)
    return chosen


def _by_priority(entries: Iterable["_Entry"]) -> list[list["_Entry"]]:
    return [list(group) for _, group in itertools.groupby(entries, key=lambda each: each.priority)]


def _allocate(entries: list[_Entry], stock: Stock, chosen: dict[str, Candidate]) -> list[_Entry]:
    """All replicas or none for each server; gives back those which got none, in the order they ran out of candidates."""
    queue = [(entry.rank, tie, entry) for tie, entry in enumerate(entries)]
    before = itertools.count(-1, -1)  # who comes back goes before its equals
    exhausted = []
    while queue:
        _, _, entry = heapq.heappop(queue)
        candidate = entry.current
        if candidate.is_null:
            continue
        if candidate.most is None and stock.has(candidate, candidate.replicas):
            stock.take(candidate, candidate.replicas)
            chosen[entry.server] = candidate
        elif entry.index + 1 < len(entry.candidates):
            entry.index += 1
            heapq.heappush(queue, (entry.rank, next(before), entry))
        else:
            exhausted.append(entry)
    return exhausted


def has_best_effort(spec: OptimizerSpec) -> bool:
    return spec.saturation_policy in _POLICIES


def best_effort(
    candidates: Candidates, entries: list[_Entry], stock: Stock, chosen: dict[str, Candidate], policy: str
) -> None:
    """Some replicas for those who could not have all; an unknown policy gives none."""
    given: dict[str, tuple[Candidate, int]] = {}
    if policy in _POLICIES:
        _POLICIES[policy](entries, stock, given)
    for server, (candidate, replicas) in given.items():
        whole = replicas == candidate.replicas
        chosen[server] = candidate if whole else candidates.at_replicas(server, candidate, replicas)


def entries_for(system: System, candidates: Candidates, servers: Iterable[str]) -> list[_Entry]:
    """Those who are left over by another solver, in the order best effort takes them."""
    entries = [_Entry(name, system.priority_of(system.servers[name]), candidates.sorted(name)) for name in servers]
    entries = [entry for entry in entries if entry.candidates and not entry.candidates[0].is_null]
    return sorted(entries, key=lambda each: (*each.rank, each.server))


_Given = dict[str, tuple[Candidate, int]]


def _exhaustive(entries: list[_Entry], stock: Stock, given: _Given) -> None:
    for entry in entries:
        for candidate in entry.candidates:
            replicas = min(stock.room(candidate), wanted(candidate))
            if not candidate.is_null and replicas > 0:
                stock.take(candidate, replicas)
                given[entry.server] = candidate, replicas
                break


def _round_robin(entries: list[_Entry], stock: Stock, given: _Given) -> None:
    """One replica each, round after round, until no one can have more."""
    waiting = list(entries)
    while waiting:
        _skip_rounds(waiting, stock, given)
        still = []
        for entry in waiting:
            candidate, replicas = given.get(entry.server) or (_first_with_room(entry, stock), 0)
            if candidate is None or replicas >= wanted(candidate) or stock.room(candidate) < 1:
                continue
            stock.take(candidate, 1)
            given[entry.server] = candidate, replicas + 1
            still.append(entry)
        waiting = still


def _skip_rounds(waiting: list[_Entry], stock: Stock, given: _Given) -> None:
    """All rounds but the last in which everyone gets one: a million replicas must not take a million rounds."""
    if any(entry.server not in given for entry in waiting):
        return
    chosen = [given[entry.server] for entry in waiting]
    per_round = Counter[str]()
    for candidate, _ in chosen:
        per_round[candidate.type] += max(candidate.units, 0)
    rounds = [wanted(candidate) - replicas for candidate, replicas in chosen]
    rounds += [stock.available.get(kind, 0) // units for kind, units in per_round.items() if units > 0]
    whole = max(min(rounds) - 1, 0)
    for entry, (candidate, replicas) in zip(waiting, chosen, strict=True):
        stock.take(candidate, whole)
        given[entry.server] = candidate, replicas + whole


def _first_with_room(entry: _Entry, stock: Stock) -> Candidate | None:
    return next((each for each in entry.candidates if not each.is_null and stock.room(each) >= 1), None)


def _priority_round_robin(entries: list[_Entry], stock: Stock, given: _Given) -> None:
    for group in _by_priority(entries):
        _round_robin(group, stock, given)


_POLICIES = {
    "PriorityExhaustive": _exhaustive,
    "PriorityRoundRobin": _priority_round_robin,
    "RoundRobin": _round_robin,
}
