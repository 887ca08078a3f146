"""python benchmarks/serving: this server and its peers under the same load, interleaved, in one run.

For each case all servers are started and warmed up; then they take turns, load by load and round by round, while the others
are idle. Compared are medians of the calm rounds, the calmest third at least: what other programs take is measured, too, and
on a busy machine no gate is judged. Writes a report; the figures of another day or machine are never mixed in.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from gates import Results, calmest, gates, median_p50, median_rate
from load import run
from peers import STARTERS, Server, Unsupported, version_of
from processes import Attention, wait_for_calm

WARM_UP_SECONDS = 1
BUSY = 0.25  # of the machine taken by others: ratios say nothing any more


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/serving", description=__doc__)
    parser.add_argument("--peers", default=",".join(STARTERS), help="comma-separated; default: all")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=1, help="of each load; whole ones")
    parser.add_argument(
        "--patience", type=float, default=2.0, help="seconds to wait, before each load, for an idle machine"
    )
    parser.add_argument("--report", type=Path, help="write the report here, too (Markdown)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out, the servers under test are stopped
    peers, cases = given.peers.split(","), [case for case in CASES if case.name in given.cases.split(",")]
    found = Figures()
    for case in cases:
        with ExitStack() as servers:
            running = start(case, peers, found, servers)
            for _ in range(given.rounds):
                take_turns(case, running, given.seconds, given.patience, found)
            for peer, server in running.items():
                found.idle[case.name, peer] = (server.pss_bytes, server.ready_seconds)
    text = report(peers, cases, found, given.rounds, given.seconds)
    print(text)
    if given.report:
        given.report.write_text(text)
    if given.json:
        given.json.write_text(json.dumps([[*key, vars(load)] for key, loads in found.loads.items() for load in loads]))


class Figures:
    """All that was measured."""

    def __init__(self) -> None:
        self.loads: Results = {}
        self.idle: dict[tuple[str, str], tuple[int, float]] = {}  # (case, peer) → (PSS, seconds from start to ready)
        self.skipped: dict[tuple[str, str], str] = {}

    def cpu_per_request(self, case: str, peer: str) -> float:
        loads = [load for (name, who, _), loads in self.loads.items() if (name, who) == (case, peer) for load in loads]
        return sum(load.cpu_seconds for load in loads) / max(sum(load.requests for load in loads), 1)


def start(case, peers: list[str], found: Figures, servers: ExitStack) -> dict[str, Server]:
    running = {}
    for peer in peers:
        print(f"{case.name}: starting {peer}", file=sys.stderr, flush=True)
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True)))
        try:
            server = running[peer] = STARTERS[peer](case, folder)
        except Unsupported as reason:
            found.skipped[case.name, peer] = str(reason)
            continue
        except (OSError, RuntimeError, ValueError) as error:
            found.skipped[case.name, peer] = f"failed: {str(error).splitlines()[0][:200]}"
            print(error, file=sys.stderr)
            continue
        servers.callback(server.tree.stop)
        run(server.url, case.body, 8, WARM_UP_SECONDS, server.key)
        server.pss_bytes = server.tree.pss_bytes()
    return running


def take_turns(case, running: dict[str, Server], seconds: int, patience: float, found: Figures) -> None:
    for connections in case.connections:
        for peer, server in running.items():
            wait_for_calm(patience)
            attention = Attention(server.tree)
            try:
                load = run(server.url, case.body, connections, seconds, server.key)
            except (
                subprocess.SubprocessError,
                ValueError,
            ) as error:  # wrk can wait for ever for a connection's last answer
                print(f"  {peer}: no figures at c={connections}: {error}", file=sys.stderr)
                continue
            load.cpu_seconds, load.others = attention.spent()
            found.loads.setdefault((case.name, peer, connections), []).append(load)
            if load.failed:
                print(f"  {peer}: {load.failed} of {load.requests} requests failed at c={connections}", file=sys.stderr)


def report(peers: list[str], cases, found: Figures, rounds: int, seconds: int) -> str:
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    results = found.loads
    others = median([load.others for loads in results.values() for load in calmest(loads)] or [0.0])
    lines = [
        f"## Serving, {day}",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), {psutil.virtual_memory().total >> 30} GiB, "
        f"Python {platform.python_version()}; "
        f"medians of the calm ones of {rounds} rounds of {seconds} s, interleaved; the load generator shares the cores; "
        f"other programs took {others:.0%} of the machine meanwhile (median). "
        + ", ".join(f"{peer} {version_of(peer)}" for peer in peers),
        "",
        "Flambeau runs with access log and metrics on, without the process that the extra `grpc` brings (35 MB); "
        "flambeau-tokens asks each request for its key.",
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
            if (case.name, peer) in found.skipped:
                lines.append(f"| {peer} | {found.skipped[case.name, peer]} |" + " |" * (len(heads) + 2))
                continue
            cells = []
            for connections in case.connections:
                rate, p50 = (
                    median_rate(results, case.name, peer, connections),
                    median_p50(results, case.name, peer, connections),
                )
                cells.append(f"{rate:,.0f} ({p50 * 1e3:.2f})" if rate is not None and p50 is not None else "–")
            pss_bytes, ready_seconds = found.idle[case.name, peer]
            figures = (
                f" | {found.cpu_per_request(case.name, peer) * 1e6:.0f} | {pss_bytes / 1e6:.0f} | {ready_seconds:.1f} |"
            )
            lines.append(f"| {peer} | " + " | ".join(cells) + figures)
        lines.append("")
    lines += ["### Gates", "", "| gate | wanted | found | |", "|---|---|---|---|"]
    own = found.idle.get(("echo", "flambeau"))
    for gate in gates(results, own[0] if own else None):
        ratio = "not measured" if gate.found is None else f"{gate.found:.2f}"
        verdict = {True: "pass", False: "**miss**", None: ""}[gate.passed]
        if gate.timed and gate.found is not None and others > BUSY:
            verdict = "machine too busy to judge"
        lines.append(f"| {gate.words} | {'≤' if gate.at_most else '≥'} {gate.wanted:g} | {ratio} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
