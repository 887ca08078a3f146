"""A worker of a command's own, which nobody else asks: loaded, asked over its link, gone with the command.

For `flambeau run` and `flambeau try`. Not for: workers that are kept alive, which is `workers`' business.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from ..archiver.unpack import open_archive
from ..handlers.generation import GenerationEvent, GenerationRequest
from ..handlers.protocol import EndHead, Kind, Reader, RequestHead, ResponseHead, WorkerConfig, pack
from .environment import child_environment
from .errors import ManagementError
from .one_model import Named
from .processes import Children, describe_end
from .worker_process import LoadFailed, WorkerProcess, start_worker, unused

LOAD_SECONDS = 3600.0  # the hub may be slow, and the model large


class RunFailed(ManagementError): ...


class OwnWorker:
    """A loaded worker that nobody else asks."""

    def __init__(self, process: WorkerProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer

    async def generate(self, wanted: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """RunFailed with the model's words when it refuses or breaks off."""
        async for part in self._ask(RequestHead("generate", "run", []), msgspec.msgpack.encode(wanted)):
            event = msgspec.msgpack.decode(part, type=GenerationEvent)
            if event.error:
                raise RunFailed(event.error)
            yield event

    async def predict(self, body: bytes, content_type: str) -> AsyncGenerator[bytes, None]:
        """The answer, or its parts as they come. RunFailed as above."""
        async for part in self._ask(RequestHead("predict", "run", [(b"content-type", content_type.encode())]), body):
            yield part

    async def _ask(self, head: RequestHead, body: bytes) -> AsyncGenerator[bytes, None]:
        self._writer.write(pack(Kind.REQUEST, 1, head, body))
        frames = Reader()
        while data := await self._reader.read(65536):
            for frame in frames.feed(data):
                if frame.kind == Kind.RESPONSE:
                    answer = frame.head(ResponseHead)
                    if answer.error or answer.status >= 400:
                        raise RunFailed(bytes(frame.body).decode(errors="replace") or f"status {answer.status}")
                    yield bytes(frame.body)
                    return
                if frame.kind == Kind.CHUNK:
                    yield bytes(frame.body)
                if frame.kind == Kind.END:
                    if error := frame.head(EndHead).error:
                        raise RunFailed(error)
                    return
        raise RunFailed(f"the model's process has ended: {describe_end(await self._process.ended)}")


@asynccontextmanager
async def own_worker(
    model: Named,
    folder: Path,
    on_line: Callable[[str, str], None] = unused,
    handler: str | None = None,
    service_envelope: str | None = None,
) -> AsyncGenerator[OwnWorker, None]:
    """A worker with the model loaded; it ends with the block. RunFailed with the cause when it can't be loaded."""
    archive = open_archive(model.path, folder / "models")
    children, address = Children(), folder / "worker.sock"
    config = WorkerConfig(
        worker_id="run",
        model=model.name,
        version=archive.manifest.model_version,
        model_dir=str(archive.model_dir),
        handler=archive.manifest.named(model.name, handler or archive.manifest.handler).handler or "",
        listen=f"unix:{address}",
        manifest=archive.manifest.as_json(),
        model_yaml=archive.config.raw,
        service_envelope=service_envelope,
    )
    try:
        process = await start_worker(children, config, child_environment(os.environ), on_line, unused)
        try:
            await process.loaded(LOAD_SECONDS)
        except LoadFailed as error:
            raise RunFailed(str(error)) from None
        reader, writer = await asyncio.open_unix_connection(str(address))
        try:
            yield OwnWorker(process, reader, writer)
        finally:
            writer.close()
            await process.stop(5)
    finally:
        children.kill_all()
