"""What is measured: a server with a cell, and machines of its cluster. Not for: the load, which is `bench`."""

import json
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from processes import Tree

from flambeau.archiver.pack import PackRequest, pack
from flambeau.client import Client

HANDLER = Path(__file__).parents[1] / "serving" / "apps" / "echo.py"


class Server:
    def __init__(self, folder: Path) -> None:
        self.ports = [free_port() for _ in range(4)]
        self.inference, self.management, self.metrics, self.sax = (f"http://127.0.0.1:{port}" for port in self.ports)
        self.client = Client(self.inference, self.management, self.metrics)
        self.store = folder / "store"

    def publish(self, name: str, path: str, replicas: int, **overrides: str) -> None:
        spec = {"model": f"/sax/bench/{name}", "model_path": path, "checkpoint": "None", "replicas": replicas}
        answer = requests.post(f"{self.sax}/publish", json={**spec, "overrides": overrides, "wait": 60}, timeout=90)
        answer.raise_for_status()

    def machines(self) -> int:
        page = requests.get(f"{self.sax}/status", timeout=10).text
        return page.count('<a href="/server/')


@contextmanager
def server(folder: Path, cluster: str) -> Iterator[Server]:
    """With its cell on it and on two other machines; their server is told by the tag `worker`."""
    made = Server(folder)
    made.store.mkdir()
    pack(PackRequest(model_name="echo", version="1.0", handler=str(HANDLER), export_path=made.store))
    settings = {
        "inference_address": made.inference, "management_address": made.management, "metrics_address": made.metrics,
        "model_store": str(made.store), "cell": "/sax/bench", "sax_address": made.sax, "cell_tags": "here", "cluster": cluster,
        "grpc_inference_port": "0", "grpc_management_port": "0",
    }  # fmt: skip
    (folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    (folder / "tmp").mkdir()
    tree = Tree(
        [sys.executable, "-m", "flambeau.management.server", "--foreground"], folder, os.environ | {"TMPDIR": str(folder / "tmp")}
    )  # fmt: skip
    try:
        tree.wait_ready(lambda: tried(lambda: made.machines() >= 3), 120)
        yield made
    finally:
        tree.stop()


@contextmanager
def ray_cluster(folder: Path) -> Iterator[str]:
    """A head and two nodes with the tag `worker`; the address. All of it ends with the block."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port, nodes = free_port(), []
    tagged = f"--resources={json.dumps({'sax_tag:worker': 1})}"
    try:
        for name, more in (
            ("head", ["--head", f"--port={port}", "--include-dashboard=false"]),
            ("one", [f"--address=127.0.0.1:{port}", tagged]),
            ("two", [f"--address=127.0.0.1:{port}", tagged]),
        ):
            words = [
                "--block",
                "--disable-usage-stats",
                "--num-cpus=1",
                "--object-store-memory=80000000",
                f"--node-name={name}",
            ]
            (folder / name).mkdir()
            tree = Tree([str(Path(sys.executable).parent / "ray"), "start", *words, *more], folder / name, dict(os.environ))
            nodes.append(tree)
            tree.wait_ready(lambda tree=tree: "Ray runtime started" in tree.log.read_text(), 60)
        yield f"127.0.0.1:{port}"
    finally:
        for tree in reversed(nodes):
            tree.stop()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tried(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except requests.RequestException:
        return False
