"""A data plane in one event loop: the application, fake workers, and raw clients."""

import asyncio
import functools
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import uvloop

from flambeau.frontend.app import App
from flambeau.frontend.connection import Connection
from flambeau.frontend.gate import KEYS_FILE, InferenceKey, InferenceKeys
from flambeau.frontend.options import FrontendOptions
from flambeau.management.routing import ModelRoute, Replica, RouteWriter, Table

from .fake_worker import FakeWorker


class Answer:
    def __init__(self, status: int, reason: str, headers: dict[str, str], body: bytes) -> None:
        self.status, self.reason, self.headers, self.body = status, reason, headers, body


class Client:
    """One keep-alive connection, as raw as a test needs it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, path: str, body: bytes = b"", method: str = "POST", headers: dict[str, str] | None = None) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self) -> Answer:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            _, status, reason = head[0].split(" ", 2)
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            if headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Answer(int(status), reason, headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    async def ask(self, path: str, body: bytes = b"", **kw: object) -> Answer:
        self.send(path, body, **kw)
        return await self.answer()

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


class Plane:
    """`await plane.route(…)` publishes a model `m`, `await plane.client()` connects."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.writer = RouteWriter(runtime)
        self.routes: dict[str, ModelRoute] = {}
        self.workers: list[FakeWorker] = []

    async def start(self, **options: object) -> None:
        self.app = App(self.runtime, FrontendOptions(binds=["http://127.0.0.1:0"], **options))
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(functools.partial(Connection, self.app), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self._ticking = loop.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.app.tick()
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._ticking.cancel()
        self.server.close()
        self.app.close()

    async def worker(self, worker_id: str = "w1", **kw: object) -> FakeWorker:
        worker = FakeWorker(self.runtime, worker_id, **kw)
        await worker.start()
        self.workers.append(worker)
        return worker

    def publish(
        self, *workers: FakeWorker, healthy: bool = True, draining: bool = False, starting: bool = False, **route: object
    ) -> None:
        version = route.pop("version", "1.0")
        replicas = [Replica(worker.worker_id, worker.address) for worker in workers]
        self.routes[version] = ModelRoute(name="m", version=version, replicas=replicas, **route)
        self.writer.publish(
            Table(
                models={"m": dict(self.routes)},
                defaults={"m": next(iter(self.routes))},
                healthy=healthy,
                draining=draining,
                starting=starting,
            )
        )

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))


async def until(truth: Callable[[], object], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not truth():
            await asyncio.sleep(0.005)


def write_keys(runtime: Path, *keys: InferenceKey) -> None:
    (runtime / "keys.next").write_bytes(msgspec.json.encode(InferenceKeys(list(keys))))
    (runtime / "keys.next").replace(runtime / KEYS_FILE)


@pytest.fixture
def runtime():
    folder = Path(tempfile.mkdtemp(prefix="fl-"))  # short: a unix socket's path has 107 characters at most
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(runtime):
    """Runs an async test with a started data plane: `run(scenario, option=…)`."""

    def start(scenario: Callable[[Plane], Awaitable[None]], **options: object) -> None:
        async def main() -> None:
            plane = Plane(runtime)
            await plane.start(**options)
            try:
                async with asyncio.timeout(20):
                    await scenario(plane)
            finally:
                plane.stop()
            assert not plane._ticking.done() or plane._ticking.cancelled(), plane._ticking.exception()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return start
