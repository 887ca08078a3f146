"""A solution for people: tables with bars in the terminal, JSON, or a PNG. Reads the system's file; decides nothing."""

import json
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .candidate import Candidate
from .explain import difference, explanations
from .pictures import figure_type, save
from .routes import system_of
from .solver import Solution, optimize, solution_body
from .system import OptimizerSpec, System
from .validate import problems
from .wire import encode, parse

_BAR = 20  # characters
WIDE = 110  # columns: narrower terminals have no room for each server's bars


@dataclass(frozen=True)
class Solved:
    system: System
    spec: OptimizerSpec
    solution: Solution
    problems: list[str]


def solve_file(path: Path, options: dict[str, Any], *, explain: bool = False) -> Solved:
    data = system_of(parse(path.read_bytes()))
    spec = replace(data.optimizer_data.optimizer, explain=explain or None, **options)
    system = System.of(data)
    return Solved(system, spec, optimize(system, spec), problems(data))


def as_json(solved: Solved) -> str:
    body = solution_body(solved.solution, solved.spec)
    if solved.spec.explain:
        body["explanations"] = explanations(solved.solution)
    return json.dumps(body, indent=4)


def as_difference(before: Solved, after: Solved) -> str:
    return json.dumps(encode(difference(before.solution, after.solution)), indent=4)


def print_difference(before: Solved, after: Solved) -> None:
    """Who gets something else, and what it comes to."""
    told = difference(before.solution, after.solution)
    table = _table("server", "now", "then", "cost", right=(3,))
    for name, each in told["changed"].items():
        costs = [part["cost"] if part else 0.0 for part in (each["before"], each["after"])]
        table.add_row(name, _given(each["before"]), _given(each["after"]), _more(costs[1] - costs[0]))
    served, cost = told["served"], told["cost"]
    table.add_row("all", f"{served['before']} served", f"{served['after']} served", _more(cost["difference"]))
    Console().print(table)


def _more(cost: float) -> str:
    return f"{'+' if cost > 0 else ''}{_money(cost)}"


def _given(allocation: dict[str, Any] | None) -> str:
    if not allocation or not allocation["numReplicas"]:
        return "-"
    parts = allocation.get("parts") or [allocation]
    return " and ".join(f"{part['numReplicas']} {part['accelerator']}" for part in parts)


@dataclass(frozen=True)
class Headroom:
    """How far below its targets a server is, as shares of them; None where there is no target."""

    itl: float | None
    ttft: float | None


def headroom(solved: Solved, server: str, part: Candidate) -> Headroom:
    target = solved.system.target_of(solved.system.servers[server])
    if target is None or part.is_null:
        return Headroom(None, None)
    itl = part.itl if part.itl_percentile is None else part.itl_percentile
    ttft = part.ttft if part.ttft_percentile is None else part.ttft_percentile
    return Headroom(
        1 - itl / target.slo_itl if target.slo_itl > 0 else None,
        1 - ttft / target.slo_ttft if target.slo_ttft > 0 else None,
    )


def replicas_by_accelerator(solution: Solution) -> dict[str, int]:
    counts = Counter[str]()
    for part in (part for parts in solution.chosen.values() for part in parts if not part.is_null):
        counts[part.accelerator] += part.replicas
    return dict(sorted(counts.items()))


def cost_by_accelerator(solution: Solution) -> dict[str, float]:
    costs: dict[str, float] = {}
    for part in (part for parts in solution.chosen.values() for part in parts if not part.is_null):
        costs[part.accelerator] = costs.get(part.accelerator, 0.0) + part.cost
    return dict(sorted(costs.items()))


