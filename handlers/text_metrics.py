"""What an engine tells the metrics: totals and gauges at most once a second, each request's own numbers as they are known."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .base import Request
from .engine.interface import EngineLike, Stats
from .generation import FinishReason, Usage
from .metrics import Dimension, Metrics, MetricTypes

EVERY_SECONDS = 1.0
TOTALS = {  # metric → counter of Stats
    "LlmPromptTokens": "prompt_tokens",
    "LlmGeneratedTokens": "generated_tokens",
    "LlmCachedPromptTokens": "cached_tokens",
    "LlmPreemptions": "preempted",
    "LlmAbortedRequests": "aborted",
}


class TextMetrics:
    """`metrics` is the worker's store, or None in tests. Gauges are a worker's own, so they name it."""

    def __init__(
        self,
        engine: EngineLike,
        metrics: Metrics | None,
        clock: Callable[[], float] = time.monotonic,
        worker_id: str = "",
    ) -> None:
        self._engine, self._metrics, self._clock, self._worker_id = engine, metrics, clock, worker_id
        self._told = Stats()
        self._computed = 0
        self._next = 0.0

    def look(self, busy: bool) -> None:
        """After each step: its tokens, and when it is time, or the engine comes to rest, what changed since the last time."""
        now = self._clock()
        if self._metrics is None:
            return
        stats, told = self._engine.stats(), self._told
        if stats.computed_tokens > self._computed:
            self.observe_tokens("LlmStepTokens", stats.computed_tokens - self._computed)
            self._computed = stats.computed_tokens
        if busy and now < self._next:
            return
        self._next = now + EVERY_SECONDS
        for name, counter in TOTALS.items():
            if more := getattr(stats, counter) - getattr(told, counter):
                self._metrics.add_counter(name, more)
        usage = stats.kv_tokens_used / max(stats.kv_tokens, 1)
        worker = [("ModelName", self._metrics.model_name), ("Level", "Model"), ("WorkerId", self._worker_id)]
        dimensions = [Dimension(*pair) for pair in worker]
        gauges = {"LlmRequestsRunning": stats.running, "LlmRequestsWaiting": stats.waiting, "LlmKvCacheUsage": usage}
        for name, value in gauges.items():
            self._metrics.add_metric(name, value, dimensions=dimensions, metric_type=MetricTypes.GAUGE)
        self._told = stats

    def watch(self, request: Request) -> "Watch":
        return Watch(self, request.arrived - request.head.waited_seconds, self._clock)

    def finished(self, reason: FinishReason) -> None:
        if self._metrics is not None:
            model = [("ModelName", self._metrics.model_name), ("Level", "Model"), ("FinishReason", reason)]
            self._metrics.add_counter("LlmFinishedRequests", 1, dimensions=[Dimension(*pair) for pair in model])

    def observe_seconds(self, name: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.add_time(name, seconds * 1000, metric_type=MetricTypes.HISTOGRAM)

    def observe_tokens(self, name: str, tokens: int) -> None:
        if self._metrics is not None:
            self._metrics.add_metric(name, tokens, "count", metric_type=MetricTypes.HISTOGRAM)


@dataclass(slots=True)
class Pace:
    """Of one choice: when its first and its last tokens came, how many, and how many after the first step."""

    first: float
    last: float
    tokens: int
    more: int = 0


class Watch:
    """One request's numbers. Its time begins when the server had it, in whichever queue it waited."""

    def __init__(self, metrics: TextMetrics, arrived: float, clock: Callable[[], float]) -> None:
        self._metrics, self._arrived, self._clock = metrics, arrived, clock
        self._began: float | None = None
        self._first: float | None = None
        self._choices: dict[int, Pace] = {}

    def saw(self, tokens: int, began: float | None = None, choice: int = 0) -> None:
        """A step gave one of the choices so many; `began` is when an engine that knows it began to read the prompt."""
        now = self._clock()
        if (pace := self._choices.get(choice)) is None:
            self._choices[choice] = Pace(now, now, tokens)
        else:
            pace.last = now
            pace.tokens += tokens
            pace.more += tokens
        if self._first is not None:
            return
        self._began, self._first = began, now
        self._metrics.observe_seconds("LlmTimeToFirstToken", self._first - self._arrived)
        if began is not None:
            self._metrics.observe_seconds("LlmQueueTime", began - self._arrived)
            self._metrics.observe_seconds("LlmPrefillTime", self._first - began)

    def ended(self, reason: FinishReason, usage: Usage | None = None) -> None:
        now, metrics = self._clock(), self._metrics
        metrics.finished(reason)
        metrics.observe_seconds("LlmRequestTime", now - self._arrived)
        if usage is not None:
            metrics.observe_tokens("LlmRequestPromptTokens", usage.prompt_tokens)
            metrics.observe_tokens("LlmRequestGeneratedTokens", usage.completion_tokens)
        if self._first is not None:
            metrics.observe_tokens("LlmRequestLongestChoice", max(pace.tokens for pace in self._choices.values()))
            metrics.observe_seconds("LlmDecodeTime", now - self._first)
            for pace in self._choices.values():
                if pace.more:
                    metrics.observe_seconds("LlmInterTokenLatency", (pace.last - pace.first) / pace.more)
        if self._began is not None:
            metrics.observe_seconds("LlmInferenceTime", now - self._began)
