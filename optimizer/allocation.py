"""Candidates: for each server and accelerator, how many replicas it would take, what they cost and how they would do.

All pairs go through the queue model together. A pair which cannot be is given a reason instead.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .candidate import Candidate
from .pair import Pair, allowed, pairs_of, unusable
from .queueing import Replicas, analyse, percentiles
from .sizing import Sizing, Targets, size
from .system import AllocationData, OptimizerSpec, ServerSpec, System

TRANSITION_PENALTY = 0.1  # of the cost left and the cost entered, when the accelerator changes
MOST_REPLICAS = 1e12


@dataclass
class Candidates:
    """By server, then accelerator; and why the other pairs are none."""

    found: dict[str, dict[str, Candidate]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    spec: OptimizerSpec = field(default_factory=OptimizerSpec)
    system: System = field(default_factory=System)

    def sorted(self, server: str) -> list[Candidate]:
        """Cheapest change first; equal ones by cost, then name."""
        return sorted(self.found.get(server, {}).values(), key=lambda each: (each.value, each.cost, each.accelerator))

    def at_replicas(self, server: str, candidate: Candidate, replicas: int) -> Candidate:
        """The candidate with fewer replicas than it needs: its latencies are those of so few."""
        share = replicas / candidate.replicas
        fewer = self.with_share(server, candidate, replicas, 1.0)
        return replace(fewer, cost=candidate.cost * share, value=candidate.value * share, short_of=candidate.replicas)

    def with_share(self, server: str, candidate: Candidate, replicas: int, share: float) -> Candidate:
        """So many replicas of it for a share of the server's load."""
        pair = next(pairs_of(self.system, self.system.servers[server], (candidate.accelerator,)))
        assert isinstance(pair, Pair), "a candidate's names are known"
        load = replace(candidate.load, arrival_rate=candidate.load.arrival_rate * share)
        if candidate.demand == 0:
            power = candidate.power / candidate.replicas * replicas
            return replace(candidate, replicas=replicas, cost=pair.cost_of(replicas), power=power, load=load)
        answer = _Answers.of([pair], np.array([float(replicas)]), share=share).candidate(0)
        return replace(answer, load=load, value=candidate.value, replica_rate=candidate.replica_rate)


def candidates(system: System, spec: OptimizerSpec = OptimizerSpec()) -> Candidates:  # noqa: B008 - frozen
    """Every server on every accelerator it may use."""
    result = Candidates(spec=spec, system=system)
    sized: list[Pair] = []
    for server in system.servers.values():
        found = result.found.setdefault(server.name, {})
        refused = result.refused.setdefault(server.name, {})
        for pair in pairs_of(system, server, allowed(system, server)):
            if not isinstance(pair, Pair):
                refused[pair[0]] = pair[1]
            elif why := unusable(pair):
                refused[pair.accelerator.name] = why
            elif pair.load.arrival_rate == 0 or pair.load.avg_out_tokens == 0:
                found[pair.accelerator.name] = _idle(pair)
            else:
                sized.append(pair)
    _add_sized(result, sized)
    _add_values(result)
    return result


def _idle(pair: Pair) -> Candidate:
    """Nothing arrives: the replicas which are to be there anyway, or nothing at all."""
    replicas = pair.server.min_num_replicas
    load, decode, prefill = pair.load, pair.perf.decode_parms, pair.perf.prefill_parms
    if replicas <= 0:
        return Candidate("", "", 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, load)
    batch = pair.server.max_batch_size if pair.server.max_batch_size > 0 else pair.perf.max_batch_size
    slowest = prefill.gamma + prefill.delta + decode.alpha + decode.beta * batch
    return Candidate(
        pair.accelerator.name,
        pair.accelerator.type,
        replicas,
        batch,
        pair.cost_of(replicas),
        decode.alpha + decode.beta,
        prefill.gamma + prefill.delta,
        0.0,
        replicas * pair.perf.cards * pair.accelerator.power.at(0.0),
        load,
        units=pair.perf.cards * pair.accelerator.multiplicity,
        replica_rate=batch / slowest if slowest > 0 else 0.0,
    )


