"""The queue model of one replica, for many replicas at once: arrival rate in, mean and percentile latencies out.

A replica serves up to N requests together and lets 10·N wait. With n in service a decode step takes alpha + beta·n and a
prefill gamma + delta·tokens·n, so a whole request takes intercept + slope·n. The number of requests in the system is then
a birth-death chain whose first N states follow a negative binomial law (Poisson when the slope is zero) and whose queue
is geometric: every sum has a closed form, and a batch of 200,000 costs what a batch of 8 does.

Times are milliseconds, rates requests per millisecond; every field is an array over replicas.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

QUEUE_TO_BATCH = 10  # requests which may wait, per batch slot
RATE_MARGIN = 0.001  # how far inside the stable range of rates we stay
_POISSON_BELOW = 1e-8  # relative change of the service time over the whole batch which is taken for none
_MOST_STALLED = 0.95  # of the time
_TINIEST_RATE = 1e-280
_STATES_SUMMED = 200_000  # of an overloaded replica: the states below these hold nothing


@dataclass(frozen=True)
class Replicas:
    """What one replica of each kind is like."""

    batch: Floats
    tokens_in: Floats
    tokens_out: Floats
    alpha: Floats
    beta: Floats
    gamma: Floats
    delta: Floats
    stepwise: Floats | None = None  # 1 where prefills share their steps with decoding; None: nowhere

    def at(self, where: NDArray[np.intp] | Flags) -> "Replicas":
        given = {name: values for name, values in vars(self).items() if values is not None}
        return Replicas(**{name: values[where] for name, values in given.items()})

    def under(self, rate: Floats) -> "Replicas":
        """As they are at a rate: where steps are shared, every prefill stalls all that decode meanwhile."""
        if self.stepwise is None:
            return self
        alone = np.where(self.tokens_in > 0, self.gamma + self.delta * self.tokens_in, 0.0)
        speed = 1 - self.stepwise * np.minimum(rate * alone, _MOST_STALLED)
        return replace(
            self,
            alpha=self.alpha / speed,
            beta=self.beta / speed,
            gamma=np.where(self.stepwise > 0, alone, self.gamma),
            delta=np.where(self.stepwise > 0, 0.0, self.delta),
        )

    def joining(self, together: Floats, busy: Floats) -> Floats:
        """What a first token waits for where steps are shared: half of the step under way, and the others' in its own."""
        if self.stepwise is None:
            return np.zeros_like(together)
        return self.stepwise * busy * 1.5 * self._step_of_others(together)

    def joining_spread(self, rate: Floats, together: Floats, busy: Floats) -> Floats:
        """The standard deviation of that wait: whether there is a step, what is left of it, who else has a prefill in it."""
        step, alone = self._step_of_others(together), self.prefill(together)
        whether, rest = busy * (1 - busy) * (1.5 * step) ** 2, busy * step**2 / 12
        others: Floats = rate * (step + alone) * alone**2
        return np.sqrt(whether + rest + others)

    def _step_of_others(self, together: Floats) -> Floats:
        return self.alpha + self.beta * np.maximum(together - 1, 0)

    @property
    def steps(self) -> Floats:
        return self.tokens_out - 1

    @property
    def intercept(self) -> Floats:
        return np.where(self.tokens_in > 0, self.gamma, 0.0) + self.alpha * self.steps

    @property
    def slope(self) -> Floats:
        return self.delta * self.tokens_in + self.beta * self.steps

    @property
    def served(self) -> Flags:
        """Whether the times make sense: never zero, never shrinking as the batch grows."""
        with np.errstate(all="ignore"):  # what overflows is refused
            a, b = self.intercept, self.slope
            return (
                (a >= 0) & (b >= 0) & (a + b > 0) & (self.beta >= 0) & (self.delta >= 0) & np.isfinite(a + b * self.batch)
            )

    @property
    def flat(self) -> Flags:
        return self.slope * self.batch**2 <= _POISSON_BELOW * self.intercept

    @property
    def rate_range(self) -> tuple[Floats, Floats]:
        lowest = RATE_MARGIN / (self.intercept + self.slope)
        highest = (1 - RATE_MARGIN) * self.batch / (self.intercept + self.slope * self.batch)
        return lowest, highest

    def prefill(self, together: Floats) -> Floats:
        return np.where(self.tokens_in > 0, self.gamma + self.delta * self.tokens_in * together, 0.0)


@dataclass(frozen=True)
class Metrics:
    """How a replica does at a rate."""

    throughput: Floats  # what is not turned away
    itl: Floats
    ttft: Floats
    wait: Floats
    rho: Floats  # share of the batch in use


