"""What has come in since the last look: arrivals (not completions), tokens, latencies, queue; by model and version.

Read from our own exposition; `prometheus` reads the same of servers that are not ours. Differences of counters are taken
here; what they mean for the number of workers is decided in `policy`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from .samples import Sample, parse

Key = tuple[str, str]  # model, version


@dataclass(frozen=True)
class Observed:
    """One model version over one look. Times are milliseconds; None: nothing was measured."""

    arrivals_per_second: float = 0.0
    tokens_in: float | None = None  # per request
    tokens_out: float | None = None
    ttft: float | None = None
    itl: float | None = None
    waiting: float = 0.0
    in_flight: float = 0.0


class Source(Protocol):
    def look(self) -> dict[Key, Observed]: ...


@dataclass(frozen=True)
class Both:
    """Two sources; what the second knows of a model counts."""

    first: Source
    second: Source

    def look(self) -> dict[Key, Observed]:
        return self.first.look() | self.second.look()


class _Totals:
    """Sums of counters by name and model; those without a version label count for all versions of their model."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.by_key: dict[tuple[str, Key], float] = defaultdict(float)
        self.by_model: dict[tuple[str, str], float] = defaultdict(float)
        self.keys: set[Key] = set()
        for sample in samples:
            model = sample.labels.get("model_name") or sample.labels.get("ModelName")
            if not model or "le" in sample.labels:
                continue
            self.by_model[sample.name, model] += sample.value
            if version := sample.labels.get("model_version"):
                self.by_key[sample.name, (model, version)] += sample.value
                self.keys.add((model, version))

    def of(self, name: str, key: Key) -> float:
        return self.by_key[name, key]

    def of_model(self, name: str, key: Key) -> float:
        return self.by_model[name, key[0]]


class Observer:
    """Reads our exposition: `scrape` gives its text. The first look finds counters, not yet rates."""

    def __init__(self, scrape: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._scrape, self._clock = scrape, clock
        self._before: tuple[float, _Totals] | None = None

    def look(self) -> dict[Key, Observed]:
        now, totals = self._clock(), _Totals(parse(self._scrape()))
        before, self._before = self._before, (now, totals)
        if before is None or now <= before[0]:
            return {key: self._observed(key, totals, totals, 1.0) for key in totals.keys}
        return {key: self._observed(key, before[1], totals, now - before[0]) for key in totals.keys}

    def _observed(self, key: Key, before: _Totals, now: _Totals, seconds: float) -> Observed:
        def grown(name: str) -> float:
            return max(now.of(name, key) - before.of(name, key), 0.0)  # a restarted process counts from zero

        def grown_model(name: str) -> float:
            return max(now.of_model(name, key) - before.of_model(name, key), 0.0)

        def mean(name: str) -> float | None:
            count = grown_model(f"{name}_count")
            return grown_model(f"{name}_sum") / count if count else None

        finished = grown_model("LlmFinishedRequests")
        completed = grown("flambeau_requests_completed_total")
        latency = grown("ts_inference_latency_microseconds") / completed / 1000 if completed else None
        return Observed(
            arrivals_per_second=grown("flambeau_requests_arrived_total") / seconds,
            tokens_in=grown_model("LlmPromptTokens") / finished if finished else None,
            tokens_out=grown_model("LlmGeneratedTokens") / finished if finished else None,
            ttft=mean("LlmTimeToFirstToken") or latency,
            itl=mean("LlmInterTokenLatency"),
            waiting=now.of("flambeau_requests_waiting", key),
            in_flight=now.of("flambeau_requests_in_flight", key),
        )
