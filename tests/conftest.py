"""A real server for tests: `live_server(…)` starts one on free ports in its own folder, and ends it afterwards."""

import functools
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

import flambeau
from flambeau.archiver.manifest import Manifest
from flambeau.client import Client

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: as the server does for its workers
HOME = str(Path(flambeau.__file__).resolve().parent.parent)
ECHO = "def handle(data, context):\n    return None if data is None else [row.get('body', b'') for row in data]\n"
START_SECONDS = 60


def free_ports(count):
    """Below the range from which the kernel takes the ports of outgoing connections: those come and go."""
    found = []
    while len(found) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


class LiveServer:
    """`start()` after `kill()` or `stop()` continues with the same folder and ports."""

    def __init__(self, folder, settings, arguments):
        self.folder, self.arguments = folder, arguments
        self.store = folder / "store"
        self.store.mkdir()
        (folder / "tmp").mkdir()
        urls = [f"http://127.0.0.1:{port}" for port in free_ports(3)]
        self.client = Client(*urls)
        names = ("inference_address", "management_address", "metrics_address")
        no_grpc = {"grpc_inference_port": 0, "grpc_management_port": 0}
        given = dict(zip(names, urls, strict=True)) | {"model_store": str(self.store)} | no_grpc | settings
        (folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in given.items()))
        self.process = None

    def configure(self, **settings):
        """Before the next start."""
        with (self.folder / "config.properties").open("a") as file:
            file.writelines(f"{key}={value}\n" for key, value in settings.items())

    def start(self, **environ):
        self.output = (self.folder / "output").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flambeau.management.server", *self.arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": HOME, "TMPDIR": str(self.folder / "tmp"), **environ},
            stdout=self.output,
            stderr=self.output,
        )
        self.wait(lambda: self.healthy() or self.process.poll() is not None)
        return self

    def healthy(self):
        try:
            return self.client.ping() == "Healthy"
        except Exception:
            return False

    def said(self):
        return (self.folder / "output").read_text()

    def wait(self, true, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)
        return found

    def archive(self, name, handler=ECHO, version="1.0", model_name=None, yaml=None):
        """A folder in the store, which is an archive too."""
        path = self.store / name
        (path / "MAR-INF").mkdir(parents=True)
        (path / "handler.py").write_text(handler)
        manifest = Manifest(
            model_name=model_name or name, handler="handler.py", model_version=version, config_file=yaml and "model.yaml"
        )
        (path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest.as_json()))
        if yaml:
            (path / "model.yaml").write_text(yaml)
        return name

    def workers(self, model, version=None):
        return [w for w in self.client.describe(model, version)[0]["workers"] if w["status"] == "READY"]

    def number(self, metric, model):
        """As the metrics tell it now, of all the model's versions."""
        with urllib.request.urlopen(f"{self.client.metrics}/metrics?name[]={metric}", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        wanted = (line for line in lines if line.startswith(f"{metric}{{") and f'model_name="{model}"' in line)
        return sum(float(line.rpartition(" ")[2]) for line in wanted)

    def under_way(self, model):
        """How many requests for it have come and are not answered."""
        return self.number("flambeau_requests_in_flight", model) + self.number("flambeau_requests_waiting", model)

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number=signal.SIGTERM, seconds=40):
        """Its return code, when it and all its processes are gone."""
        if self.process is None or self.process.poll() is not None:
            return self.process and self.process.returncode
        family = self.family()
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, alive
        self.output.close()
        return code


class Host:
    """Serves archives over HTTP; `meanwhile` is called before the first one is given out."""

    def __init__(self, folder, meanwhile=lambda: None):
        self.files = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(self.Handler, directory=str(folder), host=self)
        )
        self.meanwhile = meanwhile
        self.url = f"http://127.0.0.1:{self.files.server_port}"
        threading.Thread(target=self.files.serve_forever, daemon=True).start()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, host, **kw):
            self.host = host
            super().__init__(*args, **kw)

        def do_GET(self):
            self.host.meanwhile()
            super().do_GET()


@pytest.fixture
def live_server(tmp_path):
    servers = []

    def make(*arguments, start=True, **settings):
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        server = LiveServer(folder, settings, arguments)
        servers.append(server)
        return server.start() if start else server

    yield make
    for server in servers:
        server.stop(signal.SIGKILL)
