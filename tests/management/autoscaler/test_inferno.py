import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from flambeau.management.autoscaler.controller import control, services
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
            self.answer(200, json.dumps({"servers": self.servers, "kube-resources": {}}).encode())

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


def test_a_cycle_collects_optimizes_and_updates(fleet, tmp_path):
    result = CliRunner().invoke(control, [str(tmp_path), "--period", "0"])

    assert result.output == "1 servers have an allocation\n"
    assert fleet.updates[0]["allocations"]["s"]["accelerator"] == "A"


def test_servers_without_a_collector_have_their_loads_from_prometheus(fleet, tmp_path, monkeypatch):
    seen = Observed(arrivals_per_second=2.0, tokens_in=10, tokens_out=60)
    monkeypatch.setattr(PrometheusObserver, "look", lambda self: dict.fromkeys(self.jobs.values(), seen))
    (tmp_path / "server-data.json").write_text(json.dumps({"servers": [SERVER]}))

    result = CliRunner().invoke(control, [str(tmp_path), "--period", "0", "--prometheus", "http://prometheus:9090"])

    assert result.output == "1 servers have an allocation\n"
    assert fleet.updates[0]["allocations"]["s"]["load"] == {"arrivalRate": 120, "avgInTokens": 10, "avgOutTokens": 60}


def test_an_empty_collection_changes_nothing(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "servers", [])

    CliRunner().invoke(control, [str(tmp_path), "--period", "0"])

    assert fleet.updates == []


def test_a_cycle_which_fails_says_why_and_changes_nothing(fleet, tmp_path):
    (tmp_path / "capacity-data.json").write_text('{"count": 3}')

    result = CliRunner().invoke(control, [str(tmp_path), "--period", "0"])

    assert result.exit_code == 1 and "expected a list" in result.output
    assert fleet.updates == []


def test_services_are_on_this_machine_unless_the_environment_says_otherwise():
    found = services({"COLLECTOR_HOST": "elsewhere", "COLLECTOR_PORT": "9000"})

    assert (found.collector.host, found.collector.port) == ("elsewhere", 9000)
    assert (found.optimizer.host, found.optimizer.port) == ("localhost", 8080)
