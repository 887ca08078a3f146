"""A data plane with a real cell behind its Sax listener."""

import asyncio
import functools
import json

from flambeau.frontend.connection import Connection
from flambeau.management.cell.api import Api
from flambeau.management.cell.cell import Cell
from flambeau.management.cell.root import LocalFolder
from flambeau.management.cell.server import CellListener, CellServer
from flambeau.management.cell.service import _listen

from .conftest import Client


class SaxPlane:
    """A plane whose cell is real; `ask(method, path, json)` on the Sax listener. `verbs(cell)` in place of the cell's API."""

    def __init__(self, plane, verbs=Api):
        self.plane, self.verbs = plane, verbs

    async def start(self):
        folder = self.plane.runtime
        (folder / "cell.key").write_bytes(b"key")
        loop = asyncio.get_running_loop()
        self.cell = Cell("/sax/test", LocalFolder(folder), loop.time)
        self.listener = CellListener(
            CellServer(self.cell, self.verbs(self.cell), b"key", trusted=True), _listen(folder / "cell.sock")
        )
        self.listener.start()
        self.server = await loop.create_server(functools.partial(Connection, self.plane.app, "sax"), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def ask(self, method, path, body=None, **headers):
        """The status and what the answer's JSON says."""
        answer = await self.raw(method, path, body, **headers)
        return answer.status, json.loads(answer.body)

    async def raw(self, method, path, body=None, **headers):
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        sent = json.dumps(body).encode() if body is not None else b""
        answer = await client.ask(path, sent, method=method, headers=headers)
        client.writer.close()
        return answer

    async def stop(self):
        self.server.close()
        await self.listener.stop()


def on_sax(run, scenario, verbs=Api, **options):
    async def started(plane):
        sax = SaxPlane(plane, verbs)
        await sax.start()
        try:
            await scenario(sax)
        finally:
            await sax.stop()

    run(started, sax_cell="/sax/test", **options)
