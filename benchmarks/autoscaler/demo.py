"""The autoscaler end to end, on this machine: two models, two groups of cores, a load that rises tenfold, falls, stops, returns.

    make demo-autoscaler

Prints its gates, writes benchmarks/RESULTS-autoscaler.md and docs/autoscaler-demo.png. Takes about seven minutes; with
--quick only the fit and the predictions, printed.
"""

import asyncio
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import flambeau
from flambeau.archiver.manifest import Manifest
from flambeau.management.autoscaler.http_client import Server
from flambeau.management.autoscaler.performance import Performance
from flambeau.management.autoscaler.profile_run import Wanted, run
from flambeau.optimizer.queueing import Replicas, analyse

ROOT = Path(__file__).parents[2]
RESULTS, PLOT = ROOT / "benchmarks" / "RESULTS-autoscaler.md", ROOT / "docs" / "autoscaler-demo.png"
HOME = str(Path(flambeau.__file__).resolve().parent.parent)

PLANTED = {"alpha": 20.0, "beta": 2.0, "gamma": 40.0, "delta": 0.2}
PROMPT, ANSWER, ROWS = 50, 24, 8  # tokens, tokens, sequences
SLO = {
    "chat": {"itl_ms": 45, "ttft_ms": 300, "percentile": 95, "idle_seconds": 15, "cold_start_seconds": 3, "max_workers": 6},
    "digits": {"latency_ms": 150, "percentile": 95, "idle_seconds": 15, "cold_start_seconds": 4, "max_workers": 4},
}
BASE = {"chat": 0.7, "digits": 6.0}  # requests a second; ten times as many at the top
SCALER = {
    "period_seconds": 2,
    "hold_seconds": 12,
    "cooldown_seconds": 10,
    "accelerators": [
        {"name": "little", "cores": [0], "capacity": 2, "cost": 1},
        {"name": "big", "cores": [min(1, (os.cpu_count() or 1) - 1)], "capacity": 8, "cost": 2},
    ],
}
# seconds, and the load as a multiple of the base at the end of the phase
PHASES = [(30, 1.0), (20, 10.0), (45, 10.0), (10, 1.0), (35, 1.0), (0, 0.0), (45, 0.0), (0, 1.0), (30, 1.0)]
STEADY = [(8, 30), (62, 95), (122, 140), (200, 215)]  # seconds in which the load does not change


@dataclass
class Gate:
    what: str
    found: str
    wanted: str
    passed: bool


@dataclass
class Answered:
    model: str
    sent: float
    ttft: float  # milliseconds; of a model without tokens the whole answer
    itl: float = 0.0
    failed: str = ""
    steps: int = 0


@dataclass
class Look:
    time: float
    workers: dict[str, dict[str, int]]


@dataclass
class World:
    folder: Path
    process: subprocess.Popen
    server: Server
    management: Server
    picture: bytes
    answered: list[Answered] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    lengths: random.Random | None = None  # answers of any length, as the queue model has it; None: all of one

    async def state(self) -> dict:
        return await self.management.json("GET", "/autoscaler")

    async def chat(self, begun: float) -> None:
        length = ANSWER if self.lengths is None else 2 + int(self.lengths.expovariate(1 / (ANSWER - 1.5)))
        body = {"model": "chat", "prompt": "x" * PROMPT, "max_tokens": length, "stream": True, "ignore_eos": True}
        sent, times = time.monotonic(), []
        try:
            async for event, arrived in self.server.events("/v1/completions", body):
                if any(choice.get("text") for choice in event.get("choices", ())):
                    times.append(arrived)
            assert len(times) == length, f"{len(times)} tokens"
            itl = (times[-1] - times[0]) / (length - 1) * 1000
            self.answered.append(Answered("chat", sent - begun, (times[0] - sent) * 1000, itl, steps=length - 1))
        except Exception as error:  # every failure is counted
            self.answered.append(Answered("chat", sent - begun, 0.0, failed=repr(error)))

    async def digits(self, begun: float) -> None:
        sent = time.monotonic()
        try:
            answer = json.loads(await self.server.ask("POST", "/predictions/digits", self.picture, "image/png"))
            assert len(answer) == 10, answer
            self.answered.append(Answered("digits", sent - begun, (time.monotonic() - sent) * 1000))
        except Exception as error:
            self.answered.append(Answered("digits", sent - begun, 0.0, failed=repr(error)))