@dataclass(frozen=True)
class Chain:
    """The steady state: weights of the first N states relative to their sum, and the queue behind them."""

    head: Floats  # probability that no one waits
    in_head: Floats  # mean number in service, given that
    full: Floats  # weight of state N relative to the head
    queue: Floats  # probability that someone waits
    waiting: Floats  # mean number waiting
    lost: Floats  # probability that the queue is full
    empty: Floats  # probability that there is no request at all

    @property
    def has_to_wait(self) -> Floats:
        return self.queue + self.head * self.full


def analyse(replicas: Replicas, rate: Floats) -> Metrics:
    with np.errstate(all="ignore"):
        rate = np.maximum(rate, _TINIEST_RATE)
        replicas = replicas.under(rate)
        return metrics_of(replicas, rate, steady_state(replicas, rate))


def metrics_of(replicas: Replicas, rate: Floats, chain: Chain) -> Metrics:
    throughput = rate * (1 - chain.lost)
    serving = chain.head * chain.in_head + chain.queue * replicas.batch
    wait = chain.waiting / throughput
    # The batch size seen is read off the service time; the prefill's constant is taken away even when nothing is
    # prefilled, as those who calibrated against the published tool expect.
    constant = replicas.gamma + replicas.alpha * replicas.steps
    together = (serving / throughput - constant) / replicas.slope
    on_arrival = (serving + chain.head * (1 - chain.full)) / (1 - chain.lost)
    together = np.clip(np.where(replicas.flat, on_arrival, together), 0, replicas.batch)
    itl = replicas.alpha + replicas.beta * together
    rho = np.clip(serving / replicas.batch, 0, 1)
    ttft = wait + replicas.prefill(together) + replicas.joining(together, 1 - chain.empty)
    return Metrics(throughput, itl, ttft, wait, rho)


def steady_state(replicas: Replicas, rate: Floats) -> Chain:
    log_full, log_head, log_moment = _head(replicas, rate, replicas.batch)
    load = rate * (replicas.intercept + replicas.slope * replicas.batch) / replicas.batch
    log_tail, waiting, last = _tail(load, QUEUE_TO_BATCH * replicas.batch)
    queue = special.expit(log_full - log_head + log_tail)
    in_head = np.exp(log_moment - log_head)
    in_head = np.where(np.isfinite(in_head), in_head, replicas.batch)
    full = np.exp(np.minimum(log_full - log_head, 0))
    empty = np.where(rate * replicas.slope < 1, (1 - queue) * np.exp(-log_head), 0.0)
    return Chain(1 - queue, in_head, full, queue, queue * waiting, queue * last, empty)


def _head(replicas: Replicas, rate: Floats, upto: Floats) -> tuple[Floats, Floats, Floats]:
    """Logarithms of the weight of state `upto`, of the sum up to it, and of the sum of n times the weight."""
    intercept, slope = replicas.intercept, replicas.slope
    flat = replicas.flat
    share = rate * np.where(flat, 0.0, slope)
    shape = 1 + intercept / np.where(flat, 1.0, slope)
    log_rest = np.log1p(-share)
    log_full = upto * np.log(share) - np.log(shape + upto) - special.betaln(shape, upto + 1)
    log_head = np.log(special.betainc(shape, upto + 1, 1 - share)) - shape * log_rest
    log_moment = np.log(special.betainc(shape + 1, upto, 1 - share)) + np.log(shape * share) - (shape + 1) * log_rest
    for at in (flat, share >= 1):
        if at.any():
            law = _poisson_head if at is flat else _overloaded_head
            log_full[at], log_head[at], log_moment[at] = law(replicas.at(at), rate[at], upto[at])
    return log_full, log_head, log_moment


def _poisson_head(replicas: Replicas, rate: Floats, upto: Floats) -> tuple[Floats, Floats, Floats]:
    mean = rate * replicas.intercept
    log_full = upto * np.log(mean) - special.gammaln(upto + 1)
    log_head = mean + np.log(special.gammaincc(upto + 1, mean))
    return log_full, log_head, np.log(mean) + mean + np.log(special.gammaincc(upto, mean))


