"""`make bench-llm`: our engine and its peers on the same requests, round after round; `report` writes it down.

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

import report

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OURS = ("fused", "hf")
PLAIN = ("one by one", "static 32", "transformers cb")
CASES = "15m-float32-A,15m-bfloat16-A,125m-float32-A,125m-bfloat16-A,125m-float32-C,15m-float32-B,125m-bfloat16-B"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_arguments(parser)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--engines", default=",".join((*OURS, *PLAIN, *report.PEERS)))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for case in given.cases.split(","):
        model, dtype, workload = case.split("-")
        make_model(model, given.folder)
        with report.conditions() as conditions:
            found = measure(model, dtype, workload, given)
        report.keep(given, f"{model} {dtype}, workload {workload}", conditions, found)
        print(f"{case}\n{report.table(found)}", flush=True)


def make_model(name: str, folder: Path) -> None:
    code = f"import models; from pathlib import Path; models.make({name!r}, Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True, timeout=600)


def measure(model: str, dtype: str, workload: str, given: argparse.Namespace) -> report.Found:
    runs: dict[str, list[report.Result]] = {}
    for _ in range(given.rounds):
        for engine in given.engines.split(","):
            if engine == "one by one" and workload == "B":  # it can't keep up
                continue
            if (result := run(engine, model, dtype, workload, given)) is not None:
                runs.setdefault(engine, []).append(result)
    return {
        engine: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for engine, results in runs.items()
    }


def run(engine: str, model: str, dtype: str, workload: str, given: argparse.Namespace) -> report.Result | None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if engine in report.PEERS:
        command = [str(given.peers / engine / "bin" / "python"), str(HERE / "peers.py")]
        environment.pop("PYTHONPATH", None)
        if not Path(command[0]).exists():
            return None
    else:
        command = [sys.executable, str(HERE / "run_one.py")]
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    command += ["--engine", engine, "--model", model, "--dtype", dtype, "--workload", workload]
    command += ["--folder", str(given.folder)]
    if engine == "one by one":
        command += ["--requests", "6"]  # its rate does not depend on how many come after
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    if done.returncode:
        print(f"{engine} on {model} {dtype}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: report.Result = json.loads(done.stdout.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
