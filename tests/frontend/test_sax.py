"""Sax's protocol at its border: its listener, its words for errors, who may pass."""

import asyncio
import functools
import json

from flambeau.frontend.connection import Connection
from flambeau.frontend.gate import InferenceKey
from flambeau.management.cell import wire
from flambeau.management.cell.api import Api
from flambeau.management.cell.cell import Cell
from flambeau.management.cell.root import LocalFolder
from flambeau.management.cell.server import CellListener, CellServer
from flambeau.management.cell.service import _listen

from .conftest import Client, write_keys

SPEC = {"model": "/sax/test/m", "model_path": "a.B", "checkpoint": "None", "replicas": 0}


class SaxPlane:
    """A plane whose cell is real; `ask(method, path, json)` on the Sax listener."""

    def __init__(self, plane):
        self.plane = plane

    async def start(self):
        folder = self.plane.runtime
        (folder / "cell.key").write_bytes(b"key")
        loop = asyncio.get_running_loop()
        self.cell = Cell("/sax/test", LocalFolder(folder), loop.time)
        self.listener = CellListener(
            CellServer(self.cell, Api(self.cell), b"key", trusted=True), _listen(folder / "cell.sock")
        )
        self.listener.start()
        self.server = await loop.create_server(functools.partial(Connection, self.plane.app, "sax"), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def ask(self, method, path, body=None, **headers):
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        answer = await client.ask(
            path, json.dumps(body).encode() if body is not None else b"", method=method, headers=headers
        )
        client.writer.close()
        return answer.status, json.loads(answer.body)

    async def stop(self):
        self.server.close()
        await self.listener.stop()


def on_sax(run, scenario, **options):
    async def started(plane):
        sax = SaxPlane(plane)
        await sax.start()
        try:
            await scenario(sax)
        finally:
            await sax.stop()

    run(started, sax_cell="/sax/test", **options)


def test_a_model_is_published_listed_updated_and_unpublished(run):
    async def scenario(sax):
        assert await sax.ask("POST", "/publish", SPEC) == (200, SPEC | {"path": "a.B"})
        assert await sax.ask("GET", "/listall?sax_cell=/sax/test") == (200, ["/sax/test/m"])
        listed = {
            "model": "/sax/test/m",
            "model_path": "a.B",
            "checkpoint": "None",
            "max_replicas": 0,
            "active_replicas": 0,
        }
        assert await sax.ask("GET", "/listcell", {"model": "/sax/test/m"}) == (200, listed)
        assert (await sax.ask("PUT", "/update", SPEC | {"checkpoint": "/c/2"}))[0] == 200
        assert sax.cell.spec("/sax/test/m").checkpoint == "/c/2"
        assert await sax.ask("POST", "/unpublish", {"model": "/sax/test/m"}) == (200, {"model": "/sax/test/m"})
        assert (await sax.ask("POST", "/generate", {"model": "/sax/test/m", "query": "x"}))[0] == 404

    on_sax(run, scenario)


def test_an_error_suits_sax_s_clients_and_torchserve_s(run):
    async def scenario(sax):
        expected = {"detail": "model /sax/test/none not found", "code": 404, "type": "NotFound"}
        status, body = await sax.ask("GET", "/listcell", {"model": "/sax/test/none"})
        assert status == 404 and body == expected | {"message": expected["detail"]}
        await sax.ask("POST", "/publish", SPEC)
        assert (await sax.ask("POST", "/publish", SPEC))[0] == 409
        assert (await sax.ask("POST", "/generate", {"model": "/sax/test/m", "query": "x"}))[0] == 503
        assert (await sax.ask("GET", "/nosuch"))[0] == 404
        assert (await sax.ask("DELETE", "/publish"))[0] == 405

    on_sax(run, scenario)


def test_sax_s_routes_are_on_its_own_listener_alone(run):
    async def scenario(sax):
        client = await sax.plane.client()
        assert (await client.ask("/publish", b"{}")).status in (404, 405)
        assert (await sax.ask("GET", "/ping"))[0] == 404

    on_sax(run, scenario)


def test_where_tokens_are_in_use_publishing_needs_an_acl(run, runtime):
    write_keys(runtime, InferenceKey("secret"))

    async def scenario(sax):
        assert (await sax.ask("POST", "/publish", SPEC))[0] == 401
        status, body = await sax.ask("POST", "/publish", SPEC, Authorization="Bearer secret")
        assert status == 403 and body["detail"].startswith("permission error")
        sax.cell.admin_acl = "acl/all"
        assert (await sax.ask("POST", "/publish", SPEC, Authorization="Bearer secret"))[0] == 200
        member = f"Bearer {wire.member_token(b'key')}"
        sax.cell.admin_acl = ""
        assert (await sax.ask("POST", "/unpublish", {"model": "/sax/test/m"}, Authorization=member))[0] == 200
        assert (await sax.ask("GET", "/"))[0] == 200
        status, body = await sax.ask("POST", "/cell/list", {})
        assert status == 401 and "not signed" in body["detail"]

    on_sax(run, scenario, token_authorization=True)
