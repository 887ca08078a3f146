"""One model's whole server on a unix socket, for whoever brings an HTTP front of their own: `gunicorn.conf.py` does.

Not for: `flambeau serve`, which has its own.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..handlers.parent import end_with_parent
from .errors import StartError
from .one_model import as_archive

ADDRESS = "FLAMBEAU_BACKEND"  # the environment variable that tells the front where it is
START_SECONDS = 600.0  # an archive may have to be unpacked first
STOP_SECONDS = 60.0
USUAL_NAME = "falcon40b"


@dataclass
class Backend:
    process: "subprocess.Popen[bytes]"
    folder: "tempfile.TemporaryDirectory[str]"

    @classmethod
    def start(cls, environ: Mapping[str, str]) -> "Backend":
        """Returns when the model is registered; it may still be loading, requests wait for it."""
        model = "mock" if environ.get("MOCK_MODEL", "0") not in ("", "0") else environ.get("MODEL")
        if not model:
            raise StartError("MODEL is not set: a folder of weights, owner/name or an archive is wanted; or MOCK_MODEL=1")
        folder = tempfile.TemporaryDirectory(prefix="flambeau-")
        made = Path(folder.name)
        found = as_archive(model, environ.get("MODEL_NAME", USUAL_NAME), None, {}, made / "served")
        addresses = {name: f"unix:{made}/{name}" for name in ("inference", "management", "metrics")}
        arguments = ["--ncs", "--disable-token-auth", "--foreground", "--models", f"{found.name}={found.path}"]
        settings = {f"{name}_address": address for name, address in addresses.items()} | {
            "default_workers_per_model": "1",
            "grpc_inference_port": "0",
        }
        for key, value in settings.items():
            arguments += ["--set", f"{key}={value}"]
        os.environ[ADDRESS] = addresses["inference"]
        backend = cls(
            subprocess.Popen(
                [sys.executable, "-m", "flambeau.management.server", *arguments],
                env={**environ, "TMPDIR": folder.name, "LOG_LOCATION": environ.get("LOG_LOCATION", f"{made}/logs")},
                preexec_fn=partial(end_with_parent, signal.SIGTERM),  # the starter has one thread
            ),
            folder,
        )
        backend._wait(made / "inference")
        return backend

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.folder.cleanup()

    def _wait(self, path: Path) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if answers(path):
                return
            time.sleep(0.05)
        self.stop()
        raise StartError("the server behind gunicorn has not started; its log says why")


def answers(path: Path) -> bool:
    connection = http.client.HTTPConnection("localhost", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/ping")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
