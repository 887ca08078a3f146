"""TorchServe's own archivers, as the package index has them, pack; this server serves what they made.

`make test` installs them in the environment's folder `originals`, since their commands have the names of ours.
"""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from .conftest import LiveServer

ORIGINALS = Path(sys.prefix) / "originals"
HANDLER = """
import json
from pathlib import Path


class Greeting:
    def initialize(self, context):
        folder = Path(context.system_properties["model_dir"])
        self.names = json.loads((folder / "names.json").read_text())
        self.weights = (folder / context.manifest["model"]["serializedFile"]).read_text()
        self.greeting = context.model_yaml_config["greeting"]

    def handle(self, rows, context):
        return [f"{self.greeting} {self.names[row['body'].decode()]} {self.weights}" for row in rows]
"""
UPPER = "def handle(data, context):\n    return data and [row['body'].decode().upper() for row in data]\n"
FUNCTIONS = "def clean(data, context):\n    return data and [row['body'].strip() for row in data]\n"
SPEC = "models:\n  min-workers: 1\n  upper:\n    url: upper.mar\ndag:\n  clean: [upper]\n"


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """`pack("torch-model-archiver", "--handler", …)` in a folder of sources."""
    assert (ORIGINALS / "bin").is_dir(), (
        f"pip install --no-deps --target {ORIGINALS} torch-model-archiver torch-workflow-archiver"
    )
    monkeypatch.chdir(tmp_path)
    sources = {"handler.py": HANDLER, "upper.py": UPPER, "functions.py": FUNCTIONS, "spec.yaml": SPEC}
    sources |= {"names.json": '{"a": "Ada"}', "weights.pt": "(0.5)", "model.yaml": "greeting: Hello\nminWorkers: 1\n"}
    for name, text in sources.items():
        (tmp_path / name).write_text(text)

    def run(tool, *arguments):
        command = [sys.executable, ORIGINALS / "bin" / tool, *arguments]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ORIGINALS)}, timeout=60)

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals") / "server"
    folder.mkdir()
    started = LiveServer(folder, {}, ("--start", "--foreground", "--ncs"))
    started.start()
    yield started
    started.stop()


def post(url, body=b""):
    request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("form", "made"),
    [("default", "default.mar"), ("zip-store", "zip-store.mar"), ("tgz", "tgz.tar.gz"), ("no-archive", "no-archive")],
)
def test_what_torch_model_archiver_packs_is_served(pack, server, form, made):
    pack(
        "torch-model-archiver", "--model-name", form, "--version", "2.1", "--handler", "handler.py", "--serialized-file",
        "weights.pt", "--extra-files", "names.json", "--config-file", "model.yaml", "--archive-format", form,
        "--export-path", str(server.store),
    )  # fmt: skip

    server.client.register(made, initial_workers=1)

    assert server.client.predict(form, b"a", version="2.1") == b"Hello Ada (0.5)"


def test_what_torch_workflow_archiver_packs_is_served(pack, server):
    store = str(server.store)
    pack(
        "torch-model-archiver", "--model-name", "upper", "--version", "1.0", "--handler", "upper.py", "--export-path", store
    )
    pack("torch-workflow-archiver", "--workflow-name", "wf", "--spec-file", "spec.yaml", "--handler", "functions.py",
         "--export-path", store)  # fmt: skip

    told = post(f"{server.client.management}/workflows?url=wf.war")

    assert "Workflow wf has been registered and scaled successfully." in told
    assert post(f"{server.client.inference}/wfpredict/wf", b"  hello ") == "HELLO"
