import asyncio
import json

import pytest

from .conftest import until


@pytest.mark.parametrize(("method", "path"), [("GET", "/api-description"), ("OPTIONS", "/")])
def test_the_api_describes_itself(run, method, path):
    async def scenario(plane):
        answer = await (await plane.client()).ask(path, method=method)

        document = json.loads(answer.body)
        assert (answer.status, document["openapi"], document["info"]["title"]) == (200, "3.0.1", "TorchServe APIs")
        assert {"/ping", "/predictions/{model_name}", "/predictions/{model_name}/{model_version}"} <= set(document["paths"])

    run(scenario)


def test_options_describe_one_model(run):
    async def scenario(plane):
        plane.publish(await plane.worker())

        answer = await (await plane.client()).ask("/predictions/m", method="OPTIONS")
        missing = await (await plane.client()).ask("/predictions/x", method="OPTIONS")

        assert "/predictions/m" in json.loads(answer.body)["paths"]
        assert missing.status == 404

    run(scenario)


@pytest.mark.parametrize("path", ["/invocations", "/v1/endpoints/1:predict"], ids=["SageMaker", "Vertex AI"])
def test_platforms_reach_the_single_model_by_their_own_paths(run, path):
    async def scenario(plane):
        plane.publish(await plane.worker(), loaded_at_startup=True)

        assert (await (await plane.client()).ask(path, b"x")).body == b"x"

    run(scenario, predict_route="/v1/endpoints/1:predict")


@pytest.mark.parametrize(
    "path", ["/predictions/x", "/predictions/m/9.0", "/models/x/invoke", "/v2/models/x/infer", "/invocations"]
)
def test_an_unknown_model_of_a_server_that_starts_may_be_asked_again(run, path):
    async def scenario(plane):
        plane.publish(await plane.worker(), starting=True)
        client = await plane.client()

        assert (await client.ask("/predictions/m", b"x")).body == b"x"
        answer = await client.ask(path, b"x")

        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert json.loads(answer.body)["type"] == "ServiceUnavailableException"

    run(scenario)


def test_vertex_probes_its_own_path(run):
    async def scenario(plane):
        assert (await (await plane.client()).ask("/v1/health/7", method="GET")).status == 200

    run(scenario, health_route="/v1/health/7")


def test_with_job_tickets_what_would_have_to_wait_is_refused(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker, use_job_ticket=True)
        first, second = await plane.client(), await plane.client()
        first.send("/predictions/m", b'{"do": "hold"}')
        await until(lambda: worker.held)

        answer = await second.ask("/predictions/m", b"x")
        worker.release()

        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await first.answer()).status == 200

    run(scenario)


def test_a_compressed_body_is_the_handlers_to_unpack(run):
    """So a small body can't become a large one here."""
    import gzip

    async def scenario(plane):
        plane.publish(await plane.worker())
        bomb = gzip.compress(bytes(10_000_000))

        answer = await (await plane.client()).ask("/predictions/m", bomb, headers={"Content-Encoding": "gzip"})

        assert answer.body == bomb

    run(scenario)


def test_on_a_shared_port_management_is_passed_on(run, runtime):
    async def control(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = await reader.readexactly(3)
        told = json.dumps({"head": head.splitlines()[0], "key": "Bearer k" in head, "body": body.decode()})
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nX-A: b\r\n")
        writer.write(f"Content-Length: {len(told)}\r\n\r\n{told}".encode())
        writer.close()

    async def scenario(plane):
        server = await asyncio.start_unix_server(control, str(runtime / "control.sock"))
        client = await plane.client()

        answer = await client.ask("/models?url=a.mar", b"abc", headers={"Authorization": "Bearer k"})

        assert (answer.status, answer.headers["x-a"], answer.headers["content-type"]) == (202, "b", "application/json")
        assert json.loads(answer.body) == {"head": "POST /models?url=a.mar HTTP/1.1", "key": True, "body": "abc"}
        server.close()
        assert (await (await plane.client()).ask("/models", b"abc")).status == 503

    run(scenario, same_port=True, token_authorization=True)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("/internal/stalled/9000", 404, id="as it is"),
        pytest.param("/%69nternal/stalled/9000", 404, id="encoded"),
        pytest.param("//internal/stalled/9000", 404, id="two slashes"),
        pytest.param("///internal//stalled/9000", 404, id="many slashes"),
        pytest.param("/./internal/stalled/9000", 404, id="a dot"),
        pytest.param("/models/../internal/stalled/9000", 404, id="two dots"),
        pytest.param("/models/%2e%2e%2finternal/stalled/9000", 404, id="two dots, encoded"),
        pytest.param("/..//internal/stalled/9000", 404, id="above the root"),
        pytest.param("http://localhost/internal/stalled/9000", 404, id="an absolute address"),
        pytest.param("x://localhost/internal/stalled/9000", 400, id="another scheme"),
        pytest.param("x://localhost?/internal/stalled/9000", 400, id="a scheme without a path"),
    ],
)
def test_on_a_shared_port_what_processes_tell_each_other_is_not_passed_on(run, runtime, target, status):
    passed = []

    async def control(reader, writer):
        passed.append(await reader.readline())
        writer.close()

    async def scenario(plane):
        async with await asyncio.start_unix_server(control, str(runtime / "control.sock")):
            assert (await (await plane.client()).ask(target)).status == status

    run(scenario, same_port=True)
    assert passed == []
