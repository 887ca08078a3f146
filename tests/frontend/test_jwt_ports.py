"""JSON web tokens on the server's own ports: who may ask which model, and who may manage."""

import jwt
import pytest
import requests

from flambeau.management.one_model import as_archive

from ..conftest import LiveServer

SECRET = "a secret of thirty-two bytes, or more"
MODELS = ("alpha", "beta")


def bearer(**claims):
    return {"Authorization": "Bearer " + jwt.encode(claims, SECRET, algorithm="HS256")}


ANYBODY, MANAGER, ADMIN = bearer(sub="a"), bearer(roles=["management"]), bearer(roles=["admin"])
ALPHA = bearer(models=["alp*"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jwt")
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "server").mkdir()
    models = [f"{name}={as_archive('mock', name, None, {}, folder / 'served').path}" for name in MODELS]
    settings = {"jwt_secret_file": str(folder / "secret"), "default_workers_per_model": "1"}
    started = LiveServer(folder / "server", settings, ("--ncs", "--models", *models))
    started.start()
    started.wait(lambda: all(ask(started, "inference", path(name), ADMIN) == 200 for name in MODELS))
    yield started
    started.stop()


def path(model):
    return f"/inference/{model}"


def ask(server, port, path, headers, method="POST", **body):
    body = body or {"text": "x", "prompt": "x", "max_tokens": 1}
    url = getattr(server.client, port) + path
    return requests.request(method, url, json=body, headers=headers, timeout=30).status_code


@pytest.mark.parametrize("where", ["/inference/alpha", "/predictions/alpha", "/predictions/unknown", "/v1/completions"])
def test_without_a_token_nothing_is_answered(server, where):
    assert ask(server, "inference", where, {}) == 401
    assert ask(server, "inference", where, {"Authorization": "Bearer x.y.z"}) == 401


@pytest.mark.parametrize("where", ["/ping", "/health"])
def test_probes_need_no_token(server, where):
    assert ask(server, "inference", where, {}, "GET") == 200


@pytest.mark.parametrize(
    ("headers", "where", "body", "status"),
    [
        pytest.param(ANYBODY, "/predictions/alpha", {"prompt": "x"}, 200, id="no claim of models: all of them"),
        pytest.param(ALPHA, "/predictions/alpha", {"prompt": "x"}, 200, id="its model"),
        pytest.param(ALPHA, "/predictions/beta", {"prompt": "x"}, 403, id="another model"),
        pytest.param(ALPHA, "/predictions/unknown", {"prompt": "x"}, 403, id="whether another exists is not told"),
        pytest.param(ALPHA, "/chat/beta", {"text": "x"}, 403, id="another model, Falcon"),
        pytest.param(ALPHA, "/chat%2Fbeta", {"text": "x"}, 403, id="another model, disguised"),
        pytest.param(ALPHA, "/v1/completions", {"model": "alpha", "prompt": "x"}, 200, id="its model, in the body"),
        pytest.param(ALPHA, "/v1/completions", {"model": "beta", "prompt": "x"}, 403, id="another model, in the body"),
        pytest.param(ALPHA, "/v1/embeddings", {"model": "beta", "input": "x"}, 403, id="another model's embeddings"),
        pytest.param(ALPHA, "/tokenize", {"model": "beta", "prompt": "x"}, 403, id="another model's tokens"),
        pytest.param(MANAGER, "/predictions/alpha", {"prompt": "x"}, 403, id="a manager is no user"),
        pytest.param(ADMIN, "/predictions/alpha", {"prompt": "x"}, 200, id="an admin is everything"),
    ],
)
def test_who_may_ask_which_model(server, headers, where, body, status):
    assert ask(server, "inference", where, headers, **body) == status


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (ANYBODY, 403), (MANAGER, 200), (ADMIN, 200)])
def test_who_may_manage(server, headers, status):
    assert ask(server, "management", "/models", headers, "GET") == status


def test_a_secret_that_can_be_guessed_stops_the_start(tmp_path):
    (tmp_path / "secret").write_text("short")
    (tmp_path / "server").mkdir()
    server = LiveServer(tmp_path / "server", {"jwt_secret_file": str(tmp_path / "secret")}, ("--ncs",))

    server.start()

    assert server.process.wait(30) == 1
    assert "fewer than 32" in server.said()
