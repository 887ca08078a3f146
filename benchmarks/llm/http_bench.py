"""The way over HTTP: our server and `transformers serve --continuous-batching`, 32 clients reading server-sent events.

Workload A asks what the way through the server costs: output tokens per CPU second of the worker beside those of the engine
by itself, which runs before and after; and per CPU second of the whole server beside the other one. Workload B (3 arrivals a
second) asks how long clients wait for the first token, on the clock of the wall. The same texts go to both servers, and none
twice: the other one keeps prompts, which ours is told not to do here.
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models
import report
import servers
from run_one import summary
from workload import Wanted, requests

HERE = Path(__file__).parent
TOKENIZER = servers.ROOT / "examples" / "tiny_lm" / "model"
MODEL, DTYPE = "13m", "float32"
Texts = tuple[str, Wanted]
SERVERS = {"flambeau": servers.flambeau, "transformers serve": servers.transformers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_arguments(parser)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # which stops the servers too
    model = models.make(MODEL, given.folder)
    vocabulary = models.SHAPES[MODEL]["vocab_size"]
    arrivals = [request.arrival for request in requests(vocabulary, "B")]
    warm, all_at_once, poisson = ([in_text(request, turn) for request in requests(vocabulary, "A")] for turn in range(3))
    workloads = [(warm[:4], [0.0] * 4), (all_at_once, [0.0] * len(arrivals)), (poisson, arrivals)]
    runs: dict[str, list[report.Result]] = {}
    with report.conditions() as conditions:
        for _ in range(given.rounds):
            runs.setdefault("engine alone", []).append({"worker_rate": engine_alone(given)})
            for name in SERVERS:
                with tempfile.TemporaryDirectory(prefix="fb") as folder:
                    runs.setdefault(name, []).append(measure(name, model, Path(folder), workloads))
            runs["engine alone"].append({"worker_rate": engine_alone(given)})
    found = {name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()}
    report.keep(given, f"http {MODEL} {DTYPE}", conditions, found)


def in_text(request: Wanted, turn: int) -> Texts:
    """A request's prompt as text, begun at another token, and with the tokens that this text has."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    text = tokenizer.decode(request.prompt[turn:] + request.prompt[:turn])
    return text, Wanted(tokenizer.encode(text).ids, request.tokens, request.arrival)


def measure(name: str, weights: Path, folder: Path, workloads: list[tuple[list[Texts], list[float]]]) -> report.Result:
    model = servers.with_tokenizer(weights, TOKENIZER, folder / "model")
    warm, all_at_once, poisson = workloads
    result: dict[str, float] = {}
    with SERVERS[name](model, folder / "server", DTYPE) as server:
        asyncio.run(clients(server, *warm))
        worker, whole = servers.cpu_seconds(server.worker), server.cpu_seconds()
        times = asyncio.run(clients(server, *all_at_once))
        tokens = sum(map(len, times))
        result["worker_rate"] = tokens / (servers.cpu_seconds(server.worker) - worker)
        result["server_rate"] = tokens / (server.cpu_seconds() - whole)
        result["clock_rate"] = summary(times, all_at_once[1])["rate"]
        seen = summary(asyncio.run(clients(server, *poisson)), poisson[1])
        result |= {key: seen[key] for key in ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99")}
        result["memory_mb"] = server.worker.memory_info().rss / 2**20
    return result


def engine_alone(given: argparse.Namespace) -> float:
    command = [sys.executable, str(HERE / "run_one.py"), "--engine", "fused", "--workload", "A"]
    command += ["--model", MODEL, "--dtype", DTYPE, "--folder", str(given.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=servers.environment())
    return float(json.loads(done.stdout.strip().splitlines()[-1])["rate"])


async def clients(server: servers.Server, texts: list[Texts], arrivals: list[float]) -> list[list[float]]:
    """When each token came to each client."""
    begin = time.monotonic()

    async def one(text: str, wanted: Wanted, arrival: float) -> list[float]:
        await asyncio.sleep(max(0.0, begin + arrival - time.monotonic()))
        body = {"model": server.model, "prompt": text, "max_tokens": wanted.tokens, "temperature": 0, "stream": True}
        if server.model == "bench":
            body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}  # the other one does both anyway
        raw = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(raw)}\r\n"
        head += "content-type: application/json\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + raw)
        times: list[float] = []
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(status.decode() + (await reader.read(2000)).decode())
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                break
            if line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise SystemExit(f"{server.model}: {chunk['error']}")
                if usage := chunk.get("usage"):  # the last one; half characters came with whole ones
                    count = usage["completion_tokens"]
                    times = (times + [time.monotonic() - begin] * count)[:count]
                else:
                    times.append(time.monotonic() - begin)
        writer.close()
        if len(times) != wanted.tokens:
            raise SystemExit(f"{len(times)} tokens came, {wanted.tokens} were asked for")
        return times

    return await asyncio.gather(*(one(*text, arrival) for text, arrival in zip(texts, arrivals, strict=True)))


if __name__ == "__main__":
    main()