def start(folder: Path) -> World:
    ports = [18480, 18481, 18482]
    store = folder / "store"
    archive(store / "chat", {"handler": "text_generation"}, chat_yaml())
    subprocess.run([sys.executable, "train.py", str(folder / "digits")], cwd=ROOT / "examples" / "digits", check=True)
    files = {name: ROOT / "examples" / "digits" / name for name in ("handler.py", "model.py")}
    files["digits.pt"] = folder / "digits" / "digits.pt"
    manifest = {"handler": "handler.py", "model_file": "model.py", "serialized_file": "digits.pt"}
    archive(store / "digits", manifest, {"batchSize": 4, "maxBatchDelay": 5, "slo": SLO["digits"]}, files)
    (folder / "scaler.yaml").write_text(json.dumps(SCALER))
    names = ("inference_address", "management_address", "metrics_address")
    settings = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    settings |= {"model_store": str(store), "autoscaler_config": "scaler.yaml", "default_response_timeout": "60"}
    (folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "flambeau.management.server", "--ncs"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": HOME, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"},  # a core each
        stdout=(folder / "output").open("wb"),
        stderr=subprocess.STDOUT,
    )
    picture = next((folder / "digits" / "test").glob("7_*.png")).read_bytes()
    return World(folder, process, Server("127.0.0.1", ports[0]), Server("127.0.0.1", ports[1]), picture)


def chat_yaml() -> dict:
    handler = {"engine": "mock", "max_batch_rows": ROWS, "mock": {"mode": "hash", **PLANTED}}
    return {"handler": handler, "slo": {"priority": 1, **SLO["chat"]}}


def archive(folder: Path, manifest: dict, yaml: dict, files: dict[str, Path] | None = None) -> None:
    (folder / "MAR-INF").mkdir(parents=True)
    for name, source in (files or {}).items():
        shutil.copy(source, folder / name)
    (folder / "model.yaml").write_text(json.dumps(yaml))
    told = Manifest(model_name=folder.name, model_version="1.0", config_file="model.yaml", **manifest)
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(told.as_json()))


async def ready(world: World) -> None:
    for _ in range(600):
        try:
            await world.server.ask("GET", "/ping")
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise RuntimeError((world.folder / "output").read_text())


async def profiles(world: World) -> list[Gate]:
    """Each model on each group of cores; the mock's times are known, so the fit can be held against them."""
    found: Performance | None = None
    for name in ("little", "big"):
        wanted = Wanted("chat", name, (1, 2, 4, 8), (16, 64, 128, 256), 30, 8)
        found = (await run(world.server, world.management, wanted, None, save=True)).performance
        wanted = Wanted("digits", name, (1, 2, 4), (1, 2), 80, 4)
        await run(world.server, world.management, wanted, world.picture, save=True)
    assert found is not None
    worst = max(abs(getattr(found, name) / planted - 1) for name, planted in PLANTED.items())
    told = ", ".join(f"{name} {getattr(found, name):.3g}" for name in PLANTED)
    return [Gate(f"the fit recovers {PLANTED}", f"{told}: {worst:.1%} off", "≤ 3 %", worst <= 0.03)]


