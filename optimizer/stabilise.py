"""Decisions which do not follow noise: down only when it is worth it, and never by too much at once.

Needs nothing but the current allocation. A cool-down needs a clock and a memory: control loops have one of their own.
"""

from dataclasses import replace

from .candidate import Candidate
from .solver import Solution
from .system import Stabilisation


def stabilise(solution: Solution, how: Stabilisation) -> Solution:
    """The solution with the replicas of servers which keep their accelerator held back, where that is safe.

    Steps up are cut to `maxStepUp`; a step down is only taken below `scaleDownRatio` of what runs now, at most
    `maxStepDown` at a time, and only held back while capacity allows what is kept.
    """
    chosen = dict(solution.chosen)
    free = _free(solution)
    for name in sorted(chosen):
        current = solution.candidates.system.servers[name].current_alloc
        if len(chosen[name]) != 1 or chosen[name][0].is_null or chosen[name][0].accelerator != current.accelerator:
            continue
        (part,) = chosen[name]
        held = held_replicas(current.num_replicas, part.replicas, how)
        bounded = part.units > 0 and not solution.candidates.spec.unlimited
        room = free.get(part.type, 0) // part.units if bounded else held
        held = min(held, part.replicas + max(room, 0))
        if held != part.replicas:
            free[part.type] = free.get(part.type, 0) - (held - part.replicas) * part.units
            chosen[name] = (_at(solution, name, part, held),)
    return replace(solution, chosen=chosen)


def held_replicas(now: int, wanted: int, how: Stabilisation) -> int:
    if wanted > now > 0 and how.max_step_up:
        return min(wanted, now + how.max_step_up)
    if wanted < now:
        if how.scale_down_ratio is not None and wanted > now * how.scale_down_ratio:
            return now
        if how.max_step_down:
            return max(wanted, now - how.max_step_down)
    return wanted


def _free(solution: Solution) -> dict[str, int]:
    used = solution.units_used()
    return {kind: count - used.get(kind, 0) for kind, count in solution.candidates.system.capacity.items()}


def _at(solution: Solution, server: str, part: Candidate, replicas: int) -> Candidate:
    fewer = replicas < part.replicas
    changed = solution.candidates.with_share(server, part, replicas, 1.0)
    return replace(changed, short_of=part.replicas if fewer else None)
