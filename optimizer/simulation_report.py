"""`flambeau simulate`: traces in, for each server its allocation, what the queue model predicts and what is simulated."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .candidate import Candidate
from .routes import system_of
from .simulation import Dispatch, Outcome, Request, Timing, simulate
from .solver import optimize
from .system import AllocationData, Load, System
from .wire import parse

COLUMNS = ("server", "arrival", "in_tokens", "out_tokens")


class TraceError(Exception):
    """The traces can't be used; says which line."""


@dataclass(frozen=True)
class Compared:
    server: str
    part: Candidate
    simulated: dict[Dispatch, Outcome]


def run(traces: Path, system: Path, *, seed: int, as_json: bool) -> str:
    with traces.open(newline="", encoding="utf-8-sig") as lines:
        try:
            requests = read(lines)
        except (UnicodeError, csv.Error) as error:
            raise TraceError(f"{traces}: no CSV: {error}") from None
    data = system_of(parse(system.read_bytes()))
    known = System.of(data)
    if unknown := requests.keys() - known.servers.keys():
        raise TraceError(f"the traces name servers which the system lacks: {', '.join(sorted(unknown))}")
    for name, arrivals in requests.items():
        load = load_of(arrivals)
        known.servers[name] = replace(known.servers[name], current_alloc=AllocationData(load=load))
    known.servers = {name: server for name, server in known.servers.items() if name in requests}
    chosen = optimize(known, data.optimizer_data.optimizer).chosen
    compared = [
        Compared(name, part, _simulate_both(known, name, part, requests[name], seed))
        for name in sorted(requests)
        for part in chosen.get(name, ())[:1]
    ]
    unserved = sorted(requests.keys() - chosen.keys())
    return json.dumps(_figures(compared, unserved), indent=4) if as_json else _table(compared, unserved)


def read(lines: Iterable[str]) -> dict[str, list[Request]]:
    """By server, in order of arrival."""
    reader = csv.DictReader(lines)
    if missing := set(COLUMNS) - set(reader.fieldnames or ()):
        raise TraceError(f"the traces lack the columns {', '.join(sorted(missing))}")
    found: dict[str, list[Request]] = defaultdict(list)
    for row in reader:
        try:
            arrival, tokens_in, tokens_out = (float(row[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError):
            raise TraceError(f"line {reader.line_num}: arrival and token counts must be numbers") from None
        if not (math.isfinite(arrival) and 0 <= tokens_in < math.inf and 1 <= tokens_out < math.inf):
            raise TraceError(f"line {reader.line_num}: token counts must be at least 0 in and 1 out")
        found[row["server"]].append(Request(arrival * 1000, tokens_in, tokens_out))
    return {name: sorted(requests, key=lambda each: each.arrival) for name, requests in found.items()}


def load_of(requests: list[Request]) -> Load:
    minutes = (requests[-1].arrival - requests[0].arrival) / 60_000
    rate = (len(requests) - 1) / minutes if minutes > 0 else float(len(requests))
    tokens_in = sum(each.tokens_in for each in requests) / len(requests)
    return Load(rate, tokens_in, sum(each.tokens_out for each in requests) / len(requests))


def _simulate_both(
    system: System, server: str, part: Candidate, requests: list[Request], seed: int
) -> dict[Dispatch, Outcome]:
    perf = system.models[system.servers[server].model][part.accelerator]
    decode, prefill = perf.decode_parms, perf.prefill_parms
    timing = Timing(part.batch, decode.alpha, decode.beta, prefill.gamma, prefill.delta)
    kinds: tuple[Dispatch, ...] = ("random", "shortest")
    return {kind: simulate(requests, timing, part.replicas, dispatch=kind, seed=seed) for kind in kinds}


def _figures(compared: list[Compared], unserved: list[str]) -> dict[str, Any]:
    return {
        "servers": {
            each.server: {
                "accelerator": each.part.accelerator,
                "numReplicas": each.part.replicas,
                "predicted": {"itl": each.part.itl, "ttft": each.part.ttft, "utilisation": each.part.rho},
                **{kind: _summary(outcome) for kind, outcome in each.simulated.items()},
            }
            for each in compared
        },
        "unserved": unserved,
    }


def _summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "requests": len(outcome.ttft),
        "lost": outcome.lost,
        "utilisation": outcome.busy,
        "itl": _latency(outcome.itl[outcome.steps > 0], mean=outcome.mean_itl),
        "ttft": _latency(outcome.ttft),
    }


def _latency(values: NDArray[np.float64], mean: float | None = None) -> dict[str, float] | None:
    if not len(values):
        return None
    tails = {f"p{share}": float(np.percentile(values, share)) for share in (50, 90, 95, 99)}
    return {"mean": float(np.mean(values)) if mean is None else mean, **tails}


def _table(compared: list[Compared], unserved: list[str]) -> str:
    lines = [_row("server", "replicas", "", ("ITL ms", "p95", "TTFT ms", "p95", "busy", "lost"))]
    for each in compared:
        part = each.part
        predicted = (f"{part.itl:.2f}", "", f"{part.ttft:.2f}", "", f"{part.rho:.0%}", "")
        lines.append(_row(each.server, f"{part.replicas} x {part.accelerator}", "predicted", predicted))
        lines += [_row("", "", f"simulated, {kind}", _cells(outcome)) for kind, outcome in each.simulated.items()]
    lines += [f"{name}: no allocation" for name in unserved]
    return "\n".join(lines)


def _row(server: str, replicas: str, what: str, cells: tuple[str, ...]) -> str:
    return f"{server:24} {replicas:>14}  {what:20}" + "".join(f"{cell:>10}" for cell in cells)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    told = _summary(outcome)
    itl, ttft = told["itl"] or {"mean": 0.0, "p95": 0.0}, told["ttft"] or {"mean": 0.0, "p95": 0.0}
    latencies = (f"{value:.2f}" for value in (itl["mean"], itl["p95"], ttft["mean"], ttft["p95"]))
    return (*latencies, f"{outcome.busy:.0%}", str(outcome.lost))
