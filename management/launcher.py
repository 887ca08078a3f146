"""Starting the server as a process of its own, finding the one that runs, stopping it. One server per temporary folder.

The new process talks on its standard output until it is ready: "ready" and silence, or why it refuses. Not for: what
the server does.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from .errors import StartError

ARGV_MARK = "org.pytorch.serve.ModelServer"  # platforms find the server by this element of its argv
READY = "ready"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Running:
    """What a server that runs tells the commands."""

    pid: int
    inference: str
    management: str
    metrics: str
    logs: str
    key_file: str = ""  # where the tokens stand; empty: none are asked for


def pid_file() -> Path:
    return Path(tempfile.gettempdir()) / ".model_server.pid"


def facts_file() -> Path:
    return pid_file().with_suffix(".json")


def running_pid() -> int | None:
    """Of a server started from this temporary folder; a file without a process is no server."""
    try:
        pid = int(pid_file().read_text())
        alive = ARGV_MARK in psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if alive else None


def running() -> Running | None:
    pid = running_pid()
    try:
        facts = Running(**json.loads(facts_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return facts if facts.pid == pid else None


def announce(facts: Running, *, detached: bool) -> None:
    """A server is up: told to the commands on this machine and, when it was started detached, to its starter."""
    facts_file().write_text(json.dumps(vars(facts)))
    pid_file().write_text(str(facts.pid))
    if detached:
        print(READY, flush=True)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.close(nothing)


def withdraw() -> None:
    """This process serves no more; the files stay when another server has taken its place."""
    if facts_file().exists() and json.loads(facts_file().read_text()).get("pid") == os.getpid():
        facts_file().unlink(missing_ok=True)
        pid_file().unlink(missing_ok=True)


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "flambeau.management.server", ARGV_MARK, *arguments]


def start(arguments: list[str]) -> int:
    """In the background; returns its pid when it serves. StartError with its own words when it does not."""
    process = subprocess.Popen(
        command([*arguments, "--detached"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    pid_file().write_text(str(process.pid))
    said = _listen(process)
    if not said.endswith(READY):
        process.terminate()
        pid_file().unlink(missing_ok=True)
        raise StartError(said or f"the server was not ready within {START_SECONDS:g} s")
    if warnings := said.removesuffix(READY).strip():
        print(warnings, file=sys.stderr)
    return process.pid


def become(arguments: list[str]) -> None:
    """In the foreground: this very process becomes the server, so signals reach it."""
    pid_file().write_text(str(os.getpid()))
    os.execv(sys.executable, command([*arguments, "--foreground"]))


def stop(timeout_seconds: float = 90.0) -> bool:
    """False when none runs. Waits for its end; what takes too long is killed."""
    pid = running_pid()
    if pid is not None:
        try:
            process = psutil.Process(pid)
            process.terminate()
            if not _ends(process, timeout_seconds):
                process.kill()
        except psutil.NoSuchProcess:
            pass
    pid_file().unlink(missing_ok=True)
    return pid is not None


def _ends(process: psutil.Process, timeout_seconds: float) -> bool:
    """A zombie has ended: in a container nobody may ever collect it."""
    deadline = time.monotonic() + timeout_seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _listen(process: "subprocess.Popen[bytes]") -> str:
    """What it says until it is ready, has ended, or has had its time."""
    assert process.stdout is not None
    deadline, said = time.monotonic() + START_SECONDS, b""
    while (rest := deadline - time.monotonic()) > 0 and select.select([process.stdout], [], [], rest)[0]:
        data = os.read(process.stdout.fileno(), 65536)
        said += data
        if not data or said.rstrip().endswith(READY.encode()):
            break
    return said.decode("utf-8", "replace").strip()
