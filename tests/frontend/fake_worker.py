"""A worker that speaks the protocol and does what the request's body says; it runs in the test's own event loop."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from flambeau.handlers.protocol import EndHead, Hello, Kind, Reader, RequestHead, ResponseHead, pack


class FakeWorker:
    """Answers `echo` bodies at once; a JSON body with "do" chooses something else."""

    def __init__(self, folder: Path, worker_id: str = "w1", credit: int = 2, hello: bool = True) -> None:
        self.path = folder / f"{worker_id}.sock"
        self.address = f"unix:{self.path}"
        self.worker_id = worker_id
        self.credit = credit
        self.hello = hello
        self.answer: Callable[[bytes], bytes | None] | None = None  # instead of what the bodies say; None: none ever
        self.requests: list[tuple[RequestHead, bytes]] = []
        self.cancelled: list[int] = []
        self.held: list[tuple[asyncio.StreamWriter, int, bytes]] = []  # requests of "hold", answered by release()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.hello:
            writer.write(pack(Kind.HELLO, 0, Hello("m", "1.0", self.worker_id, 1, self.credit)))
        frames = Reader()
        while data := await reader.read(65536):
            for frame in frames.feed(data):
                if frame.kind == Kind.REQUEST:
                    self._request(writer, frame.id, frame.head(RequestHead), bytes(frame.body))
                elif frame.kind == Kind.CANCEL:
                    self.cancelled.append(frame.id)
                    self.held = [held for held in self.held if held[1] != frame.id]
                    writer.write(pack(Kind.RESPONSE, frame.id, ResponseHead()))
        writer.close()

    def _request(self, writer: asyncio.StreamWriter, id: int, head: RequestHead, body: bytes) -> None:
        self.requests.append((head, body))
        if self.answer is not None:
            if (said := self.answer(body)) is not None:
                writer.write(pack(Kind.RESPONSE, id, ResponseHead(), said))
            return
        wish = json.loads(body) if body.startswith(b'{"do"') else {}
        match wish.get("do"):
            case "hold":
                self.held.append((writer, id, body))
            case "respond":
                writer.write(pack(Kind.RESPONSE, id, ResponseHead(**wish["head"]), wish.get("body", "").encode()))
            case "stream":
                writer.write(pack(Kind.START, id, ResponseHead()))
                for number in range(wish["n"]):
                    writer.write(pack(Kind.CHUNK, id, None, b"part%d " % number + b"x" * wish.get("pad", 0)))
                writer.write(pack(Kind.END, id, EndHead(wish.get("error", ""))))
            case "begin":  # a stream that goes on
                writer.write(pack(Kind.START, id, ResponseHead()))
                writer.write(pack(Kind.CHUNK, id, None, b"first"))
                self.held.append((writer, id, body))
            case "die":
                self.die()
            case _:
                writer.write(pack(Kind.RESPONSE, id, ResponseHead(), body))

    def release(self) -> None:
        held, self.held = self.held, []
        for writer, id, body in held:
            writer.write(pack(Kind.RESPONSE, id, ResponseHead(), body))

    def go_away(self) -> None:
        for writer in self._writers:
            writer.write(pack(Kind.GOAWAY, 0))

    def die(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
