"""The models, their objectives and what is expected of them, as a problem for the optimizer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...optimizer.system import (
    AcceleratorSpec,
    AllocationData,
    DecodeParms,
    Load,
    ModelTarget,
    PerfData,
    PowerSpec,
    PrefillParms,
    ServerSpec,
    ServiceClassSpec,
    System,
)
from .config import Accelerator, AutoscalerConfig, Slo
from .memory import Memory
from .observe import Key, Observed
from .performance import Book, Performance

Counts = Mapping[str, int]  # workers by accelerator


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
class Problem:
    config: AutoscalerConfig
    book: Book
    memories: Mapping[Key, Memory]

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
            models={name_of(model.key): perfs for model, perfs in known},
            classes={name_of(model.key): _service_class(model) for model, _ in known},
            servers={
                name_of(model.key): self._server(
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
        memory, config = self.memories.get(model.key, Memory(now)), self.config
        if memory.idle(now, model.slo.idle_seconds):
            return self.load(model, 0.0)
        ahead, period = model.slo.cold_start_seconds, config.period_seconds
        rate = memory.expected_rate(now, hold=config.hold_seconds, period=period, ahead=ahead)
        seen = observed.get(model.key, Observed())
        beyond = max(seen.in_flight - model.total * self._batch(model), 0.0)  # the workers have them, and let them wait
        return self.load(model, rate + (seen.waiting + beyond) / max(period, 1.0))

    def load(self, model: Served, rate: float) -> Load:
        memory, slo = self.memories.get(model.key, Memory(0.0)), model.slo
        if not self._has_tokens(model):
            return Load(rate * 60, 1.0, 1.0)
        return Load(rate * 60, memory.tokens_in or slo.tokens_in, max(memory.tokens_out or slo.tokens_out, 1.0))

    def _has_tokens(self, model: Served) -> bool:
        return any(each.tokens for (name, _), each in self.book.entries.items() if name == model.key[0])

    def _server(self, model: Served, load: Load, now: float) -> ServerSpec:
        main = max(sorted(model.workers), key=lambda name: model.workers[name], default="")
        parts = tuple(AllocationData(name, count) for name, count in without_zeros(model.workers).items())
        current = AllocationData(
            main if model.total else "", model.total, load=load, parts=parts if len(parts) > 1 else None
        )
        return ServerSpec(
            name_of(model.key),
            name_of(model.key),
            name_of(model.key),
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
        memory = self.memories.get(model.key, Memory(now))
        idle = memory.idle(now, model.slo.idle_seconds)
        return model.slo.min_workers if idle else max(model.slo.min_workers, 1)


def name_of(key: Key) -> str:
    return "/".join(part for part in key if part)


def key_of(name: str) -> Key:
    model, _, version = name.partition("/")
    return model, version


def without_zeros(counts: Counts) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _accelerator(each: Accelerator) -> AcceleratorSpec:
    middle = (each.power_idle + each.power_full) // 2
    return AcceleratorSpec(
        each.name, each.name, 1, power=PowerSpec(each.power_idle, each.power_full, middle, 0.5), cost=each.cost
    )


def _perf(model: Served, perf: Performance) -> PerfData:
    decode, prefill = DecodeParms(perf.alpha, perf.beta), PrefillParms(perf.gamma, perf.delta)
    return PerfData(
        name_of(model.key), perf.accelerator, 1, perf.max_batch, 1, decode, prefill, stepwise=perf.tokens or None
    )


def _service_class(model: Served) -> ServiceClassSpec:
    slo = model.slo
    target = ModelTarget(
        name_of(model.key), slo.itl_ms, slo.ttft_ms or slo.latency_ms, slo.tps, percentile=slo.percentile or None
    )
    return ServiceClassSpec(name_of(model.key), slo.priority, (target,))
