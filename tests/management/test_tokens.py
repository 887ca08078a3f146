import dataclasses
import json
import os
import stat
import subprocess
import sys

import pytest

from flambeau.client import Client, ServerError
from flambeau.management import guard
from flambeau.management.errors import BadRequest, StartError, TokenRefused
from flambeau.management.launcher import ARGV_MARK
from flambeau.management.settings import Settings
from flambeau.management.tokens import OVERLAP_SECONDS, Tokens

from ..conftest import HOME


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(tmp_path, clock):
    return Tokens(tmp_path / "key_file.json", tmp_path / "inference_keys.json", 3600, {}, clock)


def keys(tmp_path):
    return {kind: entry["key"] for kind, entry in json.loads((tmp_path / "key_file.json").read_text()).items()}


def test_the_key_file_has_the_original_form_and_is_private(tmp_path, tokens):
    path = tmp_path / "key_file.json"

    content = json.loads(path.read_text())

    assert list(content) == ["management", "inference", "API"]
    assert content["inference"]["expiration time"] == "1970-01-12T14:46:40.000000Z"
    assert "expiration time" not in content["API"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(len(entry["key"]) >= 43 for entry in content.values())


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic {key}", "{key}"])
def test_only_a_bearer_of_the_key_passes(tmp_path, tokens, header):
    key = keys(tmp_path)["management"]

    tokens.check("management", f"Bearer {key}")
    with pytest.raises(TokenRefused):
        tokens.check("management", header and header.format(key=key))
    with pytest.raises(TokenRefused):
        tokens.check("inference", f"Bearer {key}")


def test_keys_expire(tmp_path, tokens, clock):
    header = f"Bearer {keys(tmp_path)['inference']}"
    clock.now += 3599
    tokens.check("inference", header)

    clock.now += 2

    with pytest.raises(TokenRefused):
        tokens.check("inference", header)


def test_a_renewed_key_overlaps_with_its_predecessor(tmp_path, tokens, clock):
    old = f"Bearer {keys(tmp_path)['inference']}"

    tokens.renew("inference")

    tokens.check("inference", old)
    tokens.check("inference", f"Bearer {keys(tmp_path)['inference']}")
    clock.now += OVERLAP_SECONDS + 1
    with pytest.raises(TokenRefused):
        tokens.check("inference", old)
    with pytest.raises(BadRequest):
        tokens.renew("API")


def test_keys_may_be_given_by_the_environment(tmp_path, clock):
    tokens = Tokens(tmp_path / "k", tmp_path / "i", 60, {"FLAMBEAU_INFERENCE_KEY": "ours"}, clock)
    clock.now += 1e9

    tokens.check("inference", "Bearer ours")


@pytest.mark.parametrize(("changes", "expected"), [
    pytest.param({}, (False, False, True), id="a laptop needs no token and may register"),
    pytest.param({"inference_address": "http://0.0.0.0:8080"}, (True, False, True), id="inference on a network"),
    pytest.param({"management_address": "http://0.0.0.0:8081"}, (False, True, True), id="management on a network"),
    pytest.param({"grpc_inference_address": "0.0.0.0"}, (True, False, True), id="inference by gRPC on a network"),
    pytest.param({"grpc_management_address": "::"}, (False, True, True), id="management by gRPC on a network"),
    pytest.param({"grpc_management_address": "::", "grpc_management_port": 0}, (False, False, True), id="no gRPC at all"),
    pytest.param({"cell": "/sax/test", "sax_address": "http://0.0.0.0:8888"}, (True, False, True), id="a cell on a network"),
    pytest.param({"disable_token_authorization": False, "enable_model_api": False}, (True, True, False), id="TorchServe"),
    pytest.param(
        {"management_address": "http://0.0.0.0:8081", "disable_token_authorization": True, "insecure": True},
        (False, False, False),
        id="insecure",
    ),
])  # fmt: skip
def test_who_needs_a_token(changes, expected):
    assert dataclasses.astuple(guard.decide(dataclasses.replace(Settings(), **changes), {})) == (*expected, None)


def test_a_cell_open_to_the_network_refuses_to_start():
    settings = Settings(cell="/sax/test", sax_address="http://0.0.0.0:8888", disable_token_authorization=True)

    with pytest.raises(StartError, match="--insecure"):
        guard.decide(settings, {})


@pytest.mark.parametrize("address", ["management_address=http://0.0.0.0:8081", "grpc_management_address=0.0.0.0"])
def test_management_open_to_the_network_refuses_to_start(address):
    key, _, value = address.partition("=")
    settings = Settings(**{key: value}, disable_token_authorization=True)

    with pytest.raises(StartError, match=f"{address} is reachable .*--insecure"):
        guard.decide(settings, {})
    guard.decide(settings, {"SAGEMAKER_MULTI_MODEL": "true"})


def test_with_tokens_each_api_wants_its_own(live_server):
    server = live_server(disable_token_authorization="false")
    server.archive("echo")
    content = json.loads((server.folder / "key_file.json").read_text())
    key = {kind: content[kind]["key"] for kind in content}
    urls = (server.client.inference, server.client.management, server.client.metrics)
    by = {kind: Client(*urls, token=token) for kind, token in {**key, "none": None}.items()}

    for kind in ("none", "inference", "API"):
        with pytest.raises(ServerError, match="401 InvalidKeyException"):
            by[kind].models()
    by["management"].register("echo", initial_workers=1)
    for kind in ("none", "management", "API"):
        with pytest.raises(ServerError, match="401"):
            by[kind].predict("echo", b"x")
    assert by["inference"].predict("echo", b"x") == b"x"

    assert by["API"]._call("GET", server.client.management, "/token?type=inference") == b""
    new = json.loads((server.folder / "key_file.json").read_text())["inference"]["key"]
    assert new != key["inference"]
    assert Client(*urls, token=new).predict("echo", b"y") == b"y"
    assert by["none"]._call("GET", server.client.management, "/api-description")


def test_a_foreign_host_or_origin_is_refused(live_server):
    server = live_server()
    import urllib.error
    import urllib.request

    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        for url in (f"{server.client.management}/models", f"{server.client.metrics}/metrics"):
            with pytest.raises(urllib.error.HTTPError) as refusal:
                urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10)
            assert refusal.value.code == 403


def test_the_commands_have_the_key_of_the_server_that_runs_here(live_server):
    server = live_server(ARGV_MARK, "--start", "--foreground", disable_token_authorization="false")
    server.archive("echo")

    def flambeau(*arguments):
        command = [sys.executable, "-m", "flambeau", *arguments]
        environ = os.environ | {"TMPDIR": str(server.folder / "tmp"), "PYTHONPATH": HOME}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, cwd=server.folder)

    assert "registered with 1 initial workers" in flambeau("register", "echo").stdout
    assert flambeau("predict", "echo", "hi").stdout == "hi\n"
    refused = flambeau("models", "--management", server.client.management)  # an address of somebody's: no key goes there
    assert "401" in refused.stderr