async def predictions(world: World) -> list[Gate]:
    """One worker at three loads: what the queue model says, and what a client measures."""
    await world.management.json("PUT", "/autoscaler", {"paused": True})
    here = {"accelerator": "big", "numReplicas": 1}
    await world.management.json("POST", "/update", {"allocations": {"chat/1.0": here}})
    known = next(
        each for each in (await world.state())["performance"] if (each["model"], each["accelerator"]) == ("chat", "big")
    )
    models = {"planted": queue_model(PLANTED), "profiled": queue_model(known)}
    model = models["planted"]
    gates = []
    for share in (0.2, 0.35, 0.5):
        rate = share * model.rate_range[1][0] * 1000
        world.answered.clear()
        world.lengths = random.Random(5)
        await drive(world, [(33, 1.0)], {"chat": rate}, seed=3)
        world.lengths = None
        measured = [each for each in world.answered if not each.failed and each.sent > 3]
        itl = np.average([each.itl for each in measured], weights=[each.steps for each in measured])
        ttft = np.mean([each.ttft for each in measured])
        for name, each in models.items():
            expected = analyse(each, np.array([len(measured) / 30 / 1000]))
            off = max(abs(expected.itl[0] / itl - 1), abs(expected.ttft[0] / ttft - 1))
            what = f"ITL, TTFT predicted from the {name} times, and measured, at {rate:.1f} requests a second"
            found = f"{expected.itl[0]:.1f} and {itl:.1f}, {expected.ttft[0]:.0f} and {ttft:.0f} ms: {off:.0%} off"
            gates.append(Gate(what, found, "≤ 15 %", off <= 0.15))
    world.answered.clear()
    await world.management.json("PUT", "/autoscaler", {"paused": False})
    return gates


def queue_model(times: dict) -> Replicas:
    columns = (ROWS, PROMPT, ANSWER, times["alpha"], times["beta"], times["gamma"], times["delta"], 1)
    return Replicas(*(np.array([float(each)]) for each in columns))


async def drive(world: World, phases: list[tuple[float, float]], rates: dict[str, float], seed: int) -> float:
    """Poisson arrivals whose rate goes straight from one phase's multiple to the next; returns when all are answered."""
    begun, running = time.monotonic(), set()

    async def arrivals(model: str) -> None:
        dice, start, before = random.Random(f"{model}{seed}"), begun, phases[0][1]
        for seconds, after in phases:
            while (now := time.monotonic()) < start + seconds:
                multiple = before + (after - before) * (now - start) / seconds
                if multiple <= 0.01:
                    await asyncio.sleep(0.1)
                    continue
                await asyncio.sleep(dice.expovariate(rates[model] * multiple))
                task = asyncio.create_task(getattr(world, model)(begun))
                running.add(task)
                task.add_done_callback(running.discard)
            start, before = start + seconds, after

    await asyncio.gather(*(arrivals(model) for model in rates))
    while running:
        await asyncio.wait(set(running))
    return begun


async def watch(world: World, begun: float) -> None:
    while True:
        state = await world.state()
        workers = {each["model"]: each["workers"] for each in state["models"]}
        world.looks.append(Look(time.monotonic() - begun, workers))
        await asyncio.sleep(0.5)


async def rise_and_fall(world: World) -> list[Gate]:
    watching = asyncio.create_task(watch(world, time.monotonic()))
    await drive(world, PHASES, BASE, seed=1)
    watching.cancel()
    gates = []
    failed = [each for each in world.answered if each.failed]
    for each in failed:
        print(f"{each.sent:.2f} s, {each.model}: {each.failed}", file=sys.stderr)
    gates.append(Gate("failed requests", f"{len(failed)} of {len(world.answered)}", "0", not failed))
    for model in BASE:
        counts = [(look.time, sum(look.workers.get(model, {}).values())) for look in world.looks]
        most = max(count for time_, count in counts if 50 < time_ < 95)
        quiet = max(count for time_, count in counts if 130 < time_ < 140)
        none = min(count for time_, count in counts if 160 < time_ < 185)
        again = counts[-1][1]
        more = most > quiet if model == "chat" else most >= quiet  # one worker serves ten times the digits
        passed = more and quiet == 1 and none == 0 and again >= 1
        told = f"{most} at the top, {quiet} after the fall, {none} when idle, {again} at the end"
        gates.append(Gate(f"workers of {model} follow", told, "more, 1, 0, 1" if model == "chat" else "1, 1, 0, 1", passed))
        for metric, limit in objectives(model).items():
            tails = [percentile(world, model, metric, *span) for span in STEADY]
            told = ", ".join(f"{tail:.0f}" for tail in tails) + " ms"
            gates.append(Gate(f"p95 {metric} of {model} in the steady parts", told, f"≤ {limit} ms", max(tails) <= limit))
    return gates


