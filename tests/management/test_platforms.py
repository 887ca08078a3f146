import json
import urllib.request

import psutil
import pytest

from flambeau.management.errors import SettingsError
from flambeau.management.platforms import settings_of

SAGEMAKER_HANDLER = "def handle(data, context):\n    return None if data is None else [row['body'] for row in data]\n"


@pytest.mark.parametrize("missing", ["AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE"])
def test_vertex_without_a_route_refuses_with_the_variables_name(missing):
    environ = {"AIP_MODE": "PREDICTION", "AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict"}
    del environ[missing]

    with pytest.raises(SettingsError, match=missing):
        settings_of(environ)


def ask(url, body=None, **headers):
    headers = {"Content-Type": "application/octet-stream"} | headers
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as response:
        return response.read()


def test_vertex_says_port_routes_and_where_the_models_are(live_server, tmp_path):
    server = live_server(start=False)
    server.archive("m")
    (server.store / "m").rename(tmp_path / "m")
    (tmp_path / "storage").mkdir()
    (tmp_path / "m").rename(tmp_path / "storage" / "m")
    port = server.client.inference.rpartition(":")[2]

    server.start(
        AIP_MODE="PREDICTION", AIP_HTTP_PORT=port, AIP_HEALTH_ROUTE="/healthy", AIP_PREDICT_ROUTE="/go",
        AIP_STORAGE_URI=str(tmp_path / "storage"),
    )  # fmt: skip
    server.wait(lambda: server.client.models() and server.workers("m"))

    assert json.loads(ask(f"{server.client.inference}/healthy")) == {"status": "Healthy"}
    body = b'{"instances": [1, 2]}'
    assert json.loads(ask(f"{server.client.inference}/go", body, **{"Content-Type": "application/json"})) == json.loads(
        body
    )


def test_sagemaker_starts_a_folder_with_its_handler_on_one_port_for_both_apis(live_server, tmp_path):
    """As its toolkit does: --models model=FOLDER, no manifest, default_service_handler, everything on one address."""
    model = tmp_path / "opt-ml-model"
    model.mkdir()
    (model / "entry.py").write_text(SAGEMAKER_HANDLER)
    server = live_server(
        "org.pytorch.serve.ModelServer", "--start", "--log-config", "log4j2.xml", "--models", f"model={model}",
        start=False, default_service_handler="entry:handle", disable_token_authorization="true", enable_model_api="true",
        vmargs="-XX:-UseLargePages", default_workers_per_model="1",
    )  # fmt: skip
    config = server.folder / "config.properties"
    config.write_text(config.read_text().replace(server.client.management, server.client.inference))

    server.start()
    url = server.client.inference
    server.wait(lambda: json.loads(ask(f"{url}/models"))["models"])
    server.wait(lambda: json.loads(ask(f"{url}/models/model"))[0]["workers"][0]["status"] == "READY")

    assert ask(f"{url}/invocations", b"hello") == b"hello"
    assert ask(f"{url}/models/model/invoke", b"again") == b"again"
    assert json.loads(ask(f"{url}/models"))["models"] == [{"modelName": "model", "modelUrl": str(model)}]
    marked = [p.pid for p in (psutil.Process(server.process.pid), *server.family())
              if "org.pytorch.serve.ModelServer" in p.cmdline()]  # fmt: skip
    assert marked == [server.process.pid]
