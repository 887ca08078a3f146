"""What stands in deploy/: files that it names are there, metrics that it names exist, commands that it gives are understood."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml

from flambeau.management import properties
from flambeau.management.addresses import parse
from flambeau.management.one_model import as_archive
from flambeau.management.startup import parser

from .conftest import LiveServer

DEPLOY = Path(__file__).parents[1] / "deploy"
WORDS = {"sum", "by", "rate", "increase", "histogram_quantile", "le", "max", "or"}


def test_the_image_exposes_the_ports_that_it_opens():
    configured = properties.parse((DEPLOY / "docker" / "config.properties").read_text())
    addresses = [parse(text) for key, text in configured.items() if key.endswith("_address")]
    exposed = re.search(r"^EXPOSE (.*)$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)[1].split()

    assert exposed == [str(address.port) for address in addresses if not address.loopback]


def queries():
    board = json.loads((DEPLOY / "grafana" / "flambeau.json").read_text())
    rules = yaml.safe_load((DEPLOY / "compose" / "alerts.yml").read_text())["groups"][0]["rules"]
    scaler = re.findall(r"metric: {name: (\w+)}", (DEPLOY / "helm/flambeau/templates/hpa.yaml").read_text())
    model = board["templating"]["list"][0]["query"].removeprefix("label_values(").split(",")[0]
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in rules), *scaler, model]


def metrics_in(query):
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", "", query)
    return set(re.findall(r"[A-Za-z_]\w*", bare)) - WORDS


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """The names of all that a server with a language model has told after one answer."""
    folder = tmp_path_factory.mktemp("deploy")
    model = as_archive("mock", "m", None, {"mock": {"steps_per_second": 300}}, folder / "served")
    (folder / "server").mkdir()
    server = LiveServer(folder / "server", {}, ("--ncs", "--dt", "--models", f"m={model.path}"))
    server.start()
    server.wait(lambda: server.client.models() and server.workers("m"))
    server.client.predict("m", json.dumps({"prompt": "Once", "max_tokens": 8}).encode(), content_type="application/json")

    def found():
        with urllib.request.urlopen(f"{server.client.metrics}/metrics", timeout=10) as answer:
            return set(re.findall(r"^(\w+)", answer.read().decode(), re.MULTILINE))

    server.wait(lambda: {"LlmGeneratedTokens", "LlmInterTokenLatency_bucket", "CPUUtilization"} <= found())
    yield found()
    server.stop()


@pytest.mark.parametrize("query", queries())
def test_what_dashboards_alerts_and_scalers_ask_for_is_exposed(exposed, query):
    assert metrics_in(query)
    assert metrics_in(query) <= exposed


def test_every_file_that_compose_mounts_is_there():
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"].values()
    mounted = [volume.split(":")[0] for service in services for volume in service.get("volumes", [])]

    assert mounted and all((DEPLOY / "compose" / path).exists() for path in mounted)


def test_kserve_s_command_line_is_ours():
    runtime = yaml.safe_load((DEPLOY / "kserve" / "cluster-serving-runtime.yaml").read_text())

    given = parser("torchserve").parse_args(runtime["spec"]["containers"][0]["args"])

    assert given.start and given.foreground and "inference_address=http://0.0.0.0:8080" in given.set


def test_every_value_that_the_chart_reads_has_a_default():
    values = yaml.safe_load((DEPLOY / "helm" / "flambeau" / "values.yaml").read_text())
    templates = "".join(path.read_text() for path in (DEPLOY / "helm" / "flambeau" / "templates").iterdir())

    for name in re.findall(r"\.Values\.([\w.]+)", templates):
        found = values
        for part in name.split("."):
            assert part in found, name
            found = found[part]
