"""What an engine tells the metrics: totals and gauges at most once a second, times of each request as they are known."""

import time
from collections.abc import Callable

from .base import Request
from .engine.interface import EngineLike, Stats
from .metrics import Metrics, MetricTypes

EVERY_SECONDS = 1.0
TOTALS = {  # metric → counter of Stats
    "LlmPromptTokens": "prompt_tokens",
    "LlmGeneratedTokens": "generated_tokens",
    "LlmCachedPromptTokens": "cached_tokens",
    "LlmPreemptions": "preempted",
    "LlmAbortedRequests": "aborted",
    "LlmFinishedRequests": "finished",
}


class TextMetrics:
    """`metrics` is the worker's store, or None in tests."""

    def __init__(self, engine: EngineLike, metrics: Metrics | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._metrics, self._clock = engine, metrics, clock
        self._told = Stats()
        self._next = 0.0

    def look(self, busy: bool) -> None:
        """Tell what changed since the last time: when it is time, or when the engine comes to rest."""
        now = self._clock()
        if self._metrics is None or (busy and now < self._next):
            return
        self._next = now + EVERY_SECONDS
        stats, told = self._engine.stats(), self._told
        for name, counter in TOTALS.items():
            if more := getattr(stats, counter) - getattr(told, counter):
                self._metrics.add_counter(name, more)
        usage = stats.kv_tokens_used / max(stats.kv_tokens, 1)
        self._metrics.add_metric("LlmRequestsRunning", stats.running, metric_type=MetricTypes.GAUGE)
        self._metrics.add_metric("LlmRequestsWaiting", stats.waiting, metric_type=MetricTypes.GAUGE)
        self._metrics.add_metric("LlmKvCacheUsage", usage, metric_type=MetricTypes.GAUGE)
        self._told = stats

    def watch(self, request: Request) -> "Watch":
        return Watch(self, request.arrived, self._clock)

    def observe(self, name: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.add_time(name, seconds * 1000, metric_type=MetricTypes.HISTOGRAM)


class Watch:
    """The times of one request: to its first token, between tokens on average, whole."""

    def __init__(self, metrics: TextMetrics, arrived: float, clock: Callable[[], float]) -> None:
        self._metrics, self._arrived, self._clock = metrics, arrived, clock
        self._first: float | None = None
        self._more = 0  # tokens after the first step

    def saw(self, tokens: int) -> None:
        """A step gave the request so many."""
        if self._first is None:
            self._first = self._clock()
            self._metrics.observe("LlmTimeToFirstToken", self._first - self._arrived)
        else:
            self._more += tokens

    def done(self) -> None:
        now = self._clock()
        if self._first is not None and self._more:
            self._metrics.observe("LlmInterTokenLatency", (now - self._first) / self._more)
        self._metrics.observe("LlmRequestTime", now - self._arrived)
