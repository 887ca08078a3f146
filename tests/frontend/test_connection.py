"""What a client may do to a connection, sent as raw bytes."""

import asyncio
import socket

import pytest

from flambeau.frontend.server import drain

from ..hostile import GET, MALFORMED, POST, REFUSED, TRAILERS
from .conftest import until

HOLD = b'{"do": "hold"}'


async def reply(plane, request: bytes) -> bytes:
    client = await plane.client()
    client.writer.write(request)
    async with asyncio.timeout(10):
        return await client.reader.read()


@pytest.mark.parametrize(("request_", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_can_not_be_taken_is_refused_and_the_connection_closed(run, request_, status):
    async def scenario(plane):
        answer = await reply(plane, request_)

        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close\r\n" in answer
        if status == 400:
            assert b"Invalid HTTP message" in answer
        assert (await (await plane.client()).ask("/ping", method="GET")).status == 200

    run(scenario, max_request_bytes=1000)


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_refused_and_reaches_nobody(run, request_):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)

        answer = await reply(plane, request_)

        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer
        assert worker.requests == []

    run(scenario)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        pytest.param("http://localhost/ping", 200, id="our own"),
        pytest.param("http://evil.example/ping", 403, id="a foreign host"),
        pytest.param("*", 404, id="a star"),
        pytest.param("HTTP://localhost/ping", 200, id="our own, in capitals"),
        pytest.param("x://localhost/ping", 400, id="another scheme"),
        pytest.param("ws://localhost/ping", 400, id="a web socket's"),
        pytest.param("/predictions/../../etc/passwd", 404, id="dots"),
        pytest.param("/predictions/%00", 404, id="a null"),
        pytest.param("/predictions/%zz", 404, id="a broken escape"),
    ],
)
def test_urls_of_other_forms_lead_nowhere_they_should_not(run, url, status):
    async def scenario(plane):
        assert (await (await plane.client()).ask(url, method="GET")).status == status

    run(scenario)


def test_nobody_is_connected_to_anything(run):
    async def scenario(plane):
        assert (await reply(plane, b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(
            b"HTTP/1.1 400 "
        )

    run(scenario)


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


def test_who_sends_ahead_and_reads_nothing_is_made_no_answers(run):
    async def scenario(plane):
        worker = await plane.worker()
        worker.answer = lambda body: body * 65536  # a quarter of a megabyte
        plane.publish(worker)
        client, other = await plane.client(), await plane.client()
        requests = [POST + b"Content-Length: 4\r\n\r\n%04d" % number for number in range(100)]

        client.writer.write(b"".join(requests))
        await until(lambda: any(connection._drained for connection in plane.app.connections))
        for _ in range(50):
            assert (await other.ask("/ping", method="GET")).status == 200

        assert len(worker.requests) < 50  # what the kernel has room for
        assert max(connection.unsent() for connection in plane.app.connections) < 1_000_000
        for number in range(100):
            assert (await client.answer()).body == b"%04d" % number * 65536

    run(scenario)


def test_an_endless_head_ends_also_while_another_request_is_answered(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()
        client.writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(HOLD) + HOLD)
        await until(lambda: worker.held)

        client.writer.write(GET + b"X-A: " + b"b" * 700_000)
        await until(lambda: all(connection._deaf for connection in plane.app.connections))
        worker.release()

        assert (await client.answer()).body == HOLD
        assert await client.closed()

    run(scenario)


async def piecemeal(plane, client, pieces):
    """So that each is a read of its own."""
    for piece in pieces:
        client.writer.write(piece)
        await until(lambda: not client.writer.transport.get_write_buffer_size())
        await plane.client()  # a turn of the event loop or two


def test_a_head_of_many_reads_may_be_as_large_as_one_of_few(run):
    async def scenario(plane):
        client = await plane.client()
        client.writer.write(GET)
        await piecemeal(plane, client, [b"X-A: " + b"b" * 9_990 + b"\r\n"] * 6)
        client.writer.write(b"\r\n")

        assert (await client.answer()).status == 200

    run(scenario)


def test_a_request_line_is_too_long_however_it_is_cut(run):
    async def scenario(plane):
        client = await plane.client()
        await piecemeal(plane, client, [b"GET /" + b"a" * 40_000, b"a" * 40_000])

        assert (await client.answer()).status == 431

    run(scenario)


def test_trailers_are_no_headers(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)

        await reply(
            plane, TRAILERS.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + b"X-A: b\r\nAuthorization: x\r\n\r\n"
        )

        ((head, body),) = worker.requests
        assert body == b"a"
        assert {b"X-A", b"Authorization"}.isdisjoint(name for name, _ in head.headers)

    run(scenario)


def test_requests_before_one_that_is_refused_are_answered(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()
        held, good, bad = (POST + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in (HOLD, b"abc", b""))

        client.writer.write(held + good + bad.replace(b"0", b"zero") + good)
        await until(lambda: worker.held)
        worker.release()

        assert [(await client.answer()).body for _ in range(2)] == [HOLD, b"abc"]
        assert await client.closed()
        assert len(worker.requests) == 2

    run(scenario)


def test_who_sends_ahead_is_asked_for_a_body_after_the_answer_before_it(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()
        client.writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(HOLD) + HOLD)
        await until(lambda: worker.held)

        client.writer.write(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        await until(lambda: any(connection._exchange for connection in plane.app.connections))
        worker.release()

        assert (await client.answer()).body == HOLD
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

    run(scenario, header_timeout_seconds=0.3, body_timeout_seconds=0.3)


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


def test_who_connects_and_says_nothing_is_closed(run):
    async def scenario(plane):
        silent, line_ends = await plane.client(), await plane.client()
        line_ends.writer.write(b"\r\n")

        assert await silent.closed()
        assert await line_ends.closed()

    run(scenario, header_timeout_seconds=0.1)


def test_one_connection_more_than_fit_is_answered_503_and_counted(run):
    async def scenario(plane):
        plane.app.most_connections = 2
        clients = [await plane.client() for _ in range(2)]
        for client in clients:
            assert (await client.ask("/ping", method="GET")).status == 200

        one_more = await plane.client()
        refused = await one_more.answer()

        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert b"ServiceUnavailableException" in refused.body
        assert await one_more.closed()
        assert plane.app.metrics.statuses[5] == 1
        assert (await clients[0].ask("/ping", method="GET")).status == 200
        clients.pop().writer.close()
        await until(lambda: len(plane.app.connections) == 1)
        assert (await (await plane.client()).ask("/ping", method="GET")).status == 200

    run(scenario)


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


def test_a_request_that_came_as_the_server_goes_down_is_answered(run):
    async def scenario(plane):
        with socket.create_connection(("127.0.0.1", plane.port)) as client:
            await until(lambda: plane.app.connections)
            (connection,) = plane.app.connections
            client.sendall(GET + b"\r\n")  # it has come, but the event loop has had no turn to read it

            assert connection.shutdown()
            await drain(plane.app, [])

            answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()

    run(scenario)


def test_a_client_that_was_cut_off_is_sent_nothing_more(run):
    async def scenario(plane):
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        await plane.client()
        await until(lambda: plane.app.connections)
        (connection,) = plane.app.connections

        connection.abort()
        await until(lambda: connection._transport.is_closing() and not plane.app.connections)
        await asyncio.sleep(0.01)

        connection.write_soon(b"a piece")
        await asyncio.sleep(0)
        connection.write(b"another")

        assert failures == []

    run(scenario)
