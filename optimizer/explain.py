"""Why a server got what it got, and how two solutions differ, in words and figures for people."""

from typing import Any

from .candidate import Candidate
from .solver import Solution
from .wire import encode


def explanations(solution: Solution) -> dict[str, Any]:
    return {name: _explanation(solution, name) for name in sorted(solution.candidates.found)}


def _explanation(solution: Solution, server: str) -> dict[str, Any]:
    chosen = {part.accelerator: part for part in solution.chosen.get(server, ())}
    options = solution.candidates.sorted(server)
    best = options[0] if options else None
    return {
        "chosen": [_described(part) for part in chosen.values()],
        "decision": _decision(solution, server),
        "considered": [
            _described(each) | {"verdict": _verdict(each, best, chosen)} for each in options if not each.is_null
        ],
        "refused": solution.candidates.refused[server],
    }


def _described(each: Candidate) -> dict[str, Any]:
    described = {
        "accelerator": each.accelerator,
        "numReplicas": each.replicas,
        "cost": each.cost,
        "value": each.value,
        "power": each.power,
        "utilisation": each.rho,
        "itl": each.itl,
        "ttft": each.ttft,
        "itlPercentile": each.itl_percentile,
        "ttftPercentile": each.ttft_percentile,
        "maxRequestsPerMinutePerReplica": each.max_rpm,
    }
    kept = {name: value for name, value in described.items() if value is not None and value == value}
    return dict(encode(kept))


def _decision(solution: Solution, server: str) -> str:
    parts = solution.chosen.get(server, ())
    if not parts:
        if any(each.is_null for each in solution.candidates.found[server].values()):
            return "no load and no least number of replicas: nothing is needed"
        return "no accelerator can keep its targets" if not solution.candidates.found[server] else "no capacity was left"
    if parts[0].is_null:
        return "no load and no least number of replicas: nothing is needed"
    if parts[0].short_of is not None:
        return f"best effort: {parts[0].replicas} of {parts[0].short_of} replicas, its targets will not be kept"
    if len(parts) > 1:
        return "several accelerators share it"
    return "all it needs"


def _verdict(each: Candidate, best: Candidate | None, chosen: dict[str, Candidate]) -> str:
    if each.accelerator in chosen:
        return "chosen"
    taken = next(iter(chosen.values()), None)
    if each.most is not None:
        return f"needs {each.replicas} replicas where {each.most} are allowed"
    if taken is None or taken.is_null:
        return "not enough capacity left"
    if each.value > taken.value:
        return f"costs more: value {each.value:g} against {taken.value:g}"
    if each is best:
        return f"would be best, but its {each.needed_units} units of {each.type} went to others"
    return "not enough capacity left, or equal and later by name"


def difference(before: Solution, after: Solution) -> dict[str, Any]:
    """What changes from one solution to another, server by server, and in all."""
    old, new = before.allocations(), after.allocations()
    changed = {
        name: {"before": encode(old.get(name)), "after": encode(new.get(name))}
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }
    return {
        "changed": changed,
        "served": {"before": _served(before), "after": _served(after)},
        "cost": {"before": before.cost, "after": after.cost, "difference": after.cost - before.cost},
        "power": {"before": before.power, "after": after.power, "difference": after.power - before.power},
        "unitsUsed": {"before": before.units_used(), "after": after.units_used()},
    }


def _served(solution: Solution) -> int:
    return sum(solution.served(name) for name in solution.chosen)