def objectives(model: str) -> dict[str, float]:
    slo = SLO[model]
    return {"itl": slo["itl_ms"], "ttft": slo["ttft_ms"]} if model == "chat" else {"ttft": slo["latency_ms"]}


def percentile(world: World, model: str, metric: str, start: float, end: float) -> float:
    values = [
        getattr(each, metric)
        for each in world.answered
        if each.model == model and not each.failed and start <= each.sent < end
    ]
    return float(np.percentile(values, 95)) if values else float("nan")


def draw(world: World) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.subplots(3, 2, sharex=True)
    for column, model in enumerate(BASE):
        load, workers, latency = grid[:, column]
        load.hist([each.sent for each in world.answered if each.model == model], bins=np.arange(0, 220, 2), weights=None)
        load.set(title=f"{model}: requests in 2 seconds")
        below = np.zeros(len(world.looks))
        for name, colour in (("little", "#74a892"), ("big", "#2d6a4f")):
            counts = np.array([look.workers.get(model, {}).get(name, 0) for look in world.looks])
            times = [look.time for look in world.looks]
            workers.fill_between(times, below, below + counts, step="post", color=colour, label=f"on {name}")
            below = below + counts
        workers.set(title="workers", ylim=(0, None))
        workers.legend(frameon=False)
        for metric, limit in objectives(model).items():
            label = {"itl": "ITL", "ttft": "TTFT"}[metric] if model == "chat" else "answer"
            points = [
                (each.sent, getattr(each, metric)) for each in world.answered if each.model == model and not each.failed
            ]
            (drawn,) = latency.plot(*zip(*points, strict=True), ".", markersize=3, label=label)
            latency.axhline(limit, color=drawn.get_color(), linewidth=0.8, linestyle="--")
        latency.set(title="milliseconds, and objectives (p95, dashed)", xlabel="seconds", yscale="log")
        latency.legend(frameon=False)
        for axes in (load, workers, latency):
            axes.spines[["top", "right"]].set_visible(False)
            for start, end in STEADY:
                axes.axvspan(start, end, color="black", alpha=0.04, linewidth=0)
    figure.savefig(PLOT, dpi=100)


async def main(*, quick: bool) -> int:
    folder = Path(tempfile.mkdtemp(prefix="fl-"))
    world = start(folder)
    try:
        await ready(world)
        for model in BASE:
            await world.management.ask("POST", f"/models?url={model}&initial_workers=1&synchronous=true")
        gates = [*await profiles(world), *await predictions(world)]
        if not quick:
            gates += await rise_and_fall(world)
            draw(world)
    except Exception:
        print((folder / "output").read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        world.process.terminate()
        world.process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
    lines = [
        "# Autoscaler: measured",
        "",
        f"`make demo-autoscaler` on {os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d', time.gmtime())}: "
        "the server, its workers and the clients share them.",
        "",
        "| gate | found | wanted | |",
        "|---|---|---|---|",
        *(f"| {gate.what} | {gate.found} | {gate.wanted} | {'pass' if gate.passed else '**miss**'} |" for gate in gates),
        "",
        "![load, workers and latencies](../docs/autoscaler-demo.png)",
        "",
    ]
    if not quick:
        RESULTS.write_text("\n".join(lines))
    print("\n".join(lines))
    return 0 if all(gate.passed for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(quick="--quick" in sys.argv)))
