"""Every route of the server's own OpenAPI document, with and without a key; and with whatever its document allows."""

import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from flambeau.frontend.gate import InferenceKey

from ..conftest import LiveServer
from .conftest import write_keys

# Each route of the document has a row here, or the test fails.
PUBLIC = {
    "get /", "options /", "get /api-description", "get /health", "get /ping", "get /v2/health/live", "get /v2/health/ready",
}  # fmt: skip
KEYED = {
    "post /predictions/{model_name}", "options /predictions/{model_name}", "post /predictions/{model_name}/{model_version}",
    "post /explanations/{model_name}", "post /explanations/{model_name}/{model_version}", "post /invocations",
    "post /models/{model_name}/invoke", "post /{model_name}/predict", "post /{model_name}/{model_version}/predict",
    "get /v1/models", "get /v1/models/{model_name}", "post /v1/models/{model_name}:predict",
    "post /v1/models/{model_name}:explain", "get /v2", "get /v2/models/{model_name}", "get /v2/models/{model_name}/ready",
    "post /v2/models/{model_name}/infer", "post /v2/models/{model_name}/explain",
    "get /v2/models/{model_name}/versions/{model_version}", "get /v2/models/{model_name}/versions/{model_version}/ready",
    "post /v2/models/{model_name}/versions/{model_version}/infer", "post /wfpredict/{rest}",
    "post /v1/completions", "post /v1/chat/completions", "post /v1/embeddings", "post /tokenize", "post /detokenize",
    "get /tokenizer_info", "post /inference/{rest}", "post /chat/{rest}",
}  # fmt: skip


def test_each_route_has_a_row_that_says_whether_it_needs_a_key(run, runtime):
    write_keys(runtime, InferenceKey("right"))

    async def status(plane, method: str, path: str, **headers: str) -> int:
        client = await plane.client()
        answer = await client.ask(path, b"{}", method=method.upper(), headers=headers)
        client.writer.close()
        return answer.status

    async def scenario(plane):
        plane.publish(await plane.worker())
        document = json.loads((await (await plane.client()).ask("/api-description", method="GET")).body)
        routes = {f"{method} {path}" for path, operations in document["paths"].items() for method in operations}
        assert routes == PUBLIC | KEYED
        for route in sorted(routes):
            method, path = route.split(" ")
            filled = path.replace("{model_name}", "m").replace("{model_version}", "1.0").replace("{rest}", "m")
            without = await status(plane, method, filled)
            wrong = await status(plane, method, filled, Authorization="Bearer wrong")
            right = await status(plane, method, filled, Authorization="Bearer right")
            assert (without == 401) == (wrong == 401) == (route in KEYED), route
            assert right not in (401, 405), route

    run(scenario, token_authorization=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed") / "server"
    folder.mkdir()
    started = LiveServer(folder, {}, ("--start", "--foreground", "--ncs", "--enable-model-api", "--dt"))
    started.archive("echo")
    started.start()
    started.client.register("echo", model_name="m", initial_workers=1)
    yield started
    started.stop()


@pytest.mark.parametrize("port", ["inference", "management"])
def test_nothing_that_the_document_allows_is_a_server_error(server, port):
    base = getattr(server.client, port)
    schema = schemathesis.openapi.from_dict(requests.get(f"{base}/api-description", timeout=10).json())

    for operation in (found.ok() for found in schema.get_all_operations()):

        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy())
        def answers(case):
            if port == "inference" and "model_name" in case.path_parameters:
                case.path_parameters["model_name"] = "m"
            response = case.call(base_url=base)
            assert response.status_code < 500 or response.status_code == 503, (response.status_code, response.text)

        answers()

    assert server.client.predict("m", b"still here") == b"still here"
