"""A server with the mock engine for clients that have an environment of their own: `make test-clients`.

FLAMBEAU_PYTHON is the interpreter of ours, which starts it.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

START_SECONDS = 60


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [os.environ["FLAMBEAU_PYTHON"], "-m", "flambeau", "serve", "mock", "--name", "m", "--port", str(port)]
    environ = os.environ | {
        "TMPDIR": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "LOG_LOCATION": str(folder / "logs"),
    }
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output)
    base = f"http://127.0.0.1:{port}"
    try:
        wait(f"{base}/v1/models", server, folder / "output")
        yield base
    finally:
        server.terminate()
        server.wait(60)


def wait(address, server, output):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if json.load(answer)["data"]:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.1)
    raise AssertionError(output.read_text())


@pytest.fixture
def ask(url):
    """POST a JSON body, get one."""

    def post(path, **body):
        request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return post
