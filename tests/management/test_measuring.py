import dataclasses
import logging
import re
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flambeau.handlers.protocol import Metric
from flambeau.management.errors import SettingsError
from flambeau.management.logs import open_logs
from flambeau.management.measuring import Measuring, listed_model_metrics
from flambeau.management.metrics import exposition
from flambeau.management.settings import Settings
from flambeau.management.system_metrics import of_the_host

DECLARED = """
dimensions: [&model ModelName]
model_metrics:
  gauge:
    - {name: HandlerTime, unit: ms, dimensions: [*model]}
"""
MEASURING = """
def handle(data, context):
    if data is not None:
        context.metrics.add_counter("Seen", len(data))
    return data and [b"" for _ in data]
"""


@pytest.fixture(autouse=True)
def the_logs_of_this_process_stay(monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))


def measuring(tmp_path, **settings):
    logs = open_logs(tmp_path, tmp_path, debug=False, console=False)
    return Measuring(dataclasses.replace(Settings(), **settings), logs)


@pytest.mark.parametrize(("mode", "logged", "exposed"), [
    ("log", True, False), ("legacy", True, True), ("prometheus", False, True),
])  # fmt: skip
def test_the_mode_says_where_metrics_go(tmp_path, mode, logged, exposed):
    measured = measuring(tmp_path, metrics_mode=mode)

    measured.from_handler(Metric("Load", "gauge", "Percent", 12.5, [("Level", "Model"), ("ModelName", "m")], "r-1"))

    line = (tmp_path / "model_metrics.log").read_text()
    form = r"[\dT:,-]{23} - Load.Percent:12.5\|#Level:Model,ModelName:m\|#hostname:\S+,requestID:r-1,timestamp:\d+\n"
    assert bool(re.fullmatch(form, line)) == logged
    assert measured.exposed == exposed


def test_a_workers_gauges_go_with_it(tmp_path):
    measured = measuring(tmp_path)
    for name, labels in (("LlmRequestsRunning", [("WorkerId", "9000")]), ("Seen", [("Level", "Model")])):
        measured.from_handler(Metric(name, "gauge", "Count", 3.0, [("ModelName", "m"), *labels]))

    measured.look([])

    assert [family.name for family in measured.metrics.families() if family.samples] == ["Seen"]


def test_metrics_yaml_lists_the_handlers_metrics_that_are_taken(tmp_path):
    (tmp_path / "metrics.yaml").write_text(DECLARED)
    path = str(tmp_path / "metrics.yaml")
    strict = measuring(tmp_path, metrics_config=path)
    open_ = measuring(tmp_path, metrics_config=path, model_metrics_auto_detect=True)

    for measured in (strict, open_):
        for name in ("HandlerTime", "Custom"):
            measured.from_handler(Metric(name, "gauge", "Milliseconds", 1, [("ModelName", "m")]))

    assert {family.name for family in strict.metrics.families()} == {"HandlerTime"}
    assert {family.name for family in open_.metrics.families()} == {"HandlerTime", "Custom"}


def test_a_broken_metrics_yaml_stops_the_start(tmp_path):
    (tmp_path / "metrics.yaml").write_text("- a list")

    with pytest.raises(SettingsError, match=r"metrics\.yaml"):
        listed_model_metrics(tmp_path / "metrics.yaml")


def test_the_host_is_measured():
    names = {metric.name for metric in of_the_host()}

    assert names == {
        "CPUUtilization", "MemoryAvailable", "MemoryUsed", "MemoryUtilization", "DiskAvailable", "DiskUsage", "DiskUtilization",
    }  # fmt: skip


def test_the_exposition_is_one_that_prometheus_reads(tmp_path):
    measured = measuring(tmp_path)
    for kind, value in (("counter", 2), ("gauge", 1.5), ("histogram", 30)):
        measured.from_handler(Metric(f"A{kind}", kind, "ms", value, [("text", 'a "b" \\ c\n')]))

    text = exposition(measured.metrics.families())

    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["Agauge"].samples[0].value == 1.5
    assert families["Agauge"].samples[0].labels["text"] == 'a "b" \\ c\n'
    assert {sample.name for sample in families["Ahistogram"].samples} == {
        "Ahistogram_bucket", "Ahistogram_sum", "Ahistogram_count",
    }  # fmt: skip


def test_handlers_system_and_worker_metrics_are_scraped(live_server):
    server = live_server()
    server.archive("m", MEASURING)
    server.client.register("m", initial_workers=1)
    server.client.predict("m", b"")

    def scrape():
        return urllib.request.urlopen(f"{server.client.metrics}/metrics", timeout=10).read().decode()

    text = server.wait(lambda: (found := scrape()) and "Seen{" in found and found)

    assert re.search(r'^Seen\{ModelName="m",Level="Model",Hostname="[^"]+",\} 1\.0$', text, re.M)
    for expected in (
        "MemoryUsed{Level",
        "WorkerLoadTime{WorkerName",
        'flambeau_workers{model_name="m",model_version="1.0",',
    ):
        assert expected in text
