"""What is remembered of a model between two looks, and the load that follows from it.

Loads rise at once and fall only when they stay low; what comes at random is averaged; a growing load is looked at as far
ahead as a worker takes to start.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from .observe import Observed

SMOOTHED_LOOKS = 3  # over so many looks arrivals are averaged: what comes at random must not start workers
NOTABLE = 3.0  # standard deviations: beyond that a load has changed


@dataclass
class Memory:
    last_request: float
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHED_LOOKS))  # requests per second
    rates: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=1000))  # time, and their mean
    tokens_in: float | None = None
    tokens_out: float | None = None
    changed: float = float("-inf")  # when its workers last were

    def look(self, seen: Observed, now: float, period: float) -> None:
        self.rates.append((now, self._smoothed(seen.arrivals_per_second, period)))
        self.tokens_in = seen.tokens_in or self.tokens_in
        self.tokens_out = seen.tokens_out or self.tokens_out
        if seen.arrivals_per_second > 0 or seen.in_flight > 0 or seen.waiting > 0:
            self.last_request = now

    def idle(self, now: float, seconds: float) -> bool:
        """Without a request for so long; 0 is never."""
        return seconds > 0 and now - self.last_request >= seconds

    def expected_rate(self, now: float, *, hold: float, period: float, ahead: float) -> float:
        """Requests per second: the largest of the time held in mind, or what a growing load will be."""
        held = [rate for time, rate in self.rates if now - time <= hold] or [0.0]
        rate = held[-1]
        if len(self.rates) > 1 and (grown := rate - self.rates[-2][1]) > 0:
            rate += grown / period * ahead
        return max([rate, *held])

    def _smoothed(self, rate: float, period: float) -> float:
        """The mean of some looks, until one is beyond what chance makes of it."""
        expected = sum(self.latest) / len(self.latest) * period if self.latest else 0.0
        if abs(rate * period - expected) > NOTABLE * math.sqrt(max(expected, 1.0)):
            self.latest.clear()
        self.latest.append(rate)
        return sum(self.latest) / len(self.latest)
