"""JSON web tokens on the server's own ports: who may ask which model, and who may manage."""

import grpc
import jwt
import pytest
import requests

from flambeau.frontend.grpc_api.messages import message, stub
from flambeau.management.one_model import as_archive

from ..conftest import LiveServer, free_ports

INFERENCE, MANAGEMENT = "org.pytorch.serve.grpc.inference", "org.pytorch.serve.grpc.management"

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
    grpc_ports = dict(zip(("grpc_inference_port", "grpc_management_port"), free_ports(2), strict=True))
    settings = {"jwt_secret_file": str(folder / "secret"), "default_workers_per_model": "1"} | grpc_ports
    started = LiveServer(folder / "server", settings, ("--ncs", "--models", *models))
    started.grpc_ports = grpc_ports
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
        pytest.param(
            ALPHA, "/predictions/beta/1.0/v1/completions", {"prompt": "x"}, 403, id="another model, OpenAI's route"
        ),
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


def call(server, api, service, method, request, headers):
    """The status of a gRPC call, by its name."""
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_ports[f'grpc_{api}_port']}") as channel:
        try:
            answer = stub(channel, service, method)(request, metadata=metadata, timeout=30)
            list(answer) if method.startswith("Stream") else answer
        except grpc.RpcError as error:
            return error.code().name
        return "OK"


ALPHA_REQUEST = message(f"{INFERENCE}.PredictionsRequest")(model_name="alpha", input={"data": b"x"})
GRPC_CALLS = {
    "Predictions": (f"{INFERENCE}.InferenceAPIsService", ALPHA_REQUEST),
    "StreamPredictions": (f"{INFERENCE}.InferenceAPIsService", ALPHA_REQUEST),
    "ModelInfer": ("inference.GRPCInferenceService", message("inference.ModelInferRequest")(model_name="alpha")),
}


@pytest.mark.parametrize("method", GRPC_CALLS)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no token"),
        pytest.param({"Authorization": "Bearer x.y.z"}, id="no token at all"),
        pytest.param({"Authorization": "Bearer " + jwt.encode({}, SECRET[::-1])}, id="another secret's"),
        pytest.param(MANAGER, id="a manager's"),
        pytest.param(ALPHA, id="for certain models"),
    ],
)
def test_grpc_asks_for_the_token_too(server, method, headers):
    service, request = GRPC_CALLS[method]

    assert call(server, "inference", service, method, request, headers) == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", GRPC_CALLS)
def test_by_grpc_a_good_token_leads_to_the_model(server, method):
    service, request = GRPC_CALLS[method]

    assert call(server, "inference", service, method, request, ANYBODY) == "INVALID_ARGUMENT"  # it wants JSON


def test_by_grpc_probes_need_no_token_and_managing_needs_the_role(server):
    services = f"{INFERENCE}.InferenceAPIsService", f"{MANAGEMENT}.ManagementAPIsService"
    listing = message(f"{MANAGEMENT}.ListModelsRequest")()

    assert call(server, "inference", services[0], "Ping", message("google.protobuf.Empty")(), {}) == "OK"
    assert call(server, "management", services[1], "ListModels", listing, {}) != "OK"
    assert call(server, "management", services[1], "ListModels", listing, ANYBODY) == "PERMISSION_DENIED"
    assert call(server, "management", services[1], "ListModels", listing, MANAGER) == "OK"


def test_a_secret_that_can_be_guessed_stops_the_start(tmp_path):
    (tmp_path / "secret").write_text("short")
    (tmp_path / "server").mkdir()
    server = LiveServer(tmp_path / "server", {"jwt_secret_file": str(tmp_path / "secret")}, ("--ncs",))

    server.start()

    assert server.process.wait(30) == 1
    assert "fewer than 32" in server.said()
