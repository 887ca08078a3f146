"""The exact solver: whole-number programs for HiGHS, priorities in order, within capacity.

First, can everyone be served? If so, at the least cost. If not, and that is allowed, as many as possible of the first
priority, then of the next with those kept, and so on; and of all ways to do that the cheapest.
"""

import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from .allocation import TRANSITION_PENALTY, Candidates
from .candidate import Candidate
from .system import OptimizerSpec, System

DEFAULT_TIME_LIMIT = 8.0  # seconds
_COST_GAP = 1e-6  # relative, below which a cost counts as the least
_SHARE_TO_SERVE_ALL = 0.4  # of the time limit
_LEAST_TIME = 0.05  # seconds every step may take


class SolverError(Exception):
    """There is no solution; the wording is what callers of the published tool look for."""


@dataclass(frozen=True)
class Exact:
    """Replicas per server and accelerator, and how sure we are that nothing is better."""

    replicas: dict[str, dict[str, int]]
    optimal: bool
    gap: float  # relative, between the cost found and the least it could be; 0 when optimal
    seconds: float


@dataclass(frozen=True)
class _Column:
    server: int
    candidate: Candidate
    replicas: int  # what one unit of the variable stands for
    most: int  # of the variable

    @property
    def units(self) -> int:
        return self.replicas * self.candidate.units


def solve_exactly(system: System, candidates: Candidates, spec: OptimizerSpec) -> Exact:
    """Raises SolverError when not everyone can be served and `partial` was not asked for."""
    started = time.monotonic()
    deadline = started + (spec.time_limit or DEFAULT_TIME_LIMIT)
    names = [name for name in sorted(candidates.found) if not _needs_nothing(candidates, name)]
    program = _Program(system, candidates, names, spec)
    # Where not everyone need be served, proving that not everyone can be must not take all the time.
    answer = program.serve_all(started + (deadline - started) * (_SHARE_TO_SERVE_ALL if spec.partial else 1))
    if answer is None and not spec.partial:
        raise SolverError(f"LP solve failed; solutionType={'TIMEOUT' if time.monotonic() > deadline else 'INFEASIBLE'}")
    values, optimal, gap = answer if answer is not None else program.serve_by_priority(deadline)
    return Exact(program.read(values), optimal, gap, time.monotonic() - started)


def _needs_nothing(candidates: Candidates, server: str) -> bool:
    return any(each.is_null for each in candidates.found[server].values())


