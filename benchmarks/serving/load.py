"""Load from wrk (Debian's package): bounded in time, on loopback, and what it measured as numbers."""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPT = 'wrk.method = "POST"\nwrk.body = %s\n%s'
HEADER = 'wrk.headers["%s"] = "%s"\n'
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass
class Load:
    per_second: float
    p50_seconds: float
    p99_seconds: float
    requests: int
    failed: int  # other than 2xx, socket errors, time-outs
    cpu_seconds: float = 0.0  # of the server's processes
    others: float = 0.0  # the share of the machine that neither the server nor wrk used


def run(url: str, body: bytes, connections: int, seconds: int, key: str | None = None) -> Load:
    if shutil.which("wrk") is None:
        sys.exit("The benchmark needs wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        script.write_text(SCRIPT % (_lua(body), "".join(HEADER % header for header in headers.items())))
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "--timeout",
            "10s",
            "-s",
            str(script),
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 15, check=True)
    return parse(done.stdout)


def parse(text: str) -> Load:
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not total or not rate:
        raise ValueError(f"wrk said something else:\n{text}")
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    if errors := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        failed += sum(int(number) for number in errors.groups())
    return Load(float(rate[1]), _seconds(text, "50%"), _seconds(text, "99%"), int(total[1]), failed)


def _seconds(text: str, quantile: str) -> float:
    found = re.search(rf"{re.escape(quantile)}\s+([\d.]+)(us|ms|s|m)", text)
    return float(found[1]) * UNITS[found[2]] if found else float("nan")


def _lua(body: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in body) + '"'
