"""What a cell costs: the same model under the same load, reached plainly and through the cell's routing; into RESULTS-cell.md.

    make bench-cell

One server has it all: models registered at 8081, the same published in its cell, and published on two machines of a Ray cluster
(raylets on this one) whose workers are reached over TCP. They take turns, load by load and round by round, so that what the
machine does at nine is never compared with what it did at ten. Compared are the medians of the rounds' ratios.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

sys.path.append(str(Path(__file__).parents[1] / "serving"))
from load import run
from world import Server, ray_cluster, server

RESULTS = Path(__file__).parents[1] / "RESULTS-cell.md"
LM = "saxml.server.torch.vllm.Gemma4B"
EXTRA = {"per_example_max_decode_steps": 4, "temperature": 0}
COMPLETION = {"max_tokens": 4, "temperature": 0, "logprobs": 1}


@dataclass(frozen=True)
class Way:
    """One way to a model."""

    name: str
    url: str
    body: bytes


@dataclass(frozen=True)
class Gate:
    words: str
    way: Way
    without: Way
    wanted: float | None = None  # None: told, not judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=2, help="of each load; whole ones")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--cluster", default="ray", help="ray: three raylets on this machine; local:2: without Ray")
    parser.add_argument("--report", type=Path, default=RESULTS)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cell")))
        address = stack.enter_context(ray_cluster(folder)) if given.cluster == "ray" else given.cluster
        gates = list(ways(stack.enter_context(server(folder, address)), given.cluster))
        rates = take_turns(gates, given.rounds, given.seconds, given.connections)
    text = report(gates, rates, given)
    print(text)
    given.report.write_text(text)


def ways(server: Server, cluster: str) -> Iterator[Gate]:
    """Registers and publishes; each gate compares two ways to the same work."""
    elsewhere = {"constraints": "worker"} if cluster == "ray" else {"constraints": ""}
    for workers in (1, 2):
        server.client.register("echo.mar", model_name=f"plain{workers}", initial_workers=workers, synchronous=True)
    server.publish("here", "store.echo", 1, constraints="here")
    server.publish("there1", "store.echo", 1, **elsewhere)
    server.publish("there2", "store.echo", 2, **elsewhere)
    server.publish("lm", LM, 1, constraints="here", ENGINE='"mock"')
    plain1, plain2, here, there1, there2 = (
        Way(name, f"{server.inference}/predictions/{name}", b'{"x": 1}')
        for name in ("plain1", "plain2", "here", "there1", "there2")
    )
    yield Gate("published in the cell, on the same machine", here, plain1, 0.9)
    yield Gate("published on another Ray machine, over TCP", there1, plain1)
    yield Gate("two workers on two Ray machines, over TCP, beside two here", there2, plain2, 0.7)
    prompt = "Q: Who is it? A: "
    completion = Way(
        "/v1/completions", f"{server.inference}/v1/completions",
        json.dumps({"model": "lm", "prompt": prompt, **COMPLETION}).encode(),
    )  # fmt: skip
    generate = Way(
        "/generate", f"{server.sax}/generate",
        json.dumps({"model": "/sax/bench/lm", "query": prompt, "extra_inputs": EXTRA}).encode(),
    )  # fmt: skip
    yield Gate("Sax's /generate on 8888 beside /v1/completions on 8080 (mock engine, 4 tokens)", generate, completion)


def take_turns(gates: list[Gate], rounds: int, seconds: int, connections: int) -> dict[Way, list[float]]:
    all_ways = list(dict.fromkeys(way for gate in gates for way in (gate.without, gate.way)))
    rates: dict[Way, list[float]] = {way: [] for way in all_ways}
    for round in range(-1, rounds):  # the first one warms up
        for way in all_ways if round % 2 else reversed(all_ways):
            load = run(way.url, way.body, connections, seconds)
            if load.failed:
                sys.exit(f"{way.name}: {load.failed} of {load.requests} requests failed")
            if round >= 0:
                rates[way].append(load.per_second)
    return rates


def report(gates: list[Gate], rates: dict[Way, list[float]], given: argparse.Namespace) -> str:
    now = datetime.datetime.now(datetime.UTC)
    lines = [
        f"# What a cell costs, {now:%Y-%m-%d %H:%M} UTC",
        "",
        f"`make bench-cell`: {os.cpu_count()} cores ({platform.machine()}), {psutil.virtual_memory().total >> 30} GiB, Python "
        f"{platform.python_version()}; {given.rounds} interleaved rounds of {given.seconds} s, wrk with {given.connections} "
        "connections on the same cores; echo in batches of one where nothing else is said. "
        f"Machines: {given.cluster}, all on this one.",
        "",
        "| way | req/s, median (lowest – highest) |",
        "|---|---|",
        *(f"| {way.name} | {median(found):,.0f} ({min(found):,.0f} – {max(found):,.0f}) |" for way, found in rates.items()),
        "",
        "| | of | median of the rounds' ratios | wanted | |",
        "|---|---|---|---|---|",
    ]
    for gate in gates:
        ratio = median(way / without for way, without in zip(rates[gate.way], rates[gate.without], strict=True))
        wanted, verdict = (
            ("–", "") if gate.wanted is None else (f"≥ {gate.wanted:.0%}", "pass" if ratio >= gate.wanted else "**miss**")
        )
        lines.append(f"| {gate.words} | {gate.without.name} | {ratio:.0%} | {wanted} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
