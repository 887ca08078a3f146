"""`gunicorn --config gunicorn.conf.py` starts a text server, as the original's users are used to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from ..conftest import HOME, LiveServer, free_ports

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gunicorn(tmp_path):
    (port,) = free_ports(1)
    environ = os.environ | {"PYTHONPATH": HOME, "TMPDIR": str(tmp_path), "MOCK_MODEL": "1", "SERVICE_PORT": str(port)}
    output = (tmp_path / "output").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py")],
        cwd=tmp_path, env=environ, stdout=output, stderr=output,
    )  # fmt: skip
    yield process, f"http://127.0.0.1:{port}"
    family = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    process.kill()
    for child in family:
        child.kill()


def healthy(url):
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_the_original_s_way_to_start_serves_a_model_and_leaves_nothing_behind(gunicorn, tmp_path):
    process, url = gunicorn
    LiveServer.wait(Said(tmp_path), lambda: healthy(url), seconds=60)

    answer = requests.post(f"{url}/inference/falcon40b", json={"text": "hello", "max_tokens": 4}, stream=True, timeout=30)
    assert answer.text.endswith("<|endoftext|>") and len(answer.text) == 4 + len("<|endoftext|>")
    assert answer.headers["transfer-encoding"] == "chunked"

    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not psutil.wait_procs(family, timeout=10)[1]


class Said:
    """What LiveServer.wait wants of a server."""

    def __init__(self, folder):
        self.folder = folder

    def said(self):
        return (self.folder / "output").read_text()
