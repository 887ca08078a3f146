import asyncio
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


def test_each_requests_metrics_are_in_the_logs_when_the_mode_is_log(live_server):
    server = live_server(metrics_mode="log")
    server.archive("m", MEASURING)
    server.client.register("m", initial_workers=1)
    for _ in range(3):
        server.client.predict("m", b"")
    ours, theirs = (server.folder / "logs" / name for name in ("ts_metrics.log", "model_metrics.log"))

    server.wait(lambda: ours.read_text().count("WorkerThreadTime") == 3 and theirs.read_text().count("PredictionTime") == 3)

    lines = ours.read_text().splitlines()
    for measured, labels in (
        (r"ts_inference_requests_total\.Count:1\.0", "model_name:m,model_version:1.0"),
        (r"ts_inference_latency_microseconds\.Microseconds:[\d.]+", "model_name:m,model_version:1.0"),
        (r"ts_queue_latency_microseconds\.Microseconds:[\d.]+", "model_name:m,model_version:1.0"),
        (r"QueueTime\.Milliseconds:[\d.]+", "Level:Host"),
        (r"WorkerThreadTime\.Milliseconds:[\d.]+", "Level:Host"),
    ):
        form = re.compile(rf"[\dT:,-]{{23}} - {measured}\|#{labels}\|#hostname:\S+,timestamp:\d+")
        assert sum(form.fullmatch(line) is not None for line in lines) == 3, measured
    assert sum("- Requests2XX.Count:1.0|#Level:Host|#hostname:" in line for line in lines) >= 3


def test_a_file_that_others_write_to_is_turned_over(tmp_path, monkeypatch):
    monkeypatch.setattr("flambeau.management.logs.ROTATE_BYTES", 10)
    logs = open_logs(tmp_path, tmp_path, debug=False, console=False)

    async def turned_over():
        looking = asyncio.create_task(logs.keep_small())
        await asyncio.sleep(0)
        looking.cancel()

    for text in ("first line\n", "second line\n"):
        logs.access_file.write_text(text)
        asyncio.run(turned_over())

    assert [(tmp_path / f"access_log.log{end}").read_text() for end in ("", ".1", ".2")] == [
        "",
        "second line\n",
        "first line\n",
    ]


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
