"""The demonstration's world: a real server with two models on two groups of cores, and clients that time each answer."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import flambeau
from flambeau.archiver.manifest import Manifest
from flambeau.management.autoscaler.http_client import Server
from flambeau.management.autoscaler.profile_run import Addresses

ROOT = Path(__file__).parents[2]
HOME = str(Path(flambeau.__file__).resolve().parent.parent)
PORTS = (18480, 18481, 18482)

PLANTED = {"alpha": 20.0, "beta": 2.0, "gamma": 40.0, "delta": 0.2}
PROMPT, ANSWER, ROWS = 50, 24, 16  # tokens, tokens, sequences
SLO = {
    "chat": {"itl_ms": 45, "ttft_ms": 300, "percentile": 95, "idle_seconds": 15, "cold_start_seconds": 3, "max_workers": 6},
    "digits": {"latency_ms": 80, "percentile": 95, "idle_seconds": 15, "cold_start_seconds": 4, "max_workers": 4},
}
SCALER = {
    "period_seconds": 2,
    "hold_seconds": 20,
    "cooldown_seconds": 10,
    "accelerators": [
        {"name": "little", "cores": [0], "capacity": 2, "cost": 1},
        {"name": "big", "cores": [min(1, (os.cpu_count() or 1) - 1)], "capacity": 8, "cost": 2},
    ],
}


@dataclass
class Answered:
    model: str
    sent: float  # seconds since the load began
    ttft: float  # milliseconds; of a model without tokens the whole answer
    itl: float = 0.0
    tokens: int = 0
    failed: str = ""


@dataclass
class World:
    folder: Path
    process: subprocess.Popen
    at: Addresses
    picture: bytes
    answered: list[Answered] = field(default_factory=list)

    async def state(self) -> dict:
        return await self.at.management.json("GET", "/autoscaler")

    async def chat(self, begun: float, tokens: int = ANSWER) -> None:
        body = {"model": "chat", "prompt": "x" * PROMPT, "max_tokens": tokens, "stream": True, "ignore_eos": True}
        sent, times = time.monotonic(), []
        try:
            async for event, arrived in self.at.inference.events("/v1/completions", body):
                if any(choice.get("text") for choice in event.get("choices", ())):
                    times.append(arrived)
            assert len(times) == tokens, f"{len(times)} tokens"
            itl = (times[-1] - times[0]) / (tokens - 1) * 1000
            self.answered.append(Answered("chat", sent - begun, (times[0] - sent) * 1000, itl, tokens))
        except Exception as error:  # every failure is counted
            self.answered.append(Answered("chat", sent - begun, 0.0, failed=repr(error)))

    async def digits(self, begun: float) -> None:
        sent = time.monotonic()
        try:
            answer = json.loads(await self.at.inference.ask("POST", "/predictions/digits", self.picture, "image/png"))
            assert max(answer, key=answer.get) == "7", answer
            self.answered.append(Answered("digits", sent - begun, (time.monotonic() - sent) * 1000))
        except Exception as error:
            self.answered.append(Answered("digits", sent - begun, 0.0, failed=repr(error)))

    async def ready(self) -> None:
        for _ in range(600):
            try:
                await self.at.inference.ask("GET", "/ping")
                break
            except OSError:
                await asyncio.sleep(0.1)
        else:
            raise RuntimeError(self.said())
        for model in SLO:
            await self.at.management.ask("POST", f"/models?url={model}&initial_workers=1&synchronous=true")

    def said(self) -> str:
        return (self.folder / "output").read_text()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def start(folder: Path) -> World:
    store = folder / "store"
    handler = {"engine": "mock", "max_batch_rows": ROWS, "mock": {"mode": "hash", **PLANTED}}
    _archive(store / "chat", {"handler": "text_generation"}, {"handler": handler, "slo": {"priority": 1, **SLO["chat"]}})
    subprocess.run([sys.executable, "train.py", str(folder / "digits")], cwd=ROOT / "examples" / "digits", check=True)
    files = {name: ROOT / "examples" / "digits" / name for name in ("handler.py", "model.py")}
    files |= {"digits.pt": folder / "digits" / "digits.pt", "patient.py": Path(__file__).with_name("patient_digits.py")}
    manifest = {"handler": "patient.py", "model_file": "model.py", "serialized_file": "digits.pt"}
    _archive(store / "digits", manifest, {"slo": SLO["digits"]}, files)
    (folder / "scaler.yaml").write_text(json.dumps(SCALER))
    names = ("inference_address", "management_address", "metrics_address")
    settings = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, PORTS, strict=True)}
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
    return World(folder, process, Addresses(*(Server("127.0.0.1", port) for port in PORTS)), picture)


def _archive(folder: Path, manifest: dict, yaml: dict, files: dict[str, Path] | None = None) -> None:
    (folder / "MAR-INF").mkdir(parents=True)
    for name, source in (files or {}).items():
        shutil.copy(source, folder / name)
    (folder / "model.yaml").write_text(json.dumps(yaml))
    told = Manifest(model_name=folder.name, model_version="1.0", config_file="model.yaml", **manifest)
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(told.as_json()))