def print_tables(solved: Solved, console: Console | None = None) -> None:
    console = console or Console()
    for problem in solved.problems:
        console.print(f"[yellow]{problem}[/]", highlight=False)
    console.print(_servers(solved, bar_width=10 if console.width >= WIDE else 0))
    console.print()
    console.print(_accelerators(solved))
    for server in sorted(solved.system.servers.keys() - solved.solution.chosen.keys()):
        told = explanations(solved.solution)[server]
        why = "; ".join(f"{name}: {reason}" for name, reason in told["refused"].items())
        console.print(f"{server}: {told['decision']}" + (f" ({why})" if why else ""), highlight=False, markup=False)
    if solved.spec.explain:
        console.print_json(data=explanations(solved.solution))
    exact = solved.solution.exact
    if exact is not None and not exact.optimal:
        above = f"up to {exact.gap:.2%}" if math.isfinite(exact.gap) else "any amount"
        console.print(f"Time ran out: the cost may be {above} above the least.")


def _servers(solved: Solved, bar_width: int) -> Table:
    heads = ("server", "on", "replicas", "batch", "cost", "ITL ms", "room", "TTFT ms", "room")
    table = _table(*heads, right=range(2, len(heads)))
    for name, parts in sorted(solved.solution.chosen.items()):
        for part in parts:
            room = headroom(solved, name, part)
            wanted = "" if part.short_of is None else f" of {part.short_of}"
            table.add_row(
                *(name, part.accelerator or "-", f"{part.replicas}{wanted}", str(part.batch), _money(part.cost)),
                *(f"{part.itl:.1f}", _share(room.itl, bar_width)),
                *(f"{part.ttft:,.0f}", _share(room.ttft, bar_width)),
            )
    return table


def _table(*heads: str, right: Collection[int]) -> Table:
    """Narrow enough for a terminal; names are never cut short."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at in right else "left", no_wrap=True)
    return table


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if abs(cost) < 1000 else f"{cost:,.0f}"


def _share(value: float | None, bar_width: int) -> str:
    return "" if value is None else f"{_bar(max(value, 0.0), 1.0, bar_width)} {value:4.0%}".strip()


def _bar(value: float, full: float, width: int = _BAR) -> str:
    filled = round(width * min(value / full, 1.0)) if full > 0 else 0
    return "█" * filled + "░" * (width - filled)


def _accelerators(solved: Solved) -> Table:
    replicas, costs, used = (
        replicas_by_accelerator(solved.solution),
        cost_by_accelerator(solved.solution),
        solved.solution.units_used(),
    )
    table = _table("accelerator", "replicas", "cost", "share", "type in use", right=(1, 2))
    for name, count in replicas.items():
        kind = solved.system.accelerators[name].type
        table.add_row(
            *(name, str(count), _money(costs[name]), _bar(costs[name], solved.solution.cost)),
            f"{used.get(kind, 0)} of {solved.system.capacity.get(kind, 0)} {kind}",
        )
    table.add_row("all", str(sum(replicas.values())), _money(solved.solution.cost), "", "")
    return table


def draw(solved: Solved, path: Path) -> None:
    """Cost and replicas by accelerator, and each server's headroom."""
    figure = figure_type()(figsize=(11, 4.5), layout="constrained")
    cost, count, room = figure.subplots(1, 3, width_ratios=[1, 1, 2])
    for axes, title, bars in (
        (cost, f"cost: {solved.solution.cost:,.0f}", cost_by_accelerator(solved.solution)),
        (count, "replicas", replicas_by_accelerator(solved.solution)),
    ):
        axes.barh(list(bars), list(bars.values()), color="#c8553d")
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_headroom(solved, room)
    save(figure, path, dpi=120)


def _draw_headroom(solved: Solved, axes: Any) -> None:
    rooms = [
        (name, headroom(solved, name, part)) for name, parts in sorted(solved.solution.chosen.items()) for part in parts
    ]
    places = range(len(rooms))
    for shift, label, colour, values in (
        (-0.2, "ITL", "#2d6a4f", [room.itl for _, room in rooms]),
        (0.2, "TTFT", "#74a892", [room.ttft for _, room in rooms]),
    ):
        axes.barh(
            [place + shift for place in places], [100 * (value or 0) for value in values], 0.4, label=label, color=colour
        )
    if len(rooms) <= 40:
        axes.set_yticks(list(places), [name for name, _ in rooms], fontsize=7)
    else:
        axes.set_yticks([])
    axes.invert_yaxis()  # in the tables' order
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title("room below each target, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