@dataclass(frozen=True)
class _Answers:
    """What the queue model says of pairs at given numbers of replicas."""

    pairs: list[Pair]
    replicas: NDArray[np.float64]
    replica_rate: NDArray[np.float64]
    itl: NDArray[np.float64]
    ttft: NDArray[np.float64]
    rho: NDArray[np.float64]
    itl_percentile: NDArray[np.float64]
    ttft_percentile: NDArray[np.float64]

    @classmethod
    def of(
        cls, pairs: list[Pair], counts: NDArray[np.float64], sizing: Sizing | None = None, *, share: float = 1.0
    ) -> "_Answers":
        model = _replicas(pairs)
        with np.errstate(all="ignore"):
            rate = share * np.array([pair.demand for pair in pairs]) / counts
        metrics = analyse(model, rate)
        itl, ttft = np.full((2, len(pairs)), np.nan)
        at = _targets(pairs).percentile
        if (tails := at > 0).any():
            itl[tails], ttft[tails] = percentiles(model.at(tails), rate[tails], at[tails])
        most = np.full(len(pairs), np.nan) if sizing is None else sizing.throughput
        return cls(pairs, counts, most, metrics.itl, metrics.ttft, metrics.rho, itl, ttft)

    @property
    def finite(self) -> NDArray[np.bool_]:
        return np.isfinite(self.itl + self.ttft + self.rho)

    def candidate(self, index: int) -> Candidate:
        pair, replicas = self.pairs[index], int(self.replicas[index])
        rho, tail_itl, tail_ttft = (float(each[index]) for each in (self.rho, self.itl_percentile, self.ttft_percentile))
        most = pair.server.max_num_replicas
        return Candidate(
            pair.accelerator.name,
            pair.accelerator.type,
            replicas,
            pair.batch,
            pair.cost_of(replicas),
            float(self.itl[index]),
            float(self.ttft[index]),
            rho,
            replicas * pair.perf.cards * pair.accelerator.power.at(rho),
            pair.load,
            units=pair.perf.cards * pair.accelerator.multiplicity,
            demand=pair.demand,
            replica_rate=float(self.replica_rate[index]),
            itl_percentile=None if math.isnan(tail_itl) else tail_itl,
            ttft_percentile=None if math.isnan(tail_ttft) else tail_ttft,
            most=most if most is not None and most < replicas else None,
        )


def _replicas(pairs: list[Pair]) -> Replicas:
    rows = [
        (
            pair.batch,
            pair.load.avg_in_tokens,
            pair.load.avg_out_tokens,
            pair.perf.decode_parms.alpha,
            pair.perf.decode_parms.beta,
            pair.perf.prefill_parms.gamma,
            pair.perf.prefill_parms.delta,
        )
        for pair in pairs
    ]
    shared = np.array([bool(pair.perf.stepwise) for pair in pairs], dtype=float)
    known = Replicas(*np.array(rows, dtype=float).reshape(len(pairs), 7).T)
    return replace(known, stepwise=shared) if shared.any() else known


def _targets(pairs: list[Pair]) -> Targets:
    rows = [(pair.target.slo_itl, pair.target.slo_ttft, (pair.target.percentile or 0.0) / 100) for pair in pairs]
    return Targets(*np.array(rows, dtype=float).reshape(len(pairs), 3).T)


def _add_sized(result: Candidates, pairs: list[Pair]) -> None:
    served = _replicas(pairs).served
    for pair in (pair for pair, serves in zip(pairs, served, strict=True) if not serves):
        result.refused[pair.server.name][pair.accelerator.name] = "its performance data give no positive service time"
    pairs = [pair for pair, serves in zip(pairs, served, strict=True) if serves]
    model, targets = _replicas(pairs), _targets(pairs)
    sizing = size(model, targets, np.array([pair.target.slo_tps > 0 for pair in pairs], dtype=bool))
    demand = np.array([pair.demand for pair in pairs])
    least = np.array([float(pair.server.min_num_replicas) for pair in pairs])
    with np.errstate(all="ignore"):
        counts = np.maximum(np.maximum(np.ceil(demand / sizing.throughput), least), 1)
    answers = _Answers.of(pairs, counts, sizing)
    for index, pair in enumerate(pairs):
        if why := _missed(pair, sizing, index):
            result.refused[pair.server.name][pair.accelerator.name] = why
        elif not counts[index] <= MOST_REPLICAS or not answers.finite[index]:
            result.refused[pair.server.name][pair.accelerator.name] = f"it would take more than {MOST_REPLICAS:g} replicas"
        else:
            result.found[pair.server.name][pair.accelerator.name] = answers.candidate(index)


def _missed(pair: Pair, sizing: Sizing, index: int) -> str | None:
    alone = " even with one request alone"
    if sizing.misses_itl[index]:
        return f"ITL above {pair.target.slo_itl:g} ms{alone}"
    if sizing.misses_ttft[index]:
        return f"TTFT above {pair.target.slo_ttft:g} ms{alone}"
    return None


def _add_values(result: Candidates) -> None:
    weight = result.spec.power_weight or 0.0
    for name, found in result.found.items():
        current = result.system.servers[name].current_alloc
        paid = _current_cost(result.system, result.system.servers[name], price=bool(result.spec.price_current))
        for accelerator, each in found.items():
            found[accelerator] = replace(each, value=transition(current, paid, each) + weight * each.power)


def _current_cost(system: System, server: ServerSpec, *, price: bool) -> float:
    current = server.current_alloc
    accelerator = system.accelerators.get(current.accelerator)
    perf = system.models.get(server.model, {}).get(current.accelerator)
    if not price or current.cost or accelerator is None or perf is None:
        return current.cost
    return accelerator.cost * perf.cards * current.num_replicas


def transition(current: AllocationData, paid: float, new: Candidate) -> float:
    """What a change costs: nothing if there is none, the difference, and a penalty when the accelerator changes."""
    if current.accelerator != new.accelerator:
        return TRANSITION_PENALTY * (paid + new.cost) + (new.cost - paid)
    return 0.0 if current.num_replicas == new.replicas else new.cost - paid
