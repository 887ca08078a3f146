"""From what is observed to how many workers of each model on each accelerator, with the reason. Acts on nothing.

What is remembered from look to look is `memory`'s; here it becomes a system for the optimizer, and its answer a decision.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ...optimizer.allocation import Candidate
from ...optimizer.solver import Solution, optimize
from ...optimizer.stabilise import held_replicas
from ...optimizer.system import (
    AcceleratorSpec,
    AllocationData,
    DecodeParms,
    Load,
    ModelTarget,
    OptimizerSpec,
    PerfData,
    PowerSpec,
    PrefillParms,
    ServerSpec,
    ServiceClassSpec,
    Stabilisation,
    System,
)
from .config import Accelerator, AutoscalerConfig, Slo
from .memory import Memory
from .observe import Key, Observed
from .performance import Book, Performance

Counts = Mapping[str, int]  # workers by accelerator
SOLVER_SECONDS = 2.0
MOVE_GAIN = 0.9  # workers are moved, or taken away, when what is wanted costs less than this share of what runs


@dataclass(frozen=True)
class Served:
    """A model version as the management plane has it."""

    key: Key
    slo: Slo
    workers: Counts
    batch: int | None = None  # what the model's archive says; None: what was profiled

    @property
    def total(self) -> int:
        return sum(self.workers.values())


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
        return _without_zeros(self.before) != _without_zeros(self.after)


class Policy:
    def __init__(self, config: AutoscalerConfig, book: Book) -> None:
        self.config, self.book = config, book
        self._memory: dict[Key, Memory] = {}

    def decide(self, models: Iterable[Served], observed: Mapping[Key, Observed], now: float) -> list[Decision]:
        models = sorted(models, key=lambda each: each.key)
        self._memory = {model.key: self._memory.get(model.key, Memory(now)) for model in models}
        for model in models:
            self._memory[model.key].look(observed.get(model.key, Observed()), now, self.config.period_seconds)
        system = self.system(models, observed, now)
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
            if seen is None or was is None or was.changes or seen.waiting > 0 or len(_without_zeros(model.workers)) != 1:
                continue
            (accelerator,) = _without_zeros(model.workers)
            told = self.predict(model, accelerator, seen)
            if told is not None:
                itl = seen.itl / told[0] if seen.itl and told[0] else None
                ttft = seen.ttft / told[1] if seen.ttft and told[1] else None
                self.book.correction(model.key[0], accelerator).learn(itl, ttft)

    def predict(self, model: Served, accelerator: str, seen: Observed) -> tuple[float, float] | None:
        """Mean ITL and TTFT that the queue model expects of the workers there are under the load seen."""
        if model.total == 0 or seen.arrivals_per_second <= 0 or self.book.corrected(model.key[0], accelerator) is None:
            return None
        load = self._load(model, seen.arrivals_per_second)
        system = self.system([model], {}, 0.0, {model.key: load})
        system.classes = {name: ServiceClassSpec(name, 1, (ModelTarget(_name(model.key)),)) for name in system.classes}
        solution = optimize(system, OptimizerSpec(unlimited=True))
        part = solution.candidates.found[_name(model.key)].get(accelerator)
        if part is None:
            return None
        part = solution.candidates.with_share(_name(model.key), part, model.total, 1.0)
        return part.itl, part.ttft

    def system(
        self,
        models: Iterable[Served],
        observed: Mapping[Key, Observed],
        now: float,
        loads: Mapping[Key, Load] | None = None,
    ) -> System:
        """The models as the optimizer sees them: each a server of its own class; without performance data, none."""
        known = [(model, self._perfs(model)) for model in models]
        known = [(model, perfs) for model, perfs in known if perfs]
        return System(
            accelerators={each.name: _accelerator(each) for each in self.config.accelerators},
            capacity={each.name: each.capacity for each in self.config.accelerators},
            models={_name(model.key): perfs for model, perfs in known},
            classes={_name(model.key): _service_class(model) for model, _ in known},
            servers={
                _name(model.key): self._server(
                    model, (loads or {}).get(model.key) or self._expected(model, observed, now), now
                )
                for model, _ in known
            },
        )

    def _perfs(self, model: Served) -> dict[str, PerfData]:
        found = ((each.name, self.book.corrected(model.key[0], each.name)) for each in self.config.accelerators)
        return {name: _perf(model, perf) for name, perf in found if perf is not None}

    def _expected(self, model: Served, observed: Mapping[Key, Observed], now: float) -> Load:
        """What is likely to come, and what waits already."""
        memory, config = self._memory.get(model.key, Memory(now)), self.config
        if memory.idle(now, model.slo.idle_seconds):
            return self._load(model, 0.0)
        ahead, period = model.slo.cold_start_seconds, config.period_seconds
        rate = memory.expected_rate(now, hold=config.hold_seconds, period=period, ahead=ahead)
        seen = observed.get(model.key, Observed())
        beyond = max(seen.in_flight - model.total * self._batch(model), 0.0)  # the workers have them, and let them wait
        return self._load(model, rate + (seen.waiting + beyond) / max(period, 1.0))

    def _load(self, model: Served, rate: float) -> Load:
        memory, slo = self._memory.get(model.key, Memory(0.0)), model.slo
        if not self._has_tokens(model):
            return Load(rate * 60, 1.0, 1.0)
        return Load(rate * 60, memory.tokens_in or slo.tokens_in, max(memory.tokens_out or slo.tokens_out, 1.0))

    def _has_tokens(self, model: Served) -> bool:
        return any(each.tokens for (name, _), each in self.book.entries.items() if name == model.key[0])

    def _server(self, model: Served, load: Load, now: float) -> ServerSpec:
        main = max(sorted(model.workers), key=lambda name: model.workers[name], default="")
        parts = tuple(AllocationData(name, count) for name, count in _without_zeros(model.workers).items())
        current = AllocationData(
            main if model.total else "", model.total, load=load, parts=parts if len(parts) > 1 else None
        )
        return ServerSpec(
            _name(model.key),
            _name(model.key),
            _name(model.key),
            min_num_replicas=self._least(model, now),
            max_batch_size=self._batch(model),
            max_num_replicas=model.slo.max_workers or None,
            current_alloc=current,
        )

    def _batch(self, model: Served) -> int:
        """The worker's own: unlike the published tool's it does not shrink as answers grow."""
        profiled = [each.max_batch for (name, _), each in self.book.entries.items() if name == model.key[0]]
        return model.batch or min(profiled)

    def _least(self, model: Served, now: float) -> int:
        memory = self._memory.get(model.key, Memory(now))
        idle = memory.idle(now, model.slo.idle_seconds)
        return model.slo.min_workers if idle else max(model.slo.min_workers, 1)

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
        name, before = _name(model.key), dict(model.workers)
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
            held = self._held(decision, model, solution, now)
            more = Counter(held)
            more.subtract(decision.after)
            if held != decision.after and all(count <= 0 or free[where] >= count for where, count in more.items()):
                free.subtract(more)
                decision = replace(decision, after=held, reason=f"{_told(decision.after)} would do; held back")
            kept.append(decision)
        return kept

    def _held(self, decision: Decision, model: Served, solution: Solution, now: float) -> dict[str, int]:
        """What runs, when it is enough and going down or elsewhere gains too little, or comes too soon; else smaller steps."""
        wanted, present = decision.after, _without_zeros(model.workers)
        found = solution.candidates.found.get(_name(model.key), {})
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


def _without_zeros(counts: Counts) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _needs_nothing(solution: Solution, name: str) -> bool:
    return any(each.is_null for each in solution.candidates.found[name].values())


def _reason(parts: list[Candidate]) -> str:
    short = [part for part in parts if part.short_of is not None]
    if short:
        return f"best effort: {short[0].replicas} of {short[0].short_of} workers, capacity or max_workers is reached"
    return f"keeps its objectives at a cost of {sum(part.cost for part in parts):g}"


def _name(key: Key) -> str:
    return "/".join(part for part in key if part)


def key_of(name: str) -> Key:
    model, _, version = name.partition("/")
    return model, version


def _accelerator(each: Accelerator) -> AcceleratorSpec:
    middle = (each.power_idle + each.power_full) // 2
    return AcceleratorSpec(
        each.name, each.name, 1, power=PowerSpec(each.power_idle, each.power_full, middle, 0.5), cost=each.cost
    )


def _perf(model: Served, perf: Performance) -> PerfData:
    decode, prefill = DecodeParms(perf.alpha, perf.beta), PrefillParms(perf.gamma, perf.delta)
    return PerfData(_name(model.key), perf.accelerator, 1, perf.max_batch, 1, decode, prefill, stepwise=perf.tokens or None)


def _service_class(model: Served) -> ServiceClassSpec:
    slo = model.slo
    target = ModelTarget(
        _name(model.key), slo.itl_ms, slo.ttft_ms or slo.latency_ms, slo.tps, percentile=slo.percentile or None
    )
    return ServiceClassSpec(_name(model.key), slo.priority, (target,))
