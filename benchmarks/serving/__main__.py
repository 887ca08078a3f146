"""python benchmarks/serving: this server and its peers under the same load, interleaved, in one run.

Every round starts each server anew for a case, warms it up, loads it at each number of connections and stops it; medians over
the rounds are compared. Writes a report; the figures of another day or machine are never mixed in.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from gates import Results, gates, median_p50, median_rate
from load import run
from peers import STARTERS, Server, Unsupported, settle, version_of

WARM_UP_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/serving", description=__doc__)
    parser.add_argument("--peers", default=",".join(STARTERS), help="comma-separated; default: all")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--report", type=Path, help="write the report here, too (Markdown)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out, the server under test is stopped
    peers, cases = given.peers.split(","), [case for case in CASES if case.name in given.cases.split(",")]
    results: Results = {}
    cost: dict[tuple[str, str], list[tuple[float, int, float]]] = {}  # (case, peer) → (CPU µs per request, PSS, ready)
    skipped: dict[tuple[str, str], str] = {}
    for number in range(given.rounds):
        for case in cases:
            for peer in peers:
                if (case.name, peer) in skipped:
                    continue
                print(f"round {number + 1}: {case.name} on {peer}", file=sys.stderr, flush=True)
                try:
                    measure(peer, case, given.seconds, results, cost)
                except Unsupported as reason:
                    skipped[case.name, peer] = str(reason)
                except (OSError, RuntimeError, ValueError) as error:
                    skipped[case.name, peer] = f"failed: {str(error).splitlines()[0][:200]}"
                    print(error, file=sys.stderr)
                settle()
    text = report(peers, cases, results, cost, skipped, given.rounds, given.seconds)
    print(text)
    if given.report:
        given.report.write_text(text)
    if given.json:
        given.json.write_text(json.dumps([[*key, vars(load)] for key, loads in results.items() for load in loads]))


def measure(peer: str, case, seconds: float, results: Results, cost) -> None:
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        server: Server = STARTERS[peer](case, Path(folder))
        try:
            run(server.url, case.body, 8, WARM_UP_SECONDS)
            pss, before, requests = server.tree.pss_bytes(), server.tree.cpu_seconds(), 0
            for connections in case.connections:
                load = run(server.url, case.body, connections, seconds)
                results.setdefault((case.name, peer, connections), []).append(load)
                requests += load.requests
                if load.failed:
                    print(f"  {peer}: {load.failed} of {load.requests} requests failed at c={connections}", file=sys.stderr)
            used = server.tree.cpu_seconds() - before
            cost.setdefault((case.name, peer), []).append((used / max(requests, 1) * 1e6, pss, server.ready_seconds))
        finally:
            server.tree.stop()


def report(peers, cases, results: Results, cost, skipped, rounds: int, seconds: float) -> str:
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    lines = [
        f"## Serving, {day}",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), {psutil.virtual_memory().total >> 30} GiB, "
        f"Python {platform.python_version()}; "
        f"medians of {rounds} rounds of {seconds:g} s, interleaved; the load generator shares the cores. "
        + ", ".join(f"{peer} {version_of(peer)}" for peer in peers),
        "",
        "Flambeau runs with access log and metrics on.",
        "",
    ]
    for case in cases:
        lines += [
            f"### {case.name}: {case.app}, batch {case.batch}, {case.workers} worker{'s' if case.workers > 1 else ''}",
            "",
        ]
        heads = [f"c={c}: req/s (p50 ms)" for c in case.connections]
        lines += [
            "| server | " + " | ".join(heads) + " | CPU µs/request | PSS MB | ready s |",
            "|---" * (len(heads) + 4) + "|",
        ]
        for peer in peers:
            if (case.name, peer) in skipped:
                lines.append(f"| {peer} | {skipped[case.name, peer]} |" + " |" * (len(heads) + 2))
                continue
            cells = []
            for connections in case.connections:
                rate, p50 = (
                    median_rate(results, case.name, peer, connections),
                    median_p50(results, case.name, peer, connections),
                )
                cells.append(f"{rate:,.0f} ({p50 * 1e3:.2f})" if rate is not None and p50 is not None else "–")
            figures = sorted(cost[case.name, peer])[len(cost[case.name, peer]) // 2]
            lines.append(
                f"| {peer} | " + " | ".join(cells) + f" | {figures[0]:.0f} | {figures[1] / 1e6:.0f} | {figures[2]:.1f} |"
            )
        lines.append("")
    own = sorted(figures[1] for figures in cost.get(("echo", "flambeau"), []))
    lines += ["### Gates", "", "| gate | wanted | found | |", "|---|---|---|---|"]
    for gate in gates(results, own[len(own) // 2] if own else None):
        found = "not measured" if gate.found is None else f"{gate.found:.2f}"
        verdict = {True: "pass", False: "**miss**", None: ""}[gate.passed]
        lines.append(f"| {gate.words} | {'≤' if gate.at_most else '≥'} {gate.wanted:g} | {found} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
