"""32 streaming clients over HTTP beside the engine alone: what the way through the server costs.

A server with one worker is started in a folder of its own; clients send prompts as token ids to `/v1/completions` and read
server-sent events. Tokens per CPU second of the worker are compared with those of the engine by itself, which runs before
and after. With `--poisson` the requests arrive at 3 a second, and the times to the first token are those that clients see.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from run_one import summary
from workload import requests

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TOKENIZER = ROOT / "examples" / "tiny_lm" / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "flambeau-bench", help="for the models")
    parser.add_argument("--model", default="13m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--poisson", action="store_true")
    given = parser.parse_args()
    import models

    folder = models.make(given.model, given.folder)
    wanted = requests(given.model, models.SHAPES[given.model]["vocab_size"], "B" if given.poisson else "A")
    alone = [] if given.poisson else [engine_alone(given)]
    with tempfile.TemporaryDirectory(prefix="fb") as name, server(folder, Path(name), given.dtype) as (port, worker):
        asyncio.run(clients(port, [wanted[0]] * 4))
        before = cpu(worker)
        times = asyncio.run(clients(port, wanted))
        spent = cpu(worker) - before
    tokens = sum(request.tokens for request in wanted)
    if [len(each) for each in times] != [request.tokens for request in wanted]:
        raise SystemExit(f"tokens are missing: {[len(each) for each in times]}")
    result = summary(times, [request.arrival for request in wanted])
    print(
        f"over HTTP: {tokens / spent:.0f} tokens per CPU second of the worker, {result['rate']:.0f} per second on the clock"
    )
    print(f"TTFT p50 {result['ttft_p50']:.3f} s, p99 {result['ttft_p99']:.3f} s")
    if alone:
        alone.append(engine_alone(given))
        share = tokens / spent / (sum(alone) / len(alone))
        print(f"engine alone: {alone[0]:.0f} before, {alone[1]:.0f} after; over HTTP {share:.0%} of it (wanted: 95 %)")


def engine_alone(given: argparse.Namespace) -> float:
    command = [sys.executable, str(HERE / "run_one.py"), "--engine", "fused", "--workload", "A"]
    command += ["--model", given.model, "--dtype", given.dtype, "--folder", str(given.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=environment())
    return float(json.loads(done.stdout.strip().splitlines()[-1])["rate"])


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@contextlib.contextmanager
def server(model: Path, folder: Path, dtype: str):
    """The port, and the worker's process."""
    archive, weights = folder / "store" / "bench", folder / "model"
    (archive / "MAR-INF").mkdir(parents=True)
    shutil.copytree(model, weights, ignore=shutil.ignore_patterns("*.gguf"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, weights / file)
    options = {"model_path": str(weights), "dtype": dtype, "threads": 1, "prefix_cache": False}
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
        yield ports[0], psutil.Process(wait_for_worker(ports[1]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_worker(port: int) -> int:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/models/bench", timeout=5) as answer:
                worker = json.load(answer)[0]["workers"][0]
                if worker["status"] == "READY":
                    return int(worker["pid"])
        time.sleep(0.5)
    raise SystemExit("the worker does not get ready")


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def clients(port: int, wanted) -> list[list[float]]:
    """When each token came to each client."""
    begin = time.monotonic()

    async def one(request) -> list[float]:
        await asyncio.sleep(max(0.0, begin + request.arrival - time.monotonic()))
        body = {
            "model": "bench",
            "prompt": request.prompt,
            "max_tokens": request.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        raw = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(raw)}\r\n"
        head += "content-type: application/json\r\n\r\n"
        writer.write(head.encode() + raw)
        times: list[float] = []
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(status.decode() + (await reader.read(2000)).decode())
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                break
            if line.startswith(b"data: "):
                if usage := json.loads(line[6:]).get("usage"):  # the last one; half characters came with whole ones
                    times = (times + times[-1:] * usage["completion_tokens"])[: usage["completion_tokens"]]
                else:
                    times.append(time.monotonic() - begin)
        writer.close()
        return times

    return await asyncio.gather(*(one(request) for request in wanted))


if __name__ == "__main__":
    main()
