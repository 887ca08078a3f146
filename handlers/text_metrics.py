"""What an engine tells the metrics: totals and gauges at most once a second, times of each request as they are known."""

import time
from collections.abc import Callable
from typing import Any

from .base import Request
from .engine.interface import EngineLike, Stats
from .generation import GenerationEvent
from .metrics import MetricTypes

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

    def __init__(self, engine: EngineLike, metrics: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._metrics, self._clock = engine, metrics, clock
        self._told = Stats()
        self._next = 0.0

    def look(self) -> None:
        """Tell what changed since the last time; cheap when it is not yet time, or nothing did."""
        now = self._clock()
        if self._metrics is None or now < self._next:
            return
        self._next = now + EVERY_SECONDS
        stats, told = self._engine.stats(), self._told
        for name, counter in TOTALS.items():
            if more := getattr(stats, counter) - getattr(told, counter):
                self._metrics.add_counter(name, more)
        self._gauge("LlmRequestsRunning", stats.running)
        self._gauge("LlmRequestsWaiting", stats.waiting)
        self._gauge("LlmKvCacheUsage", stats.kv_tokens_used / max(stats.kv_tokens, 1))
        self._told = stats

    def watch(self, request: Request) -> "Watch":
        return Watch(self, request.arrived, self._clock)

    def observe(self, name: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.add_metric(name, value=seconds * 1000, unit="ms", metric_type=MetricTypes.HISTOGRAM)

    def _gauge(self, name: str, value: float) -> None:
        self._metrics.add_metric(name, value=value, unit="", metric_type=MetricTypes.GAUGE)


class Watch:
    """The times of one request: first token, between tokens, whole."""

    def __init__(self, metrics: TextMetrics, arrived: float, clock: Callable[[], float]) -> None:
        self._metrics, self._arrived, self._clock = metrics, arrived, clock
        self._last: float | None = None

    def saw(self, event: GenerationEvent) -> None:
        now = self._clock()
        if self._last is None:
            self._metrics.observe("LlmTimeToFirstToken", now - self._arrived)
        elif event.token_ids:
            self._metrics.observe("LlmInterTokenLatency", (now - self._last) / len(event.token_ids))
        self._last = now

    def done(self) -> None:
        self._metrics.observe("LlmRequestTime", self._clock() - self._arrived)
