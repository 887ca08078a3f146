"""The two servers that `http_bench` sends its requests to, each with one model on one computing thread.

Both answer `POST /v1/completions` with server-sent events. Each has a folder of its own and is stopped with all it started.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
READY_SECONDS = 180


@dataclass(frozen=True)
class Server:
    port: int
    model: str  # as a request names it
    process: psutil.Process  # its first process
    worker: psutil.Process  # the one that computes

    def cpu_seconds(self) -> float:
        """Of all its processes."""
        return sum(map(cpu_seconds, [self.process, *self.process.children(recursive=True)]))


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@contextlib.contextmanager
def flambeau(model: Path, folder: Path, dtype: str) -> Iterator[Server]:
    archive = folder / "store" / "bench"
    (archive / "MAR-INF").mkdir(parents=True)
    options = {"model_path": str(model), "dtype": dtype, "threads": 1, "prefix_cache": False}
    (archive / "model-config.yaml").write_text(json.dumps({"minWorkers": 1, "maxWorkers": 1, "handler": options}))
    facts = {"modelName": "bench", "modelVersion": "1.0", "handler": "text_generation", "configFile": "model-config.yaml"}
    manifest = {"createdOn": "", "runtime": "python", "model": facts, "archiverVersion": "1"}
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    ports = [free_port() for _ in range(3)]
    names = ("inference", "management", "metrics")
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)]
    (folder / "config.properties").write_text(
        "\n".join([*lines, f"model_store={folder / 'store'}", "grpc_inference_port=0", "grpc_management_port=0", ""])
    )
    command = [sys.executable, "-m", "flambeau.management.server", "--start", "--foreground", "--disable-token-auth"]
    command += ["--ts-config", str(folder / "config.properties"), "--models", "bench"]

    def worker() -> int | None:
        (described,) = fetch(f"http://127.0.0.1:{ports[1]}/models/bench")
        found = described["workers"][0]
        return int(found["pid"]) if found["status"] == "READY" else None

    with started(command, folder) as process:
        yield Server(ports[0], "bench", process, psutil.Process(wait_for(worker)))


@contextlib.contextmanager
def transformers(model: Path, folder: Path, dtype: str) -> Iterator[Server]:
    """`transformers serve` with its continuous batching, given room for every request at once."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--continuous-batching"]
    command += ["--device", "cpu", "--dtype", dtype, "--port", str(port), "--attn-implementation", "sdpa"]
    command += ["--cb-block-size", "32", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "512"]

    def healthy() -> bool:
        fetch(f"http://127.0.0.1:{port}/health")
        return True

    with started(command, folder) as process:
        wait_for(healthy)
        yield Server(port, str(model), process, process)


def with_tokenizer(model: Path, tokenizer: Path, folder: Path) -> Path:
    """The model's weights in a folder that has a tokenizer too."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.gguf"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder / file)
    return folder


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[psutil.Process]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**environment(), "TMPDIR": str(folder)},
            start_new_session=True,
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fetch(url: str):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def wait_for(ready):
    """What it gives at last; refused connections and half answers mean not yet."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            if (found := ready()) is not None:
                return found
        time.sleep(0.5)
    raise SystemExit("the server does not get ready")
