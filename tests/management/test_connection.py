"""Time-outs of the control plane's connections; what they refuse at once is in tests/test_hostile.py."""

import asyncio
import socket

import pytest
from flask import Flask, request

from flambeau.management.adapter import Listener
from flambeau.management.connection import Limits

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def run():
    """Runs `scenario(connect)` beside a listener of an application that echoes."""

    def start(scenario, **limits):
        app = Flask("echo")
        app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])

        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listening:
                port = listening.getsockname()[1]
                listener = Listener(app, [listening], Limits(1000, **limits))
                listener.start()
                try:
                    async with asyncio.timeout(10):
                        await scenario(lambda: asyncio.open_connection("127.0.0.1", port))
                finally:
                    await listener.stop()

        asyncio.run(main())

    return start


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"POST / HT", b"HTTP/1.1 408 ", id="half a request line"),
        pytest.param(HEAD, b"HTTP/1.1 408 ", id="no end of headers"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\nhalf", b"HTTP/1.1 408 ", id="half a body"),
    ],
)
def test_what_does_not_go_on_is_ended(run, sent, told):
    async def scenario(connect):
        reader, writer = await connect()
        writer.write(sent)

        assert (await reader.read())[:13] == told

    run(scenario, header_seconds=0.1, body_seconds=0.1)


def test_a_slow_body_may_take_its_time_while_it_goes_on(run):
    async def scenario(connect):
        reader, writer = await connect()
        writer.write(HEAD + b"Connection: close\r\nContent-Length: 6\r\n\r\n")
        for piece in b"abcdef":
            await asyncio.sleep(0.05)
            writer.write(bytes([piece]))

        assert (await reader.read()).endswith(b"abcdef")

    run(scenario, body_seconds=0.15)


def test_headers_after_a_whole_request_have_their_own_time(run):
    async def scenario(connect):
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 1\r\n\r\na")
        assert (await reader.readuntil(b"\r\n\r\na")).startswith(b"HTTP/1.1 200 ")

        writer.write(b"POST / HT")

        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")

    run(scenario, header_seconds=0.1, body_seconds=60)


def test_trailers_are_no_headers():
    seen = []

    def app(environ, start_response):
        seen.append({name for name in environ if name.startswith("HTTP_")})
        start_response("200 OK", [])
        return [b""]

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listener = Listener(app, [listening], Limits(1000))
            listener.start()
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection(*listening.getsockname())
                    writer.write(
                        HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: b\r\n\r\n"
                    )
                    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            finally:
                await listener.stop()

    asyncio.run(main())

    assert "HTTP_HOST" in seen[0] and "HTTP_X_A" not in seen[0]
