"""What has come in since the last look: arrivals (not completions), tokens, latencies, queue; by model and version.

From our own exposition (`Observer`) or from a Prometheus server that watches vLLM (`PrometheusObserver`). Differences of
counters are taken here; what they mean for the number of workers is decided in `policy`.
"""

import json
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .samples import Sample, parse

Key = tuple[str, str]  # model, version
DEFAULT_VERSION = ""  # of servers which know none


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


@dataclass
class PrometheusObserver:
    """Reads a Prometheus server that watches vLLM: arrivals are completions and what the queue grew by."""

    url: str
    jobs: Mapping[str, Key]  # the label `job` of each server
    window: str = "1m"
    timeout_seconds: float = 5.0
    fetch: Callable[[str, float], bytes] = field(default=lambda url, timeout: _get(url, timeout))

    def look(self) -> dict[Key, Observed]:
        return {key: self._observed(job) for job, key in self.jobs.items()}

    def _observed(self, job: str) -> Observed:
        label = '{job="%s"}' % job.replace("\\", "\\\\").replace('"', '\\"')  # noqa: UP031 - braces
        window = f"[{self.window}]"

        def rate(name: str) -> float:
            return self._ask(f"sum(rate({name}{label}{window}))") or 0.0

        def ratio(total: str, count: str) -> float | None:
            amount = self._ask(f"sum(increase({total}{label}{window}))")
            times = self._ask(f"sum(increase({count}{label}{window}))")
            return amount / times if amount is not None and times else None

        held = f"vllm:num_requests_running{label} + vllm:num_requests_waiting{label}"
        growth = self._ask(f"sum(deriv(({held}){window[:-1]}:]))") or 0.0
        milliseconds = {
            name: None if (seconds := ratio(f"{metric}_sum", f"{metric}_count")) is None else seconds * 1000
            for name, metric in (
                ("ttft", "vllm:time_to_first_token_seconds"),
                ("itl", "vllm:time_per_output_token_seconds"),
            )
        }
        return Observed(
            arrivals_per_second=max(rate("vllm:request_success_total") + growth, 0.0),
            tokens_in=ratio("vllm:prompt_tokens_total", "vllm:request_success_total"),
            tokens_out=ratio("vllm:generation_tokens_total", "vllm:request_success_total"),
            waiting=self._ask(f"sum(vllm:num_requests_waiting{label})") or 0.0,
            in_flight=self._ask(f"sum(vllm:num_requests_running{label})") or 0.0,
            **milliseconds,
        )

    def _ask(self, query: str) -> float | None:
        """The value of a query; None when there is none, or none that is a number."""
        address = f"{self.url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        answer = json.loads(self.fetch(address, self.timeout_seconds))
        results = answer.get("data", {}).get("result", [])
        value = float(results[0]["value"][1]) if results else float("nan")
        return value if abs(value) < float("inf") else None


def _get(url: str, timeout: float) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: not an http address")
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return bytes(response.read())