def _overloaded_head(replicas: Replicas, rate: Floats, upto: Floats) -> tuple[Floats, Floats, Floats]:
    """Beyond the negative binomial's range: added up, one replica at a time, downwards from the fullest state."""
    sums = np.empty((3, len(rate)))
    for index, (a, b, r, top) in enumerate(zip(replicas.intercept, replicas.slope, rate, upto, strict=True)):
        states = np.arange(top, max(top - _STATES_SUMMED, 0), -1.0)
        logs = np.concatenate(([0.0], -np.cumsum(np.log(r * (a + b * states) / states))))
        sums[:, index] = 0.0, special.logsumexp(logs), special.logsumexp(logs[:-1] + np.log(states))
    return sums[0], sums[1], sums[2]


def _tail(load: Floats, room: Floats) -> tuple[Floats, Floats, Floats]:
    """Of the geometric queue: the logarithm of its sum, its mean and the share of its last state."""
    ratio = np.where(load <= 1, load, 1 / load)
    last = ratio**room
    gap = 1 - ratio
    total = (1 - last) / gap  # of ratio^0 … ratio^(room-1)
    mean = ratio / gap - room * last / (1 - last)  # of the same, truncated
    even = gap * room < 1e-6
    total, mean = np.where(even, room, total), np.where(even, (room - 1) / 2, mean)
    falling = load <= 1
    log_sum = np.log(total) + np.where(falling, np.log(load), room * np.log(load))
    return log_sum, np.where(falling, mean + 1, room - mean), np.where(falling, last / ratio, 1.0) / total


def beyond(replicas: Replicas, rate: Floats, chain: Chain, largest: Floats, *, by_token: bool) -> Floats:
    """The share of decoded tokens, or of arriving requests, which find themselves in a batch above `largest`."""
    upto = np.clip(np.nan_to_num(largest, nan=np.inf), 1, replicas.batch)
    serving = chain.head * chain.in_head + chain.queue * replicas.batch
    _, log_head, log_moment = _head(replicas, rate, replicas.batch)
    if by_token:
        within = chain.head * chain.in_head * np.exp(_head(replicas, rate, upto)[2] - log_moment) / serving
    else:  # who arrives is one more
        log_full, log_within, _ = _head(replicas, rate, upto)
        within = chain.head * np.exp(log_within + np.log1p(-np.exp(log_full - log_within)) - log_head)
    within = np.where(np.nan_to_num(largest, nan=np.inf) >= replicas.batch, 1.0, within)
    return np.where(largest < 1, 1.0, 1 - within)


def wait_percentile(replicas: Replicas, rate: Floats, chain: Chain, tolerated: Floats) -> Floats:
    spare = replicas.batch / (replicas.intercept + replicas.slope * replicas.batch) - rate
    return np.maximum(np.log(chain.has_to_wait / tolerated), 0) / spare


def percentiles(replicas: Replicas, rate: Floats, share: Floats) -> tuple[Floats, Floats]:
    """ITL and TTFT which all but 1 - share of tokens and requests stay within."""
    with np.errstate(all="ignore"):
        rate = np.maximum(rate, _TINIEST_RATE)
        replicas = replicas.under(rate)
        chain = steady_state(replicas, rate)
        tolerated = 1 - share
        by_token = _batch_percentile(replicas, rate, chain, tolerated, by_token=True)
        by_request = _batch_percentile(replicas, rate, chain, tolerated, by_token=False)
        wait = wait_percentile(replicas, rate, chain, tolerated)
        ttft = wait + replicas.prefill(by_request)
        if replicas.stepwise is not None:
            ttft = np.where(replicas.stepwise > 0, stepwise_ttft(replicas, rate, chain, share), ttft)
        return replicas.alpha + replicas.beta * by_token, ttft


def stepwise_ttft(replicas: Replicas, rate: Floats, chain: Chain, share: Floats) -> Floats:
    """TTFT within which that share of requests stays where prefills share their steps with decoding; `replicas` under the rate."""
    metrics, busy = metrics_of(replicas, rate, chain), 1 - chain.empty
    together = np.clip((metrics.itl - replicas.alpha) / np.where(replicas.beta > 0, replicas.beta, 1.0), 0, replicas.batch)
    spread = replicas.joining_spread(rate, together, busy)
    wait = wait_percentile(replicas, rate, chain, 1 - share)
    ttft: Floats = wait + metrics.ttft - metrics.wait + special.ndtri(share) * spread
    return ttft


def _batch_percentile(replicas: Replicas, rate: Floats, chain: Chain, tolerated: Floats, *, by_token: bool) -> Floats:
    low, high = np.zeros_like(rate), replicas.batch.copy()
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        holds = beyond(replicas, rate, chain, middle, by_token=by_token) <= tolerated
        low, high = np.where(holds, low, middle), np.where(holds, middle, high)
    return high
