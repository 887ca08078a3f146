"""What a client may do to a connection, sent as raw bytes."""

import asyncio

import pytest

from .conftest import until

GET = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /predictions/m HTTP/1.1\r\nHost: localhost\r\n"


async def reply(plane, request: bytes) -> bytes:
    client = await plane.client()
    client.writer.write(request)
    async with asyncio.timeout(10):
        return await client.reader.read()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"NOT A REQUEST\r\n\r\n", 400, id="no request line"),
        pytest.param(b"GET /ping HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(GET + b"Host: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="both framings"),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, id="two lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", 400, id="a negative length"),
        pytest.param(POST + b"Content-Length: 0x10\r\n\r\n", 400, id="a length in hexadecimal"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400, id="a bad chunk"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400, id="a negative chunk"),
        pytest.param(POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, id="an encoding that does not end"),
        pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400, id="chunked before another encoding"),
        pytest.param(GET + b"X-A : b\r\n\r\n", 400, id="a space before the colon"),
        pytest.param(GET + b"X-A: b\r\n c\r\n\r\n", 400, id="a folded header"),
        pytest.param(GET + b"X\x00A: b\r\n\r\n", 400, id="a null in a header's name"),
        pytest.param(b"GET /pi\x01ng HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="a control character in the path"),
        pytest.param(GET + b"X-A: " + b"b" * 70_000 + b"\r\n\r\n", 431, id="a large header"),
        pytest.param(GET + b"X-A: b\r\n" * 20_000 + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET /" + b"a" * 70_000, 431, id="an endless request line"),
        pytest.param(POST + b"Content-Length: 1001\r\n\r\n", 413, id="a body that is announced too large"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413, id="a body that grows too large"
        ),
    ],
)
def test_a_request_that_can_not_be_taken_is_refused_and_the_connection_closed(run, request_, status):
    async def scenario(plane):
        answer = await reply(plane, request_)

        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close\r\n" in answer
        if status == 400:
            assert b"Invalid HTTP message" in answer
        assert (await (await plane.client()).ask("/ping", method="GET")).status == 200

    run(scenario, max_request_bytes=1000)


def test_nothing_is_answered_to_what_follows_a_refused_request(run):
    async def scenario(plane):
        smuggled = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"

        answer = await reply(plane, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled)

        assert answer.count(b"HTTP/1.1 ") == 1

    run(scenario)


def test_http_1_0_gets_one_answer_and_a_close(run):
    async def scenario(plane):
        answer = await reply(plane, b"GET /ping HTTP/1.0\r\n\r\n")

        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in answer

    run(scenario)


def test_a_client_that_expects_to_be_asked_is_asked_for_its_body(run):
    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()
        client.writer.write(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

        client.writer.write(b"abc")

        assert (await client.answer()).body == b"abc"

    run(scenario)


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(b"GET /ping HT", id="half a request line"),
        pytest.param(GET, id="headers without their end"),
        pytest.param(POST + b"Content-Length: 1000\r\n\r\nx", id="one byte of a body"),
    ],
)
def test_half_sent_requests_hold_nobody_up_and_time_out(run, half):
    async def scenario(plane):
        halves = [await plane.client() for _ in range(32)]
        for client in halves:
            client.writer.write(half)

        answer = await (await plane.client()).ask("/ping", method="GET")

        assert answer.status == 200
        assert b"HTTP/1.1 408 " in await halves[0].reader.readuntil(b"\r\n")

    run(scenario, header_timeout_seconds=0.1, body_timeout_seconds=0.1)


def test_an_upgrade_that_is_not_spoken_is_answered_as_plain_http(run):
    async def scenario(plane):
        answer = await reply(
            plane, GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        )

        assert answer.startswith(b"HTTP/1.1 200 OK")

    run(scenario)


def test_a_head_request_gets_no_body(run):
    async def scenario(plane):
        answer = await reply(plane, b"HEAD /ping HTTP/1.0\r\n\r\n")

        assert answer.endswith(b"\r\n\r\n")
        assert b"content-length: 26" in answer

    run(scenario)


def test_idle_connections_are_closed_after_their_time(run):
    async def scenario(plane):
        client = await plane.client()
        assert (await client.ask("/ping", method="GET")).headers["connection"] == "keep-alive"

        assert await client.closed()
        await until(lambda: not plane.app.connections)

    run(scenario, keep_alive_seconds=0.1)


def test_the_access_log_has_torchserves_lines(run, tmp_path):
    import re

    log = tmp_path / "logs" / "access_log.log"

    async def scenario(plane):
        client = await plane.client()
        await client.ask("/ping?x=1", method="GET")
        await client.ask("/nothing")
        await until(lambda: len(log.read_text().splitlines()) == 2)

        first, second = log.read_text().splitlines()
        assert re.fullmatch(
            r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - /127\.0\.0\.1:\d+ "GET /ping\?x=1 HTTP/1.1" 200 \d+', first
        )
        assert '"POST /nothing HTTP/1.1" 404 ' in second
        log.unlink()
        await until(log.exists)

    run(scenario, access_log=str(log))