class _Program:
    """Variables: replicas (or all-or-none) per candidate, then one per server which says whether it is served."""

    def __init__(self, system: System, candidates: Candidates, names: list[str], spec: OptimizerSpec) -> None:
        self.system, self.names = system, names
        self.priorities = np.array([system.priority_of(system.servers[name]) for name in names])
        self.columns = [
            column
            for index, name in enumerate(names)
            for _, candidate in sorted(candidates.found[name].items())
            if (column := _column(index, candidate, system, spec)) is not None
        ]
        costs = [self._cost_of_one(each, spec) for each in self.columns]
        self.costs = np.array(
            [cost * each.replicas for cost, each in zip(costs, self.columns, strict=True)] + [0.0] * len(names)
        )
        self.matrix, self.lowest, self.highest = self._constraints(spec)

    def _cost_of_one(self, column: _Column, spec: OptimizerSpec) -> float:
        """Of one replica."""
        candidate, current = column.candidate, self.system.servers[self.names[column.server]].current_alloc
        cost = (candidate.cost + (spec.power_weight or 0.0) * candidate.power) / candidate.replicas
        moves = candidate.accelerator not in (current.accelerator, *(part.accelerator for part in current.parts or ()))
        return cost * (1 + TRANSITION_PENALTY) if spec.penalise_moves and moves else cost

    def _constraints(self, spec: OptimizerSpec) -> tuple[sparse.csr_array, NDArray[np.float64], NDArray[np.float64]]:
        rows, low, high = list[dict[int, float]](), list[float](), list[float]()

        def add(row: dict[int, float], least: float, most: float) -> None:
            rows.append(row)
            low.append(least)
            high.append(most)

        by_server, by_type = defaultdict[int, list[int]](list), defaultdict[str, list[int]](list)
        for index, column in enumerate(self.columns):
            by_server[column.server].append(index)
            by_type[column.candidate.type].append(index)
        for server, name in enumerate(self.names):
            served, own = len(self.columns) + server, by_server[server]
            if not spec.heterogeneous:
                add({**dict.fromkeys(own, 1.0), served: -1.0}, 0, 0)
                continue
            demand = self.columns[own[0]].candidate.demand if own else 1.0
            # As a share of the demand, so that rows are of one size whatever the load.
            rates = {index: self.columns[index].candidate.replica_rate / demand for index in own} if demand > 0 else {}
            add({**rates, served: -1.0}, 0, np.inf) if demand > 0 else None
            least, most = self.system.servers[name].min_num_replicas, self.system.servers[name].max_num_replicas
            add({**dict.fromkeys(own, 1.0), served: -float(max(least, 1))}, 0, np.inf)
            if most is not None:
                add(dict.fromkeys(own, 1.0), 0, most)
        for kind in sorted(by_type):
            add({index: float(self.columns[index].units) for index in by_type[kind]}, -np.inf, self._capacity(kind))
        width = len(self.columns) + len(self.names)
        places = [(index, column, value) for index, row in enumerate(rows) for column, value in row.items()]
        at, across, values = zip(*places, strict=True) if places else ((), (), ())
        matrix = sparse.csr_array((values, (at, across)), shape=(len(rows), width), dtype=float)
        return matrix, np.array(low, dtype=float), np.array(high, dtype=float)

    def _capacity(self, kind: str) -> int:
        return max(self.system.capacity.get(kind, 0), 0)

    def serve_all(self, deadline: float) -> "tuple[NDArray[np.float64], bool, float] | None":
        """At the least cost, or None when it can't be."""
        servable = {column.server for column in self.columns}
        if len(servable) < len(self.names):
            return None
        return self._run(self.costs, {len(self.columns) + index: 1.0 for index in range(len(self.names))}, deadline)

    def serve_by_priority(self, deadline: float) -> tuple[NDArray[np.float64], bool, float]:
        values, all_optimal = np.zeros(len(self.costs)), True
        kept: list[tuple[NDArray[np.float64], float]] = []
        for priority in np.unique(self.priorities):
            counted = np.concatenate((np.zeros(len(self.columns)), np.where(self.priorities == priority, 1.0, 0.0)))
            later = {len(self.columns) + int(index): 0.0 for index in np.flatnonzero(self.priorities > priority)}
            found = self._run(-counted, later, deadline, kept, gap=0.99 / (counted.sum() + 1), upper=0.0)
            if found is not None:
                values, all_optimal = found[0], all_optimal and found[1]
            kept.append((counted, float(np.round(counted @ values))))
        cheapest = self._run(self.costs, {}, deadline, kept)
        if cheapest is None:
            return values, False, float("inf")
        return cheapest[0], all_optimal and cheapest[1], cheapest[2]

    def _run(
        self,
        objective: NDArray[np.float64],
        fixed: dict[int, float],
        deadline: float,
        kept: "list[tuple[NDArray[np.float64], float]] | None" = None,
        *,
        gap: float = _COST_GAP,
        upper: float = np.inf,
    ) -> "tuple[NDArray[np.float64], bool, float] | None":
        """The best values found, whether nothing is better, and the gap; None when there are none."""
        if not len(objective):
            return objective, True, 0.0
        low = np.zeros(len(objective))
        high = np.array([float(column.most) for column in self.columns] + [1.0] * len(self.names))
        for index, value in fixed.items():
            low[index] = high[index] = value
        constraints = [LinearConstraint(self.matrix, self.lowest, self.highest)] if self.matrix.shape[0] else []
        if kept:
            constraints.append(LinearConstraint(np.array([row for row, _ in kept]), [count - 0.5 for _, count in kept]))
        limit = max(deadline - time.monotonic(), _LEAST_TIME)
        result = milp(
            objective,
            integrality=np.ones(len(objective)),
            bounds=Bounds(low, high),
            constraints=constraints,
            options={"time_limit": limit, "mip_rel_gap": gap},
        )
        if result.x is None:
            return None
        return np.round(result.x), result.status == 0, 0.0 if result.status == 0 else float(result.mip_gap)

    def read(self, values: NDArray[np.float64]) -> dict[str, dict[str, int]]:
        """Replicas by server and accelerator; checked against capacity in whole numbers, whatever the solver rounded."""
        served = values[len(self.columns) :]
        replicas: dict[str, dict[str, int]] = {}
        used = defaultdict[str, int](int)
        for index in np.lexsort((np.arange(len(self.columns)), [self.priorities[each.server] for each in self.columns])):
            column, count = self.columns[index], int(values[index])
            if count <= 0 or served[column.server] < 0.5:
                continue
            used[column.candidate.type] += count * column.units
            assert used[column.candidate.type] <= self._capacity(column.candidate.type), "the solver exceeded capacity"
            replicas.setdefault(self.names[column.server], {})[column.candidate.accelerator] = count * column.replicas
        return replicas


def _column(server: int, candidate: Candidate, system: System, spec: OptimizerSpec) -> _Column | None:
    """None for what capacity or the server's own limit rules out."""
    available = max(system.capacity.get(candidate.type, 0), 0)
    if not spec.heterogeneous:
        fits = candidate.most is None and candidate.needed_units <= available
        return _Column(server, candidate, candidate.replicas, 1) if fits else None
    most = min(candidate.replicas, available // candidate.units) if candidate.units > 0 else candidate.replicas
    return _Column(server, candidate, 1, most) if most > 0 else None
