"""Every route of the management API is documented, and asks for its own key and no other."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from flambeau.management import api
from flambeau.management.api_description import description
from flambeau.management.errors import ModelNotFound
from flambeau.management.guard import token_check
from flambeau.management.registry import Registry
from flambeau.management.tokens import Tokens

OPEN = {"/api-description"}
ROUTES = [(path, method) for path, operations in description()["paths"].items() for method in operations]


async def nothing(name, *arguments, **more):
    raise ModelNotFound(f"Model not found: {name}")


@pytest.fixture
def server(tmp_path):
    tokens = Tokens(tmp_path / "key_file.json", tmp_path / "inference_keys.json", 3600, {})
    keys = {kind: entry["key"] for kind, entry in json.loads((tmp_path / "key_file.json").read_text()).items()}
    control = SimpleNamespace(registry=Registry(None), pools={}, scale=nothing, set_default=nothing, unregister=nothing)
    app = api.create_app([api.management(control, asyncio.run, tokens=tokens, check=token_check(tokens))], {})
    return SimpleNamespace(app=app, client=app.test_client(), keys=keys)


@pytest.mark.parametrize(("path", "method"), ROUTES)
@pytest.mark.parametrize("credential", ["none", "garbage", "inference", "management", "API"])
def test_each_route_wants_its_own_key(server, path, method, credential):
    key = {"none": None, "garbage": "x" * 43}.get(credential, server.keys.get(credential))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = path.replace("{model_name}", "m").replace("{model_version}", "1.0")
    wanted = "API" if path == "/token" else "management"

    response = server.client.open(url, method=method.upper(), headers=headers)

    if path in OPEN or credential == wanted:
        assert response.status_code not in (401, 405, 500)
    else:
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.json["type"] == "InvalidKeyException"


def test_every_route_is_in_the_description(server):
    documented = {path.replace("{model_name}", "<name>").replace("{model_version}", "<version>") for path, _ in ROUTES}

    served = {rule.rule for rule in server.app.url_map.iter_rules() if rule.rule != "/"}

    assert served == documented


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
