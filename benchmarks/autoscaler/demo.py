"""The autoscaler end to end, on this machine: two models, two groups of cores, a load that rises tenfold, falls, stops, returns.

    make demo-autoscaler

Prints its gates, writes benchmarks/RESULTS-autoscaler.md and docs/autoscaler-demo.png. Takes about seven minutes; with
--quick only the fit and the predictions, printed.
"""

import asyncio
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from load import rise_and_fall, steady_chat
from picture import draw, objectives
from world import ANSWER, PLANTED, PROMPT, ROOT, ROWS, World, start

from flambeau.management.autoscaler.performance import Performance
from flambeau.management.autoscaler.profile_run import Wanted, keep, run
from flambeau.optimizer.queueing import Replicas, analyse

RESULTS, PLOT = ROOT / "benchmarks" / "RESULTS-autoscaler.md", ROOT / "docs" / "autoscaler-demo.png"

RATES = (1.5, 3.0, 4.5)  # requests a second to one worker, for the predictions
MEASURED_SECONDS, LEFT_OUT_SECONDS = 32.0, 2.0
BASE = {"chat": 0.7, "digits": 3.0}  # requests a second; ten times as many at the top
# seconds, and the load as a multiple of the base at the end of the phase
PHASES = [(30, 1.0), (20, 10.0), (45, 10.0), (10, 1.0), (35, 1.0), (0, 0.0), (45, 0.0), (0, 1.0), (30, 1.0)]
STEADY = [(8, 30), (62, 95), (122, 140), (200, 215)]  # seconds in which the load does not change

Looks = list[tuple[float, dict[str, dict[str, int]]]]


@dataclass
class Gate:
    what: str
    found: str
    wanted: str
    passed: bool


async def profiles(world: World) -> list[Gate]:
    """Each model on each group of cores; the mock's times are known, so the fits can be held against them."""
    gates = []
    for name in ("little", "big"):
        begun = time.monotonic()
        wanted = Wanted("chat", name, (1, 2, 4, 8), (16, 64, 128, 256), 30, 10)
        result = await run(world.at, wanted, None)
        await keep(world.at.management, result.performance)
        gates.append(recovered(result.performance, result.rounds, time.monotonic() - begun))
        wanted = Wanted("digits", name, (1, 2, 4), (1, 2), 1, 8)
        result = await run(world.at, wanted, world.picture)
        await keep(world.at.management, result.performance)
    return gates


def recovered(found: Performance, rounds: int, seconds: float) -> Gate:
    worst = max(abs(getattr(found, name) / planted - 1) for name, planted in PLANTED.items())
    told = ", ".join(f"{name} {getattr(found, name):.4g}" for name in PLANTED)
    planted = ", ".join(f"{name} {value:g}" for name, value in PLANTED.items())
    known = f"{told}: {worst:.1%} off, after {rounds} rounds in {seconds:.0f} s"
    return Gate(f"the fit on {found.accelerator} recovers {planted}", known, "≤ 3 %", worst <= 0.03)


async def predictions(world: World) -> list[Gate]:
    """One worker at three loads: what the queue model says, and what a client measures."""
    await world.at.management.json("PUT", "/autoscaler", {"paused": True})
    here = {"accelerator": "big", "numReplicas": 1}
    await world.at.management.json("POST", "/update", {"allocations": {"chat/1.0": here}})
    known = {(each["model"], each["accelerator"]): each for each in (await world.state())["performance"]}
    gates = []
    for rate in RATES:
        world.answered.clear()
        await steady_chat(world, rate, MEASURED_SECONDS, seed=3)
        measured = [each for each in world.answered if not each.failed and each.sent > LEFT_OUT_SECONDS]
        itl = np.average([each.itl for each in measured], weights=[each.tokens - 1 for each in measured])
        ttft = np.mean([each.ttft for each in measured])
        for name, times in (("profiled", known["chat", "big"]), ("planted", PLANTED)):
            expected = analyse(queue_model(times), np.array([rate / 1000]))
            off = max(abs(expected.itl[0] / itl - 1), abs(expected.ttft[0] / ttft - 1))
            what = f"ITL, TTFT predicted from the {name} times, and measured, at {rate:.1f} requests a second"
            found = f"{expected.itl[0]:.1f} and {itl:.1f}, {expected.ttft[0]:.0f} and {ttft:.0f} ms: {off:.0%} off"
            gates.append(Gate(what, found, "≤ 15 %", off <= 0.15))
    world.answered.clear()
    return gates


