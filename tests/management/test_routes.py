"""Every route of the management port is documented, and asks for its own key and no other."""

import asyncio
import json
import re
from types import SimpleNamespace

import pytest

from flambeau.management import api, metrics
from flambeau.management.api_description import description
from flambeau.management.errors import ModelNotFound
from flambeau.management.guard import Access
from flambeau.management.interfaces import Interfaces
from flambeau.management.registry import Registry
from flambeau.management.settings import Settings
from flambeau.management.tokens import Tokens

MODEL, VERSION = "/models/{model_name}", "/models/{model_name}/{model_version}"
# Which key opens what. A route that has no row here fails the test.
ROWS = {
    "none": {
        "options /", "get /api-description", "get /dashboard", "get /dashboard/{name}", "get /metrics",
    },
    "API": {"get /token"},
    "management": {
        "get /models", "post /models", f"get {MODEL}", f"put {MODEL}", f"delete {MODEL}", f"options {MODEL}",
        f"get {VERSION}", f"put {VERSION}", f"delete {VERSION}", f"put {VERSION}/set-default", f"options {VERSION}",
        "get /v1/models/{model_name}",
        "get /workflows", "post /workflows", "get /workflows/{name}", "delete /workflows/{name}",
        "get /autoscaler", "put /autoscaler", "post /autoscaler/performance", "post /autoscaler/run",
        "get /invoke", "get /collect", "post /update", "get /dashboard/data",
    },
}  # fmt: skip


async def nothing(name, *arguments, **more):
    raise ModelNotFound(f"Model not found: {name}")


@pytest.fixture
def server(tmp_path):
    """The management port's application, put together as the server does it, over a control plane without models."""
    tokens = Tokens(tmp_path / "key_file.json", tmp_path / "inference_keys.json", 3600, {})
    keys = {kind: entry["key"] for kind, entry in json.loads((tmp_path / "key_file.json").read_text()).items()}
    control = SimpleNamespace(registry=Registry(None), pools={}, scale=nothing, set_default=nothing, unregister=nothing)
    interfaces = Interfaces(
        Settings(),
        Access(True, True, True),
        tokens,
        None,
        control,
        SimpleNamespace(),
        SimpleNamespace(),
        None,
        tmp_path,
        None,
    )
    interfaces._call = asyncio.run
    app = api.create_app([*interfaces.management(), metrics.blueprint(lambda names: "")], {})
    return SimpleNamespace(app=app, client=app.test_client(), keys=keys)


def test_every_route_is_in_the_description_and_has_a_row(server):
    documented = {
        f"{method} {path}" for path, operations in description(server.app)["paths"].items() for method in operations
    }
    served = {
        f"{method.lower()} {variables(rule.rule)}"
        for rule in server.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }

    assert {variables(route) for route in documented} == served
    assert documented == set().union(*ROWS.values())


def variables(path):
    """Both frameworks' forms, without names."""
    return re.sub(r"<[^<>]*>|{\w+}", "*", path)


@pytest.mark.parametrize(("key", "route"), [(key, route) for key, routes in ROWS.items() for route in sorted(routes)])
@pytest.mark.parametrize("credential", ["none", "garbage", "inference", "management", "API"])
def test_each_route_wants_its_own_key(server, key, route, credential):
    given = {"none": None, "garbage": "x" * 43}.get(credential, server.keys.get(credential))
    method, path = route.split(" ")
    url = path.replace("/dashboard/{name}", "/dashboard/page.js")

    response = server.client.open(
        re.sub(r"{\w+}", "m", url),
        method=method.upper(),
        headers={"Authorization": f"Bearer {given}"} if given else {},
    )

    if key in ("none", credential):
        assert response.status_code not in (401, 405)
    else:
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.json["type"] == "InvalidKeyException"


def test_answers_have_the_originals_headers(server):
    response = server.client.get("/api-description")

    assert response.headers["Pragma"] == "no-cache"
    assert response.headers["Cache-Control"] == "no-cache; no-store, must-revalidate, private"
    assert response.headers["Expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert len(response.headers["x-request-id"]) == 36
    assert response.text.startswith('{\n  "openapi": "3.0.1",')


def test_an_error_tells_no_more_than_its_message(server):
    server.app.add_url_rule("/models/<name>/boom", view_func=lambda name: 1 / 0)

    response = server.client.get("/models/x/boom", headers={"Authorization": f"Bearer {server.keys['management']}"})

    assert response.status_code == 500
    assert response.json == {"code": 500, "type": "InternalServerException", "message": "Internal server error"}


def test_an_encrypted_object_is_not_asked_for_without_a_signature(server):
    asked = "/models?url=https://b.s3.eu.amazonaws.com/m.mar&s3_sse_kms=true"

    response = server.client.post(asked, headers={"Authorization": f"Bearer {server.keys['management']}"})

    assert (response.status_code, response.json["message"]) == (400, api.SSE_KMS)
