"""The whole loop on a real server: load comes and goes, workers follow, down to none and up again."""

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from flambeau.management import launcher
from flambeau.management.autoscaler.cli import profile
from flambeau.management.commands import client_for

MODEL = """
handler: {engine: mock, max_batch_rows: 4, mock: {mode: hash, alpha: 20, beta: 2, gamma: 60, delta: 0.5}}
slo: {itl_ms: 60, ttft_ms: 800, percentile: 95, idle_seconds: 1.5, max_workers: 3}
"""
SCALER = """
period_seconds: 0.3
hold_seconds: 1
accelerators: [{name: here, cores: [0], capacity: 4}]
"""
KNOWN = {"model": "chat", "accelerator": "here", "maxBatch": 4, "alpha": 20, "beta": 2, "gamma": 60, "delta": 0.5}
MINUS_TWO = {"allocations": {"chat/1.0": {"accelerator": "here", "numReplicas": -2}}}


@pytest.fixture
def server(live_server):
    server = live_server("--ncs", start=False, autoscaler_config="scaler.yaml")
    (server.folder / "scaler.yaml").write_text(SCALER)
    server.archive("chat", yaml=MODEL)
    manifest = server.store / "chat" / "MAR-INF" / "MANIFEST.json"
    told = json.loads(manifest.read_text())
    told["model"]["handler"] = "text_generation"
    manifest.write_text(json.dumps(told))
    server.start()
    server.client.register("chat", initial_workers=1)
    return server