def queue_model(times: dict) -> Replicas:
    columns = (ROWS, PROMPT, ANSWER, times["alpha"], times["beta"], times["gamma"], times["delta"], 1)
    return Replicas(*(np.array([float(each)]) for each in columns))


async def watched(world: World) -> Looks:
    """The load rises and falls; gives the workers there were meanwhile."""
    await world.at.management.json("PUT", "/autoscaler", {"paused": False})
    looks, begun = [], time.monotonic()

    async def watch() -> None:
        while True:
            state = await world.state()
            looks.append((time.monotonic() - begun, {each["model"]: each["workers"] for each in state["models"]}))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    await rise_and_fall(world, PHASES, BASE, seed=1)
    watching.cancel()
    return looks


def followed(world: World, looks: Looks) -> list[Gate]:
    failed = [each for each in world.answered if each.failed]
    for each in failed:
        print(f"{each.sent:.2f} s, {each.model}: {each.failed}", file=sys.stderr)
    gates = [Gate("failed requests", f"{len(failed)} of {len(world.answered)}", "0", not failed)]
    for model in BASE:
        counts = [(when, sum(workers.get(model, {}).values())) for when, workers in looks]
        most = max(count for when, count in counts if 62 < when < 95)
        quiet = max(count for when, count in counts if 130 < when < 140)
        none = min(count for when, count in counts if 160 < when < 185)
        again = counts[-1][1]
        told = f"{most} at the top, {quiet} after the fall, {none} when idle, {again} at the end"
        passed = most > quiet == 1 and none == 0 and again >= 1
        gates.append(Gate(f"workers of {model} follow", told, "more, 1, 0, 1", passed))
        for metric, limit in objectives(model).items():
            tails = [percentile(world, model, metric, *span) for span in STEADY]
            told = ", ".join(f"{tail:.0f}" for tail in tails) + " ms"
            name = {"itl": "ITL", "ttft": "TTFT"}[metric] if model == "chat" else "answer"
            gates.append(Gate(f"p95 {name} of {model} in the steady parts", told, f"≤ {limit} ms", max(tails) <= limit))
    return gates


def percentile(world: World, model: str, metric: str, start: float, end: float) -> float:
    values = [
        getattr(each, metric)
        for each in world.answered
        if each.model == model and not each.failed and start <= each.sent < end
    ]
    return float(np.percentile(values, 95)) if values else float("nan")


def report(gates: list[Gate], seconds: float) -> str:
    where = f"{os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d', time.gmtime())}"
    lines = [
        "# Autoscaler: measured",
        "",
        f"`make demo-autoscaler` on {where}, in {seconds / 60:.1f} minutes: the server, its workers and the clients share them.",
        f"`chat` is the mock engine with planted times and {ROWS} rows; `digits` the network of examples/digits, run on "
        "a thousand changed copies of each picture, so that a request costs some twenty milliseconds of a core.",
        "",
        "| gate | found | wanted | |",
        "|---|---|---|---|",
        *(f"| {gate.what} | {gate.found} | {gate.wanted} | {'pass' if gate.passed else '**miss**'} |" for gate in gates),
        "",
        "![load, workers and latencies](../docs/autoscaler-demo.png)",
        "",
    ]
    return "\n".join(lines)


async def main(*, quick: bool) -> int:
    begun = time.monotonic()
    world = start(Path(tempfile.mkdtemp(prefix="fl-")))
    try:
        await world.ready()
        gates = [*await profiles(world), *await predictions(world)]
        if not quick:
            looks = await watched(world)
            gates += followed(world, looks)
            draw(world.answered, looks, STEADY, PLOT)
            for event in reversed((await world.state())["events"]):
                print(event["time"], event["decision"]["model"], event["decision"]["after"], event["decision"]["reason"])
    except Exception:
        print(world.said()[-4000:], file=sys.stderr)
        raise
    finally:
        world.end()
    text = report(gates, time.monotonic() - begun)
    if not quick:
        RESULTS.write_text(text)
    print(text)
    return 0 if all(gate.passed for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(quick="--quick" in sys.argv)))
