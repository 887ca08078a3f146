import json
import time

import pytest

from flambeau.frontend.gate import InferenceKey, allowed_hosts
from flambeau.frontend.options import Cors, FrontendOptions

from .conftest import write_keys

GOOD = {"Authorization": "Bearer right"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no key"),
        pytest.param({"Authorization": "Bearer wrong"}, id="a wrong key"),
        pytest.param({"Authorization": "Bearer old"}, id="an expired key"),
        pytest.param({"Authorization": "Basic right"}, id="another scheme"),
        pytest.param({"Authorization": "Bearer"}, id="an empty key"),
    ],
)
@pytest.mark.parametrize("path", ["/predictions/m", "/predictions/unknown", "/v2", "/m/predict"])
def test_without_a_key_nobody_passes_nor_learns_which_models_there_are(run, runtime, path, headers):
    write_keys(runtime, InferenceKey("right"), InferenceKey("old", time.time() - 1))

    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        answer = await client.ask(path, headers=headers, method="GET")

        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(answer.body) == {
            "code": 401,
            "type": "InvalidKeyException",
            "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
        }

    run(scenario, token_authorization=True)


def test_a_key_passes_as_soon_as_it_is_made_and_until_it_is_taken_back(run, runtime):
    write_keys(runtime, InferenceKey("right", time.time() + 60))

    async def scenario(plane):
        plane.publish(await plane.worker())

        async def status(key: str) -> int:
            answer = await (await plane.client()).ask("/predictions/m", b"x", headers={"Authorization": f"Bearer {key}"})
            return answer.status

        assert (await status("right"), await status("new")) == (200, 401)
        write_keys(runtime, InferenceKey("new"))

        assert await status("new") == 200
        deadline = time.monotonic() + 5
        while await status("right") != 401:
            assert time.monotonic() < deadline

    run(scenario, token_authorization=True)


@pytest.mark.parametrize("path", ["/ping", "/api-description", "/v2/health/live"])
def test_probes_and_the_description_need_no_key(run, path):
    async def scenario(plane):
        assert (await (await plane.client()).ask(path, method="GET")).status == 200

    run(scenario, token_authorization=True)


def test_the_originals_status_for_a_missing_key_can_be_had(run):
    async def scenario(plane):
        answer = await (await plane.client()).ask("/predictions/m")

        assert (answer.status, json.loads(answer.body)["code"]) == (400, 400)

    run(scenario, token_authorization=True, token_status=400)


def test_a_full_queue_may_say_429(run):
    async def scenario(plane):
        plane.publish(wanted_workers=1, job_queue_size=0)

        answer = await (await plane.client()).ask("/predictions/m")

        assert (answer.status, json.loads(answer.body)["code"]) == (429, 429)

    run(scenario, queue_full_status=429)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "127.0.0.1:1234"}, 200, id="another port of ours"),
        pytest.param({"Host": "[::1]:8080"}, 200, id="IPv6 loopback"),
        pytest.param({"Host": "evil.example"}, 403, id="a rebound name"),
        pytest.param({"Host": "localhost.evil.example:8080"}, 403, id="a name that begins like ours"),
        pytest.param({"Host": "localhost", "Origin": "http://evil.example"}, 403, id="a foreign page"),
        pytest.param({"Host": "localhost", "Origin": "null"}, 403, id="a page without origin"),
        pytest.param({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200, id="our own page"),
        pytest.param({"Host": "localhost", "Origin": "http://friend.example"}, 200, id="a page that CORS lets in"),
    ],
)
@pytest.mark.parametrize("path", ["/predictions/m", "/ping"])
def test_browsers_led_here_by_others_are_refused(run, headers, status, path):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()
        lines = [f"POST {path} HTTP/1.1", "Content-Length: 0", *(f"{name}: {value}" for name, value in headers.items())]

        client.writer.write("\r\n".join([*lines, "", ""]).encode())

        assert (await client.answer()).status == status

    run(scenario, cors=Cors(allowed_origin="http://friend.example"))


def test_hosts_are_restricted_where_browsers_could_be_led():
    assert "localhost" in allowed_hosts(FrontendOptions(binds=["http://127.0.0.1:8080"]))
    assert "api.example" in allowed_hosts(FrontendOptions(binds=["http://0.0.0.0:8080"], allowed_hosts=["API.example"]))
    assert allowed_hosts(FrontendOptions(binds=["http://0.0.0.0:8080"])) is None
    assert allowed_hosts(FrontendOptions(binds=["http://127.0.0.1:8080"], allowed_hosts=["*"])) is None
