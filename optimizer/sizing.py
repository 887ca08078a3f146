"""How much one replica may be given: the largest rate at which its targets hold, for many replicas at once.

What a rate does to latencies is `queueing`'s; here it is turned round.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .queueing import (
    Chain,
    Flags,
    Floats,
    Replicas,
    analyse,
    beyond,
    metrics_of,
    steady_state,
    stepwise_ttft,
    wait_percentile,
)

THROUGHPUT_SHARE = 0.9  # of the largest rate, when throughput is what is asked for


@dataclass(frozen=True)
class Targets:
    """What is asked of latencies, in milliseconds; 0 asks nothing. percentile is a share (0.95), 0 for the mean."""

    itl: Floats
    ttft: Floats
    percentile: Floats

    def at(self, where: NDArray[np.intp] | Flags) -> "Targets":
        return Targets(self.itl[where], self.ttft[where], self.percentile[where])


@dataclass(frozen=True)
class Sizing:
    """The largest rate at which the targets hold, what is then served, and which target a lone request misses."""

    rate: Floats
    throughput: Floats
    misses_itl: Flags
    misses_ttft: Flags

    @property
    def feasible(self) -> Flags:
        return ~(self.misses_itl | self.misses_ttft)


def size(replicas: Replicas, targets: Targets, throughput_wanted: Flags) -> Sizing:
    """How much one replica may be given. Every replica must be one that is `served`."""
    with np.errstate(all="ignore"):
        lowest, highest = replicas.rate_range
        itl_low, ttft_low = _excess(replicas, targets, lowest)
        slack = 1e-9  # a target on the very bound holds
        misses_itl, misses_ttft = itl_low > slack, ttft_low > slack
        rate = np.where(throughput_wanted, THROUGHPUT_SHARE * highest, highest)
        at_rate = np.maximum(*_excess(replicas, targets, rate))
        search = np.flatnonzero(~misses_itl & ~misses_ttft & (at_rate > 0))
        if search.size:
            some, wanted = replicas.at(search), targets.at(search)
            rate[search] = _root(some, wanted, lowest[search], rate[search], at_rate[search])
        return Sizing(rate, analyse(replicas, rate).throughput, misses_itl, misses_ttft)


def _excess(replicas: Replicas, targets: Targets, rate: Floats) -> tuple[Floats, Floats]:
    """By how much, relatively, ITL and TTFT are above their targets; both grow with the rate."""
    replicas = replicas.under(rate)
    chain = steady_state(replicas, rate)
    metrics = metrics_of(replicas, rate, chain)
    itl, ttft = metrics.itl / targets.itl - 1, metrics.ttft / targets.ttft - 1
    tails = targets.percentile > 0
    if tails.any():
        some, wanted = replicas.at(tails), targets.at(tails)
        chain = Chain(**{name: values[tails] for name, values in vars(chain).items()})
        itl[tails], ttft[tails] = _tail_excess(some, wanted, rate[tails], chain)
    return np.where(targets.itl > 0, itl, -1.0), np.where(targets.ttft > 0, ttft, -1.0)


def _tail_excess(replicas: Replicas, targets: Targets, rate: Floats, chain: Chain) -> tuple[Floats, Floats]:
    """For a percentile the question is turned round: how likely is a batch too large to keep the target?"""
    tolerated = 1 - targets.percentile
    largest = np.floor((targets.itl - replicas.alpha) / replicas.beta + 1e-9)
    itl = beyond(replicas, rate, chain, largest, by_token=True) / tolerated - 1
    largest = np.floor((targets.ttft - replicas.gamma) / (replicas.delta * replicas.tokens_in) + 1e-9)
    crowded = beyond(replicas, rate, chain, largest, by_token=False) / tolerated - 1
    left = targets.ttft - replicas.prefill(replicas.batch)  # who waited joins a full batch
    waited = wait_percentile(replicas, rate, chain, tolerated) / left - 1
    ttft = np.where(left > 0, waited, crowded)
    if replicas.stepwise is not None:
        stepwise = stepwise_ttft(replicas, rate, chain, targets.percentile) / targets.ttft - 1
        ttft = np.where(replicas.stepwise > 0, stepwise, ttft)
    return itl, ttft


def _root(replicas: Replicas, targets: Targets, low: Floats, high: Floats, at_high: Floats) -> Floats:
    """Where the excess is nil, between a rate that keeps the targets and one that does not: Chandrupatla's method.

    Works on the logarithm of the rate and gives the end which keeps the targets; who has converged leaves the arrays.
    """
    answer = low.copy()
    left, right = np.arange(len(low)), np.log(high)
    a, b = right, np.log(low)
    fa, fb = at_high, np.maximum(*_excess(replicas, targets, low))
    c, fc = a, fa
    part = np.full(len(low), 0.5)
    for _ in range(100):
        x = a + part * (b - a)
        fx = np.maximum(*_excess(replicas, targets, np.exp(x)))
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        answer[left] = np.exp(np.where(fa <= 0, a, b))
        open_ = (np.abs(b - a) > 1e-11) & (fa != 0)
        if not open_.any():
            break
        left, replicas, targets = left[open_], replicas.at(open_), targets.at(open_)
        a, b, c, fa, fb, fc = (each[open_] for each in (a, b, c, fa, fb, fc))
        part = _next_part(a, b, c, fa, fb, fc)
    return answer


def _next_part(a: Floats, b: Floats, c: Floats, fa: Floats, fb: Floats, fc: Floats) -> Floats:
    """Inverse quadratic interpolation where it can be trusted, the middle elsewhere."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    curve = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    least = 2.5e-12 / np.abs(b - a)
    return np.where(trusted & np.isfinite(curve), np.clip(curve, least, 1 - least), 0.5)
