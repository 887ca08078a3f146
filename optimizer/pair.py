"""A server on an accelerator, before the queue model: what is known of the two together, or why they don't fit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .candidate import MSEC_PER_MINUTE
from .system import AcceleratorSpec, Load, ModelTarget, PerfData, ServerSpec, System

LARGEST_BATCH = 10**12  # what an answer of next to no tokens would allow is no number any more
_BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True)
class Pair:
    server: ServerSpec
    accelerator: AcceleratorSpec
    perf: PerfData
    target: ModelTarget

    @property
    def load(self) -> Load:
        return self.server.current_alloc.load

    @property
    def batch(self) -> int:
        """Requests one replica serves together: what was asked, scaled to the answer's length, as memory allows."""
        if self.server.max_batch_size > 0:
            batch = self.server.max_batch_size
        else:
            scaled = self.perf.max_batch_size * self.perf.at_tokens // self.load.avg_out_tokens
            batch = max(int(min(scaled, LARGEST_BATCH)), 1)
        return batch if self.perf.kv_bytes_per_token is None else min(batch, self.fitting)

    @property
    def fitting(self) -> int:
        """Requests whose keys and values fit beside the weights."""
        room = self.accelerator.mem_size * self.perf.cards - (self.perf.weights_memory or 0.0)
        a_request = (self.perf.kv_bytes_per_token or 0.0) * (self.load.avg_in_tokens + self.load.avg_out_tokens)
        return int(room * _BYTES_PER_GB // a_request) if a_request > 0 else self.perf.max_batch_size if room >= 0 else 0

    @property
    def demand(self) -> float:
        if self.target.slo_tps:
            return self.target.slo_tps / self.load.avg_out_tokens / 1000
        return self.load.arrival_rate / MSEC_PER_MINUTE

    def cost_of(self, replicas: float) -> float:
        return self.accelerator.cost * self.perf.cards * replicas


def allowed(system: System, server: ServerSpec) -> Iterable[str]:
    if server.keep_accelerator and server.current_alloc.accelerator:
        return (server.current_alloc.accelerator,)
    return system.accelerators


def pairs_of(system: System, server: ServerSpec, accelerators: Iterable[str]) -> "Iterator[Pair | tuple[str, str]]":
    target, models = system.target_of(server), system.models.get(server.model)
    for name in accelerators:
        accelerator = system.accelerators.get(name)
        perf = models.get(name) if models else None
        if accelerator is None:
            yield name, "accelerator not known"
        elif models is None:
            yield name, f"model {server.model} not known"
        elif perf is None:
            yield name, f"no performance data of {server.model} on it"
        elif target is None:
            yield name, f"service class {server.class_name or 'Free'} has no target for {server.model}"
        else:
            yield Pair(server, accelerator, perf, target)


def unusable(pair: Pair) -> str | None:
    """Why it can't be, if that can be seen without the queue model."""
    load, target = pair.load, pair.target
    if min(load.arrival_rate, load.avg_in_tokens, load.avg_out_tokens) < 0:
        return "negative load"
    if load.arrival_rate == 0 or load.avg_out_tokens == 0:
        return None
    if min(target.slo_itl, target.slo_ttft, target.slo_tps) < 0:
        return "negative target"
    if pair.perf.kv_bytes_per_token is not None and pair.fitting < 1:
        return f"a request does not fit in {pair.accelerator.mem_size * pair.perf.cards} GB"
    return None
