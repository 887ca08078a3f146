import json
import re

import pytest

from .conftest import until


def test_the_answer_is_the_workers_with_torchserves_headers(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()

        answer = await client.ask(
            "/predictions/m/1.0/deep/er?k=v", b"\x00body", headers={"X-My-Own": "v 1", "X-Request-ID": "mine"}
        )

        assert (answer.status, answer.reason, answer.body) == (200, "OK", b"\x00body")
        assert "content-type" not in answer.headers
        assert answer.headers["pragma"] == "no-cache"
        assert answer.headers["connection"] == "keep-alive"
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["x-request-id"])
        (request, body) = worker.requests[0]
        assert (request.operation, request.url_path, request.query, body) == ("predict", "deep/er", b"", b"\x00body")
        assert (b"X-My-Own", b"v 1") in request.headers
        assert request.request_id == answer.headers["x-request-id"]

    run(scenario)


@pytest.mark.parametrize(
    ("path", "operation", "query"),
    [
        ("/explanations/m/1.0", "explain", b""),
        ("/invocations?model_name=m", "predict", b"model_name=m"),
        ("/models/m/invoke", "predict", b""),
        ("/v1/models/m:explain", "explain", b""),
        ("/v2/models/m/infer", "predict", b""),
        ("/m/predict?q=v", "predict", b"q=v"),
        ("/m/1.0/predict?q=v", "predict", b"q=v"),
    ],
)
def test_every_path_of_a_model_reaches_it(run, path, operation, query):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()

        answer = await client.ask(path, b"x", method="PUT")

        assert answer.status == 200
        assert (worker.requests[0][0].operation, worker.requests[0][0].query) == (operation, query)

    run(scenario)


def test_what_the_handler_sets_is_what_the_client_gets(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()
        head = {
            "status": 429,
            "reason": "My phrase\r\nEvil: 1",
            "content_type": "text/html",
            "headers": [["X-One", "1\r\nEvil: 2"], ["Cache-Control", "max-age=5"], ["Content-Length", "9"]],
        }

        answer = await client.ask("/predictions/m", json.dumps({"do": "respond", "head": head, "body": "<b>"}).encode())

        assert (answer.status, answer.reason, answer.body) == (429, "My phraseEvil: 1", b"<b>")
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["x-one"] == "1Evil: 2"
        assert answer.headers["cache-control"].startswith("no-cache")
        assert "evil" not in answer.headers
        assert await client.closed()

    run(scenario)


def test_a_status_that_no_answer_has_is_an_error(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        answer = await client.ask("/predictions/m", b'{"do": "respond", "head": {"status": 101}, "body": "x"}')

        assert (answer.status, answer.body) == (500, b"x")

    run(scenario)


def test_an_answer_that_nobody_reads_is_given_up(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()
        client.writer.transport.pause_reading()

        client.send("/predictions/m", bytes(6_000_000))
        await until(lambda: any(connection.unsent() for connection in plane.app.connections))

        await until(lambda: not plane.app.connections)

    run(scenario, keep_alive_seconds=0.1)


def test_a_handlers_error_comes_in_torchserves_envelope(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()
        wish = {"do": "respond", "head": {"status": 503, "error": "InternalServerException"}, "body": "Prediction failed"}

        answer = await client.ask("/predictions/m", json.dumps(wish).encode())

        assert answer.status == 503
        assert answer.body == (
            b'{\n  "code": 503,\n  "type": "InternalServerException",\n  "message": "Prediction failed"\n}\n'
        )

    run(scenario)


@pytest.mark.parametrize(
    ("path", "status", "type", "message"),
    [
        ("/predictions/x", 404, "ModelNotFoundException", "Model not found: x"),
        (
            "/predictions/m/9.9",
            404,
            "ModelVersionNotFoundException",
            "Model version: 9.9 does not exist for model: m",
        ),
        (
            "/predictions",
            404,
            "ResourceNotFoundException",
            "Requested resource is not found, please refer to API document.",
        ),
        ("/invocations", 400, "BadRequestException", "Parameter model_name is required."),
    ],
)
def test_what_is_not_there_is_said(run, path, status, type, message):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        answer = await client.ask(path)

        assert answer.status == status
        assert json.loads(answer.body) == {"code": status, "type": type, "message": message}
        assert answer.headers["connection"] == "close"

    run(scenario)


@pytest.mark.parametrize(
    ("table", "status", "word"),
    [
        ({}, 200, "Healthy"),
        ({"healthy": False}, 500, "Unhealthy"),
        ({"draining": True}, 503, "Unhealthy"),
        ({"starting": True}, 503, "Unhealthy"),
    ],
)
def test_ping_tells_the_tables_health(run, table, status, word):
    async def scenario(plane):
        plane.publish(**table)
        client = await plane.client()

        answer = await client.ask("/ping", method="GET")

        assert (answer.status, answer.body.decode()) == (status, f'{{\n  "status": "{word}"\n}}\n')

    run(scenario)


def test_a_stream_comes_in_chunks(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        answer = await client.ask("/predictions/m", b'{"do": "stream", "n": 3}')

        assert answer.body == b"part0 part1 part2 "
        assert answer.headers["ts_stream_next"] == "true"
        assert (await client.ask("/predictions/m", b"again")).body == b"again"

    run(scenario)


def test_a_stream_that_is_cut_ends_without_its_last_chunk(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        client.send("/predictions/m", b'{"do": "stream", "n": 1, "error": "out of memory"}')

        raw = await client.reader.read()
        assert raw.endswith(b"part0 \r\n")

    run(scenario)


def test_a_client_that_does_not_read_its_stream_is_cut_off(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()
        client.writer.transport.pause_reading()

        client.send("/predictions/m", b'{"do": "stream", "n": 2000, "pad": 65536}')

        await until(lambda: not plane.app.connections)

    run(scenario, max_response_bytes=1 << 20)


def test_a_client_may_read_a_stream_more_slowly_than_it_is_made(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()
        client.writer.transport.pause_reading()

        client.send("/predictions/m", b'{"do": "stream", "n": 90, "pad": 65536}')
        await until(lambda: worker.requests and not plane.app.models.find("m").outstanding)
        client.writer.transport.resume_reading()

        assert len((await client.answer()).body) > 90 * 65536

    run(scenario)


def test_requests_sent_ahead_are_answered_in_order(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        for number in range(5):
            client.send("/predictions/m", b"%d" % number)

        assert [(await client.answer()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]

    run(scenario)


def test_cors_headers_are_on_every_answer(run):
    from flambeau.frontend.options import Cors

    async def scenario(plane):
        client = await plane.client()

        answer = await client.ask("/no/such/thing")

        assert answer.headers["access-control-allow-origin"] == "http://example.test"

    run(scenario, cors=Cors(allowed_origin="http://example.test"))
