"""The gateway on a real port, in front of a server that does what the path says."""

import asyncio
import json
import time

import jwt
import pytest
import uvicorn
import uvloop

from flambeau.frontend.gateway import Gateway
from flambeau.frontend.gateway_cli import SERVER
from flambeau.frontend.upstream import Upstream
from flambeau.management.jwt_auth import JwtOptions, Verifier

SECRET = "a secret of thirty-two bytes, or more"


def bearer(**claims):
    return "Bearer " + jwt.encode(claims, SECRET, algorithm="HS256")


class Behind:
    """The server behind the gateway."""

    def __init__(self):
        self.heads, self.bodies = [], []
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        path = head.split(" ")[1].partition("?")[0]
        if path == "/echo":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                size = int(await reader.readuntil(b"\r\n"), 16)
                piece = (await reader.readexactly(size + 2))[:-2]
                writer.write(b"%x\r\n%b\r\n" % (size, piece))
                if not size:
                    break
        elif path == "/stream":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Own: 1\r\n\r\n3\r\none\r\n")
            await self.go_on.wait()
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        elif path == "/hold":
            await reader.read()
            self.left.set()
        elif path == "/break":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        elif path == "/nonsense":
            writer.write(b"this is not HTTP\r\n\r\n")
        elif path == "/to-the-end":
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<h1>no</h1>")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: 5\r\n\r\nok")
        await writer.drain()
        writer.close()


class Client:
    def __init__(self, port):
        self.port = port

    async def open(self, path, method="POST", body=b"", **headers):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: x",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        if "Transfer_Encoding" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return reader, writer

    async def ask(self, path, **kw):
        reader, writer = await self.open(path, **kw, Connection="close")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        status = int(head.split()[1])
        return status, head.decode().lower(), body


@pytest.fixture
def run():
    """Runs an async test with a gateway before a `Behind`."""

    def start(scenario, silence=10.0, verifier=None):
        async def main():
            behind = Behind()
            address = f"http://127.0.0.1:{await behind.start()}"
            gateway = Gateway(Upstream(address, silence), verifier or Verifier(JwtOptions(), SECRET))
            server = uvicorn.Server(uvicorn.Config(gateway, host="127.0.0.1", port=0, **SERVER))
            serving = asyncio.create_task(server.serve())
            async with asyncio.timeout(15):
                while not server.started:
                    await asyncio.sleep(0.005)
                await scenario(Client(server.servers[0].sockets[0].getsockname()[1]), behind)
            server.should_exit = server.force_exit = True
            await serving

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return start


def test_a_good_token_passes_and_the_request_arrives_whole(run):
    async def scenario(client, behind):
        status, head, body = await client.ask("/inference/m?x=1%202", Authorization=bearer(), X_Own="7", TE="trailers")

        assert (status, body) == (200, b"ok")
        assert "keep-alive: 5" not in head
        sent = behind.heads[0].lower()
        assert sent.startswith("post /inference/m?x=1%202 http/1.1\r\nhost: 127.0.0.1:")
        assert "x-own: 7" in sent and "te: trailers" not in sent and sent.count("host:") == 1

    run(scenario)


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_without_a_token_nothing_passes(run, method):
    async def scenario(client, behind):
        status, head, body = await client.ask("/no/such/path", method=method)

        assert status == 401
        assert "www-authenticate: bearer" in head
        assert method == "HEAD" or json.loads(body)["message"]
        assert not behind.heads

    run(scenario)


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
def test_probes_need_no_token_but_posts_to_their_paths_do(run, path):
    async def scenario(client, behind):
        assert (await client.ask(path, method="GET"))[0] == 200
        assert (await client.ask(path))[0] == 401

    run(scenario)


def test_a_token_for_certain_models_opens_only_theirs(run):
    async def scenario(client, behind):
        token = bearer(models=["fal*"])

        assert (await client.ask("/chat/falcon", Authorization=token))[0] == 200
        assert (await client.ask("/chat/llama", Authorization=token))[0] == 403
        assert (await client.ask("/v1/completions", Authorization=token))[0] == 403
        assert (await client.ask("/chat/falcon", Authorization=bearer(roles=["management"])))[0] == 403

    run(scenario)


def test_pieces_pass_as_they_come(run):
    async def scenario(client, behind):
        reader, _ = await client.open("/stream", Authorization=bearer())

        first = await reader.readuntil(b"one\r\n")
        assert b"x-own: 1" in first.lower()
        behind.go_on.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"

    run(scenario)


def test_a_body_passes_as_it_comes(run):
    async def scenario(client, behind):
        reader, writer = await client.open("/echo", Authorization=bearer(), Transfer_Encoding="chunked")

        for piece in (b"first", b"second"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await reader.readuntil(piece)
        writer.write(b"0\r\n\r\n")
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")

    run(scenario)


def test_a_client_that_leaves_ends_the_request_behind(run):
    async def scenario(client, behind):
        _, writer = await client.open("/hold", Authorization=bearer())
        while not behind.heads:
            await asyncio.sleep(0.005)

        writer.transport.abort()

        await behind.left.wait()

    run(scenario)


def test_an_error_page_from_behind_keeps_its_status(run):
    async def scenario(client, behind):
        status, head, body = await client.ask("/to-the-end", Authorization=bearer())

        assert (status, head.count("http/1.1")) == (404, 1)
        assert b"<h1>no</h1>" in body

    run(scenario)


@pytest.mark.parametrize(("path", "expected"), [("/nonsense", 502), ("/hold", 504)])
def test_a_server_that_fails_behind_is_told_in_json(run, path, expected):
    async def scenario(client, behind):
        began = time.monotonic()
        status, _, body = await client.ask(path, Authorization=bearer())

        assert status == expected
        assert "behind this proxy" in json.loads(body)["message"]
        assert time.monotonic() - began < 5

    run(scenario, silence=0.2)


def test_nobody_behind_is_a_502(run):
    async def scenario(client, behind):
        behind._server.close()
        await behind._server.wait_closed()

        assert (await client.ask("/x", Authorization=bearer()))[0] == 502

    run(scenario)


def test_a_stream_that_breaks_behind_is_cut_and_not_ended(run):
    async def scenario(client, behind):
        reader, _ = await client.open("/break", Authorization=bearer())

        received = await reader.read()

        assert received.endswith(b"one\r\n")

    run(scenario)
