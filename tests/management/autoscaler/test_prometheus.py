"""Loads of servers that are not ours, from a Prometheus that answers over HTTP what a real one would."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from flambeau.management.autoscaler.assembly import assemble
from flambeau.management.autoscaler.config import AutoscalerConfigError, read_config
from flambeau.management.autoscaler.prometheus import PrometheusObserver, UnknownJob

# A part of the query → its value; the last that fits counts.
KNOWN = {
    "rate(vllm:request_success_total": 2.0,
    "deriv": 0.5,
    "increase(vllm:prompt": 300,
    "increase(vllm:generation": 150,
    "increase(vllm:request": 3,
    "increase(vllm:time_to_first_token_seconds_sum": 0.6,
    "increase(vllm:time_to_first_token_seconds_count": 3,
    "sum(vllm:num_requests_waiting": 4,
}


@pytest.fixture
def prometheus():
    class Handler(BaseHTTPRequestHandler):
        asked = []

        def do_GET(self):
            query = parse_qs(urlparse(self.path).query)["query"][0]
            self.asked.append(query)
            value = next((value for part, value in reversed(KNOWN.items()) if part in query), None)
            found = [] if value is None or 'job="vllm-a"' not in query else [{"metric": {}, "value": [0, str(value)]}]
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": found}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_it_is_asked_for_arrivals_rather_than_completions(prometheus):
    observed = PrometheusObserver(prometheus.url, {"vllm-a": ("a", "")}).look()["a", ""]

    assert observed.arrivals_per_second == pytest.approx(2.5)
    assert (observed.tokens_in, observed.tokens_out) == (100, 50)
    assert observed.ttft == pytest.approx(200)
    assert observed.itl is None
    assert observed.waiting == 4
    assert all('job="vllm-a"' in query for query in prometheus.asked)


def test_a_job_it_does_not_know_is_not_taken_for_one_without_load(prometheus):
    with pytest.raises(UnknownJob, match='no vllm:\\* metrics with job="vllm-b"'):
        PrometheusObserver(prometheus.url, {"vllm-b": ("b", "")}).look()


@pytest.mark.parametrize("answer", [b"[]", b'{"data": null}', b'{"data": {"result": [{"value": 3}]}}', b"<html>"])
def test_what_is_no_prometheus_is_told(answer):
    with pytest.raises(ValueError, match="does not answer as Prometheus does"):
        PrometheusObserver("http://p", {"vllm-a": ("a", "")}, fetch=lambda url, timeout: answer).look()


def test_the_autoscaler_reads_the_models_it_is_told_of_there(prometheus, tmp_path):
    (tmp_path / "autoscaler.yaml").write_text(
        f"prometheus: {{url: '{prometheus.url}', jobs: {{a/1.0: vllm-a}}, window: 2m}}"
    )

    autoscaler = assemble(tmp_path / "autoscaler.yaml", tmp_path, control=None, scrape=lambda: "")

    assert autoscaler._source.look()["a", "1.0"].arrivals_per_second == pytest.approx(2.5)
    assert any("[2m]" in query for query in prometheus.asked)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        pytest.param("{jobs: {a: b}}", "url is missing", id="no url"),
        pytest.param("{url: prometheus, jobs: {a: b}}", "'prometheus' is not an http address", id="no address"),
        pytest.param("{url: 'http://p'}", "jobs: not a mapping", id="no jobs"),
        pytest.param("{url: 'http://p', jobs: {a: 3}}", "jobs: not a mapping", id="a job that is no name"),
    ],
)
def test_a_section_which_cannot_be_used_is_refused(tmp_path, section, complaint):
    (tmp_path / "autoscaler.yaml").write_text(f"prometheus: {section}")

    with pytest.raises(AutoscalerConfigError, match=complaint):
        read_config(tmp_path / "autoscaler.yaml")
