"""A worker with a text model and the mock engine, in the test's own event loop."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

from flambeau.handlers.base import Request
from flambeau.handlers.protocol import EndHead, Hello, Kind, Reader, RequestHead, ResponseHead, pack
from flambeau.handlers.text_generation import TextGeneration

CAPABILITIES = list(TextGeneration.operations)


class TextWorker:
    def __init__(self, folder: Path, worker_id: str = "w1", kind: type = TextGeneration, **section: object) -> None:
        self.worker_id, self.address = worker_id, f"unix:{folder / worker_id}.sock"
        self._path = str(folder / f"{worker_id}.sock")
        self.handler = kind()
        self.handler.initialize(
            SimpleNamespace(
                model_yaml_config={"handler": {"engine": "mock", "mock": {"steps_per_second": 0}} | section},
                model_dir=str(folder), model_name="m", gpu_id=None, metrics=None, worker_id=worker_id,
            )
        )  # fmt: skip
        self.requests: list[RequestHead] = []
        self._work = asyncio.Event()

    @property
    def stats(self):
        return self.handler.engine.stats()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._stepping = asyncio.ensure_future(self._steps())

    def wake(self) -> None:
        self._work.set()

    async def _steps(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self.handler.step():
                await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pack(Kind.HELLO, 0, Hello("m", "1.0", self.worker_id, 1, self.handler.credit)))
        frames, replies = Reader(), {}
        while data := await reader.read(65536):
            for frame in frames.feed(data):
                if frame.kind == Kind.REQUEST:
                    head = frame.head(RequestHead)
                    self.requests.append(head)
                    reply = replies[frame.id] = Reply(writer, frame.id)
                    self.handler.submit(Request(frame.id, head, frame.body, time.monotonic()), reply)
                    self._work.set()
                elif frame.kind == Kind.CANCEL and not replies[frame.id].closed:
                    self.handler.cancel(frame.id)
                    replies[frame.id].closed = True
                    writer.write(pack(Kind.RESPONSE, frame.id, ResponseHead()))
        writer.close()


class Reply:
    """Implements handlers.base.Reply."""

    backlog = 0

    def __init__(self, writer: asyncio.StreamWriter, id: int) -> None:
        self._writer, self._id, self.closed, self._started = writer, id, False, False

    def respond(self, body, status=200, headers=None, content_type=None, error=""):
        if not self.closed:
            self.closed = True
            head = ResponseHead(status, "", headers or [], content_type, error)
            self._writer.write(pack(Kind.RESPONSE, self._id, head, body))

    def start(self, status=200, headers=None, content_type=None):
        if not self.closed and not self._started:
            self._started = True
            self._writer.write(pack(Kind.START, self._id, ResponseHead(status, "", headers or [], content_type)))

    def chunk(self, body):
        if not self.closed:
            self.start()
            self._writer.write(pack(Kind.CHUNK, self._id, None, body))

    def end(self, error=""):
        if not self.closed:
            self.start()
            self.closed = True
            self._writer.write(pack(Kind.END, self._id, EndHead(error)))
