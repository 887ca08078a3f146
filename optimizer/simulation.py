"""A discrete-event simulation of replicas which batch continuously: what the queue model predicts, request by request.

Each replica serves up to `batch` requests together and lets ten times as many wait; a decode step with n in service
takes alpha + beta·n for all of them, a prefill gamma + delta·tokens·n. Between events nothing is stepped through: the
steps done so far are a clock of their own, on which each request's end is known when its decoding starts.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .queueing import QUEUE_TO_BATCH

Dispatch = Literal["random", "shortest"]


@dataclass(frozen=True)
class Timing:
    """One replica: milliseconds, and requests it serves together."""

    batch: int
    alpha: float
    beta: float
    gamma: float
    delta: float


@dataclass(frozen=True, slots=True)
class Request:
    arrival: float  # milliseconds
    tokens_in: float
    tokens_out: float


@dataclass(frozen=True)
class Outcome:
    """Latencies of the requests served, in milliseconds and in order of completion; ITL is nan for a single token."""

    ttft: NDArray[np.float64]
    itl: NDArray[np.float64]
    steps: NDArray[np.float64]  # decode steps of each
    lost: int  # found the queue full
    seconds: float  # from the first arrival to the last completion
    busy: float  # mean share of the batches in use

    @property
    def mean_itl(self) -> float:
        """Over tokens, as the queue model has it: a long answer weighs more than a short one."""
        some = self.steps > 0
        return float(np.average(self.itl[some], weights=self.steps[some])) if some.any() else 0.0


@dataclass(slots=True)
class _Job:
    request: Request
    first_token: float = 0.0


@dataclass(slots=True)
class _Replica:
    timing: Timing
    serving: int = 0
    steps: float = 0.0  # decode steps done, the replica's own clock
    now: float = 0.0
    slot_time: float = 0.0  # integral of `serving`
    order: int = 0
    prefilling: list[tuple[float, int, _Job]] = field(default_factory=list)  # by the time they end
    decoding: list[tuple[float, int, _Job]] = field(default_factory=list)  # by the step they end at
    waiting: deque[_Job] = field(default_factory=deque)

    @property
    def held(self) -> int:
        return self.serving + len(self.waiting)

    @property
    def step_time(self) -> float:
        return self.timing.alpha + self.timing.beta * self.serving

    def next_event(self) -> float:
        following = self.prefilling[0][0] if self.prefilling else float("inf")
        if self.decoding:
            following = min(following, self.now + max(self.decoding[0][0] - self.steps, 0.0) * self.step_time)
        return following

    def advance(self, time: float) -> None:
        passed = time - self.now
        self.slot_time += passed * self.serving
        if self.serving and self.step_time > 0:
            self.steps += passed / self.step_time
        self.now = time

    def admit(self, job: _Job) -> None:
        self.serving += 1
        self.order += 1
        tokens = job.request.tokens_in
        taken = self.timing.gamma + self.timing.delta * tokens * self.serving if tokens > 0 else 0.0
        heapq.heappush(self.prefilling, (self.now + taken, self.order, job))

    def finish(self, time: float) -> "_Job | None":
        """Handles the event which is due; gives back the job which ended, if one did."""
        self.advance(time)
        if self.prefilling and self.prefilling[0][0] <= time:
            _, order, job = heapq.heappop(self.prefilling)
            job.first_token = time
            if job.request.tokens_out > 1:
                heapq.heappush(self.decoding, (self.steps + job.request.tokens_out - 1, order, job))
                return None
        else:
            due, _, job = heapq.heappop(self.decoding)
            self.steps = due  # exactly, whatever rounding made of it
        self.serving -= 1
        if self.waiting:
            self.admit(self.waiting.popleft())
        return job


def simulate(requests: Sequence[Request], timing: Timing, replicas: int, *, dispatch: Dispatch, seed: int = 1) -> Outcome:
    """The requests must come in order of arrival. `random` splits them as the queue model assumes, `shortest` as we do."""
    pool = [_Replica(timing) for _ in range(replicas)]
    choose = _Chooser(pool, dispatch, Random(seed))
    events: list[tuple[float, int, int]] = []  # time, replica, and the version of its schedule
    versions = [0] * replicas
    ended: list[tuple[float, _Job]] = []
    lost = 0

    def schedule(index: int) -> None:
        versions[index] += 1
        following = pool[index].next_event()
        if following < float("inf"):
            heapq.heappush(events, (following, index, versions[index]))

    def run_until(time: float) -> None:
        while events and events[0][0] <= time:
            due, index, version = heapq.heappop(events)
            if version != versions[index]:
                continue
            job = pool[index].finish(due)
            if job is not None:
                ended.append((due, job))
                choose.note(index)
            schedule(index)

    for request in requests:
        run_until(request.arrival)
        index = choose.next()
        replica = pool[index]
        if replica.held >= (1 + QUEUE_TO_BATCH) * timing.batch:
            lost += 1
            continue
        replica.advance(request.arrival)
        if replica.serving < timing.batch:
            replica.admit(_Job(request))
            schedule(index)
        else:
            replica.waiting.append(_Job(request))
        choose.note(index)
    run_until(float("inf"))
    return _outcome(requests, ended, lost, pool)


class _Chooser:
    """Which replica gets the next request."""

    def __init__(self, pool: list[_Replica], dispatch: Dispatch, random: Random) -> None:
        self._pool, self._shortest, self._random = pool, dispatch == "shortest", random
        self._heap = [(0, index) for index in range(len(pool))]

    def note(self, index: int) -> None:
        if self._shortest:
            heapq.heappush(self._heap, (self._pool[index].held, index))

    def next(self) -> int:
        if not self._shortest:
            return int(self._random.random() * len(self._pool))
        while self._heap[0][0] != self._pool[self._heap[0][1]].held:  # noted before it changed
            heapq.heappop(self._heap)
        return self._heap[0][1]


def _outcome(requests: Sequence[Request], ended: list[tuple[float, _Job]], lost: int, pool: list[_Replica]) -> Outcome:
    first = requests[0].arrival if requests else 0.0
    last = ended[-1][0] if ended else first
    ttft = np.array([job.first_token - job.request.arrival for _, job in ended])
    steps = np.array([job.request.tokens_out - 1 for _, job in ended])
    decoding = np.array([end - job.first_token for end, job in ended])
    itl = np.divide(decoding, steps, out=np.full(len(ended), np.nan), where=steps > 0)
    slots = sum(replica.timing.batch for replica in pool) * (last - first)
    busy = sum(replica.slot_time for replica in pool) / slots if slots > 0 else 0.0
    return Outcome(ttft, itl, steps, lost, (last - first) / 1000, busy)
