"""The servers that are measured, each as it installs from the package index, in an environment of its own."""

import http.client
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from cases import Case
from processes import Tree

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TORCH = "torch==2.13.0"  # first and by itself, as in the Makefile
ENVIRONMENTS = Path(os.environ.get("BENCH_PEERS", ROOT / "benchmarks" / ".peers"))
PACKAGES = {
    "mosec": ["mosec", "orjson"],
    "litserve": ["litserve"],
    "mlserver": ["mlserver"],
    "torchserve": ["torchserve==0.12.0", "torch-model-archiver==0.12.0", "pyyaml", "setuptools"],
}


@dataclass
class Server:
    """A running server: where to post, and its processes."""

    url: str
    tree: Tree
    ready_seconds: float
    pss_bytes: int = 0  # all its processes, after the warm-up
    key: str | None = None  # a token that each request must bear


class Unsupported(Exception):
    """This peer can't do this case."""


def python_of(environment: str) -> Path:
    """The peer's interpreter; installs it on first use."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        print(f"installing {environment} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENTS / environment)], check=True)
        for packages in ([TORCH, "numpy"], PACKAGES[environment]):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(
    port: int, method: str, path: str, body: bytes = b"", timeout: float = 120, key: str | None = None
) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} if body else {}  # TorchServe trips over an empty JSON document
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers(port: int, path: str, body: bytes, key: str | None = None) -> bool:
    try:
        return ask(port, "POST", path, body, timeout=10, key=key)[0] == 200
    except OSError:
        return False


def start_flambeau(case: Case, folder: Path, tokens: bool = False) -> Server:
    """With access log and metrics on, as installed in this interpreter's environment; without the extra `grpc`'s process."""
    binaries = Path(sys.executable).parent
    command, archiver = [str(binaries / "torchserve")], binaries / "torch-model-archiver"
    return _torchserve_like(case, folder, command, archiver, dict(os.environ), grpc=False, tokens=tokens)


def start_flambeau_tokens(case: Case, folder: Path) -> Server:
    return start_flambeau(case, folder, tokens=True)


def start_torchserve(case: Case, folder: Path) -> Server:
    python = python_of("torchserve")
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    command = [str(python.parent / "torchserve"), "--disable-token-auth", "--enable-model-api"]
    return _torchserve_like(case, folder, command, python.parent / "torch-model-archiver", environment)


def _torchserve_like(
    case: Case,
    folder: Path,
    command: list[str],
    archiver: Path,
    environment: dict[str, str],
    grpc: bool = True,
    tokens: bool = False,
) -> Server:
    inference, management, metrics = free_port(), free_port(), free_port()
    grpc_ports = (free_port(), free_port()) if grpc else (0, 0)
    store = folder / "store"
    store.mkdir()
    handler = HERE / "apps" / f"{case.app}.py"
    pack = [
        str(archiver),
        "--model-name",
        "m",
        "--version",
        "1.0",
        "--handler",
        str(handler),
        "--export-path",
        str(store),
        "-f",
    ]
    subprocess.run(pack, check=True, capture_output=True, env=environment)
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc_ports[0]}\ngrpc_management_port={grpc_ports[1]}\n"
        f"model_store={store}\nmetrics_mode=prometheus\ndefault_workers_per_model=1\n"
        + ("disable_token_authorization=false\nenable_model_api=true\n" if tokens else "")
    )
    argv = [*command, "--start", "--foreground", "--ncs", "--ts-config", str(folder / "config.properties")]
    tree = Tree(argv, folder, {**environment, "TMPDIR": str(folder), "TEMP": str(folder)})
    try:
        tree.wait_ready(lambda: _quietly_ok(inference), 90)
        keys = json.loads((folder / "key_file.json").read_text()) if tokens else {}
        key, management_key = (keys[kind]["key"] if tokens else None for kind in ("inference", "management"))
        given = {
            "url": "m.mar",
            "initial_workers": case.workers,
            "batch_size": case.batch,
            "max_batch_delay": case.delay_ms or 100,
        }
        status, body = ask(management, "POST", "/models?" + urlencode(given | {"synchronous": "true"}), key=management_key)
        if status != 200:
            raise RuntimeError(f"registration: {status} {body!r}")
        seconds = tree.wait_ready(lambda: answers(inference, "/predictions/m", case.body, key), 60)
    except BaseException:
        tree.stop()
        raise
    return Server(f"http://127.0.0.1:{inference}/predictions/m", tree, seconds, key=key)


def _quietly_ok(port: int) -> bool:
    try:
        return ask(port, "GET", "/ping", timeout=5)[0] == 200
    except OSError:
        return False


def start_mosec(case: Case, folder: Path, codec: str = "json") -> Server:
    port = free_port()
    settings = [case.app, case.batch, case.delay_ms, case.workers, port, codec]
    return _script("mosec", "mosec_app.py", settings, folder, port, "/inference", case)


def start_mosec_orjson(case: Case, folder: Path) -> Server:
    if case.app == "stream":
        raise Unsupported("streams are text: there is nothing to encode")
    return start_mosec(case, folder, "orjson")


def start_litserve(case: Case, folder: Path) -> Server:
    port = free_port()
    settings = [case.app, case.batch, case.delay_ms, case.workers, port]
    return _script("litserve", "litserve_app.py", settings, folder, port, "/predict", case)


def _script(peer: str, script: str, settings: list[object], folder: Path, port: int, path: str, case: Case) -> Server:
    python = python_of(peer)
    environment = {**os.environ, "TMPDIR": str(folder), "BENCH": json.dumps(settings)}
    tree = Tree([str(python), str(HERE / "apps" / script)], folder, environment)
    try:
        seconds = tree.wait_ready(lambda: answers(port, path, case.body), 90)
    except BaseException:
        tree.stop()
        raise
    return Server(f"http://127.0.0.1:{port}{path}", tree, seconds)


def start_mlserver(case: Case, folder: Path) -> Server:
    if case.app != "echo" or case.batch > 1:
        raise Unsupported(
            "measured on the plain echo alone, through a custom route in its own process (its worker pool fails to start here)"
        )
    python, port = python_of("mlserver"), free_port()
    settings = {
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "host": "127.0.0.1",
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({"name": "m", "implementation": "mlserver_model.Echo"}))
    environment = {**os.environ, "PYTHONPATH": str(HERE / "apps"), "TMPDIR": str(folder)}
    tree = Tree([str(python.parent / "mlserver"), "start", str(folder)], folder, environment)
    try:
        seconds = tree.wait_ready(lambda: answers(port, "/run", case.body), 90)
    except BaseException:
        tree.stop()
        raise
    return Server(f"http://127.0.0.1:{port}/run", tree, seconds)


STARTERS = {
    "flambeau": start_flambeau,
    "flambeau-tokens": start_flambeau_tokens,
    "mosec": start_mosec,
    "mosec-orjson": start_mosec_orjson,
    "litserve": start_litserve,
    "mlserver": start_mlserver,
    "torchserve": start_torchserve,
}


def version_of(peer: str) -> str:
    package = {"flambeau-tokens": "flambeau", "mosec-orjson": "mosec"}.get(peer, peer)
    python = Path(sys.executable) if package == "flambeau" else python_of(package)
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "this tree"
