"""From what is observed to how many workers of each model on each accelerator, with the reason. Acts on nothing.

What is remembered from look to look is `memory`'s, what the optimizer is asked `problem`'s; here its answer becomes a decision.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ...optimizer.candidate import Candidate
from ...optimizer.solver import Solution, optimize
from ...optimizer.stabilise import held_replicas
from ...optimizer.system import ModelTarget, OptimizerSpec, ServiceClassSpec, Stabilisation, System
from .config import AutoscalerConfig
from .memory import Memory
from .observe import Key, Observed
from .performance import Book
from .problem import Counts, Problem, Served, name_of, without_zeros

SOLVER_SECONDS = 2.0
MOVE_GAIN = 0.9  # workers are moved, or taken away, when what is wanted costs less than this share of what runs


@dataclass(frozen=True)
class Decision:
    model: str
    version: str
    before: dict[str, int]
    after: dict[str, int]
    reason: str
    requests_per_second: float = 0.0
    predicted_itl_ms: float | None = None
    predicted_ttft_ms: float | None = None

    @property
    def key(self) -> Key:
        return self.model, self.version

    @property
    def changes(self) -> bool:
        return without_zeros(self.before) != without_zeros(self.after)


class Policy:
    def __init__(self, config: AutoscalerConfig, book: Book) -> None:
        self.config, self.book = config, book
        self._memory: dict[Key, Memory] = {}

    @property
    def problem(self) -> Problem:
        return Problem(self.config, self.book, self._memory)

    def forget(self) -> None:
        self._memory = {}

    def decide(self, models: Iterable[Served], observed: Mapping[Key, Observed], now: float) -> list[Decision]:
        models = sorted(models, key=lambda each: each.key)
        self._memory = {model.key: self._memory.get(model.key, Memory(now)) for model in models}
        for key, memory in self._memory.items():
            memory.look(observed.get(key, Observed()), now, self.config.period_seconds)
        system = self.problem.system(models, observed, now)
        solution = self._solve(system)
        decisions = self._kept([self._decision(model, observed, solution) for model in models], models, solution, now)
        for decision in decisions:
            if decision.changes:
                self._memory[decision.key].changed = now
        return decisions

    def learn(self, models: Iterable[Served], observed: Mapping[Key, Observed], decisions: Iterable[Decision]) -> None:
        """Corrects the performance data by what was measured under the load just seen, where no one had to wait."""
        predicted = {decision.key: decision for decision in decisions}
        for model in models:
            seen, was = observed.get(model.key), predicted.get(model.key)
            if seen is None or was is None or was.changes or seen.waiting > 0 or len(without_zeros(model.workers)) != 1:
                continue
            (accelerator,) = without_zeros(model.workers)
            told = self.predict(model, accelerator, seen)
            if told is not None:
                itl = seen.itl / told[0] if seen.itl and told[0] else None
                ttft = seen.ttft / told[1] if seen.ttft and told[1] else None
                self.book.correction(model.key[0], accelerator).learn(itl, ttft)

    def predict(self, model: Served, accelerator: str, seen: Observed) -> tuple[float, float] | None:
        """Mean ITL and TTFT that the queue model expects of the workers there are under the load seen."""
        if model.total == 0 or seen.arrivals_per_second <= 0 or self.book.corrected(model.key[0], accelerator) is None:
            return None
        load = self.problem.load(model, seen.arrivals_per_second)
        system = self.problem.system([model], {}, 0.0, {model.key: load})
        system.classes = {name: ServiceClassSpec(name, 1, (ModelTarget(name_of(model.key)),)) for name in system.classes}
        solution = optimize(system, OptimizerSpec(unlimited=True))
        part = solution.candidates.found[name_of(model.key)].get(accelerator)
        if part is None:
            return None
        part = solution.candidates.with_share(name_of(model.key), part, model.total, 1.0)
        return part.itl, part.ttft

    def _solve(self, system: System) -> Solution:
        """Exactly: by priority, at the least cost, over several accelerators; what is left over goes round."""
        if not system.servers or not system.accelerators:
            return Solution()
        spec = OptimizerSpec(
            milp_solver=True,
            heterogeneous=True,
            partial=True,
            saturation_policy="PriorityRoundRobin",
            penalise_moves=True,
            time_limit=SOLVER_SECONDS,
            power_weight=self.config.power_weight or None,
        )
        return optimize(system, spec)

    def _decision(self, model: Served, observed: Mapping[Key, Observed], solution: Solution) -> Decision:
        name, before = name_of(model.key), dict(model.workers)
        seen = observed.get(model.key, Observed())
        kept = Decision(*model.key, before, before, "", seen.arrivals_per_second)
        if name not in solution.candidates.found:
            return replace(kept, reason="no performance data: profile the model first; left as it is")
        parts = [part for part in solution.chosen.get(name, ()) if not part.is_null]
        if not parts and _needs_nothing(solution, name):
            return replace(kept, after={}, reason=f"no request for {model.slo.idle_seconds:g} s")
        if not parts:
            refused = "; ".join(f"{where}: {why}" for where, why in solution.candidates.refused[name].items())
            return replace(kept, reason=f"can't be served ({refused or 'no capacity left'}); left as it is")
        return replace(
            kept,
            after={part.accelerator: part.replicas for part in parts},
            reason=_reason(parts),
            predicted_itl_ms=max(part.itl_percentile or part.itl for part in parts),
            predicted_ttft_ms=max(part.ttft_percentile or part.ttft for part in parts),
        )

    def _kept(self, decisions: list[Decision], models: list[Served], solution: Solution, now: float) -> list[Decision]:
        """Leaves workers where they are, or takes fewer of them away, where that serves as well and room is not needed."""
        free = Counter({each.name: each.capacity for each in self.config.accelerators})
        for decision in decisions:
            free.subtract(decision.after)
        kept = []
        for decision, model in zip(decisions, models, strict=True):
            if short := _short_of(solution, model):
                decision = self._best_effort(decision, short, model, solution, free)
            held = self._held(decision, model, solution, now)
            more = Counter(held)
            more.subtract(decision.after)
            if held != decision.after and all(count <= 0 or free[where] >= count for where, count in more.items()):
                free.subtract(more)
                decision = replace(decision, after=held, reason=f"{_told(decision.after)} would do; held back")
            kept.append(decision)
        return kept

    def _best_effort(
        self, decision: Decision, needed: int, model: Served, solution: Solution, free: Counter[str]
    ) -> Decision:
        """At least what runs, and as much more as there is room for: who can't have enough must not lose what it has."""
        found, present = solution.candidates.found[name_of(model.key)], without_zeros(model.workers)
        room = Counter({where: free[where] + decision.after.get(where, 0) for where in found})
        most = model.slo.max_workers or room.total()

        def rate(workers: Counts) -> float:
            return sum(found[where].replica_rate * count for where, count in workers.items())

        fits = sum(present.values()) <= most and all(room[where] >= count for where, count in present.items())
        given = Counter(present if fits and rate(present) > rate(decision.after) else decision.after)
        demand = max(each.demand for each in found.values())
        for where in sorted(found, key=lambda name: (self._cost({name: 1}) / found[name].replica_rate, name)):
            while given[where] < room[where] and given.total() < most and rate(given) < demand:
                given[where] += 1
        free.subtract(given)
        free.update(decision.after)
        reason = f"best effort: {given.total()} of {needed} workers, capacity or max_workers is reached"
        return replace(decision, after=without_zeros(given), reason=reason, predicted_itl_ms=None, predicted_ttft_ms=None)

    def _held(self, decision: Decision, model: Served, solution: Solution, now: float) -> dict[str, int]:
        """What runs, when it is enough and going down or elsewhere gains too little, or comes too soon; else smaller steps."""
        wanted, present = decision.after, without_zeros(model.workers)
        found = solution.candidates.found.get(name_of(model.key), {})
        if not wanted or not present or wanted == present or not present.keys() <= found.keys():
            return wanted
        demand = max(found[where].demand for where in present)
        if sum(found[where].replica_rate * count for where, count in present.items()) < demand:
            return wanted
        gain = min(self.config.scale_down_ratio, MOVE_GAIN)
        cooling = now - self._memory[model.key].changed < self.config.cooldown_seconds
        if cooling or self._cost(wanted) > gain * self._cost(present):
            return present
        if self.config.max_step_down and wanted.keys() == present.keys():
            how = Stabilisation(max_step_down=self.config.max_step_down)
            return {where: held_replicas(present[where], count, how) for where, count in wanted.items()}
        return wanted

    def _cost(self, workers: Counts) -> float:
        costs = {each.name: each.cost for each in self.config.accelerators}
        return sum(costs.get(where, 0.0) * count for where, count in workers.items())


def _told(workers: Counts) -> str:
    return " and ".join(f"{count} on {where}" for where, count in workers.items())


def _needs_nothing(solution: Solution, name: str) -> bool:
    return any(each.is_null for each in solution.candidates.found[name].values())


def _short_of(solution: Solution, model: Served) -> int:
    """The workers a model would need, when it can't have them all; else 0."""
    return max((part.short_of or 0 for part in solution.chosen.get(name_of(model.key), ())), default=0)


def _reason(parts: list[Candidate]) -> str:
    return f"keeps its objectives at a cost of {sum(part.cost for part in parts):g}"
