import asyncio

import pytest

from flambeau.management.autoscaler.http_client import RequestFailed, Server


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://10.0.0.1", ("10.0.0.1", 80, "", False), id="no port"),
        pytest.param("localhost:9000", ("localhost", 9000, "", False), id="no scheme"),
        pytest.param("https://[::1]:8443", ("::1", 8443, "", True), id="TLS on IPv6"),
        pytest.param("unix:/run/m.sock", ("", 0, "/run/m.sock", False), id="a Unix socket"),
    ],
)
def test_servers_are_where_other_commands_find_them(url, expected):
    server = Server.at(url)

    assert (server.host, server.port, server.socket, server.tls is not None) == expected


@pytest.mark.parametrize("url", ["ftp://here", "http://", "localhost:http"])
def test_what_is_no_address_is_told(url):
    with pytest.raises(ValueError, match=url):
        Server.at(url)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhalf", id="half a chunk"),
    ],
)
def test_an_answer_that_ends_in_the_middle_is_a_failed_request(answer):
    async def scenario():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(RequestFailed, match=f"127.0.0.1:{port}"):
                await Server("127.0.0.1", port).ask("GET", "/")

    asyncio.run(scenario())


def test_where_nobody_listens_is_told():
    with pytest.raises(RequestFailed, match=r"no server answers at 127\.0\.0\.1:1"):
        asyncio.run(Server("127.0.0.1", 1).ask("GET", "/"))