def ask(server, method, path, body=None):
    request = urllib.request.Request(
        f"{server.client.management}{path}", None if body is None else json.dumps(body).encode(), method=method
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def complete(server, tokens=10):
    body = {"model": "chat", "prompt": "x" * 50, "max_tokens": tokens, "ignore_eos": True}
    request = urllib.request.Request(f"{server.client.inference}/v1/completions", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["usage"]["completion_tokens"]


def test_workers_follow_the_load_to_none_and_back_and_no_request_fails(server):
    ask(server, "POST", "/autoscaler/performance", KNOWN)
    over = threading.Event()

    def client():
        served = 0
        while not over.is_set():
            served += complete(server) == 10
        return served

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(client) for _ in range(8)]
        server.wait(lambda: len(server.workers("chat")) == 3)
        over.set()
        assert sum(each.result() for each in running) >= 8

    server.wait(lambda: not server.client.describe("chat")[0]["workers"])
    begun = time.monotonic()
    assert complete(server) == 10  # wakes a worker and waits for it
    assert time.monotonic() - begun < 20
    told = ask(server, "GET", "/autoscaler")
    assert not told["last_error"]
    assert {event["outcome"] for event in told["events"]} == {"done"}
    server.wait(  # an event is told when its workers have gone, which the waking need not wait for
        lambda: any(
            "no request for 1.5 s" in event["decision"]["reason"] for event in ask(server, "GET", "/autoscaler")["events"]
        )
    )


def test_the_autoscaler_is_paused_and_told_to_try_only(server):
    ask(server, "POST", "/autoscaler/performance", KNOWN)
    ask(server, "PUT", "/autoscaler", {"paused": True})
    ask(server, "PUT", "/autoscaler", {"dry_run": True})

    assert ask(server, "GET", "/invoke") == "OK"
    collected = ask(server, "GET", "/collect")["servers"]
    assert [each["name"] for each in collected] == ["chat/1.0"]
    assert (
        ask(server, "POST", "/update", {"allocations": {"chat/1.0": {"accelerator": "here", "numReplicas": 2}}}) == "Done"
    )
    assert ask(server, "GET", "/autoscaler")["events"][0]["outcome"] == "dry run"
    ask(server, "PUT", "/autoscaler", {"dry_run": False})
    ask(server, "POST", "/update", {"allocations": {"chat/1.0": {"accelerator": "here", "numReplicas": 2}}})
    assert len(server.workers("chat")) == 2
    for code, body in (
        (404, {"allocations": {"chat/1.0": {"numReplicas": "two"}}}),
        (404, []),
        (404, {"allocations": {"\ud800": {}}}),
        (500, MINUS_TWO),
    ):
        with pytest.raises(urllib.error.HTTPError, match=str(code)):
            ask(server, "POST", "/update", body)
    assert len(server.workers("chat")) == 2
    for method, path, body in (
        ("PUT", "/autoscaler", []),
        ("PUT", "/autoscaler", {"pause": True}),
        ("PUT", "/autoscaler", {"period_seconds": "soon"}),
        ("POST", "/autoscaler/performance", KNOWN | {"alpha": -1}),
        ("PUT", "/autoscaler", {"\ud800": 1}),
        ("POST", "/autoscaler/performance", KNOWN | {"maxBatch": 0}),
        ("POST", "/autoscaler/performance", KNOWN | {"maxBatch": 10**20}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(server, method, path, body)


def test_a_profile_finds_the_planted_times_and_tells_the_autoscaler(server):
    urls = ["--url", server.client.inference, "--management", server.client.management, "--metrics", server.client.metrics]
    before = described(server)
    refused = CliRunner().invoke(profile, ["chat", *urls, "--accelerator", "elsewhere"])
    assert refused.exit_code == 1 and "no accelerator elsewhere, but here" in refused.output
    assert described(server) == before

    arguments = ["chat", *urls, "--accelerator", "here", "--batches", "1,4", "--prompts", "20,120", "--repeats", "2"]
    result = CliRunner().invoke(profile, [*arguments, "--tokens", "20", "--plot", str(server.folder / "fit.png")])

    assert result.exit_code == 0, result.output
    assert "first tokens timed by the worker" in result.output
    assert "R²" in result.output and (server.folder / "fit.png").exists()
    told = ask(server, "GET", "/autoscaler")
    (known,) = told["performance"]
    # Generous: two rounds only, on shared cores. The demonstration holds it to 3 %.
    assert known["alpha"] + 2 * known["beta"] == pytest.approx(24, rel=0.1)
    assert known["gamma"] + 100 * known["delta"] == pytest.approx(110, rel=0.1)
    assert not told["paused"]
    assert described(server) == before


def described(server):
    (told,) = server.client.describe("chat")
    return told["minWorkers"], told["maxWorkers"], len(told["workers"])


def test_a_file_that_cannot_be_used_is_one_sentence_and_leaves_nothing_behind(live_server):
    server = live_server("--ncs", start=False, autoscaler_config="scaler.yaml")
    (server.folder / "scaler.yaml").write_text("perod_seconds: 3")

    server.start()

    assert server.process.returncode == 1
    assert server.said() == "flambeau: scaler.yaml: unknown key perod_seconds\n"
    assert list((server.folder / "tmp").iterdir()) == []


def test_a_profile_finds_the_server_that_runs_here_and_its_keys(live_server, monkeypatch):
    server = live_server(launcher.ARGV_MARK, "--ncs", start=False, disable_token_authorization="false")
    path = server.folder / "config.properties"
    path.write_text(path.read_text().replace(server.client.management, f"unix:{server.folder / 'm.sock'}"))
    server.start()
    monkeypatch.setattr(tempfile, "tempdir", str(server.folder / "tmp"))
    server.archive("echo")
    server.wait(launcher.running)
    client_for("management").register("echo", initial_workers=1)
    (server.folder / "item").write_text("hi")
    arguments = ["echo", "--items", str(server.folder / "item"), "--batches", "1,2", "--repeats", "1"]

    result = CliRunner().invoke(profile, arguments)

    assert result.exit_code == 0, result.output
    assert "echo on cpu" in result.output and "no autoscaler" in result.output
    monkeypatch.setenv("FLAMBEAU_MANAGEMENT_KEY", "another")
    refused = CliRunner().invoke(profile, arguments)
    assert refused.exit_code == 1 and "401" in refused.output
