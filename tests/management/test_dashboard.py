import json
import urllib.request

import pytest

from flambeau.client import ServerError


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.headers, answer.read()


def test_the_page_shows_a_model_its_worker_and_what_it_answered(live_server):
    server = live_server()
    server.archive("echo")
    server.client.register("echo", initial_workers=1)
    for _ in range(3):
        server.client.predict("echo", b"x")

    def data():
        return json.loads(get(f"{server.client.management}/dashboard/data")[1])

    server.wait(lambda: data()["models"][0]["requests"] == 3)
    (model,), (worker,) = data()["models"], data()["workers"]
    assert (model["name"], model["ready"], model["default"], model["error"]) == ("echo", 1, True, "")
    assert model["buckets"][-1] == ["+Inf", 3.0]
    assert (worker["model"], worker["status"], worker["device"]) == ("echo", "READY", "CPU")
    assert data()["autoscaler"] is None


@pytest.mark.parametrize(("handler", "message"), [
    pytest.param("raise ValueError", "Prediction failed", id="raises"),
    pytest.param("import os; os._exit(3)", "Worker died", id="dies"),
])  # fmt: skip
def test_the_page_tells_requests_that_failed(live_server, handler, message):
    server = live_server()
    server.archive("ill", f"def handle(data, context):\n    if data:\n        {handler}\n")
    server.client.register("ill", initial_workers=1)

    with pytest.raises(ServerError, match=message):
        server.client.predict("ill", b"x")

    server.wait(lambda: json.loads(get(f"{server.client.management}/dashboard/data")[1])["models"][0]["failed"] == 1)


def test_the_page_brings_all_it_needs_and_lets_nothing_else_in(live_server):
    server = live_server()

    headers, page = get(f"{server.client.management}/dashboard")

    assert "default-src 'self'" in headers["Content-Security-Policy"]
    for part in (b"/dashboard/style.css", b"/dashboard/page.js"):
        assert part in page
        assert get(server.client.management + part.decode())[1]


def test_the_gauges_of_the_last_request_have_torchserve_s_names(live_server):
    server = live_server(metrics_mode="prometheus")
    server.archive("echo")
    server.client.register("echo", initial_workers=1)
    server.client.predict("echo", b"x")

    def found():
        return get(f"{server.client.metrics}/metrics")[1].decode()

    server.wait(lambda: "ts_inference_requests_total{hostname" in found() and "echo" in found())
    for name in ("QueueTime", "WorkerThreadTime"):
        (line,) = [line for line in found().splitlines() if line.startswith(f"{name}{{")]
        assert 'Level="Host",' in line
        assert 0 <= float(line.split()[-1]) < 60_000
