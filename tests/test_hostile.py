"""What hostile clients send, to every port of a real server: each is told no, nobody else notices."""

import asyncio
import gzip
import json
import time

import pytest

from .conftest import LiveServer, free_ports
from .hostile import MALFORMED, REFUSED

# port → what stands there for /ping and for /predictions/m
PORTS = {
    "inference": (b"/ping", b"/predictions/m"),
    "management": (b"/models", b"/models"),
    "metrics": (b"/metrics", b"/metrics"),
    "sax": (b"/health", b"/publish"),
}
RAW = REFUSED | {name: (request, 400) for name, request in MALFORMED.items()}
FORM = b'Content-Disposition: form-data; name="p"\r\n\r\n1\r\n'
BODIES = {
    "deep arrays": ("application/json", b"[" * 1_000_000),
    "deep objects": ("application/json", b'{"url":' * 500_000),
    "a number of half a million digits": ("application/json", b'{"url": ' + b"9" * 500_000 + b"}"),
    "no object": ("application/json", b"[]"),
    "an object for a string": ("application/json", b'{"url": {"a": 1}}'),
    "a null in a name": ("application/json", rb'{"url": "\u0000"}'),
    "half a surrogate": ("application/json", rb'{"url": "\ud800"}'),
    "a way out of the store": ("application/json", b'{"url": "../../../etc/passwd"}'),
    "no text": ("application/json", b"\xff\xfe"),
    "100,000 parts": ("multipart/form-data; boundary=b", (b"--b\r\n" + FORM) * 90_000 + b"--b--\r\n"),
    "100,000 fields": ("application/x-www-form-urlencoded", b"a=1&" * 100_000),
    "a bomb of zeros": ("application/json", gzip.compress(bytes(100_000_000))),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "server"
    folder.mkdir()
    (sax,) = free_ports(1)
    cell = {"cell": "/sax/test", "sax_address": f"http://127.0.0.1:{sax}", "sax_root": str(folder / "root")}
    started = LiveServer(folder, cell | {"header_timeout": 2}, ("--start", "--foreground", "--ncs"))
    started.start()
    urls = started.client
    addresses = {"inference": urls.inference, "management": urls.management, "metrics": urls.metrics}
    started.ports = {name: int(url.rpartition(":")[2]) for name, url in addresses.items()} | {"sax": sax}
    yield started
    started.stop()


async def answer(server, port, request):
    """Until the server closes."""
    ping, predict = PORTS[port]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[port])
    writer.write(request.replace(b"/ping", ping).replace(b"/predictions/m", predict))
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def asked(content_type, body, encoding=""):
    head = f"POST /predictions/m HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{encoding}"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def status(reply):
    assert reply.startswith(b"HTTP/1.1 "), reply[:100]
    return int(reply[9:12])


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("case", RAW)
def test_a_message_that_is_none_is_refused_and_nothing_after_it_is_read(server, port, case):
    request, wanted = RAW[case]
    another = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n" if request.endswith(b"\r\n") else b""

    reply = asyncio.run(answer(server, port, request + another))

    assert status(reply) == wanted
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in reply.lower()


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("case", BODIES)
def test_a_body_made_to_hurt_is_refused_at_once(server, port, case):
    begun = time.monotonic()

    reply = asyncio.run(answer(server, port, asked(*BODIES[case], "Content-Encoding: gzip\r\n" if "bomb" in case else "")))

    assert 400 <= status(reply) < 500, reply[:500]
    assert time.monotonic() - begun < 5
    assert server.healthy()


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    ("target", "headers"),
    [
        pytest.param("/ping", "Host: evil.example", id="a foreign host"),
        pytest.param("/ping", "Host: ", id="an empty host"),
        pytest.param("/ping", "Host: localhost@evil.example", id="a host with a user"),
        pytest.param("/ping", "Host: localhost.evil.example", id="a longer host"),
        pytest.param(
            "/ping", "Host: evil.example\r\nX-Forwarded-Host: localhost", id="a host that is said to be forwarded"
        ),
        pytest.param("http://evil.example/ping", "Host: localhost", id="a foreign absolute address"),
        pytest.param("/ping", "Host: localhost\r\nOrigin: http://evil.example", id="a foreign page"),
        pytest.param("/ping", "Host: localhost\r\nOrigin: null", id="a page of no origin"),
    ],
)
def test_a_browser_that_was_led_here_is_refused(server, port, target, headers):
    request = f"GET {target} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n"

    assert status(asyncio.run(answer(server, port, request.encode()))) == 403


def test_half_sent_requests_end_with_408_and_hold_nobody_up(server):
    async def scenario():
        half, whole = (
            b"GET /ping HTTP/1.1\r\nHost: loc",
            b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        halves = [asyncio.create_task(answer(server, port, half)) for port in PORTS for _ in range(32)]
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        for port in PORTS:
            assert status(await answer(server, port, whole)) < 500
        return time.monotonic() - begun, await asyncio.gather(*halves)

    seconds, halves = asyncio.run(scenario())

    assert seconds < 1
    assert {status(half) for half in halves} == {408}


def test_after_all_that_the_server_serves(server):
    server.archive("echo")
    server.client.register("echo", initial_workers=1)

    assert server.client.predict("echo", json.dumps({}).encode()) == b"{}"
    assert "Traceback" not in server.said()
