import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import uvicorn
from click.testing import CliRunner

from flambeau.hosts import answered
from flambeau.management.addresses import Address
from flambeau.management.autoscaler.controller import Controller, Invoke, control, listening, services
from flambeau.management.autoscaler.observe import Observed
from flambeau.management.autoscaler.prometheus import PrometheusObserver
from flambeau.optimizer.api import create_app

DATA = {
    "accelerator-data": {"accelerators": [{"name": "A", "type": "A", "multiplicity": 1, "cost": 3}]},
    "model-data": {"models": [{"name": "m", "acc": "A", "maxBatchSize": 8, "atTokens": 60, "decodeParms": {"alpha": 20}}]},
    "serviceclass-data": {"serviceClasses": [{"name": "c", "modelTargets": [{"model": "m", "slo-itl": 26}]}]},
    "capacity-data": {"count": [{"type": "A", "count": 5}]},
    "optimizer-data": {"optimizer": {"unlimited": False}},
}
SERVER = {"name": "s", "class": "c", "model": "m"}
RESOURCES = {"s": {"uid": "7f3a", "name": "vllm-s", "space": "infer"}}
LOADED = SERVER | {"currentAlloc": {"load": {"arrivalRate": 60, "avgOutTokens": 60}}}


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """A collector, an optimizer and an actuator in one; `fleet.updates` is what the actuator was told."""
    for name, content in DATA.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    optimizer = create_app(stateful=False).test_client()

    class Handler(BaseHTTPRequestHandler):
        servers, updates = [LOADED], []

        def do_GET(self):
            self.answer(200, json.dumps({"servers": self.servers, "kube-resources": RESOURCES}).encode())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/update":
                self.updates.append(json.loads(body))
                return self.answer(200, b'"Done"')
            response = optimizer.post(self.path, data=body)
            return self.answer(response.status_code, response.data)

        def answer(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("COLLECTOR", "INFERNO", "ACTUATOR"):
        monkeypatch.setenv(f"{name}_PORT", str(server.server_address[1]))
        monkeypatch.setenv(f"{name}_HOST", "127.0.0.1")
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def listener(fleet, tmp_path):
    """The controller's own address; no cycle but when it is asked for."""
    app = Invoke(Controller(tmp_path, services(os.environ)), answered(["localhost"]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_a_cycle_collects_optimizes_and_updates(fleet, tmp_path):
    result = CliRunner().invoke(control, [str(tmp_path), "--once"])

    assert result.output == "1 servers have an allocation\n"
    assert fleet.updates[0]["allocations"]["s"]["accelerator"] == "A"
    assert fleet.updates[0]["kube-resources"] == RESOURCES  # by these the published actuator finds its deployments


def test_servers_without_a_collector_have_their_loads_from_prometheus(fleet, tmp_path, monkeypatch):
    seen = Observed(arrivals_per_second=2.0, tokens_in=10, tokens_out=60)
    monkeypatch.setattr(PrometheusObserver, "look", lambda self: dict.fromkeys(self.jobs.values(), seen))
    (tmp_path / "server-data.json").write_text(json.dumps({"servers": [SERVER]}))

    result = CliRunner().invoke(control, [str(tmp_path), "--once", "--prometheus", "http://prometheus:9090"])

    assert result.output == "1 servers have an allocation\n"
    assert fleet.updates[0]["allocations"]["s"]["load"] == {"arrivalRate": 120, "avgInTokens": 10, "avgOutTokens": 60}


def test_an_empty_collection_changes_nothing(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "servers", [])

    CliRunner().invoke(control, [str(tmp_path), "--once"])

    assert fleet.updates == []


def test_an_optimizer_that_answers_nothing_stops_nothing(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "do_POST", lambda self: self.answer(200, b"{}"))

    result = CliRunner().invoke(control, [str(tmp_path), "--once"])

    assert result.exit_code == 1 and "no allocations" in result.output


def test_a_cycle_which_fails_says_why_and_changes_nothing(fleet, tmp_path):
    (tmp_path / "capacity-data.json").write_text('{"count": 3}')

    result = CliRunner().invoke(control, [str(tmp_path), "--once"])

    assert result.exit_code == 1 and "expected a list" in result.output
    assert fleet.updates == []


def test_the_files_are_found_by_the_environment(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("INFERNO_DATA_PATH", f"{tmp_path}/")

    assert CliRunner().invoke(control, ["--once"]).output == "1 servers have an allocation\n"


def test_a_cycle_can_be_asked_for(fleet, listener, tmp_path):
    assert httpx.get(f"{listener}/invoke").json() == "OK"
    assert len(fleet.updates) == 1

    (tmp_path / "capacity-data.json").write_text('{"count": 3}')
    refused = httpx.get(f"{listener}/invoke")

    assert refused.status_code == 404
    assert refused.json()["message"].startswith("controller: ")
    assert len(fleet.updates) == 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("GET", "/invoke", {"Host": "evil.example"}, 403, id="a rebound name"),
        pytest.param("GET", "/invoke", {"Origin": "http://evil.example"}, 403, id="a foreign page"),
        pytest.param("POST", "/invoke", {}, 404, id="another method"),
        pytest.param("GET", "/", {}, 404, id="another path"),
    ],
)
def test_nothing_else_starts_a_cycle(fleet, listener, method, path, headers, status):
    assert httpx.request(method, listener + path, headers=headers).status_code == status
    assert fleet.updates == []


@pytest.mark.parametrize(
    ("environment", "period", "expected"),
    [
        pytest.param({}, 60.0, None, id="nobody asked for it"),
        pytest.param({}, 0.0, ("localhost", 8080), id="only when asked for"),
        pytest.param({"CONTROLLER_PORT": "3300"}, 60.0, ("localhost", 3300), id="a port"),
        pytest.param({"CONTROLLER_HOST": "0.0.0.0"}, 60.0, ("0.0.0.0", 8080), id="a host"),
    ],
)
def test_the_controller_listens_where_it_is_told_to(environment, period, expected):
    assert listening(environment, period) == (expected and Address("http", *expected))


@pytest.mark.parametrize("name", ["CONTROLLER_PORT", "COLLECTOR_PORT", "INFERNO_CONTROL_PERIOD"])
def test_an_environment_that_cannot_be_used_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "http")

    result = CliRunner().invoke(control, [str(tmp_path)])

    assert result.exit_code and "http" in result.output and isinstance(result.exception, SystemExit)


def test_an_address_that_is_taken_is_told(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("CONTROLLER_HOST", "127.0.0.1")
        monkeypatch.setenv("CONTROLLER_PORT", str(taken.getsockname()[1]))

        result = CliRunner().invoke(control, [str(tmp_path)])

    assert result.exit_code == 1 and "the port is in use" in result.output


def test_services_are_on_this_machine_unless_the_environment_says_otherwise():
    found = services({"COLLECTOR_HOST": "elsewhere", "COLLECTOR_PORT": "9000"})

    assert (found.collector.host, found.collector.port) == ("elsewhere", 9000)
    assert (found.optimizer.host, found.optimizer.port) == ("localhost", 8080)
